"""Authentications to the head of a login record and back.

Every request that asks about the login decodes the head, and no head depends on a registry: a node
without the registry loses service logins, never the login itself.

A time less than 2**15 - 3600 seconds (eight hours) from the session's start is stored as its low 16
bits; these mean a moment from start - 2**15 to start + 2**15 - 1. While a session is new, its start
is not known yet: it is the time of the first save, less than an hour after the start that is
assumed until then; hence the hour less. Any other time is stored whole. Merging two heads needs no
start: it compares what is stored.

The head, by its number of bytes:

    0  no authentication
    2  one, by the first of `METHODS` for the first of `DURATIONS`: the low bits of its time
    3  one, by method m of `METHODS` for duration d of `DURATIONS`: 8 * m + d, the low bits
    4 or more  bits, in the codes of `bits` and the texts of `strings`: the format (4 bits, 1), the
       number of authentications (small), and of each, ascending: the method (small: 0 and a text,
       or 1 + its position in `METHODS`), the duration (small: 0 and sized, or 1 + its position in
       `DURATIONS`), a flag, and the low 16 bits of the time, or if the flag is set the time, sized;
       then zero bytes up to four

Authentications ascend by method (by code points), duration, the low bits (-1 for a time that is
stored whole) and the whole time. A head is valid only if encoding what it decodes to gives the same
bytes again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from ...errors import LoginsUnreadable, UnsupportedValue
from ..logins import Authentication
from .bits import BitReader, BitWriter
from .strings import put_text, take_text
from .tables import DURATIONS, METHODS, entry

FORMAT = 1
LOW_BITS = 16
WINDOW = 1 << LOW_BITS
MARGIN = 3600
LONG_BYTES = 4  # at least, of a head in bits


class StoredAuthentication(NamedTuple):
    """An authentication as stored.

    Of its time, either `low` (the low 16 bits) or `whole` is set; the other is -1.
    """

    method: str
    duration: int
    low: int
    whole: int


Head: TypeAlias = frozenset[StoredAuthentication]


def compact(authentication: Authentication, start: int) -> StoredAuthentication:
    """Return what a session that starts at `start` stores."""
    time, method, duration = authentication.time, authentication.method, authentication.duration
    if abs(time - start) < WINDOW // 2 - MARGIN:
        return StoredAuthentication(method, duration, time % WINDOW, -1)
    return StoredAuthentication(method, duration, -1, time)


def expand(stored: StoredAuthentication, start: int) -> Authentication:
    """Return the authentication, in a session that started at `start`.

    Raises LoginsUnreadable.
    """
    time = stored.whole
    if time < 0:
        earliest = start - WINDOW // 2
        time = earliest + (stored.low - earliest) % WINDOW
    try:
        return Authentication(stored.method, time, stored.duration)
    except UnsupportedValue as error:  # only other releases store such a time or duration
        raise LoginsUnreadable(str(error)) from None


def encode_head(authentications: Iterable[StoredAuthentication]) -> bytes:
    """Return the canonical encoding of a set of authentications."""
    ordered = sorted(set(authentications))
    if not ordered:
        return b""
    method, duration, low, whole = ordered[0]
    if len(ordered) == 1 and whole < 0 and method in METHODS and duration in DURATIONS:
        pair = len(DURATIONS) * METHODS.index(method) + DURATIONS.index(duration)
        time = low.to_bytes(LOW_BITS // 8, "big")
        return time if pair == 0 else bytes([pair]) + time
    writer = BitWriter()
    writer.put(FORMAT, 4)
    writer.put_small(len(ordered))
    for method, duration, low, whole in ordered:
        if method in METHODS:
            writer.put_small(1 + METHODS.index(method))
        else:
            writer.put_small(0)
            put_text(writer, method)
        if duration in DURATIONS:
            writer.put_small(1 + DURATIONS.index(duration))
        else:
            writer.put_small(0)
            writer.put_sized(duration)
        if writer.put_flag(whole >= 0):
            writer.put_sized(whole)
        else:
            writer.put(low, LOW_BITS)
    # As few as three bytes would be read as the short form.
    return writer.finish().ljust(LONG_BYTES, b"\0")


def decode_head(data: bytes) -> Head:
    """Return the authentications of a head.

    Raises LoginsUnreadable for bytes that `encode_head` never writes.
    """
    try:
        head = frozenset(_read(data))
        if encode_head(head) != data:
            raise ValueError("not canonical")
    except (ValueError, OverflowError):
        raise LoginsUnreadable("this release can't read these authentications") from None
    return head


def _read(data: bytes) -> list[StoredAuthentication]:
    if not data:
        return []
    if len(data) <= 1 + LOW_BITS // 8:
        # A single byte is read as well as three; encoding again gives other bytes.
        m, d = divmod(data[0] if len(data) == 3 else 0, len(DURATIONS))
        low = int.from_bytes(data[-2:], "big")
        return [StoredAuthentication(entry(METHODS, m), DURATIONS[d], low, -1)]
    reader = BitReader(data)
    if reader.take(4) != FORMAT:
        raise ValueError("unknown format")
    count = reader.take_small()
    reader.require(count)  # an invented count is refused before it costs anything
    found = []
    for _ in range(count):
        position = reader.take_small()
        method = entry(METHODS, position - 1) if position else take_text(reader)
        position = reader.take_small()
        duration = entry(DURATIONS, position - 1) if position else reader.take_sized()
        is_whole = reader.take_flag()
        low = -1 if is_whole else reader.take(LOW_BITS)
        whole = reader.take_sized() if is_whole else -1
        found.append(StoredAuthentication(method, duration, low, whole))
    return found
