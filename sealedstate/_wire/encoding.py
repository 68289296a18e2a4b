"""Token to cookie-sized texts, and back.

Knows sizes and text. Does not know cookie names, keys or what a token holds.

The text of a token is base64 (RFC 4648) with ``.`` and ``_`` for its last two letters and without
padding: as short as base64url, every letter legal in a cookie, cheap in HTTP/2's Huffman code, and
never containing ``--``, which web application firewalls take for SQL. Exactly one text stands for a
token: foreign letters, an impossible length and set bits after the last byte are refused.

A core is one cookie, NAME. The text of overflow (not its bytes) is cut into up to seven chunks, the
cookies NAME-1 to NAME-7, and joined in the order of their numbers, as many as the manifest says.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

from ..errors import MalformedToken

_TO_OURS = bytes.maketrans(b"+/", b"._")
# How many unused low bits the last letter has, by the length's remainder: they must be zero.
_UNUSED_BITS = {0: 0, 2: 0b1111, 3: 0b11}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._"
_VALUE = {letter: value for value, letter in enumerate(_LETTERS)}
# What is no letter of ours ('+', '/' and '=', too) becomes '!', which the strict decoder refuses.
_FROM_OURS = bytes(
    b"+"[0]
    if code == ord(".")
    else b"/"[0]
    if code == ord("_")
    else code
    if chr(code) in _LETTERS
    else b"!"[0]
    for code in range(256)
)
_PADDING = (b"", b"", b"==", b"=")


def to_text(token: bytes) -> str:
    """The one text that stands for `token`."""
    return binascii.b2a_base64(token, newline=False).translate(_TO_OURS, b"=").decode("ascii")


def from_text(text: str) -> bytes:
    """The token that `text` stands for. Raises MalformedToken for every other text."""
    remainder = len(text) % 4
    if remainder == 1:
        raise MalformedToken
    try:
        letters = text.encode("ascii").translate(_FROM_OURS) + _PADDING[remainder]
        token = binascii.a2b_base64(letters, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedToken from None
    if text and _VALUE[text[-1]] & _UNUSED_BITS[remainder]:
        raise MalformedToken
    return token


def text_chars(token_bytes: int) -> int:
    """How many characters a token of so many bytes takes."""
    return (token_bytes * 4 + 2) // 3


def token_bytes(chars: int) -> int:
    """How many bytes of token fit into so many characters; never less than 0."""
    return max(0, chars * 3 // 4)


def split(text: str, rooms: Sequence[int]) -> list[str]:
    """Cut `text` into chunks of at most `rooms` characters each, as few as possible.

    Raises ValueError when the rooms are too small in all.
    """
    chunks = []
    for room in rooms:
        if not text:
            break
        chunks.append(text[:room])
        text = text[room:]
    if text:
        raise ValueError("the text is larger than its rooms")
    return chunks


def join(chunks: Sequence[str]) -> str:
    """What `split` has cut."""
    return "".join(chunks)


def has_lone_surrogate(text: str) -> bool:
    """Whether `text` is no valid Unicode, so that UTF-8 can't encode it."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
