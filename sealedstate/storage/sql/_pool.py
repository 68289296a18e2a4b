"""Connections to a database server: what a driver owes, its pool, and what a failed call means.

Names in the tables: `place`, the primary key, is the digest of a record's or a member's whole name,
because no server indexes names of several kilobytes, and because bytes are compared without case,
collation or trailing blanks. The columns `full_...` hold what the digest was made of.

- A call ends within its deadline. A late call is given up together with its connection, so that its
  reply cannot answer another call.
- Every statement carries a random number, which the server returns with the answer. An answer
  without it belongs to another statement, as when a proxy exchanges or repeats replies, and is
  treated like a connection that broke. Only a server's error has no number: it never makes a read
  or a write succeed.
- A connection that the server has closed, or that has received something unasked, is noticed before
  it is used. If one has broken in use, no connection that is as old is used again.
- A read is repeated once if its connection breaks. A write is not: its outcome is unknown. If the
  server has rolled a statement back because of another transaction, the statement is repeated.
- Threads that wait for a connection get one in the order in which they came.
- A forked child leaves its parent's connections alone and opens new ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum, auto
from time import monotonic
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from ..._forks import ForkSafeLock
from ...errors import (
    CapacityError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    StorageUnusable,
)
from ..contract import FOLLOWED, Capabilities, Changes, Listener, Stored, context_digest

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


def wait_for(fd: int, is_reading: bool, is_writing: bool, seconds: float) -> tuple[bool, bool]:
    """Wait until a descriptor can be read or written; return which. Both False: not in time.

    An error, or the end of the connection, is read like an answer.
    """
    if not hasattr(select, "poll"):  # on Windows, or where eventlet has replaced it
        wanted = [fd] if is_reading else [], [fd] if is_writing else []
        readable, writable, broken = select.select(*wanted, [fd], seconds)
        return bool(readable or broken), bool(writable)
    poll = select.poll()
    poll.register(fd, (select.POLLIN if is_reading else 0) | (select.POLLOUT if is_writing else 0))
    events = sum(event for _, event in poll.poll(seconds * 1000))
    return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)


def watch(fd: int) -> Callable[[float], bool]:
    """Return a function that waits some seconds for an answer, and returns whether it is there.

    It is faster than `wait_for`, and usable until the descriptor is closed.
    """
    if not hasattr(select, "poll"):
        return lambda seconds: any(wait_for(fd, True, False, seconds))
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return lambda seconds: bool(poll.poll(seconds * 1000))


def new_echo() -> int:
    """Return the random number that a statement carries and its answer must repeat.

    It needs 63 bits, so that every number has the same type for a server.
    """
    return 1 << 62 | random.getrandbits(62)


class Misdirected(Exception):
    """The answer to another statement arrived."""

    def __init__(self) -> None:
        super().__init__("an answer belongs to another question; is a proxy or pooler between?")


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
    record, and its columns; one row without a record if there is none. `notify`: "" without hints.
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
    # A server that takes no writes refuses it, although there is nothing to delete.
    try_write: str = "DELETE FROM sealedstate_record WHERE 1 = 0"
    make_schema: str = """
        CREATE TABLE IF NOT EXISTS sealedstate_schema (version INTEGER NOT NULL PRIMARY KEY)"""
    notify: str = ""
    set_schema_version: str = "INSERT INTO sealedstate_schema (version) VALUES (:schema)"


class Driver(ABC):
    """The database servers that a URL names, through their driver."""

    address: str
    """How messages name the servers."""
    hosts: Sequence[str] = ("",)
    """Each server, as messages about several of them name it."""
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

    def __init__(self, statements: Statements, form: Callable[[str], str] | None = None) -> None:
        form = form or pyformat
        sql = {one.name: getattr(statements, one.name) for one in fields(statements)}
        self.statements = Statements(
            **{name: form(one.replace(":changed", self.number)) for name, one in sql.items()}
        )

    @abstractmethod
    def connect(self, host: int) -> Connection:
        """Open a connection to one of `hosts`."""

    @abstractmethod
    def handshake(self, cursor: Any) -> Capabilities:
        """Configure a new connection; return what the server can do, by its settings."""

    @abstractmethod
    def fault(self, error: Exception) -> Fault:
        """Return what an error says about its statement. One of Python's own is LOST."""

    @abstractmethod
    def message(self, error: Exception) -> str:
        """Return the text of a driver's error."""

    @abstractmethod
    def query(self, cursor: Any, sql: str, params: Params) -> list[tuple[Any, ...]]:
        """Return the rows that a query finds. Its first column must not be null.

        Raises Misdirected if the answer belongs to another statement, as `change` does.
        """

    def read(self, cursor: Any, place: bytes, now: int) -> Stored | None:
        """Return the record at a place if it is live at `now`."""
        rows = self.query(cursor, self.statements.read, {"place": place, "now": now})
        return Stored(*rows[0]) if rows else None

    @abstractmethod
    def change(self, cursor: Any, sql: str, params: Params) -> int:
        """Return how many rows a statement has changed."""

    @abstractmethod
    def change_numbered(self, cursor: Any, sql: str, params: Params) -> int:
        """Like `change`, for followed records, so that `changes` finds them."""

    @abstractmethod
    def changes(self, cursor: Any, after: str | None, now: int, limit: int) -> Changes:
        """Return what the contract says."""

    def listen(self, host: int) -> Listener | None:
        """Open a connection to one of `hosts` for hints; None if such servers send none."""
        return None

    @abstractmethod
    def begin(self, cursor: Any, seconds: float) -> None:
        """Begin a transaction in which a statement may take this long."""

    @abstractmethod
    def commit(self, cursor: Any) -> None:
        """Commit the transaction. Raises Misdirected like `query`."""

    @abstractmethod
    def reap(self, cursor: Any, now: int, limit: int) -> int:
        """Remove at most `limit` expired rows that are not locked; return how many."""

    @abstractmethod
    def lock_schema(self, cursor: Any) -> None:
        """Keep other nodes from changing the tables until the transaction ends."""

    @abstractmethod
    def convert_tables(self, cursor: Any) -> None:
        """Give the tables that exist the engine that durability rests on."""

    @abstractmethod
    def unlock_schema(self, cursor: Any) -> None:
        """Release that lock, unless the end of the transaction does."""


