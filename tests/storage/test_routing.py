"""A store for each context: where calls go, and what all of the stores can do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate.errors import StorageError, StorageUnavailable
from sealedstate.storage import (
    CachedStorage,
    ManagedStorage,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
    Storage,
)
from sealedstate.storage.contract import Clock, Stored
from sealedstate.testing import StorageContract
from tests.support.jar import Clock as StandingClock


class TestRoutedStorage:
    def test_each_context_goes_to_its_store(self, clock: StandingClock) -> None:
        one, other = MemoryStorage(clock), MemoryStorage(clock)
        routed = RoutedStorage(one, {"replay": other})
        assert routed.create("replay", "k", b"r", None, 1)
        assert routed.create("logins", "k", b"l", None, 1)
        assert one.read("replay", "k") is None
        assert other.read("logins", "k") is None
        assert routed.read("replay", "k") == Stored(b"r", 1, None)

    def test_capabilities_are_those_of_all_stores(
        self, clock: StandingClock, tmp_path: Path
    ) -> None:
        routed = RoutedStorage(SQLiteStorage(tmp_path / "db", clock), {"x": MemoryStorage(clock)})
        assert not routed.capabilities.shared
        assert not routed.capabilities.survives_restart
        assert not routed.capabilities.assumed
        stores = [MemoryStorage(clock) for _ in range(3)]
        limits = ((None, False), (4096, True), (8192, False))
        for store, (total, assumed) in zip(stores, limits, strict=True):
            store.capabilities = replace(store.capabilities, total_bytes=total, assumed=assumed)
        routed = RoutedStorage(stores[0], {"x": stores[1], "y": stores[2]})
        assert routed.capabilities.total_bytes == 4096
        assert routed.capabilities.assumed
        cached = CachedStorage(MemoryStorage(clock), clock, 500)
        assert RoutedStorage(stores[0], {"x": cached}).capabilities.staleness == 500

    def test_ping_fails_if_one_of_the_stores_does(
        self, clock: StandingClock, tmp_path: Path
    ) -> None:
        unreachable = SQLiteStorage(tmp_path / "no" / "such" / "folder", clock)
        with pytest.raises(StorageUnavailable):
            RoutedStorage(MemoryStorage(clock), {"x": unreachable}).ping()

    def test_store_with_eleven_operations_is_prepared_but_not_managed(
        self, clock: StandingClock
    ) -> None:
        routed = RoutedStorage(MemoryStorage(clock), {"x": Unmanaged(clock)})
        routed.prepare()
        routed.delete_context("y")
        for act in (
            lambda: routed.delete_context("x"),
            lambda: routed.touch_context("x", None),
            lambda: routed.update_expiration("x", "k", None),
        ):
            with pytest.raises(StorageError, match="Unmanaged"):
                act()


class Unmanaged(MemoryStorage):
    update_expiration = touch_context = delete_context = prepare = None  # type: ignore[assignment]


def test_store_with_eleven_operations_is_a_storage_only() -> None:
    store: object = Unmanaged(StandingClock())
    assert isinstance(store, Storage)
    assert not isinstance(store, ManagedStorage)


@pytest.mark.soak
class TestRoutedStorageKeepsTheContract(StorageContract):
    path: str

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "routed")

    def open_store(self, clock: Clock) -> Storage:
        other = SQLiteStorage(f"{self.path}.other", clock)
        return RoutedStorage(SQLiteStorage(self.path, clock), {"sealedstate.revoked": other})
