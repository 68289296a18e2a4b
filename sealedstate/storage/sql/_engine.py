"""An application's SQLAlchemy engine in place of connections of `SQLPool`.

The engine's pool gives the connections, its events see the statements, and its settings bound how
long a call may take. The application uses the same connections, and may have configured them: so
each statement brings the settings that promises rest on, as behind a pooler, and its number, like
those of the other drivers. PostgreSQL does that in one statement. MariaDB takes a second one, which
asks what the first has changed.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from time import monotonic
from typing import Any, TypeAlias

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, StatementError

from ...errors import ConfigurationError, StorageError, StorageUnavailable
from ..contract import Capabilities
from . import _mariadb, _postgresql
from ._pool import (
    SERVERS_SHARE,
    Driver,
    Fault,
    Lease,
    Misdirected,
    Params,
    SQLPool,
    new_echo,
)

# In the `info` of a connection of the engine: when it was asked what its server can do.
ASKED_AT = "sealedstate.asked_at"
STATE = "sealedstate.state"

Rows: TypeAlias = list[tuple[Any, ...]]


@functools.cache
def _text(sql: str) -> Any:
    return text(sql)


class _EngineConnection:
    """A connection of the engine, and its own cursor."""

    opened_at = 0.0

    def __init__(self, connection: Connection) -> None:
        self.shared = connection
        self.seconds: float | None = None
        """How long a statement of the transaction may take; None outside one."""
        self.transaction: object = None
        self._rows: Rows = []

    def cursor(self) -> Any:
        return self

    @property
    def connection(self) -> _EngineConnection:
        return self

    @property
    def state(self) -> str | None:
        """The server's state, see `_mariadb.STATE`; kept as long as the connection."""
        state: str | None = self.shared.info.get(STATE)
        return state

    @state.setter
    def state(self, state: str) -> None:
        self.shared.info[STATE] = state

    def execute(self, sql: str, params: Params | None = None) -> None:
        try:
            result = self.shared.execute(_text(sql), dict(params or {}))
        except StatementError as error:
            # Else its text, in each traceback, repeats values, and keys of an unwrapped ring.
            error.hide_parameters = True
            raise
        self._rows = []
        if result.returns_rows:
            # Some drivers return bytes as a memoryview.
            self._rows = [
                tuple(bytes(one) if isinstance(one, memoryview | bytearray) else one for one in row)
                for row in result
            ]

    def fetchall(self) -> Rows:
        return self._rows

    def ask(self, sql: str, params: Params) -> Rows:
        """Return the rows of a query whose first column is its number, without that."""
        echo = new_echo()
        self.execute(sql, {**params, "echo": echo})
        if not self._rows or any(row[0] != echo for row in self._rows):
            raise Misdirected
        return [] if self._rows[0][1] is None else [row[1:] for row in self._rows]

    def is_stale(self) -> bool:
        return False

    def close(self) -> None:
        """Close the connection, so that the engine does not use it again."""
        self.shared.invalidate()
        self.shared.close()


class EnginePool(SQLPool):
    """Calls functions with a connection of the engine."""

    def __init__(self, engine: Engine, driver: Driver, timeout: float) -> None:
        super().__init__(driver, str(engine.url.password or ""), timeout, 1, 0.0)
        self._engine = engine

    def close(self) -> None:
        """Do nothing; the engine is the application's."""

    def _acquire(self) -> Lease:
        self._forget_parent()
        try:
            shared = self._engine.connect()
        except Exception as error:
            raise StorageUnavailable(self._redact(error)) from error
        lease = Lease(self._driver, self._places, _EngineConnection(shared), 0)
        try:
            # A server-side cursor would need a transaction.
            shared.execution_options(
                isolation_level="AUTOCOMMIT", stream_results=False, yield_per=0
            )
            if shared.info.get(ASKED_AT, 0.0) <= self._invalid_before:
                self._greet(lease)
                shared.info[ASKED_AT] = monotonic()
        except StorageError:
            lease.close()
            raise
        except Exception as error:
            lease.close()
            raise StorageUnavailable(self._redact(error)) from error
        except BaseException:
            lease.close()
            raise
        return lease

    def _release(self, lease: Lease) -> None:
        lease.connection.shared.close()  # type: ignore[attr-defined]  # back to the engine's pool

    def _discard(self, lease: Lease) -> None:
        lease.close()

    def _forget_parent(self) -> None:
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._engine.dispose(close=False)
                    self._pid = os.getpid()


class _Engine(Driver):
    """What both databases share."""

    read = Driver.read

    def connect(self, host: int) -> Any:
        raise NotImplementedError("the engine's pool connects")

    def listen(self, host: int) -> None:
        """Do nothing; the engine's connections are the application's."""

    def message(self, error: Exception) -> str:
        # Without the statement and its parameters, which SQLAlchemy adds.
        return str(error.orig) if isinstance(error, DBAPIError) else str(error)


