"""Temporary Redis and memcached servers on free ports of 127.0.0.1.

A test module takes a fixture by naming it:

    plain_redis = kv_servers.plain_redis

Tests whose server is not installed are skipped; with REQUIRE_SERVERS=1 they fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from tests.support.installed import need_driver, program
from tests.support.ports import free_port

PATIENCE = 60  # seconds; a server that takes longer to start or to stop is broken
TRIES = 5

Persistence: TypeAlias = Literal["none", "snapshots", "aof everysec", "aof always", "aof no"]

_PERSISTENCE: dict[Persistence, list[str]] = {
    "none": ["--save", "", "--appendonly", "no"],
    # The default of Debian and of Redis.
    "snapshots": ["--save", "3600 1 300 100 60 10000", "--appendonly", "no"],
    "aof everysec": ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"],
    "aof always": ["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
    "aof no": ["--save", "", "--appendonly", "yes", "--appendfsync", "no"],
}


@dataclass
class KeyValueServer:
    """A server process. It keeps its port and its data when it is started again."""

    url: str
    port: int
    command: Sequence[str]
    question: bytes
    """The request that it answers with its process id."""
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        self.wait_until_it_answers()

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End it like a crash."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it, with its connections."""
        os.kill(self.pid, signal.SIGSTOP)
        while "State:\tT" not in Path(f"/proc/{self.pid}/status").read_text():
            time.sleep(0.001)  # a signal is not delivered at once

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise ServerEnded((self.folder / "log.txt").read_text(errors="replace"))
            with contextlib.suppress(OSError):
                if self._is_ready():
                    return
            time.sleep(0.01)
        raise AssertionError("the server does not answer")

    def _is_ready(self) -> bool:
        """Whether this process answers at the port, and has loaded its data."""
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(self.question)
            answer = b""
            while not (found := re.search(rb"(?:process_id:|STAT pid )(\d+)\r\n", answer)):
                piece = connection.recv(1 << 16)
                if not piece or piece.startswith(b"-"):
                    return False
                answer += piece
        return int(found[1]) == self.pid and b"\nloading:1\r\n" not in answer

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            # Redis ignores the signal while it writes its first append-only file. A frozen process
            # receives none.
            self.process.send_signal(how if time.monotonic() < deadline else signal.SIGKILL)
            self.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)


class ServerEnded(Exception):
    """The server process has ended; with its log."""


@contextlib.contextmanager
def redis_server(
    persistence: Persistence = "none", *options: str, password: str = ""
) -> Iterator[KeyValueServer]:
    """A Redis server; `options` as on its command line."""
    binary = program("redis-server")
    need_driver("redis")
    login = f":{password}@" if password else ""
    question = f"AUTH {password}\r\n".encode() if password else b""
    if password:
        options = (*options, "--requirepass", password)
    with _temporary_folder("redis") as folder:
        server = _start_at_free_port(
            folder,
            f"redis://{login}127.0.0.1:{{port}}/0",
            [binary, "--port", "{port}", "--bind", "127.0.0.1", "--dir", str(folder)],
            [*_PERSISTENCE[persistence], *options],
            question + b"INFO persistence\r\nINFO server\r\n",
        )
        with _close_after(server):
            yield server


@contextlib.contextmanager
def memcached_server(*options: str) -> Iterator[KeyValueServer]:
    """A memcached server; `options` as on its command line."""
    binary = program("memcached")
    need_driver("pymemcache")
    # It refuses to be root.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with _temporary_folder("memcached") as folder:
        server = _start_at_free_port(
            folder,
            "memcached://127.0.0.1:{port}",
            [binary, "-l", "127.0.0.1", "-p", "{port}", "-U", "0", *user],
            options,
            b"stats\r\n",
        )
        with _close_after(server):
            yield server


def make_cluster_of_one(server: KeyValueServer) -> None:
    """Assign all slots to a Redis server that was started with `--cluster-enabled yes`."""
    import redis  # memcached's tests need no Redis

    with redis.Redis(port=server.port) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + PATIENCE
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def _temporary_folder(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"sealedstate-{name}-") as folder:
        yield Path(folder)


def _start_at_free_port(
    folder: Path, url: str, command: Sequence[str], options: Sequence[str], question: bytes
) -> KeyValueServer:
    # Another process may take the port before the server does.
    for _ in range(TRIES):
        port = free_port()
        line = [word.replace("{port}", str(port)) for word in command]
        server = KeyValueServer(
            url.replace("{port}", str(port)), port, [*line, *options], question, folder
        )
        try:
            server.start()
        except ServerEnded as ended:
            message = str(ended)
        else:
            return server
    raise AssertionError(f"the server does not start: {message}")


@contextlib.contextmanager
def _close_after(server: KeyValueServer) -> Iterator[None]:
    """End the server after the block; print its log if the test fails."""
    try:
        yield
    except BaseException:
        print((server.folder / "log.txt").read_text(errors="replace"), file=sys.stderr)
        raise
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
