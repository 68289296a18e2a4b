"""Commands: what an operator revokes, disables or enables changes that, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import pytest
from hypothesis import given

from sealedstate import ConfigurationError
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.transitions import (
    create_ring,
    disable,
    enable,
    is_due,
    revoke,
    revoke_before,
    rotate,
)
from tests.support.rings import (
    DAILY,
    DAY,
    HOUR,
    MINUTE,
    NOW,
    YEAR,
    Moment,
    opens,
    primary,
    randomness,
    seal_at,
    walks,
)

TakeAway: TypeAlias = Callable[[Ring, bytes, int], Ring]


def three_keys() -> Ring:
    """Retired since two hours, primary, and pending for another hour, at NOW."""
    random = randomness()
    schedule = Schedule(3 * HOUR, 2 * HOUR, DAY, MINUTE)
    ring = create_ring(schedule, NOW - 5 * HOUR + MINUTE, random)
    for now in (NOW - 4 * HOUR, NOW - HOUR):
        ring = rotate(ring, schedule, now, random)
    assert [key.activates_at - NOW for key in ring.keys] == [HOUR, -2 * HOUR, -5 * HOUR]
    return ring


def _revoke(ring: Ring, kid: bytes, now: int) -> Ring:
    return revoke(ring, kid, now, randomness("new"), "lost")


def _disable(ring: Ring, kid: bytes, now: int) -> Ring:
    return disable(ring, kid, now, randomness("new"))


BOTH = pytest.mark.parametrize("take_away", [_revoke, _disable], ids=["revoke", "disable"])


# --- what replaces a key ------------------------------------------------------------------------


@BOTH
def test_primary_that_is_taken_away_is_replaced_at_once(take_away: TakeAway) -> None:
    ring = three_keys()
    pending, current, old = ring.keys
    later = take_away(ring, current.kid, NOW)
    found = primary(later, NOW)
    assert ring.find(found.kid) is None
    assert found.created_at == NOW
    # It has the date of the other: all other dates stay as they were announced.
    assert later.retires_at(old) == ring.retires_at(old)
    assert later.retires_at(found) == ring.retires_at(current)
    assert primary(later, pending.activates_at) == pending
    for key in later.keys:
        later = take_away(later, key.kid, NOW)
        assert opens(later.keyring(), seal_at(later, NOW), NOW)


@BOTH
def test_node_with_a_slow_clock_uses_the_replacement_too(take_away: TakeAway) -> None:
    ring = three_keys()
    later = take_away(ring, ring.keys[1].kid, NOW)
    token = seal_at(later, NOW - MINUTE)
    assert opens(later.keyring(), token, NOW)
    assert ring.find(token.kid) is None
    # Just after the next key took over, such a node still seals with the key before.
    turn = ring.keys[0].activates_at
    later = take_away(ring, ring.keys[1].kid, turn + MINUTE - 1)
    assert opens(later.keyring(), seal_at(later, turn - 1), turn + MINUTE - 1)


def test_replacement_opens_what_it_seals_however_wrong_the_clock_of_the_command_is() -> None:
    for wrong in (-YEAR, -DAY, -MINUTE, MINUTE, HOUR - 1):
        ring = three_keys()
        later = _revoke(ring, ring.keys[1].kid, NOW + wrong)
        assert opens(later.keyring(), seal_at(later, NOW), NOW), wrong


@BOTH
def test_other_keys_are_not_replaced(take_away: TakeAway) -> None:
    ring = three_keys()
    pending, current, old = ring.keys
    for key in (pending, old):
        later = take_away(ring, key.kid, NOW)
        assert {key.kid for key in later.keys} <= {key.kid for key in ring.keys}
        assert primary(later, NOW) == current
        assert opens(later.keyring(), seal_at(ring, NOW), NOW + DAY - 1)
    later = take_away(ring, pending.kid, NOW)
    assert primary(later, NOW + DAY) == current
    assert opens(later.keyring(), seal_at(later, NOW + DAY), NOW + DAY)
    assert is_due(later, NOW)
    again = rotate(later, ring.schedule, NOW, randomness("again"))
    assert again.keys[0].activates_at == NOW + 2 * HOUR


@given(walks())
def test_key_is_added_only_if_one_is_needed(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        if after.change not in ("revoke", "disable"):
            continue
        new = set(after.ring.keys) - set(before.ring.keys)
        if [key for key in new if before.ring.find(key.kid) is None]:
            key = before.ring.find(after.kid)
            assert key is not None
            retires_at = before.ring.retires_at(key)
            slow = after.now - before.ring.schedule.skew
            assert key.activates_at <= after.now
            assert retires_at is None or slow < retires_at


# --- revoke ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(3))
def test_revoked_key_is_gone_for_good(which: int) -> None:
    ring = three_keys()
    kid = ring.keys[which].kid
    later = revoke(ring, kid, NOW, randomness("new"), "laptop stolen")
    dead = later.tombstones[0]
    assert (dead.kid, dead.at, dead.revoked, dead.reason) == (kid, NOW, True, "laptop stolen")
    assert dead.sealed == (which > 0)
    assert later.sequence == ring.sequence + 1
    assert _revoke(later, kid, NOW + 5) is later
    for act in (enable, _disable):
        with pytest.raises(ConfigurationError, match=kid.hex()):
            act(later, kid, NOW)


@given(walks(steps=20))
def test_revoked_key_never_returns(past: list[Moment]) -> None:
    gone: set[bytes] = set()
    for each in past:
        gone |= {each.kid} if each.change == "revoke" else set()
        assert gone <= {dead.kid for dead in each.ring.tombstones if dead.revoked}
        assert gone <= each.keyring.removed_kids
        assert gone.isdisjoint(key.kid for key in each.ring.keys)


def test_disabled_key_can_be_revoked() -> None:
    ring = three_keys()
    pending, current, old = ring.keys
    off = _disable(ring, current.kid, NOW)
    later = revoke(off, current.kid, NOW + 5, randomness("again"))
    assert primary(later, NOW + 5) == primary(off, NOW + 5)
    assert len(later.keys) == 3
    assert later.tombstones[0].sealed
    assert later.retires_at(old) == ring.retires_at(old)
    off = _disable(ring, pending.kid, NOW)
    later = revoke(off, pending.kid, NOW + DAY, randomness("again"))
    assert not later.tombstones[0].sealed
    assert later.retires_at(current) is None


def test_everything_before_a_moment_is_revoked_and_never_less() -> None:
    ring = three_keys()
    with pytest.raises(ConfigurationError, match="in the past"):
        revoke_before(ring, NOW + 1, NOW)
    later = revoke_before(ring, NOW, NOW)
    assert (later.revoked_before, later.sequence) == (NOW, ring.sequence + 1)
    assert later.keyring().revoked_before == NOW
    for moment in (NOW - 5, NOW):
        assert revoke_before(later, moment, NOW) is later
    assert rotate(later, DAILY, NOW + DAY, randomness("next")).revoked_before == NOW


# --- disable and enable ---------------------------------------------------------------------------


def test_key_that_was_disabled_as_the_primary_opens_again_and_seals_no_more() -> None:
    ring = three_keys()
    kid = ring.keys[1].kid
    token = seal_at(ring, NOW)
    off = _disable(ring, kid, NOW)
    assert not opens(off.keyring(), token, NOW)
    assert _disable(off, kid, NOW + 1) is off
    on = enable(off, kid, NOW + 2)
    assert opens(on.keyring(), token, NOW + DAY - 1)
    assert primary(on, NOW + 2) == primary(off, NOW + 2)
    assert enable(on, kid, NOW + 3) is on


def test_enabled_key_gives_way_to_another_of_the_same_date() -> None:
    random = randomness()
    ring = rotate(create_ring(DAILY, NOW, random), DAILY, NOW, random, force=True)
    ring = rotate(ring, DAILY, NOW, random, force=True)
    first, second, _ = ring.keys
    assert first.activates_at == second.activates_at
    now = first.activates_at + 5
    off = disable(ring, first.kid, now, random)
    assert primary(off, now) == second
    assert primary(enable(off, first.kid, now + 1), now + 1) == second


def test_key_disabled_in_its_first_second_opens_what_it_sealed_when_enabled() -> None:
    ring = create_ring(DAILY, NOW, randomness())
    token = seal_at(ring, NOW)
    off = _disable(ring, token.kid, NOW)
    on = enable(off, token.kid, NOW + 5)
    assert opens(on.keyring(), token, NOW + 5)
    assert primary(on, NOW + 5) == primary(off, NOW + 5)


def test_key_disabled_before_its_date_is_announced_again_when_enabled() -> None:
    ring = three_keys()
    pending, current, _ = ring.keys
    off = _disable(ring, pending.kid, NOW)
    meanwhile = seal_at(off, NOW + DAY)
    assert meanwhile.kid == current.kid
    on = enable(off, pending.kid, NOW + DAY)
    assert opens(on.keyring(), meanwhile, NOW + DAY)
    found = on.find(pending.kid)
    assert found is not None
    assert found.activates_at == NOW + DAY + 2 * HOUR
    assert on.keys[0] == found
    for now in (NOW + DAY, found.activates_at - 1, found.activates_at):
        assert opens(on.keyring(), meanwhile, now)
        assert opens(on.keyring(), seal_at(on, now), now)
    # A date that is still far enough away is kept.
    far = replace(ring, keys=(replace(pending, activates_at=NOW + 9 * DAY), *ring.keys[1:]))
    on = enable(_disable(far, pending.kid, NOW + DAY), pending.kid, NOW + 2 * DAY)
    assert on.keys[0].activates_at == NOW + 9 * DAY


def test_ring_whose_keys_are_all_disabled_gets_another_by_rotation() -> None:
    ring = create_ring(DAILY, NOW, randomness())
    none = replace(ring, keys=(replace(ring.keys[0], disabled_at=NOW + 5),))
    assert is_due(none, NOW + 6)
    later = rotate(none, DAILY, NOW + 6, randomness("next"))
    for clock in (NOW + 6 - DAILY.skew, NOW + 6):
        assert opens(later.keyring(), seal_at(later, clock), clock)


# --- any command ----------------------------------------------------------------------------------


def test_unknown_key_is_refused() -> None:
    ring = three_keys()
    for act in (_revoke, _disable, enable):
        with pytest.raises(ConfigurationError, match=b"none".hex()):
            act(ring, b"none", NOW)


def test_ring_is_never_altered_in_place() -> None:
    ring = three_keys()
    shown, again = repr(ring), replace(ring)
    rotate(ring, DAILY, NOW + DAY, randomness("next"))
    _revoke(ring, ring.keys[1].kid, NOW)
    _disable(ring, ring.keys[1].kid, NOW)
    assert (repr(ring), ring) == (shown, again)
