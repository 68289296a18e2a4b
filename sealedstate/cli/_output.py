"""What all commands share: text for terminals, JSON, and common options."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TextIO

import click

from ..errors import ConfigurationError, escape_message, escape_text, quote_text

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
DURATION = re.compile(r"(\d{1,12}) ?(d|h|min|m|s)", re.ASCII)
# The years 1 to 9999, which a datetime can represent.
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799

# The longest text of a user, such as a SAML entityID, and a line with several of them.
MAX_CELL_CHARS, MAX_LINE_CHARS = 1024, 20_000

# Where an error report finds out whether a command prints JSON.
AS_JSON = "sealedstate.as_json"

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=lambda ctx, _, as_json: ctx.meta.setdefault(AS_JSON, as_json),
    help="Print JSON.",
)
config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(),
    help="TOML file with the settings; without it, they are read from SEALEDSTATE_ variables.",
)


class OutputFailed(Exception):
    """Standard output is closed or full, or its reader has ended; the cause is an OSError."""


def echo(*lines: str) -> None:
    """Print each text as one line, at once, whatever letters are in it: some are the users'.

    Raises OutputFailed.
    """
    _print("\n".join(escape_text(line, MAX_LINE_CHARS) for line in lines))


def echo_error(text: object) -> None:
    """Print one line without secrets on standard error, if that is open."""
    if sys.stderr is not None:
        with contextlib.suppress(OutputFailed):
            _print(f"sealedstate: {escape_message(text)}", sys.stderr)


def echo_bytes(content: bytes) -> None:
    """Write the content of a file on standard output. Raises OutputFailed."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputFailed from error


def emit(as_json: bool, facts: object, lines: Iterable[str], indent: int | None = None) -> None:
    """Print the facts for a program, or the lines for people."""
    if as_json:
        _print(json.dumps(facts, indent=indent))
    else:
        echo(*lines)


def _print(text: str, stream: TextIO | None = None) -> None:
    """Print a text on a terminal of any encoding."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        if stream is None:
            raise OSError(errno.EBADF, "it is closed")
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        raise OutputFailed from error


def table(rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> list[str]:
    """One line for each row, with columns that are aligned left, or `right`."""
    cells = [[escape_text(cell, MAX_CELL_CHARS) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*cells, fillvalue="")]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in cells
    ]


def markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is its head."""
    head, *rest = rows
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rest)]


def plural(count: int, one: str, several: str) -> str:
    """``1 process``, ``2 processes``."""
    return f"{count} {one if count == 1 else several}"


def join_words(words: Sequence[str], most: int = 3) -> str:
    """``71, 72, 73 and 4 more``."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def duration(seconds: float) -> str:
    """``12 h 18 min``: two units at most, rounded down."""
    rest, counts = int(seconds), []
    for unit, size in UNITS:
        count, rest = divmod(rest, size)
        counts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts) - 1)
    words = [f"{count} {unit}" for count, unit in counts[first : first + 2] if count]
    return " ".join(words) or "0 s"


def relative(at: float, now: float) -> str:
    """``in 3 h``, ``3 h ago`` or ``now``."""
    distance = int(at) - int(now)
    if distance == 0:
        return "now"
    return f"in {duration(distance)}" if distance > 0 else f"{duration(-distance)} ago"


def format_minute(epoch: float) -> str:
    """``2026-11-22 08:00``, in UTC."""
    return _datetime(epoch).strftime("%Y-%m-%d %H:%M")


def format_exact(epoch: float) -> str:
    """``2026-11-22 08:00:05Z``."""
    return _datetime(epoch).strftime("%Y-%m-%d %H:%M:%SZ")


def format_iso(epoch: float | None) -> str | None:
    """``2026-11-22T08:00:05Z``, for programs."""
    return None if epoch is None else _datetime(epoch).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_past(text: str, now: int) -> int:
    """The epoch seconds of an ISO time, or of a duration before `now`, as ``2h``.

    An ISO time must have its zone. Raises ConfigurationError.
    """
    found = DURATION.fullmatch(text.strip())
    if found is not None:
        return now - int(found[1]) * {**dict(UNITS), "m": 60}[found[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is not None:
            return int(moment.timestamp())
    except (ValueError, OverflowError):
        pass  # no ISO time: refused in the next line
    raise ConfigurationError(
        "expected a time with its zone, such as 2026-11-22T08:00:00Z, or how long ago it was, such"
        f" as 90s, 30min, 2h or 7d; got {quote_text(text, 40)}"
    )


def _datetime(epoch: float) -> datetime:
    return datetime.fromtimestamp(min(max(int(epoch), EARLIEST), LATEST), UTC)
