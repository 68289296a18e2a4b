"""What the tests of the SQL store share: servers, stores, other processes, and patience.

Knows fixtures, which a test module takes by giving them names of its own. Does not know what is
tested.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from sealedstate.errors import StorageError, StorageUnavailable
from sealedstate.storage.sql.store import SQLStorage
from tests.support.backends import started
from tests.support.jar import Clock
from tests.support.sql_server import PASSWORD, PATIENCE, SQLServer, until

# Tests share a machine: only those of deadlines use the default.
SLOW = 120.0
HANGS = 30.0  # seconds; a call with a deadline of half a second that takes longer hangs


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    found: SQLServer = request.getfixturevalue(f"{request.param}_server")
    yield found
    found.ensure_running()


@pytest.fixture
def schema(server: Any) -> str:
    """Where nobody else has tables."""
    return str(server.fresh_schema())


@pytest.fixture
def url(server: Any, schema: str) -> str:
    return str(server.url(schema))


Opened = Callable[..., SQLStorage]


@pytest.fixture
def opened(clock: Clock) -> Iterator[Opened]:
    """Opens stores that are closed in the end."""
    stores: list[SQLStorage] = []

    def open_store(url: str, **options: Any) -> SQLStorage:
        stores.append(SQLStorage(url, clock, **{"timeout": SLOW, **options}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opened, url: str) -> SQLStorage:
    store = opened(url)
    store.prepare()
    return store


def refused(act: Callable[[], object]) -> str:
    """The message of StorageUnavailable. No part of the error has the password in it."""
    with pytest.raises(StorageUnavailable) as caught:
        act()
    told = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in told
    assert "canary" not in told
    return str(caught.value)


def soon(act: Callable[[], Any]) -> Any:
    """What `act` returns or raises as StorageError, which it must do before long."""
    answers: list[Any] = []

    def wait() -> None:
        try:
            answers.append(act())
        except StorageError as error:
            answers.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(HANGS)
    assert answers, "it hangs" if waiting.is_alive() else "it fails otherwise"
    return answers[0]


def insist(act: Callable[[], Any]) -> Any:
    """What `act` returns in the end, for the server comes back."""
    found: list[Any] = []

    def succeeds() -> bool:
        with contextlib.suppress(StorageError):
            found.append(act())
        return bool(found)

    until(succeeds, "the store works again")
    return found[0]


Answer = Callable[[SQLStorage, str, int], object]
"""What a process of such a number answers to a task, with a store of its own."""


@contextlib.contextmanager
def processes(count: int, url: str, answer: Answer) -> Iterator[Callable[[str], list[Any]]]:
    """So many processes, and what gives all of them a task at once and tells their answers."""
    ours, running = [], []
    for number in range(count):
        one, other = multiprocessing.Pipe()
        running.append(started(_serve, other, url, answer, number))
        other.close()
        ours.append(one)

    def all_at_once(task: str) -> list[Any]:
        for pipe in ours:
            pipe.send(task)
        return [pipe.recv() for pipe in ours]

    try:
        yield all_at_once
    finally:
        for pipe in ours:
            pipe.close()
        for process in running:
            process.join(PATIENCE)
    assert {process.exitcode for process in running} == {0}


def _serve(pipe: Connection, url: str, answer: Answer, number: int) -> None:
    store = SQLStorage(url, time.time, timeout=SLOW)
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(answer(store, pipe.recv(), number))
    store.close()


@contextlib.contextmanager
def holding(server: Any, schema: str, which: str = "version > 0") -> Iterator[None]:
    """Somebody else's transaction holds such records."""
    with contextlib.closing(server.connect(schema)) as connection:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT version FROM sealedstate_record WHERE {which} FOR UPDATE")
        cursor.fetchall()
        yield
        cursor.execute("ROLLBACK")
