"""The conformance kit on the SQL store, with PostgreSQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from sealedstate.storage import Storage
from sealedstate.storage.contract import Clock
from sealedstate.storage.sql import SQLStorage
from tests.support.backends import ContractBehindProxy
from tests.support.sql_server import SQLServer

pytestmark = pytest.mark.server

TIMEOUT = 60.0  # seconds; tests share a machine


class SQLContract(ContractBehindProxy):
    fixture: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _place(self, request: pytest.FixtureRequest) -> Iterator[None]:
        server: SQLServer = request.getfixturevalue(self.fixture)
        with self.proxy_of(server.port) as port:
            self.url = server.url(server.fresh_schema(), port=port)
            yield

    def open_store(self, clock: Clock) -> Storage:
        return SQLStorage(self.url, clock, timeout=TIMEOUT)


class TestPostgreSQL(SQLContract):
    fixture = "postgresql_server"


class TestMariaDB(SQLContract):
    fixture = "mariadb_server"
