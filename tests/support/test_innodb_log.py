"""The reader of InnoDB's log, on logs made by hand."""

from __future__ import annotations

import pytest

from tests.support.innodb_log import HEADER, LogReader, crc32c

FIRST, SIZE = 1 << 20, 1 << 17
EACH = 16


def transactions(numbers: range, begin: int = 0) -> bytes:
    """One for each number, from `begin` on, with the sequence bytes of that turn of the ring."""
    return b"".join(
        transaction(number, 1 - (begin + EACH * place + 11) // SIZE % 2)
        for place, number in enumerate(numbers)
    )


def transaction(number: int, sequence: int) -> bytes:
    record = bytes([0x3A]) + number.to_bytes(10, "big")
    return record + bytes([sequence]) + crc32c(record).to_bytes(4, "big")


def log_of(content: bytes, begin: int) -> bytes:
    """A log with a checkpoint at `begin`, and this there."""
    ring = bytearray(SIZE)
    for place, byte in enumerate(content, begin):
        ring[place % SIZE] = byte
    header = bytearray(HEADER)
    header[8:16] = FIRST.to_bytes(8, "big")
    header[8192:8200] = (FIRST + begin).to_bytes(8, "big")
    return bytes(header + ring)


def test_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("begin", [0, SIZE - 2048, SIZE], ids=["first", "both", "second"])
def test_copies_of_an_earlier_round_behind_the_end_are_found(begin: int) -> None:
    content = transactions(range(512), begin)
    # What the block before the last one has at the same place.
    stale = content[-4096 - 160 : -4096]
    content = content[:-160]

    def tail(behind: bytes) -> bytes:
        return LogReader().repeated_tail(log_of(content + behind, begin))

    assert tail(b"") == tail(b"\0" + stale[1:]) == b""
    assert tail(stale) == stale
    # The recovery takes what is whole, and only what begins where the log ends.
    assert tail(stale[:-1]) == stale[:-EACH]
    assert tail(stale[1:]) == tail(stale[EACH - 1 :]) == b""


def test_copies_of_the_turn_before_are_no_transactions() -> None:
    content = transactions(range(256), SIZE - 2048)
    stale = content[:160]
    assert LogReader().repeated_tail(log_of(content + stale, SIZE - 2048)) == b""


def test_reader_goes_on_where_the_log_ended() -> None:
    reader, content = LogReader(), transactions(range(512))
    assert reader.repeated_tail(log_of(content, 0)) == b""
    # What it has read may be overwritten by now.
    lost, stale = bytes(4096), content[4096:4256]
    assert reader.repeated_tail(log_of(lost + content[4096:] + stale, 0)) == stale
    assert LogReader().repeated_tail(log_of(lost + content[4096:] + stale, 0)) == b""
