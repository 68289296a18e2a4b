"""Stores made of stores keep the contract, and say how stale they may be."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate import ConfigurationError, StorageUnavailable
from sealedstate.storage import (
    CachedStorage,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
    Storage,
    open_storage,
)
from sealedstate.storage.contract import Clock, Stored
from sealedstate.testing import StorageContract


class Ticking:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Counting(MemoryStorage):
    """Counts what reaches the store behind a cache."""

    reads = 0

    def read(self, context: str, key: str) -> Stored | None:
        self.reads += 1
        return super().read(context, key)


class TestSplitKeepsTheContract(StorageContract):
    path: str

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "split")

    def open_store(self, clock: Clock) -> Storage:
        other = SQLiteStorage(f"{self.path}.other", clock)
        return RoutedStorage(SQLiteStorage(self.path, clock), {"sealedstate.revoked": other})


class TestCacheKeepsTheContract(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        return CachedStorage(MemoryStorage(clock), clock, staleness=60_000)


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


def test_a_split_sends_each_context_to_its_own_store(clock: Ticking) -> None:
    one, other = MemoryStorage(clock), MemoryStorage(clock)
    split = RoutedStorage(one, {"replay": other})
    assert split.create("replay", "k", b"r", None, 1)
    assert split.create("logins", "k", b"l", None, 1)
    assert one.read("replay", "k") is None
    assert other.read("logins", "k") is None
    assert split.read("replay", "k") == Stored(b"r", 1, None)


def test_a_split_can_do_what_its_weakest_store_can(clock: Ticking, tmp_path: Path) -> None:
    split = RoutedStorage(SQLiteStorage(tmp_path / "db", clock), {"x": MemoryStorage(clock)})
    assert not split.capabilities.shared
    assert not split.capabilities.survives_restart
    assert not split.capabilities.presumed


def test_a_split_takes_no_more_than_its_smallest_store_and_presumes_what_one_of_them_does(
    clock: Ticking,
) -> None:
    stores = [MemoryStorage(clock) for _ in range(3)]
    for store, total, presumed in zip(
        stores, (None, 4096, 8192), (False, True, False), strict=True
    ):
        can = replace(MemoryStorage.capabilities, total_bytes=total, presumed=presumed)
        store.capabilities = can
    split = RoutedStorage(stores[0], {"x": stores[1], "y": stores[2]})
    assert split.capabilities.total_bytes == 4096
    assert split.capabilities.presumed


def test_a_cache_asks_once_until_its_answer_is_stale(clock: Ticking) -> None:
    behind = Counting(clock)
    cache = CachedStorage(behind, clock, staleness=500)
    behind.create("c", "k", b"1", None, 1)
    assert cache.read("c", "k") == Stored(b"1", 1, None)
    behind.update("c", "k", b"2", None, 2)
    clock.now += 0.499
    assert cache.read("c", "k") == Stored(b"1", 1, None)
    clock.now += 0.002
    assert cache.read("c", "k") == Stored(b"2", 2, None)
    assert behind.reads == 2


def test_a_cache_never_outlives_an_expiry(clock: Ticking) -> None:
    cache = CachedStorage(MemoryStorage(clock), clock, staleness=10_000)
    cache.create("c", "k", b"1", int(clock.now * 1000) + 100, 1)
    assert cache.read("c", "k") is not None
    clock.now += 0.1
    assert cache.read("c", "k") is None


def test_absence_is_never_cached_so_that_a_revocation_counts_at_once(clock: Ticking) -> None:
    behind = MemoryStorage(clock)
    cache = CachedStorage(behind, clock, staleness=10_000)
    assert cache.read("c", "k") is None
    behind.create("c", "k", b"", None, 1)
    assert cache.read("c", "k") is not None


def test_a_clock_that_steps_back_makes_no_answer_fresh_again(clock: Ticking) -> None:
    behind = MemoryStorage(clock)
    cache = CachedStorage(behind, clock, staleness=500)
    behind.create("c", "k", b"1", None, 1)
    cache.read("c", "k")
    behind.update("c", "k", b"2", None, 2)
    clock.now -= 3600
    assert cache.read("c", "k") == Stored(b"2", 2, None)


def test_a_read_that_began_before_a_write_is_not_kept(clock: Ticking) -> None:
    asked, written = threading.Event(), threading.Event()

    class Slow(MemoryStorage):
        def read(self, context: str, key: str) -> Stored | None:
            found = super().read(context, key)
            asked.set()
            assert written.wait(10)
            return found

    cache = CachedStorage(Slow(clock), clock, staleness=10_000)
    cache.create("c", "k", b"old", None, 1)
    reader = threading.Thread(target=cache.read, args=("c", "k"))
    reader.start()
    assert asked.wait(10)
    cache.update("c", "k", b"new", None, 2)
    written.set()
    reader.join()
    assert cache.read("c", "k") == Stored(b"new", 2, None)


def test_a_cache_is_bounded_and_keeps_what_is_read_most(clock: Ticking) -> None:
    behind = Counting(clock)
    cache = CachedStorage(behind, clock, staleness=10_000, max_records=2)
    for key in ("a", "b", "c"):
        behind.create("c", key, b"", None, 1)
    for key in ("a", "b", "a", "c"):
        cache.read("c", key)
    before = behind.reads
    cache.read("c", "a")
    assert behind.reads == before
    cache.read("c", "b")
    assert behind.reads == before + 1


def test_a_cached_store_is_usable_after_a_fork(clock: Ticking, tmp_path: Path) -> None:
    cache = CachedStorage(SQLiteStorage(tmp_path / "db", clock), clock, staleness=10_000)
    cache.create("c", "k", b"1", None, 1)
    pid = os.fork()
    if pid == 0:
        found = cache.read("c", "k")
        os._exit(0 if found is not None and found.value == b"1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    cache.close()


def test_urls_name_layers_and_splits(clock: Ticking, tmp_path: Path) -> None:
    assert isinstance(open_storage("layered:500:memory:", clock), CachedStorage)
    urls = {"*": f"sqlite:{tmp_path / 'a'}", "sealedstate.revoked": "memory:"}
    split = open_storage(urls, clock)
    assert isinstance(split, RoutedStorage)
    assert isinstance(split.store_of("sealedstate.revoked"), MemoryStorage)
    assert isinstance(split.store_of("anything"), SQLiteStorage)


@pytest.mark.parametrize(
    "url", ["layered:", "layered:x:memory:", "layered:500", "memory:x", "sqlite:", "nonsense"]
)
def test_a_url_that_names_nothing_is_refused_and_not_repeated(url: str, clock: Ticking) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url, clock)
    assert "nonsense" not in str(caught.value)


def test_a_split_without_a_default_is_refused(clock: Ticking) -> None:
    with pytest.raises(ConfigurationError, match=r"\*"):
        open_storage({"sealedstate.revoked": "memory:"}, clock)


def test_a_split_is_down_when_one_of_its_stores_is(clock: Ticking, tmp_path: Path) -> None:
    gone = SQLiteStorage(tmp_path / "no" / "such" / "folder", clock)
    with pytest.raises(StorageUnavailable):
        RoutedStorage(MemoryStorage(clock), {"x": gone}).ping()
