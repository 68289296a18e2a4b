"""Evolution: keys come announced and go when all is over, and no session is lost on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sealedstate.keyring import Keyring, KeyState
from sealedstate.rotation import Schedule, disabled, founded, is_due, revoked, rotated
from sealedstate.rotation.transitions import EXPIRED_KEPT
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
    lost,
    opens,
    plain,
    primary,
    randomness,
    rotations,
    sealed,
    waits,
    walks,
)


def daily(days: int) -> list[Moment]:
    """A ring asked every quarter of an hour, for days."""
    return rotations(DAILY, [900] * (days * 96))


# --- the first key --------------------------------------------------------------------------------


@given(SCHEDULES)
def test_a_founded_ring_seals_at_once(schedule: Schedule) -> None:
    ring = founded(schedule, NOW, randomness())
    assert (ring.sequence, ring.updated_at, ring.schedule) == (1, NOW, schedule)
    assert ring.keyring().primary(NOW).kid == ring.keys[0].kid
    # A node whose clock is slow seals, too.
    assert ring.keyring().primary(NOW - schedule.skew).kid == ring.keys[0].kid
    assert ring.primary(NOW - schedule.skew - 1) is None
    assert ring.lookup is not None
    assert len(ring.ring_id) == 16


def test_two_rings_share_nothing() -> None:
    chance = randomness()
    one, other = founded(DAILY, NOW, chance), founded(DAILY, NOW, chance)
    assert one.ring_id != other.ring_id
    assert one.lookup != other.lookup
    assert one.keys[0].kid != other.keys[0].kid
    assert one.keys[0].secret != other.keys[0].secret


# --- keys that come -------------------------------------------------------------------------------


def test_the_next_key_is_announced_before_its_turn_and_takes_over_in_it() -> None:
    chance = randomness()
    ring = founded(DAILY, NOW, chance)
    assert not is_due(ring, DUE - 1)
    assert rotated(ring, DAILY, DUE - 1, chance) is ring
    later = rotated(ring, DAILY, DUE, chance)
    assert (later.sequence, later.updated_at) == (2, DUE)
    assert later.keys[0].activates_at == DUE + DAILY.announce == FIRST + DAY
    assert later.primary(FIRST + DAY - 1) == ring.keys[0]
    assert later.primary(FIRST + DAY) == later.keys[0]
    assert rotated(later, DAILY, DUE, chance) is later


@given(plain())
def test_no_key_seals_before_it_was_announced_long_enough(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        for key in set(after.ring.keys) - set(before.ring.keys):
            assert key.created_at == after.now
            assert key.activates_at >= after.now + after.ring.schedule.announce


@given(plain())
def test_rotation_adds_one_key_at_a_time_and_keeps_the_period(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        new = set(after.ring.keys) - set(before.ring.keys)
        assert len(new) == (after.ring is not before.ring)
        for key in new:
            newest = max(each.activates_at for each in before.ring.keys)
            assert key.activates_at >= newest + after.ring.schedule.rotate_every
            assert key.activates_at <= max(
                newest + after.ring.schedule.rotate_every, after.now + after.ring.schedule.announce
            )


@given(walks(), st.data())
def test_a_ring_is_due_when_rotation_would_change_it(
    past: list[Moment], draw: st.DataObject
) -> None:
    for each in past:
        now = each.now + draw.draw(st.just(0) | waits(each.ring.schedule) | st.just(-YEAR))
        ring = each.ring
        later = rotated(ring, ring.schedule, now, randomness("another"))
        assert is_due(ring, now) == (later is not ring)
        if later is not ring:
            assert later.sequence == ring.sequence + 1
            assert later.updated_at == now
            assert not is_due(later, now)


@given(walks(off=500))
def test_there_is_a_primary_at_every_time_and_what_it_seals_is_believed(
    past: list[Moment],
) -> None:
    """By the clock of each node, if those of two differ by the skew at most."""
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
def test_the_primary_never_gets_older_unless_somebody_takes_it_away(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        last, first = primary(before.ring, after.now), primary(after.ring, after.now)
        if after.deed in ("revoked", "disabled"):
            continue
        assert first.activates_at >= last.activates_at
        assert first == last
    for each in past:
        dates = sorted(key.activates_at for key in each.ring.keys)
        turns = [primary(each.ring, max(date, each.now)).activates_at for date in dates]
        assert turns == sorted(turns)


@given(walks())
def test_every_write_counts_one_and_the_lookup_key_and_the_id_stay(past: list[Moment]) -> None:
    for before, after in pairwise(past):
        if after.ring is not before.ring:
            assert after.ring.sequence == before.ring.sequence + 1
            assert after.ring.updated_at == after.now
        assert after.ring.ring_id == before.ring.ring_id
        assert after.ring.lookup == before.ring.lookup


@given(walks())
def test_no_kid_and_no_secret_comes_twice_and_the_newest_stands_first(past: list[Moment]) -> None:
    made: dict[bytes, bytes] = {}
    for each in past:
        kids = [key.kid for key in each.ring.keys] + [dead.kid for dead in each.ring.tombstones]
        assert len(set(kids)) == len(kids)
        for key in each.ring.keys:
            assert made.setdefault(key.kid, key.secret) == key.secret
        dates = [key.activates_at for key in each.ring.keys]
        assert dates == sorted(dates, reverse=True)
    assert len(set(made.values())) == len(made)


def test_a_kid_that_is_taken_is_drawn_again() -> None:
    ring = revoked(
        founded(DAILY, NOW, randomness()),
        founded(DAILY, NOW, randomness()).keys[0].kid,
        NOW + 1,
        randomness("another"),
    )
    dead, living = ring.tombstones[0].kid, ring.keys[0].kid
    drawn = iter([dead, living, b"free", randomness("more")(32)])
    later = rotated(ring, DAILY, NOW + DAY, lambda size: next(drawn))
    assert later.keys[0].kid == b"free"


def test_a_forced_key_is_announced_like_any_other() -> None:
    chance = randomness()
    ring = founded(DAILY, NOW, chance)
    later = rotated(ring, DAILY, NOW + 5, chance, force=True)
    assert later.keys[0].activates_at == NOW + 5 + DAILY.announce
    assert later.primary(NOW + 5) == ring.keys[0]
    assert not is_due(later, NOW + 5)


# --- nothing is lost ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(plain())
def test_nothing_that_a_key_sealed_in_its_turn_is_refused_while_it_is_of_use(
    past: list[Moment],
) -> None:
    schedule = past[0].ring.schedule
    late = schedule.announce + schedule.skew
    for born, each in enumerate(past):
        latest = each.now + schedule.skew
        for key in each.keyring.keys:
            ends = latest if key.retires_at is None else min(latest, key.retires_at + late)
            for sealed_at in {key.activates_at, key.activates_at - schedule.skew, each.now, ends}:
                if key.activates_at - schedule.skew <= sealed_at <= ends:
                    token = Sealed(key.kid, sealed_at)
                    assert not lost(past, token, born, past[-1].now + 2 * YEAR)


@settings(max_examples=60)
@given(st.data())
def test_nodes_that_lag_and_whose_clocks_differ_lose_nothing(draw: st.DataObject) -> None:
    """Sealers are an announcement late at most, readers as late as `Schedule.check` lets them."""
    schedule = draw.draw(SCHEDULES)
    assume(schedule.announce > schedule.skew)
    half = schedule.skew // 2
    off = st.integers(-half, half)
    chance, now = randomness(), NOW
    past = [Moment(now, founded(schedule, now - half, chance))]
    for pause in draw.draw(st.lists(waits(schedule), max_size=8)):
        now += pause
        ring = rotated(past[-1].ring, schedule, now + draw.draw(off), chance)
        past.append(Moment(now, ring))

    def known(at: int, lag: int) -> Keyring:
        return next(each for each in reversed(past) if each.now <= max(NOW, at - lag)).keyring

    tokens = []
    for each in past:
        at = each.now + draw.draw(waits(schedule))
        clock = at + draw.draw(off)
        lag = draw.draw(st.sampled_from([0, schedule.announce - 1, schedule.announce]))
        tokens.append((at, Sealed(known(at, lag).primary(clock).kid, clock)))
    lag = draw.draw(st.sampled_from([0, schedule.announce - schedule.skew]))
    for born, token in tokens:
        over = token.sealed_at + schedule.keep
        for at in {born, *(each.now for each in past), over - 1 - half, over - 1 + half}:
            clock = at + draw.draw(off)
            if at >= born and clock < over:
                assert opens(known(at, lag), token, clock)


@settings(max_examples=60)
@given(walks())
def test_whatever_people_do_what_sealed_in_its_turn_opens_unless_it_is_taken_away(
    past: list[Moment],
) -> None:
    for born, each in enumerate(past):
        token = sealed(each.ring, each.now)
        for moment in lost(past, token, born, past[-1].now + 2 * YEAR):
            key = moment.ring.find(token.kid)
            if key is None:
                assert [
                    dead.revoked for dead in moment.ring.tombstones if dead.kid == token.kid
                ] == [True]
            else:
                assert key.disabled_at is not None


@given(SCHEDULES, SCHEDULES, st.data())
def test_a_schedule_that_changes_shortens_no_promise(
    old: Schedule, new: Schedule, draw: st.DataObject
) -> None:
    chance = randomness()
    ring, now = founded(old, NOW, chance), NOW
    for number in range(8):
        now += draw.draw(waits(old))
        later = rotated(ring, new if number > 3 else old, now, chance)
        for key in later.keys:
            if ring.find(key.kid) is None or (ends := ring.expires_at(key)) is None:
                continue
            widened = later.expires_at(key)
            assert widened is not None
            assert widened >= ends
        for key in set(ring.keys) - set(later.keys):
            ends = later.schedule.held_after_retirement + (ring.retires_at(key) or YEAR * 100)
            assert now >= ends
        ring = later


def test_a_schedule_that_turns_faster_does_so_with_the_next_key() -> None:
    chance = randomness()
    ring = founded(DAILY, NOW, chance)
    hourly = replace(DAILY, rotate_every=HOUR)
    ring = rotated(ring, hourly, NOW + DAY, chance)
    assert ring.schedule == hourly
    turn = ring.keys[0].activates_at
    assert turn == NOW + DAY + 900
    assert rotated(ring, hourly, turn + HOUR - 901, chance) is ring
    ring = rotated(ring, hourly, turn + HOUR - 900, chance)
    assert ring.keys[0].activates_at == turn + HOUR


# --- keys that go ---------------------------------------------------------------------------------


@given(plain(steps=20))
def test_a_secret_is_destroyed_long_after_it_expired_and_its_tombstone_tells(
    past: list[Moment],
) -> None:
    for before, after in pairwise(past):
        schedule = after.ring.schedule
        for key in set(before.ring.keys) - set(after.ring.keys):
            expires_at = before.ring.expires_at(key)
            assert expires_at is not None
            assert after.now >= expires_at + schedule.destroyed_after_expiry
            dead = next(dead for dead in after.ring.tombstones if dead.kid == key.kid)
            assert (dead.activates_at, dead.at) == (key.activates_at, after.now)
            assert (dead.sealed, dead.revoked) == (True, False)
            assert key.kid in after.keyring.removed_kids


def test_a_ring_that_rotates_daily_holds_as_many_keys_as_it_needs_and_no_more() -> None:
    past = daily(80)
    needed = -(-(DAILY.held_after_retirement + DAILY.destroyed_after_expiry) // DAY)
    assert needed <= len(past[-1].ring.keys) <= needed + 4
    # A key each day, of which the last is announced by now.
    assert len(past[-1].ring.tombstones) + len(past[-1].ring.keys) == 81


def test_of_the_tombstones_of_expired_keys_only_the_newest_are_kept() -> None:
    hasty = Schedule(1, 1, 1, 0)
    chance = randomness()
    ring = founded(hasty, NOW, chance)
    first = ring.keys[0].kid
    ring = revoked(ring, first, NOW + 1, chance, "stolen")
    for now in range(NOW + 2, NOW + EXPIRED_KEPT + 300):
        ring = rotated(ring, hasty, now, chance)
    expired = [dead for dead in ring.tombstones if not dead.revoked]
    assert len(expired) == EXPIRED_KEPT
    assert max(dead.at for dead in expired) == NOW + EXPIRED_KEPT + 299
    assert [dead.kid for dead in ring.tombstones if dead.revoked] == [first]


def test_a_key_that_never_sealed_is_not_said_to_have_sealed_when_it_goes() -> None:
    chance = randomness()
    ring = rotated(founded(DAILY, NOW, chance), DAILY, NOW + DAY - 900, chance)
    never = ring.keys[0].kid
    ring = disabled(ring, never, NOW + DAY - 800, chance)
    for day in range(1, 60):
        ring = rotated(ring, DAILY, NOW + day * DAY, chance)
    assert [dead.sealed for dead in ring.tombstones if dead.kid == never] == [False]
