"""The store in memory: its bound, what it removes, and forks."""

from __future__ import annotations

import pytest

from sealedstate.errors import CapacityError
from sealedstate.storage import MemoryStorage, Stored
from sealedstate.testing._workers import run_in_fork
from tests.support.jar import Clock


def test_full_store_refuses_more_and_keeps_its_records(clock: Clock) -> None:
    store = MemoryStorage(clock, max_records=3)
    for key in "abc":
        store.create("c", key, b"v", None, 1)
    with pytest.raises(CapacityError):
        store.create("c", "d", b"v", None, 1)
    assert sorted(store.keys("c")) == ["a", "b", "c"]
    assert store.update("c", "a", b"w", None, 2)
    store.delete("c", "a")
    assert store.create("c", "d", b"v", None, 1)


def test_expired_records_make_room(clock: Clock) -> None:
    store = MemoryStorage(clock, max_records=2)
    store.create("c", "a", b"v", int(clock() * 1000) + 1000, 1)
    store.create("c", "b", b"v", None, 1)
    clock.forward(1)
    assert store.create("c", "new", b"v", None, 1)
    assert store.create("c", "new", b"v", None, 2) is False
    assert sorted(store.keys("c")) == ["b", "new"]


def test_writes_remove_expired_records(clock: Clock) -> None:
    store = MemoryStorage(clock)
    for number in range(5000):
        store.create("c", str(number), b"v", int(clock() * 1000) + 1000, 1)
        clock.forward(0.1)
    # At most ten are live at a time; reap() counts the expired ones that are left.
    assert store.reap(5000) <= 300


def test_value_that_the_caller_changes_later_is_unchanged_in_the_store(clock: Clock) -> None:
    store = MemoryStorage(clock)
    value = bytearray(b"before")
    store.create("c", "k", value, None, 1)  # type: ignore[arg-type]
    value[:] = b"after!"
    assert store.read("c", "k") == Stored(b"before", 1, None)


def test_forked_child_is_refused_and_the_parent_is_not(clock: Clock) -> None:
    store = MemoryStorage(clock)
    store.create("c", "k", b"v", None, 1)
    problem, _ = run_in_fork(lambda: store.read("c", "k"))
    assert "StorageUnavailable" in problem
    assert "sqlite:" in problem
    assert store.read("c", "k") == Stored(b"v", 1, None)
