"""The Redis store on sentinels, clusters, sockets and clients of redis-py. On real servers."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from sealedstate.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
)
from sealedstate.storage import ManagedStorage, Storage, open_storage
from sealedstate.storage.contract import FOLLOWED, Clock, Stored
from sealedstate.storage.redis import RedisStorage
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import poll
from tests.support.backends import ContractBehindProxy, use_everything
from tests.support.fault_proxy import FaultProxies, FaultProxy
from tests.support.kv_promises import PATIENT, SHORT, KeyValuePromises
from tests.support.kv_servers import (
    KeyValueServer,
    redis_cluster,
    redis_cluster_behind_proxies,
    redis_server,
    sentinels,
)
from tests.support.ports import free_port
from tests.support.ring_cli import run
from tests.support.server_process import until
from tests.support.sql_servers import make_certificate

pytestmark = pytest.mark.server


def open_redis(url: str, timeout: float = PATIENT) -> RedisStorage:
    return RedisStorage(url, time.time, timeout=timeout)


def plain_client(**options: Any) -> Any:
    """A plain client, to see and change what servers really do."""
    return redis.Redis(**options)


class StoppedClock(FakeClock):
    """A clock by which nothing expires only because the machine is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.stop(self.now)

    def advance(self, milliseconds: int) -> None:
        self.stop(self.now + milliseconds)


def address(servers: list[KeyValueServer]) -> str:
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)


@contextlib.contextmanager
def primary_and_replica(password: str = "") -> Iterator[tuple[KeyValueServer, KeyValueServer]]:
    options = ["--repl-diskless-sync-delay", "0"]
    if password:
        options += ["--masterauth", password]
    with (
        redis_server("none", *options, password=password) as primary,
        redis_server(
            "none", *options, "--replicaof", "127.0.0.1", str(primary.port), password=password
        ) as replica,
        plain_client(port=primary.port, password=password or None) as admin,
    ):
        admin.set("ready", "1")
        until(lambda: admin.wait(1, 1000) == 1, "the replica follows")
        yield primary, replica


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[KeyValueServer]]:
    with redis_cluster(3) as servers:
        yield servers


# --- the wrong server ---------------------------------------------------------------------------


def test_wrong_server_stops_the_start_and_names_the_url_to_write(
    plain_redis: KeyValueServer,
) -> None:
    with (
        redis_server("none", "--cluster-enabled", "yes") as node,
        redis_server("none", "--replicaof", "127.0.0.1", str(plain_redis.port)) as replica,
        sentinels(plain_redis, 1) as (sentinel,),
    ):
        at = f"127.0.0.1:{plain_redis.port}"
        wrong = {
            node.url: f"it is one node of a cluster; write redis+cluster://127.0.0.1:{node.port}",
            replica.url: "it is a replica and takes no writes; write the address of its primary",
            sentinel.url: f"it is a sentinel and no store; write redis+sentinel://127.0.0.1:"
            f"{sentinel.port}/NAME",
            f"redis+cluster://{at}": f"it is no node of a cluster; write redis://{at}",
            f"redis+sentinel://{at}/main": f"{at} is no sentinel; write redis://",
            f"redis+sentinel://127.0.0.1:{sentinel.port}/other": "know no primary of the name",
        }
        for url, sentence in wrong.items():
            store = open_redis(url)
            acts: list[Callable[[], object]] = [
                store.ping,
                lambda store=store: store.read("c", "k"),  # type: ignore[misc]
                lambda store=store: store.create("c", "k", b"v", None, 1),  # type: ignore[misc]
            ]
            for act in acts:
                with pytest.raises(StorageUnusable, match=re.escape(sentence)):
                    act()
            for command in ("check", "ping"):
                result = run("store", command, url)
                assert result.code == 1
                assert sentence in result.out + result.err
        for port in (node.port, replica.port):
            client = redis.Redis(port=port, socket_timeout=PATIENT)
            with pytest.raises(StorageUnusable, match=r"cluster|replica"):
                RedisStorage(client, time.time).ping()
            client.close()


