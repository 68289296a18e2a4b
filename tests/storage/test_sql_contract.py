"""The conformance kit on the SQL store, with PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import pytest

from sealedstate.storage import Storage
from sealedstate.storage.contract import Clock
from sealedstate.storage.sql import SQLStorage
from sealedstate.testing import StorageContract
from sealedstate.testing._faults import LostReplies, Outages
from tests.support import sql_servers
from tests.support.fault_proxy import FaultProxy
from tests.support.sql_server import SQLServer

pytestmark = pytest.mark.server
postgresql_server = sql_servers.postgresql_server
mariadb_server = sql_servers.mariadb_server

TIMEOUT = 60.0  # seconds; tests share a machine


class SQLContract(StorageContract):
    fixture: ClassVar[str]
    url: str

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> None:
        server: SQLServer = request.getfixturevalue(self.fixture)
        self.url = server.fresh_url()

    def open_store(self, clock: Clock) -> Storage:
        return SQLStorage(self.url, clock, timeout=TIMEOUT)


class TestPostgreSQL(SQLContract):
    fixture = "postgresql_server"


class TestMariaDB(SQLContract):
    fixture = "mariadb_server"


class SQLFaults(Outages, LostReplies):
    """Behind a proxy that cuts connections and drops replies."""

    fixture: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _proxy(self, request: pytest.FixtureRequest) -> Iterator[None]:
        server: SQLServer = request.getfixturevalue(self.fixture)
        with FaultProxy(server.port) as self.proxy:
            self.url = server.url(server.fresh_schema(), port=self.proxy.port)
            yield

    def open_store(self, clock: Clock) -> Storage:
        return SQLStorage(self.url, clock, timeout=TIMEOUT)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self.proxy.refusing = True
        self.proxy.cut()
        yield
        self.proxy.refusing = False

    @contextlib.contextmanager
    def lost_reply(self) -> Iterator[None]:
        self.proxy.drop_replies = True
        yield
        self.proxy.drop_replies = False


class TestPostgreSQLFaults(SQLFaults):
    fixture = "postgresql_server"


class TestMariaDBFaults(SQLFaults):
    fixture = "mariadb_server"
