"""Calls to the SQL store while its server is down, killed, frozen, locked or silent.

On PostgreSQL and MariaDB. No time is measured, except that a call with a deadline of half a second
must end before HANGS.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage import ManagedStorage, Stored
from sealedstate.storage.sql import SQLStorage
from tests.support import sql_servers, sql_surroundings
from tests.support.fault_proxy import FaultProxy
from tests.support.server_process import until
from tests.support.sql_server import SQLServer
from tests.support.sql_servers import MariaDBServer, PostgreSQLServer
from tests.support.sql_surroundings import (
    HANGS,
    Opener,
    after_recovery,
    locked_records,
    unavailable_message,
    within_deadline,
)

pytestmark = [pytest.mark.server, pytest.mark.slow]
server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
open_store, store = sql_surroundings.open_store, sql_surroundings.store

# How a URL asks for TLS with a server whose certificate is checked.
TLS: dict[type[SQLServer], str] = {
    PostgreSQLServer: "&sslmode=verify-full&sslrootcert=",
    MariaDBServer: "?ssl_check_hostname=true&ssl_ca=",
}

CALLS: dict[str, Callable[[ManagedStorage], object]] = {
    "read": lambda store: store.read("c", "k"),
    "create": lambda store: store.create("c", "new", b"w", None, 7),
    "update": lambda store: store.update("c", "k", b"w", None, 7),
    "checked update": lambda store: store.update("c", "k", b"w", None, 8, expected=7),
    "update_expiration": lambda store: store.update_expiration("c", "k", None),
    "delete": lambda store: store.delete("c", "k"),
    "touch_context": lambda store: store.touch_context("c", None),
    "delete_context": lambda store: store.delete_context("c"),
    "keys": lambda store: list(store.keys("c")),
    "add_member": lambda store: store.add_member("c", "k", "m", None),
    "remove_member": lambda store: store.remove_member("c", "k", "m"),
    "members": lambda store: store.members("c", "k"),
    "reap": lambda store: store.reap(10),
    "ping": lambda store: store.ping(),
    "prepare": lambda store: store.prepare(),
}


def test_server_that_is_down_at_the_start_is_used_once_it_is_up(
    server: Any, url: str, open_store: Opener
) -> None:
    open_store(url).prepare()
    server.stop()
    store = open_store(url)
    can = store.capabilities
    assert not can.durable
    assert can.assumed
    assert can.reasons["durable"] == "the server was not reached yet"
    for act in CALLS.values():
        assert isinstance(within_deadline(partial(act, store)), StorageUnavailable)
    server.start()
    assert after_recovery(lambda: store.create("c", "k", b"v", None, 1)) is True
    assert store.capabilities.durable == (server.name == "postgresql")
    assert not store.capabilities.assumed


def test_killed_server_is_used_again_after_its_restart(server: Any, store: SQLStorage) -> None:
    store.create("c", "k", b"v", None, 1)
    server.kill9()
    for act in CALLS.values():
        assert isinstance(within_deadline(partial(act, store)), StorageUnavailable)
    server.start()
    assert after_recovery(lambda: store.read("c", "k")) == Stored(b"v", 1, None)


@pytest.mark.parametrize("call", CALLS)
def test_frozen_server_blocks_no_call(server: Any, url: str, open_store: Opener, call: str) -> None:
    store, new = open_store(url, timeout=0.5), open_store(url, timeout=0.5)
    after_recovery(lambda: store.create("c", "k", b"v", None, 1))
    server.pause()
    try:
        with ThreadPoolExecutor(2) as pool:
            calls = [partial(CALLS[call], each) for each in (store, new)]
            answer, new_answer = pool.map(within_deadline, calls)
    finally:
        server.resume()
    assert isinstance(answer, StorageUnavailable | OutcomeUnknown)
    assert isinstance(new_answer, StorageUnavailable)
    after_recovery(lambda: store.read("c", "k"))
    after_recovery(lambda: store.create("c", "another", b"v", None, 1))


@pytest.mark.parametrize("kind", TLS)
def test_frozen_server_blocks_no_call_under_tls(kind: type[SQLServer], open_store: Opener) -> None:
    with sql_servers.running_with_tls(kind) as (server, certificate):
        url = server.fresh_url()
        store = open_store(f"{url}{TLS[kind]}{certificate}", timeout=0.5)
        value = os.urandom(1 << 20)
        after_recovery(lambda: store.create("c", "k", value, None, 1))
        before = server.clients()
        for _ in range(20):
            assert after_recovery(lambda: store.read("c", "k")).value == value
        assert server.clients() == before, "the connection is not used again"
        server.pause()
        try:
            lost = within_deadline(lambda: store.update("c", "k", value, None, 2))
            new_answer = within_deadline(lambda: store.read("c", "k"))
        finally:
            server.resume()
        assert isinstance(lost, OutcomeUnknown)
        assert isinstance(new_answer, StorageUnavailable)
        assert after_recovery(lambda: store.read("c", "k")).version in (1, 2)


def test_trickling_reply_does_not_extend_the_deadline(
    server: Any, schema: str, open_store: Opener
) -> None:
    open_store(server.url(schema)).create("c", "k", os.urandom(1 << 22), None, 1)
    with FaultProxy(server.port) as proxy:
        store = open_store(server.url(schema, port=proxy.port), timeout=1.0)
        after_recovery(store.ping)
        proxy.latency = 0.2  # for each of many pieces
        assert isinstance(within_deadline(lambda: store.read("c", "k")), StorageUnavailable)
        proxy.latency = 0.0


def test_connections_that_the_server_has_ended_are_not_used(server: Any, store: SQLStorage) -> None:
    store.create("c", "k", b"v", None, 1)
    for version in range(2, 6):
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: store.read("c", "k"), range(8)))
        assert server.end_clients() > 0
        until(lambda: not server.end_clients(), "they are gone")
        # Neither a failure nor an unknown outcome.
        assert store.update("c", "k", b"v", None, version) is True


def test_write_on_a_connection_that_is_ended_claims_nothing(
    server: Any, schema: str, store: SQLStorage
) -> None:
    store.create("c", "k", b"v", None, 1)
    with locked_records(server, schema), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.update, "c", "k", b"w", None, 2)
        until(server.waiters, "the write waits for the lock")
        for number in server.waiters():
            server.end_client(number)
        with pytest.raises((OutcomeUnknown, StorageUnavailable)):
            waiting.result(HANGS)
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert store.update("c", "k", b"w", None, 2) is True


def test_write_that_waits_too_long_for_a_lock_has_not_happened(
    server: Any, schema: str, open_store: Opener
) -> None:
    # The server gives up at four fifths of it, and its answer must come through in the rest.
    store = open_store(server.url(schema), timeout=2.5)
    # Calls about a whole context take ten times as long.
    hasty = open_store(server.url(schema), timeout=0.3)
    after_recovery(lambda: store.create("c", "k", b"v", None, 1))
    for act in (
        lambda: store.update("c", "k", b"w", None, 2),
        lambda: store.delete("c", "k", expected=1),
        lambda: hasty.touch_context("c", 1),
        lambda: hasty.delete_context("c"),
    ):
        with locked_records(server, schema):
            # The server reports that nothing was done.
            assert isinstance(within_deadline(act), StorageUnavailable)
        assert after_recovery(lambda: store.read("c", "k")) == Stored(b"v", 1, None)


def test_read_only_server_answers_reads(server: Any, schema: str, open_store: Opener) -> None:
    usual = open_store(server.url(schema))
    usual.create("c", "k", b"v", None, 1)
    with only_reading(server, schema) as url:
        store = open_store(url)
        assert store.read("c", "k") == Stored(b"v", 1, None)
        for act in (
            lambda: store.create("c", "new", b"w", None, 1),
            lambda: store.update("c", "k", b"w", None, 2),
            lambda: store.delete("c", "k"),
            lambda: store.delete_context("c"),
        ):
            assert "read" in unavailable_message(act)
        assert store.read("c", "k") == Stored(b"v", 1, None)


@contextlib.contextmanager
def only_reading(server: Any, schema: str) -> Iterator[str]:
    if isinstance(server, PostgreSQLServer):
        yield f"{server.url(schema)}%20-c%20default_transaction_read_only%3Don"
        return
    url = server.limited_url(schema)
    server.allow(schema)
    server.ask("SET GLOBAL read_only = 1")
    try:
        yield url
    finally:
        server.ask("SET GLOBAL read_only = 0")
