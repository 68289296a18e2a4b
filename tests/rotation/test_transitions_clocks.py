"""Evolution: a rotator whose clock is wrong loses no session and stops nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate.rotation import Schedule, founded, is_due, rotated
from tests.support.rings import (
    DAILY,
    DAY,
    DUE,
    HOUR,
    MINUTE,
    NOW,
    YEAR,
    Moment,
    lost,
    opens,
    primary,
    randomness,
    sealed,
)
from tests.support.shards import shards

# (rotate_every, keep): so that keys retire and would be destroyed in what is simulated.
CADENCES = [(HOUR, 12 * HOUR), (DAY, 8 * DAY), (DAY, HOUR), (7 * DAY, DAY)]
WRONG = [sign * size for size in (MINUTE, HOUR, DAY, YEAR) for sign in (-1, 1)]


# Half an announcement.
TICK = 450


def simulated(schedule: Schedule, clocks: Iterable[list[int]]) -> list[Moment]:
    """A ring, of which rotators with these clocks' errors ask in each tick, in this order."""
    chance = randomness()
    past = [Moment(NOW, founded(schedule, NOW, chance))]
    for tick, errors in enumerate(clocks, 1):
        now = NOW + tick * TICK
        for error in errors:
            ring = rotated(past[-1].ring, schedule, now + error, chance)
            if ring is not past[-1].ring:
                past.append(Moment(now, ring))
    return past


def in_days(days: int, rotate_every: int) -> int:
    """How many ticks: fewer where keys turn faster."""
    return days * min(rotate_every, DAY) // TICK


def assert_none_is_lost(past: list[Moment]) -> None:
    """Of the sessions sealed by the true clock, at the beginning, middle and end of each reign."""
    for born, (each, after) in enumerate(pairwise(past)):
        for at in {each.now, (each.now + after.now) // 2, after.now - 1}:
            if at >= each.now:
                assert not lost(past, sealed(each.ring, at), born, past[-1].now)


@pytest.mark.parametrize("shard", shards(10))
@settings(max_examples=10)
@given(
    st.sampled_from(CADENCES),
    st.sampled_from(WRONG),
    st.sampled_from([0.001, 0.05, 1.0]),
    st.randoms(note_method_calls=False, use_true_random=True),
)
def test_one_wrong_clock_among_right_ones_loses_no_session_and_stops_nothing(
    shard: int, cadence: tuple[int, int], error: int, share: float, chance: random.Random
) -> None:
    rotate_every, keep = cadence
    schedule = Schedule(rotate_every, 2 * TICK, keep, MINUTE)
    past = simulated(
        schedule,
        # The right one asks every second tick, the wrong one when it likes to.
        [
            [0] * (tick % 2) + [error] * (chance.random() < share)
            for tick in range(in_days(45, rotate_every))
        ],
    )
    assert_none_is_lost(past)
    for each, after in pairwise(past):
        for at in (each.now, after.now - 1):
            age = at - primary(each.ring, max(at, each.now)).activates_at
            assert age <= 2 * rotate_every + schedule.skew + 3 * schedule.announce
    assert len(past[-1].ring.keys) < 250


@pytest.mark.parametrize("cadence", CADENCES)
@pytest.mark.parametrize("error", [MINUTE, HOUR, DAY, YEAR])
def test_a_clock_that_is_ahead_destroys_nothing_even_if_it_is_alone(
    cadence: tuple[int, int], error: int
) -> None:
    schedule = Schedule(cadence[0], 2 * TICK, cadence[1], MINUTE)
    right, wrong = in_days(20, cadence[0]), in_days(25, cadence[0])
    past = simulated(schedule, [[0]] * right + [[error]] * wrong)
    assert len(past) > 5
    assert_none_is_lost(past)


@pytest.mark.parametrize("error", [-MINUTE, MINUTE])
def test_a_rotator_that_is_wrong_by_no_more_than_the_skew_loses_nothing_even_if_alone(
    error: int,
) -> None:
    for rotate_every, keep in CADENCES:
        schedule = Schedule(rotate_every, 2 * TICK, keep, MINUTE)
        past = simulated(schedule, [[error]] * in_days(45, rotate_every))
        assert len(past) > 5
        assert_none_is_lost(past)


@pytest.mark.parametrize("behind", [2 * DAY, 5 * DAY, 9 * DAY, YEAR])
def test_a_slow_clock_does_not_interfere_when_rotation_resumes_after_a_stop(behind: int) -> None:
    chance = randomness()
    ring, now = founded(DAILY, NOW, chance), NOW + 12 * DAY
    token = sealed(ring, now)
    resumed = rotated(ring, DAILY, now, chance)
    assert resumed.keys[0].activates_at == now + DAILY.announce
    for later in range(now, now + DAY - 900, HOUR):
        after = rotated(resumed, DAILY, later - behind, chance)
        assert opens(after.keyring(), token, later)
        assert after is resumed


@pytest.mark.parametrize("late", [0, HOUR, DAY - 1])
def test_rotation_goes_on_though_the_last_writer_was_a_year_ahead(late: int) -> None:
    chance = randomness()
    ring = founded(DAILY, NOW, chance)
    ahead = rotated(ring, DAILY, NOW + HOUR + YEAR, chance)
    assert ahead.updated_at == NOW + HOUR + YEAR
    after = rotated(ahead, DAILY, DUE + late, chance)
    assert primary(after, DUE + late + DAY).activates_at == DUE + late + DAILY.announce
    assert after.updated_at == DUE + late


def test_one_key_in_the_far_future_waits_for_its_time_and_stops_nothing() -> None:
    day = DAY // TICK
    past = simulated(DAILY, [[0]] * day + [[10 * DAY]] + [[0]] * 19 * day)
    primaries = {primary(each.ring, each.now).activates_at for each in past}
    far = [key for each in past for key in each.ring.keys if key.activates_at > each.now + 5 * DAY]
    assert len({key.kid for key in far}) == 1
    assert far[0].activates_at in primaries
    assert len(primaries) >= 18


def test_a_ring_of_the_far_future_is_left_alone_unless_somebody_insists() -> None:
    ring = founded(DAILY, NOW + YEAR, randomness())
    assert not is_due(ring, NOW)
    forced = rotated(ring, DAILY, NOW, randomness("next"), force=True)
    for clock in (NOW - MINUTE, NOW):
        assert opens(forced.keyring(), sealed(forced, clock), clock)