class EnginePostgreSQL(_Engine, _postgresql.PostgreSQL):
    """PostgreSQL behind an engine, whatever its driver."""

    def __init__(self, engine: Engine, timeout: float) -> None:
        Driver.__init__(self, _postgresql.STATEMENTS, str)
        self.address = f"postgresql at {_place(engine)}"
        self._reap, self._settings = _postgresql.REAP, _postgresql.SETTINGS
        self._syncs_commits, self._commit = True, "on"
        self._limits = _postgresql.limits(timeout)

    def handshake(self, cursor: Any) -> Capabilities:
        ((_, commit, *others),) = self.query(cursor, self._settings, {})
        self._commit = "on" if commit == "off" else commit
        return self._describe(False, self._commit, *others)

    def fault(self, error: Exception) -> Fault:
        if not isinstance(error, DBAPIError) or error.connection_invalidated:
            return Fault.LOST
        code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        return _postgresql.fault_of(code)

    def query(self, cursor: Any, sql: str, params: Params) -> Rows:
        rows: Rows = cursor.ask(_postgresql.QUERY.format(sql), params)
        return rows

    def change(self, cursor: Any, sql: str, params: Params) -> int:
        given = {**params, **self._limits, "commit": self._commit}
        if cursor.seconds is not None:  # the transaction has its own
            given["longest"] = str(int(cursor.seconds * 1000))
        ((_, count, _),) = cursor.ask(_postgresql.POOLED_CHANGE.format(sql), given)
        return int(count)

    def begin(self, cursor: Any, seconds: float) -> None:
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor.seconds = seconds * SERVERS_SHARE
        limit = str(int(cursor.seconds * 1000))
        ((cursor.transaction, _),) = self.query(
            cursor,
            "SELECT txid_current() AS id, set_config('statement_timeout', :limit, true) AS set",
            {"limit": limit},
        )

    def commit(self, cursor: Any) -> None:
        cursor.execute("COMMIT")
        cursor.seconds = None
        status = "SELECT txid_status(:id) AS status"
        if self.query(cursor, status, {"id": cursor.transaction}) != [("committed",)]:
            raise Misdirected


class EngineMariaDB(_Engine, _mariadb.MariaDB):
    """MariaDB behind an engine, whatever its driver."""

    def __init__(self, engine: Engine, timeout: float) -> None:
        # SQLAlchemy has the server count the rows that an update has found, and so an insert
        # would not show that another client was first.
        create = _mariadb.STATEMENTS.create.replace(
            ":version,", "IF(@sealedstate_created := 1, :version, 0),", 1
        ).replace(
            "IF(expires_at <= :now, VALUES(value), value)",
            "IF(@sealedstate_created := (expires_at IS NOT NULL AND expires_at <= :now),"
            " VALUES(value), value)",
        )
        Driver.__init__(self, replace(_mariadb.STATEMENTS, create=create), str)
        self.address = f"mariadb at {_place(engine)}"
        self._lock = _mariadb.LOCK_SCHEMA
        self._timeout = timeout

    def handshake(self, cursor: Any) -> Capabilities:
        (settings,) = self.query(cursor, _mariadb.SETTINGS, {})
        cursor.execute(self._settings(cursor) + _mariadb.REPLICAS)
        replicas = sum(int(count) for _, count in cursor.fetchall())
        return self._describe(settings, replicas, is_mariadb=True)

    def fault(self, error: Exception) -> Fault:
        if not isinstance(error, DBAPIError) or error.connection_invalidated:
            return Fault.LOST
        return _mariadb.fault_of(error.orig)

    def _settings(self, cursor: Any) -> str:
        seconds = self._timeout * SERVERS_SHARE if cursor.seconds is None else cursor.seconds
        return _mariadb.STATEMENT_SETTINGS.format(seconds=f"{seconds:.3f}")

    def query(self, cursor: Any, sql: str, params: Params) -> Rows:
        rows: Rows = cursor.ask(self._settings(cursor) + _postgresql.QUERY.format(sql), params)
        return rows

    def change(self, cursor: Any, sql: str, params: Params) -> int:
        cursor.execute(self._settings(cursor) + sql, params)
        count = "ROW_COUNT()" if sql is not self.statements.create else "@sealedstate_created"
        outcome = f"SELECT :echo AS echo, {count} AS changed, @@in_transaction AS is_open"
        ((changed, is_open),) = cursor.ask(outcome, {})
        if is_open and cursor.seconds is None:
            # The application's completion_type has begun a transaction after its last one.
            cursor.execute("COMMIT AND NO CHAIN")
        return int(changed)

    def change_numbered(self, cursor: Any, sql: str, params: Params) -> int:
        block = _mariadb.NUMBERED.replace("{sql}", sql)
        if sql is self.statements.create:
            block = block.replace("ROW_COUNT()", "@sealedstate_created")
        ((changed,),) = cursor.ask(block, params)
        return int(changed)

    def begin(self, cursor: Any, seconds: float) -> None:
        cursor.execute("BEGIN")
        cursor.seconds = seconds * SERVERS_SHARE

    def commit(self, cursor: Any) -> None:
        cursor.execute("COMMIT AND NO CHAIN")
        cursor.seconds = None
        if cursor.ask("SELECT :echo AS echo, @@in_transaction AS is_open", {}) != [(0,)]:
            raise Misdirected

    def reap(self, cursor: Any, now: int, limit: int) -> int:
        removed = 0
        for table in ("record", "member"):
            sql = f"""
                DELETE FROM sealedstate_{table} WHERE expires_at <= :now
                ORDER BY expires_at LIMIT :limit"""
            removed += self.change(cursor, sql, {"now": now, "limit": limit - removed})
        return removed


def _place(engine: Engine) -> str:
    return f"{engine.url.host or 'its socket'}:{engine.url.port or ''}/{engine.url.database or ''}"


def open_engine(engine: object, timeout: float) -> tuple[str, Driver, EnginePool]:
    """Return the name of an engine's server, its driver and a pool.

    Raises ConfigurationError.
    """
    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"storage: expected a URL or an SQLAlchemy engine, got {type(engine).__name__}"
        )
    name = engine.dialect.name
    if name == "postgresql":
        driver: Driver = EnginePostgreSQL(engine, timeout)
    elif name in ("mysql", "mariadb"):
        name, driver = "mariadb", EngineMariaDB(engine, timeout)
    else:
        raise ConfigurationError(
            f"storage: expected an engine of PostgreSQL or MariaDB, got one of {name}; for SQLite,"
            " write sqlite:PATH"
        )
    return name, driver, EnginePool(engine, driver, timeout)
