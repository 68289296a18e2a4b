"""PostgreSQL behind PgBouncer, which shares its connections between clients."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import psycopg
import pytest

from sealedstate.errors import StorageError, StorageUnavailable
from sealedstate.storage import Storage, Stored
from sealedstate.storage.contract import Clock as StoreClock
from sealedstate.storage.requirements import probe_writes
from sealedstate.storage.sql import SQLStorage
from tests.support import sql_surroundings
from tests.support.backends import ContractBehindProxy
from tests.support.pgbouncer import PgBouncer, PoolMode, pooled
from tests.support.sql_servers import PostgreSQLServer
from tests.support.sql_surroundings import SLOW, Opener

pytestmark = pytest.mark.server
open_store = sql_surroundings.open_store


@pytest.fixture(scope="module")
def transaction_pooler(postgresql_server: PostgreSQLServer) -> Iterator[PgBouncer]:
    with pooled(postgresql_server, "transaction") as pooler:
        yield pooler


def connection_of(store: SQLStorage) -> Any:
    return store._pool.read(lambda lease: lease.connection)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pooler_is_recognised(
    postgresql_server: PostgreSQLServer, mode: PoolMode, open_store: Opener
) -> None:
    with pooled(postgresql_server, mode) as pooler:
        store = open_store(pooler.url(pooler.fresh_database()))
        store.prepare()
        assert store.capabilities.durable
        store._pool.start()
        connection = connection_of(store)
        assert connection.is_pooled
        assert connection.prepare_threshold is None
        for number in range(12):  # more often than psycopg repeats before it prepares
            assert store.create("c", str(number), b"v", None, 1)
            assert store.read("c", str(number)) == Stored(b"v", 1, None)
        assert len(list(store.keys("c"))) == 12
        store.touch_context("c", 2**53)
        store.delete_context("c")
        assert not list(store.keys("c"))
        assert store.reap(10) == 0
        with pytest.raises(StorageError, match="a pooler is in between"):
            store.listen()
        store.notify()
    direct = open_store(postgresql_server.fresh_url())
    direct.prepare()
    direct._pool.start()
    assert not connection_of(direct).is_pooled


def test_pooler_without_transactions_is_found_by_the_check(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    with pooled(postgresql_server, "statement") as pooler:
        database = pooler.fresh_database()
        open_store(pooler.url(database, postgresql_server.port)).prepare()
        store = open_store(pooler.url(database))
        store.ping()
        assert "statement pooling" in str(probe_writes(store, store._clock(), "k"))


def test_option_says_what_a_connection_does_not_show(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    store = open_store(postgresql_server.fresh_url(), pooled=True)
    assert store.create("c", "k", b"v", None, 1)
    store._pool.start()
    assert connection_of(store).is_pooled


def test_more_stores_than_server_connections_share_them(
    transaction_pooler: PgBouncer, open_store: Opener
) -> None:
    url = transaction_pooler.url(transaction_pooler.fresh_database())
    stores = [open_store(url) for _ in range(3)]
    stores[0].prepare()

    def use(number: int) -> bool:
        store = stores[number % 3]
        assert store.create("c", str(number), b"v", None, 1)
        assert store.update("c", str(number), b"w", None, 2, expected=1)
        return store.read("c", str(number)) == Stored(b"w", 2, None)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(use, range(120)))


def test_settings_that_other_clients_left_behind_do_not_count(
    transaction_pooler: PgBouncer, open_store: Opener, postgresql_server: PostgreSQLServer
) -> None:
    database = transaction_pooler.fresh_database()
    store = open_store(transaction_pooler.url(database), timeout=2.5)
    store.prepare()
    store.create("c", "k", b"v", None, 1)
    url = transaction_pooler.url(database)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
        # The pooler has one server connection for both, as they take turns.
        other.execute("SET synchronous_commit = off")
        assert other.execute("SHOW synchronous_commit").fetchone() == ("off",)
        settings: list[Any] = []
        record = "SELECT current_setting('synchronous_commit') AS setting"
        settings += store._pool.read(lambda lease: lease.query(record, {}))
        assert settings == [("off",)], "it is the same server connection"
        # What counts is the setting at the commit, which a trigger of that time sees.
        postgresql_server_run(postgresql_server, database, DEFERRED)
        assert store.update("c", "k", b"w", None, 2)
        assert other.execute("SELECT setting FROM seen").fetchall() == [("on",)]
        other.execute("RESET synchronous_commit")


DEFERRED = """
    CREATE TABLE seen (setting text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON sealedstate_record
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();"""


def postgresql_server_run(server: PostgreSQLServer, database: str, script: str) -> None:
    with psycopg.connect(
        server.url("public").replace("/postgres?", f"/{database}?"), autocommit=True
    ) as connection:
        connection.execute(script.encode())


def test_write_that_waits_too_long_for_a_lock_behind_a_pooler_has_not_happened(
    transaction_pooler: PgBouncer, open_store: Opener, postgresql_server: PostgreSQLServer
) -> None:
    database = transaction_pooler.fresh_database()
    store = open_store(transaction_pooler.url(database), timeout=2.5)
    store.prepare()
    store.create("c", "k", b"v", None, 1)
    admin_url = postgresql_server.url("public").replace("/postgres?", f"/{database}?")
    with psycopg.connect(admin_url) as admin:
        admin.execute("SELECT version FROM sealedstate_record FOR UPDATE")
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            store.update("c", "k", b"w", None, 2)
    assert store.read("c", "k") == Stored(b"v", 1, None)


class PooledContract(ContractBehindProxy):
    mode: ClassVar[PoolMode]

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, postgresql_server: PostgreSQLServer) -> Iterator[tuple[PgBouncer, str]]:
        with pooled(postgresql_server, cls.mode) as pooler:
            yield pooler, pooler.fresh_database()

    @pytest.fixture(autouse=True)
    def _place(self, place: tuple[PgBouncer, str]) -> Iterator[None]:
        pooler, database = place
        with self.proxy_of(pooler.port) as port:
            self.url = pooler.url(database, port=port)
            with psycopg.connect(self.url, autocommit=True, prepare_threshold=None) as admin:
                # Each test finds an empty store; a database of its own would take 0.1 s each.
                admin.execute("DROP TABLE IF EXISTS sealedstate_record, sealedstate_member")
                admin.execute("DROP TABLE IF EXISTS sealedstate_schema")
            yield

    def open_store(self, clock: StoreClock) -> Storage:
        return SQLStorage(self.url, clock, timeout=SLOW)


@pytest.mark.slow
class TestTransactionPooling(PooledContract):
    mode = "transaction"


@pytest.mark.soak
class TestSessionPooling(PooledContract):
    mode = "session"
