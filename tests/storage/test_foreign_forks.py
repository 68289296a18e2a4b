"""Children of programs that embed Python and fork without its hooks, as some servers do."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sealedstate._forks import ForkSafeLock
from sealedstate.storage import Stored
from sealedstate.storage._network import Connections
from sealedstate.storage.sql._pool import SQLPool
from sealedstate.storage.sqlite import SQLiteStorage
from sealedstate.testing import ManualClock
from tests.storage.test_pool import ScriptedDriver
from tests.support.forks import run_child


@pytest.fixture(autouse=True)
def without_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks of libc, during which this thread keeps Python's lock."""
    monkeypatch.setattr(os, "fork", ctypes.PyDLL(None).fork)
    lock = ForkSafeLock()
    with lock:
        assert not run_child(lambda: lock.acquire(blocking=False)), "a hook has renewed the lock"


def test_child_opens_the_file_and_leaves_the_connection_of_its_parent_alone(tmp_path: Path) -> None:
    store = SQLiteStorage(tmp_path / "store", ManualClock())
    store.create("c", "parent", b"v", None, 1)
    parents: Any = store._file._connection

    def act() -> object:
        answers = store.read("c", "parent"), store.create("c", "child", b"v", None, 1)
        is_open = parents.execute("SELECT 1").fetchone() == (1,)
        return *answers, is_open, store._file._connection is parents

    assert run_child(act) == (Stored(b"v", 1, None), True, True, False)
    assert store._file._connection is parents
    assert store.update("c", "child", b"w", None, 2, expected=1)


def test_child_leaves_the_connections_of_a_pool_to_its_parent() -> None:
    pool = SQLPool(ScriptedDriver(), "", 60.0, 2, 60.0)

    def connection() -> Any:
        pool.start()
        return pool.read(lambda lease: lease.connection)

    parents = connection()
    assert run_child(lambda: (connection() is parents, parents.is_closed)) == (False, False)
    assert connection() is parents


class Sockets(Connections):
    """Connections that are lists, of the ids of the processes that drop them."""

    def open(self, deadline: float) -> Any:
        return []

    def drop(self, connection: Any) -> None:
        connection.append(os.getpid())

    def _is_quiet(self, connection: Any) -> bool:
        return True


def test_child_drops_its_copies_of_sockets_and_connects_again() -> None:
    sockets, deadline = Sockets(), time.monotonic() + 60
    parents = sockets.take(deadline)
    sockets.give(parents)
    assert run_child(lambda: (sockets.take(deadline) is parents, len(parents))) == (False, 1)
    assert sockets.take(deadline) is parents
    assert parents == []


def test_child_takes_no_connection_of_an_engine_from_its_parent() -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sealedstate.storage.sql._engine import EnginePool

    engine = sqlalchemy.create_engine("sqlite://")
    pool, parents = EnginePool(engine, ScriptedDriver(), 60.0), engine.pool

    def act() -> bool:
        pool._forget_parent()
        return engine.pool is parents

    assert not run_child(act)
    pool._forget_parent()
    assert engine.pool is parents
