"""Temporary Redis and memcached servers, and an emulator of DynamoDB, on ports of 127.0.0.1.

Tests whose server is not installed are skipped; with REQUIRE_SERVERS=1 they fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest

from tests.support.fault_proxy import FaultProxies, FaultProxy
from tests.support.installed import need_driver, program
from tests.support.ports import free_port
from tests.support.server_process import ServerEnded, ServerProcess, until

TRIES = 5

# An emulator takes any. Set here, before a process is started that opens a store.
if "DYNAMODB_TEST_URL" not in os.environ:
    os.environ |= {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "anything"}

Persistence: TypeAlias = Literal["none", "snapshots", "aof everysec", "aof always", "aof no"]

_PERSISTENCE: dict[Persistence, list[str]] = {
    "none": ["--save", "", "--appendonly", "no"],
    # The default of Debian and of Redis.
    "snapshots": ["--save", "3600 1 300 100 60 10000", "--appendonly", "no"],
    "aof everysec": ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"],
    "aof always": ["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
    "aof no": ["--save", "", "--appendonly", "yes", "--appendfsync", "no"],
}


class KeyValueServer(ServerProcess):
    """A Redis or memcached server; `question` is what it answers with its process id."""

    name = "key-value server"

    def __init__(
        self, directory: Path, port: int, url: str, command: Sequence[str], question: bytes
    ) -> None:
        super().__init__(port, directory)
        self.url, self._command, self._question = url, command, question

    def command(self) -> Sequence[str]:
        return self._command

    def is_ready(self) -> bool:
        """Whether this process answers at the port, and has loaded its data."""
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(self._question)
            answer = b""
            while not (found := re.search(rb"(?:process_id:|STAT pid )(\d+)\r\n", answer)):
                piece = connection.recv(1 << 16)
                if not piece or piece.startswith(b"-"):
                    return False
                answer += piece
        return int(found[1]) == self.pid and b"\nloading:1\r\n" not in answer


class DynamoDBServer(KeyValueServer):
    """dynalite. It keeps its tables on a disk and so over a restart, but promises no durability."""

    name = "dynalite"

    def is_ready(self) -> bool:
        """Whether this process listens, and answers at the port."""
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(self._question)
            answer = connection.recv(1 << 12)
        return b"healthy: dynamodb" in answer and "listening at" in self.log()


@contextlib.contextmanager
def redis_server(
    persistence: Persistence = "none",
    *options: str,
    password: str = "",
    place: Path | None = None,
) -> Iterator[KeyValueServer]:
    """A Redis server; `options` as on its command line, `place` for the directory of its data."""
    binary = program("redis-server")
    need_driver("redis")
    login = f":{password}@" if password else ""
    question = f"AUTH {password}\r\n".encode() if password else b""
    if password:
        options = (*options, "--requirepass", password)
    url = f"redis://{login}127.0.0.1:{{port}}/0"
    command = [binary, "--port", "{port}", "--bind", "127.0.0.1", "--dir", "{folder}"]
    command += [*_PERSISTENCE[persistence], *options]
    question += b"INFO persistence\r\nINFO server\r\n"
    with _start("redis", url, command, question, place) as server:
        yield server


@contextlib.contextmanager
def memcached_server(*options: str) -> Iterator[KeyValueServer]:
    """A memcached server; `options` as on its command line."""
    binary = program("memcached")
    need_driver("pymemcache")
    # It refuses to be root.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = [binary, "-l", "127.0.0.1", "-p", "{port}", "-U", "0", *user, *options]
    with _start("memcached", "memcached://127.0.0.1:{port}", command, b"stats\r\n") as server:
        yield server


@contextlib.contextmanager
def dynamodb_server() -> Iterator[KeyValueServer]:
    """An emulator of DynamoDB, without tables."""
    preload = Path(__file__).parents[1] / "node/keep_connections.cjs"
    command = [program("node"), "--require", str(preload), program("dynalite")]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    command += ["--path", "{folder}/tables", "--createTableMs", "0"]
    need_driver("botocore")
    url = "dynamodb:sealedstate?region=eu-central-1&endpoint_url=http://127.0.0.1:{port}"
    question = b"GET / HTTP/1.0\r\n\r\n"
    with _start("dynamodb", url, command, question, kind=DynamoDBServer) as server:
        yield server


@contextlib.contextmanager
def redis_cluster(masters: int = 3, replicas: int = 0) -> Iterator[list[KeyValueServer]]:
    """A cluster: so many masters with an equal share of the slots, then their replicas in turn."""
    need_driver("redis")
    import redis  # memcached's tests need no Redis

    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    # A replica takes over whatever the age of what it has.
    options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(redis_server("none", *options)) for _ in range(masters + replicas)
        ]
        admins: list[Any] = [
            stack.enter_context(redis.Redis(port=server.port)) for server in servers
        ]
        for number, admin in enumerate(admins):
            admin.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            admins[0].execute_command("CLUSTER MEET", "127.0.0.1", servers[number].port)
        for number in range(masters):
            first, last = (16384 * at // masters for at in (number, number + 1))
            admins[number].execute_command("CLUSTER ADDSLOTSRANGE", first, last - 1)
        for number in range(masters, len(admins)):
            master = admins[number % masters].execute_command("CLUSTER MYID").decode()
            _wait_until_known(admins[number], master)
            admins[number].execute_command("CLUSTER REPLICATE", master)
        until(
            lambda: all(_is_whole(admin, len(admins), replicas) for admin in admins),
            "it is complete",
        )
        yield servers


def _wait_until_known(admin: Any, node: str) -> None:
    until(lambda: node in str(admin.execute_command("CLUSTER NODES")), "the node is known")


def _is_whole(admin: Any, nodes: int, replicas: int) -> bool:
    info = admin.execute_command("CLUSTER INFO")
    listed = admin.execute_command("CLUSTER SLOTS")
    known = sum(len(replicas) for _, _, _, *replicas in listed)
    role = admin.execute_command("ROLE")
    is_following = role[0] != b"slave" or role[3] == b"connected"
    is_complete = info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes
    return is_complete and known == replicas and is_following


@contextlib.contextmanager
def redis_cluster_behind_proxies() -> Iterator[tuple[str, FaultProxies]]:
    """A cluster of three masters whose map names proxies, and the URL of one of these."""
    import redis

    with redis_cluster(3) as servers, contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(server.port)) for server in servers]
        admins: list[Any] = [
            stack.enter_context(redis.Redis(port=server.port)) for server in servers
        ]
        for admin, proxy in zip(admins, proxies, strict=True):
            admin.config_set("cluster-announce-port", proxy.port)
        ports = {proxy.port for proxy in proxies}
        for admin in admins:
            _wait_until_named(admin, ports)
        yield f"redis+cluster://127.0.0.1:{proxies[0].port}", FaultProxies(proxies)


def _wait_until_named(admin: Any, ports: set[int]) -> None:
    until(
        lambda: {slots[2][1] for slots in admin.execute_command("CLUSTER SLOTS")} == ports,
        "the node names the proxies",
    )


@contextlib.contextmanager
def sentinels(
    primary: KeyValueServer,
    count: int = 3,
    down_after: int = 500,
    *options: str,
    password: str = "",
) -> Iterator[list[KeyValueServer]]:
    """Sentinels that watch a server under the name "main". `down_after`: milliseconds.

    `password`: their own; `options`: lines of their configuration.
    """
    need_driver("redis")
    lines = [
        "port {port}",
        "bind 127.0.0.1",
        f"sentinel monitor main 127.0.0.1 {primary.port} {count // 2 + 1}",
        f"sentinel down-after-milliseconds main {down_after}",
        "sentinel failover-timeout main 1000",
        *options,
        *([f"requirepass {password}"] if password else []),
    ]
    command = [program("redis-server"), "{folder}/sentinel.conf", "--sentinel"]
    question = (f"AUTH {password}\r\n" if password else "") + "INFO server\r\n"
    url = "redis://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(_start("sentinel", url, command, question.encode(), lines=lines))
            for _ in range(count)
        ]
        for sentinel in found:
            _wait_until_acquainted(sentinel.port, password, count)
        yield found


def _wait_until_acquainted(port: int, password: str, count: int) -> None:
    import redis  # memcached's tests need no Redis

    client: Any = redis.Redis(port=port, password=password or None)
    with client as admin:
        until(
            lambda: len(admin.sentinel_sentinels("main")) == count - 1,
            "the sentinels know each other",
        )


@contextlib.contextmanager
def _start(
    name: str,
    url: str,
    command: list[str],
    question: bytes,
    place: Path | None = None,
    kind: type[KeyValueServer] = KeyValueServer,
    lines: Sequence[str] = (),
) -> Iterator[KeyValueServer]:
    """A server; its URL and command line may contain `{port}` and `{folder}`.

    `lines`: of the file `sentinel.conf` in its folder, which may contain `{port}`.
    """
    with tempfile.TemporaryDirectory(prefix=f"sealedstate-{name}-", dir=place) as folder:
        # Another process may take the port before the server does.
        for number in range(TRIES):
            port = str(free_port())
            if lines:
                text = "\n".join(lines).replace("{port}", port)
                (Path(folder) / "sentinel.conf").write_text(f"{text}\n")
            line = [word.replace("{port}", port).replace("{folder}", folder) for word in command]
            server = kind(Path(folder), int(port), url.replace("{port}", port), line, question)
            try:
                server.start()
                break
            except ServerEnded:
                if number == TRIES - 1:
                    raise
        try:
            with server.shown_log():
                yield server
        finally:
            # Its data is not needed, and an orderly end takes memcached a second.
            server.kill9()


@pytest.fixture(scope="session")
def plain_redis() -> Iterator[KeyValueServer]:
    """A Redis without persistence, for all tests that do not stop it."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def plain_memcached() -> Iterator[KeyValueServer]:
    """A memcached for all tests that do not stop it."""
    with memcached_server() as server:
        yield server


@pytest.fixture(scope="session")
def plain_dynamodb() -> Iterator[KeyValueServer]:
    """An emulator of DynamoDB. A test that stops it starts it again."""
    with dynamodb_server() as server:
        yield server