def test_store_may_be_at_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server("none", "--unixsocket", str(path), password="p@ss") as server:
        store = open_redis(f"redis+unix://:p%40ss@{path}?db=1")
        assert store.create("c", "k", b"v", None, 1)
        assert repr(store) == f"RedisStorage({path})"
        with plain_client(port=server.port, db=1, password="p@ss") as admin:
            assert admin.dbsize() == 2
        store.close()


# --- sentinels ----------------------------------------------------------------------------------


def test_failover_is_followed_and_keeps_what_replicas_confirmed() -> None:
    login = "sentinel auth-pass main p1"
    with (
        primary_and_replica("p1") as (primary, replica),
        sentinels(primary, 3, 500, login, password="p2") as watchers,
    ):
        url = f"redis+sentinel://:p1@{address(watchers)}/main/2?sentinel_password=p2"
        store = RedisStorage(url, time.time, timeout=PATIENT, wait=1)
        assert store.create("c", "before", b"v", None, 1)
        store.close()
        store = RedisStorage(url, time.time, timeout=SHORT, wait=1)
        watchers[0].pause()
        fresh = RedisStorage(url, time.time, timeout=PATIENT / 10)
        fresh.ping()  # asks the others
        fresh.close()
        watchers[0].resume()
        primary.kill9()
        began = time.monotonic()
        for _ in poll(30):
            with contextlib.suppress(StorageError):
                assert store.read("c", "before") == Stored(b"v", 1, None)
                break
        took = time.monotonic() - began
        assert took < 15
        # No replica is left to confirm it.
        with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
            store.create("c", "after", b"v", None, 1)
        store.close()
        plain = open_redis(url)
        with plain_client(port=replica.port, db=2, password="p1") as admin:
            assert admin.dbsize() == 3
        assert plain.update("c", "before", b"w", None, 2)
        assert set(plain.keys("c")) == {"before", "after"}
        plain.close()


def test_primary_that_sentinels_replace_is_left_within_a_second() -> None:
    with primary_and_replica() as (primary, replica), sentinels(primary, 3, 60_000) as watchers:
        store = open_redis(f"redis+sentinel://{address(watchers)}/main")
        places = [("127.0.0.1", watcher.port) for watcher in watchers]
        manager: Any = Sentinel(places, socket_timeout=PATIENT)  # type: ignore[no-untyped-call]
        lent = RedisStorage(manager.master_for("main", socket_timeout=PATIENT), time.time)
        assert store.create("c", "k", b"v", None, 1)
        assert lent.read("c", "k") == Stored(b"v", 1, None)
        assert repr(lent) == "RedisStorage(main of sentinels)"
        with plain_client(port=watchers[0].port) as admin:
            for _ in poll(30):  # the sentinels must have seen the replica
                with contextlib.suppress(redis.ResponseError):
                    admin.execute_command("SENTINEL FAILOVER main")
                    break
            for _ in poll(30):
                if int(admin.sentinel_get_master_addr_by_name("main")[1]) == replica.port:
                    break
        # The former primary does not know yet that it is none, and would take this write.
        time.sleep(1.1)
        assert store.update("c", "k", b"w", None, 2)
        with plain_client(port=replica.port) as admin:
            (record,) = admin.keys("*:r:*")
            assert admin.get(record).endswith(b"w")
        store.close()
        lent.close()


@pytest.mark.soak
def test_failovers_lose_no_confirmed_write() -> None:
    with primary_and_replica() as servers, sentinels(servers[0], 3, 500) as watchers:
        url = f"redis+sentinel://{address(watchers)}/main"
        store = RedisStorage(url, time.time, timeout=SHORT, wait=1)
        confirmed: list[set[str]] = [set() for _ in range(4)]
        ended = threading.Event()

        def write(worker: int) -> None:
            number = 0
            while not ended.is_set():
                number += 1
                with contextlib.suppress(StorageError):
                    assert store.create("c", f"{worker} {number}", b"v", None, 1)
                    confirmed[worker].add(f"{worker} {number}")

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        try:
            with plain_client(port=watchers[0].port) as admin:
                for number in range(6):
                    before = sum(map(len, confirmed))
                    until(lambda b=before: sum(map(len, confirmed)) > b + 200, "writes")  # type: ignore[misc]
                    fail_over(admin, servers, is_planned=number % 2 == 1)
        finally:
            ended.set()
            for thread in threads:
                thread.join(PATIENT)
        known = set(store.keys("c"))
        print([len(keys) for keys in confirmed])
        assert [len(keys - known) for keys in confirmed] == [0] * 4
        store.close()


