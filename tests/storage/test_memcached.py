"""memcached: what only it promises and what it can't, on real servers."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from pymemcache.client.base import Client  # type: ignore[import-untyped]

from sealedstate.errors import CapacityError, ConfigurationError, StorageError, VersionMismatch
from sealedstate.storage import Storage
from sealedstate.storage._names import context_digest, key_digest, printable
from sealedstate.storage.contract import Clock, Stored
from sealedstate.storage.memcached.store import GRACE, MemcachedStorage
from sealedstate.storage.requirements import DECLARED
from sealedstate.testing import FakeClock
from sealedstate.testing.workers import Meet, in_threads
from tests.support import kv_servers
from tests.support.kv_promises import PATIENT, KeyValuePromises
from tests.support.kv_servers import KeyValueServer, memcached_server

pytestmark = pytest.mark.server
plain_memcached = kv_servers.plain_memcached

SECOND, DAY = 1000, 86_400_000


def bare(server: KeyValueServer) -> Any:
    """A bare client: what is really there."""
    return Client(("127.0.0.1", server.port), timeout=5, connect_timeout=5, default_noreply=False)


@pytest.fixture
def admin(plain_memcached: KeyValueServer) -> Iterator[Any]:
    with contextlib.closing(bare(plain_memcached)) as client:
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
    # Before each write there is a look at what it would overwrite.
    replies_before: ClassVar = dict.fromkeys(
        ("create", "update", "compare-and-set", "delete", "compare-and-delete"), 1
    )

    @pytest.fixture(autouse=True)
    def _place(self, server: KeyValueServer) -> None:
        self.url = server.url

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> Storage:
        return MemcachedStorage(url, clock, timeout=timeout)

    def writes_done(self, server: KeyValueServer) -> int:
        with contextlib.closing(bare(server)) as client:
            return int(client.stats()[b"cmd_set"])


# --- what stands in memcached ---------------------------------------------------------------------


def name_of(kind: str, key: str = "k") -> bytes:
    """The name of a record ("r") or an index ("i") in the context "c"."""
    return f"sealedstate:{kind}:".encode() + printable(key_digest("c", key))


EPOCH = b"sealedstate:e:" + printable(context_digest("c"))


def seconds_left(admin: Any, name: bytes) -> int:
    """For how long memcached itself keeps an item; -1 for ever."""
    found = re.fullmatch(rb"HD t(-?\d+)", admin.raw_command(b"mg %b t" % name))
    assert found is not None
    return int(found[1])


LIFETIMES = {
    "a second": SECOND,
    "30 days": 30 * DAY,
    "30 days and a second": 30 * DAY + SECOND,
    "400 days": 400 * DAY,
}


@pytest.mark.parametrize("way", ["create", "update", "update_expiration", "add_member"])
@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize("begin", ["now", "long ago", "in ten years"])
def test_memcached_keeps_an_item_as_long_as_it_lives_and_a_little_longer(
    server: KeyValueServer, admin: Any, lifetime: str, way: str, begin: str
) -> None:
    # Whatever our clock shows, memcached's own shows another time.
    clock, now = FakeClock(), int(time.time() * 1000)
    clock.stop({"now": now, "long ago": 1_000_000_000_000, "in ten years": now + 3652 * DAY}[begin])
    store = MemcachedStorage(server.url, clock, timeout=PATIENT)
    expires_at = clock.now + LIFETIMES[lifetime]
    ways: dict[str, Callable[[], object]] = {
        "create": lambda: store.create("c", "k", b"v", expires_at, 1),
        "update": lambda: store.update("c", "k", b"v", expires_at, 2),
        "update_expiration": lambda: store.update_expiration("c", "k", expires_at),
        "add_member": lambda: store.add_member("c", "k", "m", expires_at),
    }
    if way.startswith("update"):
        store.create("c", "k", b"v", None, 1)
    ways[way]()
    left = seconds_left(admin, name_of("i" if way == "add_member" else "r")) * 1000
    assert LIFETIMES[lifetime] < left <= LIFETIMES[lifetime] + GRACE + 2 * SECOND
    store.close()


def test_what_lives_longer_than_memcached_can_count_is_kept_for_ever(
    store: MemcachedStorage, admin: Any, clock: FakeClock
) -> None:
    assert store.create("c", "k", b"v", 4_102_444_800_000, 1)
    assert seconds_left(admin, name_of("r")) == -1
    assert store.read("c", "k") == Stored(b"v", 1, 4_102_444_800_000)
    clock.stop(4_102_444_800_000)
    assert store.read("c", "k") is None


def test_a_deleted_record_takes_no_room(store: MemcachedStorage, admin: Any) -> None:
    store.create("c", "k", b"v", None, 1)
    store.add_member("c", "k", "m", None)
    assert admin.get(name_of("r"))
    assert admin.get(name_of("i"))
    assert store.delete("c", "k", expected=1)
    assert store.remove_member("c", "k", "m")
    assert admin.get(name_of("r")) is None
    assert admin.get(name_of("i")) is None


def test_versions_that_differ_only_beyond_2_to_the_53rd_are_told_apart(
    store: MemcachedStorage,
) -> None:
    large = (1 << 53) + 1
    assert store.create("c", "k", b"v", None, large)
    with pytest.raises(VersionMismatch) as caught:
        store.update("c", "k", b"w", None, large + 1, expected=large - 1)
    assert caught.value.current == large
    with pytest.raises(VersionMismatch):
        store.update("c", "k", b"w", None, large)
    assert store.update("c", "k", b"w", None, large + 1, expected=large)
    with pytest.raises(CapacityError):
        store.update("c", "k", b"w", None, 1 << 63)


def test_keys_that_speak_memcached_are_only_keys(store: MemcachedStorage) -> None:
    odd = ["a\r\nflush_all\r\n", "a b", " ", "\0", "\n", "k" * 251, "é" * 2000, "\t", "VALUE x 0 1"]
    for key in odd:
        assert store.create(key, key, key.encode(), None, 1)
        store.add_member(key, key, key, None)
    for key in odd:
        assert store.read(key, key) == Stored(key.encode(), 1, None)
        assert store.members(key, key) == {key: None}


# --- contexts by epochs ---------------------------------------------------------------------------


def test_a_context_is_deleted_as_a_whole_and_no_other(store: MemcachedStorage) -> None:
    for context in ("c", "c2"):
        for key in "ab":
            store.create(context, key, b"old", None, 5)
            store.add_member(context, key, "m", None)
    store.delete_context("c")
    store.delete_context("c")
    assert [store.read("c", key) for key in "ab"] == [None, None]
    assert [store.members("c", key) for key in "ab"] == [{}, {}]
    assert store.read("c2", "a") == Stored(b"old", 5, None)
    assert store.members("c2", "b") == {"m": None}
    assert not store.update("c", "a", b"new", None, 9)
    assert not store.delete("c", "a")
    assert not store.remove_member("c", "a", "m")
    assert store.create("c", "a", b"new", None, 1)
    store.add_member("c", "a", "n", None)
    assert store.read("c", "a") == Stored(b"new", 1, None)
    assert store.read("c", "b") is None
    assert store.members("c", "a") == {"n": None}


def test_an_epoch_that_was_evicted_takes_its_records_with_it_for_good(
    store: MemcachedStorage, admin: Any
) -> None:
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


def test_of_many_who_need_a_new_epoch_all_get_one(store: MemcachedStorage) -> None:
    def create(racer: int, meet: Meet) -> None:
        for number in range(20):
            meet()
            assert store.create(f"c{number}", str(racer), b"v", None, 1)

    in_threads(8, create)
    for number in range(20):
        assert all(store.read(f"c{number}", str(racer)) for racer in range(8))


def test_what_it_cannot_do_it_says(store: MemcachedStorage) -> None:
    can = store.capabilities
    assert (can.shared, can.durable, can.survives_restart) == (True, False, False)
    assert (can.evicts, can.enumerable, can.contexts, can.indexes) == (True, False, False, True)
    assert {"durable", "survives_restart", "evicts", "enumerable", "contexts"} <= can.because.keys()
    told = DECLARED["memcached"]
    for name in ("shared", "durable", "survives_restart", "evicts", "enumerable", "contexts"):
        assert getattr(can, name) == getattr(told, name), name
    with pytest.raises(StorageError, match="contexts"):
        store.touch_context("c", None)
    with pytest.raises(StorageError, match="enumerable"):
        store.keys("c")
    assert store.reap(10) == 0


# --- what it refuses ----------------------------------------------------------------------------


def test_an_index_that_outgrows_its_item_is_refused_and_stays(store: MemcachedStorage) -> None:
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


@pytest.mark.parametrize(
    "url",
    [
        "memcached:",
        "memcached://",
        "memcached://:11211",
        "memcached://h:port",
        "memcached://u:canary@h",
        "memcached://h/canary",
        "memcached://h?canary=1",
        "http://h:1",
    ],
)
def test_an_url_that_names_no_server_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MemcachedStorage(url, time.time)
    assert "canary" not in str(caught.value)
