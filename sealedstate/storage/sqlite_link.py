"""The way to a SQLite file: one connection a process, locks, forks, and the tables' version.

Knows files, journals and how long to wait for a lock. Does not know what the statements say.

The connection stands behind a lock of its process. It is never carried over a fork: the child opens
its own and leaves the parent's alone, for closing it would break the parent's
(sqlite.org/howtocorrupt, section 2.6). The journal is a write-ahead log only where SQLite has the
fix for the WAL-reset bug (3.51.3, 3.50.7 and 3.44.6); older ones keep the rollback journal. Either
way an acknowledged write has been synced.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CapacityError, StorageUnavailable

SCHEMA_VERSION = 2
POLL_SECONDS = 0.001

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sealedstate_record (
    context    BLOB NOT NULL,
    key        BLOB NOT NULL,
    value      BLOB NOT NULL,
    version    INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (context, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sealedstate_record_expiry
    ON sealedstate_record (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS sealedstate_member (
    context    BLOB NOT NULL,
    key        BLOB NOT NULL,
    member     BLOB NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (context, key, member)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sealedstate_member_expiry
    ON sealedstate_member (expires_at) WHERE expires_at IS NOT NULL;
"""


class _Held:
    """The connection in this thread's hands. A generator would cost each call 1.5 µs more."""

    __slots__ = ("_link", "_lock")

    def __init__(self, link: SQLiteLink, lock: threading.Lock) -> None:
        self._link, self._lock = link, lock

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            return self._link.connection()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None:
                self._link.raised(error)
        finally:
            self._lock.release()


class SQLiteLink:
    """The connection to the file at `path`. `timeout`: seconds to wait for a lock.

    Nothing is opened before it is first held.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path.absolute()  # even if the process moves to another directory
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._orphans: list[sqlite3.Connection] = []

    def held(self) -> _Held:
        """The connection, for a `with` block. Raises CapacityError or StorageUnavailable for what
        SQLite raises in it.
        """
        self._forget_the_parents()
        return _Held(self, self._lock)

    def patiently(self, connection: sqlite3.Connection, sql: str, row: Any = ()) -> sqlite3.Cursor:
        """Execute, asking again every millisecond or so while another process holds the lock.

        SQLite's own waiting backs off to 100 ms, so that among busy writers some never get in.
        """
        give_up_at = time.monotonic() + self._timeout
        while True:
            try:
                return connection.execute(sql, row)
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # or a kind of it
                if not busy or time.monotonic() >= give_up_at:
                    raise
                time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """One transaction, synced when the block ends, or undone."""
        self.patiently(connection, "BEGIN IMMEDIATE")
        try:
            yield
            self.patiently(connection, "COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def close(self) -> None:
        """Let go of the connection; the next one who holds it opens another."""
        self._forget_the_parents()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        # Whoever drops a store need not have closed it; the parent's connection is left alone.
        connection = getattr(self, "_connection", None)
        if connection is not None and self._pid == os.getpid():
            connection.close()

    # --- how it comes about ----------------------------------------------------------------------

    def connection(self) -> sqlite3.Connection:
        """For who holds it: the one of this process, opened when there is none."""
        if self._connection is None:
            self._connection = self.open()
        return self._connection

    def raised(self, error: BaseException) -> None:
        """For who holds it: raise what an error of SQLite means to a caller; others go on."""
        if isinstance(error, sqlite3.DataError):
            raise CapacityError(f"sqlite refused a value ({error})") from error
        if isinstance(error, (sqlite3.Error, OSError)):
            self._drop()
            raise StorageUnavailable(f"sqlite store {self._path.name!r}: {error}") from error

    def _forget_the_parents(self) -> None:
        if self._pid == os.getpid():
            return
        # A lock held by another thread during the fork stays locked in the child for ever.
        self._lock = threading.Lock()
        if self._connection is not None:
            self._orphans.append(self._connection)  # kept, so that nothing closes it here
        self._connection, self._pid = None, os.getpid()

    def open(self) -> sqlite3.Connection:
        """Another connection, to tables of this release. Raises StorageUnavailable or what SQLite
        raises.
        """
        connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            # First: the others load what tables there are, and would not see those of a racer.
            self._migrate(connection)
            self._set_journal(connection)
            self.patiently(connection, "PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_journal(self, connection: sqlite3.Connection) -> None:
        mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
        (current,) = self.patiently(connection, "PRAGMA journal_mode").fetchone()
        # Asking again would take an exclusive lock at every start.
        if current.upper() != mode:
            self.patiently(connection, f"PRAGMA journal_mode = {mode}")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (found,) = self.patiently(connection, "PRAGMA user_version").fetchone()
        if found == SCHEMA_VERSION:
            return
        # Another process may be at it, too: nothing that was seen before the lock counts.
        with self.transaction(connection):
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            self._check_whose(connection, found)
            self._path.chmod(0o600)
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            if found != SCHEMA_VERSION:
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check_whose(self, connection: sqlite3.Connection, found: int) -> None:
        if found == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StorageUnavailable(
                f"sqlite store {self._path.name!r} is the database of another application"
            )
        if found > SCHEMA_VERSION:
            raise StorageUnavailable(
                f"sqlite store {self._path.name!r} has schema {found}; this release knows"
                f" {SCHEMA_VERSION}"
            )

    def _drop(self) -> None:
        """Start from a fresh connection next time: the file may have been replaced or repaired."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _roll_back(connection: sqlite3.Connection) -> None:
    # After some errors SQLite has rolled back by itself, and a second ROLLBACK would be an error.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the fix for the WAL-reset bug (sqlite.org, release 3.51.3)."""
    if version >= (3, 51, 3):
        return True
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
