"""Rings with a value in every field, their documents, and the refusal of bad documents."""

from __future__ import annotations

import hashlib
import json
import traceback
from dataclasses import replace
from typing import Any

import pytest

from sealedstate import Key
from sealedstate._wire.encoding import to_text
from sealedstate.keyring import Keyring, secret_to_text
from sealedstate.rotation.document import RingUnreadable, dump_ring, parse_ring
from sealedstate.rotation.ring import Ring, RingKey, Schedule, Tombstone
from tests.support.rings import NOW, randomness


def fixed(label: str, size: int) -> bytes:
    """Fixed bytes without a pattern."""
    return hashlib.blake2b(label.encode(), digest_size=size).digest()


def fixed_key(label: str) -> Key:
    return Key(fixed(f"{label} kid", 4), fixed(f"{label} secret", 32))


def ring_key(label: str, activates_at: int, disabled_at: int | None = None) -> RingKey:
    made = fixed_key(label)
    return RingKey(made.kid, made.secret, activates_at - 900, activates_at, disabled_at)


# Frozen with tests/vectors/ring-1.json and ring-1-wrapped.json.
RING = Ring(
    "5ea1ed57a7e00001",
    42,
    NOW,
    Schedule(86400, 900, 2592000, 60),
    (
        ring_key("next", NOW + 900),
        ring_key("current", NOW - 85500),
        ring_key("off", NOW - 100000, NOW - 95000),
        ring_key("old", NOW - 171900),
    ),
    (
        Tombstone(fixed("stolen", 4), NOW - 200000, NOW - 171900, True, True, 'laptop "é"\n'),
        Tombstone(fixed("early", 4), NOW + 5, NOW - 171000, False, True),
        Tombstone(fixed("expired", 4), NOW - 4000000, NOW - 100, True, False),
    ),
    fixed("lookup", 32),
    NOW - 1000000,
)
# An identity provider has long-term keys, too.
LONG_TERM = replace(RING, long_term=(ring_key("years", NOW - 100), ring_key("older", NOW - 90000)))
KEK = Keyring((fixed_key("kek"), fixed_key("kek before")))
WRAPPINGS = [None, KEK]
BOTH = pytest.mark.parametrize("wrapping", WRAPPINGS, ids=["plain", "wrapped"])


def dump(ring: Ring = RING, wrapping: Keyring | None = None) -> str:
    return dump_ring(ring, wrapping, randomness("nonces"))


def refusal(text: str | bytes, wrapping: Keyring | None = None) -> str:
    """The message of the only error that is raised. It contains no secret."""
    with pytest.raises(RingUnreadable) as caught:
        parse_ring(text, wrapping, NOW)
    error = caught.value
    shown = "".join(traceback.format_exception_only(error)) + repr(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert not [part for part in SECRET_PARTS if part in shown]
    assert len(str(error)) < 300
    assert str(error).isprintable()
    return str(error)


SECRET_PARTS = [
    form[:12]
    for keys, lookup in (((*RING.keys, *LONG_TERM.long_term), RING.lookup), (KEK.keys, None))
    for secret in (*(key.secret for key in keys), *filter(None, [lookup]))
    for form in (secret.hex(), secret_to_text(secret), to_text(secret), repr(secret)[2:-1])
]


def with_checksum(document: dict[str, Any], wrapping: Keyring | None = None) -> str:
    """As the specification says, so that the checksum hides no other reason to refuse.

    It is keyed by the first key of `wrapping`.
    """
    rest = {name: value for name, value in document.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    key = b"" if wrapping is None else wrapping.keys[0].subkey("checksum", "ring", RING.ring_id)
    checksum = hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest()
    return json.dumps(rest | {"checksum": checksum}, indent=2) + "\n"
