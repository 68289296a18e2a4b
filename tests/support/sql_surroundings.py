"""Fixtures and helpers of the tests of the SQL store. A module takes a fixture by naming it."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sealedstate.errors import StorageError, StorageUnavailable
from sealedstate.storage.sql import SQLStorage
from tests.support.jar import Clock
from tests.support.server_process import until
from tests.support.sql_server import PASSWORD, SQLServer

# Tests share a machine: only tests of deadlines use the default timeout.
SLOW = 120.0
HANGS = 30.0  # seconds; a call with a deadline of half a second that takes longer hangs


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    found: SQLServer = request.getfixturevalue(f"{request.param}_server")
    yield found
    found.ensure_running()


@pytest.fixture
def schema(server: Any) -> str:
    """A schema without tables."""
    return str(server.fresh_schema())


@pytest.fixture
def url(server: Any, schema: str) -> str:
    return str(server.url(schema))


Opener = Callable[..., SQLStorage]


@pytest.fixture
def open_store(clock: Clock) -> Iterator[Opener]:
    """Opens stores that are closed after the test."""
    stores: list[SQLStorage] = []

    def open_store(url: str, **options: Any) -> SQLStorage:
        stores.append(SQLStorage(url, clock, **{"timeout": SLOW, **options}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Opener, url: str) -> SQLStorage:
    store = open_store(url)
    store.prepare()
    return store


def unavailable_message(act: Callable[[], object]) -> str:
    """The message of StorageUnavailable. No part of the error contains the password."""
    with pytest.raises(StorageUnavailable) as caught:
        act()
    text = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in text
    assert "canary" not in text
    return str(caught.value)


def within_deadline(act: Callable[[], Any]) -> Any:
    """What `act` returns or raises as StorageError, which it must do before HANGS seconds."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(act())
        except StorageError as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANGS)
    assert answers, "it hangs" if thread.is_alive() else "it fails otherwise"
    return answers[0]


def after_recovery(act: Callable[[], Any]) -> Any:
    """What `act` returns once the server works again."""
    found: list[Any] = []

    def succeeds() -> bool:
        with contextlib.suppress(StorageError):
            found.append(act())
        return bool(found)

    until(succeeds, "the store works again")
    return found[0]


@contextlib.contextmanager
def locked_records(server: Any, schema: str, where: str = "version > 0") -> Iterator[None]:
    """Another transaction locks these records."""
    with contextlib.closing(server.connect(schema)) as connection:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT version FROM sealedstate_record WHERE {where} FOR UPDATE")
        cursor.fetchall()
        yield
        cursor.execute("ROLLBACK")
