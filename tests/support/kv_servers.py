"""Real throw-away Redis and memcached servers for tests, on free ports of 127.0.0.1.

Knows their command lines, and enough of their protocols to see that it is our process that answers.
Does not know the stores. A test module takes a fixture by giving it a name of its own:

    plain_redis = kv_servers.plain_redis

Where a server is not installed, its tests are skipped; with REQUIRE_SERVERS=1 they fail.
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
    # What Debian and Redis itself come with.
    "snapshots": ["--save", "3600 1 300 100 60 10000", "--appendonly", "no"],
    "aof everysec": ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"],
    "aof always": ["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
    "aof no": ["--save", "", "--appendonly", "yes", "--appendfsync", "no"],
}


@dataclass
class KeyValueServer:
    """A server process, and what to do to it. It keeps its port and its data when restarted."""

    url: str
    port: int
    command: Sequence[str]
    question: bytes
    """What to ask it for its process id."""
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it serves."""
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        self.wait_until_it_serves()

    def stop(self) -> None:
        """End it as an administrator would."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again, where it was and with what it kept."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It stands still, and its connections with it."""
        os.kill(self.pid, signal.SIGSTOP)
        while "State:\tT" not in Path(f"/proc/{self.pid}/status").read_text():
            time.sleep(0.001)  # a signal takes its time

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise ServerEnded((self.folder / "log.txt").read_text(errors="replace"))
            with contextlib.suppress(OSError):
                if self._serves():
                    return
            time.sleep(0.01)
        raise AssertionError("the server does not answer")

    def _serves(self) -> bool:
        """Whether it is our process that answers, and has loaded its data."""
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
            # Redis refuses to end while it writes its first append-only file, and has to be told
            # again. What stands still sees no signal.
            self.process.send_signal(how if time.monotonic() < deadline else signal.SIGKILL)
            self.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)


class ServerEnded(Exception):
    """It ended by itself; what it wrote."""


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
    with _folder("redis") as folder:
        server = _started(
            folder,
            f"redis://{login}127.0.0.1:{{port}}/0",
            [binary, "--port", "{port}", "--bind", "127.0.0.1", "--dir", str(folder)],
            [*_PERSISTENCE[persistence], *options],
            question + b"INFO persistence\r\nINFO server\r\n",
        )
        with _shown(server):
            yield server


@contextlib.contextmanager
def memcached_server(*options: str) -> Iterator[KeyValueServer]:
    """A memcached server; `options` as on its command line."""
    binary = program("memcached")
    need_driver("pymemcache")
    # It refuses to be root.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with _folder("memcached") as folder:
        server = _started(
            folder,
            "memcached://127.0.0.1:{port}",
            [binary, "-l", "127.0.0.1", "-p", "{port}", "-U", "0", *user],
            options,
            b"stats\r\n",
        )
        with _shown(server):
            yield server


def make_cluster_of_one(server: KeyValueServer) -> None:
    """Give a Redis server that was started with `--cluster-enabled yes` all slots."""
    import redis  # memcached's tests need no Redis

    with redis.Redis(port=server.port) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        deadline = time.monotonic() + PATIENCE
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"sealedstate-{name}-") as folder:
        yield Path(folder)


def _started(
    folder: Path, url: str, command: Sequence[str], options: Sequence[str], question: bytes
) -> KeyValueServer:
    # Somebody beside the tests may take the port before the server does.
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
def _shown(server: KeyValueServer) -> Iterator[None]:
    """End the server at last, and show what it wrote when the test failed."""
    try:
        yield
    except BaseException:
        print((server.folder / "log.txt").read_text(errors="replace"), file=sys.stderr)
        raise
    finally:
        # Nobody needs what it keeps, and an orderly end takes memcached a second.
        server.kill9()


@pytest.fixture(scope="session")
def plain_redis() -> Iterator[KeyValueServer]:
    """One Redis without persistence for all tests that do it no harm."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def plain_memcached() -> Iterator[KeyValueServer]:
    """One memcached for all tests that do it no harm."""
    with memcached_server() as server:
        yield server
