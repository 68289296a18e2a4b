"""The steady clock: small steps back are waited out, large ones are followed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sealedstate.deployment import ClampedClock

SKEW = 60


def steady(*times: float) -> list[float]:
    source = iter((times[0], *times))
    clock = ClampedClock(lambda: next(source), SKEW)
    return [clock() for _ in times]


def test_time_stands_still_until_a_clock_that_was_set_back_has_caught_up() -> None:
    assert steady(100, 110, 51, 109, 111) == [100, 110, 110, 110, 111]


def test_a_clock_that_was_far_ahead_is_followed_when_it_is_set_right() -> None:
    assert steady(100_000, 100, 101) == [100_000, 100, 101]


@given(st.lists(st.floats(-SKEW / 2, SKEW / 2), min_size=2))
def test_no_walk_within_the_skew_leads_back(offsets: list[float]) -> None:
    times = steady(*(1000 + offset for offset in offsets))
    assert times == sorted(times)