_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")


def pyformat(sql: str) -> str:
    """Return a statement with its parameters as the drivers write them."""
    return _PARAMETER.sub(r"%(\1)s", sql)


T = TypeVar("T")
# Makes the error of a statement whose connection broke, from its message.
_LostError: TypeAlias = Callable[[str], StorageError]

# After these faults a read, and a write, is repeated once.
_READ_RETRIES = frozenset({Fault.LOST, Fault.NO_TABLES})
_WRITE_RETRIES = frozenset({Fault.NO_TABLES})


class Lease:
    """A connection in one thread's hands, and its cursor."""

    __slots__ = ("_driver", "connection", "cursor", "host", "idle_since", "places")

    def __init__(self, driver: Driver, places: _Places, connection: Connection, host: int) -> None:
        self._driver, self.places = driver, places
        self.connection, self.host = connection, host
        self.cursor = connection.cursor()
        self.idle_since = 0.0

    def query(self, sql: str, params: Params) -> list[tuple[Any, ...]]:
        """Return the rows that a query finds."""
        return self._driver.query(self.cursor, sql, params)

    def change(self, sql: str, params: Params) -> int:
        """Return how many rows a statement has changed."""
        return self._driver.change(self.cursor, sql, params)

    def close(self) -> None:
        # What a driver raises for a connection that is broken does not matter.
        with contextlib.suppress(Exception):
            self.connection.close()


