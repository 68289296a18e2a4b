"""The life of a ring's keys as lines of text, 100 columns wide.

Knows rings, states and columns. Does not know where a ring is kept, nor who uses it: how many
cookies came under each key, it is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..keys import KeyState
from ..rotation import Ring, RingKey
from .ring_source import is_far
from .wording import moment, relative

WIDTH = 100
KID_COLUMN = 10
BAR = WIDTH - KID_COLUMN
LEGEND = ". announced   # seals   - opens only   x disabled"
HEAD = ("kid", "state", "created", "seals from", "seals until", "opens until")


def states(ring: Ring, now: int) -> dict[str, KeyState]:
    """The state of each key that is there, by kid."""
    keyring = ring.keyring()
    return {key.kid.hex(): keyring.state(key, now) for key in keyring.keys}


# --- the table ----------------------------------------------------------------------------------


def table(ring: Ring, now: int, cookies: Mapping[str, int]) -> list[str]:
    """Two lines for each key: its dates, and how far away they are."""
    known = states(ring, now)
    lines = [f"{_row(*HEAD)} {'cookies':>7}"]
    for key in ring.keys:
        kid, dates = key.kid.hex(), _dates(ring, key)
        count = _short(cookies[kid]) if kid in cookies else "-"
        lines.append(f"{_row(kid, known[kid].value, *map(_moment, dates))} {count:>7}")
        lines.append(_row("", "", *(_relative(date, now) for date in dates)).rstrip())
    return lines


def _dates(ring: Ring, key: RingKey) -> tuple[int | None, ...]:
    return (key.created_at, key.activates_at, ring.retires_at(key), ring.expires_at(key))


def _row(kid: str, state: str, *dates: str) -> str:
    return "  ".join([f"{kid:8}", f"{state:8}", *(f"{date:16}" for date in dates)])


def _moment(at: int | None) -> str:
    return "-" if at is None else moment(at)


def _relative(at: int | None, now: int) -> str:
    return "" if at is None else relative(at, now)


def _short(count: int) -> str:
    return str(count) if count < 10_000_000 else f"{count // 1_000_000} M"


# --- the drawing --------------------------------------------------------------------------------


def drawing(ring: Ring, now: int) -> list[str]:
    """A bar for each key, the newest first, on one scale of time; above them, where now is."""
    left, right = _span(ring, now)
    here = _column(now, left, right)
    lines = [f"{moment(left)}{moment(right):>{BAR - 16}}", _pointer(here)]
    for key in ring.keys:
        cells = _bar(ring, key, left, right)
        if cells[here] == " ":
            cells[here] = "|"
        lines.append("".join(cells))
    names = ["", "", *(key.kid.hex() for key in ring.keys), ""]
    return [
        f"{name:{KID_COLUMN}}{line}".rstrip()
        for name, line in zip(names, [*lines, LEGEND], strict=True)
    ]


def _pointer(here: int) -> str:
    return f"{'':{here}}| now" if here + 5 <= BAR else f"{'now |':>{here + 1}}"


def _span(ring: Ring, now: int) -> tuple[int, int]:
    """From the first to the last moment at which something happens.

    A key of the far future stays outside: it would leave no room for the others.
    """
    near = [key for key in ring.keys if not is_far(ring, key, now)]
    dates = {now, now + ring.schedule.announce}
    dates.update(at for key in near for at in _dates(ring, key) if at is not None)
    return min(dates), max(dates)


def _bar(ring: Ring, key: RingKey, left: int, right: int) -> list[str]:
    cells = [" "] * BAR
    retires_at, expires_at = ring.retires_at(key), ring.expires_at(key)
    seals_at = max(key.activates_at, key.created_at)  # a replacement has its predecessor's date
    ends_at = right + 1 if expires_at is None else expires_at
    until = right + 1 if retires_at is None else max(retires_at, seals_at)

    def paint(letter: str, since: int, before: int) -> None:
        if since < before:
            first, end = _column(since, left, right), _column(before, left, right)
            last = end if before > right else max(first, end - 1)
            cells[first : last + 1] = letter * (last + 1 - first)

    paint("-", until, ends_at)
    paint(".", key.created_at, seals_at)
    paint("#", seals_at, until)
    if key.disabled_at is not None:
        paint("x", key.disabled_at, ends_at)
    return cells


def _column(at: int, left: int, right: int) -> int:
    return min(max((at - left) * (BAR - 1) // max(right - left, 1), 0), BAR - 1)
