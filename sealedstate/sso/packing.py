"""Identifiers to the bytes that they stand for, and back to exactly the same text.

Knows how random identifiers are written. Does not know where they stand, or that any text has to
be one of them: what would not come back letter by letter is not packed.

A shape is (beginning, alphabet, size): a text of that shape is the beginning and `size` bytes in
the alphabet. Packing is structure and no compression: each text of a shape takes as many bytes.
The tables are part of the format of login records: a change of any kind is a new format.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

# Shorter texts may be words, and would only scatter logins over many shapes.
MIN_BYTES = 8
MAX_BYTES = 64

BEGINNINGS = ("", "_", "id-", "id", "ID_", "ONELOGIN_", "urn:uuid:", "uuid:")


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """How a text is written. `beginning` and `alphabet` count into the tables, `size` bytes."""

    beginning: int
    alphabet: int
    size: int


# What identity providers and service providers use most: these take half a byte to name.
USUAL_SHAPES = (Shape(1, 0, 16), Shape(0, 8, 20), Shape(0, 8, 32), Shape(0, 2, 16))


def pack(text: str) -> tuple[Shape, bytes] | None:
    """The shape and the bytes of `text`, the fewest possible; None when it is none of ours."""
    found = [
        packed
        for beginning, letters in enumerate(BEGINNINGS)
        if text.startswith(letters)
        and (packed := _packed(beginning, text, text[len(letters) :])) is not None
    ]
    return min(found, key=lambda packed: packed[0].size, default=None)


def unpack(shape: Shape, data: bytes) -> str:
    """The text of a shape that `data` stands for. Raises ValueError for a shape that is none."""
    if not (shape.beginning < len(BEGINNINGS) and shape.alphabet < len(_ALPHABETS)):
        raise ValueError("no shape")
    _, write, _ = _ALPHABETS[shape.alphabet]
    return BEGINNINGS[shape.beginning] + write(data)


def _packed(beginning: int, text: str, rest: str) -> tuple[Shape, bytes] | None:
    """`text` in the first alphabet that has it, letter by letter, behind its beginning."""
    for alphabet, (letters, _, read) in enumerate(_ALPHABETS):
        if letters.fullmatch(rest):
            with contextlib.suppress(ValueError):
                data = read(rest)
                shape = Shape(beginning, alphabet, len(data))
                if MIN_BYTES <= len(data) <= MAX_BYTES and unpack(shape, data) == text:
                    return shape, data
    return None


def _write_uuid(data: bytes) -> str:
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _read_uuid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


def _write_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _write_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _write_base32(data: bytes) -> str:
    return base64.b32encode(data).decode()


def _read_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


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
