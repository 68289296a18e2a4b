"""A storage service in this process's memory: for tests, and for one process that may forget.

Knows threads. Does not pretend to be shared: after a fork it refuses instead of drifting apart.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from ..errors import CapacityError, StorageUnavailable, VersionMismatch
from .contract import (
    UNCHANGED,
    Capabilities,
    Clock,
    Stored,
    Unchanged,
    check_range,
    check_size,
    millis,
    utf8,
)

# Every so many writes, expired records are looked for, so that nobody has to remember.
REAP_EVERY = 256


class MemoryStorage:
    """Records in a dict behind a lock. `max_records` bounds it: over that, writes are refused."""

    capabilities = Capabilities(
        context_bytes=1 << 16,
        key_bytes=1 << 16,
        value_bytes=1 << 24,
        shared=False,
        durable=False,
        survives_restart=False,
        evicts=False,
        enumerable=True,
    )

    def __init__(self, clock: Clock, max_records: int = 1_000_000) -> None:
        self._clock = clock
        self._max_records = max_records
        self._records: dict[tuple[str, str], Stored] = {}
        self._indexes: dict[tuple[str, str], dict[str, int | None]] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._writes, self._reaped_after = 0, REAP_EVERY

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_size(self.capabilities, context, key, value)
        check_range(expires_at, version)
        with self._locked():
            if self._live(context, key) is not None:
                return False
            self._make_room()
            self._records[context, key] = Stored(bytes(value), version, expires_at)
            return True

    def read(self, context: str, key: str) -> Stored | None:
        check_size(self.capabilities, context, key)
        with self._locked():
            return self._live(context, key)

    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        stored = self.read(context, key)
        return UNCHANGED if stored is not None and stored.version == version else stored

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        check_size(self.capabilities, context, key, value)
        check_range(expires_at, version, expected)
        with self._locked():
            stored = self._expected(context, key, expected)
            if stored is None:
                return False
            if version <= stored.version:
                raise VersionMismatch(stored.version)
            self._records[context, key] = Stored(bytes(value), version, expires_at)
            return True

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_size(self.capabilities, context, key)
        check_range(expires_at)
        with self._locked():
            stored = self._live(context, key)
            if stored is None:
                return False
            self._records[context, key] = replace(stored, expires_at=expires_at)
            return True

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_size(self.capabilities, context, key)
        check_range(None, expected)
        with self._locked():
            if self._expected(context, key, expected) is None:
                return False
            del self._records[context, key]
            return True

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_size(self.capabilities, context, "any")
        check_range(expires_at)
        with self._locked():
            for place in [place for place in self._records if place[0] == context]:
                if self._live(*place) is not None:
                    self._records[place] = replace(self._records[place], expires_at=expires_at)

    def delete_context(self, context: str) -> None:
        check_size(self.capabilities, context, "any")
        with self._locked():
            for table in (self._records, self._indexes):
                for place in [place for place in table if place[0] == context]:
                    del table[place]

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_size(self.capabilities, context, "any")
        with self._locked():
            found = [
                key
                for of, key in self._records
                if of == context and key.startswith(prefix) and self._live(of, key) is not None
            ]
        return iter(found)

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        check_size(self.capabilities, context, key, utf8(member))
        check_range(expires_at)
        with self._locked():
            self._make_room()
            self._indexes.setdefault((context, key), {})[member] = expires_at

    def remove_member(self, context: str, key: str, member: str) -> bool:
        check_size(self.capabilities, context, key, utf8(member))
        with self._locked():
            index = self._indexes.get((context, key), {})
            alive = member in index and self._alive(index[member])
            index.pop(member, None)
            if not index:
                self._indexes.pop((context, key), None)
            return alive

    def members(self, context: str, key: str) -> dict[str, int | None]:
        check_size(self.capabilities, context, key)
        with self._locked():
            index = self._indexes.get((context, key), {})
            return {member: at for member, at in index.items() if self._alive(at)}

    def prepare(self) -> None:
        """Nothing to make."""

    def ping(self) -> None:
        with self._locked():
            return

    def reap(self, limit: int) -> int:
        with self._locked():
            return self._reap(limit)

    def close(self) -> None:
        """Nothing to let go of."""

    def _locked(self) -> threading.Lock:
        if os.getpid() != self._pid:
            raise StorageUnavailable(
                "memory: storage was made before a fork, and each process would have its own;"
                " use sqlite: to share one"
            )
        return self._lock

    def _now(self) -> int:
        return millis(self._clock())

    def _live(self, context: str, key: str) -> Stored | None:
        stored = self._records.get((context, key))
        return stored if stored is not None and self._alive(stored.expires_at) else None

    def _alive(self, expires_at: int | None) -> bool:
        return expires_at is None or self._now() < expires_at

    def _expected(self, context: str, key: str, expected: int | None) -> Stored | None:
        stored = self._live(context, key)
        if stored is not None and expected is not None and stored.version != expected:
            raise VersionMismatch(stored.version)
        return stored

    def _make_room(self) -> None:
        self._writes += 1
        if self._full or self._writes >= self._reaped_after:
            self._reap(self._max_records)
            # A look at all records is paid for by as many writes.
            self._writes, self._reaped_after = 0, max(REAP_EVERY, len(self._records))
        if self._full:
            raise CapacityError(f"memory: storage is full with {self._max_records} records")

    @property
    def _full(self) -> bool:
        return len(self._records) + len(self._indexes) >= self._max_records

    def _reap(self, limit: int) -> int:
        expired = [place for place in self._records if self._live(*place) is None][:limit]
        for place in expired:
            del self._records[place]
        return len(expired) + self._reap_members(limit - len(expired))

    def _reap_members(self, limit: int) -> int:
        expired = [
            (place, member)
            for place, index in self._indexes.items()
            for member, at in index.items()
            if not self._alive(at)
        ][:limit]
        for place, member in expired:
            del self._indexes[place][member]
            if not self._indexes[place]:
                del self._indexes[place]
        return len(expired)
