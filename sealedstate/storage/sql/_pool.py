"""Connections to a database server: what a driver owes, its pool, and what a failed call means.

Names in the tables: `place`, the primary key, is the digest of a record's or a member's whole name,
because no server indexes names of several kilobytes, and because bytes are compared without case,
collation or trailing blanks. The columns `full_...` hold what the digest was made of.

- A call ends within its deadline. A late call is given up together with its connection, so that its
  reply cannot answer another call.
- A connection that the server has closed is noticed by a look at its socket before it is used. If
  one has broken in use, no connection that is as old is used again.
- A read is repeated once if its connection breaks. A write is not: its outcome is unknown. If the
  server has rolled a statement back because of another transaction, the statement is repeated.
- A forked child leaves its parent's connections alone and opens new ones.

SQLAlchemy's pool opens, closes and counts the connections, and queues the threads that wait for
one. Idle connections are kept outside it, because a checkout would take a third of a round trip.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum, auto
from time import monotonic
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

from sqlalchemy import text
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from ..._forks import ForkSafeLock
from ...errors import (
    CapacityError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
)
from ..contract import FOLLOWED, Capabilities, Changes, context_digest

SCHEMA_VERSION = 2

CONTEXT_BYTES = KEY_BYTES = 1 << 15
VALUE_BYTES = 1 << 24

# Operations on all records of a context may take this many times as long as other calls.
PATIENCE = 10
# The part of a call's time that the server may use; the rest is for its answer to arrive.
SERVERS_SHARE = 0.8

Params = Mapping[str, Any]
"""The parameters of a statement, by name."""


class Deadline(threading.local):
    """The end of the call that this thread makes. Connections wait no longer."""

    # Outside a call there is no time to wait: a connection that is closed need not say goodbye.
    at = 0.0

    def start(self, seconds: float) -> None:
        self.at = monotonic() + seconds

    def remaining(self) -> float:
        return max(self.at - monotonic(), 0.0)


DEADLINE = Deadline()


FOLLOWED_PLACES = [context_digest(context).hex() for context in sorted(FOLLOWED)]


class Fault(Enum):
    """What a driver's error says about the statement that raised it."""

    LOST = auto()
    """The connection broke, or the reply is late: it may have had an effect."""
    REFUSED = auto()
    """It had no effect."""
    READ_ONLY = auto()
    """It had no effect: this server takes no writes."""
    RETRY = auto()
    """It had no effect because of another transaction; it may succeed when repeated."""
    NO_TABLES = auto()
    """It had no effect: the tables do not exist."""
    TOO_LARGE = auto()
    """It had no effect: a value is larger than the server accepts."""


class Cursor(Protocol):
    """As in PEP 249."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, row: Any = None, /) -> object: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """As in PEP 249, in autocommit mode. Does not wait past the thread's deadline."""

    opened_at: float
    """On the monotonic clock."""

    def cursor(self) -> Any: ...
    def close(self) -> None: ...
    def is_stale(self) -> bool:
        """Whether the server has closed it or sent something unasked. Costs no round trip."""
        ...


