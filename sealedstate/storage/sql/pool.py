"""The way to a database server: a pool of connections, and what becomes of calls that fail.

Knows SQLAlchemy's pool, deadlines, forks, faults and the tables' version. Does not know any server
(a driver does), nor what the statements say.

- A call ends within its deadline. What is late is given up together with its connection, so that no
  late reply can be taken for the answer to another question.
- A connection that the server has ended meanwhile is noticed before it is used, by a look at its
  socket. After one has failed in use, none that is as old is trusted.
- A question is asked once more when its connection breaks. A write never is: its outcome is
  unknown. What the server says that it has rolled back for another's sake is done again.
- A child of a fork leaves its parent's connections alone and opens its own.

SQLAlchemy's pool opens and closes connections, counts them and queues who waits for one. Those in
use by nobody are kept at hand outside it: a visit to the pool would cost a third of a round trip.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeAlias, TypeVar, cast

from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from ..._forks import ForkSafeLock
from ...errors import CapacityError, OutcomeUnknown, StorageError, StorageUnavailable
from ..contract import Capabilities
from .driver import DEADLINE, PATIENCE, SCHEMA_VERSION, Connection, Cursor, Driver, Fault

T = TypeVar("T")
_Told: TypeAlias = Callable[[str], StorageError]

_ASKED = frozenset({Fault.LOST, Fault.NO_TABLES})
_TOLD = frozenset({Fault.NO_TABLES})


class _Held:
    """A connection of the pool in this thread's hands, and its one cursor."""

    __slots__ = ("connection", "cursor", "pool", "proxy")

    def __init__(self, pool: QueuePool, proxy: PoolProxiedConnection) -> None:
        self.pool, self.proxy = pool, proxy
        self.connection = cast(Connection, proxy.dbapi_connection)
        self.cursor: Cursor = self.connection.cursor()


