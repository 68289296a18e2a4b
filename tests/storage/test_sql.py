"""The SQL store on PostgreSQL and MariaDB: tables, rights, connections, forks, reaping; the kit."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from sealedstate.errors import StorageUnavailable, VersionMismatch
from sealedstate.storage import Storage, Stored
from sealedstate.storage.contract import REAP_AFTER, millis
from sealedstate.storage.contract import Clock as StoreClock
from sealedstate.storage.sql import REAP_EVERY, REAP_LIMIT, SQLStorage
from sealedstate.storage.sql._pool import DEADLINE
from tests.support import sql_surroundings
from tests.support.backends import ContractBehindProxy
from tests.support.jar import Clock
from tests.support.sql_server import SQLServer
from tests.support.sql_surroundings import SLOW, Opener, after_recovery, unavailable_message

pytestmark = pytest.mark.server
server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
open_store, store = sql_surroundings.open_store, sql_surroundings.store


# --- the tables -------------------------------------------------------------------------------


def test_missing_tables_are_made_on_first_use_and_when_they_vanish(
    server: Any, schema: str, open_store: Opener
) -> None:
    store = open_store(server.url(schema))
    assert store.create("c", "k", b"v", None, 1)
    for table in ("record", "member", "schema"):
        server.ask(f"DROP TABLE {schema}.sealedstate_{table}")
    assert store.read("c", "k") is None
    assert store.create("c", "k", b"v", None, 1)


def test_tables_of_a_later_release_are_left_alone(
    server: Any, schema: str, open_store: Opener
) -> None:
    store = open_store(server.url(schema))
    store.create("c", "k", b"v", None, 1)
    server.ask(f"INSERT INTO {schema}.sealedstate_schema (version) VALUES (99)")
    assert "99" in unavailable_message(store.prepare)
    later = open_store(server.url(schema))
    assert "version 99; this release supports 2" in unavailable_message(
        lambda: later.read("c", "k")
    )
    assert "version 99" in unavailable_message(lambda: later.delete("c", "k"))


def test_user_without_rights_to_make_tables_uses_prepared_ones(
    server: Any, schema: str, open_store: Opener
) -> None:
    limited = server.limited_url(schema)
    message = unavailable_message(lambda: open_store(limited).read("c", "k"))
    assert "sealedstate store init" in message
    open_store(server.url(schema)).prepare()
    server.allow(schema)
    store = open_store(limited)
    store.prepare()
    assert store.create("c", "k", b"v", None, 1)
    assert store.read("c", "k") == Stored(b"v", 1, None)


def test_user_without_rights_gets_the_servers_reason(
    server: Any, schema: str, open_store: Opener
) -> None:
    open_store(server.url(schema)).prepare()
    limited = server.limited_url(schema)
    message = unavailable_message(lambda: open_store(limited).create("c", "k", b"v", None, 1))
    assert "denied" in message


# --- connections and forks ----------------------------------------------------------------------


def test_more_threads_than_connections_take_turns(url: str, open_store: Opener) -> None:
    store = open_store(url, pool_size=2)
    store.create("c", "k", b"0", None, 1)

    def work(number: int) -> bool:
        return store.read("c", "k") is not None and store.create("c", str(number), b"", None, 1)

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, range(400)))


def test_exhausted_pool_is_reported(server: Any, schema: str, open_store: Opener) -> None:
    store = open_store(server.url(schema), pool_size=1, timeout=1.0)
    after_recovery(store.prepare)
    DEADLINE.start(SLOW)
    lease = after_recovery(store._pool._acquire)
    message = unavailable_message(lambda: store.read("c", "k"))
    assert "all 1 connections are in use" in message
    store._pool._release(lease)
    assert after_recovery(lambda: store.read("c", "k") is None)


def test_call_waits_for_a_connection_until_its_deadline_only(url: str, open_store: Opener) -> None:
    store = open_store(url, timeout=120.0, pool_size=1)
    store.prepare()
    DEADLINE.start(SLOW)
    lease = store._pool._acquire()
    # Most of the call's time has passed, as when a connection broke and the read is repeated.
    DEADLINE.start(0.2)
    begun = time.monotonic()
    with pytest.raises(StorageUnavailable, match="in use"):
        store._pool.read(lambda lease: lease.query("SELECT 1", {}))
    assert time.monotonic() - begun < 60
    store._pool._release(lease)


def test_forked_children_and_their_parent_do_not_disturb_each_other(
    store: SQLStorage,
) -> None:
    store.create("c", "counter", b"0", None, 1)
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            count_and_exit(store)
        children.append(child)
    count(store)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert store.read("c", "counter") == Stored(b"180", 181, None)


def count(store: SQLStorage) -> None:
    done = 0
    while done < 20:
        found = store.read("c", "counter")
        assert found is not None
        value = str(int(found.value) + 1).encode()
        with contextlib.suppress(VersionMismatch):
            done += store.update(
                "c", "counter", value, None, found.version + 1, expected=found.version
            )


def count_and_exit(store: SQLStorage) -> None:
    code = 1
    try:
        count(store)
        store.close()
        code = 0
    finally:
        os._exit(code)


# --- expired records ----------------------------------------------------------------------------


def test_create_over_an_expired_equal_record_succeeds(store: SQLStorage, clock: Clock) -> None:
    expires_at = millis(clock()) - 1
    for _ in range(3):
        assert store.create("c", "k", b"v", expires_at, 1) is True


def test_writes_remove_a_few_expired_rows(
    store: SQLStorage, server: Any, schema: str, clock: Clock
) -> None:
    many = REAP_LIMIT + 2 * REAP_EVERY
    for number in range(many):
        store.create("old", str(number), b"v", millis(clock()) + 1000, 1)
        store.add_member("old", "index", str(number), millis(clock()) + 1000)
    clock.now += 2 + REAP_AFTER / 1000
    for number in range(REAP_EVERY):
        store.create("new", str(number), b"v", None, 1)
    assert rows(server, schema) == 2 * many - REAP_LIMIT
    assert store.reap(10) == 10
    assert store.reap(10_000) == 2 * many - REAP_LIMIT - 10
    assert store.reap(10) == 0
    assert len(list(store.keys("new"))) == REAP_EVERY


def rows(server: Any, schema: str) -> int:
    """Count the records and members, apart from those of the context `new`."""
    ((records,),) = server.ask(
        f"SELECT count(*) FROM {schema}.sealedstate_record WHERE expires_at IS NOT NULL"
    )
    ((members,),) = server.ask(f"SELECT count(*) FROM {schema}.sealedstate_member")
    return int(records) + int(members)


def test_reaping_skips_locked_records(
    server: Any, schema: str, store: SQLStorage, clock: Clock
) -> None:
    for number in range(3):
        store.create("c", str(number), b"v", millis(clock()) + 1000, 1)
    clock.now += 2 + REAP_AFTER / 1000
    with sql_surroundings.locked_records(server, schema, "version = 1 LIMIT 1"):
        assert store.reap(10) == 2
    assert store.reap(10) == 1


# --- the kit --------------------------------------------------------------------------------------


class SQLContract(ContractBehindProxy):
    fixture: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _place(self, request: pytest.FixtureRequest) -> Iterator[None]:
        server: SQLServer = request.getfixturevalue(self.fixture)
        with self.proxy_of(server.port) as port:
            self.url = server.url(server.fresh_schema(), port=port)
            yield

    def open_store(self, clock: StoreClock) -> Storage:
        return SQLStorage(self.url, clock, timeout=SLOW)


class TestPostgreSQL(SQLContract):
    fixture = "postgresql_server"


class TestMariaDB(SQLContract):
    fixture = "mariadb_server"