_LIVE = "(expires_at IS NULL OR expires_at > :now)"


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements, in a server's dialect. Those without a default differ between servers.

    `changes` returns for each record the server's state and its last number, the number of the
    record, and its columns; one row without a record if there is none.
    """

    create: str
    add_member: str
    changes: str
    read: str = f"""
        SELECT value, version, expires_at FROM sealedstate_record
        WHERE place = :place AND {_LIVE}"""
    version: str = f"SELECT version FROM sealedstate_record WHERE place = :place AND {_LIVE}"
    update: str = f"""
        UPDATE sealedstate_record
        SET value = :value, version = :version, expires_at = :expires_at, changed = :changed
        WHERE place = :place AND {_LIVE} AND version BETWEEN :lowest AND :highest"""
    update_expiration: str = f"""
        UPDATE sealedstate_record
        SET expires_at = :expires_at, changes = changes + 1, changed = :changed
        WHERE place = :place AND {_LIVE}"""
    delete: str = f"""
        DELETE FROM sealedstate_record
        WHERE place = :place AND {_LIVE} AND version BETWEEN :lowest AND :highest"""
    touch_context: str = f"""
        UPDATE sealedstate_record SET expires_at = :expires_at, changed = :changed
        WHERE context_place = :context_place AND {_LIVE}"""
    delete_records: str = "DELETE FROM sealedstate_record WHERE context_place = :context_place"
    delete_members: str = "DELETE FROM sealedstate_member WHERE context_place = :context_place"
    keys: str = f"""
        SELECT full_key FROM sealedstate_record WHERE context_place = :context_place AND {_LIVE}
        AND SUBSTRING(full_key, 1, :prefix_bytes) = :prefix"""
    remove_member: str = f"DELETE FROM sealedstate_member WHERE place = :place AND {_LIVE}"
    members: str = f"""
        SELECT full_member, expires_at FROM sealedstate_member
        WHERE index_place = :index_place AND {_LIVE}"""
    ping: str = "SELECT 1 FROM sealedstate_record LIMIT 1"
    schema_version: str = "SELECT MAX(version) FROM sealedstate_schema"
    make_schema: str = """
        CREATE TABLE IF NOT EXISTS sealedstate_schema (version INTEGER NOT NULL PRIMARY KEY)"""
    set_schema_version: str = "INSERT INTO sealedstate_schema (version) VALUES (:schema)"


class Driver(ABC):
    """The database server that a URL names, through its driver, `dbapi`."""

    address: str
    """How messages name the server."""
    errors: ClassVar[tuple[type[Exception], ...]]
    """What the driver raises."""
    migrations: ClassVar[Mapping[int, tuple[str, ...]]]
    """By version of the tables, the statements that lead to it from the version before."""
    number: ClassVar[str] = ":changed"
    """What a write sets `changed` to. The parameter is None unless the record is followed."""
    assumed = Capabilities(
        context_bytes=CONTEXT_BYTES,
        key_bytes=KEY_BYTES,
        value_bytes=VALUE_BYTES,
        shared=True,
        durable=False,
        survives_restart=True,
        evicts=False,
        enumerable=True,
        changes=True,
        assumed=True,
        reasons={"durable": "the server was not reached yet"},
    )
    """What the server can do, until it has been asked."""

    def __init__(self, url: URL, dbapi: object, statements: Statements) -> None:
        dialect_class: Any = url.get_dialect()  # its type does not declare its constructor
        self.dialect: Dialect = dialect_class(dbapi=dbapi, paramstyle="pyformat")
        sql = {one.name: self._compile(getattr(statements, one.name)) for one in fields(statements)}
        self.statements = Statements(**sql)

    def _compile(self, sql: str) -> str:
        """Return a statement with the parameters as the driver writes them.

        SQLAlchemy compiles each once. Executing them through its Connection would cost each call
        more than the round trip to the server.
        """
        sql = sql.replace(":changed", self.number)
        return str(text(sql).compile(dialect=self.dialect))

    @abstractmethod
    def connect(self) -> Connection:
        """Open a connection."""

    @abstractmethod
    def handshake(self, cursor: Cursor) -> Capabilities:
        """Configure a new connection; return what the server can do, by its settings."""

    @abstractmethod
    def fault(self, error: Exception) -> Fault:
        """Return what an error of the driver says about its statement."""

    @abstractmethod
    def message(self, error: Exception) -> str:
        """Return the text of a driver's error."""

    @abstractmethod
    def begin(self, cursor: Cursor, seconds: float) -> None:
        """Begin a transaction in which a statement may take this long."""

    def commit(self, cursor: Cursor) -> None:
        """Commit the transaction."""
        cursor.execute("COMMIT")

    @abstractmethod
    def execute_numbered(self, cursor: Cursor, sql: str, params: Params) -> int:
        """Execute a write of followed records, so that `changes` finds it; return the row count."""

    @abstractmethod
    def changes(self, cursor: Cursor, after: str | None, now: int, limit: int) -> Changes:
        """Return what the contract says."""

    @abstractmethod
    def reap(self, cursor: Cursor, now: int, limit: int) -> int:
        """Remove at most `limit` expired rows that are not locked; return how many."""

    @abstractmethod
    def lock_schema(self, cursor: Cursor) -> None:
        """Keep other nodes from changing the tables until the transaction ends."""

    @abstractmethod
    def convert_tables(self, cursor: Cursor) -> None:
        """Give the tables that exist the engine that durability rests on."""

    @abstractmethod
    def unlock_schema(self, cursor: Cursor) -> None:
        """Release that lock, unless the end of the transaction does."""


T = TypeVar("T")
# Makes the error of a statement whose connection broke, from its message.
_LostError: TypeAlias = Callable[[str], StorageError]