class _Places:
    """At most `size` connections of one process, for threads in the order in which they come.

    A thread has a place while it has a connection or opens one. It leaves the place, with the
    connection if that is intact, to the thread that has waited longest.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = ForkSafeLock()
        self._idle: list[Lease] = []
        self._used = 0
        self._is_closed = False
        self._waiting: deque[_Waiter] = deque()

    def acquire(self) -> Lease | None:
        """Return an idle connection, or None: the caller has a place and must open one.

        Raises TimeoutError at the thread's deadline.
        """
        with self._lock:
            # A thread that comes while others wait must not overtake them.
            if not self._waiting:
                # The connection that was used last: the server has prepared its statements.
                if self._idle:
                    self._used += 1
                    return self._idle.pop()
                if self._used < self._size:
                    self._used += 1
                    return None
            waiter = _Waiter()
            self._waiting.append(waiter)
        try:
            waiter.wakes.acquire(timeout=DEADLINE.remaining())
        except BaseException:
            if not self._give_up(waiter):
                self.release(waiter.lease)
            raise
        if self._give_up(waiter):  # the time is over
            raise TimeoutError
        return waiter.lease

    def _give_up(self, waiter: _Waiter) -> bool:
        """Stop waiting. False if the waiter has got a place."""
        with self._lock:
            if waiter not in self._waiting:
                return False
            self._waiting.remove(waiter)
            return True

    def release(self, lease: Lease | None) -> None:
        """Leave the place, and the connection in it, if there is one, to the next thread."""
        with self._lock:
            if self._waiting:
                waiter = self._waiting.popleft()
                waiter.lease = lease
                waiter.wakes.release()
                return
            self._used -= 1
            if lease is not None and not self._is_closed:
                self._idle.append(lease)
                return
        if lease is not None:
            lease.close()

    def close(self) -> None:
        """Close the idle connections now, and those in use when their thread releases them."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._is_closed = True
        for lease in idle:
            lease.close()


class _Waiter:
    """A thread that waits for a place."""

    __slots__ = ("lease", "wakes")

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.wakes = ForkSafeLock()
        self.wakes.acquire()


