"""Parts of sessions in the store.

A row's key is a plain hash of (session id, part name): the id cannot be guessed,
and the name must not move when sealing keys rotate. The manifest in the cookie
remembers the version. A row with an older version, or none, means that the store
lost data; a newer version, that another tab wrote. A write that meets another
version than the remembered one asks the part's merge rule and tries again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from ..errors import StorageError
from .table import Entry, Kind, Put, SealedTable, StoreAccess

CONTEXT = "sealedstate.part"
KIND = Kind(CONTEXT, "part", "a stored part", has_realm=False)
# Four requests of one session that write the same part lost more than 16 races in a row.
WRITE_TRIES = 128
# How many rows of sessions that no request has brought yet a process leaves in the store. A visitor
# loses a part only if that many other visitors and agents begin a session in the meantime.
MAX_UNPROVEN = 10_000

Merge: TypeAlias = Callable[[bytes | None, bytes, bytes], bytes]
"""(encoded value as loaded or None, as stored now, as this request wants it) -> what to store."""


def last_writer_wins(_base: bytes | None, _stored: bytes, wanted: bytes) -> bytes:
    """The default merge rule: the last write counts."""
    return wanted


class StoredParts:
    """Spills and recalls the parts of one deployment. All methods raise StorageError."""

    def __init__(self, access: StoreAccess) -> None:
        self._table = SealedTable(access, KIND)
        self._now = access.now
        # (expiry in epoch seconds, session id, name, version), the oldest first.
        self._unproven: deque[tuple[int, bytes, str, int]] = deque()

    def spill(
        self,
        session_id: bytes,
        name: str,
        data: bytes,
        *,
        known: int | None,
        base: bytes | None,
        expires_at: int,
        merge: Merge = last_writer_wins,
    ) -> int:
        """Write a part over version `known`, None for no row; returns the new version.

        `base`: the part's encoding as this request loaded it. `expires_at` in epoch
        seconds. Raises NoPrimaryKey too.
        """
        assumed = None if known is None else Entry(b"", known, None)

        def update(entry: Entry | None) -> Put:
            # The first try trusts the manifest. A row that no node can open is overwritten.
            if entry is None or entry is assumed or entry.error is not None:
                return Put(data, expires_at * 1000)
            return Put(merge(base, entry.value, data), expires_at * 1000)

        key, is_new = self._table.key(session_id, name), known is None
        written = self._table.change(key, update, known=assumed, is_new=is_new, tries=WRITE_TRIES)
        if written is None:  # `update` always writes
            raise AssertionError("a spilled part was not written")
        return written.version

    def limit_unproven(self, session_id: bytes, name: str, version: int, expires_at: int) -> None:
        """Remember a row of a session that no request has brought yet.

        Beyond `MAX_UNPROVEN` of them in this process, the oldest row is deleted, unless it was
        written again since, because its session has come back.
        """
        rows = self._unproven
        rows.append((expires_at, session_id, name, version))
        while rows and (len(rows) > MAX_UNPROVEN or rows[0][0] <= self._now()):
            ends, oldest_id, oldest_name, oldest_version = rows.popleft()
            if ends > self._now():
                with contextlib.suppress(StorageError):  # the row expires
                    self.delete(oldest_id, oldest_name, oldest_version)

    def recall(self, session_id: bytes, name: str, known: int = 0) -> Entry | None:
        """The part's row, at least of version `known`; None if the store lost it."""
        entry = self._table.read(self._table.key(session_id, name))
        return None if entry is None or entry.version < known else entry

    def extend(self, session_id: bytes, name: str, expires_at: int) -> None:
        """Keep a row until `expires_at` (epoch seconds) at least, with the value that it has then.

        A row that is gone stays gone. Raises NoPrimaryKey too.
        """

        def update(entry: Entry | None) -> Put | None:
            if entry is None or entry.error is not None or entry.expires_at is None:
                return None
            # Another request has extended it, or has written the part.
            if entry.expires_at >= expires_at * 1000:
                return None
            return Put(entry.value, expires_at * 1000)

        self._table.change(self._table.key(session_id, name), update, tries=WRITE_TRIES)

    def delete(self, session_id: bytes, name: str, version: int | None = None) -> None:
        """Delete a row that is no longer used, unless another request wrote it since `version`."""
        self._table.delete(self._table.key(session_id, name), version)
