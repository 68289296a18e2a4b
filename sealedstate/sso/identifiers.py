"""Identifiers that an identity provider makes instead of storing: transient, pairwise, invertible.

Knows keys, session ids, subjects and entityIDs. Does not know what is stored where, or the clock.

A *handle* is a NameID or a SessionIndex made for one service login. It leads back to the session,
so that a logout request finds it without any index. LP is as in `sealing`; for a session id of 16
bytes, an entityID, and the label "name-id" or "session-index":

    K_tag  = subkey(identifier key, "tag",  "sso.identifier", realm)
    K_mask = subkey(identifier key, "mask", "sso.identifier", realm)
    tag    = BLAKE2b-128(key=K_tag,  LP(label, entityID, session id))
    masked = session id XOR BLAKE2b-128(key=K_mask, LP(label, entityID, tag))
    handle = "_" and the text (see `chunking`) of kid (4 bytes) | tag | masked: 49 characters

This is a synthetic initialization vector: the tag is a pseudorandom function of all that goes in,
authenticates it and is the nonce of the mask. So what is made for one service tells nothing about
another's, or about the session id; equal handles mean the same session at the same service; and a
handle that was altered, or comes from another service or with another label, is refused. It is an
NCName, short enough for every place in SAML (256 characters), and its letters' case matters.

A *pairwise* NameID is for ever the same for a subject at a service, and leads nowhere:

    K = subkey(pairwise key, "pairwise", "sso.identifier", realm)
    BLAKE2b-160(key=K, LP(entityID, subject))

in base32 (RFC 4648), small letters: 32 characters that survive a service that ignores case.

Rotating the identifier keys: the primary makes handles, all open them. A key that leaves the ring,
expires or is revoked takes with it every logout by the handles that it made, so keep it for as long
as the longest session lives, and a day. The pairwise key is one key and is never rotated: another
one gives every user a new account at every service.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from .._wire.encoding import from_text, to_text
from .._wire.record import ID_BYTES
from ..errors import (
    ConfigurationError,
    ForgedToken,
    KeyDisabled,
    KeyOutOfUse,
    MalformedToken,
    UnknownKey,
)
from ..key_sources import KeySource
from ..keyring import KID_BYTES, Key, length_prefixed

PURPOSE = "sso.identifier"
NAME_ID, SESSION_INDEX = "name-id", "session-index"
START = "_"
TAG_BYTES = 16
HANDLE_BYTES = KID_BYTES + TAG_BYTES + ID_BYTES
HANDLE_CHARS = len(START) + 48
PAIRWISE_BYTES = 20
PAIRWISE_CHARS = 32


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Makes and opens the identifiers of one deployment (`realm`).

    `keys`: the ring of identifier keys, not the one that seals cookies. `pairwise`: the one key of
    pairwise NameIDs; without it there are none. Session ids are `Session.raw_id`, 16 bytes. Raises
    ConfigurationError for anything else than a key source, a key and a name.
    """

    keys: KeySource = field(repr=False)
    pairwise: Key | None = None
    realm: str = "default"

    def __post_init__(self) -> None:
        if isinstance(self.keys, type) or not isinstance(self.keys, KeySource):
            raise ConfigurationError(
                "identifier keys are a key source: Settings(keys=..., absolute_lifetime=...)"
                ".key_source makes one"
            )
        if not (self.pairwise is None or isinstance(self.pairwise, Key)):
            raise ConfigurationError(
                "the key of pairwise NameIDs is a Key: Key.parse(text) of what"
                " `sealedstate keys generate` prints"
            )
        if type(self.realm) is not str or not self.realm:
            raise ConfigurationError("the realm of identifiers is a name")

    def transient_name_id(self, session_id: bytes, entity_id: str, now: float) -> str:
        """The NameID of this session at one service. Raises NoPrimaryKey."""
        return self._handle(NAME_ID, session_id, entity_id, now)

    def session_index(self, session_id: bytes, entity_id: str, now: float) -> str:
        """The SessionIndex of this session at one service. Raises NoPrimaryKey."""
        return self._handle(SESSION_INDEX, session_id, entity_id, now)

    def pairwise_name_id(self, subject: str, entity_id: str) -> str:
        """The NameID by which one service knows `subject` for ever."""
        if self.pairwise is None:
            raise ConfigurationError("pairwise NameIDs need a key of their own that never rotates")
        secret = self.pairwise.subkey("pairwise", PURPOSE, self.realm)
        digest = _blake2b(secret, PAIRWISE_BYTES, entity_id, subject)
        return base64.b32encode(digest).decode("ascii").lower()

    def open_name_id(self, text: str, entity_id: str, now: float) -> bytes:
        """The id of the session that a transient NameID was made for, at this service.

        `text` may be anything that a service sends. Raises UnreadableError of some kind.
        """
        return self._open(NAME_ID, text, entity_id, now)

    def open_session_index(self, text: str, entity_id: str, now: float) -> bytes:
        """The id of the session that a SessionIndex was made for, at this service.

        `text` may be anything that a service sends. Raises UnreadableError of some kind.
        """
        return self._open(SESSION_INDEX, text, entity_id, now)

    def handle_under(self, kid: bytes, label: str, session_id: bytes, entity_id: str) -> str | None:
        """The handle that the key `kid` made, or would make; None without that key."""
        key = self.keys.keyring().find(kid)
        return None if key is None else self._seal(key, label, session_id, entity_id)

    def _handle(self, label: str, session_id: bytes, entity_id: str, now: float) -> str:
        primary = self.keys.keyring().primary(int(now))
        return self._seal(primary, label, session_id, entity_id)

    def _seal(self, key: Key, label: str, session_id: bytes, entity_id: str) -> str:
        if len(session_id) != ID_BYTES:
            raise ValueError(f"a session id has {ID_BYTES} bytes")
        tag = self._tag(key, label, session_id, entity_id)
        masked = self._masked(key, label, session_id, entity_id, tag)
        return START + to_text(key.kid + tag + masked)

    def _open(self, label: str, text: str, entity_id: str, now: float) -> bytes:
        token = _token(text)
        kid, tag, masked = token[:KID_BYTES], token[KID_BYTES:-ID_BYTES], token[-ID_BYTES:]
        key = self._usable_key(kid, now)
        try:
            session_id = self._masked(key, label, masked, entity_id, tag)
            expected = self._tag(key, label, session_id, entity_id)
        except UnicodeEncodeError:  # no service has such an entityID
            raise ForgedToken from None
        if not hmac.compare_digest(tag, expected):
            raise ForgedToken
        return session_id

    def _usable_key(self, kid: bytes, now: float) -> Key:
        ring = self.keys.keyring()
        key = ring.find(kid)
        if key is None:
            raise KeyOutOfUse if kid in ring.removed_kids else UnknownKey(kid)
        if key.revoked or (key.expires_at is not None and now >= key.expires_at):
            raise KeyOutOfUse
        if key.disabled:
            raise KeyDisabled
        return key

    def _tag(self, key: Key, label: str, session_id: bytes, entity_id: str) -> bytes:
        secret = key.subkey("tag", PURPOSE, self.realm)
        return _blake2b(secret, TAG_BYTES, label, entity_id, session_id)

    def _masked(self, key: Key, label: str, data: bytes, entity_id: str, tag: bytes) -> bytes:
        """The session id masked, or unmasked."""
        mask = _blake2b(key.subkey("mask", PURPOSE, self.realm), ID_BYTES, label, entity_id, tag)
        return bytes(one ^ other for one, other in zip(data, mask, strict=True))


def kid_of(text: str) -> bytes | None:
    """The kid in a text that may be a handle; None when it is none."""
    if len(text) != HANDLE_CHARS:
        return None
    try:
        return _token(text)[:KID_BYTES]
    except MalformedToken:
        return None


def _token(text: str) -> bytes:
    if len(text) != HANDLE_CHARS or not text.startswith(START):
        raise MalformedToken
    return from_text(text.removeprefix(START))


def _blake2b(secret: bytes, size: int, *fields: str | bytes) -> bytes:
    return hashlib.blake2b(length_prefixed(*fields), key=secret, digest_size=size).digest()
