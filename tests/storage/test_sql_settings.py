"""The SQL store: URLs, passwords, missing drivers, and the settings of PostgreSQL and MariaDB."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from sealedstate.errors import CapacityError
from sealedstate.storage import Stored
from sealedstate.storage.requirements import USES, mismatch
from sealedstate.storage.sql import SQLStorage
from tests.support import sql_servers, sql_surroundings
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


def test_postgresql_without_fsync_is_not_durable(open_store: Opener) -> None:
    with sql_servers.running(PostgreSQLServer, "-c", "fsync=off") as server:
        can = open_store(server.fresh_url()).capabilities
    assert not can.durable
    assert "fsync is off" in can.reasons["durable"]


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
    finally:
        sound_mariadb.ask("SET GLOBAL innodb_flush_log_at_trx_commit = 1")


@pytest.mark.parametrize(
    ("since", "durable"),
    [((10, 6), False), ((10, 11, 9), None), ((999,), True)],
    ids=["newer", "as installed", "older"],
)
def test_mariadb_whose_recovery_repeats_its_log_is_not_durable(
    since: tuple[int, ...],
    durable: bool | None,
    mariadb_server: MariaDBServer,
    open_store: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SINCE, since)
    ((version,),) = mariadb_server.ask("SELECT @@version")
    release = tuple(map(int, version.partition("-")[0].split(".")))
    can = open_store(mariadb_server.fresh_url()).capabilities
    assert can.durable == (release < since if durable is None else durable)
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
