"""Strings to bits and back, short without compression.

No length depends on how two strings resemble one another: an attacker who chooses one of them
learns nothing about the others from the size of a cookie. Everything here is part of the format
of login records: a change of any kind is a new format.

Any text (`put_text`, `take_text`) is its longest prefix in `TEXT_PREFIXES`, the longest suffix of
the rest in `TEXT_SUFFIXES`, and the letters between them. In the codes of `bits`:

    prefix      small, its position in `TEXT_PREFIXES`
    suffix      small, its position in `TEXT_SUFFIXES`
    alphabet    2 bits, the first that has all letters: 0 the 42 of `_LOWER`, 1 the 95 of printable
                ASCII, 2 UTF-8
    letters     small, their number, then digits below 42 or 95, positions in the alphabet; or
                small, the number of bytes in UTF-8, then these bytes

A random identifier (`pack`, `unpack`) of shape (prefix, alphabet, size) is an entry of `PREFIXES`
and behind it `size` bytes, 8 to 64, in an alphabet:

    0, 1     hex digits, lower and upper case
    2, 3     UUIDs, lower and upper case (16 bytes)
    4 to 7   base32: upper case with padding, upper without, lower with, lower without
    8, 9     base64 with padding, without
    10, 11   base64url with padding, without

A text is packed only if unpacking gives the same text, character by character. Of several shapes
the smallest size counts, then the first prefix, then the first alphabet.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import NamedTuple

from .bits import BitReader, BitWriter, EndOfBits
from .tables import TEXT_PREFIXES, TEXT_SUFFIXES

# --- random identifiers -------------------------------------------------------------------------

# Shorter texts may be words; packing them would only spread logins over many shapes.
MIN_BYTES = 8
MAX_BYTES = 64

PREFIXES = ("", "_", "id-", "id", "ID_", "ONELOGIN_", "urn:uuid:", "uuid:")


class Shape(NamedTuple):
    """How an identifier is spelled.

    `prefix` and `alphabet` are positions in their tables, `size` is the number of bytes.
    """

    prefix: int
    alphabet: int
    size: int


# What identity providers and service providers use most: half a byte names each of these.
COMMON_SHAPES = (Shape(1, 0, 16), Shape(0, 8, 20), Shape(0, 8, 32), Shape(0, 2, 16))


class _Alphabet(NamedTuple):
    """How bytes are spelled.

    `pattern` and `decode` may accept more than `encode` writes.
    """

    pattern: re.Pattern[str]
    encode: Callable[[bytes], str]
    decode: Callable[[str], bytes]


def pack(text: str) -> tuple[Shape, bytes] | None:
    """Return the shape and the bytes of an identifier, the fewest possible.

    None for a text of no shape.
    """
    best, chars = None, len(text)
    for position, prefix in _PREFIXES_BY_LETTER.get(text[:1], _NO_PREFIX):
        alphabets = _ALPHABETS_BY_LENGTH.get(chars - len(prefix))
        if not alphabets or not text.startswith(prefix):
            continue
        rest = text[len(prefix) :]
        for alphabet in alphabets:
            pattern, encode, decode = _ALPHABETS[alphabet]
            if not pattern.fullmatch(rest):
                continue
            try:
                data = decode(rest)
            except ValueError:  # the right letters, but an impossible number of them
                continue
            if MIN_BYTES <= len(data) <= MAX_BYTES and encode(data) == rest:
                if best is None or len(data) < best[0].size:
                    best = Shape(position, alphabet, len(data)), data
                break  # the first alphabet that spells it exactly
    return best


def unpack(shape: Shape, data: bytes) -> str:
    """Return the identifier of `shape` with the bytes `data`.

    Raises ValueError for positions that no table has.
    """
    if not (shape.prefix < len(PREFIXES) and shape.alphabet < len(_ALPHABETS)):
        raise ValueError("unknown shape")
    return PREFIXES[shape.prefix] + _ALPHABETS[shape.alphabet].encode(data)


def _encode_uuid(data: bytes) -> str:
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _decode_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _encode_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _encode_base32(data: bytes) -> str:
    return base64.b32encode(data).decode()


def _decode_base64(text: str) -> bytes:
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


def _decode_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _decode_base32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


# Ordered so that the first alphabet that fits takes the fewest bytes. 64 bytes take 128 hex digits,
# and fewer letters in every other alphabet.
_ALPHABETS = tuple(
    _Alphabet(re.compile(pattern, re.ASCII), encode, decode)
    for pattern, encode, decode in (
        ("[0-9a-f]{16,128}", bytes.hex, bytes.fromhex),
        ("[0-9A-F]{16,128}", lambda data: data.hex().upper(), bytes.fromhex),
        ("x{8}-x{4}-x{4}-x{4}-x{12}".replace("x", "[0-9a-f]"), _encode_uuid, _decode_uuid),
        (
            "x{8}-x{4}-x{4}-x{4}-x{12}".replace("x", "[0-9A-F]"),
            lambda data: _encode_uuid(data).upper(),
            _decode_uuid,
        ),
        ("[A-Z2-7]{12,104}={0,6}", _encode_base32, _decode_base32),
        ("[A-Z2-7]{12,104}", lambda data: _encode_base32(data).rstrip("="), _decode_base32),
        ("[a-z2-7]{12,104}={0,6}", lambda data: _encode_base32(data).lower(), _decode_base32),
        ("[a-z2-7]{12,104}", lambda data: _encode_base32(data).rstrip("=").lower(), _decode_base32),
        ("[A-Za-z0-9+/]{10,86}={0,2}", _encode_base64, _decode_base64),
        ("[A-Za-z0-9+/]{10,86}", lambda data: _encode_base64(data).rstrip("="), _decode_base64),
        ("[A-Za-z0-9_-]{10,86}={0,2}", _encode_base64url, _decode_base64url),
        (
            "[A-Za-z0-9_-]{10,86}",
            lambda data: _encode_base64url(data).rstrip("="),
            _decode_base64url,
        ),
    )
)


# The prefixes that a first letter leaves, and the alphabets that a length leaves: most texts are
# tried with one or two. How many letters an alphabet writes depends on the number of bytes alone.
_NO_PREFIX = ((0, ""),)
_PREFIXES_BY_LETTER = {
    letter: tuple((n, text) for n, text in enumerate(PREFIXES) if text[:1] in ("", letter))
    for letter in {text[:1] for text in PREFIXES}
}
_LENGTHS = [
    {len(alphabet.encode(bytes(size))) for size in range(MIN_BYTES, MAX_BYTES + 1)}
    for alphabet in _ALPHABETS
]
_ALPHABETS_BY_LENGTH = {
    chars: tuple(n for n, lengths in enumerate(_LENGTHS) if chars in lengths)
    for chars in set[int]().union(*_LENGTHS)
}

# --- any text -----------------------------------------------------------------------------------

_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789.-/_:@"
_ASCII = "".join(chr(code) for code in range(32, 127))
_LETTERS = tuple(
    (letters, {letter: digit for digit, letter in enumerate(letters)})
    for letters in (_LOWER, _ASCII)
)
_UTF8 = len(_LETTERS)


def put_text(writer: BitWriter, text: str) -> None:
    """Append any text without lone surrogates."""
    prefix = _longest(TEXT_PREFIXES, text.startswith)
    rest = text[len(TEXT_PREFIXES[prefix]) :]
    suffix = _longest(TEXT_SUFFIXES, rest.endswith)
    rest = rest[: len(rest) - len(TEXT_SUFFIXES[suffix])]
    writer.put_small(prefix)
    writer.put_small(suffix)
    for number, (_, digits) in enumerate(_LETTERS):
        if all(letter in digits for letter in rest):
            writer.put(number, 2)
            writer.put_small(len(rest))
            writer.put_digits([digits[letter] for letter in rest], len(digits))
            return
    data = rest.encode()
    writer.put(_UTF8, 2)
    writer.put_small(len(data))
    writer.put_bytes(data)


def take_text(reader: BitReader) -> str:
    """Read what `put_text` wrote. Raises ValueError, also for any other form of the text."""
    prefix, suffix = reader.take_small(), reader.take_small()
    if prefix >= len(TEXT_PREFIXES) or suffix >= len(TEXT_SUFFIXES):
        raise ValueError("unknown prefix or suffix")
    number, size = reader.take(2), reader.take_small()
    if number == _UTF8:
        letters = reader.take_bytes(size).decode()
    elif number > _UTF8:
        raise EndOfBits
    else:
        alphabet, _ = _LETTERS[number]
        letters = "".join(alphabet[digit] for digit in reader.take_digits(size, len(alphabet)))
    # An earlier alphabet, a longer prefix or a longer suffix would have been written.
    for _, digits in _LETTERS[:number]:
        if all(letter in digits for letter in letters):
            raise ValueError("another alphabet")
    rest = letters + TEXT_SUFFIXES[suffix]
    text = TEXT_PREFIXES[prefix] + rest
    if _longest(TEXT_PREFIXES, text.startswith) != prefix:
        raise ValueError("another prefix")
    if _longest(TEXT_SUFFIXES, rest.endswith) != suffix:
        raise ValueError("another suffix")
    return text


def _longest(parts: tuple[str, ...], fits: Callable[[str], bool]) -> int:
    return max((n for n, part in enumerate(parts) if fits(part)), key=lambda n: len(parts[n]))
