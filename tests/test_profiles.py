"""Budgets: how many bytes of cookies a chain of browser, proxies and servers carries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies

from sealedstate import PROFILES, ConfigurationError, Profile
from sealedstate._cookies.header import MAX_LINE_BYTES
from sealedstate.profiles import FLOOR_BYTES, Budget, budget_for, most_bytes

NAME_BYTES = len("__Host-Http-s-1=")
LINE_OVERHEAD = len("Set-Cookie: __Host-Http-s-1=; Path=/; Secure; HttpOnly; SameSite=Lax\r\n")

# cookies, bytes of each, of all of ours, of the Cookie header, of Set-Cookie in a response
MEASURED = {
    "tight": (1, 2000, 2000, 2800, 2400),
    "portable": (1, 2900, 2900, 7600, 3072),
    "standard": (2, 3800, 6000, 7600, 6500),
    "roomy": (4, 3800, 11000, 13500, 11500),
}


def budget(
    profile: str | Profile, foreign: int = 0, received: int = 0, response: int = 0
) -> Budget:
    found = PROFILES[profile] if isinstance(profile, str) else profile
    return budget_for(found, foreign, received, response, NAME_BYTES, LINE_OVERHEAD)


def test_profiles_have_the_measured_numbers() -> None:
    fields = ("cookies", "cookie_bytes", "total_bytes", "header_bytes", "response_bytes")
    assert {
        name: tuple(getattr(profile, field) for field in fields)
        for name, profile in PROFILES.items()
    } == MEASURED
    assert all(profile.name == name for name, profile in PROFILES.items())


def test_profile_outside_the_limits_is_refused() -> None:
    for numbers, setting in (
        ((0, 2000, 2000, 2800, 2400), "cookies"),
        ((9, 2000, 2000, 2800, 2400), "cookies"),
        ((1, 499, 2000, 2800, 2400), "cookie_bytes"),
        ((1, 4094, 9000, 9000, 9000), "cookie_bytes"),
        ((1, 2000, 1999, 2800, 2400), "total_bytes"),
        ((1, 2000, 2000, 1999, 2400), "header_bytes"),
        ((1, 2000, 2000, 2800, 1999), "response_bytes"),
    ):
        with pytest.raises(ConfigurationError, match=setting):
            Profile("mine", *numbers)
    for numbers in ((1, 500, 500, 500, 500), (8, 4093, 33_000, 40_000, 40_000)):
        assert Profile("mine", *numbers).cookies == numbers[0]


# --- budgets ------------------------------------------------------------------------------------


def test_cookie_alone_may_be_as_large_as_the_profile_says() -> None:
    for name, profile in PROFILES.items():
        found = budget(name)
        # A core of that size passes every limit, and one more character would not.
        core = NAME_BYTES + found.core_chars
        assert core <= profile.cookie_bytes
        assert core + 2 == profile.total_bytes or core == profile.cookie_bytes
        assert found.chunks == profile.cookies - 1


def test_line_is_at_most_as_long_as_browsers_keep_it() -> None:
    wide = Profile("wide", 8, 4093, 40_000, 40_000, 40_000)
    assert budget(wide).core_chars == MAX_LINE_BYTES - LINE_OVERHEAD
    assert budget(wide).chunk_chars == MAX_LINE_BYTES - LINE_OVERHEAD


def test_core_has_the_room_that_foreign_cookies_and_other_lines_leave() -> None:
    free = budget("portable").core_chars
    for (foreign, received, response), core in {
        # Foreign cookies count only when the header gets full.
        (4700, 0, 0): free,
        (4701, 0, 0): free - 1,
        (6000, 0, 0): 1600 - NAME_BYTES - 2,
        # Received bytes may be sent again.
        (6000, 1900, 0): 1900 - NAME_BYTES - 2,
        (0, 0, 1000): 2072 - LINE_OVERHEAD,
        # A login of ordinary size fits beside any foreign cookies.
        **{(most, 0, 0): FLOOR_BYTES - NAME_BYTES - 2 for most in (7600, 8000, 100_000)},
    }.items():
        assert budget("portable", foreign, received, response).core_chars == core
    assert budget("roomy", response=5000).core_chars == budget("roomy").core_chars
    assert budget("roomy", response=5000).shared_chars == 6500 - 4 * LINE_OVERHEAD
    # But never more than the profile allows for all of our cookies.
    assert budget("portable", received=9000) == budget("portable")
    assert budget("portable", foreign=5700, received=1900) == budget("portable", foreign=5700)


def test_full_response_leaves_the_budget_of_a_login() -> None:
    for response in (3072, 3072 - LINE_OVERHEAD, 50_000):
        assert budget("portable", response=response).core_chars == FLOOR_BYTES
    assert budget("roomy", response=50_000) == Budget(
        FLOOR_BYTES, budget("roomy").chunk_chars, 3, FLOOR_BYTES - 3 * LINE_OVERHEAD
    )


def test_session_that_fits_in_no_other_way_may_take_a_twentieth_more() -> None:
    for foreign, ours, most in (
        (0, 0, 7980),
        (6900, 0, 1080),
        (7600, 300, 380),
        (8100, 300, 300),
        # A request that carried much more than the profile allows did not pass its limits.
        (11_400, 0, 7980 - 11_400),
        (11_401, 0, 570),
        (66_000, 300, 66_300 // 20 + 300),
    ):
        assert most_bytes(PROFILES["portable"], foreign, ours) == max(ours, most)


def test_profile_of_one_cookie_has_no_overflow() -> None:
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
def test_cookies_that_fill_a_budget_exceed_no_limit(
    profile: Profile,
    foreign: int,
    received: int,
    response: int,
    name_bytes: int,
    line_overhead: int,
    data: strategies.DataObject,
) -> None:
    found = budget_for(profile, foreign, received, response, name_bytes, line_overhead)
    header = max(profile.header_bytes, foreign + received, foreign + FLOOR_BYTES)

    def assert_carried(values: list[int]) -> None:
        pairs = [name_bytes + chars for chars in values]
        assert len(pairs) <= profile.cookies
        assert max(pairs) <= profile.cookie_bytes
        assert sum(pairs) <= profile.total_bytes
        assert foreign + sum(pair + 2 for pair in pairs) <= header
        lines = [line_overhead + chars for chars in values]
        assert max(lines) <= MAX_LINE_BYTES
        least = response + FLOOR_BYTES + line_overhead
        assert response + sum(lines) <= max(profile.response_bytes, least)

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
