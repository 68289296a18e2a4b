"""Schedules: numbers that would lose a session are refused, and told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.rotation import Schedule
from sealedstate.rotation.ring import LEAST_ANNOUNCE, MAX_SECONDS, minimum_announce
from tests.support.rings import DAILY, DAY, SCHEDULES


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rotate_every": 0}, "rotate_every (0 s) is at least 1 s"),
        ({"announce": 0}, "announce (0 s) is at least 1 s"),
        ({"keep": -5}, "keep (-5 s) is at least 1 s"),
        ({"skew": -1}, "skew (-1 s) is at least 0 s"),
        ({"keep": MAX_SECONDS + 1}, f"keep ({MAX_SECONDS + 1} s) is at least 1 s and at most"),
        ({"rotate_every": 10**400}, "at most 100 years"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(
    changed: dict[str, int], told: str
) -> None:
    numbers: dict[str, Any] = {"rotate_every": DAY, "announce": 900, "keep": DAY, "skew": 60}
    with pytest.raises(ConfigurationError) as caught:
        Schedule(**(numbers | changed))
    assert told in str(caught.value)


def test_the_least_and_the_largest_numbers_are_good() -> None:
    Schedule(1, 1, 1, 0)
    Schedule(MAX_SECONDS, MAX_SECONDS, MAX_SECONDS, MAX_SECONDS)


def test_an_announcement_shorter_than_a_reload_and_the_skew_is_told_with_its_numbers() -> None:
    DAILY.check(reload_every=840, lifetime=DAY, skew=60)
    with pytest.raises(ConfigurationError) as caught:
        DAILY.check(reload_every=841, lifetime=DAY, skew=60)
    told = "announce (900 s) >= reload_every (841 s) + skew (60 s) does not hold"
    assert told in str(caught.value)


def test_a_lifetime_longer_than_what_is_kept_is_told_with_its_numbers() -> None:
    DAILY.check(reload_every=60, lifetime=30 * DAY, skew=60)
    with pytest.raises(ConfigurationError) as caught:
        DAILY.check(reload_every=60, lifetime=30 * DAY + 1, skew=60)
    told = "keep (2592000 s) >= absolute_lifetime (2592001 s) does not hold"
    assert told in str(caught.value)


@given(st.integers(1, 10 * DAY), st.integers(0, DAY))
def test_the_least_announcement_survives_a_failed_reload(reload_every: int, skew: int) -> None:
    announce = minimum_announce(reload_every, skew)
    assert announce >= LEAST_ANNOUNCE
    Schedule(DAY, announce, DAY, skew).check(2 * reload_every, DAY, skew)


@given(SCHEDULES, SCHEDULES)
def test_a_widened_schedule_keeps_the_promises_of_both_and_turns_like_the_new_one(
    old: Schedule, new: Schedule
) -> None:
    wide = old.widened(new)
    assert wide.rotate_every == new.rotate_every
    for each in (old, new):
        assert wide.announce >= each.announce
        assert wide.keep >= each.keep
        assert wide.skew >= each.skew
        assert wide.held_after_retirement >= each.held_after_retirement
    assert old.widened(old) == old


@given(SCHEDULES)
def test_a_retired_key_is_held_for_late_sealers_all_lifetimes_and_both_clocks(
    schedule: Schedule,
) -> None:
    latest = schedule.announce + schedule.skew
    assert schedule.held_after_retirement == latest + schedule.keep + schedule.skew
