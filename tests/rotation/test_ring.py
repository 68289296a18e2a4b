"""A ring is a function of its values and the time; schedules keep every session."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, open_token, seal
from sealedstate.errors import KeyDisabled, KeyOutOfUse, UnknownKey
from sealedstate.keyring import DEFAULT_ANNOUNCE, KeyState, secret_to_text
from sealedstate.rotation.ring import (
    MAX_SECONDS,
    Ring,
    RingKey,
    Schedule,
    Tombstone,
    minimum_announce,
)
from tests.support.rings import DAILY, DAY, HOUR, NOW, SCHEDULES, Moment, rotations, walks

OPENS = DAILY.opens_after_retirement
PLACE = TokenContext("core", "default", ("__Host-Http-s",))


def key(activates_at: int, disabled_at: int | None = None) -> RingKey:
    return RingKey(os.urandom(4), os.urandom(32), NOW - DAY, activates_at, disabled_at)


def ring(*keys: RingKey, dead: tuple[Tombstone, ...] = ()) -> Ring:
    return Ring("00c0ffee00c0ffee", 1, NOW, DAILY, keys, dead, os.urandom(32))


# --- keys ---------------------------------------------------------------------------------------


def test_key_retires_when_the_next_takes_over_and_expires_when_all_it_sealed_is_over() -> None:
    new, current, old = key(NOW + 100), key(NOW - 100), key(NOW - 300)
    made = ring(new, current, old)
    assert [made.retires_at(each) for each in made.keys] == [None, NOW + 100, NOW - 100]
    assert [made.expires_at(each) for each in made.keys] == [
        None,
        NOW + 100 + OPENS,
        NOW - 100 + OPENS,
    ]
    found = made.keyring().find(current.kid)
    assert found is not None
    assert (found.activates_at, found.retires_at) == (NOW - 100, NOW + 100)
    assert found.expires_at == NOW + 100 + OPENS


def test_primary_is_the_newest_key_that_is_active_and_not_disabled() -> None:
    new, off, current, old = key(NOW + 1), key(NOW, NOW), key(NOW - 1), key(NOW - 2)
    made = ring(new, off, current, old)
    found = [made.primary(now) for now in (NOW, NOW + 1, NOW - 2, NOW - 3)]
    assert found == [current, new, old, None]
    one, other = key(NOW), key(NOW)
    for made in (ring(one, other), ring(other, one)):
        assert made.primary(NOW) == made.keys[0]
        assert made.keyring().primary(NOW).kid == made.keys[0].kid


def test_successor_that_sealed_retires_its_predecessor_whatever_became_of_it() -> None:
    old = key(NOW - 300)
    assert ring(key(NOW - 100, NOW - 50), old).retires_at(old) == NOW - 100
    # Something may have been sealed in the second of its activation.
    assert ring(key(NOW - 100, NOW - 100), old).retires_at(old) == NOW - 100
    assert ring(key(NOW - 100, NOW - 101), old).retires_at(old) is None
    for revoked in (True, False):
        dead = Tombstone(os.urandom(4), NOW - 100, NOW, True, revoked)
        assert ring(old, dead=(dead,)).retires_at(old) == NOW - 100
    never = Tombstone(os.urandom(4), NOW - 100, NOW - 200, False, True)
    assert ring(old, dead=(never,)).retires_at(old) is None


def test_keyring_has_the_values_of_the_ring() -> None:
    dead = Tombstone(b"dead", NOW - 100, NOW, True, True, "stolen")
    made = replace(ring(key(NOW), key(NOW - 10, NOW - 5), dead=(dead,)), revoked_before=NOW - 7)
    keyring = made.keyring()
    assert (keyring.skew, keyring.announce) == (DAILY.skew, DAILY.announce)
    assert keyring.removed_kids == {b"dead"}
    assert keyring.revoked_before == NOW - 7 + made.schedule.skew
    assert keyring.lookup == made.lookup
    assert [each.disabled for each in keyring.keys] == [False, True]


def test_token_is_opened_or_refused_by_the_state_of_its_key() -> None:
    new, off, old = key(NOW), key(NOW - DAY, NOW - 10), key(NOW - 2 * DAY)
    dead, full = Tombstone(b"dead", NOW - 3 * DAY, NOW, True, False), ring(new, off, old)
    made = replace(full, tombstones=(dead,))

    def open_at(kid: bytes, secret: bytes, sealed_at: int, now: int) -> int:
        sealer = replace(full.keyring().keys[0], kid=kid, secret=secret)
        token = seal(b"", PLACE, sealer, sealed_at, os.urandom(ENTROPY_BYTES))
        return open_token(token, PLACE, made.keyring(), now).sealed_at

    retires_at = NOW - DAY
    latest = retires_at + DAILY.announce + DAILY.skew
    assert open_at(old.kid, old.secret, latest, NOW) == latest
    for sealed_at, now in ((latest + 1, NOW), (retires_at, retires_at + OPENS)):
        with pytest.raises(KeyOutOfUse):
            open_at(old.kid, old.secret, sealed_at, now)
    with pytest.raises(KeyDisabled):
        open_at(off.kid, off.secret, NOW - DAY, NOW)
    with pytest.raises(KeyOutOfUse):
        open_at(b"dead", os.urandom(32), NOW - 3 * DAY, NOW)
    with pytest.raises(UnknownKey):
        open_at(b"none", os.urandom(32), NOW, NOW)


def test_ring_without_keys_has_no_keyring() -> None:
    with pytest.raises(ConfigurationError, match="no key"):
        ring().keyring()


@given(walks())
def test_keyring_agrees_with_the_ring_and_no_repr_has_a_secret(past: list[Moment]) -> None:
    made, now = past[-1].ring, past[-1].now
    keyring = made.keyring()
    assert [(each.kid, each.secret, each.activates_at) for each in keyring.keys] == [
        (each.kid, each.secret, each.activates_at) for each in made.keys
    ]
    for each in made.keys:
        found = keyring.find(each.kid)
        assert found is not None
        retires_at = made.retires_at(each)
        assert found.retires_at == retires_at
        margin = keyring.announce + keyring.skew
        until = math.inf if retires_at is None else retires_at + margin
        assert keyring.sealing_window(found, now)[1] == until
        assert found.expires_at == made.expires_at(each)
        if keyring.state(found, now) is KeyState.PRIMARY:
            assert made.primary(now) == each
    secrets = [each.secret for each in made.keys] + [made.lookup or b""]
    for holder in (made, keyring, *made.keys, *made.tombstones):
        text = f"{holder!r} {holder}"
        for secret in secrets:
            for form in (secret.hex(), secret_to_text(secret), repr(secret)[2:-1]):
                assert form[:12] not in text


# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotate_every": 0}, "rotate_every must be at least 1 s"),
        ({"announce": 0}, "announce must be at least 1 s"),
        ({"keep": -5}, "got -5 s"),
        ({"skew": -1}, "skew must be at least 0 s"),
        ({"keep": MAX_SECONDS + 1}, "keep must be at least 1 s and at most 100 years"),
        ({"rotate_every": 10**400}, "at most 100 years"),
    ],
)
def test_schedule_refuses_a_number_by_name(changes: dict[str, int], message: str) -> None:
    Schedule(1, 1, 1, 0)
    Schedule(MAX_SECONDS, MAX_SECONDS, MAX_SECONDS, MAX_SECONDS)
    numbers: dict[str, Any] = {"rotate_every": DAY, "announce": 900, "keep": DAY, "skew": 60}
    with pytest.raises(ConfigurationError) as caught:
        Schedule(**(numbers | changes))
    assert message in str(caught.value)


def test_node_that_could_lose_a_session_is_refused_with_the_numbers() -> None:
    DAILY.check(reload_every=840, lifetime=30 * DAY, skew=60)
    with pytest.raises(ConfigurationError) as caught:
        DAILY.check(reload_every=841, lifetime=DAY, skew=60)
    assert "announce (900 s) must be at least reload_every (841 s) + skew (60 s)" in str(
        caught.value
    )
    with pytest.raises(ConfigurationError) as caught:
        DAILY.check(reload_every=60, lifetime=30 * DAY + 1, skew=60)
    assert "keep (2592000 s) must be at least longest_lifetime + skew (2592001 s)" in str(
        caught.value
    )


def test_schedule_by_which_a_ring_would_have_too_many_keys_is_refused() -> None:
    replace(DAILY, rotate_every=HOUR, keep=1000 * HOUR).check(60, DAY, 60)
    with pytest.raises(ConfigurationError, match=r"rotate_every \(60 s\).* at most 2000"):
        replace(DAILY, rotate_every=60).check(60, DAY, 60)


@given(SCHEDULES, st.integers(2, 200))
def test_ring_never_has_more_keys_than_it_is_refused_for(schedule: Schedule, pauses: int) -> None:
    life = schedule.announce + schedule.opens_after_retirement + schedule.grace_after_expiry
    past = rotations(schedule, [schedule.rotate_every] * pauses)
    assert max(len(each.ring.keys) for each in past) <= math.ceil(life / schedule.rotate_every) + 4


@given(st.integers(1, 10 * DAY), st.integers(0, DAY))
def test_minimum_announcement_survives_a_failed_reload(reload_every: int, skew: int) -> None:
    announce = minimum_announce(reload_every, skew)
    assert announce >= DEFAULT_ANNOUNCE
    Schedule(DAY, announce, DAY, skew).check(2 * reload_every, DAY, skew)


@given(SCHEDULES, SCHEDULES)
def test_merged_schedule_keeps_both_promises_and_the_period_of_the_new_one(
    old: Schedule, new: Schedule
) -> None:
    merged = old.merged_with(new)
    assert merged.rotate_every == new.rotate_every
    for each in (old, new):
        assert merged.announce >= each.announce
        assert merged.keep >= each.keep
        assert merged.skew >= each.skew
        assert merged.opens_after_retirement >= each.opens_after_retirement
        # Late sealers, every lifetime, and both clocks.
        assert each.opens_after_retirement == each.announce + each.keep + 2 * each.skew
    assert old.merged_with(old) == old
