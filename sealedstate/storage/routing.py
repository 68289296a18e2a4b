"""One store for each context: `RoutedStorage`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import StorageError
from .contract import Capabilities, ManagedStorage, Storage, Stored, is_managed

__all__ = ["ForwardingStorage", "RoutedStorage", "distinct_stores", "store_of"]

# How the capabilities of several stores become those of all.
_COMBINED: tuple[tuple[str, Callable[[Iterable[Any]], Any]], ...] = (
    ("context_bytes key_bytes value_bytes", min),
    ("shared durable survives_restart enumerable server_side indexes contexts", all),
    ("resolution staleness", max),
    ("evicts native_expiry assumed", any),
)


class ForwardingStorage:
    """Sends the operations on each context to a store, and all others to `default`."""

    def __init__(self, default: Storage, contexts: Mapping[str, Storage]) -> None:
        self._default = default
        self._contexts = dict(contexts)

    def store_of(self, context: str) -> Storage:
        """Return the store that a context is sent to."""
        return self._contexts.get(context, self._default)

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        return self.store_of(context).create(context, key, value, expires_at, version)

    def read(self, context: str, key: str) -> Stored | None:
        return self.store_of(context).read(context, key)

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

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        return self.store_of(context).delete(context, key, expected)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        return self.store_of(context).keys(context, prefix)

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self.store_of(context).add_member(context, key, member, expires_at)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        return self.store_of(context).remove_member(context, key, member)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        return self.store_of(context).members(context, key)

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

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        store = require_managed(self.store_of(context))
        return store.update_expiration(context, key, expires_at)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        require_managed(self.store_of(context)).touch_context(context, expires_at)

    def delete_context(self, context: str) -> None:
        require_managed(self.store_of(context)).delete_context(context)

    def prepare(self) -> None:
        for store in self._stores():
            if is_managed(store):
                store.prepare()

    def _stores(self) -> list[Storage]:
        return distinct_stores([self._default, *self._contexts.values()])


class RoutedStorage(ForwardingStorage):
    """Sends each context to a store, and every other context to `default`.

    Its capabilities are those that all of the stores have, without `changes`; `store_of` returns
    the store of one context.
    """

    @property
    def capabilities(self) -> Capabilities:
        all_of = [store.capabilities for store in self._stores()]
        worst: dict[str, Any] = {
            name: rule(getattr(can, name) for can in all_of)
            for names, rule in _COMBINED
            for name in names.split()
        }
        totals = (can.total_bytes for can in all_of if can.total_bytes is not None)
        reasons = {name: why for can in all_of for name, why in can.reasons.items()}
        advice = tuple(dict.fromkeys(line for can in all_of for line in can.advice))
        return replace(
            all_of[0],
            **worst,
            total_bytes=min(totals, default=None),
            changes=False,
            reasons=reasons,
            advice=advice,
        )

    @property
    def contexts(self) -> list[str]:
        """The contexts that are not sent to the default store."""
        return list(self._contexts)


def store_of(context: str, storage: Storage) -> Storage:
    """Return the store that a context is sent to in the end, through nested RoutedStorages."""
    while isinstance(storage, RoutedStorage):
        storage = storage.store_of(context)
    return storage


def distinct_stores(stores: Iterable[Storage]) -> list[Storage]:
    """Return each store once, in order."""
    return list({id(store): store for store in stores}.values())


def require_managed(storage: Storage) -> ManagedStorage:
    """Return a store that has the operations of ManagedStorage, or raise StorageError."""
    if not is_managed(storage):
        raise StorageError(
            f"{type(storage).__name__} does not have the operations of ManagedStorage"
        )
    return storage
