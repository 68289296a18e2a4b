"""How one ring becomes the next: no session is lost, whatever clocks and operators do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.keyring import Keyring, KeyState
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.transitions import (
    MAX_EXPIRED_TOMBSTONES,
    create_ring,
    destroy_long_term,
    disable,
    enable,
    is_due,
    obsolete_long_term,
    revoke,
    revoke_before,
    rotate,
    rotate_long_term,
)
from tests.support.examples import examples
from tests.support.rings import (
    DAILY,
    DAY,
    DUE,
    FIRST,
    HOUR,
    MINUTE,
    NOW,
    SCHEDULES,
    YEAR,
    Moment,
    Sealed,
    losses,
    opens,
    plain,
    primary,
    randomness,
    rotations,
    seal_at,
    waits,
    walks,
)
from tests.support.shards import shards


@given(SCHEDULES)
def test_new_ring_seals_at_once_also_by_a_slow_clock(schedule: Schedule) -> None:
    ring = create_ring(schedule, NOW, randomness())
    assert (ring.sequence, ring.updated_at, ring.schedule) == (1, NOW, schedule)
    assert ring.keyring().primary(NOW).kid == ring.keys[0].kid
    assert ring.keyring().primary(NOW - schedule.skew).kid == ring.keys[0].kid
    assert ring.primary(NOW - schedule.skew - 1) is None
    assert ring.lookup is not None
    assert len(ring.ring_id) == 16


def test_two_new_rings_share_nothing() -> None:
    random = randomness()
    one, other = create_ring(DAILY, NOW, random), create_ring(DAILY, NOW, random)
    for name in ("ring_id", "lookup", "keys", "long_term"):
        assert getattr(one, name) != getattr(other, name)
    assert one.keys[0].kid != other.keys[0].kid
    assert one.keys[0].secret != other.keys[0].secret


# --- the next keys --------------------------------------------------------------------------------


def test_next_key_is_announced_before_its_date_and_then_takes_over() -> None:
    random = randomness()
    ring = create_ring(DAILY, NOW, random)
    assert not is_due(ring, DUE - 1)
    assert rotate(ring, DAILY, DUE - 1, random) is ring
    later = rotate(ring, DAILY, DUE, random)
    assert (later.sequence, later.updated_at) == (2, DUE)
    assert later.keys[0].activates_at == DUE + DAILY.announce == FIRST + DAY
    assert later.primary(FIRST + DAY - 1) == ring.keys[0]
    assert later.primary(FIRST + DAY) == later.keys[0]
    assert rotate(later, DAILY, DUE, random) is later
    forced = rotate(ring, DAILY, NOW + 5, random, force=True)
    assert forced.keys[0].activates_at == NOW + 5 + DAILY.announce
    assert forced.primary(NOW + 5) == ring.keys[0]
    assert not is_due(forced, NOW + 5)


@given(plain())
def test_rotation_adds_one_announced_key_at_a_time_and_keeps_the_period(
    past: list[Moment],
) -> None:
    for before, after in pairwise(past):
        schedule = after.ring.schedule
        new = set(after.ring.keys) - set(before.ring.keys)
        assert len(new) == (after.ring is not before.ring)
        for key in new:
            announced = after.now + schedule.announce
            next_date = max(each.activates_at for each in before.ring.keys) + schedule.rotate_every
            assert key.created_at == after.now
            assert announced <= key.activates_at <= max(next_date, announced)
            assert key.activates_at >= next_date


@given(walks(), st.data())
def test_ring_is_due_if_rotation_would_change_it(past: list[Moment], draw: st.DataObject) -> None:
    for each in past:
        now = each.now + draw.draw(st.just(0) | waits(each.ring.schedule) | st.just(-YEAR))
        ring = each.ring
        later = rotate(ring, ring.schedule, now, randomness("another"))
        assert is_due(ring, now) == (later is not ring)
        if later is not ring:
            assert later.sequence == ring.sequence + 1
            assert later.updated_at == now
            assert not is_due(later, now)


@given(walks(off=500))
def test_there_is_a_primary_at_every_time_and_what_it_seals_opens(past: list[Moment]) -> None:
    """By the clock of each node, if two clocks differ by the skew at most."""
    for each in past:
        schedule, keyring = each.ring.schedule, each.keyring
        half = schedule.skew // 2
        instants = {each.now - half, each.now, each.now + half, each.now + YEAR}
        instants |= {key.activates_at + step for key in each.ring.keys for step in (-1, 0, 1)}
        for instant in instants:
            if instant < each.now - half:
                continue
            found = [key for key in keyring.keys if keyring.state(key, instant) is KeyState.PRIMARY]
            assert len(found) == 1
            assert primary(each.ring, instant).kid == found[0].kid
            assert opens(keyring, Sealed(found[0].kid, instant), instant)


@given(walks())
def test_primary_never_gets_older_unless_it_is_taken_away(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        if after.change not in ("revoke", "disable"):
            assert primary(after.ring, after.now) == primary(before.ring, after.now)
    for each in past:
        dates = sorted(key.activates_at for key in each.ring.keys)
        turns = [primary(each.ring, max(date, each.now)).activates_at for date in dates]
        assert turns == sorted(turns)


@given(walks())
def test_each_write_counts_one_and_no_kid_or_secret_occurs_twice(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        if after.ring is not before.ring:
            assert after.ring.sequence == before.ring.sequence + 1
            assert after.ring.updated_at == after.now
        assert after.ring.ring_id == before.ring.ring_id
        assert after.ring.lookup == before.ring.lookup
    made: dict[bytes, bytes] = {}
    for each in past:
        kids = [key.kid for key in each.ring.keys] + [dead.kid for dead in each.ring.tombstones]
        assert len(set(kids)) == len(kids)
        for key in each.ring.keys:
            assert made.setdefault(key.kid, key.secret) == key.secret
        dates = [key.activates_at for key in each.ring.keys]
        assert dates == sorted(dates, reverse=True)
    assert len(set(made.values())) == len(made)


def test_kid_that_is_used_is_drawn_again() -> None:
    ring = create_ring(DAILY, NOW, randomness())
    ring = revoke(ring, ring.keys[0].kid, NOW + 1, randomness("another"))
    dead, alive = ring.tombstones[0].kid, ring.keys[0].kid
    drawn = iter([dead, alive, b"free", randomness("more")(32)])
    later = rotate(ring, DAILY, NOW + DAY, lambda size: next(drawn))
    assert later.keys[0].kid == b"free"


# --- nothing is lost ------------------------------------------------------------------------------


@examples(60)
@given(plain())
def test_what_a_key_sealed_in_its_time_opens_as_long_as_it_can_be_used(past: list[Moment]) -> None:
    schedule = past[0].ring.schedule
    late = schedule.announce + schedule.skew
    for born, each in enumerate(past):
        latest = each.now + schedule.skew
        for key in each.keyring.keys:
            ends = latest if key.retires_at is None else min(latest, key.retires_at + late)
            for sealed_at in {key.activates_at, key.activates_at - schedule.skew, each.now, ends}:
                if key.activates_at - schedule.skew <= sealed_at <= ends:
                    token = Sealed(key.kid, sealed_at)
                    assert not losses(past, token, born, past[-1].now + 2 * YEAR)


@examples(60)
@given(st.data())
def test_nodes_that_lag_and_whose_clocks_differ_lose_nothing(draw: st.DataObject) -> None:
    """Sealers lag by an announcement at most, readers by as much as `Schedule.check` allows."""
    schedule = draw.draw(SCHEDULES)
    assume(schedule.announce > schedule.skew)
    half = schedule.skew // 2
    off = st.integers(-half, half)
    random, now = randomness(), NOW
    past = [Moment(now, create_ring(schedule, now - half, random))]
    for pause in draw.draw(st.lists(waits(schedule), max_size=8)):
        now += pause
        ring = rotate(past[-1].ring, schedule, now + draw.draw(off), random)
        past.append(Moment(now, ring))

    def keyring_at(at: int, lag: int) -> Keyring:
        return next(each for each in reversed(past) if each.now <= max(NOW, at - lag)).keyring

    tokens = []
    for each in past:
        at = each.now + draw.draw(waits(schedule))
        clock = at + draw.draw(off)
        lag = draw.draw(st.sampled_from([0, schedule.announce - 1, schedule.announce]))
        tokens.append((at, Sealed(keyring_at(at, lag).primary(clock).kid, clock)))
    lag = draw.draw(st.sampled_from([0, schedule.announce - schedule.skew]))
    for born, token in tokens:
        over = token.sealed_at + schedule.keep
        for at in {born, *(each.now for each in past), over - 1 - half, over - 1 + half}:
            clock = at + draw.draw(off)
            if at >= born and clock < over:
                assert opens(keyring_at(at, lag), token, clock)


@examples(60)
@given(walks())
def test_what_the_primary_sealed_opens_unless_its_key_is_taken_away(past: list[Moment]) -> None:
    for born, each in enumerate(past):
        token = seal_at(each.ring, each.now)
        for moment in losses(past, token, born, past[-1].now + 2 * YEAR):
            key = moment.ring.find(token.kid)
            if key is None:
                dead = [dead for dead in moment.ring.tombstones if dead.kid == token.kid]
                assert [each.revoked for each in dead] == [True]
            else:
                assert key.disabled_at is not None


@given(SCHEDULES, SCHEDULES, st.data())
def test_changed_schedule_shortens_no_promise(
    old: Schedule, new: Schedule, draw: st.DataObject
) -> None:
    random = randomness()
    ring, now = create_ring(old, NOW, random), NOW
    for number in range(8):
        now += draw.draw(waits(old))
        later = rotate(ring, new if number > 3 else old, now, random)
        for key in later.keys:
            if ring.find(key.kid) is None or (ends := ring.expires_at(key)) is None:
                continue
            expires_at = later.expires_at(key)
            assert expires_at is not None
            assert expires_at >= ends
        for key in set(ring.keys) - set(later.keys):
            ends = later.schedule.opens_after_retirement + (ring.retires_at(key) or YEAR * 100)
            assert now >= ends
        ring = later


def test_shorter_period_begins_with_the_next_key() -> None:
    random = randomness()
    ring = create_ring(DAILY, NOW, random)
    hourly = replace(DAILY, rotate_every=HOUR)
    ring = rotate(ring, hourly, NOW + DAY, random)
    assert ring.schedule == hourly
    turn = ring.keys[0].activates_at
    assert turn == NOW + DAY + 900
    assert rotate(ring, hourly, turn + HOUR - 901, random) is ring
    ring = rotate(ring, hourly, turn + HOUR - 900, random)
    assert ring.keys[0].activates_at == turn + HOUR


# --- destroyed keys -------------------------------------------------------------------------------


@given(plain(steps=20))
def test_secret_is_destroyed_long_after_its_key_expired(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        for key in set(before.ring.keys) - set(after.ring.keys):
            expires_at = before.ring.expires_at(key)
            assert expires_at is not None
            assert after.now >= expires_at + after.ring.schedule.grace_after_expiry
            dead = next(dead for dead in after.ring.tombstones if dead.kid == key.kid)
            assert (dead.activates_at, dead.at) == (key.activates_at, after.now)
            assert (dead.sealed, dead.revoked) == (True, False)
            assert key.kid in after.keyring.removed_kids


def test_daily_ring_has_as_many_keys_as_it_needs_and_no_more() -> None:
    past = rotations(DAILY, [900] * (80 * 96))
    needed = -(-(DAILY.opens_after_retirement + DAILY.grace_after_expiry) // DAY)
    assert needed <= len(past[-1].ring.keys) <= needed + 4
    # A key each day, and the last one is announced by now.
    assert len(past[-1].ring.tombstones) + len(past[-1].ring.keys) == 81


def test_only_the_newest_tombstones_of_expired_keys_are_kept() -> None:
    hasty = Schedule(1, 1, 1, 0)
    random = randomness()
    ring = create_ring(hasty, NOW, random)
    first = ring.keys[0].kid
    ring = revoke(ring, first, NOW + 1, random, "stolen")
    for now in range(NOW + 2, NOW + MAX_EXPIRED_TOMBSTONES + 300):
        ring = rotate(ring, hasty, now, random)
    expired = [dead for dead in ring.tombstones if not dead.revoked]
    assert len(expired) == MAX_EXPIRED_TOMBSTONES
    assert max(dead.at for dead in expired) == NOW + MAX_EXPIRED_TOMBSTONES + 299
    assert [dead.kid for dead in ring.tombstones if dead.revoked] == [first]


def test_tombstone_of_a_key_that_never_sealed_says_so() -> None:
    random = randomness()
    ring = rotate(create_ring(DAILY, NOW, random), DAILY, NOW + DAY - 900, random)
    never = ring.keys[0].kid
    ring = disable(ring, never, NOW + DAY - 800, random)
    for day in range(1, 60):
        ring = rotate(ring, DAILY, NOW + day * DAY, random)
    assert [dead.sealed for dead in ring.tombstones if dead.kid == never] == [False]


# --- long-term keys ------------------------------------------------------------------------------

SHORT = Schedule(DAY, 900, DAY, 60)


def a_ring() -> Ring:
    return create_ring(SHORT, NOW, randomness("lasting"))


def long_term_primary(ring: Ring, now: int) -> bytes:
    return ring.keyring().long_term.primary(now).kid


def test_new_ring_has_a_separate_long_term_key() -> None:
    ring = a_ring()
    assert len(ring.long_term) == 1
    assert long_term_primary(ring, NOW) == ring.long_term[0].kid
    assert ring.long_term[0].secret not in {ring.keys[0].secret, ring.lookup}
    assert ring.keyring().find(ring.long_term[0].kid) is None


def test_long_term_key_is_announced_before_it_seals_and_its_predecessor_never_expires() -> None:
    ring = rotate_long_term(a_ring(), NOW + DAY, randomness())
    new, old = (key.kid for key in ring.long_term)
    active_from = NOW + DAY + SHORT.announce
    assert [long_term_primary(ring, at) for at in (active_from - 1, active_from)] == [old, new]
    keyring = ring.keyring().long_term
    aged = keyring.find(old)
    assert aged is not None
    assert aged.expires_at is None
    assert keyring.may_have_sealed(aged, active_from + 1000 * DAY)  # by a node that lags behind
    assert not keyring.may_have_sealed(aged, NOW - 2 * SHORT.skew - 1)


def test_repeated_rotation_adds_one_long_term_key() -> None:
    ring = rotate_long_term(a_ring(), NOW, randomness())
    assert rotate_long_term(ring, NOW, randomness("again")) is ring


def test_long_term_key_of_the_far_future_does_not_stop_the_next_rotation() -> None:
    ring = rotate_long_term(a_ring(), NOW + 100 * DAY, randomness("ahead"))
    ring = rotate_long_term(ring, NOW, randomness("right"))
    assert long_term_primary(ring, NOW + SHORT.announce) == ring.long_term[1].kid


def test_ring_without_a_long_term_key_gets_one_at_its_next_rotation() -> None:
    bare = Ring("0" * 16, 1, NOW, SHORT, a_ring().keys)
    ring = rotate(bare, SHORT, NOW + DAY, randomness())
    assert [key.activates_at for key in ring.long_term] == [NOW + DAY + SHORT.announce]


@given(st.lists(st.integers(0, 3 * DAY), max_size=12), st.data())
def test_long_term_key_is_destroyed_only_once_no_node_can_seal_with_it(
    pauses: list[int], data: st.DataObject
) -> None:
    ring, now = a_ring(), NOW
    for pause in pauses:
        now += pause
        deed = data.draw(st.sampled_from(["rotate", "rotate long-term", "destroy"]))
        before = ring
        if deed == "rotate":
            ring = rotate(ring, SHORT, now, randomness(str(now)))
        elif deed == "rotate long-term":
            ring = rotate_long_term(ring, now, randomness(str(now)))
        else:
            ring = destroy_long_term(ring, {key.kid for key in ring.long_term}, now)
        gone = {key.kid for key in before.long_term} - {key.kid for key in ring.long_term}
        # A node with the previous ring, behind by the skew, seals with none of them.
        late = now - SHORT.announce - SHORT.skew
        assert not gone or long_term_primary(before, late) not in gone
        assert deed == "destroy" or not gone
        assert ring.long_term
        long_term_primary(ring, now)


def test_clock_that_is_ahead_destroys_no_long_term_key() -> None:
    ring = rotate_long_term(a_ring(), NOW + DAY, randomness())
    assert obsolete_long_term(ring, NOW + 10 * DAY) == []
    ring = rotate(ring, SHORT, NOW + 2 * DAY, randomness())
    assert obsolete_long_term(ring, NOW + 2 * DAY) == [ring.long_term[1]]


# --- commands -----------------------------------------------------------------------------------

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
    assert later.keyring().revoked_before == NOW + later.schedule.skew
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


# --- wrong clocks -------------------------------------------------------------------------------

# (rotate_every, keep): keys retire and could be destroyed in the simulated time.
CADENCES = [(HOUR, 12 * HOUR), (DAY, 8 * DAY), (DAY, HOUR), (7 * DAY, DAY)]
WRONG = [sign * size for size in (MINUTE, HOUR, DAY, YEAR) for sign in (-1, 1)]
TICK = 450  # half an announcement


def simulate(schedule: Schedule, clocks: Iterable[list[int]]) -> list[Moment]:
    """The states of a ring that rotators with these errors of their clocks ask in each tick."""
    random = randomness()
    past = [Moment(NOW, create_ring(schedule, NOW, random))]
    for tick, errors in enumerate(clocks, 1):
        now = NOW + tick * TICK
        for error in errors:
            ring = rotate(past[-1].ring, schedule, now + error, random)
            if ring is not past[-1].ring:
                past.append(Moment(now, ring))
    return past


def ticks_of(days: int, rotate_every: int) -> int:
    """A number of ticks: fewer for a shorter period."""
    return days * min(rotate_every, DAY) // TICK


def assert_nothing_is_lost(past: list[Moment]) -> None:
    """Sessions of the true clock open: of the begin, middle and end of each ring's time."""
    for born, (each, after) in enumerate(pairwise(past)):
        for at in {each.now, (each.now + after.now) // 2, after.now - 1}:
            if at >= each.now:
                assert not losses(past, seal_at(each.ring, at), born, past[-1].now)


@pytest.mark.parametrize("shard", shards(10))
@examples(10)
@given(
    st.sampled_from(CADENCES),
    st.sampled_from(WRONG),
    st.sampled_from([0.001, 0.05, 1.0]),
    st.randoms(note_method_calls=False, use_true_random=True),
)
def test_one_wrong_clock_among_right_ones_loses_nothing_and_stops_nothing(
    shard: int, cadence: tuple[int, int], error: int, share: float, random: random.Random
) -> None:
    rotate_every, keep = cadence
    schedule = Schedule(rotate_every, 2 * TICK, keep, MINUTE)
    past = simulate(
        schedule,
        # The right clock asks in every second tick, the wrong one at random.
        [
            [0] * (tick % 2) + [error] * (random.random() < share)
            for tick in range(ticks_of(45, rotate_every))
        ],
    )
    assert_nothing_is_lost(past)
    for each, after in pairwise(past):
        for at in (each.now, after.now - 1):
            age = at - primary(each.ring, max(at, each.now)).activates_at
            assert age <= 2 * rotate_every + schedule.skew + 3 * schedule.announce
    assert len(past[-1].ring.keys) < 250


@pytest.mark.parametrize("cadence", CADENCES)
@pytest.mark.parametrize("error", [MINUTE, HOUR, DAY, YEAR])
def test_clock_that_is_ahead_destroys_nothing_even_if_it_is_alone(
    cadence: tuple[int, int], error: int
) -> None:
    schedule = Schedule(cadence[0], 2 * TICK, cadence[1], MINUTE)
    right, wrong = ticks_of(20, cadence[0]), ticks_of(25, cadence[0])
    past = simulate(schedule, [[0]] * right + [[error]] * wrong)
    assert len(past) > 5
    assert_nothing_is_lost(past)


@pytest.mark.parametrize("error", [-MINUTE, MINUTE])
def test_clock_within_the_skew_loses_nothing_even_if_it_is_alone(error: int) -> None:
    for rotate_every, keep in CADENCES:
        schedule = Schedule(rotate_every, 2 * TICK, keep, MINUTE)
        past = simulate(schedule, [[error]] * ticks_of(45, rotate_every))
        assert len(past) > 5
        assert_nothing_is_lost(past)


@pytest.mark.parametrize("behind", [2 * DAY, 5 * DAY, 9 * DAY, YEAR])
def test_slow_clock_does_not_interfere_when_rotation_resumes(behind: int) -> None:
    random = randomness()
    ring, now = create_ring(DAILY, NOW, random), NOW + 12 * DAY
    token = seal_at(ring, now)
    resumed = rotate(ring, DAILY, now, random)
    assert resumed.keys[0].activates_at == now + DAILY.announce
    for later in range(now, now + DAY - 900, HOUR):
        after = rotate(resumed, DAILY, later - behind, random)
        assert opens(after.keyring(), token, later)
        assert after is resumed


@pytest.mark.parametrize("late", [0, HOUR, DAY - 1])
def test_rotation_continues_after_a_writer_that_was_a_year_ahead(late: int) -> None:
    random = randomness()
    ahead = rotate(create_ring(DAILY, NOW, random), DAILY, NOW + HOUR + YEAR, random)
    assert ahead.updated_at == NOW + HOUR + YEAR
    after = rotate(ahead, DAILY, DUE + late, random)
    assert primary(after, DUE + late + DAY).activates_at == DUE + late + DAILY.announce
    assert after.updated_at == DUE + late


def test_key_of_the_far_future_waits_for_its_date_and_stops_nothing() -> None:
    day = DAY // TICK
    past = simulate(DAILY, [[0]] * day + [[10 * DAY]] + [[0]] * 19 * day)
    primaries = {primary(each.ring, each.now).activates_at for each in past}
    far = [key for each in past for key in each.ring.keys if key.activates_at > each.now + 5 * DAY]
    assert len({key.kid for key in far}) == 1
    assert far[0].activates_at in primaries
    assert len(primaries) >= 18


def test_ring_of_the_far_future_is_left_alone_unless_rotation_is_forced() -> None:
    ring = create_ring(DAILY, NOW + YEAR, randomness())
    assert not is_due(ring, NOW)
    forced = rotate(ring, DAILY, NOW, randomness("next"), force=True)
    for clock in (NOW - MINUTE, NOW):
        assert opens(forced.keyring(), seal_at(forced, clock), clock)
