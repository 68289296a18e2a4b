"""A storage service in one SQLite file: the embedded default, for the processes of one machine.

Knows SQL. Does not know what is stored, nor locks, forks and journals: `sqlite_link` does. Of the
standard library alone.

Expired rows are removed a few at a time by the writes themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError, VersionMismatch
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
from .sqlite_link import SQLiteLink

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
