"""Budgets: how many bytes our cookies may take in a request and its response.

The profiles are measured on 26 server and proxy stacks. A budget also counts foreign bytes: the
foreign cookies of this request, and the other Set-Cookie fields of this response. Browsers carry
far more than the servers and proxies behind them: default nginx answers 502 to one Set-Cookie of
4000 bytes, default uWSGI resets the connection beyond 3150 bytes of Cookie, and gunicorn, nginx and
Apache refuse a Cookie header of 8 KiB. Then every page is an error, including the logout page, and
the application never sees the request.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from ._cookies.header import MAX_COOKIES, MAX_LINE_BYTES
from .errors import ConfigurationError, show_value

__all__ = ["PROFILES", "Profile"]

# A login of ordinary size must not fail because of other cookies: it may take this much of the
# distance that every profile keeps from the limit measured behind it (350 bytes and more).
FLOOR_BYTES = 320
# A session that fits in no other way may take this share of a Cookie header of that distance.
MARGIN_SHARE = 20


@dataclass(frozen=True, slots=True)
class Profile:
    """What a chain of browser, proxies and server carries; sizes in bytes.

    `cookies`: how many cookies we may set; `cookie_bytes`: name and value of each; `total_bytes`:
    names and values of all these; `header_bytes`: the whole Cookie header with foreign cookies;
    `response_bytes`: all Set-Cookie fields of one response.
    """

    name: str
    cookies: int
    cookie_bytes: int
    total_bytes: int
    header_bytes: int
    response_bytes: int

    def __post_init__(self) -> None:
        for item in fields(self):
            value, kind = getattr(self, item.name), str if item.name == "name" else int
            if type(value) is not kind:
                raise ConfigurationError(
                    f"profile: {item.name}: expected {kind.__name__}, got {type(value).__name__}"
                )
        if not 1 <= self.cookies <= MAX_COOKIES:
            raise ConfigurationError(
                f"profile: cookies must be between 1 and {MAX_COOKIES},"
                f" got {show_value(self.cookies)}"
            )
        if not 500 <= self.cookie_bytes <= MAX_LINE_BYTES:
            raise ConfigurationError(
                f"profile: cookie_bytes must be between 500 and {MAX_LINE_BYTES},"
                f" got {show_value(self.cookie_bytes)}"
            )
        smallest = min(self.total_bytes, self.header_bytes, self.response_bytes)
        if smallest < self.cookie_bytes:
            raise ConfigurationError(
                "profile: total_bytes, header_bytes and response_bytes must be at least"
                f" cookie_bytes ({show_value(self.cookie_bytes)}), got {show_value(smallest)}"
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


class Budget(NamedTuple):
    """What our cookie values may take in one response, in characters.

    `core_chars`: for the core alone. With overflow, there are `chunks` more cookies with at most
    `chunk_chars` each, and all values together take at most `shared_chars`.
    """

    core_chars: int
    chunk_chars: int
    chunks: int
    shared_chars: int

    @property
    def overflow_chars(self) -> int:
        """The most that overflow may take if the core took nothing."""
        return min(self.chunks * self.chunk_chars, self.shared_chars)


def budget_for(
    profile: Profile,
    foreign_bytes: int,
    received_bytes: int,
    response_bytes: int,
    name_bytes: int,
    line_overhead: int,
) -> Budget:
    """What `profile` leaves for our values.

    `foreign_bytes`: the foreign cookies of the request. `received_bytes`: our cookies of the
    request that may come again, since they came through once, or 0. `response_bytes`: Set-Cookie
    fields of the response that set none of our cookies, including our deletions. `name_bytes` and
    `line_overhead`: what each cookie takes besides its value, in the request (its name and '=') and
    in the response.
    """
    left = max(profile.header_bytes - foreign_bytes, received_bytes, FLOOR_BYTES)
    request = min(profile.total_bytes, left)
    response = max(profile.response_bytes - response_bytes, FLOOR_BYTES + line_overhead)
    one = min(profile.cookie_bytes - name_bytes, MAX_LINE_BYTES - line_overhead)
    # In the Cookie header, each pair has two bytes of '; ' before it.
    core = min(one, request - name_bytes - 2, response - line_overhead)
    shared = min(
        request - profile.cookies * (name_bytes + 2), response - profile.cookies * line_overhead
    )
    return Budget(max(0, core), one, profile.cookies - 1, max(0, shared))


def most_bytes(profile: Profile, foreign_bytes: int, our_bytes: int) -> int:
    """How many bytes our cookies may take in a request if the session fits in no other way.

    `foreign_bytes` and `our_bytes`: what this request carried. A request that carried half as much
    again as the profile allows did not pass the limits that the profile was made for.
    """
    carried = foreign_bytes + our_bytes
    limit = carried if 2 * carried > 3 * profile.header_bytes else profile.header_bytes
    return max(our_bytes, limit + limit // MARGIN_SHARE - foreign_bytes)
