"""The ring's document with keys of what is stored for years: kept like the others, and as well."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sealedstate.keyring import Keyring, secret_to_text
from sealedstate.rotation import Ring, parse_ring
from tests.support.ring_documents import BOTH, RING, dumped, refused, ring_key, with_checksum
from tests.support.rings import NOW

LASTING = replace(RING, lasting=(ring_key("years", NOW - 100), ring_key("older", NOW - 90000)))


@BOTH
def test_lasting_keys_come_back_in_their_order(wrapping: Keyring | None) -> None:
    assert parse_ring(dumped(LASTING, wrapping), wrapping, NOW) == LASTING


def test_a_ring_without_lasting_keys_is_spelt_as_before() -> None:
    assert "lasting" not in dumped(RING)
    assert parse_ring(dumped(RING), None, NOW).lasting == ()


def test_a_wrapped_ring_shows_no_lasting_secret() -> None:
    wrapping = BOTH.args[1][1]
    text = dumped(LASTING, wrapping)
    assert "wrapped" in json.loads(text)["lasting"][0]
    for key in LASTING.lasting:
        assert secret_to_text(key.secret) not in text
        assert key.secret.hex() not in text
        assert repr(key.secret) not in repr(LASTING)


@pytest.mark.parametrize(
    "ring",
    [
        replace(LASTING, lasting=(LASTING.lasting[0], LASTING.lasting[0])),
        replace(LASTING, lasting=(replace(LASTING.lasting[0], kid=RING.keys[0].kid),)),
        replace(LASTING, lasting=(replace(LASTING.lasting[0], kid=RING.tombstones[0].kid),)),
        replace(LASTING, lasting=(replace(LASTING.lasting[0], secret=bytes(32)),)),
        replace(
            LASTING,
            lasting=(
                LASTING.lasting[0],
                replace(LASTING.lasting[1], secret=LASTING.lasting[0].secret),
            ),
        ),
    ],
)
def test_lasting_keys_that_make_no_ring_are_refused(ring: Ring) -> None:
    refused(dumped(ring))


def test_an_empty_list_or_a_key_out_of_place_is_refused() -> None:
    document = json.loads(dumped(LASTING))
    refused(with_checksum(document | {"lasting": []}))
    refused(with_checksum(document | {"lasting": [{"kid": "00000001"}]}))
    refused(with_checksum(document | {"lasting": None}))
    moved = {name: document[name] for name in sorted(document)}
    refused(with_checksum(moved))
