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
    check_size,
    millis,
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
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._writes = 0

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_size(self.capabilities, context, key, value)
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
        with self._locked():
            stored = self._live(context, key)
            if stored is None:
                return False
            self._records[context, key] = replace(stored, expires_at=expires_at)
            return True

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_size(self.capabilities, context, key)
        with self._locked():
            if self._expected(context, key, expected) is None:
                return False
            del self._records[context, key]
            return True

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_size(self.capabilities, context, "any")
        with self._locked():
            for place in [place for place in self._records if place[0] == context]:
                if self._live(*place) is not None:
                    self._records[place] = replace(self._records[place], expires_at=expires_at)

    def delete_context(self, context: str) -> None:
        check_size(self.capabilities, context, "any")
        with self._locked():
            for place in [place for place in self._records if place[0] == context]:
                del self._records[place]

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_size(self.capabilities, context, "any")
        with self._locked():
            found = [
                key
                for of, key in self._records
                if of == context and key.startswith(prefix) and self._live(of, key) is not None
            ]
        return iter(found)

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
        if stored is None or stored.expires_at is None or self._now() < stored.expires_at:
            return stored
        return None

    def _expected(self, context: str, key: str, expected: int | None) -> Stored | None:
        stored = self._live(context, key)
        if stored is not None and expected is not None and stored.version != expected:
            raise VersionMismatch(stored.version)
        return stored

    def _make_room(self) -> None:
        self._writes += 1
        full = len(self._records) >= self._max_records
        if full or self._writes % REAP_EVERY == 0:
            self._reap(len(self._records))
        if len(self._records) >= self._max_records:
            raise CapacityError(f"memory: storage is full with {self._max_records} records")

    def _reap(self, limit: int) -> int:
        expired = [place for place in self._records if self._live(*place) is None][:limit]
        for place in expired:
            del self._records[place]
        return len(expired)