def fail_over(admin: Any, servers: tuple[KeyValueServer, ...], is_planned: bool) -> None:
    """Replace the primary, by an order or by killing it, and let it come back as a replica."""
    before = int(admin.sentinel_get_master_addr_by_name("main")[1])
    (former,) = (server for server in servers if server.port == before)
    (other,) = (server for server in servers if server.port != before)
    if is_planned:
        for _ in poll(30):
            with contextlib.suppress(redis.ResponseError):
                admin.execute_command("SENTINEL FAILOVER main")
                break
    else:
        former.kill9()
    until(
        lambda: int(admin.sentinel_get_master_addr_by_name("main")[1]) == other.port, "a failover"
    )
    if not is_planned:
        former.start()
    with plain_client(port=other.port) as primary:
        until(lambda: primary.wait(1, 100) == 1, "the former primary follows")


def test_password_of_sentinels_and_their_outage_are_reported(plain_redis: KeyValueServer) -> None:
    with sentinels(plain_redis, 1, 60_000, password="canary") as (watcher,):
        url = f"redis+sentinel://127.0.0.1:{watcher.port}/main"
        with pytest.raises(StorageUnavailable, match="wants a password"):
            open_redis(url).ping()
        with pytest.raises(StorageUnavailable, match="refused the user or the password") as caught:
            open_redis(f"{url}?sentinel_password=canary-wrong").ping()
        assert "canary" not in str(caught.value)
        watcher.kill9()
        with pytest.raises(StorageUnavailable, match="no sentinel answers") as caught:
            open_redis(url.replace("/main", f",127.0.0.1:{free_port()}/main")).ping()
        message = str(caught.value)
        assert (message.count("redis store"), message.count("no connection")) == (1, 2), message


# --- clusters -----------------------------------------------------------------------------------


def test_scripts_use_their_keys_only_and_these_are_in_one_slot() -> None:
    clock = StoppedClock()
    with redis_cluster(1) as (server,), plain_client(port=server.port) as admin:
        store = RedisStorage(f"redis+cluster://127.0.0.1:{server.port}", clock, timeout=PATIENT)
        with admin.monitor() as monitor:
            use_everything(store, clock)
            admin.echo("the end")
            seen: list[tuple[bool, set[str]]] = []
            for line in monitor.listen():
                names = set(re.findall(r'"(sealedstate:\{[^"]+)"', line["command"])) or set(
                    re.findall(r"(sealedstate:\{\S+)", line["command"])
                )
                seen.append((line["client_type"] == "lua", names))
                if "the end" in line["command"]:
                    break
        store.close()
        with pytest.raises(redis.RedisError, match="slot"):
            admin.eval("return redis.call('EXISTS', KEYS[1], KEYS[2])", 2, "{a}", "{b}")
    slots = [{key_slot(name.encode()) for name in names} for _, names in seen]
    assert max(len(found) for found in slots) == 1
    assert sum(is_lua for is_lua, _ in seen) > 100
    given: set[str] = set()
    for is_lua, names in seen:
        if is_lua:
            assert names <= given
        else:
            given = names


def test_records_of_a_context_spread_over_the_nodes(cluster: list[KeyValueServer]) -> None:
    store = open_redis(f"redis+cluster://{address(cluster[:1])}")
    for number in range(300):
        assert store.create("spread", str(number), b"v", None, 1)
    store.add_member("spread", "i", "m", None)
    counts = []
    for server in cluster:
        with plain_client(port=server.port) as admin:
            counts.append(len(admin.keys("*:r:*")))
    assert sum(counts) == 300
    assert min(counts) > 60
    assert len(list(store.keys("spread"))) == 300
    store.touch_context("spread", 2**52)
    assert {store.read("spread", str(number)) for number in range(300)} == {Stored(b"v", 1, 2**52)}
    assert store.members("spread", "i") == {"m": None}
    store.delete_context("spread")
    assert list(store.keys("spread")) == []
    assert store.members("spread", "i") == {}
    store.close()


