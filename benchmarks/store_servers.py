"""Where the stores are that take part: servers that are started for it, and files.

Knows how the tests start servers, and asks each which version it is. Does not know what is stored,
or who connects. Everything stands on free ports of 127.0.0.1 and in directories of its own, and is
gone afterwards. Each server writes as durably as it can be told to.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


class NotThere(Exception):
    """A backend can't take part; why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a backend is, as `open_storage` takes it, and which version of what."""

    url: str
    version: str


def started(backend: str) -> AbstractContextManager[Place]:
    """A backend while it is needed. Raises NotThere."""
    return _STARTERS[backend]()


@contextmanager
def _memory() -> Iterator[Place]:
    yield Place("memory:", "in this process")


@contextmanager
def _sqlite() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="sealedstate-sqlite-") as folder:
        path = Path(folder) / "store"
        yield Place(f"sqlite:{path}", f"SQLite {sqlite3.sqlite_version}")


@contextmanager
def _postgresql() -> Iterator[Place]:
    with _running_sql("PostgreSQLServer", "PostgreSQL", "postgres") as place:
        yield place


@contextmanager
def _mariadb() -> Iterator[Place]:
    with _running_sql("MariaDBServer", "MariaDB", "mariadbd") as place:
        yield place


@contextmanager
def _running_sql(kind: str, name: str, program: str) -> Iterator[Place]:
    version = _version(name, program)
    servers = _helper("tests.support.sql_servers")
    with servers.running(getattr(servers, kind)) as server:
        yield Place(server.fresh_url(), version)


@contextmanager
def _redis() -> Iterator[Place]:
    version = _version("Redis", "redis-server")
    with _helper("tests.support.kv_servers").redis_server("aof always") as server:
        yield Place(server.url, version)


@contextmanager
def _memcached() -> Iterator[Place]:
    version = _version("memcached", "memcached")
    # Room enough that nothing is evicted.
    with _helper("tests.support.kv_servers").memcached_server("-m", "1024") as server:
        yield Place(server.url, version)


def _helper(name: str) -> Any:
    """A module of the tests, which start servers by way of pytest."""
    try:
        return import_module(name)
    except ImportError as missing:
        raise NotThere(f"to start it takes {missing.name}, which is not installed") from missing


def _version(name: str, program: str) -> str:
    """Name and number of a server. Raises NotThere where it is not installed."""
    helper = _helper("tests.support.installed")
    try:
        path = helper.program(program)
    except import_module("pytest").skip.Exception as skipped:
        raise NotThere(str(skipped)) from None
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(?:\.\d+)+", told)
    return f"{name} {found[0]}" if found else name


_STARTERS: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mariadb": _mariadb,
    "redis": _redis,
    "memcached": _memcached,
}
BACKENDS = tuple(_STARTERS)
