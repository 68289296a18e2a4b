"""Stores made of stores: a bounded read cache in front of one, and one store for each context.

Knows the storage contract. Does not know any backend.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from .contract import UNCHANGED, Capabilities, Clock, Storage, Stored, Unchanged, millis
from .requirements import store_name

MAX_RECORDS = 10_000


class SplitStorage:
    """Sends each context to its own store, and every other context to `default`.

    Its capabilities are what all of them have; `store_of` tells the one that a context lives in.
    """

    def __init__(self, default: Storage, contexts: Mapping[str, Storage]) -> None:
        self._default = default
        self._contexts = dict(contexts)

    @property
    def capabilities(self) -> Capabilities:
        return _weakest([store.capabilities for store in self._stores()])

    @property
    def contexts(self) -> list[str]:
        """Those that are sent somewhere by their names."""
        return list(self._contexts)

    def store_of(self, context: str) -> Storage:
        """The store that a context lives in."""
        return self._contexts.get(context, self._default)

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        return self.store_of(context).create(context, key, value, expires_at, version)

    def read(self, context: str, key: str) -> Stored | None:
        return self.store_of(context).read(context, key)

    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        return self.store_of(context).read_if_changed(context, key, version)

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        store = self.store_of(context)
        return store.update(context, key, value, expires_at, version, expected)

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        return self.store_of(context).update_expiration(context, key, expires_at)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        return self.store_of(context).delete(context, key, expected)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        self.store_of(context).touch_context(context, expires_at)

    def delete_context(self, context: str) -> None:
        self.store_of(context).delete_context(context)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        return self.store_of(context).keys(context, prefix)

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self.store_of(context).add_member(context, key, member, expires_at)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        return self.store_of(context).remove_member(context, key, member)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        return self.store_of(context).members(context, key)

    def prepare(self) -> None:
        for store in self._stores():
            store.prepare()

    def ping(self) -> None:
        for store in self._stores():
            store.ping()

    def reap(self, limit: int) -> int:
        removed = 0
        for store in self._stores():
            removed += store.reap(limit - removed)
        return removed

    def close(self) -> None:
        for store in self._stores():
            store.close()

    def _stores(self) -> list[Storage]:
        return different([self._default, *self._contexts.values()])


def store_of(context: str, storage: Storage) -> Storage:
    """The store that a context really lives in, through all splits."""
    while isinstance(storage, SplitStorage):
        storage = storage.store_of(context)
    return storage


def different(stores: Iterable[Storage]) -> list[Storage]:
    """Each store once, in order."""
    return list({id(store): store for store in stores}.values())


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
        self._lock = threading.Lock()
        self._pid = os.getpid()
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
        with self._locked():
            known = self._fresh(context, key)
            writes = self._writes
        if known is not None:
            return known
        stored = self._store.read(context, key)
        with self._locked():
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
        with self._locked():
            self._known.clear()
        self._store.close()

    def forget(self, context: str, key: str | None) -> None:
        """Drop what is known of a record, or of a whole context."""
        with self._locked():
            self._writes += 1
            if key is not None:
                self._known.pop((context, key), None)
                return
            for place in [place for place in self._known if place[0] == context]:
                del self._known[place]

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():
            # A lock held by another thread during the fork stays locked in the child for ever.
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock

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


def _weakest(all_of: list[Capabilities]) -> Capabilities:
    """What every one of several stores can do."""
    return replace(
        all_of[0],
        context_bytes=min(can.context_bytes for can in all_of),
        key_bytes=min(can.key_bytes for can in all_of),
        value_bytes=min(can.value_bytes for can in all_of),
        shared=all(can.shared for can in all_of),
        durable=all(can.durable for can in all_of),
        survives_restart=all(can.survives_restart for can in all_of),
        evicts=any(can.evicts for can in all_of),
        enumerable=all(can.enumerable for can in all_of),
        server_side=all(can.server_side for can in all_of),
        indexes=all(can.indexes for can in all_of),
        contexts=all(can.contexts for can in all_of),
        resolution=max(can.resolution for can in all_of),
        expires_itself=any(can.expires_itself for can in all_of),
        staleness=max(can.staleness for can in all_of),
        total_bytes=min(
            (most for can in all_of if (most := can.total_bytes) is not None), default=None
        ),
        presumed=any(can.presumed for can in all_of),
        because={name: why for can in all_of for name, why in can.because.items()},
    )