def test_user_with_the_documented_rights_can_use_a_cluster(cluster: list[KeyValueServer]) -> None:
    listed = re.search(r"`(get echo [a-z\s]+)`, in a cluster `([a-z| ]+)`", sealedstate_redis_doc())
    assert listed is not None
    commands = [f"+{command}" for command in (*listed[1].split(), *listed[2].split())]
    for server in cluster:
        with plain_client(port=server.port) as admin:
            admin.acl_setuser(
                "least", True, passwords=["+p"], keys=["sealedstate:*"], commands=commands
            )
    clock = StoppedClock()
    store = RedisStorage(f"redis+cluster://least:p@{address(cluster)}", clock, timeout=PATIENT)
    use_everything(store, clock)
    store.close()


def sealedstate_redis_doc() -> str:
    import sealedstate.storage.redis

    return sealedstate.storage.redis.__doc__ or ""


def move_slot(slot: int, source: Any, target: Any, pause: float) -> None:
    """Move a slot between two nodes, key by key."""
    ids = [admin.execute_command("CLUSTER MYID").decode() for admin in (source, target)]
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    port = target.connection_pool.connection_kwargs["port"]
    while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
        source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        time.sleep(pause)
    for admin in (target, source):
        admin.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])


def test_slot_may_move_under_load(cluster: list[KeyValueServer]) -> None:
    move_slots_under_load(cluster, 8)


@pytest.mark.soak
def test_many_slots_may_move_under_load(cluster: list[KeyValueServer]) -> None:
    move_slots_under_load(cluster, 300)


def move_slots_under_load(cluster: list[KeyValueServer], count: int) -> None:
    store = open_redis(f"redis+cluster://{address(cluster)}", 5)
    errors: list[BaseException] = []
    written: list[dict[str, int]] = [{} for _ in range(4)]
    ended = threading.Event()

    def write(worker: int) -> None:
        number = 0
        try:
            while not ended.is_set():
                number += 1
                key = f"{worker} {number % 200}"
                if key in written[worker]:
                    assert store.update("moved", key, b"w", None, number)
                else:
                    assert store.create("moved", key, b"v", None, number)
                written[worker][key] = number
                found = store.read("moved", key)
                assert found is not None
                assert found.version == number
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    with contextlib.ExitStack() as stack:
        admins = [stack.enter_context(plain_client(port=server.port)) for server in cluster]
        for thread in threads:
            thread.start()
        try:
            until(lambda: sum(map(len, written)) == 800, "all keys exist")
            lists = [
                (number, key)
                for number, admin in enumerate(admins)
                for key in admin.keys("*records")
            ]
            for at in range(count):
                number, key = lists[at * 37 % len(lists)]
                slot = key_slot(key)
                move_slot(slot, admins[number], admins[(number + 1) % 3], 0.002)
                lists[at * 37 % len(lists)] = ((number + 1) % 3, key)
        finally:
            ended.set()
            for thread in threads:
                thread.join(PATIENT)
    assert errors == []
    assert sorted(store.keys("moved")) == sorted(key for keys in written for key in keys)
    for keys in written:
        for key, version in keys.items():
            found = store.read("moved", key)
            assert found is not None
            assert found.version == version
    store.delete_context("moved")
    store.close()


@pytest.mark.soak
def test_failed_master_of_a_cluster_is_replaced() -> None:
    with redis_cluster(3, 3) as servers:
        url = f"redis+cluster://{address(servers[:3])}"
        store = RedisStorage(url, time.time, timeout=2, wait=1)
        keys = [str(number) for number in range(30)]
        assert all(store.create("c", key, b"v", None, 1) for key in keys)
        servers[0].kill9()
        for key in keys:
            for _ in poll(30):
                with contextlib.suppress(StorageUnavailable):
                    assert store.read("c", key) == Stored(b"v", 1, None)
                    break
        store.ping()
        store.close()


