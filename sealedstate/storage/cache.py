"""FOLD: a bounded read cache in front of a store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from .._forks import ForkSafeLock
from .contract import UNCHANGED, Capabilities, Clock, Storage, Stored, Unchanged, millis
from .requirements import store_name

MAX_RECORDS = 10_000


class CachedStorage:
    """A read cache in this process's memory, in front of `store`.

    `staleness` (milliseconds) is how old an answer may be: what another process wrote is seen at
    most so much later, and what this process wrote at once. Absence is never cached, so that a
    revocation counts from the moment it is written. Writes, and all that needs the truth, go to
    `store`. At most `max_records` are kept, the least recently read leave first.
    """

    def __init__(
        self, store: Storage, clock: Clock, staleness: int, max_records: int = MAX_RECORDS
    ) -> None:
        self._store = store
        self._clock = clock
        self._staleness = staleness
        self._max_records = max_records
        self._known: OrderedDict[tuple[str, str], tuple[Stored, int]] = OrderedDict()
        self._lock = ForkSafeLock()
        self._writes = 0

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        return f"{store_name(self._store)} behind a cache"

    @property
    def capabilities(self) -> Capabilities:
        behind = self._store.capabilities
        return replace(behind, staleness=behind.staleness + self._staleness)

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        with _Writing(self, context, key):
            return self._store.create(context, key, value, expires_at, version)

    def read(self, context: str, key: str) -> Stored | None:
        with self._lock:
            known = self._fresh(context, key)
            writes = self._writes
        if known is not None:
            return known
        stored = self._store.read(context, key)
        with self._lock:
            # What was read before a write of ours ended may be older than that write.
            if stored is not None and writes == self._writes:
                self._keep(context, key, stored)
        return stored

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
        with _Writing(self, context, key):
            return self._store.update(context, key, value, expires_at, version, expected)

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        with _Writing(self, context, key):
            return self._store.update_expiration(context, key, expires_at)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        with _Writing(self, context, key):
            return self._store.delete(context, key, expected)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        with _Writing(self, context, None):
            self._store.touch_context(context, expires_at)

    def delete_context(self, context: str) -> None:
        with _Writing(self, context, None):
            self._store.delete_context(context)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        return self._store.keys(context, prefix)

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self._store.add_member(context, key, member, expires_at)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        return self._store.remove_member(context, key, member)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        return self._store.members(context, key)

    def prepare(self) -> None:
        self._store.prepare()

    def ping(self) -> None:
        self._store.ping()

    def reap(self, limit: int) -> int:
        return self._store.reap(limit)

    def close(self) -> None:
        with self._lock:
            self._known.clear()
        self._store.close()

    def forget(self, context: str, key: str | None) -> None:
        """Drop what is known of a record, or of a whole context."""
        with self._lock:
            self._writes += 1
            if key is not None:
                self._known.pop((context, key), None)
                return
            for place in [place for place in self._known if place[0] == context]:
                del self._known[place]

    def _fresh(self, context: str, key: str) -> Stored | None:
        found = self._known.get((context, key))
        if found is None:
            return None
        stored, read_at = found
        now = millis(self._clock())
        expired = stored.expires_at is not None and now >= stored.expires_at
        if expired or not 0 <= now - read_at < self._staleness:
            del self._known[context, key]
            return None
        self._known.move_to_end((context, key))
        return stored

    def _keep(self, context: str, key: str, stored: Stored) -> None:
        self._known[context, key] = (stored, millis(self._clock()))
        while len(self._known) > self._max_records:
            self._known.popitem(last=False)


class _Writing:
    """Around a write: what was known is dropped before it and, whatever its outcome, after it."""

    def __init__(self, cache: CachedStorage, context: str, key: str | None) -> None:
        self._cache, self._context, self._key = cache, context, key

    def __enter__(self) -> None:
        self._cache.forget(self._context, self._key)

    def __exit__(self, *_: object) -> None:
        self._cache.forget(self._context, self._key)
