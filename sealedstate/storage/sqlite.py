"""A store in one SQLite file, shared by the processes of one machine: `SQLiteStorage`.

Needs the standard library only. Each write also removes a few expired rows from time to time.

A process has one connection, used by one thread at a time. A fork waits for the call under way and
closes the connection first; parent and child open one when they next need it. SQLite remembers in
the memory of a process which locks of a file it has, and a child inherits the memory and not the
locks (sqlite.org/howtocorrupt.html, section 2.6): a child that was forked during a transaction can
never write, and a write-ahead log that a child took over is overwritten by others after the parent
has closed it.

The journal is a write-ahead log only if this SQLite contains the fix for the WAL-reset bug (3.51.3,
3.50.7 and 3.44.6), else a rollback journal. With both, an acknowledged write has been synced.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._forks import ForkHeldLock
from ..errors import (
    CapacityError,
    ConfigurationError,
    StorageUnavailable,
    StorageUnusable,
    VersionMismatch,
    escape_text,
    quote_text,
)
from .contract import (
    FOLLOWED,
    Capabilities,
    Changes,
    Clock,
    Stored,
    check_arguments,
    millis,
    reap_time,
    utf8,
)

__all__ = ["SQLiteStorage", "wal_is_safe"]

SCHEMA_VERSION = 3
POLL_SECONDS = 0.001
# After this many writes, at most this many expired rows are removed: a bounded price for a write,
# and the tables stay small even if no caller reaps.
REAP_EVERY = 32
REAP_LIMIT = 128
# Reads look this often whether the open file is still at the path; writes always do.
LOOK_SECONDS = 1.0
# How SQLite says that a file is no database, or a damaged one.
_NOT_OURS = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

# The number of writes begins again here.
_WRITES_END = 1 << 32

_log = logging.getLogger("sealedstate")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sealedstate_record (
    context    BLOB NOT NULL,
    key        BLOB NOT NULL,
    value      BLOB NOT NULL,
    version    INTEGER NOT NULL,
    expires_at INTEGER,
    changed    INTEGER,
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
CREATE TABLE IF NOT EXISTS sealedstate_feed (
    number      INTEGER NOT NULL,
    incarnation TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sealedstate_record_changed
    ON sealedstate_record (changed) WHERE changed IS NOT NULL;
"""
# Up to schema 2, no writes were numbered.
_FOLLOWED_NAMES = ", ".join(f"x'{context.encode().hex()}'" for context in sorted(FOLLOWED))
_NUMBER_ALL = f"""
    UPDATE sealedstate_record SET changed = 1
    WHERE context IN ({_FOLLOWED_NAMES})"""
_CHANGES = """
    SELECT feed.incarnation, feed.number, changed, context, key, value, version, expires_at
    FROM sealedstate_feed AS feed LEFT JOIN sealedstate_record ON changed IS NOT NULL
        AND (changed, context, key) > (:number, :context, :key)
        AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY changed, context, key LIMIT :limit"""
_ONE = "context = :context AND key = :key"
_LIVE = "(expires_at IS NULL OR expires_at > :now)"
# With positional parameters, and formatted once: named ones take a tenth of the time of a read.
_READ = """
    SELECT value, version, expires_at FROM sealedstate_record
    WHERE context = ? AND key = ? AND (expires_at IS NULL OR expires_at > ?)"""


