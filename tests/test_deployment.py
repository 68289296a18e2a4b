"""A clamped clock never steps back within the skew, and follows a larger step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sealedstate.deployment import ClampedClock

SKEW = 60


def clamped(*times: float) -> list[float]:
    source = iter((times[0], *times))
    clock = ClampedClock(lambda: next(source), SKEW)
    return [clock() for _ in times]


def test_clamped_clock_waits_for_a_clock_that_was_set_back_a_little() -> None:
    assert clamped(100, 110, 51, 109, 111) == [100, 110, 110, 110, 111]


def test_clamped_clock_follows_a_clock_that_was_set_back_by_more() -> None:
    assert clamped(100_000, 100, 101) == [100_000, 100, 101]


@given(st.lists(st.floats(-SKEW / 2, SKEW / 2), min_size=2))
def test_clamped_clock_never_steps_back_within_the_skew(offsets: list[float]) -> None:
    times = clamped(*(1000 + offset for offset in offsets))
    assert times == sorted(times)
