"""A read cache in this process's memory, in front of another store: `CachedStorage`."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from .._forks import ForkSafeLock
from .contract import Capabilities, Clock, Storage, Stored, millis
from .requirements import store_name
from .routing import ForwardingStorage

__all__ = ["CachedStorage"]


class CachedStorage(ForwardingStorage):
    """A read cache in front of `store`, for records that may be up to `staleness` ms old.

    Writes of other processes become visible after at most `staleness` milliseconds, writes of this
    process at once. Absence is never cached, so a revocation counts as soon as it is written. Only
    `read` uses the cache. It keeps at most `max_records` records and drops the least recently read.
    """

    def __init__(
        self, store: Storage, clock: Clock, staleness: int, max_records: int = 10_000
    ) -> None:
        super().__init__(store, {})
        self._clock = clock
        self._staleness = staleness
        self._max_records = max_records
        self._cache: OrderedDict[tuple[str, str], tuple[Stored, int]] = OrderedDict()
        self._lock = ForkSafeLock()
        self._writes = 0

    @property
    def name(self) -> str:
        """The store's name in messages."""
        return f"{store_name(self._default)} behind a cache"

    @property
    def capabilities(self) -> Capabilities:
        behind = self._default.capabilities
        staleness = behind.staleness + self._staleness
        return replace(behind, staleness=staleness, changes=False)

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        with self._dropping(context, key):
            return super().create(context, key, value, expires_at, version)

    def read(self, context: str, key: str) -> Stored | None:
        with self._lock:
            cached = self._find(context, key)
            writes = self._writes
        if cached is not None:
            return cached
        stored = super().read(context, key)
        with self._lock:
            # If this process wrote in the meantime, the record may be older than that write.
            if stored is not None and writes == self._writes:
                self._cache[context, key] = (stored, millis(self._clock()))
                while len(self._cache) > self._max_records:
                    self._cache.popitem(last=False)
        return stored

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        with self._dropping(context, key):
            return super().update(context, key, value, expires_at, version, expected)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        with self._dropping(context, key):
            return super().delete(context, key, expected)

    def close(self) -> None:
        with self._lock:
            self._cache.clear()
        super().close()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        with self._dropping(context, key):
            return super().update_expiration(context, key, expires_at)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        with self._dropping(context):
            super().touch_context(context, expires_at)

    def delete_context(self, context: str) -> None:
        with self._dropping(context):
            super().delete_context(context)

    @contextlib.contextmanager
    def _dropping(self, context: str, key: str | None = None) -> Iterator[None]:
        """Drop what is cached before a write and, whatever its outcome, after it."""
        self._drop(context, key)
        try:
            yield
        finally:
            self._drop(context, key)

    def _drop(self, context: str, key: str | None) -> None:
        with self._lock:
            self._writes += 1
            if key is not None:
                self._cache.pop((context, key), None)
                return
            for place in [place for place in self._cache if place[0] == context]:
                del self._cache[place]

    def _find(self, context: str, key: str) -> Stored | None:
        """Return a cached record that is live and fresh. The caller holds the lock."""
        found = self._cache.get((context, key))
        if found is None:
            return None
        stored, read_at = found
        now = millis(self._clock())
        is_live = stored.expires_at is None or now < stored.expires_at
        if not is_live or not 0 <= now - read_at < self._staleness:
            del self._cache[context, key]
            return None
        self._cache.move_to_end((context, key))
        return stored
