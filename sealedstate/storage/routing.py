"""Stores made of stores: a bounded read cache in front of one, and one store for each context.

Knows the storage contract. Does not know any backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from .contract import Capabilities, Storage, Stored, Unchanged


class RoutedStorage:
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
    while isinstance(storage, RoutedStorage):
        storage = storage.store_of(context)
    return storage


def different(stores: Iterable[Storage]) -> list[Storage]:
    """Each store once, in order."""
    return list({id(store): store for store in stores}.values())


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
