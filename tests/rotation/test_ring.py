"""Rings: a key's state is a function of the ring and the time, and nothing shows a secret."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given

from sealedstate import ConfigurationError
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, open_token, seal
from sealedstate.errors import KeyDisabled, KeyOutOfUse, UnknownKey
from sealedstate.keyring import KeyState, secret_to_text
from sealedstate.rotation import Ring, RingKey, Tombstone
from tests.support.rings import DAILY, DAY, NOW, Moment, walks

HELD = DAILY.held_after_retirement
PLACE = TokenContext("core", "default", ("__Host-s",))


def key(activates_at: int, disabled_at: int | None = None) -> RingKey:
    return RingKey(os.urandom(4), os.urandom(32), NOW - DAY, activates_at, disabled_at)


def ring(*keys: RingKey, dead: tuple[Tombstone, ...] = ()) -> Ring:
    return Ring("00c0ffee00c0ffee", 1, NOW, DAILY, keys, dead, os.urandom(32))


def test_a_key_retires_when_the_next_takes_over_and_expires_when_all_it_sealed_is_over() -> None:
    new, current, old = key(NOW + 100), key(NOW - 100), key(NOW - 300)
    made = ring(new, current, old)
    assert [made.retires_at(each) for each in made.keys] == [None, NOW + 100, NOW - 100]
    assert [made.expires_at(each) for each in made.keys] == [
        None,
        NOW + 100 + HELD,
        NOW - 100 + HELD,
    ]
    shown = {
        each.kid: (each.activates_at, each.retires_at, each.expires_at)
        for each in made.keyring().keys
    }
    assert shown[current.kid] == (NOW - 100, NOW + 100, NOW + 100 + HELD)


def test_the_primary_is_the_newest_that_is_active_and_able() -> None:
    new, off, current, old = key(NOW + 1), key(NOW, NOW), key(NOW - 1), key(NOW - 2)
    made = ring(new, off, current, old)
    assert made.primary(NOW) == current
    assert made.primary(NOW + 1) == new
    assert made.primary(NOW - 2) == old
    assert made.primary(NOW - 3) is None


def test_of_two_keys_of_one_date_the_first_seals_in_ring_and_keyring() -> None:
    one, other = key(NOW), key(NOW)
    for made in (ring(one, other), ring(other, one)):
        assert made.primary(NOW) == made.keys[0]
        assert made.keyring().primary(NOW).kid == made.keys[0].kid


def test_a_key_that_was_disabled_in_its_turn_has_ended_that_of_its_predecessor() -> None:
    old = key(NOW - 300)
    assert ring(key(NOW - 100, NOW - 50), old).retires_at(old) == NOW - 100
    # In the second in which it began, too: something may have been sealed.
    assert ring(key(NOW - 100, NOW - 100), old).retires_at(old) == NOW - 100


def test_a_key_that_was_disabled_before_its_turn_retires_nobody() -> None:
    old = key(NOW - 300)
    assert ring(key(NOW - 100, NOW - 101), old).retires_at(old) is None


def test_a_key_that_is_no_more_has_still_ended_the_turn_of_its_predecessor() -> None:
    old = key(NOW - 300)
    for revoked in (True, False):
        dead = Tombstone(os.urandom(4), NOW - 100, NOW, True, revoked)
        assert ring(old, dead=(dead,)).retires_at(old) == NOW - 100
    never = Tombstone(os.urandom(4), NOW - 100, NOW - 200, False, True)
    assert ring(old, dead=(never,)).retires_at(old) is None


def test_a_keyring_carries_what_the_ring_says() -> None:
    dead = Tombstone(b"dead", NOW - 100, NOW, True, True, "stolen")
    made = replace(ring(key(NOW), key(NOW - 10, NOW - 5), dead=(dead,)), revoked_before=NOW - 7)
    keyring = made.keyring()
    assert (keyring.skew, keyring.announce) == (DAILY.skew, DAILY.announce)
    assert keyring.removed_kids == {b"dead"}
    assert keyring.revoked_before == NOW - 7
    assert keyring.lookup == made.lookup
    assert [each.disabled for each in keyring.keys] == [False, True]


def test_what_a_key_of_the_ring_sealed_is_opened_or_refused_by_its_state() -> None:
    new, off, old = key(NOW), key(NOW - DAY, NOW - 10), key(NOW - 2 * DAY)
    dead, full = Tombstone(b"dead", NOW - 3 * DAY, NOW, True, False), ring(new, off, old)
    made = replace(full, tombstones=(dead,))

    def opened(kid: bytes, secret: bytes, sealed_at: int, now: int) -> int:
        sealer = replace(full.keyring().keys[0], kid=kid, secret=secret)
        token = seal(b"", PLACE, sealer, sealed_at, os.urandom(ENTROPY_BYTES))
        return open_token(token, PLACE, made.keyring(), now).sealed_at

    retires_at = NOW - DAY
    latest = retires_at + DAILY.announce + DAILY.skew
    assert opened(old.kid, old.secret, latest, NOW) == latest
    for sealed_at, now in ((latest + 1, NOW), (retires_at, retires_at + HELD)):
        with pytest.raises(KeyOutOfUse):
            opened(old.kid, old.secret, sealed_at, now)
    with pytest.raises(KeyDisabled):
        opened(off.kid, off.secret, NOW - DAY, NOW)
    with pytest.raises(KeyOutOfUse):
        opened(b"dead", os.urandom(32), NOW - 3 * DAY, NOW)
    with pytest.raises(UnknownKey):
        opened(b"none", os.urandom(32), NOW, NOW)


def test_a_ring_without_keys_makes_no_keyring() -> None:
    with pytest.raises(ConfigurationError, match="no key"):
        ring().keyring()


@given(walks())
def test_the_keyring_agrees_with_the_ring(past: list[Moment]) -> None:
    made, now = past[-1].ring, past[-1].now
    keyring = made.keyring()
    assert [(each.kid, each.secret, each.activates_at) for each in keyring.keys] == [
        (each.kid, each.secret, each.activates_at) for each in made.keys
    ]
    for each in made.keys:
        found = keyring.find(each.kid)
        assert found is not None
        assert found.retires_at == made.retires_at(each)
        assert found.expires_at == made.expires_at(each)
        assert keyring.retires_at(found, now) == found.retires_at
        if keyring.state(found, now) is KeyState.PRIMARY:
            assert made.primary(now) == each


@given(walks())
def test_no_secret_stands_in_the_repr_of_a_ring(past: list[Moment]) -> None:
    made = past[-1].ring
    secrets = [each.secret for each in made.keys] + [made.lookup or b""]
    for holder in (made, made.keyring(), *made.keys, *made.tombstones):
        for text in (repr(holder), str(holder), f"{holder}"):
            for secret in secrets:
                for form in (secret.hex(), secret_to_text(secret), repr(secret)[2:-1]):
                    assert form[:12] not in text
