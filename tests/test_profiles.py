"""Budgets: arithmetic over what a chain of browser, proxies and servers carries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies

from sealedstate import PROFILES, ConfigurationError, Profile
from sealedstate._cookies.header import MAX_LINE_BYTES
from sealedstate.profiles import FLOOR_BYTES, Budget, budget_for

NAME_BYTES = len("__Host-s-1=")
LINE_OVERHEAD = len("Set-Cookie: __Host-s-1=; Path=/; Secure; HttpOnly; SameSite=Lax\r\n")

# cookies, name+value each, ours in all, whole Cookie header, Set-Cookie bytes a response
MEASURED = {
    "tight": (1, 2000, 2000, 2800, 2400),
    "portable": (1, 2900, 2900, 7600, 3072),
    "standard": (2, 3800, 6000, 7600, 6500),
    "roomy": (4, 3800, 11000, 13500, 11500),
}


def budget(profile: str | Profile, foreign: int = 0, arrived: int = 0, response: int = 0) -> Budget:
    found = PROFILES[profile] if isinstance(profile, str) else profile
    return budget_for(found, foreign, arrived, response, NAME_BYTES, LINE_OVERHEAD)


# --- profiles ---------------------------------------------------------------------------------


def test_the_four_profiles_are_those_that_were_measured() -> None:
    assert {
        name: (
            profile.cookies,
            profile.cookie_bytes,
            profile.total_bytes,
            profile.header_bytes,
            profile.response_bytes,
        )
        for name, profile in PROFILES.items()
    } == MEASURED
    assert all(profile.name == name for name, profile in PROFILES.items())


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ((0, 2000, 2000, 2800, 2400), "cookies"),
        ((9, 2000, 2000, 2800, 2400), "cookies"),
        ((1, 499, 2000, 2800, 2400), "cookie_bytes"),
        ((1, 4094, 9000, 9000, 9000), "cookie_bytes"),
        ((1, 2000, 1999, 2800, 2400), "total_bytes"),
        ((1, 2000, 2000, 1999, 2400), "header_bytes"),
        ((1, 2000, 2000, 2800, 1999), "response_bytes"),
    ],
)
def test_a_profile_that_no_browser_would_keep_is_refused(
    numbers: tuple[int, int, int, int, int], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Profile("mine", *numbers)


@pytest.mark.parametrize("numbers", [(1, 500, 500, 500, 500), (8, 4093, 33_000, 40_000, 40_000)])
def test_a_profile_may_go_to_the_limits(numbers: tuple[int, int, int, int, int]) -> None:
    assert Profile("mine", *numbers).cookies == numbers[0]


# --- the room that is left ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_with_nothing_else_about_a_cookie_may_be_as_large_as_the_profile_says(name: str) -> None:
    profile = PROFILES[name]
    found = budget(name)
    # A core of that size passes every limit, and one more character would not.
    core = NAME_BYTES + found.core_chars
    assert core <= profile.cookie_bytes
    assert core + 2 == profile.total_bytes or core == profile.cookie_bytes
    assert found.chunks == profile.cookies - 1


def test_a_line_is_no_longer_than_browsers_keep_it() -> None:
    wide = Profile("wide", 8, 4093, 40_000, 40_000, 40_000)
    assert budget(wide).core_chars == MAX_LINE_BYTES - LINE_OVERHEAD
    assert budget(wide).chunk_chars == MAX_LINE_BYTES - LINE_OVERHEAD


def test_foreign_cookies_take_room_only_where_the_header_gets_full() -> None:
    free = budget("portable").core_chars
    assert budget("portable", foreign=4700).core_chars == free
    assert budget("portable", foreign=4701).core_chars == free - 1
    assert budget("portable", foreign=6000).core_chars == 1600 - NAME_BYTES - 2


def test_other_lines_of_the_response_take_room() -> None:
    assert budget("portable", response=1000).core_chars == 2072 - LINE_OVERHEAD
    assert budget("roomy", response=5000).core_chars == budget("roomy").core_chars
    assert budget("roomy", response=5000).shared_chars == 6500 - 4 * LINE_OVERHEAD


def test_what_came_through_once_comes_through_again() -> None:
    squeezed = budget("portable", foreign=5700, arrived=1900)
    assert squeezed == budget("portable", foreign=5700)
    assert budget("portable", foreign=6000, arrived=1900).core_chars == 1900 - NAME_BYTES - 2
    # Though never more than is ours in all.
    assert budget("portable", arrived=9000) == budget("portable")


@pytest.mark.parametrize("foreign", [7600, 8000, 100_000])
def test_a_login_of_ordinary_size_fits_beside_any_foreign_cookies(foreign: int) -> None:
    assert budget("portable", foreign).core_chars == FLOOR_BYTES - NAME_BYTES - 2


def test_a_response_that_is_full_leaves_no_room() -> None:
    for response in (3072, 3072 - LINE_OVERHEAD, 50_000):
        assert budget("portable", response=response).core_chars == 0
    assert budget("roomy", response=50_000) == Budget(0, budget("roomy").chunk_chars, 3, 0)
    assert budget("roomy", response=50_000).overflow_chars == 0


def test_one_cookie_has_no_overflow() -> None:
    assert budget("portable").overflow_chars == 0
    assert budget("standard").overflow_chars == 3800 - NAME_BYTES


@settings(max_examples=500, deadline=None)
@given(
    strategies.sampled_from([*PROFILES.values(), Profile("wide", 8, 4093, 33_000, 40_000, 36_000)]),
    strategies.integers(0, 15_000),
    strategies.integers(0, 15_000),
    strategies.integers(0, 12_000),
    strategies.integers(1, 80),
    strategies.integers(60, 400),
    strategies.data(),
)
def test_cookies_that_fill_a_budget_exceed_nothing(
    profile: Profile,
    foreign: int,
    arrived: int,
    response: int,
    name_bytes: int,
    line_overhead: int,
    data: strategies.DataObject,
) -> None:
    found = budget_for(profile, foreign, arrived, response, name_bytes, line_overhead)
    carried = max(profile.header_bytes, foreign + arrived, foreign + FLOOR_BYTES)

    def assert_carried(values: list[int]) -> None:
        pairs = [name_bytes + chars for chars in values]
        assert len(pairs) <= profile.cookies
        assert max(pairs) <= profile.cookie_bytes
        assert sum(pairs) <= profile.total_bytes
        assert foreign + sum(pair + 2 for pair in pairs) <= carried
        lines = [line_overhead + chars for chars in values]
        assert max(lines) <= MAX_LINE_BYTES
        assert response + sum(lines) <= profile.response_bytes

    if found.core_chars:
        assert_carried([found.core_chars])
    core = data.draw(strategies.integers(0, found.core_chars))
    left = min(found.shared_chars - core, found.chunks * found.chunk_chars)
    if found.core_chars and left > 0:
        chunks = []
        while left > 0:
            chunks.append(min(left, found.chunk_chars))
            left -= chunks[-1]
        assert_carried([core, *chunks])
