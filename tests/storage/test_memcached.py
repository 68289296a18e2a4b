"""The memcached store on real servers: epochs, limits, options of the server; the kit."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from pymemcache.client.base import Client, PooledClient  # type: ignore[import-untyped]
from pymemcache.client.hash import HashClient  # type: ignore[import-untyped]

from sealedstate.errors import (
    CapacityError,
    ConfigurationError,
    StorageError,
    StorageUnavailable,
)
from sealedstate.storage import ManagedStorage, Storage
from sealedstate.storage.contract import Clock, Stored, context_digest, key_digest, printable
from sealedstate.storage.memcached import GRACE, MemcachedStorage
from sealedstate.storage.requirements import DECLARED
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import poll
from sealedstate.testing._workers import run_in_threads
from tests.support.backends import ContractBehindProxy
from tests.support.installed import program
from tests.support.kv_promises import HANG, PATIENT, KeyValuePromises
from tests.support.kv_servers import KeyValueServer, memcached_server

pytestmark = pytest.mark.server

SECOND, DAY = 1000, 86_400_000


def plain_client(server: KeyValueServer) -> Any:
    """A plain client, to see what memcached really holds."""
    return Client(("127.0.0.1", server.port), timeout=5, connect_timeout=5, default_noreply=False)


@pytest.fixture
def admin(plain_memcached: KeyValueServer) -> Iterator[Any]:
    with contextlib.closing(plain_client(plain_memcached)) as client:
        yield client


@pytest.fixture
def server(plain_memcached: KeyValueServer, admin: Any) -> KeyValueServer:
    admin.flush_all()
    return plain_memcached


@pytest.fixture
def own_server() -> Iterator[KeyValueServer]:
    with memcached_server() as server:
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(server: KeyValueServer, clock: FakeClock) -> Iterator[MemcachedStorage]:
    store = MemcachedStorage(server.url, clock, timeout=PATIENT)
    yield store
    store.close()


class TestPromises(KeyValuePromises):
    # Each write reads first what it would overwrite.
    replies_before: ClassVar = dict.fromkeys(
        ("create", "update", "compare-and-set", "delete", "compare-and-delete"), 1
    )

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> ManagedStorage:
        return MemcachedStorage(url, clock, timeout=timeout)

    def count_writes(self, server: KeyValueServer) -> int:
        with contextlib.closing(plain_client(server)) as client:
            return int(client.stats()[b"cmd_set"])


# --- what is in memcached -----------------------------------------------------------------------


def name_of(kind: str, key: str = "k") -> bytes:
    """The name of a record ("r") or an index ("i") in the context "c"."""
    return f"sealedstate:{kind}:".encode() + printable(key_digest("c", key))


EPOCH = b"sealedstate:e:" + printable(context_digest("c"))


def seconds_left(admin: Any, name: bytes) -> int:
    """For how many seconds memcached keeps an item; -1 is permanent."""
    found = re.fullmatch(rb"HD t(-?\d+)", admin.raw_command(b"mg %b t" % name))
    assert found is not None
    return int(found[1])


def test_memcached_expires_items_a_little_later_than_the_store(
    server: KeyValueServer, admin: Any
) -> None:
    # Whatever time the store's clock shows, memcached's shows another.
    now = int(time.time() * 1000)
    for begin in (now, 1_000_000_000_000, now + 3652 * DAY):
        clock = FakeClock()
        clock.stop(begin)
        store = MemcachedStorage(server.url, clock, timeout=PATIENT)
        store.create("c", "update", b"v", None, 1)
        store.create("c", "update_expiration", b"v", None, 1)
        for version, lifetime in enumerate((SECOND, 30 * DAY, 30 * DAY + SECOND, 400 * DAY), 2):
            expires_at = clock.now + lifetime
            store.create("c", f"create {version}", b"v", expires_at, 1)
            store.update("c", "update", b"v", expires_at, version)
            store.update_expiration("c", "update_expiration", expires_at)
            store.add_member("c", f"add_member {version}", "m", expires_at)
            for key in (f"create {version}", "update", "update_expiration"):
                left = seconds_left(admin, name_of("r", key)) * 1000
                assert lifetime < left <= lifetime + GRACE + 2 * SECOND, key
            left = seconds_left(admin, name_of("i", f"add_member {version}")) * 1000
            assert lifetime < left <= lifetime + GRACE + 2 * SECOND
        store.delete_context("c")
        store.close()


def test_expiry_beyond_memcacheds_range_is_permanent_there(
    store: MemcachedStorage, admin: Any, clock: FakeClock
) -> None:
    assert store.create("c", "k", b"v", 4_102_444_800_000, 1)
    assert seconds_left(admin, name_of("r")) == -1
    assert store.read("c", "k") == Stored(b"v", 1, 4_102_444_800_000)
    clock.stop(4_102_444_800_000)
    assert store.read("c", "k") is None


def test_deleted_records_take_no_room(store: MemcachedStorage, admin: Any) -> None:
    store.create("c", "k", b"v", None, 1)
    store.add_member("c", "k", "m", None)
    assert admin.get(name_of("r"))
    assert admin.get(name_of("i"))
    assert store.delete("c", "k", expected=1)
    assert store.remove_member("c", "k", "m")
    assert admin.get(name_of("r")) is None
    assert admin.get(name_of("i")) is None


# --- epochs of contexts -------------------------------------------------------------------------


def test_evicted_epoch_ends_its_records_for_good(store: MemcachedStorage, admin: Any) -> None:
    for key in "ab":
        store.create("c", key, b"old", None, 1)
    old = admin.get(EPOCH)
    admin.delete(EPOCH)
    assert store.read("c", "a") is None
    assert not store.update("c", "a", b"new", None, 2)
    assert admin.get(EPOCH) is None, "nothing is written on a read, nor for an absent record"
    assert store.create("c", "a", b"new", None, 1)
    assert admin.get(EPOCH) != old
    assert store.read("c", "a") == Stored(b"new", 1, None)
    assert store.read("c", "b") is None


def test_concurrent_writers_agree_on_a_new_epoch(store: MemcachedStorage) -> None:
    def create(racer: int, barrier: Barrier) -> None:
        for number in range(20):
            barrier.wait()
            assert store.create(f"c{number}", str(racer), b"v", None, 1)

    run_in_threads(8, create)
    for number in range(20):
        assert all(store.read(f"c{number}", str(racer)) for racer in range(8))


def test_memcached_declines_what_it_cannot_do(store: MemcachedStorage) -> None:
    can = store.capabilities
    assert (can.shared, can.durable, can.survives_restart) == (True, False, False)
    assert (can.evicts, can.enumerable, can.contexts, can.indexes) == (True, False, False, True)
    assert {"durable", "survives_restart", "evicts", "enumerable", "contexts"} <= can.reasons.keys()
    declared = DECLARED["memcached"]
    for name in ("shared", "durable", "survives_restart", "evicts", "enumerable", "contexts"):
        assert getattr(can, name) == getattr(declared, name), name
    with pytest.raises(StorageError, match="contexts"):
        store.touch_context("c", None)
    with pytest.raises(StorageError, match="enumerable"):
        store.keys("c")
    assert store.reap(10) == 0


def test_index_that_outgrows_its_item_is_refused_and_stays(store: MemcachedStorage) -> None:
    member = "m" * 60_000
    with pytest.raises(CapacityError):
        grow(store, member)
    members = store.members("c", "k")
    assert len(members) == 17
    assert store.remove_member("c", "k", f"{member}0")
    store.add_member("c", "k", f"{member}17", None)
    assert len(store.members("c", "k")) == 17


def grow(store: Storage, member: str) -> None:
    for number in range(100):
        store.add_member("c", "k", f"{member}{number}", None)


# --- options of the server ------------------------------------------------------------------------


def open_memcached(url: str) -> MemcachedStorage:
    return MemcachedStorage(url, time.time, timeout=PATIENT)


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


# --- where a server is ---------------------------------------------------------------------------


def test_server_may_be_at_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "with @,%.sock"
    with started_at_socket(path):
        store = open_memcached(f"memcached+unix://{quote(str(path))}")
        for _ in poll(30):
            with contextlib.suppress(StorageUnavailable):
                store.ping()
                break
        assert store.create("c", "k", b"v", None, 1)
        assert store.read("c", "k") == Stored(b"v", 1, None)
        assert repr(store) == f"MemcachedStorage({path})"
        store.close()


@contextlib.contextmanager
def started_at_socket(path: Path) -> Iterator[None]:
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    path.parent.chmod(0o777)
    for folder in path.parent.parents:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    process = subprocess.Popen([program("memcached"), "-s", str(path), *user])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", [Client, PooledClient])
def test_store_takes_a_pymemcache_client(server: KeyValueServer, admin: Any, kind: Any) -> None:
    options = {"timeout": PATIENT, "connect_timeout": PATIENT, "key_prefix": b"shop-"}
    with contextlib.closing(kind(("127.0.0.1", server.port), **options)) as client:
        store = MemcachedStorage(client, time.time)
        assert store.create("c", "k", b"v", None, 1)
        assert store.read("c", "k") == Stored(b"v", 1, None)
        store.delete_context("c")
        assert store.read("c", "k") is None
        assert admin.get(b"shop-" + EPOCH)
        assert admin.get(EPOCH) is None
        store.close()


def test_client_must_name_one_server_and_have_timeouts() -> None:
    with pytest.raises(ConfigurationError, match="connect_timeout"):
        MemcachedStorage(Client(("h", 1)), time.time)
    with pytest.raises(ConfigurationError, match="PooledClient, got HashClient"):
        MemcachedStorage(HashClient([("h", 1)]), time.time)


def test_delayed_flush_is_named_within_the_timeout(server: KeyValueServer, admin: Any) -> None:
    said, errors = "loses at once what it has just stored (flush_all", [""]
    last = time.monotonic() + 60
    with contextlib.closing(MemcachedStorage(server.url, time.time, timeout=0.1)) as store:
        # It is lost only in the second of the flush, which a process may sleep through on a busy
        # machine. Then there may be no answer in time either.
        while said not in errors[-1]:
            assert time.monotonic() < last, errors
            admin.flush_all(delay=1)
            until = time.monotonic() + 2.5
            while time.monotonic() < until and said not in errors[-1]:
                began = time.monotonic()
                try:
                    store.create("c", str(began), b"v", None, 1)
                except StorageUnavailable as error:
                    errors.append(str(error))
                    assert time.monotonic() - began < HANG
        for _ in poll(30):
            with contextlib.suppress(StorageUnavailable):
                assert store.create("c", "k", b"v", None, 1)
                break


# --- the kit --------------------------------------------------------------------------------------


class TestMemcached(ContractBehindProxy):
    @pytest.fixture(autouse=True)
    def _place(self, plain_memcached: KeyValueServer) -> Iterator[None]:
        with self.proxy_of(plain_memcached.port) as port:
            self.url = f"memcached://127.0.0.1:{port}"
            yield

    def open_store(self, clock: Clock) -> Storage:
        return MemcachedStorage(self.url, clock, timeout=PATIENT)
