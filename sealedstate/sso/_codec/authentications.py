"""Authentications to the small part that every request opens, and back.

Knows the head's format. Does not know registries, so that a missing one costs no login, nor any
session: when that began (`start`, epoch seconds) is told.

A time within nine hours of the session's start is kept as its low 16 bits, and completed to the
moment next to the start that has them. When a session is new its start is not known yet: it is the
moment of the first save, less than an hour after what is given here as the start; hence the hour's
margin. Any other time is kept whole. Merging needs no start: it compares what is kept.

The head, by its number of bytes:

    0  no authentication
    2  one, by the usual method for the usual duration: the time's low bits
    3  one, by method m for duration d of the tables in `wellknown`: 8 * m + d, the time's low bits
    4 or more  bits, as `bits` writes them: the format (4 bits, 1), the number of authentications
       (small), and for each, ascending: the method (small: 0 and a text, or 1 + its position in the
       table), the duration (small: 0 and sized, or 1 + its position), and the time: a flag, and its
       low bits, or if the flag is set: sized

A head is refused unless encoding what it decodes to gives the same bytes again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias, TypeVar

from ...errors import LoginsUnreadable
from ..logins import Authentication
from .bits import BitReader, BitWriter
from .strings import put_text, take_text
from .tables import DURATIONS, METHODS

T = TypeVar("T")

FORMAT = 1
LOW_BITS = 16
WINDOW = 1 << LOW_BITS
MARGIN = 3600
# Which combinations of method and duration one byte can name.
PAIRS = 32


class Kept(NamedTuple):
    """An authentication as it is kept: `low` its time's low bits, or `whole` its time."""

    method: str
    duration: int
    low: int
    whole: int


Head: TypeAlias = frozenset[Kept]


def keep(authentication: Authentication, start: int) -> Kept:
    """The form in which an authentication is kept in a session that begins at `start`."""
    time, method, duration = authentication.time, authentication.method, authentication.duration
    if abs(time - start) < WINDOW // 2 - MARGIN:
        return Kept(method, duration, time % WINDOW, -1)
    return Kept(method, duration, -1, time)


def complete(kept: Kept, start: int) -> Authentication:
    """What was kept, in a session that began at `start`. Raises LoginsUnreadable."""
    time = kept.whole
    if time < 0:
        earliest = start - WINDOW // 2
        time = earliest + (kept.low - earliest) % WINDOW
    if time < 0:
        raise LoginsUnreadable("an authentication before all time")
    return Authentication(kept.method, time, kept.duration)


def encode_head(kept: Iterable[Kept]) -> bytes:
    """The one encoding of a set of authentications."""
    ordered = sorted(set(kept))
    if len(ordered) == 1 and (short := _short(ordered[0])) is not None:
        return short
    return _long(ordered) if ordered else b""


def decode_head(data: bytes) -> Head:
    """The authentications of a head. Raises LoginsUnreadable for what `encode_head` never makes."""
    try:
        head = frozenset(_read(data))
        again = encode_head(head)
    except (ValueError, OverflowError):
        raise LoginsUnreadable("authentications that this release does not read") from None
    if again != data:
        raise LoginsUnreadable("authentications that this release does not read")
    return head


def _short(kept: Kept) -> bytes | None:
    if kept.whole >= 0 or kept.method not in METHODS or kept.duration not in DURATIONS:
        return None
    method = METHODS.index(kept.method)
    pair = len(DURATIONS) * method + DURATIONS.index(kept.duration)
    time = kept.low.to_bytes(LOW_BITS // 8, "big")
    return time if pair == 0 else bytes([pair]) + time


def _long(ordered: list[Kept]) -> bytes:
    writer = BitWriter()
    writer.put(FORMAT, 4)
    writer.put_small(len(ordered))
    for kept in ordered:
        _put(writer, kept)
    return writer.finish()


def _put(writer: BitWriter, kept: Kept) -> None:
    method = METHODS.index(kept.method) + 1 if kept.method in METHODS else 0
    writer.put_small(method)
    if not method:
        put_text(writer, kept.method)
    duration = DURATIONS.index(kept.duration) + 1 if kept.duration in DURATIONS else 0
    writer.put_small(duration)
    if not duration:
        writer.put_sized(kept.duration)
    if writer.put_flag(kept.whole >= 0):
        writer.put_sized(kept.whole)
    else:
        writer.put(kept.low, LOW_BITS)


def _read(data: bytes) -> list[Kept]:
    if not data:
        return []
    if len(data) <= 1 + LOW_BITS // 8:
        pair = data[0] if len(data) == 3 else 0
        method, duration = divmod(pair, len(DURATIONS))
        low = int.from_bytes(data[-2:], "big")
        return [Kept(_at(METHODS, method), DURATIONS[duration], low, -1)]
    reader = BitReader(data)
    if reader.take(4) != FORMAT:
        raise ValueError("another format")
    count = reader.take_small()
    reader.check(count)
    return [_take(reader) for _ in range(count)]


def _take(reader: BitReader) -> Kept:
    method, duration = reader.take_small(), 0
    text = _at(METHODS, method - 1) if method else take_text(reader)
    duration = reader.take_small()
    seconds = _at(DURATIONS, duration - 1) if duration else reader.take_sized()
    if reader.take_flag():
        return Kept(text, seconds, -1, reader.take_sized())
    return Kept(text, seconds, reader.take(LOW_BITS), -1)


def _at(table: tuple[T, ...], position: int) -> T:
    if position >= len(table):
        raise ValueError("no such entry")
    return table[position]
