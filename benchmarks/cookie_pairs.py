"""Set-Cookie lines to the `name=value` pairs that a browser sends back.

Knows what a browser keeps of a Set-Cookie line, quotes included. Does not know who wrote the line
or what the value means.
"""

from __future__ import annotations

from collections.abc import Iterable

# RFC 6265bis: a browser ignores a cookie whose name and value together are longer.
BROWSER_LIMIT = 4096


def pairs(set_cookie_lines: Iterable[str]) -> list[str]:
    """The pairs of the next request's Cookie header; deletions leave none."""
    split = (line.partition(";") for line in set_cookie_lines)
    return [pair.strip() for pair, _, attributes in split if not _deletes(attributes)]


def pair_bytes(cookie_pairs: Iterable[str]) -> int:
    """The bytes of all pairs together, without what separates them."""
    return sum(len(pair.encode()) for pair in cookie_pairs)


def is_kept_by_browsers(cookie_pairs: Iterable[str]) -> bool:
    """Whether every single cookie is small enough; the equals sign does not count."""
    return all(len(pair.encode()) - 1 <= BROWSER_LIMIT for pair in cookie_pairs)


def _deletes(attributes: str) -> bool:
    return "max-age=0" in (part.strip().lower() for part in attributes.split(";"))
