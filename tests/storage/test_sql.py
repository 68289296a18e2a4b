"""What the SQL store promises beside the contract: tables, rights, settings, many at once.

On real servers, PostgreSQL and MariaDB.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sealedstate.errors import CapacityError, VersionMismatch
from sealedstate.storage import Stored
from sealedstate.storage.contract import millis
from sealedstate.storage.sql.store import REAP_EVERY, REAP_LIMIT, SQLStorage
from tests.support import sql_servers, sql_surroundings
from tests.support.jar import Clock
from tests.support.sql_surroundings import Opened, insist, processes, refused

pytestmark = pytest.mark.server
postgresql_server = sql_servers.postgresql_server
mariadb_server = sql_servers.mariadb_server
clock, server = sql_surroundings.clock, sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
opened, store = sql_surroundings.opened, sql_surroundings.store


# --- the tables -------------------------------------------------------------------------------


def prepare(store: SQLStorage, task: str, number: int) -> bool:
    store.prepare()
    return store.create("prepared", str(number), b"v", None, 1)


def test_eight_processes_make_the_tables_at_once(server: Any, url: str, opened: Opened) -> None:
    with processes(8, url, prepare) as all_at_once:
        assert all_at_once("go") == [True] * 8
        assert all_at_once("again") == [False] * 8
    assert len(list(opened(url).keys("prepared"))) == 8


def test_tables_are_made_by_the_first_use_and_again_when_they_vanish(
    server: Any, schema: str, opened: Opened
) -> None:
    store = opened(server.url(schema))
    assert store.create("c", "k", b"v", None, 1)
    for table in ("record", "member", "schema"):
        server.ask(f"DROP TABLE {schema}.sealedstate_{table}")
    assert store.read("c", "k") is None
    assert store.create("c", "k", b"v", None, 1)


def test_tables_of_a_later_release_are_left_alone(server: Any, schema: str, opened: Opened) -> None:
    store = opened(server.url(schema))
    store.create("c", "k", b"v", None, 1)
    server.ask(f"INSERT INTO {schema}.sealedstate_schema (version) VALUES (99)")
    assert "99" in refused(store.prepare)
    later = opened(server.url(schema))
    assert "version 99; this release knows 1" in refused(lambda: later.read("c", "k"))
    assert "version 99" in refused(lambda: later.delete("c", "k"))


def test_a_user_who_may_make_no_tables_uses_those_that_an_operator_made(
    server: Any, schema: str, opened: Opened
) -> None:
    limited = server.limited_url(schema)
    message = refused(lambda: opened(limited).read("c", "k"))
    assert "sealedstate store init" in message
    opened(server.url(schema)).prepare()
    server.allow(schema)
    store = opened(limited)
    store.prepare()
    assert store.create("c", "k", b"v", None, 1)
    assert store.read("c", "k") == Stored(b"v", 1, None)


def test_a_user_without_any_right_is_told_so(server: Any, schema: str, opened: Opened) -> None:
    opened(server.url(schema)).prepare()
    limited = server.limited_url(schema)
    message = refused(lambda: opened(limited).create("c", "k", b"v", None, 1))
    assert "denied" in message


# --- many at once -----------------------------------------------------------------------------

RACES = 50


def create(store: SQLStorage, key: str, number: int) -> list[bool]:
    with ThreadPoolExecutor(8) as pool:
        values = [f"{number} {thread}".encode() for thread in range(8)]
        return list(pool.map(lambda value: store.create("race", key, value, None, 1), values))


def test_of_eight_threads_in_each_of_four_processes_one_creates(
    url: str, store: SQLStorage
) -> None:
    with processes(4, url, create) as all_at_once:
        for number in range(RACES):
            won = [
                f"{process} {thread}".encode()
                for process, threads in enumerate(all_at_once(str(number)))
                for thread, has_won in enumerate(threads)
                if has_won
            ]
            found = store.read("race", str(number))
            assert found is not None
            assert won == [found.value]


def test_more_threads_than_connections_take_turns(url: str, opened: Opened) -> None:
    store = opened(url, pool_size=2)
    store.create("c", "k", b"0", None, 1)

    def work(number: int) -> bool:
        return store.read("c", "k") is not None and store.create("c", str(number), b"", None, 1)

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(work, range(400)))


def test_a_pool_whose_connections_are_all_in_use_says_so(
    server: Any, schema: str, opened: Opened
) -> None:
    store = opened(server.url(schema), pool_size=1, timeout=1.0)
    insist(store.prepare)
    taken = insist(store._link._taken)
    message = refused(lambda: store.read("c", "k"))
    assert "all 1 connections are in use" in message
    store._link._put_back(taken)
    assert insist(lambda: store.read("c", "k") is None)


def test_a_store_that_was_closed_can_be_used_again(store: SQLStorage) -> None:
    store.create("c", "k", b"v", None, 1)
    store.close()
    store.close()
    assert store.read("c", "k") == Stored(b"v", 1, None)


def test_children_of_a_fork_and_their_parent_do_not_get_into_each_others_way(
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


# --- values and expiry ------------------------------------------------------------------------


def test_a_megabyte_comes_back_as_it_was(store: SQLStorage) -> None:
    value = os.urandom(1 << 20)
    assert store.create("c", "k", value, None, 1)
    assert store.read("c", "k") == Stored(value, 1, None)
    assert store.update("c", "k", value[::-1], None, 2, expected=1)
    assert store.read("c", "k") == Stored(value[::-1], 2, None)


def test_numbers_that_no_column_holds_are_refused(store: SQLStorage) -> None:
    store.create("c", "k", b"v", None, 1)
    with pytest.raises(CapacityError):
        store.create("c", "new", b"v", None, 1 << 70)
    with pytest.raises(CapacityError):
        store.update_expiration("c", "k", 1 << 70)
    assert store.read("c", "k") == Stored(b"v", 1, None)


def test_replacing_an_expired_record_by_its_like_is_a_creation(
    store: SQLStorage, clock: Clock
) -> None:
    expires_at = millis(clock()) - 1
    for _ in range(3):
        assert store.create("c", "k", b"v", expires_at, 1) is True


def test_writes_remove_what_has_expired_a_little_at_a_time(
    store: SQLStorage, server: Any, schema: str, clock: Clock
) -> None:
    many = REAP_LIMIT + 2 * REAP_EVERY
    for number in range(many):
        store.create("old", str(number), b"v", millis(clock()) + 1000, 1)
        store.add_member("old", "index", str(number), millis(clock()) + 1000)
    clock.now += 2
    for number in range(REAP_EVERY):
        store.create("new", str(number), b"v", None, 1)
    assert rows(server, schema) == 2 * many - REAP_LIMIT
    assert store.reap(10) == 10
    assert store.reap(10_000) == 2 * many - REAP_LIMIT - 10
    assert store.reap(10) == 0
    assert len(list(store.keys("new"))) == REAP_EVERY


def rows(server: Any, schema: str) -> int:
    """How many records and members there are, apart from those of the context `new`."""
    ((records,),) = server.ask(
        f"SELECT count(*) FROM {schema}.sealedstate_record WHERE expires_at IS NOT NULL"
    )
    ((members,),) = server.ask(f"SELECT count(*) FROM {schema}.sealedstate_member")
    return int(records) + int(members)


def test_reaping_goes_round_what_somebody_holds(
    server: Any, schema: str, store: SQLStorage, clock: Clock
) -> None:
    for number in range(3):
        store.create("c", str(number), b"v", millis(clock()) + 1000, 1)
    clock.now += 2
    with sql_surroundings.holding(server, schema, "version = 1 LIMIT 1"):
        assert store.reap(10) == 2
    assert store.reap(10) == 1
