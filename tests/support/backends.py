"""The stores that the tests of consistency run against, and processes that use them.

A backend is added by a line in BACKENDS; processes must be able to share it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest

from sealedstate.storage import ManagedStorage, open_storage
from sealedstate.storage.urls import OPTION_PREFIX
from sealedstate.testing import FakeClock, StorageContract
from tests.support.fault_proxy import FaultProxy
from tests.support.kv_servers import Persistence, memcached_server, redis_server
from tests.support.sql_server import SQLServer


class Server(Protocol):
    """A server process that keeps its port and its data when it is started again."""

    port: int

    def start(self) -> None: ...
    def kill9(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True)
class Service:
    """A running backend. SQLite has a file and no server."""

    url: str
    server: Server | None = None
    file: Path | None = None

    @contextlib.contextmanager
    def behind_proxy(self) -> Iterator[tuple[str, FaultProxy]]:
        """A proxy in front of the server, and the URL that leads through it."""
        assert self.server is not None
        with FaultProxy(self.server.port) as proxy:
            assert self.url.count(f":{self.server.port}") == 1
            yield self.url.replace(f":{self.server.port}", f":{proxy.port}"), proxy


class BehindProxy:
    """A suite's outages and lost replies."""

    @contextlib.contextmanager
    def proxy_of(self, port: int) -> Iterator[int]:
        """The port of a proxy in front of the server at `port`."""
        with FaultProxy(port) as proxy:
            self._proxy: Any = proxy  # can't be pickled, and need not: other processes have its URL
            yield proxy.port

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self._proxy.refusing = True
        self._proxy.cut()
        yield
        self._proxy.refusing = False

    @contextlib.contextmanager
    def lost_reply(self) -> Iterator[None]:
        self._proxy.drop_replies = True
        yield
        self._proxy.drop_replies = False


class ContractBehindProxy(BehindProxy, StorageContract):
    """The conformance kit with outages and lost replies."""


Backend: TypeAlias = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Service]]


@contextlib.contextmanager
def _sqlite(_: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    file = folder / "store.db"
    yield Service(f"sqlite:{file}", file=file)


@contextlib.contextmanager
def _sql(name: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    server: SQLServer = request.getfixturevalue(name)
    yield Service(server.fresh_url(), server)


@contextlib.contextmanager
def _redis(
    persistence: Persistence, request: pytest.FixtureRequest, folder: Path
) -> Iterator[Service]:
    with redis_server(persistence) as server:
        yield Service(server.url, server)


@contextlib.contextmanager
def _memcached(request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    with memcached_server() as server:
        yield Service(server.url, server)


# Backends that owe one winner, linearizable histories, and all acknowledged writes.
BACKENDS: dict[str, Backend] = {
    "sqlite": _sqlite,
    "postgresql": partial(_sql, "postgresql_server"),
    "mariadb": partial(_sql, "mariadb_server"),
    "redis": partial(_redis, "aof always"),
}
# Backends that forget when they are killed, and declare it.
FORGETFUL: dict[str, Backend] = {
    "redis with snapshots": partial(_redis, "snapshots"),
    "redis without persistence": partial(_redis, "none"),
    "memcached": _memcached,
}

# Backends that need no server.
LOCAL = ["sqlite"]
NETWORKED = [pytest.param(name, marks=pytest.mark.server) for name in BACKENDS if name not in LOCAL]
DURABLE = [*LOCAL, *NETWORKED]


def patient(url: str) -> str:
    """The URL with a long timeout, for tests in which a busy machine must not matter."""
    return f"{url}{'&' if '?' in url else '?'}{OPTION_PREFIX}timeout=60"


def opener(url: str) -> Callable[[], ManagedStorage]:
    """A function that opens the store of `url`, in any process."""
    return partial(open_storage, url, time.time)


def use_everything(store: ManagedStorage, clock: FakeClock) -> None:
    """Use every operation, some of them with expired entries to remove."""
    for _ in range(2):
        for number in range(10):
            store.create("c", str(number), b"v", clock.now + 1000, 1)
            store.add_member("c", str(number), "m", clock.now + 1000)
            store.add_member("c", "many", str(number), clock.now + 1000)
        store.update("c", "1", b"w", clock.now + 2000, 2, expected=1)
        store.update_expiration("c", "2", None)
        store.touch_context("c", clock.now + 3000)
        store.delete("c", "3")
        store.remove_member("c", "3", "m")
        assert len(list(store.keys("c"))) == 9
        assert store.members("c", "4")
        clock.advance(86_400_000)
        assert store.reap(5)
    store.add_member("c", "5", "m", None)
    store.delete_context("c")
    store.ping()


# Processes are forked from one that has imported all this and that no test has changed.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "sealedstate.testing", "redis", "psycopg", "pymysql"])


def start_process(act: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Start a process that runs `act(*arguments)` and ends with its parent at the latest."""
    process = _CONTEXT.Process(target=_run, args=(act, *arguments), daemon=True)
    process.start()
    return process


def _run(act: Callable[..., object], *arguments: Any) -> None:
    # A daemon is ended by a parent that exits normally; this parent may be killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    act(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
