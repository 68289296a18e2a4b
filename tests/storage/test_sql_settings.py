"""The SQL store: URLs, passwords, missing drivers, and the settings of PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sealedstate.errors import CapacityError, StorageUnusable
from sealedstate.storage import Stored
from sealedstate.storage.contract import FOLLOWED, REAP_AFTER, millis
from sealedstate.storage.requirements import USES, mismatch, probe_writes
from sealedstate.storage.sql import SQLStorage
from tests.support import sql_servers, sql_surroundings
from tests.support.jar import Clock, keeper
from tests.support.sql_server import USER
from tests.support.sql_servers import MariaDBServer, PostgreSQLServer
from tests.support.sql_surroundings import Opener, unavailable_message

pytestmark = pytest.mark.server
server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
open_store, store = sql_surroundings.open_store, sql_surroundings.store


def test_wrong_password_is_reported_and_not_repeated(
    server: Any, schema: str, open_store: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(server.url(schema, password="canary-wrong"))
    with caplog.at_level(logging.DEBUG):
        message = unavailable_message(lambda: store.read("c", "k"))
        unavailable_message(lambda: store.create("c", "k", b"v", None, 1))
    assert "password" in message
    assert "canary" not in caplog.text + repr(store) + repr(vars(store))


# --- settings that promises rest on -------------------------------------------------------------

HOSTILE_MARIADB = {
    "completion_type": "'CHAIN'",
    "sql_select_limit": "5",
    "max_join_size": "1",
    "sql_safe_updates": "1",
    "autocommit": "0",
    "sql_mode": "'NO_BACKSLASH_ESCAPES,ANSI'",
    "tx_isolation": "'SERIALIZABLE'",
}
HOSTILE_POSTGRESQL = {
    "synchronous_commit": "off",
    "statement_timeout": "300",
    "lock_timeout": "1",
    "default_transaction_isolation": "serializable",
    "bytea_output": "escape",
    "client_encoding": "SQL_ASCII",
}


@contextlib.contextmanager
def hostile_settings(server: Any, schema: str) -> Iterator[str]:
    """The URL of a user who gets them."""
    limited = server.limited_url(schema)
    server.allow(schema)
    if isinstance(server, PostgreSQLServer):
        for name, value in HOSTILE_POSTGRESQL.items():
            server.ask(f"ALTER ROLE limited_{schema} SET {name} = '{value}'")
        yield limited
        return
    try:
        for name, value in HOSTILE_MARIADB.items():
            server.ask(f"SET GLOBAL {name} = {value}")
        yield limited
    finally:
        for name in HOSTILE_MARIADB:
            server.ask(f"SET GLOBAL {name} = DEFAULT")


def test_connection_sets_what_promises_rest_on(
    server: Any, schema: str, open_store: Opener, clock: Clock
) -> None:
    open_store(server.url(schema)).prepare()
    with hostile_settings(server, schema) as url:
        writer, reader = open_store(url), open_store(url)
        numbers = {str(number) for number in range(20)}
        for number in numbers:
            assert writer.create("c", number, b"v", millis(clock()) + 1, 1)
            writer.add_member("c", "index", number, None)
        assert set(writer.keys("c")) == set(reader.keys("c")) == numbers
        assert set(reader.members("c", "index")) == numbers
        # After a transaction, too, each write is committed.
        writer.touch_context("c", millis(clock()) + 2)
        clock.now += 1 + REAP_AFTER / 1000
        assert writer.reap(3) == 3
        assert writer.create("c", "last", b"v", None, 1)
        writer.delete_context("other")
        assert writer.update("c", "last", b"w", None, 2)
        assert reader.read("c", "last") == Stored(b"w", 2, None)
        assert writer.reap(100) == 17


def test_policy_that_hides_rows_fails_instead(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    server, schema = postgresql_server, postgresql_server.fresh_schema()
    open_store(server.url(schema)).create("c", "k", b"v", None, 1)
    limited = server.limited_url(schema)
    server.allow(schema)
    server.ask(f"ALTER TABLE {schema}.sealedstate_record ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in unavailable_message(lambda: open_store(limited).read("c", "k"))


def test_unlogged_tables_are_not_durable(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    schema = postgresql_server.fresh_schema()
    url = postgresql_server.url(schema)
    open_store(url).prepare()
    postgresql_server.ask(f"ALTER TABLE {schema}.sealedstate_record SET UNLOGGED")
    can = open_store(url).capabilities
    assert not can.durable
    assert "UNLOGGED" in can.reasons["durable"]
    assert can.advice == ("run ALTER TABLE ... SET LOGGED for the tables of sealedstate",)


@contextlib.contextmanager
def only_reading(server: Any, schema: str) -> Iterator[str]:
    """The URL of a user who may only read, because of a setting of the server."""
    limited = server.limited_url(schema)
    server.allow(schema)
    if isinstance(server, PostgreSQLServer):
        server.ask(f"ALTER ROLE limited_{schema} SET default_transaction_read_only = on")
        yield limited
        return
    server.ask("SET GLOBAL read_only = 1")
    try:
        yield limited
    finally:
        server.ask("SET GLOBAL read_only = 0")


def test_read_only_server_stops_the_start(
    server: Any, schema: str, url: str, open_store: Opener, clock: Clock
) -> None:
    open_store(url).create("c", "k", b"v", None, 1)
    with only_reading(server, schema) as limited:
        store = open_store(limited)
        with pytest.raises(StorageUnusable, match="may only read"):
            store.ping()
        with pytest.raises(StorageUnusable, match="may only read"):
            keeper(clock, storage=store)
        assert store.read("c", "k") == Stored(b"v", 1, None)


def test_small_packets_of_mariadb_stop_the_start(
    mariadb_server: MariaDBServer, open_store: Opener
) -> None:
    mariadb_server.ask("SET GLOBAL max_allowed_packet = 131072")
    try:
        store = open_store(mariadb_server.fresh_url())
        with pytest.raises(StorageUnusable, match="max_allowed_packet is 131072"):
            store.ping()
    finally:
        mariadb_server.ask("SET GLOBAL max_allowed_packet = DEFAULT")


def test_missing_database_is_reported(server: Any, open_store: Opener) -> None:
    url = server.url("nowhere").replace("/postgres?", "/nowhere?")
    assert "nowhere" in unavailable_message(open_store(url).ping)


def test_repr_is_the_stores_address(server: Any, store: SQLStorage) -> None:
    assert repr(store).startswith(f"<SQLStorage {server.name} at 127.0.0.1:{server.port}/")


def test_postgresql_syncs_commits_unless_the_url_says_otherwise(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    server, schema = postgresql_server, postgresql_server.fresh_schema()
    server.ask(f"ALTER ROLE {USER} SET synchronous_commit = off")
    try:
        assert open_store(server.url(schema)).capabilities.durable
    finally:
        server.ask(f"ALTER ROLE {USER} RESET synchronous_commit")
    lazy = open_store(f"{server.url(schema)}%20-c%20synchronous_commit%3Doff").capabilities
    assert not lazy.durable
    assert lazy.reasons["durable"] == "synchronous_commit is off and fsync is on"
    assert any("from the options of the URL" in line for line in lazy.advice)


def test_postgresql_without_fsync_is_not_durable(open_store: Opener) -> None:
    with sql_servers.running(PostgreSQLServer, "-c", "fsync=off") as server:
        can = open_store(server.fresh_url()).capabilities
    assert not can.durable
    assert "fsync is off" in can.reasons["durable"]
    assert can.advice == ("set fsync on",)


SINCE = "sealedstate.storage.sql._mariadb.REPEATS_LOG_SINCE"


@pytest.fixture
def sound_mariadb(mariadb_server: MariaDBServer, monkeypatch: pytest.MonkeyPatch) -> MariaDBServer:
    """MariaDB as if of a release whose recovery repeats nothing."""
    monkeypatch.setattr(SINCE, (999,))
    return mariadb_server


def test_mariadb_is_as_durable_as_its_settings(
    sound_mariadb: MariaDBServer, open_store: Opener
) -> None:
    url = sound_mariadb.fresh_url()
    assert open_store(url).capabilities.durable
    try:
        for flush in (0, 2):
            sound_mariadb.ask(f"SET GLOBAL innodb_flush_log_at_trx_commit = {flush}")
            can = open_store(url).capabilities
            assert not can.durable
            assert f"innodb_flush_log_at_trx_commit is {flush}" in can.reasons["durable"]
            assert can.advice == ("set innodb_flush_log_at_trx_commit = 1",)
    finally:
        sound_mariadb.ask("SET GLOBAL innodb_flush_log_at_trx_commit = 1")


@pytest.mark.parametrize(
    ("since", "durable"),
    [((10, 6), False), (None, None), ((999,), True)],
    ids=["newer", "as installed", "older"],
)
def test_mariadb_whose_recovery_repeats_its_log_is_not_durable(
    since: tuple[int, ...] | None,
    durable: bool | None,
    mariadb_server: MariaDBServer,
    open_store: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if since is not None:
        monkeypatch.setattr(SINCE, since)
    ((version,),) = mariadb_server.ask("SELECT @@version")
    release = tuple(map(int, version.partition("-")[0].split(".")))
    can = open_store(mariadb_server.fresh_url()).capabilities
    assert can.durable == (release < (10, 11, 9) if durable is None else durable)
    remedy = "keep what must survive that in PostgreSQL"
    for name, fits in {"revocation": True, "ring": can.durable, "consent": can.durable}.items():
        sentence = mismatch(USES[name], "mariadb", can) or ""
        assert (not sentence) == fits
        assert (remedy in sentence) == (not fits)
        assert (version.partition("-")[0] in sentence) == (not fits)


def test_mariadb_explains_what_its_binary_log_changes(
    sound_mariadb: MariaDBServer, open_store: Opener
) -> None:
    without = open_store(sound_mariadb.fresh_url()).capabilities
    assert "may take back what was read" in without.reasons["durable"]
    with sql_servers.running(MariaDBServer, "--log-bin") as server:
        unsynced = open_store(server.fresh_url()).capabilities
        server.ask("SET GLOBAL sync_binlog = 1")
        synced = open_store(server.fresh_url()).capabilities
    assert "a power failure may take back writes" in unsynced.reasons["durable"]
    assert "every write is synced" in synced.reasons["durable"]
    assert [len(each.advice) for each in (without, unsynced, synced)] == [1, 0, 0]
    assert without.durable
    assert unsynced.durable
    assert synced.durable


def test_mariadb_takes_values_that_fit_into_its_packets(
    mariadb_server: MariaDBServer, open_store: Opener
) -> None:
    mariadb_server.ask("SET GLOBAL max_allowed_packet = 1048576")
    try:
        store = open_store(mariadb_server.fresh_url())
        most = store.capabilities.value_bytes
        assert 256 * 1024 < most < 512 * 1024
        largest = os.urandom(most)
        assert store.create("c" * 4096, "k" * 4096, largest, None, 1)
        assert store.read("c" * 4096, "k" * 4096) == Stored(largest, 1, None)
        with pytest.raises(CapacityError):
            store.create("c", "k", largest + b"x", None, 1)
    finally:
        mariadb_server.ask("SET GLOBAL max_allowed_packet = DEFAULT")


def engines(server: MariaDBServer, schema: str) -> dict[str, str]:
    """The engine of each table of the schema."""
    found = server.ask(
        f"SELECT table_name, engine FROM information_schema.tables WHERE table_schema = '{schema}'"
    )
    return dict(found)


TABLES = ("sealedstate_schema", "sealedstate_record", "sealedstate_member", "sealedstate_feed")
SAFE = dict.fromkeys(TABLES, "InnoDB")


def test_mariadb_tables_are_of_the_engine_that_durability_rests_on(
    mariadb_server: MariaDBServer, open_store: Opener
) -> None:
    server, schema = mariadb_server, mariadb_server.fresh_schema()
    server.ask("SET GLOBAL default_storage_engine = MyISAM")
    try:
        store = open_store(server.url(schema))
        store.prepare()
        assert engines(server, schema) == SAFE
        store.create("c", "k", b"v", None, 1)
        # As after a restore from a dump, or by an administrator.
        for table in TABLES:
            server.ask(f"ALTER TABLE {schema}.{table} ENGINE = MyISAM")
            assert open_store(server.url(schema)).read("c", "k") == Stored(b"v", 1, None)
            assert engines(server, schema) == SAFE
    finally:
        server.ask("SET GLOBAL default_storage_engine = DEFAULT")


def test_right_that_only_logouts_need_is_missed_by_the_check(
    mariadb_server: MariaDBServer, open_store: Opener
) -> None:
    server, schema = mariadb_server, mariadb_server.fresh_schema()
    open_store(server.url(schema)).prepare()
    url = server.limited_url(schema)
    rights = {"schema": "SELECT", "feed": "SELECT"}
    rights |= dict.fromkeys(("record", "member"), "SELECT, INSERT, UPDATE, DELETE")
    for table, some in rights.items():
        server.ask(f"GRANT {some} ON {schema}.sealedstate_{table} TO limited_{schema}@'%'")
    store = open_store(url)
    now = store._clock()
    assert probe_writes(store, now, "k") is None
    missing = probe_writes(store, now, "k", FOLLOWED)
    assert re.match(
        r"create in sealedstate\.\w+: .*UPDATE command denied.*sealedstate_feed", missing or ""
    )
    server.ask(f"GRANT UPDATE ON {schema}.sealedstate_feed TO limited_{schema}@'%'")
    assert probe_writes(store, now, "k", FOLLOWED) is None
    assert store.changes(None, 10).records == []


def test_mariadb_user_who_may_not_change_the_engine_gets_a_remedy(
    mariadb_server: MariaDBServer, open_store: Opener
) -> None:
    server, schema = mariadb_server, mariadb_server.fresh_schema()
    open_store(server.url(schema)).prepare()
    limited = server.limited_url(schema)
    server.allow(schema)
    server.ask(f"ALTER TABLE {schema}.sealedstate_schema ENGINE = MyISAM")
    message = unavailable_message(open_store(limited).ping)
    assert "of another engine" in message
    assert "sealedstate store init" in message
    open_store(server.url(schema)).prepare()
    open_store(limited).ping()