def test_tls_reaches_clusters_and_sentinels(tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    make_certificate(key, certificate)
    tls = {
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
    }
    options = [word for name, value in tls.items() for word in (f"--{name}", value)]
    ports = [free_port() for _ in range(3)]
    with (
        redis_server("none", *options, "--tls-port", str(ports[0])) as primary,
        redis_server(
            "none",
            *options,
            *("--tls-port", str(ports[1]), "--tls-cluster", "yes", "--cluster-enabled", "yes"),
        ) as node,
    ):
        with plain_client(port=node.port) as admin:
            admin.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            until(
                lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
                "the cluster is complete",
            )
        lines = [*(f"{name} {value}" for name, value in tls.items()), "tls-replication yes"]
        own, primary.port = primary.port, ports[0]
        with sentinels(primary, 1, 60_000, *lines, f"tls-port {ports[2]}"):
            primary.port = own
            for url in (
                f"rediss+cluster://127.0.0.1:{ports[1]}",
                f"rediss+sentinel://127.0.0.1:{ports[2]}/main",
            ):
                store = open_redis(f"{url}?ssl_ca_certs={certificate}")
                assert store.create("c", "k", b"v", None, 1)
                assert store.read("c", "k") == Stored(b"v", 1, None)
                store.close()
                with pytest.raises(StorageUnavailable, match="SSLCertVerificationError"):
                    open_redis(url).ping()


# --- confirmation by replicas -------------------------------------------------------------------


def test_writes_that_must_last_are_confirmed_by_replicas() -> None:
    with primary_and_replica() as (primary, replica):
        patient_store = RedisStorage(primary.url, time.time, timeout=PATIENT, wait=1)
        assert patient_store.create("sealedstate.revoked", "k", b"v", None, 1)
        store = RedisStorage(primary.url, time.time, timeout=SHORT, wait=1)
        why = store.capabilities.reasons["durable"]
        assert "sealedstate_wait 1, connected_slaves 1" in why
        assert "a failover to it keeps them" in why
        replica.pause()
        acts: dict[str, Callable[[], object]] = {
            "create": lambda: store.create("sealedstate.revoked", "new", b"v", None, 7),
            "create what another has created": lambda: store.create(
                "sealedstate.revoked", "new", b"v", None, 8
            ),
            "update": lambda: store.update("sealedstate.revoked", "k", b"w", None, 9),
            "delete": lambda: store.delete("sealedstate.revoked", "k"),
            "delete again": lambda: store.delete("sealedstate.revoked", "k"),
            "add_member": lambda: store.add_member("c", "k", "m", None),
            "remove_member": lambda: store.remove_member("c", "k", "m"),
        }
        for name, act in acts.items():
            with pytest.raises(OutcomeUnknown, match="only 0 of 1 replicas"):
                act()
            print(name)
        # Parts of sessions may be lost at a restart, so nothing waits for them.
        assert store.create("sealedstate.part", "k", b"v", None, 1)
        assert store.read("sealedstate.revoked", "new") == Stored(b"v", 7, None)
        replica.resume()
        assert not patient_store.create("sealedstate.revoked", "new", b"v", None, 9)
        assert patient_store.update("sealedstate.revoked", "new", b"w", None, 10)
        store.close()
        patient_store.close()


def test_user_who_may_not_wait_is_reported(plain_redis: KeyValueServer) -> None:
    with redis_server() as server, plain_client(port=server.port) as admin:
        admin.acl_setuser("u", True, passwords=["+p"], keys=["*"], commands=["+@all", "-wait"])
        url = server.url.replace("redis://", "redis://u:p@")
        open_redis(url).ping()
        with pytest.raises(StorageUnavailable, match="NOPERM"):
            open_storage(f"{url}?sealedstate_wait=1", time.time).ping()


# --- clients of redis-py ------------------------------------------------------------------------


def make_client(url: str, timeout: float, **options: Any) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        **{"socket_keepalive": True, "socket_keepalive_options": {4: 15}, **options},
    )


