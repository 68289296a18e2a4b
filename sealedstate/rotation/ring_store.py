"""The ring as one row of a storage service, for nodes that share no file.

The row is permanent and is in the context "sealedstate.ring". Its key is a plain hash of the realm,
so that deployments can share a store. Its value is the document, which is always wrapped: the
operator of the store can neither use the keys nor add others. The operator can delete the row or
restore an older row, and a store can lose it. A missing row looks as if it had never existed: the
caller decides whether to put back the ring that it holds, by `write(ring, None)`.

A document has about 200 bytes for each key and each tombstone. If it does not fit into the store's
`value_bytes`, `write` raises CapacityError and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from .._stored.table import Entry, Kind, Put, SealedTable, StoreAccess
from ..errors import ConfigurationError
from ..key_sources import KEK_VARIABLE, NoKeys
from ..keyring import Keyring
from ..storage.contract import Clock, Storage
from .document import RingCodec
from .ring import Ring

__all__ = ["StoredRing"]

CONTEXT = "sealedstate.ring"
# Only a lost reply makes `write` try again: after a lost race, another ring is there.
WRITE_TRIES = 8


class StoredRing:
    """A `RingStorage` in `storage`: the ring of the deployment `realm`.

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
                "keys: a ring in a store must be wrapped by a key-encryption key; set the"
                f" environment variable {KEK_VARIABLE} (`sealedstate keys generate --kek` prints"
                " one)"
            )
        access = StoreAccess(storage, realm, random, clock, NoKeys().keyring)
        # The document wraps each secret itself, so that files and stores have the same format.
        self._table = SealedTable(access, Kind(CONTEXT, "ring", "the ring", is_sealed=False))
        self._key = self._table.key()
        self._storage = storage
        self.location = f"the ring of realm {realm!r} in the store"
        self._codec = RingCodec(self.location, wrapping, random, clock)

    def load(self) -> Ring | None:
        """The ring of the row, the same object while the row is the same."""
        return self._load(self._table.look(self._key))

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """As `RingStorage`. Raises StorageUnavailable if the outcome is unknown."""
        content: bytes | None = None

        def put(entry: Entry | None) -> Put | None:
            nonlocal content
            if self._load(entry) != after:
                return None
            if content is None:
                content = self._codec.dump(ring, self._storage.capabilities.value_bytes)
            return Put(content, None)

        entry = self._table.change(self._key, put, tries=WRITE_TRIES)
        # Two documents are never equal, because they are wrapped with random bytes.
        return entry is not None and entry.value == content

    def _load(self, entry: Entry | None) -> Ring | None:
        return self._codec.load(None if entry is None else entry.value)
