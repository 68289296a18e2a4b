"""InnoDB's log as its recovery reads it: what is behind its end, and is applied again.

Since MariaDB 10.8 the log, `ib_logfile0`, is a header of 12,288 bytes and then a ring of records,
addressed by a number that only grows (LSN). A mini-transaction is

    record... sequence byte, CRC-32C of the records

where a record's first byte is above 1 and has the length of the rest in its low four bits; 0 means
15 more than the number that follows, which counts. The sequence byte is 0 or 1 by turns of the
ring. The recovery begins at the newer one of two checkpoints and ends at what is no
mini-transaction: usually at the 0 that InnoDB writes behind the last one. A log that is encrypted
is not read here.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["HEADER", "LogReader", "crc32c"]

HEADER = 12_288
CHECKPOINTS = (4096, 8192)
BLOCKS = range(512, 65_536 + 1, 512)  # distances at which bytes of an earlier write may be left
LONGEST = 1 << 20


def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


CRC = _crc_table()


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class LogReader:
    """Reads a log again and again, each time from where it ended before."""

    def __init__(self) -> None:
        self._known = 0

    def repeated_tail(self, log: bytes) -> bytes:
        """The mini-transactions at the end that are copies of earlier ones, from the same blocks.

        True ones are hardly ever: they have new transaction numbers, page positions and values.
        """
        first = int.from_bytes(log[8:16], "big")
        checkpoint = max(int.from_bytes(log[at : at + 8], "big") for at in CHECKPOINTS)
        ring = log[HEADER:]
        begin = max(checkpoint, self._known) - first - BLOCKS[-1]
        turned = begin % len(ring)
        content = ring[turned:] + ring[:turned]
        ends = [BLOCKS[-1], *_ends(content, BLOCKS[-1], begin)]
        tail = max((_copied(content, ends, distance) for distance in BLOCKS), key=len)
        if not tail:
            self._known = first + begin + ends[-1]
        return tail


def _ends(content: bytes, position: int, begin: int) -> Iterator[int]:
    """Where each mini-transaction from `position` on ends. `content` begins at `begin`."""
    size = len(content)
    while position < size:
        at = position
        while at < size and content[at] > 1:
            length, at = content[at] & 15, at + 1
            if not length:
                length = 15 + _number(content, at)
            at += length
            if at - position > LONGEST:
                return
        if at == position or at + 5 > size or content[at] != 1 - (begin + at) // size % 2:
            return
        if int.from_bytes(content[at + 1 : at + 5], "big") != crc32c(content[position:at]):
            return
        position = at + 5
        yield position


def _number(content: bytes, at: int) -> int:
    """A number of one to five bytes; the leading ones of the first say how many follow."""
    head, least = content[at], 0
    for more, limit in enumerate((0x80, 0xC0, 0xE0, 0xF0, 0xF8)):
        if head < limit:
            tail = int.from_bytes(content[at + 1 : at + 1 + more], "big")
            return least + ((head & (0x7F >> more)) << 8 * more) + tail
        least += 1 << 7 * (more + 1)
    return LONGEST


def _copied(content: bytes, ends: list[int], distance: int) -> bytes:
    """How much of the end is the same as what is `distance` bytes earlier."""
    begin = end = len(ends) - 1
    while begin and _same(content, ends[begin - 1], ends[begin], distance):
        begin -= 1
    return content[ends[begin] : ends[end]]


def _same(content: bytes, begin: int, end: int, distance: int) -> bool:
    return content[begin:end] == content[begin - distance : end - distance]
