"""The ring's document: what is read is what was written, complete and unaltered, or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import Key
from sealedstate._wire.encoding import to_text
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, seal
from sealedstate.keyring import Keyring, secret_to_text
from sealedstate.rotation.document import MAX_BYTES, dump_ring, parse_ring
from sealedstate.rotation.ring import MAX_SECONDS, Schedule, Tombstone
from sealedstate.rotation.transitions import create_ring, rotate
from tests.support.examples import examples
from tests.support.ring_documents import (
    BOTH,
    KEK,
    LONG_TERM,
    RING,
    SECRET_PARTS,
    WRAPPINGS,
    dump,
    fixed,
    fixed_key,
    refusal,
    with_checksum,
)
from tests.support.rings import DAY, NOW, Moment, randomness, walks

VECTORS = Path(__file__).parents[1] / "vectors"


# --- round trip -----------------------------------------------------------------------------------


@BOTH
@examples(50)
@given(past=walks(steps=20))
def test_document_reads_back_as_the_ring(wrapping: Keyring | None, past: list[Moment]) -> None:
    ring, now = past[-1].ring, past[-1].now
    text = dump_ring(ring, wrapping, randomness("nonces"))
    for form in (text, text.encode()):
        assert parse_ring(form, wrapping, now) == ring


@given(st.text(max_size=20), st.integers(0, 1 << 33), st.integers(1, (1 << 63) - 1), st.booleans())
def test_any_reason_time_and_number_reads_back(
    reason: str, at: int, sequence: int, flag: bool
) -> None:
    dead = Tombstone(b"dead", at, at + 1, flag, not flag, reason)
    ring = replace(RING, sequence=sequence, updated_at=at, tombstones=(dead,), revoked_before=at)
    for wrapping in WRAPPINGS:
        assert parse_ring(dump(ring, wrapping), wrapping, NOW) == ring


@BOTH
def test_full_and_bare_rings_read_back(wrapping: Keyring | None) -> None:
    schedule = Schedule(MAX_SECONDS, MAX_SECONDS, MAX_SECONDS, DAY)
    random = randomness()
    longest = rotate(create_ring(schedule, NOW, random), schedule, NOW, random, force=True)
    bare = replace(RING, lookup=None, tombstones=(), revoked_before=0)
    for ring in (RING, LONG_TERM, bare, longest):
        assert parse_ring(dump(ring, wrapping), wrapping, NOW) == ring


@pytest.mark.parametrize(("name", "wrapping"), [("ring-1", None), ("ring-1-wrapped", KEK)])
def test_frozen_document_is_read_for_ever(name: str, wrapping: Keyring | None) -> None:
    text = (VECTORS / f"{name}.json").read_bytes()
    assert parse_ring(text, wrapping, NOW) == RING
    assert parse_ring(text.decode(), wrapping, NOW + 10 * 365 * DAY) == RING
    if wrapping is None:
        assert dump() == text.decode()


def test_document_has_the_documented_fields_in_order_and_checksum() -> None:
    document = json.loads(dump(LONG_TERM))
    assert list(document) == [
        "format", "ring", "sequence", "updated_at", "schedule", "keys", "lookup", "lasting",
        "tombstones", "revoked_before", "wrapped_by", "checksum",
    ]  # fmt: skip
    assert list(document["keys"][2]) == [
        "kid", "created_at", "activates_at", "disabled_at", "secret",
    ]  # fmt: skip
    assert "disabled_at" not in document["keys"][0]
    assert "lasting" not in json.loads(dump(RING))
    for wrapping in WRAPPINGS:
        text = dump(LONG_TERM, wrapping)
        assert with_checksum(json.loads(text), wrapping) == text == dump(LONG_TERM, wrapping)


# --- key-encryption keys --------------------------------------------------------------------------


def test_wrapped_document_contains_no_secret_and_each_write_wraps_again() -> None:
    text = dump(LONG_TERM, KEK)
    assert not [part for part in SECRET_PARTS if part in text]
    assert '"secret"' not in text
    documents = [json.loads(dump_ring(LONG_TERM, KEK, os.urandom)) for _ in range(2)]
    keys = [key for document in documents for key in (*document["keys"], *document["lasting"])]
    assert len({key["wrapped"] for key in keys}) == len(keys) == 12


def test_first_key_encryption_key_wraps_and_all_unwrap() -> None:
    new, old = fixed_key("new"), fixed_key("old")
    before = dump(wrapping=Keyring((old,)))
    for wrapping in (Keyring((old, new)), Keyring((new, old))):
        assert parse_ring(before, wrapping, NOW) == RING
        text = dump(wrapping=wrapping)
        first = wrapping.keys[0].kid.hex()
        assert json.loads(text)["wrapped_by"] == first
        assert parse_ring(text, Keyring((wrapping.keys[0],)), NOW) == RING
        assert f"{first}, which is not set here" in refusal(text, Keyring((wrapping.keys[1],)))


def test_document_of_another_wrapping_is_refused() -> None:
    text = dump(wrapping=KEK)
    assert KEK.keys[0].kid.hex() in refusal(text)
    assert "checksum" in refusal(text, Keyring((Key(KEK.keys[0].kid, os.urandom(32)),)))
    assert "not wrapped" in refusal(dump(), KEK)
    # A forger may know the kid, and the wrapped secrets of an older document.
    document = json.loads(text)
    document["tombstones"] = []
    assert "checksum" in refusal(with_checksum(document), KEK)


@pytest.mark.parametrize("name", ["another kid", "another ring", "plain"])
def test_wrapped_secret_opens_only_in_its_own_place(name: str) -> None:
    document = json.loads(dump(wrapping=KEK))
    first, second = document["keys"][:2]
    if name == "another kid":
        first["wrapped"], second["wrapped"] = second["wrapped"], first["wrapped"]
    elif name == "another ring":
        place = TokenContext("ring-secret", "0" * 16, (first["kid"],))
        secret = RING.keys[0].secret
        token = seal(secret, place, KEK.keys[0], NOW, os.urandom(ENTROPY_BYTES))
        first["wrapped"] = to_text(token)
    else:
        first["secret"] = secret_to_text(RING.keys[0].secret)
        del first["wrapped"]
    refusal(with_checksum(document, KEK), KEK)


# --- altered and cut ------------------------------------------------------------------------------


@pytest.mark.slow
@BOTH
def test_every_altered_cut_added_or_removed_byte_is_noticed(wrapping: Keyring | None) -> None:
    data = dump(wrapping=wrapping).encode()
    random = randomness("altered")
    for at in range(len(data)):
        rest = data[at + 1 :]
        for other in {data[at] ^ 1, data[at] ^ 0x20, 0x20, 0x0A, random(1)[0]} - {data[at]}:
            refusal(data[:at] + bytes([other]) + rest, wrapping)
        refusal(data[:at], wrapping)
        refusal(rest, wrapping)
        refusal(data[:at] + rest, wrapping)
        refusal(data[:at] + b" " + data[at:], wrapping)
        refusal(data[: at + 1] + data[at:], wrapping)
    refusal(data * 2, wrapping)


def test_two_documents_do_not_mix() -> None:
    other = dump(replace(RING, sequence=43, updated_at=NOW + 5, revoked_before=NOW))
    lines, others = dump().splitlines(True), other.splitlines(True)
    assert len(lines) == len(others)
    for at in range(1, len(lines)):
        mixed = "".join(lines[:at] + others[at:])
        if mixed not in (dump(), other):
            refusal(mixed)


@pytest.mark.parametrize("ring", [RING, LONG_TERM], ids=["sessions", "long-term"])
def test_another_spelling_of_the_same_content_is_refused(ring: Any) -> None:
    text = dump(ring)
    document = json.loads(text)
    forms: dict[str, str | bytes] = {
        "compact": json.dumps(document),
        "sorted": json.dumps(document, indent=2, sort_keys=True) + "\n",
        "twice": text.replace('"sequence": 42,', '"sequence": 41,\n  "sequence": 42,'),
        "escaped": text.replace("sealedstate-ring-1", "sealedstate-ring-\\u0031"),
        "BOM": b"\xef\xbb\xbf" + text.encode(),
        "CRLF": text.replace("\n", "\r\n"),
        "UTF-16": text.encode("utf-16"),
    }
    for form in forms.values():
        refusal(form)


# --- what is no ring ------------------------------------------------------------------------------

NESTED = '{"format": "sealedstate-ring-1", "wrapped_by": null, "checksum": "", "keys": '
JUNK: list[str | bytes] = [
    "", b"", " ", b"\xff\xfe\xfa", b'{"format": "sealedstate-ring-1\xc3', '{"format": "\ud800"}',
    "[]", "5", "null", "NaN", "{}", '{"format": "sealedstate-ring-2"}',
    '{"format": ["sealedstate-ring-1"]}', '{"format": "sealedstate-ring-1"}', "[" * 200_000,
    '{"a":' * 100_000, "9" * 100_000, "-----BEGIN PRIVATE KEY-----", fixed_key("current").export(),
    " " * (MAX_BYTES + 1), b" " * (MAX_BYTES + 1), os.urandom(4096),
]  # fmt: skip


def test_junk_is_refused() -> None:
    for text in JUNK:
        for wrapping in WRAPPINGS:
            refusal(text, wrapping)
    assert str(MAX_BYTES) in refusal(" " * (MAX_BYTES + 1))


def test_document_nested_to_any_depth_is_refused() -> None:
    for depth in (1, 10, 100, *range(200, 1100, 7), 5000, 50_000):
        refusal(f"{NESTED}{'[' * depth}{']' * depth}}}")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_and_any_text_are_refused(text: str | bytes) -> None:
    refusal(text)


# --- each field -----------------------------------------------------------------------------------

OTHERS: list[Any] = [
    None, True, False, 0, 1, -1, 5, 42, 1.5, 42.0, -0.0, float("nan"), float("inf"), 10**30,
    10**4000, -(10**30),
    "", " ", "x", "é", "\ud800", "0", "42", "null", "00c0ffee", "00C0FFEE", "00 c0 ff ee", "00c0ff",
    "00c0ffee00c0ffee", "2027-01-15T08:00:00Z", "2027-01-15T08:00:00", "2027-01-15T08:00:00+00:00",
    "2027-01-15T08:00:00.5Z", "2027-01-15T09:00:00+01:00", "2027-01-15", "1969-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z", "99999-01-01T00:00:00Z", "A" * 43, "é" * 43, "A" * 110, "!" * 43,
    "\n" * 8,
    [], [[]], ["x"], [None], [42], {}, {"x": 1}, {"secret": None}, {"wrapped": []}, {"kid": []},
]  # fmt: skip
# Values of the same kind, which make a different ring that is valid.
VALID: dict[str, set[Any]] = {
    "sequence": {1, 5, 42, 10**3},
    "updated_at": {"2027-01-15T08:00:00Z"},
    "rotate_every": {1, 5, 42},
    "announce": {1, 5, 42},
    "keep": {1, 5, 42},
    "skew": {0, 1, 5, 42},
    "created_at": {"2027-01-15T08:00:00Z"},
    "activates_at": {"2027-01-15T08:00:00Z"},
    "disabled_at": {"2027-01-15T08:00:00Z"},
    "at": {"2027-01-15T08:00:00Z"},
    "kid": {"00c0ffee"},
    "sealed": {True, False},
    "revoked": {True, False},
    "revoked_before": {None, "2027-01-15T08:00:00Z"},
    "lookup": {None},
    "ring": {"00c0ffee00c0ffee"},
}
FieldPath: TypeAlias = tuple[str | int, ...]


def paths(value: Any, path: FieldPath = ()) -> Iterator[FieldPath]:
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(each, (*path, name))


def copy_with_holder(document: Any, path: FieldPath) -> tuple[Any, Any]:
    """A copy of the document, and the part of it that holds the field."""
    copied = holder = json.loads(json.dumps(document))
    for name in path[:-1]:
        holder = holder[name]
    return copied, holder


def is_valid(path: FieldPath, value: Any, wrapping: Keyring | None) -> bool:
    name = str(path[-1])
    if name == "reason":
        return isinstance(value, str)
    if path == ("tombstones",):
        return bool(value == [])
    if wrapping is not None and name in ("kid", "ring"):
        # The secret is wrapped for its place.
        return name == "kid" and path[0] == "tombstones" and value == "00c0ffee"
    return any(value == each and type(value) is type(each) for each in VALID.get(name, set()))


@pytest.mark.slow
@BOTH
def test_each_field_takes_only_values_of_its_own_kind(wrapping: Keyring | None) -> None:
    text = dump(LONG_TERM, wrapping)
    document = json.loads(text)
    for path in paths(document):
        if path == ("checksum",):
            continue
        for value in OTHERS:
            copied, holder = copy_with_holder(document, path)
            holder[path[-1]] = value
            altered = with_checksum(copied, wrapping)
            # A long-term key is never disabled, and the list is left out if it is empty.
            if altered == text or is_valid(path, value, wrapping):
                ring = parse_ring(altered, wrapping, NOW)
                if wrapping is None:
                    assert dump(ring) == altered, path
            else:
                refusal(altered, wrapping)


@BOTH
def test_each_field_must_be_there_and_no_other(wrapping: Keyring | None) -> None:
    document = json.loads(dump(LONG_TERM, wrapping))
    for path in paths(document):
        copied, holder = copy_with_holder(document, path)
        if isinstance(holder, list):
            continue
        value = holder.pop(path[-1])
        if path[-1] == "checksum":
            refusal(json.dumps(copied, indent=2) + "\n", wrapping)
        elif path[-1] not in ("disabled_at", "lasting"):
            refusal(with_checksum(copied, wrapping), wrapping)
        holder |= {path[-1]: value, "comment": "x"}
        refusal(with_checksum(copied, wrapping), wrapping)


def test_checksum_must_be_a_text_that_matches() -> None:
    values: list[Any] = [None, 5, "", "é", "0" * 32, [], {}, True, "\ud800"]
    for value in values:
        refusal(json.dumps(json.loads(dump()) | {"checksum": value}, indent=2) + "\n")


FIRST, SECOND, *OTHER_KEYS = RING.keys
DEAD = RING.tombstones[0]
YEARS, OLDER = LONG_TERM.long_term
CONTRADICTIONS = {
    "a kid twice": replace(RING, keys=(FIRST, replace(SECOND, kid=FIRST.kid), *OTHER_KEYS)),
    "a secret twice": replace(RING, keys=(FIRST, replace(SECOND, secret=FIRST.secret))),
    "a tombstone twice": replace(RING, tombstones=(DEAD, DEAD)),
    "a key that is revoked": replace(RING, tombstones=(replace(DEAD, kid=FIRST.kid),)),
    "no key": replace(RING, keys=()),
    "a typed secret": replace(RING, keys=(replace(FIRST, secret=b"a" * 32),)),
    "a short secret": replace(RING, keys=(replace(FIRST, secret=fixed("short", 31)),)),
    "a typed lookup": replace(RING, lookup=b"a" * 32),
    "a short lookup": replace(RING, lookup=fixed("short", 31)),
    "a short kid": replace(RING, keys=(replace(FIRST, kid=b"abc"),)),
    "a short tombstone": replace(RING, tombstones=(replace(DEAD, kid=b"abc"),)),
    "a ring with a name": replace(RING, ring_id="production"),
    "no first sequence": replace(RING, sequence=0),
    "a sequence without end": replace(RING, sequence=1 << 63),
    "a key of before 1970": replace(RING, keys=(replace(FIRST, activates_at=-1),)),
    "a long-term key twice": replace(RING, long_term=(YEARS, YEARS)),
    "a long-term kid twice": replace(RING, long_term=(replace(YEARS, kid=FIRST.kid),)),
    "a long-term key that is dead": replace(RING, long_term=(replace(YEARS, kid=DEAD.kid),)),
    "a typed long-term secret": replace(RING, long_term=(replace(YEARS, secret=bytes(32)),)),
    "a long-term secret twice": replace(
        RING, long_term=(YEARS, replace(OLDER, secret=YEARS.secret))
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(name: str) -> None:
    for wrapping in WRAPPINGS:
        refusal(dump(CONTRADICTIONS[name], wrapping), wrapping)


def test_message_names_the_missing_field_or_the_contradiction() -> None:
    document = json.loads(dump())
    del document["keys"][1]["secret"]
    assert "'secret'" in refusal(with_checksum(document))
    document["keys"][0]["kid"] = document["keys"][2]["kid"]
    document["keys"][1]["secret"] = secret_to_text(os.urandom(32))
    assert "same kid" in refusal(with_checksum(document))
