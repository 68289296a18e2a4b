"""Payload to sealed token and back: format 1, and its specification.

Knows keys, bytes and places. Does not know what a payload means, cookies, stores or the clock, nor
how the cipher is called (`aead` does). The text form of a token is specified in `chunking`.

Format 1
========

A token is ``format | kid | nonce | ciphertext | tag``, 50 bytes over its payload:

    format      1 byte     0x01. It fixes every algorithm; nothing in a token chooses one.
    kid         4 bytes    selects exactly one key of the ring. Keys are never tried in turn.
    nonce      24 bytes
    ciphertext  n bytes    as long as the plaintext
    tag        16 bytes    never truncated

The *plaintext* is ``sealed_at | payload``: sealed_at is 5 bytes, big-endian, whole seconds since
1970-01-01T00:00:00Z; the payload is opaque here.

LP(a, b, ...) is the concatenation of each field's length (4 bytes, big-endian) and the field, text
as UTF-8. A *place* is what a token is sealed for: a purpose, a realm (the deployment), and the
fields of a name. From the 32-byte root secret of the key:

    K_seal  = BLAKE2b-256(key=secret, LP("sealedstate/1", "seal",  purpose, realm))
    K_nonce = BLAKE2b-256(key=secret, LP("sealedstate/1", "nonce", purpose, realm))
    context = LP("sealedstate/1", purpose, realm, name field 1, name field 2, ...)
    nonce   = BLAKE2b-192(key=K_nonce, random32 | LP(context) | plaintext)
    AD      = context | format | kid | nonce
    ciphertext | tag = XChaCha20-Poly1305-IETF(K_seal, nonce, AD, plaintext)

random32 is 32 random bytes. The nonce is a function of plaintext and place too, so that a stuck
random source repeats a nonce only for the very same token. Who opens can't and need not check it.

Places in use (purpose: name fields):

    core      cookie name
    overflow  cookie name, session id (16 bytes), set id (8 bytes)
    stored    storage context, storage key, version (8 bytes, big-endian)
    map       cookie name; the payload is specified in `cookie_storage`

What is stored, by context. A key is the text (see `chunking`) of a BLAKE2b-192:

    sealedstate.part       of LP("sealedstate/1", "part", session id, part name)
                           payload: the part's value, see `codec`
    sealedstate.revoked    of LP("sealedstate/1", "revoked", realm, session id)
                           payload: empty; or one zero byte, where it was ended from outside, by
                           its id; or when the session got a new id
    sealedstate.watermark  of LP("sealedstate/1", "watermark", realm, subject), with the 32 bytes of
                           the ring's lookup secret for a key
                           payload: until when the subject's sessions are refused

What an identity provider keeps there, by context, and what names it. `keyed`: by the lookup secret.

    sealedstate.sso.replay    keyed, LP("sealedstate/1", "replay", realm, issuer, message id)
                              16 random bytes, not sealed
    sealedstate.sso.artifact  LP("sealedstate/1", "artifact", realm, handle)
                              payload: LP(recipient), message
    sealedstate.sso.consent   keyed, LP("sealedstate/1", "consent", realm, subject)
                              payload: see `sso.consent`; by a lasting key

All times are whole seconds since 1970-01-01T00:00:00Z, 8 bytes, big-endian. A row of
sealedstate.revoked refuses its session by being there, also where it does not open.

To open: refuse fewer than 50 bytes, then another format byte, then an unknown kid, then a revoked,
expired or disabled key (of a key that is no more its kid is remembered); verify and decrypt; then
refuse a sealed_at at which the key was not allowed to seal: earlier than its activation minus the
skew, or later than its successor's activation plus announcement plus skew. A key without a date
activates at 0. A ring document says when each key was succeeded; elsewhere the successor is the key
with the next later activation that is not revoked, disabled or expired at sealed_at, and where
there is none, the key seals still. Nothing of the payload is looked at before that.

Sources: XChaCha20-Poly1305 is draft-irtf-cfrg-xchacha as in libsodium; BLAKE2b is RFC 7693.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ForgedToken, KeyOutOfUse, MalformedToken, UnknownFormat
from ..keyring import Key, Keyring, length_prefixed
from .aead import NONCE_BYTES, TAG_BYTES, decrypt, encrypt

FORMAT = b"\x01"
SEALED_AT_BYTES = 5
HEADER_BYTES = 1 + 4 + NONCE_BYTES
OVERHEAD_BYTES = HEADER_BYTES + SEALED_AT_BYTES + TAG_BYTES
ENTROPY_BYTES = 32


@dataclass(frozen=True, slots=True)
class TokenContext:
    """What a token is sealed for. It opens nowhere else."""

    purpose: str
    realm: str
    name: tuple[str | bytes, ...]
    context: bytes = field(init=False, repr=False, compare=False)
    prefixed_context: bytes = field(init=False, repr=False, compare=False)
    # Which of a key's secrets seal for it.
    lane: tuple[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        context = length_prefixed("sealedstate/1", self.purpose, self.realm, *self.name)
        object.__setattr__(self, "context", context)  # computed once; the dataclass is frozen
        object.__setattr__(self, "prefixed_context", length_prefixed(context))
        object.__setattr__(self, "lane", (self.purpose, self.realm))


class Opened(NamedTuple):
    """An authentic payload, the key that sealed it and when (epoch seconds)."""

    payload: bytes
    key: Key
    sealed_at: int

    def __repr__(self) -> str:
        return f"<Opened, sealed at {self.sealed_at} under {self.key!r}>"


def seal(payload: bytes, place: TokenContext, key: Key, sealed_at: int, entropy: bytes) -> bytes:
    """Seal `payload` for `place` under `key`. `entropy` is 32 random bytes."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"seal needs {ENTROPY_BYTES} bytes of entropy")
    secret, hasher = key.lanes.get(place.lane) or key.lane(*place.lane)
    plaintext = sealed_at.to_bytes(SEALED_AT_BYTES, "big") + payload
    hedge = hasher.copy()
    hedge.update(entropy + place.prefixed_context + plaintext)
    nonce = hedge.digest()
    header = FORMAT + key.kid + nonce
    return header + encrypt(plaintext, place.context + header, nonce, secret)


def open_token(token: bytes, place: TokenContext, keyring: Keyring, now: int) -> Opened:
    """The payload of `token`, sealed for `place`. Raises UnreadableError of some kind.

    `now` (epoch seconds) decides whether the key is still in use, nothing else.
    """
    if len(token) < OVERHEAD_BYTES:
        raise MalformedToken
    if token[:1] != FORMAT:
        raise UnknownFormat
    header, key = token[:HEADER_BYTES], keyring.by_kid.get(token[1:5])
    if key is None or key.revoked or key.disabled or key.expires_at is not None:
        key = keyring.usable_key(token[1:5], now)
    secret, _ = key.lanes.get(place.lane) or key.lane(*place.lane)
    plaintext = decrypt(token[HEADER_BYTES:], place.context + header, header[5:], secret)
    if plaintext is None:
        raise ForgedToken
    sealed_at = int.from_bytes(plaintext[:SEALED_AT_BYTES], "big")
    first, last = keyring.turns.get(key.kid) or keyring.turn(key, sealed_at)
    if not first <= sealed_at <= last:
        raise KeyOutOfUse(key.kid)
    return Opened(plaintext[SEALED_AT_BYTES:], key, sealed_at)


def kid_of(token: bytes) -> bytes | None:
    """The kid of the key that a token says it was sealed by; None where it is no token of ours."""
    return token[1:5] if len(token) >= OVERHEAD_BYTES and token[:1] == FORMAT else None
