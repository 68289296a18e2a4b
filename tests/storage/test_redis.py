"""The Redis store: what it leaves in Redis, and the errors of servers. On real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import redis

from sealedstate.errors import (
    OutcomeUnknown,
    StorageUnavailable,
)
from sealedstate.storage import ManagedStorage, Storage
from sealedstate.storage.contract import Clock, Stored
from sealedstate.storage.redis import GRACE, PAGE, RedisStorage
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import poll
from tests.support.kv_promises import PATIENT, SHORT, KeyValuePromises
from tests.support.kv_servers import KeyValueServer, redis_server
from tests.support.server_process import until

pytestmark = pytest.mark.server

MINUTE = 60_000
DAY = 86_400_000


@pytest.fixture
def server(plain_redis: KeyValueServer) -> KeyValueServer:
    with redis.Redis(port=plain_redis.port) as admin:
        admin.flushall()
    return plain_redis


@pytest.fixture
def own_server() -> Iterator[KeyValueServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def admin(server: KeyValueServer) -> Iterator[Any]:
    """A plain client, to see what Redis really holds."""
    with redis.Redis(port=server.port) as admin:
        yield admin


@pytest.fixture
def store(server: KeyValueServer, clock: FakeClock) -> Iterator[RedisStorage]:
    store = RedisStorage(server.url, clock, timeout=PATIENT)
    yield store
    store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class TestPromises(KeyValuePromises):
    replies_before: ClassVar = {"delete_context": 1}

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> ManagedStorage:
        return RedisStorage(url, clock, timeout=timeout)

    @pytest.mark.slow
    def test_swapped_replies_to_writes_raise(self, server: KeyValueServer) -> None:
        with self.proxied(server, SHORT) as (proxy, store), ThreadPoolExecutor(2) as pool:

            def create(key: str) -> bool | None:
                try:
                    return store.create("c", key, b"w", None, 7)
                except (OutcomeUnknown, StorageUnavailable):
                    return None

            for number in range(4):
                proxy.swap_replies = True
                won, lost = pool.map(create, [f"new {number}", "k"])
                assert won is not False
                assert lost is not True
                assert store.read("c", "k") == Stored(b"v", 1, None)

    def count_writes(self, server: KeyValueServer) -> int:
        with redis.Redis(port=server.port) as admin:
            stats: Any = admin.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("set", "del", "unlink")
        )


# --- what is in Redis ---------------------------------------------------------------------------


def test_scripts_that_the_server_has_dropped_are_sent_again(
    store: RedisStorage, admin: Any
) -> None:
    assert store.create("c", "k", b"v", None, 1)
    for version in (2, 3):
        admin.script_flush()
        assert store.update("c", "k", b"w", None, version, expected=version - 1)
    admin.script_flush()
    assert store.delete("c", "k", expected=3)


def test_redis_expires_records_only_after_every_node_does(
    store: RedisStorage, admin: Any, clock: FakeClock
) -> None:
    clock.stop(clock.now)
    ways: dict[str, Callable[[], object]] = {
        "created": lambda: store.create("c", "k", b"v", clock.now + MINUTE, 1),
        "updated": lambda: store.update("c", "k", b"v", clock.now + MINUTE, 2),
        "moved": lambda: store.update_expiration("c", "k", clock.now + MINUTE),
        "touched": lambda: store.touch_context("c", clock.now + MINUTE),
    }
    for way, act in ways.items():
        act()
        (record,) = admin.keys("sealedstate:*:r:*")
        assert MINUTE < admin.pttl(record) <= MINUTE + GRACE, way
        (records,) = admin.keys("*:records")
        assert admin.pttl(records) == -1 or admin.pttl(records) > admin.pttl(record), way
        store.update_expiration("c", "k", None)
        assert admin.pttl(record) == -1, way


def test_writes_remove_expired_entries_from_lists(
    store: RedisStorage, admin: Any, clock: FakeClock
) -> None:
    for number in range(100):
        store.create("c", f"old {number}", b"v", clock.now + MINUTE, 1)
        store.add_member("c", f"old {number}", "m", clock.now + MINUTE)
        store.add_member("c", "many", f"m {number}", clock.now + MINUTE)
    clock.advance(DAY)
    for number in range(40):
        store.create("c", f"new {number}", b"v", clock.now + MINUTE, 1)
        store.add_member("c", f"new {number}", "m", clock.now + MINUTE)
        store.add_member("c", "many", f"n {number}", clock.now + MINUTE)
    (records,), (indexes,) = admin.keys("*:records"), admin.keys("*:indexes")
    assert admin.zcard(records) == 40
    assert admin.zcard(indexes) < 40 + 100 - 60, "each write removes one, and adds half of one"
    assert len(store.members("c", "many")) == 40


def test_empty_context_leaves_no_keys(store: RedisStorage, admin: Any) -> None:
    store.create("c", "k", b"v", None, 1)
    store.add_member("c", "k", "m", None)
    store.delete("c", "k")
    store.remove_member("c", "k", "m")
    assert admin.keys() == []


def test_context_of_many_pages_is_touched_and_deleted_completely(
    store: RedisStorage, admin: Any, clock: FakeClock
) -> None:
    many = 2 * PAGE + 7
    for number in range(many):
        store.create("c", str(number), b"v", None, 1)
    for number in range(PAGE + 7):
        store.add_member("c", str(number), "m", None)
    expires_at = clock.now + MINUTE
    store.touch_context("c", expires_at)
    found = {store.read("c", str(number)) for number in range(many)}
    assert found == {Stored(b"v", 1, expires_at)}
    assert len(list(store.keys("c"))) == many
    store.delete_context("c")
    assert admin.keys() == []


def test_reaping_finds_its_keys_among_many_others(
    store: RedisStorage, admin: Any, clock: FakeClock
) -> None:
    admin.mset({f"foreign {number}": b"x" for number in range(5000)})
    admin.set("sealedstate:{foreign}:records", b"foreign")
    admin.delete("sealedstate:{foreign}:records")
    for number in range(10):
        store.create(f"c{number}", "k", b"v", clock.now + MINUTE, 1)
        store.add_member(f"c{number}", "k", "m", clock.now + MINUTE)
        store.add_member(f"c{number}", "k", "n", clock.now + MINUTE)
        store.add_member(f"c{number}", "k", "later", clock.now + MINUTE + DAY)
    clock.advance(DAY)
    assert [store.reap(7) for _ in range(6)] == [7, 7, 7, 7, 2, 0]
    assert admin.dbsize() == 5000 + 2 * 10, "the later members and their lists"


def test_reaping_removes_as_much_as_its_limit_allows(store: RedisStorage, clock: FakeClock) -> None:
    many = 2 * PAGE + 7
    for number in range(many):
        store.create("c", str(number), b"v", clock.now + MINUTE, 1)
        store.add_member("c", "k", str(number), clock.now + MINUTE)
    clock.advance(DAY)
    assert store.reap(many + PAGE) == many + PAGE
    assert store.reap(1_000_000) == many - PAGE
    assert store.reap(1_000_000) == 0


def test_record_under_the_key_of_another_is_refused(store: RedisStorage, admin: Any) -> None:
    store.create("c", "a", b"a", None, 1)
    (record,) = admin.keys("*:r:*")
    store.create("c", "b", b"b", None, 1)
    other = next(name for name in admin.keys("*:r:*") if name != record)
    admin.set(other, admin.get(record))
    with pytest.raises(StorageUnavailable):
        store.read("c", "b")
    assert store.read("c", "a") == Stored(b"a", 1, None)


def test_keys_that_look_like_commands_are_only_keys(store: RedisStorage, admin: Any) -> None:
    odd = ["\r\n*1\r\n$8\r\nFLUSHALL\r\n", "}{", "{a}b", "*3\r\n", "$-1\r\n", "\0", "é" * 2000]
    for key in odd:
        assert store.create(key, key, key.encode(), None, 1)
        store.add_member(key, key, key, None)
    for key in odd:
        assert store.read(key, key) == Stored(key.encode(), 1, None)
        assert list(store.keys(key)) == [key]
        assert store.members(key, key) == {key: None}
    assert all(len(name) < 120 for name in admin.scan_iter())


# --- errors of servers --------------------------------------------------------------------------


def refusal(url: str) -> str:
    """The message of a write that is refused."""
    store = RedisStorage(url, time.time, timeout=PATIENT)
    with pytest.raises(StorageUnavailable) as caught:
        store.create("c", "k", b"v" * 1000, None, 1)
    store.close()
    return str(caught.value)


def test_password_may_be_right_wrong_missing_or_superfluous(plain_redis: KeyValueServer) -> None:
    with redis_server(password="canary-secret") as server:
        store = RedisStorage(server.url, time.time, timeout=PATIENT)
        assert store.create("c", "k", b"v", None, 1)
        assert "canary" not in repr(store) + repr(vars(store))
        store.close()
        wrong = server.url.replace("canary-secret", "canary-wrong")
        assert "refused the user or the password" in refusal(wrong)
        assert "canary" not in refusal(wrong)
        assert "wants a password" in refusal(server.url.replace(":canary-secret@", ""))
    unneeded = refusal(plain_redis.url.replace("redis://", "redis://:canary-secret@"))
    assert "has no password" in unneeded
    assert "canary" not in unneeded


def test_missing_database_is_reported(plain_redis: KeyValueServer) -> None:
    url = plain_redis.url.replace("/0", "/99")
    assert "no database 99" in refusal(url)
    client = redis.Redis.from_url(url, socket_timeout=PATIENT)
    with pytest.raises(StorageUnavailable, match="no database 99"):
        RedisStorage(client, time.time).ping()
    client.close()


def test_user_who_may_not_write_gets_the_reason(plain_redis: KeyValueServer, admin: Any) -> None:
    rights = ["+@read", "+@scripting", "+@connection"]
    admin.acl_setuser("reader", True, passwords=["+p"], keys=["*"], commands=rights)
    url = plain_redis.url.replace("redis://", "redis://reader:p@")
    store = RedisStorage(url, time.time, timeout=PATIENT)
    with pytest.raises(OutcomeUnknown, match="its user may not run a command"):
        store.create("c", "k", b"v", None, 1)
    store.close()
    admin.acl_deluser("reader")


def test_databases_are_separate(server: KeyValueServer, store: RedisStorage) -> None:
    other = RedisStorage(server.url.replace("/0", "/1"), time.time, timeout=PATIENT)
    store.create("c", "k", b"v", None, 1)
    assert other.read("c", "k") is None
    other.close()


def fill(store: Storage) -> None:
    for number in range(100_000):
        store.create("c", str(number), b"v" * 1000, None, 1)


def test_full_server_refuses_writes_but_reads_and_deletes() -> None:
    with redis_server("none", "--maxmemory", "2mb") as server:
        store = RedisStorage(server.url, time.time, timeout=PATIENT)
        assert not store.capabilities.evicts
        store.add_member("c", "i", "m", None)
        with pytest.raises(StorageUnavailable, match="memory is full"):
            fill(store)
        with redis.Redis(port=server.port) as admin:
            # Else a buffer that is freed could make room for another record.
            admin.config_set("maxmemory", "1mb")
        acts: list[Callable[[], object]] = [
            lambda: store.update("c", "0", b"w" * 1000, None, 2),
            lambda: store.update_expiration("c", "0", None),
            lambda: store.touch_context("c", None),
            lambda: store.add_member("c", "i", "n", None),
        ]
        for act in acts:
            with pytest.raises(StorageUnavailable, match="memory is full"):
                act()
        assert store.read("c", "0") == Stored(b"v" * 1000, 1, None)
        assert store.members("c", "i") == {"m": None}
        store.delete_context("c")
        assert store.read("c", "0") is None
        store.close()


def test_server_that_cannot_save_refuses_writes_but_reads() -> None:
    with redis_server("snapshots") as server, redis.Redis(port=server.port) as admin:
        stores = [
            RedisStorage(server.url, time.time, timeout=PATIENT),
            RedisStorage(redis.Redis(port=server.port, socket_timeout=PATIENT), time.time),
        ]
        stores[0].create("c", "k", b"v", None, 1)
        (server.directory / "dump.rdb").mkdir()
        admin.bgsave()
        until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "it fails")
        for store in stores:
            for fresh in (False, True):
                if fresh:
                    store.close()
                assert store.read("c", "k") is not None
                store.ping()
            with pytest.raises(StorageUnavailable, match="can't save to its disk"):
                store.update("c", "k", b"w", None, 2)
            store.close()


def test_replica_is_refused_and_its_primary_names_it() -> None:
    with (
        redis_server("aof always", "--repl-diskless-sync-delay", "0") as primary,
        redis_server("aof always", "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        with redis.Redis(port=replica.port) as admin:
            for _ in poll(30):
                if admin.info("replication")["master_link_status"] == "up":
                    break
        assert "it is a replica" in refusal(replica.url)
        assert RedisStorage(replica.url, time.time, timeout=PATIENT).capabilities.assumed
        on_primary = RedisStorage(primary.url, time.time, timeout=PATIENT).capabilities
        assert on_primary.durable
        assert "connected_slaves 1" in on_primary.reasons["durable"]


def test_server_with_too_many_clients_is_reported() -> None:
    with redis_server("none", "--maxclients", "1") as server:
        first = RedisStorage(server.url, time.time, timeout=PATIENT)
        first.ping()
        assert "too many clients" in refusal(server.url)
        first.close()


def test_key_with_a_value_of_another_type_raises(store: RedisStorage, admin: Any) -> None:
    store.create("c", "k", b"v", None, 1)
    (record,) = admin.keys("*:r:*")
    admin.delete(record)
    admin.lpush(record, b"x")
    with pytest.raises(StorageUnavailable, match="another type"):
        store.read("c", "k")
    with pytest.raises(OutcomeUnknown, match="another type"):
        store.update("c", "k", b"w", None, 2)


def test_repr_is_the_servers_address() -> None:
    for url, address in {
        "redis://h": "h:6379",
        "valkey://h:1": "h:1",
        f"rediss://u:p%40@h:1/2?ssl_ca_certs={__file__}": "h:1",
        "valkeys://:p@[::1]:1/": "::1:1",
    }.items():
        assert repr(RedisStorage(url, time.time)) == f"RedisStorage({address})"
