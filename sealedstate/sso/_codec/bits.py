"""Numbers to a bit string and back.

The codes, which are part of the format of login records:

    flag      one bit
    small     groups of 3 bits, most significant first; a bit before each group says whether
              another group follows
    sized     the number's bit length in 6 bits, then its bits after the leading 1
    digits    numbers below one radix: each run of up to 64 of them forms one number in that radix,
              first digit most significant, in as many bits as the largest such number has
    rice      (q, r) = divmod(number, 2**k): q one bits, a zero bit, r in k bits

Bits fill bytes from the most significant bit down; the last byte is padded with zero bits. Each
number has one spelling, and the reader refuses any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RUN = 64
SIZE_BITS = 6
MAX_SMALL_BITS = 48
FLUSH = 8192


class EndOfBits(ValueError):
    """The bits end before the numbers do, continue after them, or spell one in another way."""


class BitWriter:
    """Appends numbers to a bit string, in the codes of this module."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._number, self._width = 0, 0

    def put(self, value: int, width: int) -> None:
        """Append `value` in exactly `width` bits."""
        self._number = self._number << width | value
        self._width += width
        if self._width > FLUSH:
            self._flush()

    def put_flag(self, flag: bool) -> bool:
        """Append one bit. Returns `flag`, for use in an `if`."""
        self.put(1 if flag else 0, 1)
        return flag

    def put_small(self, value: int) -> None:
        groups, width = value & 7, 4
        while value := value >> 3:
            groups |= (value & 7 | 8) << width
            width += 4
        self.put(groups, width)

    def put_sized(self, value: int) -> None:
        size = value.bit_length()
        self.put(size, SIZE_BITS)
        self.put(value - (1 << size >> 1), max(0, size - 1))

    def put_digits(self, digits: Sequence[int], radix: int) -> None:
        for start in range(0, len(digits), RUN):
            run = digits[start : start + RUN]
            number = 0
            for digit in run:
                number = number * radix + digit
            self.put(number, _run_bits(len(run), radix))

    def put_rice(self, values: Iterable[int], k: int) -> None:
        low = (1 << k) - 1
        for value in values:
            ones = value >> k
            self.put((2 << ones) - 2 << k | value & low, ones + 1 + k)

    def put_bytes(self, data: bytes) -> None:
        self.put(int.from_bytes(data, "big"), 8 * len(data))

    def finish(self) -> bytes:
        """Return the bytes, padded with zero bits."""
        self.put(0, -self._width % 8)
        self._flush()
        return bytes(self._bytes)

    def _flush(self) -> None:
        """Move whole bytes out of the number: shifting a long number costs time."""
        size, rest = divmod(self._width, 8)
        self._bytes += (self._number >> rest).to_bytes(size, "big")
        self._number &= (1 << rest) - 1
        self._width = rest


class BitReader:
    """Reads numbers from a bit string: each `take_` what `put_` wrote, or EndOfBits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        self._at = 0

    def take(self, width: int) -> int:
        start, end = self._at, self._at + width
        if end > len(self._bits):
            raise EndOfBits
        self._at = end
        return int(self._bits[start:end], 2) if width else 0

    def take_flag(self) -> bool:
        return self.take(1) == 1

    def take_small(self) -> int:
        value, group = 0, self.take(4)
        if group == 8:
            raise EndOfBits  # a leading zero
        while group & 8:
            value = value << 3 | group & 7
            if value >> MAX_SMALL_BITS:
                raise EndOfBits
            group = self.take(4)
        return value << 3 | group

    def take_sized(self) -> int:
        size = self.take(SIZE_BITS)
        return (1 << size >> 1) + self.take(max(0, size - 1))

    def take_digits(self, count: int, radix: int) -> list[int]:
        # Refuse an invented count before it costs anything: each digit takes at least this much.
        self.require(count * (radix.bit_length() - 1))
        digits: list[int] = []
        while count > len(digits):
            size = min(RUN, count - len(digits))
            number, run = self.take(_run_bits(size, radix)), []
            for _ in range(size):
                number, digit = divmod(number, radix)
                run.append(digit)
            if number:
                raise EndOfBits  # more than the digits say
            digits += reversed(run)
        return digits

    def take_rice(self, count: int, k: int) -> list[int]:
        numbers = []
        for _ in range(count):
            start, end = self._at, self._bits.find("0", self._at)
            if end < 0:
                raise EndOfBits
            self._at = end + 1
            numbers.append(end - start << k | self.take(k))
        return numbers

    def take_bytes(self, size: int) -> bytes:
        self.require(8 * size)
        start, shift = divmod(self._at, 8)
        self._at += 8 * size
        if not shift:
            return self._data[start : start + size]
        # The first and the last byte also hold bits of the neighbouring values.
        number = int.from_bytes(self._data[start : start + size + 1], "big") >> (8 - shift)
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "big")

    def require(self, width: int) -> None:
        """Raise EndOfBits if fewer than `width` bits remain."""
        if self._at + width > len(self._bits):
            raise EndOfBits

    def finish(self) -> None:
        """Raise EndOfBits unless only padding remains: fewer than 8 bits, all zero."""
        padding = self._bits[self._at :]
        if len(padding) > 7 or "1" in padding:
            raise EndOfBits


def _run_bits(size: int, radix: int) -> int:
    """Return how many bits the largest number of `size` digits has."""
    largest: int = radix**size - 1
    return largest.bit_length()
