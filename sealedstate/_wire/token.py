"""Payload to sealed token and back: format 1.


A token is ``format | kid | sealed_at | nonce | ciphertext | tag``, 50 bytes more than its payload:

    format      1 byte     0x01. It fixes every algorithm; nothing in a token chooses one.
    kid         4 bytes    selects exactly one key of the ring. Keys are never tried in turn.
    sealed_at   5 bytes    whole seconds since 1970-01-01T00:00:00Z, big-endian
    nonce      24 bytes
    ciphertext  n bytes    as long as the payload
    tag        16 bytes    never truncated

The *prefix* of a token is its first 10 bytes, ``format | kid | sealed_at``, and its *header* is
prefix and nonce. Both are authentic only if the tag is, and everyone who holds a token can read
them. The payload has no meaning here: `record` and `cbor` specify payloads, and `encoding`
specifies the text of a token.

LP(a, b, ...) is the concatenation of each field's length (4 bytes, big-endian) and the field, text
as UTF-8. A *token context* is what a token is sealed for: a purpose, a realm (the deployment), and
the fields of a name. From the 32-byte root secret of the key:

    K_seal  = BLAKE2b-256(key=secret, LP("sealedstate/1", "seal",  purpose, realm))
    K_nonce = BLAKE2b-256(key=secret, LP("sealedstate/1", "nonce", purpose, realm))
    context = LP("sealedstate/1", purpose, realm, name field 1, name field 2, ...)
    nonce   = BLAKE2b-192(key=K_nonce, random32 | LP(context) | prefix | payload)
    AD      = context | prefix | nonce
    ciphertext | tag = XChaCha20-Poly1305-IETF(K_seal, nonce, AD, payload)

random32 is 32 random bytes. The nonce also depends on payload, context and prefix, so a broken
random source repeats a nonce only for an identical token: one nonce for two AD would give away the
key of Poly1305. Recipients cannot verify the nonce and do not need to.

In every format, now and later, bytes 1 to 4 are the kid and bytes 5 to 9 sealed_at. A first byte
from 0x02 to 0x0f is a newer format; no other byte ever begins a token.

Token contexts in use (purpose: name fields):

    core      cookie name
    overflow  cookie name, session id (16 bytes), set id (8 bytes)
    stored    storage context, storage key, version (8 bytes, big-endian)
    map       cookie name; `storage.cookie` specifies the payload

To open a token, check in this order:

 1. a first byte from 0x02 to 0x0f, and at least 10 bytes: refuse, as a newer format;
 2. another first byte than 0x01, or fewer than 50 bytes: refuse, as no token;
 3. a kid that is not in the ring: refuse, as a key out of use if the ring lists the kid among its
    removed keys, and as an unknown key otherwise;
 4. a key that is revoked or expired: refuse;
 5. decrypt and verify the tag; refuse on failure;
 6. a sealed_at at which the key was not allowed to seal: refuse. It may seal from its activation
    minus the skew to its successor's activation plus announcement plus skew;
 7. a key that is disabled: refuse.

The payload is not read before all of them have passed. A key without a date activates at 0. A ring
document says when each key was succeeded. Without that, the successor is the key with the next
later activation that is not revoked, disabled or expired at sealed_at; a key without a successor
may still seal.

Stored values
=============

Values in the store, by storage context. The storage key is the text (see `encoding`) of a
BLAKE2b-192 of:

    sealedstate.part       LP("sealedstate/1", "part", session id, part name)
                           payload: the encoded value of the part, see `cbor`
    sealedstate.revoked    LP("sealedstate/1", "revoked", realm, session id)
                           payload: empty if the session was logged out; one zero byte if it was
                           ended by its id, from outside its own requests; or the time at which it
                           got a new id
    sealedstate.watermark  LP("sealedstate/1", "watermark", realm, subject), keyed with the 32 bytes
                           of the ring's lookup secret
                           payload: the time up to which sessions of the subject are refused

A row of sealedstate.revoked refuses its session by its existence, even if it cannot be opened. An
identity provider also stores the following; `keyed` means with the lookup secret:

    sealedstate.sso.replay    keyed, LP("sealedstate/1", "replay", realm, issuer, message id)
                              16 random bytes, not sealed
    sealedstate.sso.artifact  LP("sealedstate/1", "artifact", realm, handle)
                              payload: LP(recipient), message
    sealedstate.sso.consent   keyed, LP("sealedstate/1", "consent", realm, subject)
                              payload: see `sso.consent`; sealed by a long-term key

All times are whole seconds since 1970-01-01T00:00:00Z, 8 bytes, big-endian.

Sources: XChaCha20-Poly1305 is draft-irtf-cfrg-xchacha as in libsodium; BLAKE2b is RFC 7693.
=======
docs/format.md is the specification of tokens, their contexts, and the order of the checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
) -> str:
    """The text of a token for a cookie. `random` returns as many bytes as it is asked for."""
    text = to_text(seal(payload, context, key, sealed_at, random(ENTROPY_BYTES)))
    for _ in range(MAX_SEALS - 1):
        if not has_refused_word(text):
            break
        text = to_text(seal(payload, context, key, sealed_at, random(ENTROPY_BYTES)))
    return text


def open_token(token: bytes, context: TokenContext, keyring: Keyring, now: int) -> Opened:
    """The payload of a token that was sealed for `context`.

    `now` (epoch seconds) only decides whether the key has expired. Raises an UnreadableError.
    """
    # Another format may be a newer release's. In a shorter token, the slices that follow would
    # overlap or be empty.
    if token[:1] != FORMAT or len(token) < OVERHEAD_BYTES:
        if not _has_prefix(token):
            raise MalformedToken
        raise UnknownFormat(token[1:5], int.from_bytes(token[5:PREFIX_BYTES], "big"))
    sealed_at = int.from_bytes(token[5:PREFIX_BYTES], "big")
    # Exactly one key can open it. An expired or revoked key opens nothing, however good the tag.
    key = keyring.find_verifying(token[1:5], now, sealed_at)
    # The header is in the associated data: a token with another kid, time or nonce fails here. So
    # does a token of another purpose, realm or name, by its subkey or by its context.
    header, subkey = token[:HEADER_BYTES], key.subkeys[context.subkeys][0]
    payload = decrypt(token[HEADER_BYTES:], context.encoded + header, header[PREFIX_BYTES:], subkey)
    if payload is None:
        raise ForgedToken
    # A stolen key that no longer seals must not make tokens dated today, nor a new key old ones.
    if not keyring.may_have_sealed(key, sealed_at):
        raise KeyOutOfUse(kid=key.kid)
    # Last, because the payload of a good token says when the cookie of a disabled key is over.
    if key.disabled:
        raise KeyDisabled(payload, key.kid, sealed_at)
    return Opened(payload, key, sealed_at)


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
