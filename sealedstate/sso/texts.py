"""Text to bits, and back: short without being compressed.

Knows letters and the tables of beginnings and endings. Does not know whose text it is.

A text is written as: its beginning and its ending (small numbers, positions in `wellknown`, the
longest that fit, beginning first), an alphabet (2 bits, the first that has all its letters), the
number of letters between (small), and these as digits: below 42 or 95, or the bytes of UTF-8 as
they are. So the length depends on the text alone, never on another one beside it.
"""

from __future__ import annotations

from .bits import BitReader, BitWriter, EndOfBits
from .wellknown import BEGINNINGS, ENDINGS

_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789.-/_:@"
_ASCII = "".join(chr(code) for code in range(32, 127))
_ALPHABETS = tuple(
    (letters, {letter: digit for digit, letter in enumerate(letters)})
    for letters in (_LOWER, _ASCII)
)
UTF8 = len(_ALPHABETS)


def put_text(writer: BitWriter, text: str) -> None:
    """Any text without lone surrogates."""
    beginning = _longest([text.startswith(part) for part in BEGINNINGS], BEGINNINGS)
    rest = text[len(BEGINNINGS[beginning]) :]
    ending = _longest([rest.endswith(part) for part in ENDINGS], ENDINGS)
    writer.put_small(beginning)
    writer.put_small(ending)
    _put_letters(writer, rest[: len(rest) - len(ENDINGS[ending])])


def take_text(reader: BitReader) -> str:
    """What `put_text` has put. Raises ValueError."""
    beginning, ending = reader.take_small(), reader.take_small()
    if beginning >= len(BEGINNINGS) or ending >= len(ENDINGS):
        raise ValueError("no such beginning or ending")
    return BEGINNINGS[beginning] + _take_letters(reader) + ENDINGS[ending]


def _longest(fits: list[bool], parts: tuple[str, ...]) -> int:
    return max((n for n, fit in enumerate(fits) if fit), key=lambda n: len(parts[n]))


def _put_letters(writer: BitWriter, letters: str) -> None:
    for number, (_, digits) in enumerate(_ALPHABETS):
        if all(letter in digits for letter in letters):
            writer.put(number, 2)
            writer.put_small(len(letters))
            writer.put_digits([digits[letter] for letter in letters], len(digits))
            return
    data = letters.encode()
    writer.put(UTF8, 2)
    writer.put_small(len(data))
    writer.put_bytes(data)


def _take_letters(reader: BitReader) -> str:
    number, size = reader.take(2), reader.take_small()
    if number == UTF8:
        return reader.take_bytes(size).decode()
    if number > UTF8:
        raise EndOfBits
    letters, _ = _ALPHABETS[number]
    return "".join(letters[digit] for digit in reader.take_digits(size, len(letters)))