class SQLiteStorage:
    """Records in the SQLite file at `path`.

    `timeout`: for how many seconds a call waits in all, for other threads of this process and for
    the locks of other processes. The file is opened by the first operation. If it is not a database
    of sealedstate, or cannot be one where it is, every operation raises StorageUnavailable.

    A file that is replaced while it is in use, as by a backup that is put back, is followed: by
    the next write, and by reads within a second. A file that is deleted or emptied is not made
    again, because all logouts would be forgotten in silence: every operation raises
    StorageUnavailable until it is back or the process starts again. A file that is overwritten with
    an older copy, as `cp` does, is followed, too, and logged as an error. The number of writes is
    in the file's application_id: it went back then.
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
        changes=True,
        reasons={
            "shared": "a file that the processes of one machine share; more machines need a server"
        },
    )

    def __init__(self, path: str | Path, clock: Clock, timeout: float = 2.0) -> None:
        if str(path) == ":memory:":
            raise ConfigurationError("storage: sqlite:PATH needs a file; use memory: instead")
        self._file = SQLiteFile(Path(path), timeout)
        self._clock = clock
        self._writes = 0

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        params = self._params(context, key, value, expires_at, version)
        sql = f"""
            INSERT INTO sealedstate_record (context, key, value, version, expires_at, changed)
            VALUES (:context, :key, :value, :version, :expires_at, :changed)
            ON CONFLICT (context, key) DO UPDATE SET value = excluded.value,
                version = excluded.version, expires_at = excluded.expires_at,
                changed = excluded.changed
            WHERE NOT {_LIVE}"""
        return self._write(sql, params)

    def read(self, context: str, key: str) -> Stored | None:
        check_arguments(self.capabilities, context, key)
        params = (context.encode(), key.encode(), millis(self._clock()))
        with self._file as connection:
            found = self._file.execute(connection, _READ, params).fetchone()
        return None if found is None else Stored(*found)

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        params = self._params(context, key, value, expires_at, version, expected)
        sql = f"""
            UPDATE sealedstate_record
            SET value = :value, version = :version, expires_at = :expires_at, changed = :changed
            WHERE {_ONE} AND {_LIVE} AND version < :version
            AND (:expected IS NULL OR version = :expected)"""
        return self._write(sql, params, checks_version=True)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        params = self._params(context, key, expected=expected)
        sql = f"""
            DELETE FROM sealedstate_record
            WHERE {_ONE} AND {_LIVE} AND (:expected IS NULL OR version = :expected)"""
        return self._write(sql, params, checks_version=True)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        params = self._params(context, "any")
        sql = f"SELECT key FROM sealedstate_record WHERE context = :context AND {_LIVE}"
        with self._file as connection:
            found = [key.decode() for (key,) in self._file.execute(connection, sql, params)]
        return iter([key for key in found if key.startswith(prefix)])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        params = self._params(context, key, utf8(member), expires_at=expires_at)
        sql = """
            INSERT INTO sealedstate_member (context, key, member, expires_at)
            VALUES (:context, :key, :value, :expires_at)
            ON CONFLICT (context, key, member) DO UPDATE SET expires_at = excluded.expires_at"""
        self._write(sql, params)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        params = self._params(context, key, utf8(member))
        sql = f"DELETE FROM sealedstate_member WHERE {_ONE} AND member = :value AND {_LIVE}"
        return self._write(sql, params)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        params = self._params(context, key)
        sql = f"SELECT member, expires_at FROM sealedstate_member WHERE {_ONE} AND {_LIVE}"
        with self._file as connection:
            rows = self._file.execute(connection, sql, params)
            return {member.decode(): expires_at for member, expires_at in rows}

    def ping(self) -> None:
        with self._file as connection:
            self._file.execute(connection, "SELECT 1 FROM sealedstate_record LIMIT 1").fetchone()

    def reap(self, limit: int) -> int:
        now = millis(self._clock())
        with self._file.writing() as connection:
            return _reap(connection, reap_time(now), limit)

    def close(self) -> None:
        self._file.close()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        params = self._params(context, key, expires_at=expires_at)
        sql = f"""
            UPDATE sealedstate_record SET expires_at = :expires_at, changed = :changed
            WHERE {_ONE} AND {_LIVE}"""
        return self._write(sql, params)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        params = self._params(context, "any", expires_at=expires_at)
        sql = f"""
            UPDATE sealedstate_record SET expires_at = :expires_at, changed = :changed
            WHERE context = :context AND {_LIVE}"""
        self._write(sql, params)

    def delete_context(self, context: str) -> None:
        params = self._params(context, "any")
        with self._file.writing() as connection:
            connection.execute("DELETE FROM sealedstate_record WHERE context = :context", params)
            connection.execute("DELETE FROM sealedstate_member WHERE context = :context", params)

    def prepare(self) -> None:
        self.ping()

    def changes(self, after: str | None, limit: int) -> Changes:
        # Writers take turns, so no write is committed after one with a greater number.
        known, number, context, key = (after or ":0::").split(":")
        params = {
            "number": int(number),
            "context": bytes.fromhex(context),
            "key": bytes.fromhex(key),
            "now": millis(self._clock()),
            "limit": limit,
        }
        with self._file as connection:
            rows = self._file.execute(connection, _CHANGES, params).fetchall()
            if not rows:
                raise self._file.say_emptied()
            incarnation = f"{rows[0][0]}/{self._file.identity}"
        if after is not None and (incarnation != known or rows[0][1] < params["number"]):
            return self.changes(None, limit)
        found = [row for row in rows if row[2] is not None]
        if found:
            number, context, key = found[-1][2], found[-1][3].hex(), found[-1][4].hex()
        return Changes(
            [(row[3].decode(), row[4].decode(), Stored(*row[5:])) for row in found],
            f"{incarnation}:{number}:{context}:{key}",
            len(found) < limit,
            after is None,
        )

    # --- one statement --------------------------------------------------------------------------

    def _params(
        self,
        context: str,
        key: str,
        value: bytes = b"",
        expires_at: int | None = None,
        version: int | None = None,
        expected: int | None = None,
    ) -> dict[str, Any]:
        check_arguments(self.capabilities, context, key, value, expires_at, version, expected)
        # Names are BLOBs: SQLite compares them byte by byte, without collation.
        return {
            "context": context.encode(),
            "key": key.encode(),
            "value": value,
            "expires_at": expires_at,
            "version": version,
            "expected": expected,
            "changed": None,
            "now": millis(self._clock()),
        }

    def _write(self, sql: str, params: dict[str, Any], checks_version: bool = False) -> bool:
        """Run one statement atomically; return whether it changed anything.

        With `checks_version`, raises VersionMismatch if it did not although a record is live.
        """
        current = None
        is_followed = params["context"].decode() in FOLLOWED
        with self._file.writing() as connection:
            if is_followed:
                query = "SELECT number + 1 FROM sealedstate_feed"
                (params["changed"],) = connection.execute(query).fetchone()
            changed = connection.execute(sql, params).rowcount > 0
            if changed and is_followed:
                connection.execute("UPDATE sealedstate_feed SET number = :changed", params)
            if checks_version and not changed:
                query = f"SELECT version FROM sealedstate_record WHERE {_ONE} AND {_LIVE}"
                current = connection.execute(query, params).fetchone()
            self._writes += 1
            if self._writes % REAP_EVERY == 0:
                _reap(connection, reap_time(params["now"]), REAP_LIMIT)
        if current is not None:
            raise VersionMismatch(current[0])
        return changed


def _reap(connection: sqlite3.Connection, now: int, limit: int) -> int:
    removed = 0
    for table, columns in (("record", "context, key"), ("member", "context, key, member")):
        sql = f"""
            DELETE FROM sealedstate_{table} WHERE ({columns}) IN (
                SELECT {columns} FROM sealedstate_{table}
                WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit)"""
        removed += connection.execute(sql, {"now": now, "limit": limit - removed}).rowcount
    return removed


class SQLiteFile:
    """This process's connection to the file at `path`, opened when it is first used.

    As a context manager it gives one thread the connection, and raises SQLite's errors as
    CapacityError or StorageUnavailable. `timeout`: for how many seconds a call waits in all, for
    other threads and for the file's locks.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path.absolute()  # the process may change its directory
        self._name = f"sqlite store {quote_text(self._path, 1000)}"
        # The device and inode of the file that was opened, and when they were last compared.
        self.identity: tuple[int, int] | None = None
        self._looked_at = -math.inf
        # Whether this process has found or made the tables, and the most writes that it has seen.
        self._had_tables = False
        self._writes_seen: int | None = None
        self._timeout = timeout
        # When the call under way has waited for long enough; None before it has waited.
        self._give_up_at: float | None = None
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._orphans: list[sqlite3.Connection] = []
        self._lock = ForkHeldLock(self._close_before_fork)

    def __enter__(self) -> sqlite3.Connection:
        if self._lock.acquire(blocking=False):
            self._give_up_at = None
        else:
            give_up_at = time.monotonic() + self._timeout
            if not self._lock.acquire(timeout=self._timeout):
                raise StorageUnavailable(
                    f"{self._name}: other threads of this process have used it for"
                    f" {self._timeout} s"
                )
            self._give_up_at = give_up_at
        try:
            if self._pid != os.getpid():
                self._forget_parent()
            now, connection = time.monotonic(), self._connection
            if connection is not None and now - self._looked_at < LOOK_SECONDS:
                return connection
            # A write looks at the number of writes in its transaction.
            is_new, is_due = connection is None, self._looked_at > -math.inf
            self._follow_file()
            self._looked_at = now
            if self._connection is None:
                self._connection, is_new = self.open(), True
                self.identity, self._had_tables = self._find_identity(), True
            if is_due or is_new:
                self._writes_seen = self._read_writes(self._connection)
            return self._connection
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._lock.release()
            return
        try:
            if isinstance(error, sqlite3.DataError):
                raise CapacityError(f"sqlite refused a value ({error})") from error
            if isinstance(error, (sqlite3.Error, OSError)):
                # The file may have been replaced or repaired: the next use opens another
                # connection.
                if self._connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.close()
                    self._connection = None
                if str(error).startswith("no such table"):
                    raise self.say_emptied() from error
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                kind = StorageUnusable if code in _NOT_OURS else StorageUnavailable
                raise kind(f"{self._name}: {error}") from error
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction, to the file that is at the path now."""
        self._looked_at = -math.inf
        with self as connection:
            writes = self._writes_seen
            with self.transaction(connection):
                before = connection.total_changes
                yield connection
                if connection.total_changes != before:
                    # Page 1, where this number is, is written by each commit of a rollback journal.
                    writes = (self._read_writes(connection) + 1) % _WRITES_END
                    signed = writes - _WRITES_END * (writes >= _WRITES_END // 2)
                    connection.execute(f"PRAGMA application_id = {signed}")
            self._writes_seen = writes

    def execute(self, connection: sqlite3.Connection, sql: str, params: Any = ()) -> sqlite3.Cursor:
        """Execute a statement; while another process holds the lock, retry every millisecond.

        SQLite's busy handler backs off to 100 ms, which starves some of several busy writers.
        """
        while True:
            try:
                return connection.execute(sql, params)
            except sqlite3.OperationalError as error:
                # The low byte is the primary code; extended codes share it.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                now = time.monotonic()
                if self._give_up_at is None:
                    self._give_up_at = now + self._timeout
                if now >= self._give_up_at:
                    raise
                time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """A transaction that is committed and synced when the block ends, or rolled back."""
        self.execute(connection, "BEGIN IMMEDIATE")
        try:
            yield
            self.execute(connection, "COMMIT")
        except BaseException:
            # After some errors SQLite has rolled back already, and ROLLBACK would fail.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connection. The next use opens another."""
        with self._lock:
            if self._pid != os.getpid():
                self._forget_parent()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _close_before_fork(self) -> None:
        # If it could not be closed, the child keeps it, unused.
        with contextlib.suppress(sqlite3.Error):
            self.close()

    def __del__(self) -> None:
        # A store need not be closed before it is dropped. The parent's connection stays open.
        if getattr(self, "_connection", None) is not None and self._pid == os.getpid():
            self.close()  # with the lock: a fork copies SQLite's own locks, too

    def open(self) -> sqlite3.Connection:
        """Open another connection, and make or migrate the tables.

        Raises StorageUnavailable, or what SQLite raises.
        """
        if self._lock.was_in_use:
            raise StorageUnavailable(
                f"{self._name}: this process was forked while its parent wrote, and cannot use the"
                " file; start it again"
            )
        self._check_place()
        connection = sqlite3.connect(
            self._path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            # Before anything that loads the schema: that would miss tables made concurrently.
            self._migrate(connection)
            mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
            (current,) = self.execute(connection, "PRAGMA journal_mode").fetchone()
            # Setting it takes an exclusive lock, which no start should need.
            if current.upper() != mode:
                self.execute(connection, f"PRAGMA journal_mode = {mode}")
            self.execute(connection, "PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (found,) = self.execute(connection, "PRAGMA user_version").fetchone()
        if found == SCHEMA_VERSION:
            return
        with self.transaction(connection):
            # Read again: another process may have migrated before this process got the lock.
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found == 0 and self._had_tables:
                raise self.say_emptied()
            if found == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise StorageUnusable(
                    f"{self._name} is the database of another application; name another file"
                )
            if found > SCHEMA_VERSION:
                raise StorageUnusable(
                    f"{self._name} has schema {found}; this release supports {SCHEMA_VERSION}"
                )
            self._path.chmod(0o600)
            columns = connection.execute("PRAGMA table_info(sealedstate_record)").fetchall()
            if columns and "changed" not in [column[1] for column in columns]:
                connection.execute("ALTER TABLE sealedstate_record ADD COLUMN changed INTEGER")
                connection.execute(_NUMBER_ALL)
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            if connection.execute("SELECT 1 FROM sealedstate_feed").fetchone() is None:
                connection.execute(
                    "INSERT INTO sealedstate_feed (number, incarnation) VALUES (1, ?)",
                    (uuid.uuid4().hex,),
                )
            if found != SCHEMA_VERSION:
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check_place(self) -> None:
        """Raise StorageUnusable if no database can be there, with the remedy.

        What was opened before may have become read-only since: reads still work.
        """
        folder, problem, is_first = self._path.parent, None, self.identity is None
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            if not folder.is_dir():
                problem = f"the directory {escape_text(folder)} does not exist; create it first"
        except OSError as error:
            problem = f"{error.strerror}; name a file that this process may use"
        else:
            if stat.S_ISDIR(mode):
                problem = "it is a directory; name a file in it"
            elif not stat.S_ISREG(mode):
                problem = "it is not a regular file; name another path"
            elif is_first and not os.access(self._path, os.R_OK | os.W_OK):
                problem = "this process must be able to read and write it; change its owner"
        if problem is None and is_first and not os.access(folder, os.W_OK | os.X_OK):
            problem = (
                f"this process must be able to write into the directory {escape_text(folder)},"
                " where SQLite also puts its journal; change its owner, or name another path"
            )
        if problem is not None:
            raise StorageUnusable(f"{self._name}: {problem}")

    def _follow_file(self) -> None:
        """Drop the connection to a file that is no longer at the path."""
        if self.identity is None or (found := self._find_identity()) == self.identity:
            return
        if self._connection is not None:
            # SQLite sees that the file was moved, and leaves the journal of the new one alone.
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        if found is None:
            raise StorageUnavailable(
                f"{self._name} was deleted while in use, with all logouts; put it back, or start"
                " all processes again, which begins an empty one"
            )
        _log.error(
            "%s was replaced while in use: what the former file held, logouts included, counts no"
            " longer; if it is an older copy, revoke again what was revoked since",
            self._name,
        )
        self.identity = self._writes_seen = None

    def _read_writes(self, connection: sqlite3.Connection) -> int:
        """The number of writes to the file, modulo _WRITES_END. Logs if it went back."""
        (found,) = self.execute(connection, "PRAGMA application_id").fetchone()
        writes: int = found % _WRITES_END
        seen = self._writes_seen
        if seen is not None and (seen - writes) % _WRITES_END in range(1, _WRITES_END // 2):
            self._writes_seen = writes
            _log.error(
                "%s was overwritten with an older copy while in use: logouts that it does not have"
                " count no longer; revoke again what was revoked since",
                self._name,
            )
        return writes

    def say_emptied(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._name} was emptied while in use, with all logouts; put it back, or start all"
            " processes again, which begins an empty one"
        )

    def _find_identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _forget_parent(self) -> None:
        if self._connection is not None:
            self._orphans.append(self._connection)  # keeps it from being closed
        self._connection, self._pid = None, os.getpid()


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite contains the fix for the WAL-reset bug (sqlite.org, release 3.51.3)."""
    if version >= (3, 51, 3):
        return True
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
