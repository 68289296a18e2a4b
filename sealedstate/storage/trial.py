"""Whether a store takes writes: tried with a record and a member of an index that are our own.

Knows the contract. Does not know backends, nor why one that answers may take no writes: a user who
may only read, a replica, a full disk or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import StorageError
from .contract import Storage, Stored, millis

CONTEXT = "sealedstate.check"
LIFETIME = 120
"""Seconds, after which nothing is left of a trial that broke off."""

_VALUE = b"a trial"
_Step = tuple[str, Callable[[], object], object]


def try_out(store: Storage, now: float, key: str) -> str | None:
    """What the store fails at, and why; None where it takes writes.

    Writes, reads, changes and deletes a record under `key`, which nobody else uses, and where the
    store has indexes, a member of one. `now` in epoch seconds.
    """
    for what, act, expected in _steps(store, millis(now + LIFETIME), key):
        try:
            found = act()
        except StorageError as error:
            return f"{what}: {error}"
        if found != expected:
            return f"{what}: the store answers, but not with what was written"
    return None


def _steps(store: Storage, expires_at: int, key: str) -> Iterator[_Step]:
    there = Stored(_VALUE, 1, expires_at)
    yield "create", lambda: store.create(CONTEXT, key, _VALUE, expires_at, 1), True
    yield "read", lambda: store.read(CONTEXT, key), there
    yield "update", lambda: store.update(CONTEXT, key, _VALUE, expires_at, 2, 1), True
    yield "delete", lambda: store.delete(CONTEXT, key, 2), True
    yield "read", lambda: store.read(CONTEXT, key), None
    if store.capabilities.indexes:
        yield "add_member", lambda: store.add_member(CONTEXT, key, "m", expires_at), None
        yield "members", lambda: store.members(CONTEXT, key), {"m": expires_at}
        yield "remove_member", lambda: store.remove_member(CONTEXT, key, "m"), True
