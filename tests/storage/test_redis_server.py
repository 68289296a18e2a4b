"""The Redis store with different configurations of the server, crashes, TLS; the kit."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import sealedstate.storage.redis
from sealedstate.errors import StorageError, StorageUnavailable
from sealedstate.storage import Storage
from sealedstate.storage.contract import Capabilities, Clock, Stored
from sealedstate.storage.redis import SETTINGS_COMMANDS, RedisStorage, capabilities_by
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import eventually, poll
from tests.support.backends import ContractBehindProxy, use_everything
from tests.support.kv_promises import PATIENT
from tests.support.kv_servers import KeyValueServer, Persistence, redis_server
from tests.support.ports import free_port
from tests.support.sql_servers import make_certificate

pytestmark = pytest.mark.server

RECORDS = 100


def open_redis(url: str) -> RedisStorage:
    return RedisStorage(url, time.time, timeout=PATIENT)


def capabilities_of(server: KeyValueServer, login: str = "") -> Capabilities:
    store = open_redis(server.url.replace("redis://", f"redis://{login}"))
    found = store.capabilities
    store.close()
    return found


# --- what it declares -----------------------------------------------------------------------------

# durable, survives_restart, and a part of the reason.
DECLARED: dict[Persistence, tuple[bool, bool, str]] = {
    "none": (False, False, "appendonly no, save ''"),
    "snapshots": (False, True, "save '3600 1 300 100 60 10000'"),
    # Its cost is seen with a slow disk only.
    "aof everysec": (False, True, "appendfsync everysec: a crash while the disk is slow costs"),
    "aof always": (True, True, "appendfsync always"),
    "aof no": (False, True, "appendfsync no"),
}


@pytest.mark.parametrize("persistence", DECLARED)
def test_declared_persistence_follows_the_configuration(persistence: Persistence) -> None:
    durable, survives, reason = DECLARED[persistence]
    with redis_server(persistence) as server:
        can = capabilities_of(server)
    assert (can.durable, can.survives_restart) == (durable, survives)
    assert reason in can.reasons["durable"]
    assert reason in can.reasons["survives_restart"]
    assert bool(can.advice) != can.durable


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "volatile-ttl", "volatile-lru"])
def test_declared_eviction_follows_the_configuration(policy: str) -> None:
    with redis_server("none", "--maxmemory", "100mb", "--maxmemory-policy", policy) as server:
        store = RedisStorage(server.url, FakeClock(), timeout=PATIENT)
        can = store.capabilities
        assert can.evicts == (policy != "noeviction")
        assert ("contexts" in can.reasons) == ("enumerable" in can.reasons) == can.evicts
        assert can.reasons["evicts"] == f"maxmemory 104857600, maxmemory-policy {policy}"
        assert any("noeviction" in line for line in can.advice) == can.evicts
        store.close()


def test_server_without_a_memory_limit_does_not_evict() -> None:
    with redis_server("none", "--maxmemory", "0", "--maxmemory-policy", "allkeys-lru") as server:
        assert not capabilities_of(server).evicts


def test_server_that_declares_eviction_evicts() -> None:
    options = ("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    with redis_server("none", *options) as server:
        store = open_redis(server.url)
        for number in range(3000):
            assert store.create("c", str(number), b"v" * 1000, None, 1)
        assert None in [store.read("c", str(number)) for number in range(3000)]
        store.close()


def test_changed_configuration_is_noticed_after_a_minute_or_a_reconnect(
    plain_redis: KeyValueServer,
) -> None:
    clock = FakeClock()
    clock.stop(clock.now)
    store = RedisStorage(plain_redis.url, clock, timeout=PATIENT)
    with redis.Redis(port=plain_redis.port) as admin:
        assert not store.capabilities.survives_restart
        admin.config_set("save", "3600 1")
        try:
            assert not store.capabilities.survives_restart
            clock.stop(clock.now + 60_000)
            assert store.capabilities.survives_restart
            admin.config_set("save", "")
            assert store.capabilities.survives_restart
            store.close()
            store.ping()
            assert not store.capabilities.survives_restart
        finally:
            admin.config_set("save", "")
    store.close()


def test_info_answers_if_config_is_forbidden(plain_redis: KeyValueServer) -> None:
    with redis_server("aof always") as server, redis.Redis(port=server.port) as admin:
        every = ["+@all"]
        admin.acl_setuser("poor", True, passwords=["+p"], keys=["*"], commands=[*every, "-config"])
        admin.acl_setuser(
            "blind", True, passwords=["+p"], keys=["*"], commands=[*every, "-config", "-info"]
        )
        poor = capabilities_of(server, "poor:p@")
        assert (poor.durable, poor.survives_restart, poor.evicts) == (False, True, False)
        assert "CONFIG is forbidden" in poor.reasons["durable"]
        assert poor.advice == ("allow the user CONFIG|GET, so that the settings are known",)
        blind = capabilities_of(server, "blind:p@")
        assert (blind.durable, blind.survives_restart, blind.evicts) == (False, False, True)
        assert "neither CONFIG nor INFO" in blind.reasons["evicts"]


def test_user_with_the_documented_rights_can_do_everything() -> None:
    listed = re.search(r"`(get echo [a-z\s]+)`", sealedstate.storage.redis.__doc__ or "")
    assert listed is not None
    commands = [f"+{command}" for command in listed[1].split()]
    with redis_server() as server, redis.Redis(port=server.port) as admin:
        admin.acl_setuser(
            "least", True, passwords=["+p"], keys=["sealedstate:*"], commands=commands
        )
        clock = FakeClock()
        store = RedisStorage(
            server.url.replace("redis://", "redis://least:p@"), clock, timeout=PATIENT
        )
        use_everything(store, clock)
        assert not store.capabilities.durable
        # Without more rights, it neither gives nor gets hints.
        for _ in range(2):
            store.notify()
        assert admin.info("commandstats")["cmdstat_publish"]["rejected_calls"] == 1
        with pytest.raises(StorageError, match="SUBSCRIBE: its user may not run"):
            store.listen()
        admin.acl_setuser(
            "least",
            True,
            commands=["+publish", "+subscribe"],
            channels=["sealedstate:changed"],
        )
        listener = store.listen()
        assert listener is not None
        RedisStorage(server.url, clock).notify()
        assert listener.wait(PATIENT)
        listener.close()
        store.close()


def test_server_that_reports_nothing_declares_nothing() -> None:
    for answers in ([None] * len(SETTINGS_COMMANDS), [[], [], [], b"", b"garbage", b"a:b"]):
        can = capabilities_by(answers)
        assert (can.durable, can.survives_restart, can.evicts) == (False, False, True)


def test_replicas_decide_what_to_do() -> None:
    settings = [b"appendonly", b"yes", b"appendfsync", b"always", b"maxmemory", b"0"]
    settings += [b"maxmemory-policy", b"noeviction"]
    for replicas, wait, held, advice in (
        (0, 0, b"0", []),
        (1, 0, b"1", ["add sealedstate_wait=1"]),
        (1, 1, b"0", ["set min-replicas-to-write 1"]),
        (1, 3, b"1", ["start replicas: there are 1, and sealedstate_wait=3 waits for 3"]),
        (3, 2, b"1", []),
    ):
        info = b"role:master\r\nconnected_slaves:%d\r\n" % replicas
        can = capabilities_by([settings, [b"min-replicas-to-write", held], info], wait)
        assert len(can.advice) == len(advice), can.advice
        assert all(map(str.startswith, can.advice, advice))


@pytest.mark.parametrize("persistence", ["aof everysec", "aof no"])
def test_crash_costs_nothing_once_redis_has_written_its_buffer(persistence: Persistence) -> None:
    with redis_server(persistence) as server:
        store = open_redis(server.url)
        for number in range(RECORDS):
            assert store.create("c", str(number), b"v", None, 1)
        with redis.Redis(port=server.port) as admin:
            for _ in poll(30):
                if admin.info("persistence")["aof_buffer_length"] == 0:
                    break
        server.kill9()
        server.start()
        assert len(list(eventually(store.keys, "c"))) == RECORDS
        store.close()


@pytest.mark.parametrize("persistence", DECLARED)
def test_restart_keeps_what_is_declared(persistence: Persistence) -> None:
    with redis_server(persistence) as server:
        store = open_redis(server.url)
        store.create("c", "k", b"v", None, 1)
        store.add_member("c", "k", "m", None)
        survives = store.capabilities.survives_restart
        server.restart()
        assert store.read("c", "k") == (Stored(b"v", 1, None) if survives else None)
        assert store.members("c", "k") == ({"m": None} if survives else {})
        assert list(store.keys("c")) == (["k"] if survives else [])
        store.close()


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    make_certificate(path.with_suffix(".key"), path)
    return path


def test_tls_checks_the_servers_certificate(certificate: Path) -> None:
    options = ["--tls-cert-file", str(certificate), "--tls-auth-clients", "no"]
    options += ["--tls-key-file", str(certificate.with_suffix(".key"))]
    with redis_server("none", *options) as server, redis.Redis(port=server.port) as admin:
        port = free_port()
        admin.config_set("tls-port", str(port))
        trusting = open_redis(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}")
        assert trusting.create("c", "k", b"v" * 100_000, None, 1)
        for _ in range(3):
            assert trusting.read("c", "k") == Stored(b"v" * 100_000, 1, None)
        assert admin.info("clients")["connected_clients"] == 2
        trusting.close()
        doubting = open_redis(f"rediss://127.0.0.1:{port}")
        with pytest.raises(StorageUnavailable, match="SSLCertVerificationError"):
            doubting.read("c", "k")
        plain = open_redis(f"redis://127.0.0.1:{port}")
        with pytest.raises(StorageUnavailable):
            plain.read("c", "k")


# --- the kit --------------------------------------------------------------------------------------


class TestRedis(ContractBehindProxy):
    @pytest.fixture(autouse=True)
    def _place(self, plain_redis: KeyValueServer) -> Iterator[None]:
        with self.proxy_of(plain_redis.port) as port:
            self.url = plain_redis.url.replace(f":{plain_redis.port}", f":{port}")
            yield

    def open_store(self, clock: Clock) -> Storage:
        return RedisStorage(self.url, clock, timeout=PATIENT)
