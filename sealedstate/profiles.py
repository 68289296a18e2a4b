"""Budgets: how many bytes we may put into cookies for one request.

Knows the four profiles, measured on 26 server and proxy stacks, and arithmetic. Does not know
names, parts or what is sealed.

A budget counts what others put there too: the foreign cookies of this request, and the Set-Cookie
lines of this response that are not ours. What breaks is never the browser but everything between:
default nginx answers 502 to one 4000-byte Set-Cookie, default uWSGI resets the connection beyond
3150 bytes of Cookie, gunicorn, nginx and Apache refuse a Cookie line of 8 KiB. Then every page is
an error, the logout page too, and the application never sees the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ._cookies.header import MAX_COOKIES, MAX_LINE_BYTES
from .errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Profile:
    """What a chain of browser, proxies and server carries. All sizes in bytes.

    `cookies`: how many of ours; `cookie_bytes`: name and value of each; `total_bytes`: names and
    values of all of ours; `header_bytes`: the whole Cookie header, foreign cookies included;
    `response_bytes`: all Set-Cookie lines of one response.
    """

    name: str
    cookies: int
    cookie_bytes: int
    total_bytes: int
    header_bytes: int
    response_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.cookies <= MAX_COOKIES:
            raise ConfigurationError(f"profile: cookies is between 1 and {MAX_COOKIES}")
        if not 500 <= self.cookie_bytes <= MAX_LINE_BYTES:
            raise ConfigurationError(f"profile: cookie_bytes is between 500 and {MAX_LINE_BYTES}")
        smallest = min(self.total_bytes, self.header_bytes, self.response_bytes)
        if smallest < self.cookie_bytes:
            raise ConfigurationError(
                "profile: total_bytes, header_bytes and response_bytes are at least cookie_bytes"
            )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("tight", 1, 2000, 2000, 2800, 2400),
        Profile("portable", 1, 2900, 2900, 7600, 3072),
        Profile("standard", 2, 3800, 6000, 7600, 6500),
        Profile("roomy", 4, 3800, 11000, 13500, 11500),
    )
}


# A login of ordinary size must not fail for foreign cookies: it may take this much of the margin
# that every profile keeps to the wall that was measured behind it (350 bytes and more).
FLOOR_BYTES = 320


class Budget(NamedTuple):
    """The room for this one response, in characters of cookie values.

    `core_chars`: for the core alone. With overflow, `chunks` more cookies of `chunk_chars` each,
    and `shared_chars` for all values together.
    """

    core_chars: int
    chunk_chars: int
    chunks: int
    shared_chars: int

    @property
    def overflow_chars(self) -> int:
        """The most that overflow may take, should the core take nothing."""
        return min(self.chunks * self.chunk_chars, self.shared_chars)


def budget_for(
    profile: Profile,
    foreign_bytes: int,
    arrived_bytes: int,
    response_bytes: int,
    name_bytes: int,
    line_overhead: int,
) -> Budget:
    """The room that `profile` leaves for our values.

    `foreign_bytes`, `arrived_bytes`: the foreign cookies of the request, and ours: what came
    through once comes through again. `response_bytes`: Set-Cookie lines of the response that don't
    set a cookie of ours, so our own deletions too. `name_bytes` and `line_overhead`: what each
    cookie takes besides its value, in the request (the name and '=') and in the response.
    """
    left = max(profile.header_bytes - foreign_bytes, arrived_bytes, FLOOR_BYTES)
    request = min(profile.total_bytes, left)
    response = profile.response_bytes - response_bytes
    one = min(profile.cookie_bytes - name_bytes, MAX_LINE_BYTES - line_overhead)
    # Two bytes of '; ' stand before each pair of the Cookie header.
    core = min(one, request - name_bytes - 2, response - line_overhead)
    shared = min(
        request - profile.cookies * (name_bytes + 2), response - profile.cookies * line_overhead
    )
    return Budget(max(0, core), one, profile.cookies - 1, max(0, shared))
