"""The SQL store on an application's SQLAlchemy engine: its pool, its events, the kit."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.engine import Engine

from sealedstate.errors import ConfigurationError, StorageUnavailable
from sealedstate.storage import Storage, Stored
from sealedstate.storage.contract import Clock as StoreClock
from sealedstate.storage.sql import SQLStorage
from tests.support import sql_surroundings
from tests.support.backends import ContractBehindProxy
from tests.support.jar import Clock
from tests.support.sql_server import SQLServer

pytestmark = pytest.mark.server
server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url

DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}


def engine_of(url: str, **options: Any) -> Engine:
    parsed = make_url(url)
    return create_engine(parsed.set(drivername=DRIVERS[parsed.drivername]), **options)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = engine_of(url, pool_size=2, max_overflow=0)
    yield engine
    engine.dispose()


def test_engine_gives_the_connections_and_sees_the_statements(engine: Engine, clock: Clock) -> None:
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    store = SQLStorage(engine, clock)
    assert store.create("c", "k", b"v", None, 1)
    assert store.create("c", "k", b"w", None, 2) is False
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert not store.capabilities.assumed
    assert any("INSERT INTO sealedstate_record" in sql for sql in seen)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    store.close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sealedstate_record")).scalar() == 1
    assert "canary" not in repr(store) + repr(vars(store))


# What an application may do to the connections that it shares.
HABITS = {
    "postgresql": [
        "SET synchronous_commit = off",
        "SET default_transaction_isolation = 'serializable'",
    ],
    "mariadb": [
        "SET completion_type = 'CHAIN'",
        "SET sql_select_limit = 2",
        "SET max_join_size = 1",
        "SET sql_safe_updates = 1",
        "SET sql_mode = ''",
    ],
}


def test_settings_of_the_application_do_not_count(
    engine: Engine, clock: Clock, server: Any, url: str
) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            for statement in HABITS[server.name]:
                cursor.execute(statement)
        connection.commit()

    store, other = SQLStorage(engine, clock), SQLStorage(url, clock, timeout=60.0)
    for number in range(5):
        with engine.begin() as connection:  # an ordinary transaction of the application
            connection.execute(text("SELECT 1"))
        assert store.create("c", str(number), b"v", None, 1)
        assert other.read("c", str(number)) == Stored(b"v", 1, None), "it was not committed"
    assert len(list(store.keys("c"))) == 5
    store.touch_context("c", 2**53)
    assert other.read("c", "1") == Stored(b"v", 1, 2**53)
    store.delete_context("c")
    assert not list(other.keys("c"))
    other.close()


def test_error_repeats_no_value_in_its_traceback(engine: Engine, clock: Clock) -> None:
    store, secret = SQLStorage(engine, clock), "canary"
    store.ping()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE sealedstate_record"))
    with pytest.raises(StorageUnavailable, match="sealedstate_record") as caught:
        store.create("c", secret, secret.encode(), None, 1)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_engine_may_stream_the_results_of_the_application(url: str, clock: Clock) -> None:
    engine = engine_of(url, execution_options={"stream_results": True, "yield_per": 10})
    store = SQLStorage(engine, clock)
    assert store.create("c", "k", b"v", None, 1)
    assert list(store.keys("c")) == ["k"]
    engine.dispose()


def test_forked_child_opens_connections_of_its_own(engine: Engine, clock: Clock) -> None:
    store = SQLStorage(engine, clock)
    store.create("c", "k", b"v", None, 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if store.update("c", "k", b"child", None, 2) else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert store.read("c", "k") == Stored(b"child", 2, None)


def test_other_engines_are_refused(clock: Clock) -> None:
    with pytest.raises(ConfigurationError, match="got one of sqlite"):
        SQLStorage(create_engine("sqlite://"), clock)
    with pytest.raises(ConfigurationError, match="got int"):
        SQLStorage(1, clock)  # type: ignore[arg-type]


class EngineContract(ContractBehindProxy):
    kind: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _place(self, request: pytest.FixtureRequest) -> Iterator[None]:
        server: SQLServer = request.getfixturevalue(f"{self.kind}_server")
        with self.proxy_of(server.port) as port:
            self.url = server.url(server.fresh_schema(), port=port)
            yield

    def open_store(self, clock: StoreClock) -> Storage:
        return OwnEngine(engine_of(self.url), clock, timeout=60.0)


class OwnEngine(SQLStorage):
    """Closes its engine, too."""

    def __init__(self, engine: Engine, clock: StoreClock, **options: Any) -> None:
        super().__init__(engine, clock, **options)
        self._engine = engine

    def close(self) -> None:
        self._engine.dispose()


@pytest.mark.slow
class TestPostgreSQLEngine(EngineContract):
    kind = "postgresql"


@pytest.mark.soak
class TestMariaDBEngine(EngineContract):
    kind = "mariadb"
