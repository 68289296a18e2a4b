"""Times, durations and other people's text, as an operator reads and types them.

Knows seconds, calendars and terminals. Does not know what is told.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime

from ..errors import ConfigurationError

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
TYPED = re.compile(r"(\d{1,12}) ?(d|h|min|m|s)", re.ASCII)
# What a calendar can tell: the years 1 to 9999.
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799


def duration(seconds: float) -> str:
    """``12 h 18 min``: two units at most, rounded down."""
    left, told = int(seconds), []
    for unit, size in UNITS:
        count, left = divmod(left, size)
        told.append((count, unit))
    first = next((place for place, (count, _) in enumerate(told) if count), len(told) - 1)
    words = [f"{count} {unit}" for count, unit in told[first : first + 2] if count]
    return " ".join(words) or "0 s"


def relative(at: float, now: float) -> str:
    """``in 3 h``, ``3 h ago`` or ``now``."""
    away = int(at) - int(now)
    if away == 0:
        return "now"
    return f"in {duration(away)}" if away > 0 else f"{duration(-away)} ago"


def moment(epoch: float) -> str:
    """``2026-11-22 08:00``, in UTC."""
    return _calendar(epoch).strftime("%Y-%m-%d %H:%M")


def exact(epoch: float) -> str:
    """``2026-11-22 08:00:05Z``."""
    return _calendar(epoch).strftime("%Y-%m-%d %H:%M:%SZ")


def iso(epoch: float | None) -> str | None:
    """``2026-11-22T08:00:05Z``, for programs."""
    return None if epoch is None else _calendar(epoch).strftime("%Y-%m-%dT%H:%M:%SZ")


def past(text: str, now: int) -> int:
    """The moment (epoch seconds) that somebody means by an ISO time with a zone, or by ``2h``.

    Raises ConfigurationError.
    """
    typed = TYPED.fullmatch(text.strip())
    if typed is not None:
        return now - int(typed[1]) * {**dict(UNITS), "m": 60}[typed[2]]
    moment = _iso_moment(text.strip())
    if moment is None:
        raise ConfigurationError(
            "a time reads 2026-11-22T08:00:00Z, with its zone,"
            " or is so long ago: 90s, 30min, 2h, 7d"
        )
    return moment


def _iso_moment(text: str) -> int | None:
    """The moment (epoch seconds) of an ISO time; None for another text, or without a zone."""
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else int(found.timestamp())
    except (ValueError, OverflowError):
        return None


def plain(text: object, most: int = 200) -> str:
    """Text of others on one line, without what a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in str(text))
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def show(text: str) -> None:
    """Print a text, on a terminal of whatever encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def many(count: int, one: str, several: str) -> str:
    """``1 process``, ``2 processes``."""
    return f"{count} {one if count == 1 else several}"


def listed(words: list[str], most: int = 3) -> str:
    """``71, 72, 73 and 4 more``."""
    shown, more = words[:most], len(words) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _calendar(epoch: float) -> datetime:
    return datetime.fromtimestamp(min(max(int(epoch), EARLIEST), LATEST), UTC)