# After these faults a read, and a write, is repeated once.
_READ_RETRIES = frozenset({Fault.LOST, Fault.NO_TABLES})
_WRITE_RETRIES = frozenset({Fault.NO_TABLES})


class _Lease:
    """A connection of the pool in one thread's hands, and its cursor."""

    __slots__ = ("connection", "cursor", "pool", "proxy")

    def __init__(self, pool: QueuePool, proxy: PoolProxiedConnection) -> None:
        self.pool, self.proxy = pool, proxy
        self.connection = cast(Connection, proxy.dbapi_connection)
        self.cursor: Cursor = self.connection.cursor()


class _DeadlinePool(QueuePool):
    """A pool at which a thread waits until its deadline, and not for as long again."""

    @property
    def _timeout(self) -> float:
        return DEADLINE.remaining()

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        """Ignore what the constructor sets."""


class SQLPool:
    """Calls functions with a cursor, on one of at most `pool_size` connections."""

    def __init__(self, driver: Driver, password: str, timeout: float, pool_size: int) -> None:
        self._driver = driver
        self._password = password
        self._timeout = timeout
        self._pool_size = pool_size
        self._pool: QueuePool = _DeadlinePool(
            cast(Any, self._open),  # of PEP 249 the pool needs no more than `Connection` has
            pool_size=pool_size,
            max_overflow=0,
            # Prefer connections for which the server has prepared the statements.
            use_lifo=True,
            # There is no transaction to roll back, which would be a round trip.
            reset_on_return=None,
        )
        self._idle: list[_Lease] = []
        self._lock, self._waiting = ForkSafeLock(), 0
        self._orphans: list[object] = []
        self._pid = os.getpid()
        self._invalid_before = 0.0
        self.capabilities: Capabilities = driver.assumed

    def start(self) -> None:
        """Begin a call: its deadline starts."""
        DEADLINE.start(self._timeout)

    def read(self, act: Callable[[Cursor], T]) -> T:
        """Return the result of `act`, which may run twice."""
        return self._run(act, StorageUnavailable, _READ_RETRIES)

    def write(self, act: Callable[[Cursor], T], version: int | None = None) -> T:
        """Return the result of `act`, which has an effect at most once.

        Raises OutcomeUnknown(version) if the connection breaks.
        """
        return self._run(act, lambda why: OutcomeUnknown(why, version), _WRITE_RETRIES)

    def read_many(self, act: Callable[[Cursor], T]) -> T:
        """Like `read`, but once the server has answered, it may take PATIENCE times as long."""
        return self._run_long(act, StorageUnavailable)

    def transaction(self, act: Callable[[Cursor], T]) -> T:
        """Like `write`, in one transaction, which may take as long as `read_many`."""
        return self._run_long(act, OutcomeUnknown)

    def invalidate_older(self) -> None:
        """Stop using connections that were opened before now."""
        self._invalid_before = monotonic()

    def close(self) -> None:
        self._forget_parent()
        old, self._pool = self._pool, self._pool.recreate()
        while lease := self._pop_idle():
            lease.proxy.close()
        old.dispose()

    # --- one call -------------------------------------------------------------------------------

    def _run(
        self, act: Callable[[Cursor], T], lost_error: _LostError, retries: frozenset[Fault]
    ) -> T:
        while True:
            lease = self._acquire()
            try:
                result = act(lease.cursor)
            except self._driver.errors as error:
                lease.proxy.invalidate()
                fault = self._driver.fault(error)
                self._invalidate_after(fault)
                is_retried = fault is Fault.RETRY or fault in retries
                if not is_retried or not DEADLINE.remaining():
                    raise self._as_storage_error(fault, error, lost_error) from error
                retries -= {fault}
            except BaseException:
                # A reply that is still to come must not answer another call.
                lease.proxy.invalidate()
                raise
            else:
                self._release(lease)
                return result

    def _run_long(self, act: Callable[[Cursor], T], lost_error: _LostError) -> T:
        def run(cursor: Cursor) -> T:
            self._driver.begin(cursor, self._timeout * PATIENCE)
            DEADLINE.start(self._timeout * PATIENCE)
            result = act(cursor)
            try:
                self._driver.commit(cursor)
            except self._driver.errors as error:
                fault = self._driver.fault(error)
                if fault is not Fault.LOST:
                    raise
                self._invalidate_after(fault)
                raise self._as_storage_error(fault, error, lost_error) from error
            return result

        # Before the commit nothing has an effect, so until then it may be repeated like a read.
        return self._run(run, StorageUnavailable, _READ_RETRIES)

    def _invalidate_after(self, fault: Fault) -> None:
        # What broke this connection has broken the others, too; another server, or another
        # database, may be at this address now.
        if fault in (Fault.LOST, Fault.READ_ONLY, Fault.NO_TABLES):
            self.invalidate_older()

    def _as_storage_error(
        self, fault: Fault, error: Exception, lost_error: _LostError
    ) -> StorageError:
        message = self._redact(error)
        if fault is Fault.TOO_LARGE:
            return CapacityError(message)
        return lost_error(message) if fault is Fault.LOST else StorageUnavailable(message)

    def _redact(self, error: Exception) -> str:
        """Return a driver's message without the password, after the server's address."""
        message = " ".join(self._driver.message(error).split())
        if self._password:
            message = message.replace(self._password, "***")
        return f"{self._driver.address}: {message}"

    # --- connections ----------------------------------------------------------------------------

    def _acquire(self) -> _Lease:
        self._forget_parent()
        while True:
            lease = self._pop_idle() or self._check_out()
            connection = lease.connection
            if connection.opened_at > self._invalid_before and not connection.is_stale():
                return lease
            lease.proxy.invalidate()

    def _release(self, lease: _Lease) -> None:
        if lease.pool is not self._pool:
            lease.proxy.invalidate()  # the pool was closed in the meantime
            return
        self._idle.append(lease)
        # Give a connection to the threads that wait at SQLAlchemy's pool.
        if self._waiting and (offered := self._pop_idle()):
            offered.proxy.close()

    def _pop_idle(self) -> _Lease | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _check_out(self) -> _Lease:
        pool = self._pool
        with self._lock:
            self._waiting += 1
        try:
            # A thread that released one before this thread was counted did not offer it.
            return self._pop_idle() or _Lease(pool, pool.connect())
        except PoolExhausted:
            raise StorageUnavailable(
                f"{self._driver.address}: all {self._pool_size} connections are in use"
            ) from None
        except self._driver.errors as error:
            raise StorageUnavailable(self._redact(error)) from error
        finally:
            with self._lock:
                self._waiting -= 1

    def _forget_parent(self) -> None:
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return  # another thread of the child was first
            self._orphans.append((self._pool, self._idle))  # keeps them from being closed
            self._pool, self._idle, self._waiting = self._pool.recreate(), [], 0
            self._pid = os.getpid()

    def _open(self) -> Connection:
        """Open a connection: ask what the server can do, and make missing tables."""
        connection = self._driver.connect()
        try:
            cursor: Cursor = connection.cursor()
            capabilities = self._driver.handshake(cursor)
            try:
                if self._schema_version(cursor) < SCHEMA_VERSION:
                    self._make_tables(cursor)
            except self._driver.errors as error:
                if self._driver.fault(error) is Fault.LOST:
                    raise
                raise StorageUnavailable(
                    f"{self._redact(error)}; the tables are missing, from an older release, of"
                    " another engine or not accessible: run `sealedstate store init` as a user who"
                    " may change them"
                ) from error
            cursor.close()
        except BaseException:
            connection.close()
            raise
        self.capabilities = capabilities
        return connection

    # --- the tables -----------------------------------------------------------------------------

    def _schema_version(self, cursor: Cursor) -> int:
        try:
            cursor.execute(self._driver.statements.schema_version)
        except self._driver.errors as error:
            if self._driver.fault(error) is Fault.NO_TABLES:
                return 0
            raise
        (found,) = cursor.fetchone()
        if found is not None and found > SCHEMA_VERSION:
            raise StorageUnusable(
                f"{self._driver.address}: the tables are of version {found}; this release supports"
                f" {SCHEMA_VERSION}"
            )
        return found or 0

    def _make_tables(self, cursor: Cursor) -> None:
        """Migrate the tables to this release's version, one node at a time."""
        statements = self._driver.statements
        self._driver.begin(cursor, self._timeout * PATIENCE)
        DEADLINE.start(self._timeout * PATIENCE)
        self._driver.lock_schema(cursor)
        cursor.execute(statements.make_schema)
        self._driver.convert_tables(cursor)
        for version in range(self._schema_version(cursor) + 1, SCHEMA_VERSION + 1):
            for statement in self._driver.migrations[version]:
                cursor.execute(statement)
            cursor.execute(statements.set_schema_version, {"schema": version})
        self._driver.unlock_schema(cursor)
        self._driver.commit(cursor)
        DEADLINE.start(self._timeout)