class Link:
    """Runs what is to be done with a cursor on one of at most `pool_size` connections."""

    def __init__(self, driver: Driver, password: str, timeout: float, pool_size: int) -> None:
        self._driver = driver
        self._password = password
        self._timeout = timeout
        self._pool_size = pool_size
        self._pool = QueuePool(
            cast(Any, self._open),  # of PEP 249 the pool needs no more than `Connection` has
            pool_size=pool_size,
            max_overflow=0,
            timeout=timeout,
            # The fewest connections, and those whose statements the server has prepared.
            use_lifo=True,
            # There is no transaction to roll back, which would be a round trip.
            reset_on_return=None,
        )
        self._at_hand: list[_Held] = []
        self._lock, self._waiting = ForkSafeLock(), 0
        self._orphans: list[object] = []
        self._pid = os.getpid()
        self._distrusted_at = 0.0
        self.capabilities: Capabilities = driver.presumed
        self.was_reached = False

    def start(self) -> None:
        """A call begins: from now on it has so many seconds."""
        DEADLINE.start(self._timeout)

    def ask(self, act: Callable[[Cursor], T]) -> T:
        """What `act` returns, which may be done twice."""
        return self._run(act, StorageUnavailable, _ASKED)

    def tell(self, act: Callable[[Cursor], T], version: int | None = None) -> T:
        """What `act` returns, which must not be done twice; `version` is what it writes."""
        return self._run(act, lambda why: OutcomeUnknown(why, version), _TOLD)

    def ask_at_length(self, act: Callable[[Cursor], T]) -> T:
        """The same as `ask`, but once the server has answered at all it may take long."""
        return self._at_length(act, StorageUnavailable)

    def tell_at_length(self, act: Callable[[Cursor], T]) -> T:
        """What `act` returns, as one transaction that may take long once the server answers."""
        return self._at_length(act, OutcomeUnknown)

    def distrust(self) -> None:
        """Use no connection any more that was opened before now."""
        self._distrusted_at = monotonic()

    def close(self) -> None:
        self._forget_the_parents()
        old, self._pool = self._pool, self._pool.recreate()
        while held := self._popped():
            held.proxy.close()
        old.dispose()

    # --- one call -------------------------------------------------------------------------------

    def _run(self, act: Callable[[Cursor], T], when_lost: _Told, once: frozenset[Fault]) -> T:
        """What `act` returns. After the faults in `once` it is done once more."""
        while True:
            held = self._taken()
            try:
                result = act(held.cursor)
            except self._driver.errors as error:
                held.proxy.invalidate()
                fault = self._driver.fault(error)
                self._take_note(fault)
                if not _is_repeated(fault, once):
                    raise self._told(fault, error, when_lost) from error
                once -= {fault}
            except BaseException:
                # Whatever came in between: a reply that is still on its way must find nobody.
                held.proxy.invalidate()
                raise
            else:
                self._put_back(held)
                return result

    def _at_length(self, act: Callable[[Cursor], T], when_lost: _Told) -> T:
        def whole(cursor: Cursor) -> T:
            self._driver.begin(cursor, self._timeout * PATIENCE)
            DEADLINE.start(self._timeout * PATIENCE)
            result = act(cursor)
            self._commit(cursor, when_lost)
            return result

        # Until it is committed nothing is done, and so nothing can be done twice.
        return self._run(whole, StorageUnavailable, _ASKED)

    def _commit(self, cursor: Cursor, when_lost: _Told) -> None:
        try:
            self._driver.commit(cursor)
        except self._driver.errors as error:
            fault = self._driver.fault(error)
            if fault is not Fault.LOST:
                raise
            self._take_note(fault)
            raise self._told(fault, error, when_lost) from error

    def _take_note(self, fault: Fault) -> None:
        # What broke this connection has broken the others; another server may stand there now, or
        # another database.
        if fault in (Fault.LOST, Fault.READ_ONLY, Fault.NO_TABLES):
            self.distrust()

    def _told(self, fault: Fault, error: Exception, when_lost: _Told) -> StorageError:
        if fault is Fault.TOO_LARGE:
            return CapacityError(self._said(error))
        return (when_lost if fault is Fault.LOST else StorageUnavailable)(self._said(error))

    def _said(self, error: Exception) -> str:
        message = " ".join(self._driver.message(error).split())
        if self._password:
            message = message.replace(self._password, "***")
        return f"{self._driver.where}: {message}"

    # --- connections ----------------------------------------------------------------------------

    def _taken(self) -> _Held:
        self._forget_the_parents()
        while True:
            held = self._popped() or self._from_the_pool()
            if held.connection.opened_at > self._distrusted_at and not held.connection.is_stale():
                return held
            held.proxy.invalidate()

    def _put_back(self, held: _Held) -> None:
        if held.pool is not self._pool:
            held.proxy.invalidate()  # the link was closed in the meantime
            return
        self._at_hand.append(held)
        # Give one to those who wait at the pool.
        if self._waiting and (offered := self._popped()):
            offered.proxy.close()

    def _popped(self) -> _Held | None:
        try:
            return self._at_hand.pop()
        except IndexError:
            return None

    def _from_the_pool(self) -> _Held:
        pool = self._pool
        with self._lock:
            self._waiting += 1
        try:
            # Who put one back before this thread was counted did not offer it.
            return self._popped() or _Held(pool, self._connected(pool))
        finally:
            with self._lock:
                self._waiting -= 1

    def _connected(self, pool: QueuePool) -> PoolProxiedConnection:
        try:
            return pool.connect()
        except PoolExhausted:
            raise StorageUnavailable(
                f"{self._driver.where}: all {self._pool_size} connections are in use"
            ) from None
        except self._driver.errors as error:
            raise StorageUnavailable(self._said(error)) from error

    def _forget_the_parents(self) -> None:
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return  # another thread did it
            # What the parent has is kept, so that nothing closes it here.
            self._orphans.append((self._pool, self._at_hand))
            self._pool, self._at_hand, self._waiting = self._pool.recreate(), [], 0
            self._pid = os.getpid()

    def _open(self) -> Connection:
        connection = self._driver.connect()
        try:
            self._greet(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    # --- the tables -----------------------------------------------------------------------------

    def _greet(self, connection: Connection) -> None:
        """Ask what the server can do, and make the tables if they are not there."""
        cursor: Cursor = connection.cursor()
        capabilities = self._driver.greet(cursor)
        self._look_at_the_tables(cursor)
        cursor.close()
        self.capabilities, self.was_reached = capabilities, True

    def _look_at_the_tables(self, cursor: Cursor) -> None:
        try:
            if self._schema_version(cursor) < SCHEMA_VERSION:
                self._make_tables(cursor)
        except self._driver.errors as error:
            if self._driver.fault(error) is Fault.LOST:
                raise
            raise StorageUnavailable(
                f"{self._said(error)}; the tables are missing, of an older release or not for this"
                " user: somebody who may change them calls `sealedstate store init`"
            ) from error

    def _schema_version(self, cursor: Cursor) -> int:
        try:
            cursor.execute(self._driver.statements.schema_version)
        except self._driver.errors as error:
            if self._driver.fault(error) is Fault.NO_TABLES:
                return 0
            raise
        (found,) = cursor.fetchone()
        if found is not None and found > SCHEMA_VERSION:
            raise StorageUnavailable(
                f"{self._driver.where}: the tables are of version {found};"
                f" this release knows {SCHEMA_VERSION}"
            )
        return found or 0

    def _make_tables(self, cursor: Cursor) -> None:
        """Bring the tables to this release's version, one node at a time."""
        statements = self._driver.statements
        self._driver.begin(cursor, self._timeout * PATIENCE)
        DEADLINE.start(self._timeout * PATIENCE)
        self._driver.lock_schema(cursor)
        cursor.execute(statements.make_schema)
        for version in range(self._schema_version(cursor) + 1, SCHEMA_VERSION + 1):
            for statement in self._driver.migrations[version]:
                cursor.execute(statement)
            cursor.execute(statements.set_schema_version, {"schema": version})
        self._driver.unlock_schema(cursor)
        self._driver.commit(cursor)
        DEADLINE.start(self._timeout)


def _is_repeated(fault: Fault, once: frozenset[Fault]) -> bool:
    return (fault is Fault.AGAIN or fault in once) and DEADLINE.left() > 0
