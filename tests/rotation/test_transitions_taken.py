"""Evolution: what people revoke, disable and enable takes away that, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given

from sealedstate import ConfigurationError
from sealedstate.rotation import (
    Ring,
    Schedule,
    disabled,
    enabled,
    founded,
    is_due,
    revoked,
    revoked_before,
    rotated,
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
    sealed,
    walks,
)


def three() -> Ring:
    """Retired two hours ago, primary, and pending for another hour, at NOW."""
    chance = randomness()
    schedule = Schedule(3 * HOUR, 2 * HOUR, DAY, MINUTE)
    ring = founded(schedule, NOW - 5 * HOUR + MINUTE, chance)
    for now in (NOW - 4 * HOUR, NOW - HOUR):
        ring = rotated(ring, schedule, now, chance)
    dates = [key.activates_at - NOW for key in ring.keys]
    assert dates == [HOUR, -2 * HOUR, -5 * HOUR]
    return ring


TAKEN: dict[str, Callable[[Ring, bytes, int], Ring]] = {
    "revoked": lambda ring, kid, now: revoked(ring, kid, now, randomness("taken"), "lost"),
    "disabled": lambda ring, kid, now: disabled(ring, kid, now, randomness("taken")),
}


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN)
def test_where_the_primary_is_taken_away_another_seals_at_once(
    taken: Callable[[Ring, bytes, int], Ring],
) -> None:
    ring = three()
    pending, current, old = ring.keys
    later = taken(ring, current.kid, NOW)
    found = primary(later, NOW)
    assert ring.find(found.kid) is None
    assert found.created_at == NOW
    # It takes the other's place: all other dates stay as they were announced.
    assert later.retires_at(old) == ring.retires_at(old)
    assert later.retires_at(found) == ring.retires_at(current)
    assert primary(later, pending.activates_at) == pending


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN)
def test_a_node_with_a_slow_clock_finds_the_replacement_too(
    taken: Callable[[Ring, bytes, int], Ring],
) -> None:
    ring = three()
    later = taken(ring, ring.keys[1].kid, NOW)
    token = sealed(later, NOW - MINUTE)
    assert opens(later.keyring(), token, NOW)
    assert ring.find(token.kid) is None
    # Just after a turn, a node with a slow clock still seals with the key before.
    turn = ring.keys[0].activates_at
    later = taken(ring, ring.keys[1].kid, turn + MINUTE - 1)
    assert opens(later.keyring(), sealed(later, turn - 1), turn + MINUTE - 1)


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("which", [0, 2], ids=["pending", "retired"])
def test_where_another_than_the_primary_is_taken_away_none_is_needed(
    taken: Callable[[Ring, bytes, int], Ring], which: int
) -> None:
    ring = three()
    later = taken(ring, ring.keys[which].kid, NOW)
    assert {key.kid for key in later.keys} <= {key.kid for key in ring.keys}
    assert primary(later, NOW) == ring.keys[1]
    token = sealed(ring, NOW)
    assert opens(later.keyring(), token, NOW + DAY - 1)


@pytest.mark.parametrize("taken", TAKEN.values(), ids=TAKEN)
def test_where_the_pending_key_is_taken_away_the_primary_goes_on_and_another_is_announced(
    taken: Callable[[Ring, bytes, int], Ring],
) -> None:
    ring = three()
    later = taken(ring, ring.keys[0].kid, NOW)
    assert primary(later, NOW + DAY) == ring.keys[1]
    assert opens(later.keyring(), sealed(later, NOW + DAY), NOW + DAY)
    assert is_due(later, NOW)
    again = rotated(later, ring.schedule, NOW, randomness("again"))
    assert again.keys[0].activates_at == NOW + 2 * HOUR


def test_a_replacement_opens_what_it_seals_whatever_the_clock_of_who_revokes() -> None:
    for wrong in (-YEAR, -DAY, -MINUTE, MINUTE, HOUR - 1):
        ring = three()
        later = revoked(ring, ring.keys[1].kid, NOW + wrong, randomness("taken"))
        assert opens(later.keyring(), sealed(later, NOW), NOW), wrong


@pytest.mark.parametrize("which", range(3))
def test_revoked_is_the_end(which: int) -> None:
    ring = three()
    kid = ring.keys[which].kid
    later = revoked(ring, kid, NOW, randomness("taken"), "laptop stolen")
    dead = later.tombstones[0]
    assert (dead.kid, dead.at, dead.revoked, dead.reason) == (kid, NOW, True, "laptop stolen")
    assert dead.sealed == (which > 0)
    assert later.sequence == ring.sequence + 1
    assert revoked(later, kid, NOW + 5, randomness("again")) is later
    with pytest.raises(ConfigurationError, match=kid.hex()):
        enabled(later, kid, NOW)
    with pytest.raises(ConfigurationError, match=kid.hex()):
        disabled(later, kid, NOW, randomness("again"))


@given(walks(steps=20))
def test_what_was_revoked_stays_so(past: list[Moment]) -> None:
    gone: set[bytes] = set()
    for each in past:
        gone |= {each.kid} if each.deed == "revoked" else set()
        assert gone <= {dead.kid for dead in each.ring.tombstones if dead.revoked}
        assert gone <= each.keyring.removed_kids
        assert gone.isdisjoint(key.kid for key in each.ring.keys)


@given(walks())
def test_a_key_is_added_only_where_one_is_needed(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        if after.deed not in ("revoked", "disabled"):
            continue
        new = set(after.ring.keys) - set(before.ring.keys)
        added = [key for key in new if before.ring.find(key.kid) is None]
        key = before.ring.find(after.kid)
        if added:
            assert key is not None
            retires_at = before.ring.retires_at(key)
            slow = after.now - before.ring.schedule.skew
            assert key.activates_at <= after.now
            assert retires_at is None or slow < retires_at


def test_a_disabled_primary_that_is_revoked_needs_no_other_replacement() -> None:
    ring = three()
    kid = ring.keys[1].kid
    off = disabled(ring, kid, NOW, randomness("taken"))
    later = revoked(off, kid, NOW + 5, randomness("again"))
    assert primary(later, NOW + 5) == primary(off, NOW + 5)
    assert len(later.keys) == 3
    assert later.tombstones[0].sealed
    assert later.retires_at(ring.keys[2]) == ring.retires_at(ring.keys[2])


def test_a_disabled_pending_key_that_is_revoked_has_never_sealed() -> None:
    ring = three()
    kid = ring.keys[0].kid
    off = disabled(ring, kid, NOW, randomness("taken"))
    later = revoked(off, kid, NOW + DAY, randomness("again"))
    assert not later.tombstones[0].sealed
    assert later.retires_at(ring.keys[1]) is None


def test_all_keys_may_be_taken_away_one_after_another() -> None:
    for taken in TAKEN.values():
        ring = three()
        for key in ring.keys:
            ring = taken(ring, key.kid, NOW)
            assert opens(ring.keyring(), sealed(ring, NOW), NOW)


def test_a_key_disabled_in_its_turn_opens_again_but_seals_no_more() -> None:
    ring = three()
    kid = ring.keys[1].kid
    token = sealed(ring, NOW)
    off = disabled(ring, kid, NOW, randomness("taken"))
    assert not opens(off.keyring(), token, NOW)
    assert disabled(off, kid, NOW + 1, randomness("again")) is off
    on = enabled(off, kid, NOW + 2)
    assert opens(on.keyring(), token, NOW + DAY - 1)
    assert primary(on, NOW + 2) == primary(off, NOW + 2)
    assert enabled(on, kid, NOW + 3) is on


def test_an_enabled_key_gives_way_to_another_of_the_same_date() -> None:
    chance = randomness()
    ring = rotated(founded(DAILY, NOW, chance), DAILY, NOW, chance, force=True)
    ring = rotated(ring, DAILY, NOW, chance, force=True)
    first, second, _ = ring.keys
    assert first.activates_at == second.activates_at
    now = first.activates_at + 5
    off = disabled(ring, first.kid, now, chance)
    assert primary(off, now) == second
    assert primary(enabled(off, first.kid, now + 1), now + 1) == second


def test_a_key_disabled_in_the_second_of_its_founding_opens_what_it_sealed_when_enabled() -> None:
    ring = founded(DAILY, NOW, randomness())
    token = sealed(ring, NOW)
    off = disabled(ring, token.kid, NOW, randomness("taken"))
    on = enabled(off, token.kid, NOW + 5)
    assert opens(on.keyring(), token, NOW + 5)
    assert primary(on, NOW + 5) == primary(off, NOW + 5)


def test_a_key_disabled_before_its_turn_is_announced_anew_when_enabled() -> None:
    ring = three()
    pending, current, _ = ring.keys
    off = disabled(ring, pending.kid, NOW, randomness("taken"))
    meanwhile = sealed(off, NOW + DAY)
    assert meanwhile.kid == current.kid
    on = enabled(off, pending.kid, NOW + DAY)
    assert opens(on.keyring(), meanwhile, NOW + DAY)
    found = on.find(pending.kid)
    assert found is not None
    assert found.activates_at == NOW + DAY + 2 * HOUR
    assert on.keys[0] == found
    for now in (NOW + DAY, found.activates_at - 1, found.activates_at):
        assert opens(on.keyring(), meanwhile, now)
        assert opens(on.keyring(), sealed(on, now), now)


def test_a_key_enabled_long_before_its_turn_keeps_its_date() -> None:
    ring = founded(DAILY, NOW, randomness())
    ring = rotated(ring, DAILY, NOW + DAY - 900, randomness("next"))
    far = replace(ring, keys=(replace(ring.keys[0], activates_at=NOW + 9 * DAY), ring.keys[1]))
    kid = far.keys[0].kid
    on = enabled(disabled(far, kid, NOW + DAY, randomness("taken")), kid, NOW + 2 * DAY)
    assert on.keys[0].activates_at == NOW + 9 * DAY


def test_a_ring_whose_keys_are_all_disabled_gets_another_by_rotation() -> None:
    ring = founded(DAILY, NOW, randomness())
    none = replace(ring, keys=(replace(ring.keys[0], disabled_at=NOW + 5),))
    assert is_due(none, NOW + 6)
    later = rotated(none, DAILY, NOW + 6, randomness("next"))
    for clock in (NOW + 6 - DAILY.skew, NOW + 6):
        assert opens(later.keyring(), sealed(later, clock), clock)


def test_an_unknown_key_can_neither_be_revoked_nor_disabled_nor_enabled() -> None:
    ring = three()
    for taken in TAKEN.values():
        with pytest.raises(ConfigurationError, match=b"none".hex()):
            taken(ring, b"none", NOW)
    with pytest.raises(ConfigurationError, match=b"none".hex()):
        enabled(ring, b"none", NOW)


def test_all_before_a_moment_is_revoked_and_never_less() -> None:
    ring = three()
    with pytest.raises(ConfigurationError, match="in the past"):
        revoked_before(ring, NOW + 1, NOW)
    later = revoked_before(ring, NOW, NOW)
    assert (later.revoked_before, later.sequence) == (NOW, ring.sequence + 1)
    assert later.keyring().revoked_before == NOW
    for moment in (NOW - 5, NOW):
        assert revoked_before(later, moment, NOW) is later
    assert rotated(later, DAILY, NOW + DAY, randomness("next")).revoked_before == NOW


def test_a_ring_is_never_altered_in_place() -> None:
    ring = three()
    shown, again = repr(ring), replace(ring)
    chance = randomness("next")
    rotated(ring, DAILY, NOW + DAY, chance)
    revoked(ring, ring.keys[1].kid, NOW, chance)
    disabled(ring, ring.keys[1].kid, NOW, chance)
    assert (repr(ring), ring) == (shown, again)
