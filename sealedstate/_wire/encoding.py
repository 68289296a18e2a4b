"""Tokens and names to texts, and back. docs/format.md is the specification.

A token has exactly one text: foreign letters, an impossible length and set bits after the last byte
are refused. ADR 0008 says why the letters are these.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

from ..errors import MalformedToken

# Letters 62 and 63.
LAST_LETTERS = "*_"
# OWASP CRS 3.3 and 4 refuse cookies with these words, at paranoia levels 1 and 2.
REFUSED_WORDS = ("having", "*msdb*", "*0x")
_HAVING, _MSDB, _0X = REFUSED_WORDS
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" + LAST_LETTERS
_LETTER_62, _LETTER_63 = (letter.encode() for letter in LAST_LETTERS)
# Every other character ('+', '/' and '=', too) becomes '!', which the strict decoder refuses.
_FROM_OURS = bytes(
    b"+/"[LAST_LETTERS.index(chr(code))]
    if chr(code) in LAST_LETTERS
    else code
    if chr(code) in _LETTERS
    else b"!"[0]
    for code in range(256)
)
# The low bits of the last letter that belong to no byte, by the length modulo 4.
_UNUSED_BITS = {2: 0b1111, 3: 0b11}
_VALUE = {letter: value for value, letter in enumerate(_LETTERS)}
_PADDING = (b"", b"", b"==", b"=")


def to_text(token: bytes) -> str:
    """The text of a token."""
    letters = binascii.b2a_base64(token, newline=False).rstrip(b"=")
    # Faster than `translate`.
    return letters.replace(b"+", _LETTER_62).replace(b"/", _LETTER_63).decode()


def from_text(text: str) -> bytes:
    """The token with this text. Raises MalformedToken if there is none."""
    remainder = len(text) % 4
    if remainder == 1:
        raise MalformedToken
    try:
        # Bytes of other characters than ASCII become '!', too.
        letters = text.encode().translate(_FROM_OURS) + _PADDING[remainder]
        token = binascii.a2b_base64(letters, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedToken from None
    # Otherwise several texts would open the same token, and a digest of a text would mean nothing.
    if remainder and _VALUE[text[-1]] & _UNUSED_BITS[remainder]:
        raise MalformedToken
    return token


def to_name(data: bytes) -> str:
    """The text of a name in a store, or of an identifier."""
    return to_text(data).replace("*", ".")


def from_name(name: str) -> bytes:
    """The bytes of such a text. Raises MalformedToken if it has none."""
    if "*" in name:
        raise MalformedToken
    return from_text(name.replace(".", "*"))


def has_refused_word(text: str) -> bool:
    """Whether a web application firewall may refuse a cookie with this text."""
    lower = text.lower()
    return _HAVING in lower or _MSDB in lower or _0X in lower


def token_bytes(chars: int) -> int:
    """How many bytes of a token fit into `chars` characters; never less than 0."""
    return max(0, chars * 3 // 4)


def split(text: str, sizes: Sequence[int]) -> list[str]:
    """Cut `text` into as few chunks as possible, of at most `sizes` characters.

    Raises ValueError if `text` is longer than all sizes together.
    """
    chunks = []
    for size in sizes:
        if not text:
            break
        chunks.append(text[:size])
        text = text[size:]
    if text:
        raise ValueError("the text is longer than all chunks together")
    return chunks


def has_lone_surrogate(text: str) -> bool:
    """Whether `text` is no valid Unicode, so that UTF-8 can't encode it."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
