"""Text to bits, and back: short without being compressed.

Knows letters and the tables of beginnings and endings. Does not know whose text it is.

A text is written as: its beginning and its ending (small numbers, positions in `wellknown`, the
longest that fit, beginning first), an alphabet (2 bits, the first that has all its letters), the
number of letters between (small), and these as digits: below 42 or 95, or the bytes of UTF-8 as
they are. So the length depends on the text alone, never on another one beside it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from .bits import BitReader, BitWriter, EndOfBits
from .tables import BEGINNINGS as TEXT_BEGINNINGS
from .tables import ENDINGS

# FOLD sealedstate.sso.packing
# Identifiers to the bytes that they stand for, and back to exactly the same text.
#
# Knows how random identifiers are written. Does not know where they stand, or that any text has to
# be one of them: what would not come back letter by letter is not packed.
#
# A shape is (beginning, alphabet, size): a text of that shape is the beginning and `size` bytes in
# the alphabet. Packing is structure and no compression: each text of a shape takes as many bytes.
# The tables are part of the format of login records: a change of any kind is a new format.


# Shorter texts may be words, and would only scatter logins over many shapes.
MIN_BYTES = 8
MAX_BYTES = 64

BEGINNINGS = ("", "_", "id-", "id", "ID_", "ONELOGIN_", "urn:uuid:", "uuid:")


class Shape(NamedTuple):
    """How a text is written. `beginning` and `alphabet` count into the tables, `size` bytes."""

    beginning: int
    alphabet: int
    size: int


# What identity providers and service providers use most: these take half a byte to name.
USUAL_SHAPES = (Shape(1, 0, 16), Shape(0, 8, 20), Shape(0, 8, 32), Shape(0, 2, 16))


def pack(text: str) -> tuple[Shape, bytes] | None:
    """The shape and the bytes of `text`, the fewest possible; None when it is none of ours."""
    best, chars = None, len(text)
    for beginning, letters in _BEGINNINGS_OF.get(text[:1], _NO_BEGINNING):
        alphabets = _ALPHABETS_OF.get(chars - len(letters))
        if alphabets and text.startswith(letters):
            packed = _packed(beginning, text[len(letters) :], alphabets)
            if packed and (best is None or packed[0].size < best[0].size):
                best = packed
    return best


def unpack(shape: Shape, data: bytes) -> str:
    """The text of a shape that `data` stands for. Raises ValueError for a shape that is none."""
    beginning, alphabet, _ = shape
    if not (beginning < len(BEGINNINGS) and alphabet < len(_ALPHABETS)):
        raise ValueError("no shape")
    _, write, _ = _ALPHABETS[alphabet]
    return BEGINNINGS[beginning] + write(data)


def _packed(beginning: int, rest: str, alphabets: Sequence[int]) -> tuple[Shape, bytes] | None:
    """What stands behind a beginning, in the first alphabet that has it letter by letter."""
    for number in alphabets:
        letters, write, read = _ALPHABETS[number]
        if letters.fullmatch(rest):
            data = _read(read, rest)
            if MIN_BYTES <= len(data) <= MAX_BYTES and write(data) == rest:
                return Shape(beginning, number, len(data)), data
    return None


def _read(read: Callable[[str], bytes], text: str) -> bytes:
    """The bytes; none where the alphabet has the letters, but not so many of them."""
    try:
        return read(text)
    except ValueError:
        return b""


def _write_uuid(data: bytes) -> str:
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _read_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _write_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _write_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _write_base32(data: bytes) -> str:
    return base64.b32encode(data).decode()


def _read_base64(text: str) -> bytes:
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


def _read_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _read_base32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


_Alphabet: TypeAlias = tuple[re.Pattern[str], Callable[[bytes], str], Callable[[str], bytes]]


def _alphabet(
    letters: str, write: Callable[[bytes], str], read: Callable[[str], bytes]
) -> _Alphabet:
    """The texts that may be written so, what writes bytes, and what reads them again.

    The pattern and the reader may take more than the writer gives: whether a text is really
    written so, `pack` sees by writing it again.
    """
    return re.compile(letters, re.ASCII), write, read


_UUID = "x{8}-x{4}-x{4}-x{4}-x{12}"
# In the order of letters per byte, so that the first one that fits takes the fewest bytes. 64 bytes
# are 128 hex digits, and fewer letters of every other alphabet.
_ALPHABETS: tuple[_Alphabet, ...] = (
    _alphabet("[0-9a-f]{16,128}", bytes.hex, bytes.fromhex),
    _alphabet("[0-9A-F]{16,128}", lambda data: data.hex().upper(), bytes.fromhex),
    _alphabet(_UUID.replace("x", "[0-9a-f]"), _write_uuid, _read_uuid),
    _alphabet(_UUID.replace("x", "[0-9A-F]"), lambda data: _write_uuid(data).upper(), _read_uuid),
    _alphabet("[A-Z2-7]{12,104}={0,6}", _write_base32, _read_base32),
    _alphabet("[A-Z2-7]{12,104}", lambda data: _write_base32(data).rstrip("="), _read_base32),
    _alphabet("[a-z2-7]{12,104}={0,6}", lambda data: _write_base32(data).lower(), _read_base32),
    _alphabet(
        "[a-z2-7]{12,104}", lambda data: _write_base32(data).rstrip("=").lower(), _read_base32
    ),
    _alphabet("[A-Za-z0-9+/]{10,86}={0,2}", _write_base64, _read_base64),
    _alphabet("[A-Za-z0-9+/]{10,86}", lambda data: _write_base64(data).rstrip("="), _read_base64),
    _alphabet("[A-Za-z0-9_-]{10,86}={0,2}", _write_base64url, _read_base64url),
    _alphabet(
        "[A-Za-z0-9_-]{10,86}", lambda data: _write_base64url(data).rstrip("="), _read_base64url
    ),
)


_NO_BEGINNING = ((0, ""),)


def _beginnings_of(first: str) -> tuple[tuple[int, str], ...]:
    return tuple((n, text) for n, text in enumerate(BEGINNINGS) if text[:1] in ("", first))


def _alphabets_of() -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for number, (_, write, _) in enumerate(_ALPHABETS):
        for chars in {len(write(bytes(size))) for size in range(MIN_BYTES, MAX_BYTES + 1)}:
            found[chars] = (*found.get(chars, ()), number)
    return found


# Which beginnings a first letter leaves, and which alphabets a number of letters: most texts are
# tried with one or two. An alphabet writes so many bytes in so many letters, whatever they are.
_BEGINNINGS_OF = {text[:1]: _beginnings_of(text[:1]) for text in BEGINNINGS}
_ALPHABETS_OF = _alphabets_of()


_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789.-/_:@"
_ASCII = "".join(chr(code) for code in range(32, 127))
_LETTERS_OF_TEXTS = tuple(
    (letters, {letter: digit for digit, letter in enumerate(letters)})
    for letters in (_LOWER, _ASCII)
)
UTF8 = len(_LETTERS_OF_TEXTS)


def put_text(writer: BitWriter, text: str) -> None:
    """Any text without lone surrogates."""
    beginning = _longest([text.startswith(part) for part in TEXT_BEGINNINGS], TEXT_BEGINNINGS)
    rest = text[len(TEXT_BEGINNINGS[beginning]) :]
    ending = _longest([rest.endswith(part) for part in ENDINGS], ENDINGS)
    writer.put_small(beginning)
    writer.put_small(ending)
    _put_letters(writer, rest[: len(rest) - len(ENDINGS[ending])])


def take_text(reader: BitReader) -> str:
    """What `put_text` has put. Raises ValueError."""
    beginning, ending = reader.take_small(), reader.take_small()
    if beginning >= len(TEXT_BEGINNINGS) or ending >= len(ENDINGS):
        raise ValueError("no such beginning or ending")
    return TEXT_BEGINNINGS[beginning] + _take_letters(reader) + ENDINGS[ending]


def _longest(fits: list[bool], parts: tuple[str, ...]) -> int:
    return max((n for n, fit in enumerate(fits) if fit), key=lambda n: len(parts[n]))


def _put_letters(writer: BitWriter, letters: str) -> None:
    for number, (_, digits) in enumerate(_LETTERS_OF_TEXTS):
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
    letters, _ = _LETTERS_OF_TEXTS[number]
    return "".join(letters[digit] for digit in reader.take_digits(size, len(letters)))
