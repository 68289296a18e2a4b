"""NameIDs and SessionIndexes that are derived instead of stored.

A *handle* is a NameID or a SessionIndex derived for one service login. It leads back to the
session, so a logout request finds the session without an index. LP is as in docs/format.md; for a
session id of 16 bytes, an entityID, and the label "name-id" or "session-index":

    K_tag  = subkey(identifier key, "tag",  "sso.identifier", realm)
    K_mask = subkey(identifier key, "mask", "sso.identifier", realm)
    tag    = BLAKE2b-128(key=K_tag,  LP(label, entityID, session id))
    masked = session id XOR BLAKE2b-128(key=K_mask, LP(label, entityID, tag))
    handle = "_" and the text of a name, of kid (4 bytes) | tag | masked: 49 characters

This is a synthetic initialization vector: the tag is a pseudorandom function of all inputs,
authenticates them and is the nonce of the mask. So a handle for one service reveals nothing about
another service's or about the session id; equal handles mean the same session at the same service;
and a handle that was altered, or comes from another service or with another label, is refused. It
is an NCName, short enough for every place in SAML (256 characters), and case-sensitive.

A *pairwise* NameID never changes for a subject at a service, and leads to no session:

    K = subkey(pairwise key, "pairwise", "sso.identifier", realm)
    BLAKE2b-160(key=K, LP(entityID, subject))

in base32 (RFC 4648), lower case: 32 characters that survive a service that ignores case.

Rotating the identifier keys: the primary derives handles, all keys open them. When a key leaves the
ring, expires or is revoked, logouts by the handles that it derived no longer work, so keep it for
as long as the longest session lives, and a day. The pairwise key is a single key and is never
rotated: another key gives every user a new account at every service.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TypeAlias

from .._wire.encoding import from_name, to_name
from .._wire.record import ID_BYTES, format_id, parse_id
from ..errors import ConfigurationError, ForgedToken, MalformedToken
from ..key_sources import KeySource, is_key_source
from ..keyring import KID_BYTES, Key, length_prefixed
from .logins import check_seconds

__all__ = ["Identifiers"]

PURPOSE = "sso.identifier"
NAME_ID, SESSION_INDEX = "name-id", "session-index"
START = "_"
TAG_BYTES = 16
HANDLE_BYTES = KID_BYTES + TAG_BYTES + ID_BYTES
HANDLE_CHARS = len(START) + 48
PAIRWISE_BYTES = 20
PAIRWISE_CHARS = 32


# --- masked values ------------------------------------------------------------------------------

MaskKeys: TypeAlias = tuple[bytes, bytes]
"""(K_tag, K_mask)"""


def mask(keys: MaskKeys, context: tuple[str, ...], *values: bytes) -> bytes:
    """Return a tag of context and values, and behind it the values, masked.

    The tag is BLAKE2b-128(key=K_tag, LP(*context, *values)), and the mask BLAKE2b(key=K_mask,
    LP(*context, tag)) of as many bytes as the values have. Equal inputs give equal results.
    """
    tag_key, mask_key = keys
    tag = _blake2b(tag_key, TAG_BYTES, *context, *values)
    return tag + _xor_mask(mask_key, context, tag, b"".join(values))


def unmask(
    keys: MaskKeys, context: tuple[str, ...], token: bytes, sizes: Sequence[int]
) -> tuple[bytes, ...] | None:
    """Return the values in a token of `mask`, given their sizes; None for others."""
    tag, masked = token[:TAG_BYTES], token[TAG_BYTES:]
    if len(masked) != sum(sizes):
        return None
    tag_key, mask_key = keys
    data = _xor_mask(mask_key, context, tag, masked)
    values = tuple(data[start:end] for start, end in pairwise(accumulate(sizes, initial=0)))
    expected = _blake2b(tag_key, TAG_BYTES, *context, *values)
    return values if hmac.compare_digest(tag, expected) else None


def _xor_mask(mask_key: bytes, context: tuple[str, ...], tag: bytes, data: bytes) -> bytes:
    bits = _blake2b(mask_key, len(data), *context, tag)
    return (int.from_bytes(data, "big") ^ int.from_bytes(bits, "big")).to_bytes(len(data), "big")


def _blake2b(secret: bytes, size: int, *fields: str | bytes) -> bytes:
    return hashlib.blake2b(length_prefixed(*fields), key=secret, digest_size=size).digest()


# --- identifiers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Derives and opens the identifiers of one deployment (`realm`).

    `keys`: the ring of identifier keys, not the ring that seals cookies; `open_keys` opens it.
    `pairwise`: the key of pairwise NameIDs; without it there are none. Session ids are those of
    `Session.id`; entityIDs and subjects are texts, times epoch seconds. Raises ConfigurationError.
    """

    keys: KeySource = field(repr=False)
    pairwise: Key | None = None
    realm: str = "default"

    def __post_init__(self) -> None:
        if not is_key_source(self.keys):
            raise ConfigurationError(
                "Identifiers.keys: must be a key source; open_keys(Settings(keys=...)) opens one"
            )
        if not (self.pairwise is None or isinstance(self.pairwise, Key)):
            raise ConfigurationError(
                "Identifiers.pairwise: must be a Key; Key.parse(text) reads a line of"
                " `sealedstate keys generate`"
            )
        if type(self.realm) is not str or not self.realm:
            raise ConfigurationError("Identifiers.realm: must be non-empty text")

    def transient_name_id(self, session_id: str, entity_id: str, now: float) -> str:
        """Return the NameID of a session at one service.

        Raises NoPrimaryKey, or UnsupportedValue for anything but a `Session.id`.
        """
        return self._derive(self._primary(now), NAME_ID, parse_id(session_id), entity_id)

    def session_index(self, session_id: str, entity_id: str, now: float) -> str:
        """Return the SessionIndex of a session at one service; raises as `transient_name_id`."""
        return self._derive(self._primary(now), SESSION_INDEX, parse_id(session_id), entity_id)

    def pairwise_name_id(self, subject: str, entity_id: str) -> str:
        """Return the permanent NameID of a user at one service.

        Raises ConfigurationError without a pairwise key.
        """
        if self.pairwise is None:
            raise ConfigurationError(
                "Identifiers.pairwise: pairwise NameIDs need a key that never rotates"
            )
        secret = self.pairwise.subkey("pairwise", PURPOSE, self.realm)
        digest = _blake2b(secret, PAIRWISE_BYTES, entity_id, subject)
        return base64.b32encode(digest).decode("ascii").lower()

    def open_name_id(self, text: str, entity_id: str, now: float) -> str:
        """Return the id of the session that a transient NameID leads to.

        `text` may be anything that a service sends. Raises UnreadableError of some kind.
        """
        return format_id(self.open_handle(NAME_ID, text, entity_id, now))

    def open_session_index(self, text: str, entity_id: str, now: float) -> str:
        """Return the id of the session that a SessionIndex leads to.

        `text` may be anything that a service sends. Raises UnreadableError of some kind.
        """
        return format_id(self.open_handle(SESSION_INDEX, text, entity_id, now))

    def derive_with(self, kid: bytes, label: str, session_id: bytes, entity_id: str) -> str | None:
        """Return the handle that the key `kid` derives; None without that key."""
        key = self.keys.keyring().find(kid)
        return None if key is None else self._derive(key, label, session_id, entity_id)

    def _primary(self, now: float) -> Key:
        check_seconds("now", now, "epoch seconds")
        return self.keys.keyring().primary(int(now))

    def _derive(self, key: Key, label: str, session_id: bytes, entity_id: str) -> str:
        masked = mask(self._mask_keys(key), (label, entity_id), session_id)
        return START + to_name(key.kid + masked)

    def open_handle(self, label: str, text: str, entity_id: str, now: float) -> bytes:
        """Return the 16 bytes of the session id that a handle leads to. Raises UnreadableError."""
        check_seconds("now", now, "epoch seconds")
        token = _parse_handle(text)
        key = self.keys.keyring().find_usable(token[:KID_BYTES], now)
        try:
            found = unmask(self._mask_keys(key), (label, entity_id), token[KID_BYTES:], (ID_BYTES,))
        except UnicodeEncodeError:  # no service has such an entityID
            raise ForgedToken from None
        if found is None:
            raise ForgedToken
        return found[0]

    def _mask_keys(self, key: Key) -> MaskKeys:
        return key.subkey("tag", PURPOSE, self.realm), key.subkey("mask", PURPOSE, self.realm)


def parse_kid(text: str) -> bytes | None:
    """Return the kid of a text that looks like a handle; None for any other text."""
    if len(text) != HANDLE_CHARS:
        return None  # most texts, for which an error would cost more than all the rest
    try:
        return _parse_handle(text)[:KID_BYTES]
    except MalformedToken:
        return None


def _parse_handle(text: str) -> bytes:
    if len(text) != HANDLE_CHARS or not text.startswith(START):
        raise MalformedToken
    return from_name(text.removeprefix(START))
