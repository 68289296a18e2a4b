"""The memcached store with different options of the server, and the conformance kit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sealedstate.errors import CapacityError, StorageUnavailable
from sealedstate.storage import Storage
from sealedstate.storage.contract import Clock, Stored
from sealedstate.storage.memcached import MemcachedStorage
from tests.support.backends import ContractBehindProxy
from tests.support.kv_promises import PATIENT
from tests.support.kv_servers import KeyValueServer, memcached_server

pytestmark = pytest.mark.server


def open_memcached(url: str) -> MemcachedStorage:
    return MemcachedStorage(url, time.time, timeout=PATIENT)


@pytest.fixture
def own_server() -> Iterator[KeyValueServer]:
    with memcached_server() as server:
        yield server


@pytest.mark.slow
def test_restart_forgets_everything_as_declared(own_server: KeyValueServer) -> None:
    store = open_memcached(own_server.url)
    for number in range(100):
        assert store.create("c", str(number), b"v", None, 1)
    assert not store.capabilities.survives_restart
    own_server.restart()
    assert [store.read("c", str(number)) for number in range(100)] == [None] * 100
    assert store.create("c", "0", b"v", None, 1)
    own_server.kill9()
    own_server.start()
    assert store.read("c", "0") is None
    store.close()


def test_server_that_declares_eviction_evicts() -> None:
    with memcached_server("-m", "4") as server:
        store = open_memcached(server.url)
        assert store.create("c", "first", b"v" * 1000, None, 1)
        for number in range(10_000):
            assert store.create("c", str(number), b"v" * 1000, None, 1)
        assert store.capabilities.evicts
        assert "maxbytes 4194304" in store.capabilities.reasons["evicts"]
        assert store.read("c", "first") is None
        store.close()


def fill(store: Storage) -> None:
    for number in range(10_000):
        store.create("c", str(number), b"v" * 1000, None, 1)


def test_full_server_that_may_not_evict_refuses_writes() -> None:
    with memcached_server("-m", "4", "-M") as server:
        store = open_memcached(server.url)
        assert not store.capabilities.evicts
        with pytest.raises(StorageUnavailable, match="memory is full"):
            fill(store)
        assert store.read("c", "0") == Stored(b"v" * 1000, 1, None)
        assert store.delete("c", "0")
        store.close()


SIZES = {
    "small": ["-I", "512k"],
    "default": [],
    "large": ["-I", "4m"],
}


@pytest.mark.parametrize("size", SIZES)
def test_value_may_be_as_large_as_the_server_allows(size: str) -> None:
    with memcached_server(*SIZES[size]) as server:
        store = open_memcached(server.url)
        value = b"\r\nEND\r\n" * (store.capabilities.value_bytes // 7)
        value += b"v" * (store.capabilities.value_bytes - len(value))
        assert store.create("c", "k" * 4096, value, None, 1)
        assert store.read("c", "k" * 4096) == Stored(value, 1, None)
        with pytest.raises(CapacityError):
            store.update("c", "k" * 4096, value + b"v", None, 2)
        store.close()


def test_large_value_is_checked_before_the_server_was_asked() -> None:
    with memcached_server(*SIZES["small"]) as server:
        store = open_memcached(server.url)
        with pytest.raises(CapacityError):
            store.create("c", "k", bytes(600_000), None, 1)
        store.close()
    with memcached_server(*SIZES["large"]) as server:
        store = open_memcached(server.url)
        assert store.create("c", "k", bytes(2_000_000), None, 1)
        store.close()


def test_server_without_cas_is_refused() -> None:
    with memcached_server("-C") as server:
        store = open_memcached(server.url)
        with pytest.raises(StorageUnavailable, match="-C"):
            store.read("c", "k")


def connect_often(server: KeyValueServer, stores: list[MemcachedStorage]) -> None:
    for _ in range(100):
        stores.append(open_memcached(server.url))
        stores[-1].ping()


def test_server_with_too_many_clients_is_reported() -> None:
    stores: list[MemcachedStorage] = []
    with memcached_server("-t", "1", "-c", "50", "-o", "maxconns_fast") as server:
        with pytest.raises(StorageUnavailable, match="no connection"):
            connect_often(server, stores)
        for store in stores:
            store.close()


def test_all_addresses_of_a_name_are_tried(own_server: KeyValueServer) -> None:
    store = MemcachedStorage(f"memcached://localhost:{own_server.port}", time.time, timeout=PATIENT)
    store.ping()
    store.close()
    unknown = MemcachedStorage("memcached://no-such-host.invalid", time.time)
    with pytest.raises(StorageUnavailable, match="no address"):
        unknown.ping()


# --- the kit --------------------------------------------------------------------------------------


class TestMemcached(ContractBehindProxy):
    @pytest.fixture(autouse=True)
    def _place(self, plain_memcached: KeyValueServer) -> Iterator[None]:
        with self.proxy_of(plain_memcached.port) as port:
            self.url = f"memcached://127.0.0.1:{port}"
            yield

    def open_store(self, clock: Clock) -> Storage:
        return MemcachedStorage(self.url, clock, timeout=PATIENT)