class SQLPool:
    """Calls functions with a connection, one of at most `pool_size`.

    `max_idle`: a connection that was idle for more seconds is not used again.
    """

    def __init__(
        self, driver: Driver, password: str, timeout: float, pool_size: int, max_idle: float
    ) -> None:
        self._driver = driver
        self._password = password
        self._timeout = timeout
        self._pool_size = pool_size
        self._max_idle = max_idle
        self._places = _Places(pool_size)
        self._lock = ForkSafeLock()
        self._orphans: list[object] = []
        self._pid = os.getpid()
        self._invalid_before = 0.0
        # The host that answered last, which is asked first.
        self._host = 0
        self.capabilities: Capabilities = driver.assumed
        self.refusal = ""
        """Why the server that was reached last takes no writes."""

    def start(self) -> None:
        """Begin a call: its deadline starts."""
        DEADLINE.start(self._timeout)

    def read(self, act: Callable[[Lease], T]) -> T:
        """Return the result of `act`, which may run twice."""
        return self._run(act, StorageUnavailable, _READ_RETRIES)

    def write(self, act: Callable[[Lease], T], version: int | None = None) -> T:
        """Return the result of `act`, which has an effect at most once.

        Raises OutcomeUnknown(version) if the connection breaks.
        """
        retries = _WRITE_RETRIES
        if len(self._driver.hosts) > 1:
            retries |= {Fault.READ_ONLY}  # another host may be the primary now
        return self._run(act, lambda why: OutcomeUnknown(why, version), retries)

    def read_many(self, act: Callable[[Lease], T]) -> T:
        """Like `read`, but once the server has answered, it may take PATIENCE times as long."""
        return self._run_long(act, StorageUnavailable)

    def transaction(self, act: Callable[[Lease], T]) -> T:
        """Like `write`, in one transaction, which may take as long as `read_many`."""
        return self._run_long(act, OutcomeUnknown)

    def listen(self) -> Listener | None:
        """Open a connection for hints, which is none of the pool's; None if there are no hints."""
        try:
            return self._driver.listen(self._host)
        except StorageError:
            raise
        except Exception as error:
            raise StorageUnavailable(self._redact(error)) from error

    def invalidate_older(self) -> None:
        """Stop using connections that were opened before now."""
        self._invalid_before = monotonic()

    def close(self) -> None:
        self._forget_parent()
        old, self._places = self._places, _Places(self._pool_size)
        old.close()

    # --- one call -------------------------------------------------------------------------------

    def _run(
        self, act: Callable[[Lease], T], lost_error: _LostError, retries: frozenset[Fault]
    ) -> T:
        while True:
            lease = self._acquire()
            try:
                result = act(lease)
            except StorageError:
                self._discard(lease)
                raise
            except Exception as error:
                self._discard(lease)
                fault = self._driver.fault(error)
                self._invalidate_after(fault, lease.host)
                is_retried = fault is Fault.RETRY or fault in retries
                if not is_retried or not DEADLINE.remaining():
                    raise self._as_storage_error(fault, error, lost_error) from error
                retries -= {fault}
            except BaseException:
                # A reply that is still to come must not answer another call.
                self._discard(lease)
                raise
            else:
                self._release(lease)
                return result

    def _run_long(self, act: Callable[[Lease], T], lost_error: _LostError) -> T:
        def run(lease: Lease) -> T:
            self._driver.begin(lease.cursor, self._timeout * PATIENCE)
            DEADLINE.start(self._timeout * PATIENCE)
            result = act(lease)
            try:
                self._driver.commit(lease.cursor)
            except Exception as error:
                fault = self._driver.fault(error)
                if fault is not Fault.LOST:
                    raise
                self._invalidate_after(fault, lease.host)
                raise self._as_storage_error(fault, error, lost_error) from error
            return result

        # Before the commit nothing has an effect, so until then it may be repeated like a read.
        return self._run(run, StorageUnavailable, _READ_RETRIES)

    def _invalidate_after(self, fault: Fault, host: int) -> None:
        # What broke this connection has broken the others, too; another server, or another
        # database, may be at this address now.
        if fault in (Fault.LOST, Fault.READ_ONLY, Fault.NO_TABLES):
            self.invalidate_older()
            if fault is not Fault.NO_TABLES and self._host == host:
                self._host = (host + 1) % len(self._driver.hosts)

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

    def _acquire(self) -> Lease:
        self._forget_parent()
        places = self._places
        try:
            lease = places.acquire()
        except TimeoutError:
            raise StorageUnavailable(
                f"{self._driver.address}: all {self._pool_size} connections are in use"
            ) from None
        if lease is not None:
            if (
                lease.connection.opened_at > self._invalid_before
                and monotonic() - lease.idle_since <= self._max_idle
                and not lease.connection.is_stale()
            ):
                return lease
            lease.close()
        try:
            return self._open(places)
        except BaseException:
            places.release(None)
            raise

    def _release(self, lease: Lease) -> None:
        lease.idle_since = monotonic()
        lease.places.release(lease)

    def _discard(self, lease: Lease) -> None:
        lease.close()
        lease.places.release(None)

    def _forget_parent(self) -> None:
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return  # another thread of the child was first
            self._orphans.append(self._places)  # keeps its connections from being closed
            self._places = _Places(self._pool_size)
            self._pid = os.getpid()

    def _open(self, places: _Places) -> Lease:
        """Open a connection to the host that answered last, or else to the next that answers.

        A host that does not answer costs its share of the time that is left.
        """
        hosts, problems = self._driver.hosts, []
        first, end = self._host, DEADLINE.at
        for tried in range(len(hosts)):
            host = (first + tried) % len(hosts)
            DEADLINE.at = monotonic() + (end - monotonic()) / (len(hosts) - tried)
            try:
                lease = self._open_at(places, host)
            except StorageUnusable:
                raise
            except StorageUnavailable as error:
                problems.append(error)
                DEADLINE.at = end
            else:
                self._host = host
                # To make the tables, it may have got more time.
                DEADLINE.at = max(DEADLINE.at, end)
                return lease
        if len(hosts) == 1:
            raise problems[0]
        prefix = f"{self._driver.address}: "
        reasons = [str(problem).removeprefix(prefix) for problem in problems]
        order = [hosts[(first + tried) % len(hosts)] for tried in range(len(hosts))]
        texts = [f"{host}: {reason}" for host, reason in zip(order, reasons, strict=True)]
        raise StorageUnavailable(f"{prefix}{'; '.join(texts)}") from problems[-1]

    def _open_at(self, places: _Places, host: int) -> Lease:
        """Open a connection to a host."""
        try:
            connection = self._driver.connect(host)
        except Exception as error:
            raise StorageUnavailable(self._redact(error)) from error
        try:
            lease = Lease(self._driver, places, connection, host)
            self._greet(lease)
        except StorageError:
            connection.close()
            raise
        except Exception as error:
            connection.close()
            raise StorageUnavailable(self._redact(error)) from error
        except BaseException:
            connection.close()
            raise
        return lease

    def _greet(self, lease: Lease) -> None:
        """Ask over a new connection what the server can do, and make missing tables."""
        capabilities = self._driver.handshake(lease.cursor)
        with self._explained():
            if self._schema_version(lease) < SCHEMA_VERSION:
                self._make_tables(lease)
        refusal = self._try_write(lease)
        if refusal and len(self._driver.hosts) > 1:
            raise StorageUnavailable(refusal)
        self.capabilities, self.refusal = capabilities, refusal

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Add to an error about the tables what is to do."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            if self._driver.fault(error) is Fault.LOST:
                raise
            raise StorageUnavailable(
                f"{self._redact(error)}; the tables are missing, from an older release, of"
                " another engine or not accessible: run `sealedstate store init` as a user who"
                " may change them"
            ) from error

    def _try_write(self, lease: Lease) -> str:
        """Return why the server takes no writes, or nothing."""
        try:
            lease.change(self._driver.statements.try_write, {})
        except Exception as error:
            fault = self._driver.fault(error)
            if fault is Fault.READ_ONLY:
                return (
                    f"{self._redact(error)}: the server or this user may only read; name the"
                    " primary, and a user who may write"
                )
            if fault is Fault.LOST:
                raise
        return ""  # a right that is missing is reported by the operation that needs it

    # --- the tables -----------------------------------------------------------------------------

    def _schema_version(self, lease: Lease) -> int:
        try:
            rows = lease.query(self._driver.statements.schema_version, {})
        except Exception as error:
            if self._driver.fault(error) is Fault.NO_TABLES:
                return 0
            raise
        found: int = (rows[0][0] if rows else None) or 0
        if found > SCHEMA_VERSION:
            raise StorageUnusable(
                f"{self._driver.address}: the tables are of version {found}; this release supports"
                f" {SCHEMA_VERSION}"
            )
        return found

    def _make_tables(self, lease: Lease) -> None:
        """Migrate the tables to this release's version, one node at a time."""
        statements, cursor = self._driver.statements, lease.cursor
        self._driver.begin(cursor, self._timeout * PATIENCE)
        DEADLINE.start(self._timeout * PATIENCE)
        self._driver.lock_schema(cursor)
        cursor.execute(statements.make_schema)
        self._driver.convert_tables(cursor)
        for version in range(self._schema_version(lease) + 1, SCHEMA_VERSION + 1):
            for statement in self._driver.migrations[version]:
                cursor.execute(statement)
            cursor.execute(statements.set_schema_version, {"schema": version})
        self._driver.unlock_schema(cursor)
        self._driver.commit(cursor)
        DEADLINE.start(self._timeout)
