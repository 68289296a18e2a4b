"""A storage service in one SQLite file: the embedded default, for the processes of one machine.

Knows SQL. Does not know what is stored, nor locks, forks and journals: `sqlite_link` does. Of the
standard library alone.

Expired rows are removed a few at a time by the writes themselves.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from .._forks import ForkSafeLock
from ..errors import CapacityError, ConfigurationError, StorageUnavailable, VersionMismatch
from .contract import (
    UNCHANGED,
    Capabilities,
    Clock,
    Stored,
    Unchanged,
    check_range,
    check_size,
    millis,
    utf8,
)

# FOLD sealedstate.storage.sqlite_link
# The way to a SQLite file: one connection a process, locks, forks, and the tables' version.
#
# Knows files, journals and how long to wait for a lock. Does not know what the statements say.
#
# The connection stands behind a lock of its process. It is never carried over a fork: the child
# opens
# its own and leaves the parent's alone, for closing it would break the parent's
# (sqlite.org/howtocorrupt, section 2.6). The journal is a write-ahead log only where SQLite has the
# fix for the WAL-reset bug (3.51.3, 3.50.7 and 3.44.6); older ones keep the rollback journal.
# Either
# way an acknowledged write has been synced.


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

    def __init__(self, link: SQLiteLink, lock: ForkSafeLock) -> None:
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
        self._lock = ForkSafeLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._orphans: list[sqlite3.Connection] = []

    def held(self) -> _Held:
        """The connection, for a `with` block. Raises CapacityError or StorageUnavailable for what
        SQLite raises in it.
        """
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
        with self._lock:
            self._forget_the_parents()
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
        self._forget_the_parents()
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
        """For who holds it."""
        if self._pid == os.getpid():
            return
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


# Every so many writes, at most so many expired rows are removed: a bounded price, and the table
# can't grow for ever even if nobody calls reap().
REAP_EVERY = 32
REAP_LIMIT = 128

_ONE = "context = :context AND key = :key"
_LIVE = "(expires_at IS NULL OR expires_at > :now)"
# By position, and put together once: to bind by names costs a tenth of what reading takes.
_READ = """
    SELECT value, version, expires_at FROM sealedstate_record
    WHERE context = ? AND key = ? AND (expires_at IS NULL OR expires_at > ?)"""


class SQLiteStorage:
    """Records in the SQLite file at `path`. `timeout`: seconds to wait for a lock.

    Nothing is opened before the first operation; a file that is no database of ours makes each of
    them raise StorageUnavailable.
    """

    capabilities = Capabilities(
        context_bytes=1 << 16,
        key_bytes=1 << 16,
        value_bytes=1 << 26,
        shared=True,
        durable=True,
        survives_restart=True,
        evicts=False,
        enumerable=True,
    )

    def __init__(self, path: str | Path, clock: Clock, timeout: float = 2.0) -> None:
        if str(path) == ":memory:":
            raise ConfigurationError("storage: use memory: for a store in memory")
        self._link = SQLiteLink(Path(path), timeout)
        self._clock = clock
        self._writes = 0

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        row = self._row(context, key, value, expires_at=expires_at, version=version)
        sql = f"""
            INSERT INTO sealedstate_record (context, key, value, version, expires_at)
            VALUES (:context, :key, :value, :version, :expires_at)
            ON CONFLICT (context, key) DO UPDATE SET value = excluded.value,
                version = excluded.version, expires_at = excluded.expires_at
            WHERE NOT {_LIVE}"""
        return self._write(sql, row) == 1

    def read(self, context: str, key: str) -> Stored | None:
        check_size(self.capabilities, context, key)
        row = (context.encode(), key.encode(), millis(self._clock()))
        with self._link.held() as connection:
            found = self._link.patiently(connection, _READ, row).fetchone()
        return None if found is None else Stored(*found)

    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        stored = self.read(context, key)
        return UNCHANGED if stored is not None and stored.version == version else stored

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        row = self._row(
            context, key, value, expires_at=expires_at, version=version, expected=expected
        )
        sql = f"""
            UPDATE sealedstate_record
            SET value = :value, version = :version, expires_at = :expires_at
            WHERE {_ONE} AND {_LIVE} AND version < :version
            AND (:expected IS NULL OR version = :expected)"""
        return self._write(sql, row, checked=True) == 1

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        row = self._row(context, key, expires_at=expires_at)
        sql = f"UPDATE sealedstate_record SET expires_at = :expires_at WHERE {_ONE} AND {_LIVE}"
        return self._write(sql, row) == 1

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        row = self._row(context, key, expected=expected)
        sql = f"""
            DELETE FROM sealedstate_record
            WHERE {_ONE} AND {_LIVE} AND (:expected IS NULL OR version = :expected)"""
        return self._write(sql, row, checked=True) == 1

    def touch_context(self, context: str, expires_at: int | None) -> None:
        row = self._row(context, "any", expires_at=expires_at)
        self._write(
            "UPDATE sealedstate_record SET expires_at = :expires_at"
            f" WHERE context = :context AND {_LIVE}",
            row,
        )

    def delete_context(self, context: str) -> None:
        row = self._row(context, "any")
        with self._link.held() as connection, self._link.transaction(connection):
            connection.execute("DELETE FROM sealedstate_record WHERE context = :context", row)
            connection.execute("DELETE FROM sealedstate_member WHERE context = :context", row)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        row = self._row(context, "any")
        sql = f"SELECT key FROM sealedstate_record WHERE context = :context AND {_LIVE}"
        with self._link.held() as connection:
            found = [key.decode() for (key,) in self._link.patiently(connection, sql, row)]
        return iter([key for key in found if key.startswith(prefix)])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        row = self._row(context, key, utf8(member), expires_at=expires_at)
        sql = """
            INSERT INTO sealedstate_member (context, key, member, expires_at)
            VALUES (:context, :key, :value, :expires_at)
            ON CONFLICT (context, key, member) DO UPDATE SET expires_at = excluded.expires_at"""
        self._write(sql, row)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        row = self._row(context, key, utf8(member))
        sql = f"DELETE FROM sealedstate_member WHERE {_ONE} AND member = :value AND {_LIVE}"
        return self._write(sql, row) == 1

    def members(self, context: str, key: str) -> dict[str, int | None]:
        row = self._row(context, key)
        sql = f"SELECT member, expires_at FROM sealedstate_member WHERE {_ONE} AND {_LIVE}"
        with self._link.held() as connection:
            rows = self._link.patiently(connection, sql, row)
            return {member.decode(): at for member, at in rows}

    def prepare(self) -> None:
        self.ping()

    def ping(self) -> None:
        with self._link.held() as connection:
            self._link.patiently(connection, "SELECT 1 FROM sealedstate_record LIMIT 1").fetchone()

    def reap(self, limit: int) -> int:
        with self._link.held() as connection:
            now = millis(self._clock())
            with self._link.transaction(connection):
                return _reap(connection, now, limit)

    def close(self) -> None:
        self._link.close()

    # --- one statement --------------------------------------------------------------------------

    def _row(
        self, context: str, key: str, value: bytes = b"", **more: int | None
    ) -> dict[str, Any]:
        check_size(self.capabilities, context, key, value)
        check_range(more.get("expires_at"), more.get("version"), more.get("expected"))
        # Keys are BLOBs: compared byte by byte, with any character and without collation.
        return {
            "context": context.encode(),
            "key": key.encode(),
            "value": value,
            "now": millis(self._clock()),
            **more,
        }

    def _write(self, sql: str, row: dict[str, Any], checked: bool = False) -> int:
        """Run one atomic statement; how many rows it changed. `checked`: tell why it was none."""
        with self._link.held() as connection, self._link.transaction(connection):
            changed = connection.execute(sql, row).rowcount
            current = self._current(connection, row) if checked and not changed else None
            self._writes += 1
            if self._writes % REAP_EVERY == 0:
                _reap(connection, row["now"], REAP_LIMIT)
        if current is not None:
            raise VersionMismatch(current)
        return changed

    def _current(self, connection: sqlite3.Connection, row: dict[str, Any]) -> int | None:
        sql = f"SELECT version FROM sealedstate_record WHERE {_ONE} AND {_LIVE}"
        found = connection.execute(sql, row).fetchone()
        return None if found is None else int(found[0])


def _reap(connection: sqlite3.Connection, now: int, limit: int) -> int:
    removed = 0
    for table, columns in (("record", "context, key"), ("member", "context, key, member")):
        sql = f"""
            DELETE FROM sealedstate_{table} WHERE ({columns}) IN (
                SELECT {columns} FROM sealedstate_{table}
                WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit)"""
        removed += connection.execute(sql, {"now": now, "limit": limit - removed}).rowcount
    return removed
