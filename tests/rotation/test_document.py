"""The ring's document: what is read is what was written, whole and unaltered, or nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from sealedstate import Key
from sealedstate._wire.encoding import to_text
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, seal
from sealedstate.keyring import Keyring, secret_to_text
from sealedstate.rotation import dump_ring, parse_ring
from tests.support.ring_documents import (
    BOTH,
    KEK,
    RING,
    SECRET_PARTS,
    WRAPPINGS,
    dumped,
    fixed_key,
    refused,
    with_checksum,
)
from tests.support.rings import DAY, NOW, Moment, randomness, walks

HERE = Path(__file__).parents[1] / "vectors"


# --- round trip -----------------------------------------------------------------------------------


@BOTH
@given(past=walks(steps=20))
@settings(max_examples=50)
def test_what_was_written_is_read_again(wrapping: Keyring | None, past: list[Moment]) -> None:
    ring, now = past[-1].ring, past[-1].now
    text = dump_ring(ring, wrapping, randomness("nonces"))
    for form in (text, text.encode()):
        assert parse_ring(form, wrapping, now) == ring


@BOTH
def test_a_ring_with_everything_in_it_is_read_again(wrapping: Keyring | None) -> None:
    assert parse_ring(dumped(wrapping=wrapping), wrapping, NOW) == RING
    bare = replace(RING, lookup=None, tombstones=(), revoked_before=0)
    assert parse_ring(dumped(bare, wrapping), wrapping, NOW) == bare


@pytest.mark.parametrize(("name", "wrapping"), [("ring-1", None), ("ring-1-wrapped", KEK)])
def test_a_ring_that_was_once_written_is_read_for_ever(name: str, wrapping: Keyring | None) -> None:
    text = (HERE / f"{name}.json").read_bytes()
    assert parse_ring(text, wrapping, NOW) == RING
    assert parse_ring(text.decode(), wrapping, NOW + 10 * 365 * DAY) == RING
    if wrapping is None:
        assert dumped() == text.decode()


def test_the_document_is_what_a_person_can_read() -> None:
    document = json.loads(dumped())
    assert list(document) == [
        "format", "ring", "sequence", "updated_at", "schedule", "keys", "lookup", "tombstones",
        "revoked_before", "wrapped_by", "checksum",
    ]  # fmt: skip
    assert list(document["keys"][2]) == [
        "kid", "created_at", "activates_at", "disabled_at", "secret",
    ]  # fmt: skip
    assert "disabled_at" not in document["keys"][0]
    assert document["format"] == "sealedstate-ring-1"
    assert document["updated_at"] == "2027-01-15T08:00:00Z"
    assert document["schedule"] == {
        "rotate_every": 86400, "announce": 900, "keep": 2592000, "skew": 60,
    }  # fmt: skip
    assert list(document["tombstones"][0]) == [
        "kid", "activates_at", "at", "sealed", "revoked", "reason",
    ]  # fmt: skip
    assert dumped().count("\n") > 60


def test_the_same_ring_gives_the_same_text_and_its_checksum_is_the_documented_one() -> None:
    assert dumped() == dumped()
    for wrapping in WRAPPINGS:
        text = dumped(wrapping=wrapping)
        assert with_checksum(json.loads(text), wrapping) == text


# --- key-encryption keys --------------------------------------------------------------------------


def test_a_wrapped_document_holds_no_secret() -> None:
    text = dumped(wrapping=KEK)
    assert not [part for part in SECRET_PARTS if part in text]
    assert '"secret"' not in text


def test_the_first_key_encryption_key_wraps_and_all_unwrap() -> None:
    new, old = fixed_key("new"), fixed_key("old")
    before = dumped(wrapping=Keyring((old,)))
    for wrapping in (Keyring((old, new)), Keyring((new, old))):
        assert parse_ring(before, wrapping, NOW) == RING
        text = dumped(wrapping=wrapping)
        assert json.loads(text)["wrapped_by"] == wrapping.keys[0].kid.hex()
        assert parse_ring(text, Keyring((wrapping.keys[0],)), NOW) == RING
        message = refused(text, Keyring((wrapping.keys[1],)))
        assert f"key-encryption key {wrapping.keys[0].kid.hex()}: not set here" in message


def test_a_wrapped_document_without_the_key_encryption_key_is_refused() -> None:
    text = dumped(wrapping=KEK)
    assert KEK.keys[0].kid.hex() in refused(text)
    forged = Keyring((Key(KEK.keys[0].kid, os.urandom(32)),))
    assert "checksum" in refused(text, forged)


def test_an_unwrapped_document_is_refused_where_a_key_encryption_key_is_set() -> None:
    assert "not wrapped" in refused(dumped(), KEK)


def test_without_the_key_encryption_key_nobody_writes_a_document_that_is_read() -> None:
    """Though its kid and the wrapped secrets of an older document are known."""
    document = json.loads(dumped(wrapping=KEK))
    document["tombstones"] = []
    assert "checksum" in refused(with_checksum(document), KEK)


@pytest.mark.parametrize("name", ["another kid", "another ring", "plain"])
def test_a_wrapped_secret_opens_only_in_its_own_place(name: str) -> None:
    document = json.loads(dumped(wrapping=KEK))
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
    refused(with_checksum(document, KEK), KEK)


def test_all_secrets_are_wrapped_anew_at_each_write() -> None:
    documents = [json.loads(dump_ring(RING, KEK, os.urandom)) for _ in range(2)]
    wrapped = [key["wrapped"] for document in documents for key in document["keys"]]
    assert len(set(wrapped)) == 2 * len(RING.keys)


# --- altered and cut ------------------------------------------------------------------------------


@BOTH
def test_every_altered_byte_is_noticed(wrapping: Keyring | None) -> None:
    data = dumped(wrapping=wrapping).encode()
    chance = randomness("altered")
    for at in range(len(data)):
        for other in {data[at] ^ 1, data[at] ^ 0x20, 0x20, 0x0A, chance(1)[0]} - {data[at]}:
            refused(data[:at] + bytes([other]) + data[at + 1 :], wrapping)


@BOTH
def test_every_cut_is_noticed(wrapping: Keyring | None) -> None:
    data = dumped(wrapping=wrapping).encode()
    for size in range(len(data)):
        refused(data[:size], wrapping)
        refused(data[size + 1 :], wrapping)


@BOTH
def test_every_byte_that_is_left_out_or_put_in_is_noticed(wrapping: Keyring | None) -> None:
    data = dumped(wrapping=wrapping).encode()
    for at in range(len(data) + 1):
        refused(data[:at] + b" " + data[at:], wrapping)
        refused(data[:at] + data[at : at + 1] + data[at:] if at < len(data) else data * 2, wrapping)
        if at < len(data):
            refused(data[:at] + data[at + 1 :], wrapping)


def test_two_documents_do_not_mix() -> None:
    other = dumped(replace(RING, sequence=43, updated_at=NOW + 5, revoked_before=NOW))
    lines, others = dumped().splitlines(True), other.splitlines(True)
    assert len(lines) == len(others)
    for at in range(1, len(lines)):
        mixed = "".join(lines[:at] + others[at:])
        if mixed not in (dumped(), other):
            refused(mixed)


@pytest.mark.parametrize(
    "spelt", ["compact", "sorted", "twice", "escaped", "BOM", "CRLF", "UTF-16"]
)
def test_another_spelling_of_the_same_content_is_refused(spelt: str) -> None:
    text = dumped()
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
    refused(forms[spelt])
