"""Parts to the storage service and back: sealed for exactly their row and version, writes checked.

Knows rows and the storage contract. Does not know cookies, sessions or why a part spills.

A row's key is a plain hash of (session id, part name): the id can't be guessed, and the name must
not move when sealing keys rotate. The manifest in the cookie remembers the version. A row with an
older version, or none, means that the store lost data; a newer one, that another tab wrote. A write
that meets another version than remembered asks the part's merge rule and tries again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from .._wire.encoding import to_text
from ..errors import OutcomeUnknown, StorageUnavailable, UnreadableError, VersionMismatch
from ..keyring import Keyring, length_prefixed
from ..storage.contract import Storage, Stored, next_version
from .table import Rows

CONTEXT = "sealedstate.part"
# Requests of one session that all write the same part beat one another: more than 16 times in a row
# was seen with four of them.
WRITE_TRIES = 128

Merge: TypeAlias = Callable[[bytes | None, bytes, bytes], bytes]
"""(encoded value as it arrived or None, as it is stored now, as we want it) -> what to store."""


def last_writer_wins(_base: bytes | None, _theirs: bytes, ours: bytes) -> bytes:
    """The default rule of a conflict: what is written last counts."""
    return ours


@dataclass(frozen=True, slots=True)
class Recalled:
    """A part's encoded value and the version that it was stored under."""

    data: bytes = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True)
class Row:
    """One part's place in the store."""

    session_id: bytes
    name: str

    @property
    def key(self) -> str:
        """The row's key: 32 characters."""
        message = length_prefixed("sealedstate/1", "part", self.session_id, self.name)
        return to_text(hashlib.blake2b(message, digest_size=24).digest())


@dataclass(frozen=True, slots=True)
class Spiller:
    """Spills and recalls the parts of one deployment."""

    storage: Storage
    rows: Rows

    def spill(
        self,
        row: Row,
        data: bytes,
        known: int | None,
        base: bytes | None,
        keyring: Keyring,
        now: float,
        expires_at: int,
        merge: Merge = last_writer_wins,
    ) -> int:
        """Write a part over the `known` version (None: there should be no row); its new version.

        `expires_at` in epoch seconds. Raises StorageError or NoPrimaryKey.
        """
        wanted = data
        for _ in range(WRITE_TRIES):
            version = next_version(now, known or 0)
            token = self.rows.seal_row(CONTEXT, row.key, version, wanted, keyring, now)
            if self._written(row, token, expires_at * 1000, version, known):
                return version
            # Somebody wrote, or the row is gone: look, and write over what is there now.
            stored = self.storage.read(CONTEXT, row.key)
            known = None if stored is None else stored.version
            theirs = None if stored is None else self._opened(row, stored, keyring, now)
            wanted = data if theirs is None else merge(base, theirs, data)
        raise StorageUnavailable(f"a part was written by others {WRITE_TRIES} times in a row")

    def recall(self, row: Row, known: int, keyring: Keyring, now: float) -> Recalled | None:
        """The part as it is stored now; None when the store lost it. Raises StorageError."""
        stored = self.storage.read(CONTEXT, row.key)
        if stored is None or stored.version < known:
            return None
        data = self._opened(row, stored, keyring, now)
        return None if data is None else Recalled(data, stored.version)

    def forget(self, row: Row, version: int) -> None:
        """Delete a row that is no longer used, unless somebody has written it since."""
        try:
            self.storage.delete(CONTEXT, row.key, version)
        except VersionMismatch:
            return  # it is used again

    def _written(
        self, row: Row, token: bytes, expires_at: int, version: int, known: int | None
    ) -> bool:
        """Whether the row holds `token` now; False where another version, or none, is there."""
        try:
            if known is None:
                return self.storage.create(CONTEXT, row.key, token, expires_at, version)
            return self.storage.update(CONTEXT, row.key, token, expires_at, version, known)
        except VersionMismatch:
            return False
        except OutcomeUnknown:
            return self._is_there(row, token, version)

    def _is_there(self, row: Row, token: bytes, version: int) -> bool:
        # Another tab may have proposed the same version in the same microsecond.
        stored = self.storage.read(CONTEXT, row.key)
        return stored is not None and (stored.value, stored.version) == (token, version)

    def _opened(self, row: Row, stored: Stored, keyring: Keyring, now: float) -> bytes | None:
        try:
            return self.rows.open_row(CONTEXT, row.key, stored, keyring, now)
        except UnreadableError as error:
            if error.keeps_cookie:
                # Another node can read it, or this one once it has the key: no reason to drop it.
                raise StorageUnavailable(
                    f"a stored part is unreadable here ({error.reason})"
                ) from error
            return None  # swapped, rolled back, or sealed by a key out of use: as good as lost
