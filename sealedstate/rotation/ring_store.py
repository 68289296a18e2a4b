"""The ring as one row of a storage service, for nodes that share nothing else.

Knows the storage contract and its versions. Does not know any backend, what a ring means, nor when
it changes.

The row is permanent, in the context "sealedstate.ring"; its key is a plain hash of the realm, so
that deployments can share a store. Its value is the document, always wrapped: whoever reads or
writes the store can neither use the keys nor put in others. He can remove the row or bring an older
one back; so can a store that forgets. A row that is gone looks like one that never was: whether to
put back a ring that one still holds, by `write(ring, None)`, the caller decides.

A document has about 200 bytes for each key and each key that is no more. Where it does not fit into
the store's `value_bytes`, CapacityError says so before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from .._wire.encoding import to_text
from ..errors import ConfigurationError, OutcomeUnknown, StorageError, VersionMismatch
from ..key_sources import KEK_VARIABLE
from ..keyring import Keyring, length_prefixed
from ..storage.contract import Clock, Storage, Stored, next_version
from . import Ring
from .document import RingCodec, too_large

CONTEXT = "sealedstate.ring"


class StoredRing:
    """A `RingStorage` in `storage`, for the deployment `realm`.

    `wrapping`: the key-encryption keys, of which the first wraps. Raises ConfigurationError without
    one. Errors of the store are StorageErrors, and so OperatorErrors.
    """

    def __init__(
        self,
        storage: Storage,
        realm: str,
        wrapping: Keyring | None,
        random: Callable[[int], bytes],
        clock: Clock,
    ) -> None:
        if wrapping is None:
            raise ConfigurationError(
                "a ring in a store is wrapped by a key-encryption key: set the environment variable"
                f" {KEK_VARIABLE}; `sealedstate keys generate --kek` prints one"
            )
        self._storage = storage
        self._key = row_key(realm)
        self._text = RingCodec(f"the ring of realm {realm!r} in the store", wrapping, random, clock)
        self._clock = clock

    @property
    def where(self) -> str:
        return self._text.where

    def load(self) -> Ring | None:
        """The ring of the row, the same object while the row says the same."""
        return self._text.read(_value(self._stored()))

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """As `RingStorage`. OutcomeUnknown where it is not known whether `ring` is or gets in."""
        stored = self._stored()
        if self._text.read(_value(stored)) != after:
            return False
        content = self._fitting(ring)
        try:
            return self._put(content, stored)
        except VersionMismatch:
            return False
        except OutcomeUnknown as lost:
            return self._is_in(content, stored, lost)

    def _stored(self) -> Stored | None:
        return self._storage.read(CONTEXT, self._key)

    def _fitting(self, ring: Ring) -> bytes:
        content, most = self._text.written(ring), self._storage.capabilities.value_bytes
        if len(content) > most:
            raise too_large(self.where, content, most)
        return content

    def _put(self, content: bytes, over: Stored | None) -> bool:
        if over is None:
            version = next_version(self._clock())
            return self._storage.create(CONTEXT, self._key, content, None, version)
        version = next_version(self._clock(), over.version)
        return self._storage.update(CONTEXT, self._key, content, None, version, over.version)

    def _is_in(self, content: bytes, over: Stored | None, lost: OutcomeUnknown) -> bool:
        """What became of a write whose answer was lost. Raises `lost` while nobody can say."""
        try:
            stored = self._stored()
        except StorageError:
            raise lost from None
        if stored == over:
            raise lost  # it may still be on its way
        # No two documents are equal: what is wrapped is so with random bytes.
        return _value(stored) == content


def row_key(realm: str) -> str:
    """The row's key: 32 characters."""
    message = length_prefixed("sealedstate/1", "ring", realm)
    return to_text(hashlib.blake2b(message, digest_size=24).digest())


def _value(stored: Stored | None) -> bytes | None:
    return None if stored is None else stored.value
