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
from typing import Literal, TypeAlias

import pytest

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
    command = [program("dynalite"), "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--path", "{folder}/tables", "--createTableMs", "0"]
    need_driver("botocore")
    url = "dynamodb:sealedstate?region=eu-central-1&endpoint_url=http://127.0.0.1:{port}"
    question = b"GET / HTTP/1.0\r\n\r\n"
    with _start("dynamodb", url, command, question, kind=DynamoDBServer) as server:
        yield server


def make_cluster_of_one(server: KeyValueServer) -> None:
    """Assign all slots to a Redis server that was started with `--cluster-enabled yes`."""
    import redis  # memcached's tests need no Redis

    with redis.Redis(port=server.port) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        until(
            lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok",
            "it is complete",
        )


@contextlib.contextmanager
def _start(
    name: str,
    url: str,
    command: list[str],
    question: bytes,
    place: Path | None = None,
    kind: type[KeyValueServer] = KeyValueServer,
) -> Iterator[KeyValueServer]:
    """A server; its URL and command line may contain `{port}` and `{folder}`."""
    with tempfile.TemporaryDirectory(prefix=f"sealedstate-{name}-", dir=place) as folder:
        # Another process may take the port before the server does.
        for number in range(TRIES):
            port = str(free_port())
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
