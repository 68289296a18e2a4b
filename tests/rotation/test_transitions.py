"""Rotation: keys come announced and go when all they sealed is over, and no session is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from sealedstate.keyring import Keyring, KeyState
from sealedstate.rotation.ring import Schedule
from sealedstate.rotation.transitions import (
    MAX_EXPIRED_TOMBSTONES,
    create_ring,
    disable,
    is_due,
    revoke,
    rotate,
)
from tests.support.examples import examples
from tests.support.rings import (
    DAILY,
    DAY,
    DUE,
    FIRST,
    HOUR,
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

# --- the first key --------------------------------------------------------------------------------


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
