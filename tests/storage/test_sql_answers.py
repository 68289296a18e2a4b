"""Answers of PostgreSQL and MariaDB that belong to other questions are not believed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sealedstate.errors import StorageError
from sealedstate.storage import Stored
from sealedstate.storage.sql import SQLStorage
from tests.support import sql_surroundings
from tests.support.fault_proxy import FaultProxy
from tests.support.sql_surroundings import Opener

pytestmark = pytest.mark.server
server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
open_store, store = sql_surroundings.open_store, sql_surroundings.store

KEYS = ("k", "other", "gone")
EXPECTED = {"k": Stored(b"v", 1, None), "other": Stored(b"w", 2, 2**53), "gone": None}


@pytest.fixture
def proxied(
    server: Any, schema: str, open_store: Opener
) -> Iterator[tuple[FaultProxy, SQLStorage]]:
    """A store behind a proxy, with `EXPECTED` in it and connections for all threads."""
    with FaultProxy(server.port) as proxy:
        store = open_store(server.url(schema, port=proxy.port), timeout=5.0)
        for key, record in EXPECTED.items():
            if record is not None:
                store.create("c", key, record.value, record.expires_at, record.version)
        yield proxy, store
        store.close()


def connect_all(proxy: FaultProxy, store: SQLStorage, pool: ThreadPoolExecutor) -> None:
    """Open a connection for each key: replies too late for one thread to do it all."""
    proxy.latency = 0.05
    list(pool.map(lambda key: store.read("c", key), KEYS))
    proxy.latency = 0.0


def settled(act: Callable[[], Any]) -> Any:
    """What `act` returns, or None for a StorageError."""
    with contextlib.suppress(StorageError):
        return act()
    return None


def test_exchanged_answers_to_reads_are_not_believed(
    proxied: tuple[FaultProxy, SQLStorage],
) -> None:
    proxy, store = proxied
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            connect_all(proxy, store, pool)
            proxy.swap_replies = True
            found = list(pool.map(lambda key: settled(lambda: store.read("c", key)), KEYS))
            proxy.swap_replies = False
            for key, answer in zip(KEYS, found, strict=True):
                assert answer in (EXPECTED[key], None)


def test_exchanged_answers_to_writes_are_not_believed(
    proxied: tuple[FaultProxy, SQLStorage],
) -> None:
    proxy, store = proxied

    def create(key: str) -> Any:
        return settled(lambda: store.create("c", key, b"new", None, 7))

    with ThreadPoolExecutor(3) as pool:
        for number in range(3):
            connect_all(proxy, store, pool)
            proxy.swap_replies = True
            won, lost = pool.map(create, [f"new {number}", "k"])
            proxy.swap_replies = False
            assert won is not False
            assert lost is not True
    assert store.read("c", "k") == EXPECTED["k"]


def test_call_is_one_round_trip(proxied: tuple[FaultProxy, SQLStorage]) -> None:
    proxy, store = proxied
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: store.read("c", "k"),
        "create": lambda: store.create("c", "k", b"v", None, 7),
        "update": lambda: store.update("c", "other", b"w", 2**53, 3, expected=2),
        "delete": lambda: store.delete("c", "gone"),
        "members": lambda: store.members("c", "k"),
        "add_member": lambda: store.add_member("c", "k", "m", None),
    }
    for name, call in calls.items():
        before = proxy.requests
        call()
        assert proxy.requests == before + 1, name
    assert proxy.connections == 1


def test_answer_that_comes_twice_does_not_answer_the_next_call(
    proxied: tuple[FaultProxy, SQLStorage],
) -> None:
    proxy, store = proxied
    versions = itertools.count(3)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: store.read("c", "k") == EXPECTED["k"],
        "nothing": lambda: store.read("c", "gone") is None,
        "update": lambda: store.update("c", "other", b"w", 2**53, next(versions)) is True,
        "no update": lambda: store.update("c", "gone", b"w", None, 2) is False,
        "keys": lambda: set(store.keys("c")) == {"k", "other"},
        "delete": lambda: not store.delete("c", "gone"),
    }
    for repeated, act in acts.items():
        for following, act_then in acts.items():
            proxy.repeat_reply = True
            # If it is one piece of several, the answer as a whole is withheld.
            assert settled(act) is not False, repeated
            assert not proxy.repeat_reply
            assert act_then(), f"{following} after {repeated}"
