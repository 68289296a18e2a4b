"""Rotation by wrong clocks loses no session and stops nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.rotation.ring import Schedule
from sealedstate.rotation.transitions import create_ring, is_due, rotate
from tests.support.examples import examples
from tests.support.rings import (
    DAILY,
    DAY,
    DUE,
    HOUR,
    MINUTE,
    NOW,
    YEAR,
    Moment,
    losses,
    opens,
    primary,
    randomness,
    seal_at,
)
from tests.support.shards import shards

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
