"""The ring's document: whatever is no ring is refused, field by field, and tells no secret."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.keyring import Keyring, secret_to_text
from sealedstate.rotation import Schedule, Tombstone, founded, parse_ring, rotated
from sealedstate.rotation.document import MAX_BYTES
from sealedstate.rotation.ring import MAX_SECONDS
from tests.support.ring_documents import (
    BOTH,
    RING,
    WRAPPINGS,
    dumped,
    fixed,
    fixed_key,
    refused,
    with_checksum,
)
from tests.support.rings import DAY, NOW, randomness

# --- what is no ring ------------------------------------------------------------------------------

NESTED = '{"format": "sealedstate-ring-1", "wrapped_by": null, "checksum": "", "keys": '
JUNK: dict[str, str | bytes] = {
    "nothing": "",
    "no bytes": b"",
    "a blank": " ",
    "no UTF-8": b"\xff\xfe\xfa",
    "cut UTF-8": b'{"format": "sealedstate-ring-1\xc3',
    "a lone surrogate": '{"format": "\ud800"}',
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "NaN": "NaN",
    "an empty object": "{}",
    "another format": '{"format": "sealedstate-ring-2"}',
    "a list as format": '{"format": ["sealedstate-ring-1"]}',
    "the format alone": '{"format": "sealedstate-ring-1"}',
    "a deep list": "[" * 200_000,
    "a deep object": '{"a":' * 100_000,
    "a long number": "9" * 100_000,
    "a key in PEM": "-----BEGIN PRIVATE KEY-----",
    "the text of a key": fixed_key("current").export(),
    "larger than any ring": " " * (MAX_BYTES + 1),
    "larger than any ring, in bytes": b" " * (MAX_BYTES + 1),
    "a binary file": os.urandom(4096),
}


@pytest.mark.parametrize("text", JUNK.values(), ids=JUNK.keys())
def test_what_is_no_ring_is_refused(text: str | bytes) -> None:
    for wrapping in WRAPPINGS:
        refused(text, wrapping)


def test_a_document_nested_to_any_depth_is_refused() -> None:
    for depth in (1, 10, 100, *range(200, 1100, 7), 5000, 50_000):
        refused(f"{NESTED}{'[' * depth}{']' * depth}}}")


def test_what_is_too_large_is_said_to_be() -> None:
    assert str(MAX_BYTES) in refused(" " * (MAX_BYTES + 1))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_and_any_text_are_refused(text: str | bytes) -> None:
    refused(text)


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
# Another value of the same kind: a different ring, and a sound one. (path, value)
SOUND: dict[str, set[Any]] = {
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
Path_ = tuple[str | int, ...]


def paths(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(each, (*path, name))


def replaced(document: Any, path: Path_, value: Any) -> Any:
    copied = json.loads(json.dumps(document))
    holder = copied
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return copied


def is_sound(path: Path_, value: Any, wrapping: Keyring | None) -> bool:
    name = str(path[-1])
    if name == "reason":
        return isinstance(value, str)
    if path == ("tombstones",):
        return bool(value == [])
    if wrapping is not None and name in ("kid", "ring"):
        # The secret is wrapped for its place.
        return name == "kid" and path[0] == "tombstones" and value == "00c0ffee"
    return any(value == each and type(value) is type(each) for each in SOUND.get(name, set()))


@BOTH
def test_each_field_takes_only_values_of_its_own_kind(wrapping: Keyring | None) -> None:
    document = json.loads(dumped(wrapping=wrapping))
    for path in paths(document):
        if path == ("checksum",):
            continue
        for value in OTHERS:
            text = with_checksum(replaced(document, path, value), wrapping)
            if text == dumped(wrapping=wrapping) or is_sound(path, value, wrapping):
                ring = parse_ring(text, wrapping, NOW)
                if wrapping is None:
                    assert dumped(ring) == text, path
            else:
                refused(text, wrapping)


@BOTH
def test_each_field_must_be_there_and_no_other(wrapping: Keyring | None) -> None:
    document = json.loads(dumped(wrapping=wrapping))
    for path in paths(document):
        copied = json.loads(json.dumps(document))
        holder = copied
        for name in path[:-1]:
            holder = holder[name]
        if isinstance(holder, list):
            continue
        value = holder.pop(path[-1])
        if path[-1] == "checksum":
            refused(json.dumps(copied, indent=2) + "\n", wrapping)
        elif path[-1] != "disabled_at":
            refused(with_checksum(copied, wrapping), wrapping)
        holder |= {path[-1]: value, "comment": "x"}
        refused(with_checksum(copied, wrapping), wrapping)


@pytest.mark.parametrize("value", [None, 5, "", "é", "0" * 32, [], {}, True, "\ud800"])
def test_a_checksum_is_a_text_that_matches(value: Any) -> None:
    refused(json.dumps(json.loads(dumped()) | {"checksum": value}, indent=2) + "\n")


FIRST, SECOND, *OTHER_KEYS = RING.keys
DEAD = RING.tombstones[0]
UNSOUND = {
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
}


@pytest.mark.parametrize("field", UNSOUND)
def test_what_makes_no_ring_is_refused_though_each_value_is_good(field: str) -> None:
    for wrapping in WRAPPINGS:
        refused(dumped(UNSOUND[field], wrapping), wrapping)


@given(
    st.text(max_size=20),
    st.integers(0, 1 << 33),
    st.integers(1, (1 << 63) - 1),
    st.booleans(),
)
def test_any_reason_time_and_number_is_read_again(
    reason: str, at: int, sequence: int, flag: bool
) -> None:
    dead = Tombstone(b"dead", at, at + 1, flag, not flag, reason)
    ring = replace(RING, sequence=sequence, updated_at=at, tombstones=(dead,), revoked_before=at)
    for wrapping in WRAPPINGS:
        assert parse_ring(dumped(ring, wrapping), wrapping, NOW) == ring


def test_a_message_names_the_field_that_is_missing() -> None:
    document = json.loads(dumped())
    del document["keys"][1]["secret"]
    assert re.search("'secret'", refused(with_checksum(document)))
    document["keys"][0]["kid"] = document["keys"][2]["kid"]
    document["keys"][1]["secret"] = secret_to_text(os.urandom(32))
    assert "same kid" in refused(with_checksum(document))


def test_a_founded_ring_of_any_schedule_can_be_written_and_rotated_for_long() -> None:
    schedule = Schedule(MAX_SECONDS, MAX_SECONDS, MAX_SECONDS, DAY)
    chance = randomness()
    ring = rotated(founded(schedule, NOW, chance), schedule, NOW, chance, force=True)
    assert parse_ring(dumped(ring), None, NOW) == ring