class TestClientPromises(KeyValuePromises):
    replies_before: ClassVar = {"delete_context": 1}

    @pytest.fixture
    def server(self, plain_redis: KeyValueServer) -> KeyValueServer:
        with plain_client(port=plain_redis.port) as admin:
            admin.flushall()
        return plain_redis

    @pytest.fixture
    def own_server(self) -> Iterator[KeyValueServer]:
        with redis_server() as server:
            yield server

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> ManagedStorage:
        return RedisStorage(make_client(url, timeout), clock)

    def count_writes(self, server: KeyValueServer) -> int:
        with plain_client(port=server.port) as admin:
            stats: Any = admin.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("set", "del", "unlink")
        )


@pytest.mark.parametrize("protocol", [2, 3])
def test_client_may_speak_either_protocol(plain_redis: KeyValueServer, protocol: int) -> None:
    clock = StoppedClock()
    with plain_client(port=plain_redis.port) as admin:
        admin.flushall()
    client = make_client(plain_redis.url, PATIENT, protocol=protocol, decode_responses=True)
    store = RedisStorage(client, clock)
    use_everything(store, clock)
    assert "maxmemory-policy" in store.capabilities.reasons["evicts"]
    for context in FOLLOWED:
        for number in range(2):
            assert store.create(context, str(number), b"v", None, 1)
    position, found = None, list[str]()
    for _ in FOLLOWED:
        page = store.changes(position, 3)
        position, found = page.position, found + [key for _, key, _ in page.records]
    assert sorted(found) == ["0", "0", "1", "1"]
    assert store.changes(position, 3).records == []
    client.close()


def test_pool_of_a_client_limits_its_connections(plain_redis: KeyValueServer) -> None:
    client = make_client(plain_redis.url, PATIENT, max_connections=1)
    store = RedisStorage(client, time.time)
    for _ in range(3):
        store.ping()
    held = client.connection_pool.get_connection()
    with pytest.raises(StorageUnavailable, match="MaxConnectionsError"):
        store.ping()
    client.connection_pool.release(held)
    store.ping()
    client.close()


def test_client_of_a_cluster_lends_its_pools(cluster: list[KeyValueServer]) -> None:
    client = RedisCluster(host="127.0.0.1", port=cluster[0].port, socket_timeout=PATIENT)
    clock = StoppedClock()
    store = RedisStorage(client, clock)
    use_everything(store, clock)
    store.close()
    client.close()


def test_client_must_have_a_timeout_and_be_one_of_redis(plain_redis: KeyValueServer) -> None:
    client = redis.Redis(port=plain_redis.port, socket_timeout=None)
    with pytest.raises(StorageUnusable, match="must have a socket_timeout"):
        RedisStorage(client, time.time).ping()
    client.close()
    with pytest.raises(ConfigurationError, match=r"RedisCluster, got builtins\.object"):
        RedisStorage(object(), time.time)  # type: ignore[arg-type]


# --- the kit ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind_sentinels() -> Iterator[tuple[str, FaultProxy]]:
    with redis_server() as primary, FaultProxy(primary.port) as proxy:
        # The sentinels name the proxy, because they know the primary by its port.
        own, primary.port = primary.port, proxy.port
        with sentinels(primary, 1, 60_000) as watchers:
            primary.port = own
            yield f"redis+sentinel://{address(watchers)}/main", proxy


@pytest.fixture(scope="module")
def cluster_behind_proxies() -> Iterator[tuple[str, FaultProxies]]:
    with redis_cluster_behind_proxies() as found:
        yield found


class TestRedisCluster(ContractBehindProxy):
    @pytest.fixture(autouse=True)
    def _place(self, cluster_behind_proxies: tuple[str, FaultProxies]) -> None:
        self.url, self._proxy = cluster_behind_proxies

    def open_store(self, clock: Clock) -> Storage:
        return RedisStorage(self.url, clock, timeout=PATIENT)


@pytest.mark.soak  # what differs from one server is tested above
class TestRedisBehindSentinels(ContractBehindProxy):
    @pytest.fixture(autouse=True)
    def _place(self, behind_sentinels: tuple[str, FaultProxy]) -> None:
        self.url, self._proxy = behind_sentinels

    def open_store(self, clock: Clock) -> Storage:
        return RedisStorage(self.url, clock, timeout=PATIENT)
