"""Numbers to a string of bits, and back.

Knows widths and codes of numbers. Does not know what a number means.

    flag      one bit
    small     groups of 3 bits, the highest first, each behind a bit that says whether one follows
    sized     the number of its bits in 6 bits, then the bits behind its first
    digits    numbers below one radix: each run of up to 64 of them is one number of that radix,
              the first digit the highest, in as many bits as the largest such number has
    rice      (q, r) = divmod(number, 2**k): q one bits, a zero bit, r in k bits

Bits fill bytes from the highest on; the last byte ends in zero bits. Who reads refuses no second
spelling of a number: whether the same bytes come out again is for the caller to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RUN = 64
SIZE_BITS = 6
MAX_SMALL_BITS = 48
FLUSH = 8192


class EndOfBits(ValueError):
    """There are fewer bits than were asked for, or more than the numbers account for."""


class BitWriter:
    """Numbers in, bytes out."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._number, self._width = 0, 0

    def put(self, value: int, width: int) -> None:
        """`value` in exactly `width` bits."""
        self._number = self._number << width | value
        self._width += width
        if self._width > FLUSH:
            self._flush()

    def put_flag(self, flag: bool) -> bool:
        """One bit; `flag` itself, so that what hangs on it can follow."""
        self.put(1 if flag else 0, 1)
        return flag

    def put_small(self, value: int) -> None:
        """A number that is mostly below 8."""
        groups, width = value & 7, 4
        while value := value >> 3:
            groups |= (value & 7 | 8) << width
            width += 4
        self.put(groups, width)

    def put_sized(self, value: int) -> None:
        """A number below 2**63."""
        size = value.bit_length()
        self.put(size, SIZE_BITS)
        self.put(value - (1 << size >> 1), max(0, size - 1))

    def put_digits(self, digits: Sequence[int], radix: int) -> None:
        """Numbers below `radix`."""
        for start in range(0, len(digits), RUN):
            run = digits[start : start + RUN]
            number = 0
            for digit in run:
                number = number * radix + digit
            self.put(number, _run_bits(len(run), radix))

    def put_rice(self, values: Iterable[int], k: int) -> None:
        """Numbers that are mostly below 2**k."""
        low = (1 << k) - 1
        for value in values:
            ones = value >> k
            self.put((2 << ones) - 2 << k | value & low, ones + 1 + k)

    def put_bytes(self, data: bytes) -> None:
        """Bytes as they are."""
        self.put(int.from_bytes(data, "big"), 8 * len(data))

    def finish(self) -> bytes:
        """All of it."""
        self.put(0, -self._width % 8)
        self._flush()
        return bytes(self._bytes)

    def _flush(self) -> None:
        """Whole bytes leave the number, which would cost the more to shift the longer it is."""
        size, rest = divmod(self._width, 8)
        self._bytes += (self._number >> rest).to_bytes(size, "big")
        self._number &= (1 << rest) - 1
        self._width = rest


class BitReader:
    """Bytes in, numbers out. Raises EndOfBits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        self._at = 0

    @property
    def left(self) -> int:
        """How many bits were not taken."""
        return len(self._bits) - self._at

    def take(self, width: int) -> int:
        """What `put` has put."""
        start, end = self._at, self._at + width
        if end > len(self._bits):
            raise EndOfBits
        self._at = end
        return int(self._bits[start:end], 2) if width else 0

    def take_flag(self) -> bool:
        """What `put_flag` has put."""
        return self.take(1) == 1

    def take_small(self) -> int:
        """What `put_small` has put."""
        value = 0
        while (group := self.take(4)) & 8:
            value = value << 3 | group & 7
            if value >> MAX_SMALL_BITS:
                raise EndOfBits
        return value << 3 | group

    def take_sized(self) -> int:
        """What `put_sized` has put."""
        size = self.take(SIZE_BITS)
        return (1 << size >> 1) + self.take(max(0, size - 1))

    def take_digits(self, count: int, radix: int) -> list[int]:
        """`count` numbers that `put_digits` has put. May give numbers not below `radix`."""
        # So many bits are needed at least: an invented count is refused before it costs anything.
        self.check(count * (radix.bit_length() - 1))
        digits: list[int] = []
        while count > len(digits):
            size = min(RUN, count - len(digits))
            digits += self._run(size, radix)
        return digits

    def take_rice(self, count: int, k: int) -> list[int]:
        """`count` numbers that `put_rice` has put."""
        numbers = []
        for _ in range(count):
            start, end = self._at, self._bits.find("0", self._at)
            if end < 0:
                raise EndOfBits
            self._at = end + 1
            numbers.append(end - start << k | self.take(k))
        return numbers

    def take_bytes(self, size: int) -> bytes:
        """What `put_bytes` has put."""
        self.check(8 * size)
        start, shift = divmod(self._at, 8)
        self._at += 8 * size
        if not shift:
            return self._data[start : start + size]
        # As a number, with the bits of the first and the last byte that belong to others.
        number = int.from_bytes(self._data[start : start + size + 1], "big") >> (8 - shift)
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "big")

    def check(self, width: int) -> None:
        """Raise EndOfBits unless so many bits are left."""
        if self._at + width > len(self._bits):
            raise EndOfBits

    def finish(self) -> None:
        """Raise EndOfBits unless only zero bits are left, less than a byte of them."""
        if self.left > 7 or "1" in self._bits[self._at :]:
            raise EndOfBits

    def _run(self, size: int, radix: int) -> list[int]:
        number = self.take(_run_bits(size, radix))
        digits = []
        for _ in range(size):
            number, digit = divmod(number, radix)
            digits.append(digit)
        return digits[::-1]


def _run_bits(size: int, radix: int) -> int:
    """How many bits the largest number of so many digits has."""
    largest: int = radix**size - 1
    return largest.bit_length()
