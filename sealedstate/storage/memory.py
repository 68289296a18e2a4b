"""A store in this process's memory, for tests and for single processes: `MemoryStorage`."""

from __future__ import annotations

import bisect
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

from .._forks import ForkSafeLock
from ..errors import CapacityError, StorageUnavailable, VersionMismatch
from .contract import (
    FOLLOWED,
    Capabilities,
    Changes,
    Clock,
    Stored,
    check_arguments,
    millis,
    utf8,
)

__all__ = ["MemoryStorage"]

# Writes between two searches for expired records, so that no caller need reap.
REAP_EVERY = 256


class MemoryStorage:
    """Records in a dict. `max_records` bounds it: a write beyond that raises CapacityError.

    In a forked child every operation raises StorageUnavailable: the child has a copy, whose changes
    no other process would see.
    """

    capabilities = Capabilities(
        context_bytes=1 << 16,
        key_bytes=1 << 16,
        value_bytes=1 << 24,
        shared=False,
        durable=False,
        survives_restart=False,
        evicts=False,
        enumerable=True,
        changes=True,
    )

    def __init__(self, clock: Clock, max_records: int = 1_000_000) -> None:
        self._clock = clock
        self._max_records = max_records
        self._records: dict[tuple[str, str], Stored] = {}
        self._indexes: dict[tuple[str, str], dict[str, int | None]] = {}
        self._lock = ForkSafeLock()
        self._pid = os.getpid()
        self._writes, self._reap_after = 0, REAP_EVERY
        # The number of the last write of each record that is followed, and the same in order.
        self._numbers: dict[tuple[str, str], int] = {}
        self._order: list[tuple[int, tuple[str, str]]] = []
        self._last_number, self._incarnation = 0, uuid.uuid4().hex

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_arguments(self.capabilities, context, key, value, expires_at, version)
        with self._writing():
            if self._find(context, key) is not None:
                return False
            self._make_room()
            self._put((context, key), Stored(bytes(value), version, expires_at))
            return True

    def read(self, context: str, key: str) -> Stored | None:
        check_arguments(self.capabilities, context, key)
        with self._reading():
            return self._find(context, key)

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        check_arguments(self.capabilities, context, key, value, expires_at, version, expected)
        with self._writing():
            stored = self._find_version(context, key, expected)
            if stored is None:
                return False
            if version <= stored.version:
                raise VersionMismatch(stored.version)
            self._put((context, key), Stored(bytes(value), version, expires_at))
            return True

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_arguments(self.capabilities, context, key, b"", None, expected)
        with self._writing():
            if self._find_version(context, key, expected) is None:
                return False
            del self._records[context, key]
            return True

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_arguments(self.capabilities, context, "any")
        with self._reading():
            found = [
                key
                for of, key in self._records
                if of == context and key.startswith(prefix) and self._find(of, key) is not None
            ]
        return iter(found)

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        check_arguments(self.capabilities, context, key, utf8(member), expires_at)
        with self._writing():
            self._make_room()
            self._indexes.setdefault((context, key), {})[member] = expires_at

    def remove_member(self, context: str, key: str, member: str) -> bool:
        check_arguments(self.capabilities, context, key, utf8(member))
        with self._writing():
            index = self._indexes.get((context, key), {})
            was_live = member in index and self._is_live(index[member])
            index.pop(member, None)
            if not index:
                self._indexes.pop((context, key), None)
            return was_live

    def members(self, context: str, key: str) -> dict[str, int | None]:
        check_arguments(self.capabilities, context, key)
        with self._reading():
            index = self._indexes.get((context, key), {})
            return {member: at for member, at in index.items() if self._is_live(at)}

    def ping(self) -> None:
        with self._reading():
            pass

    def reap(self, limit: int) -> int:
        with self._writing():
            return self._reap(limit)

    def close(self) -> None:
        """Do nothing; the records stay."""

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_arguments(self.capabilities, context, key, b"", expires_at)
        with self._writing():
            stored = self._find(context, key)
            if stored is None:
                return False
            self._put((context, key), replace(stored, expires_at=expires_at))
            return True

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_arguments(self.capabilities, context, "any", b"", expires_at)
        with self._writing():
            for place in [place for place in self._records if place[0] == context]:
                stored = self._find(*place)
                if stored is not None:
                    self._put(place, replace(stored, expires_at=expires_at))

    def delete_context(self, context: str) -> None:
        check_arguments(self.capabilities, context, "any")
        with self._writing():
            for table in (self._records, self._indexes):
                for place in [place for place in table if place[0] == context]:
                    del table[place]

    def prepare(self) -> None:
        """Do nothing; there is nothing to make."""

    def changes(self, after: str | None, limit: int) -> Changes:
        incarnation, _, number = (after or "").partition(":")
        with self._reading():
            starts_over = incarnation != self._incarnation
            seen = 0 if starts_over else int(number)
            first = bisect.bisect_right(self._order, seen, key=lambda entry: entry[0])
            records: list[tuple[str, str, Stored]] = []
            for seen, place in self._order[first:]:
                stored = self._find(*place)
                if stored is not None and self._numbers.get(place) == seen:
                    records.append((*place, stored))
                    if len(records) == limit:
                        break
            position = f"{self._incarnation}:{seen}"
            return Changes(records, position, len(records) < limit, starts_over)

    def _reading(self) -> AbstractContextManager[object]:
        """The lock. Raises StorageUnavailable in a forked child."""
        if os.getpid() != self._pid:
            raise StorageUnavailable(
                "memory: this store was made before a fork, and each process would have a copy;"
                " use sqlite: to share one"
            )
        return self._lock

    def _writing(self) -> AbstractContextManager[object]:
        return self._reading()

    # --- with the lock held ---------------------------------------------------------------------

    def _put(self, place: tuple[str, str], stored: Stored) -> None:
        self._records[place] = stored
        if place[0] in FOLLOWED:
            self._last_number += 1
            self._numbers[place] = self._last_number
            self._order.append((self._last_number, place))
            if len(self._order) > 2 * len(self._numbers) + REAP_EVERY:
                numbers = {at: n for at, n in self._numbers.items() if at in self._records}
                self._order = sorted((n, at) for at, n in numbers.items())
                self._numbers = numbers

    def _find(self, context: str, key: str) -> Stored | None:
        stored = self._records.get((context, key))
        return stored if stored is not None and self._is_live(stored.expires_at) else None

    def _find_version(self, context: str, key: str, expected: int | None) -> Stored | None:
        stored = self._find(context, key)
        if stored is not None and expected is not None and stored.version != expected:
            raise VersionMismatch(stored.version)
        return stored

    def _is_live(self, expires_at: int | None) -> bool:
        return expires_at is None or millis(self._clock()) < expires_at

    def _make_room(self) -> None:
        self._writes += 1
        if self._is_full() or self._writes >= self._reap_after:
            self._reap(self._max_records)
            # A search of all records costs as many steps, so it waits for as many writes.
            self._writes, self._reap_after = 0, max(REAP_EVERY, len(self._records))
        if self._is_full():
            raise CapacityError(f"memory: the store is full (max_records is {self._max_records})")

    def _is_full(self) -> bool:
        return len(self._records) + len(self._indexes) >= self._max_records

    def _reap(self, limit: int) -> int:
        records = [place for place in self._records if self._find(*place) is None][:limit]
        for place in records:
            del self._records[place]
        members = [
            (place, member)
            for place, index in self._indexes.items()
            for member, at in index.items()
            if not self._is_live(at)
        ][: limit - len(records)]
        for place, member in members:
            del self._indexes[place][member]
            if not self._indexes[place]:
                del self._indexes[place]
        return len(records) + len(members)
