"""The read cache: how old an answer may be, and what ends it sooner."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sealedstate.storage import CachedStorage, MemoryStorage, SQLiteStorage, Storage
from sealedstate.storage.contract import Clock, Stored
from sealedstate.testing import ScriptedStorage, StorageContract
from tests.support.forks import run_child
from tests.support.jar import Clock as StandingClock


class TestCachedStorage:
    def test_store_is_read_once_until_the_answer_is_stale(self, clock: StandingClock) -> None:
        behind = ScriptedStorage(clock)
        cache = CachedStorage(behind, clock, staleness=500)
        behind.create("c", "k", b"1", None, 1)
        assert cache.read("c", "k") == Stored(b"1", 1, None)
        behind.update("c", "k", b"2", None, 2)
        clock.forward(0.499)
        assert cache.read("c", "k") == Stored(b"1", 1, None)
        clock.forward(0.002)
        assert cache.read("c", "k") == Stored(b"2", 2, None)
        assert behind.count["read"] == 2

    def test_staleness_adds_up(self, clock: StandingClock) -> None:
        cache = CachedStorage(CachedStorage(MemoryStorage(clock), clock, 500), clock, 200)
        assert cache.capabilities.staleness == 700

    def test_cached_record_ends_with_its_expiry(self, clock: StandingClock) -> None:
        cache = CachedStorage(MemoryStorage(clock), clock, staleness=10_000)
        cache.create("c", "k", b"1", int(clock() * 1000) + 100, 1)
        assert cache.read("c", "k") is not None
        clock.forward(0.1)
        assert cache.read("c", "k") is None

    def test_absence_is_not_cached(self, clock: StandingClock) -> None:
        behind = MemoryStorage(clock)
        cache = CachedStorage(behind, clock, staleness=10_000)
        assert cache.read("c", "k") is None
        behind.create("c", "k", b"", None, 1)
        assert cache.read("c", "k") is not None

    def test_clock_that_steps_back_makes_no_answer_fresh(self, clock: StandingClock) -> None:
        behind = MemoryStorage(clock)
        cache = CachedStorage(behind, clock, staleness=500)
        behind.create("c", "k", b"1", None, 1)
        cache.read("c", "k")
        behind.update("c", "k", b"2", None, 2)
        clock.forward(-3600)
        assert cache.read("c", "k") == Stored(b"2", 2, None)

    def test_read_from_before_a_write_is_not_cached(self, clock: StandingClock) -> None:
        has_read, has_written = threading.Event(), threading.Event()
        behind = ScriptedStorage(clock)
        cache = CachedStorage(behind, clock, staleness=10_000)
        cache.create("c", "k", b"old", None, 1)

        def wait() -> None:
            has_read.set()
            assert has_written.wait(10)

        behind.after("read", act=wait)
        reader = threading.Thread(target=cache.read, args=("c", "k"))
        reader.start()
        assert has_read.wait(10)
        cache.update("c", "k", b"new", None, 2)
        has_written.set()
        reader.join()
        assert cache.read("c", "k") == Stored(b"new", 2, None)

    def test_least_recently_read_record_is_dropped(self, clock: StandingClock) -> None:
        behind = ScriptedStorage(clock)
        cache = CachedStorage(behind, clock, staleness=10_000, max_records=2)
        for key in ("a", "b", "c"):
            behind.create("c", key, b"", None, 1)
        for key in ("a", "b", "a", "c"):
            cache.read("c", key)
        before = behind.count["read"]
        cache.read("c", "a")
        assert behind.count["read"] == before
        cache.read("c", "b")
        assert behind.count["read"] == before + 1

    def test_cache_works_in_a_forked_child(self, clock: StandingClock, tmp_path: Path) -> None:
        cache = CachedStorage(SQLiteStorage(tmp_path / "db", clock), clock, staleness=10_000)
        cache.create("c", "k", b"1", None, 1)
        assert run_child(lambda: cache.read("c", "k")) == Stored(b"1", 1, None)
        cache.close()


@pytest.mark.soak
class TestCachedStorageKeepsTheContract(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        return CachedStorage(MemoryStorage(clock), clock, staleness=60_000)
