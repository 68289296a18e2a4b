"""What SQLStorage asks of the driver of a database server, and what all of them have in common.

Knows SQL that every server understands, deadlines and kinds of faults. Does not know any server,
driver or pool.

Names in the tables: `place` is the digest of a whole name and the primary key, because no server
indexes names of several kilobytes, and because bytes are compared without case, collation or
trailing blanks getting in between. What the digest was made of stands beside it, in `full_...`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, auto
from time import monotonic
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.engine import Dialect

from ..contract import Capabilities

SCHEMA_VERSION = 1

CONTEXT_BYTES = KEY_BYTES = 1 << 15
VALUE_BYTES = 1 << 24

# What has as much to do as a context has records may take so many times as long as other calls.
PATIENCE = 10

Row = Mapping[str, Any]
"""The parameters of a statement, by their names."""


class Deadline(threading.local):
    """When the call that this thread is in must be over. Connections wait no longer."""

    # Outside a call nobody waits at all: a connection that is being closed says goodbye or doesn't.
    at = 0.0

    def start(self, seconds: float) -> None:
        self.at = monotonic() + seconds

    def left(self) -> float:
        return max(self.at - monotonic(), 0.0)


DEADLINE = Deadline()


class Fault(Enum):
    """What an error of a driver means to the statement that it ended."""

    LOST = auto()
    """The connection broke, or the reply is late: nobody knows."""
    REFUSED = auto()
    """Nothing was done."""
    READ_ONLY = auto()
    """Nothing was done, and by this server nothing will be."""
    AGAIN = auto()
    """Nothing was done, because of another transaction: the same may work at once."""
    NO_TABLES = auto()
    """Nothing was done: the tables are not there."""
    TOO_LARGE = auto()
    """Nothing was done: a value is larger than what the server takes."""


class Cursor(Protocol):
    """As in PEP 249."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, row: Any = None, /) -> object: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """As in PEP 249, in autocommit mode, and never waiting past the thread's deadline."""

    opened_at: float
    """On the monotonic clock."""

    def cursor(self) -> Any: ...
    def close(self) -> None: ...
    def is_stale(self) -> bool:
        """Whether the server has said something unasked, such as goodbye. Costs no round trip."""
        ...


@dataclass(frozen=True, slots=True)
class Statements:
    """What is asked of a server, in its dialect; those without a default differ."""

    create: str
    add_member: str
    read: str = """
        SELECT value, version, expires_at FROM sealedstate_record
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)"""
    read_if_changed: str = """
        SELECT CASE WHEN version = :version THEN NULL ELSE value END, version, expires_at
        FROM sealedstate_record
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)"""
    version: str = """
        SELECT version FROM sealedstate_record
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)"""
    update: str = """
        UPDATE sealedstate_record
        SET value = :value, version = :version, expires_at = :expires_at
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)
        AND version < :version"""
    update_checked: str = """
        UPDATE sealedstate_record
        SET value = :value, version = :version, expires_at = :expires_at
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)
        AND version = :expected AND version < :version"""
    update_expiration: str = """
        UPDATE sealedstate_record SET expires_at = :expires_at, changes = changes + 1
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)"""
    delete: str = """
        DELETE FROM sealedstate_record
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)"""
    delete_checked: str = """
        DELETE FROM sealedstate_record
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)
        AND version = :expected"""
    touch_context: str = """
        UPDATE sealedstate_record SET expires_at = :expires_at
        WHERE context_place = :context_place AND (expires_at IS NULL OR expires_at > :now)"""
    delete_records: str = "DELETE FROM sealedstate_record WHERE context_place = :context_place"
    delete_members: str = "DELETE FROM sealedstate_member WHERE context_place = :context_place"
    keys: str = """
        SELECT full_key FROM sealedstate_record
        WHERE context_place = :context_place AND (expires_at IS NULL OR expires_at > :now)
        AND SUBSTRING(full_key, 1, :prefix_bytes) = :prefix"""
    remove_member: str = """
        DELETE FROM sealedstate_member
        WHERE place = :place AND (expires_at IS NULL OR expires_at > :now)"""
    members: str = """
        SELECT full_member, expires_at FROM sealedstate_member
        WHERE index_place = :index_place AND (expires_at IS NULL OR expires_at > :now)"""
    ping: str = "SELECT 1 FROM sealedstate_record LIMIT 1"
    schema_version: str = "SELECT MAX(version) FROM sealedstate_schema"
    make_schema: str = """
        CREATE TABLE IF NOT EXISTS sealedstate_schema (version INTEGER NOT NULL PRIMARY KEY)"""
    set_schema_version: str = "INSERT INTO sealedstate_schema (version) VALUES (:schema)"

    def compiled(self, dialect: Dialect) -> Statements:
        """The same with the parameters as the driver writes them, ready for its cursors.

        SQLAlchemy compiles them once. Executing them through its own Connection would cost each
        call more than the round trip to the server does.
        """
        return replace(
            self,
            **{one.name: compiled(getattr(self, one.name), dialect) for one in fields(self)},
        )


def compiled(sql: str, dialect: Dialect) -> str:
    """One statement as the driver writes it."""
    return str(text(sql).compile(dialect=dialect))


class Driver(Protocol):
    """One database server, by way of one driver."""

    where: str
    """How messages call the server."""
    dialect: Dialect
    errors: tuple[type[Exception], ...]
    """What the driver raises."""
    statements: Statements
    """Already compiled."""
    migrations: Mapping[int, tuple[str, ...]]
    """The statements that lead to each version of the tables."""
    presumed: Capabilities
    """What the server can do, before it was asked."""

    def connect(self) -> Connection:
        """A new connection."""
        ...

    def reap(self, cursor: Cursor, now: int, limit: int) -> int:
        """Remove expired rows that nobody holds, at most so many; how many there were."""
        ...

    def greet(self, cursor: Cursor) -> Capabilities:
        """Settle a new connection; what the server can do, by its settings."""
        ...

    def fault(self, error: Exception) -> Fault:
        """What an error of the driver means."""
        ...

    def message(self, error: Exception) -> str:
        """An error of the driver in words."""
        ...

    def begin(self, cursor: Cursor, seconds: float) -> None:
        """Begin a transaction whose statements may take so long."""
        ...

    def commit(self, cursor: Cursor) -> None:
        """End it."""
        ...

    def lock_schema(self, cursor: Cursor) -> None:
        """Let nobody else change the tables until the transaction's end."""
        ...

    def unlock_schema(self, cursor: Cursor) -> None:
        """Undo it, where the end of the transaction does not."""
        ...
