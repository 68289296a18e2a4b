"""Payload to sealed token and back: format 1.

docs/format.md is the specification of tokens, their contexts, and the order of the checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

from ..errors import ForgedToken, KeyDisabled, KeyOutOfUse, MalformedToken, UnknownFormat
from ..keyring import Key, Keyring, length_prefixed
from .aead import NONCE_BYTES, TAG_BYTES, decrypt, encrypt
from .encoding import has_refused_word, to_text

FORMAT = b"\x01"
# First bytes of formats that a later release may write.
NEWER_FORMATS = range(0x02, 0x10)
PREFIX_BYTES = 1 + 4 + 5
HEADER_BYTES = PREFIX_BYTES + NONCE_BYTES
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
ENTROPY_BYTES = 32
# The header: format, kid, the time in one and four bytes, nonce. One call costs less than the
# slices and numbers that it makes.
_unpack_header = Struct(">B4sBL24s").unpack_from
# How often a text is sealed again for a word that firewalls refuse: once for 2 % of long texts.
MAX_SEALS = 4


@dataclass(frozen=True, slots=True)
class TokenContext:
    """What a token is sealed for. It opens in no other context."""

    purpose: str
    realm: str
    name: tuple[str | bytes, ...]
    # `context` and LP(context) of the specification, and the name of the subkeys: computed once,
    # because the context of the core serves all requests.
    encoded: bytes = field(init=False, repr=False, compare=False)
    prefixed: bytes = field(init=False, repr=False, compare=False)
    subkeys: tuple[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        encoded = length_prefixed("sealedstate/1", self.purpose, self.realm, *self.name)
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "prefixed", length_prefixed(encoded))
        object.__setattr__(self, "subkeys", (self.purpose, self.realm))


class Opened(NamedTuple):
    """An authentic payload, the key that sealed it, and when (epoch seconds)."""

    payload: bytes
    key: Key
    sealed_at: int

    def __repr__(self) -> str:
        return f"<Opened, sealed at {self.sealed_at} under {self.key!r}>"


def seal(payload: bytes, context: TokenContext, key: Key, sealed_at: int, entropy: bytes) -> bytes:
    """Seal `payload` for `context` under `key`. `entropy` is 32 random bytes."""
    # Fewer random bytes would leave the nonce to the plaintext, which may well repeat.
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"entropy: expected {ENTROPY_BYTES} bytes, got {len(entropy)}")
    subkey, hasher = key.subkeys[context.subkeys]
    prefix = FORMAT + key.kid + sealed_at.to_bytes(5, "big")
    # The nonce covers the prefix, as the associated data do. If the random source is stuck, one
    # nonce for two prefixes would reveal the key of Poly1305.
    hedge = hasher.copy()
    hedge.update(b"".join((entropy, context.prefixed, prefix, payload)))
    nonce = hedge.digest()
    header = prefix + nonce
    return header + encrypt(payload, context.encoded + header, nonce, subkey)


def seal_text(
    payload: bytes,
    context: TokenContext,
    key: Key,
    sealed_at: int,
    random: Callable[[int], bytes],
) -> tuple[str, bytes]:
    """The text of a token for a cookie, and the token.

    `random` returns as many bytes as it is asked for.
    """
    token = seal(payload, context, key, sealed_at, random(ENTROPY_BYTES))
    text, seals = to_text(token), 1
    while has_refused_word(text) and seals < MAX_SEALS:
        token = seal(payload, context, key, sealed_at, random(ENTROPY_BYTES))
        text, seals = to_text(token), seals + 1
    return text, token


def open_token(token: bytes, context: TokenContext, keyring: Keyring, now: int) -> Opened:
    """The payload of a token that was sealed for `context`.

    `now` (epoch seconds) only decides whether the key has expired. Raises an UnreadableError.
    """
    return Opened(*unseal(token, context, keyring, now))


def unseal(
    token: bytes, context: TokenContext, keyring: Keyring, now: int
) -> tuple[bytes, Key, int]:
    """The same, in a tuple, which costs less to make: payload, key, time of the seal."""
    # Another format may be a newer release's. A shorter token has no whole header and tag.
    if len(token) < OVERHEAD_BYTES or token[0] != FORMAT[0]:
        if not _has_prefix(token):
            raise MalformedToken
        raise UnknownFormat(token[1:5], int.from_bytes(token[5:PREFIX_BYTES], "big"))
    _, kid, high, sealed_at, nonce = _unpack_header(token)
    if high:
        sealed_at += high << 32
    # Exactly one key can open it. An expired or revoked key opens nothing, however good the tag.
    key = keyring.find_verifying(kid, now, sealed_at)
    # The header is in the associated data: a token with another kid, time or nonce fails here. So
    # does a token of another purpose, realm or name, by its subkey or by its context.
    data, subkey = context.encoded + token[:HEADER_BYTES], key.subkeys[context.subkeys][0]
    payload = decrypt(token[HEADER_BYTES:], data, nonce, subkey)
    if payload is None:
        raise ForgedToken(kid=key.kid, claimed_at=sealed_at)
    # A stolen key that no longer seals must not make tokens dated today, nor a new key old ones.
    if not keyring.may_have_sealed(key, sealed_at):
        raise KeyOutOfUse(kid=key.kid)
    # Last, because the payload of a good token says when the cookie of a disabled key is over.
    if key.disabled:
        raise KeyDisabled(payload, key.kid, sealed_at)
    return payload, key, sealed_at


def kid_of(token: bytes) -> bytes | None:
    """The kid of a token of this or a newer format, not verified; None for anything else."""
    return token[1:5] if _has_prefix(token) else None


def claimed_at(token: bytes) -> int | None:
    """When a token of this or a newer format claims to be sealed (epoch seconds).

    It is not verified: it may end a withholding, but never lengthen a life. None for anything else.
    """
    return int.from_bytes(token[5:PREFIX_BYTES], "big") if _has_prefix(token) else None


def _has_prefix(token: bytes) -> bool:
    if token[:1] == FORMAT:
        return len(token) >= OVERHEAD_BYTES
    return len(token) >= PREFIX_BYTES and token[0] in NEWER_FORMATS
