"""What SQLStorage needs of a database server's driver, and the SQL that all servers understand.

Names in the tables: `place`, the primary key, is the digest of a record's or a member's whole name,
because no server indexes names of several kilobytes, and because bytes are compared without case,
collation or trailing blanks. The columns `full_...` hold what the digest was made of.
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


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements, in a server's dialect. Those without a default differ between servers."""

    create: str
    add_member: str
    read: str = """
        SELECT value, version, expires_at FROM sealedstate_record
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

    def compile(self, dialect: Dialect) -> Statements:
        """Return the same with the parameters as the driver writes them.

        SQLAlchemy compiles them once. Executing them through its Connection would cost each call
        more than the round trip to the server.
        """
        return replace(
            self,
            **{one.name: compile_sql(getattr(self, one.name), dialect) for one in fields(self)},
        )


def compile_sql(sql: str, dialect: Dialect) -> str:
    """Return one statement with the parameters as the driver writes them."""
    return str(text(sql).compile(dialect=dialect))


class Driver(Protocol):
    """One database server, through its driver."""

    address: str
    """How messages name the server."""
    dialect: Dialect
    errors: tuple[type[Exception], ...]
    """What the driver raises."""
    statements: Statements
    """Compiled."""
    migrations: Mapping[int, tuple[str, ...]]
    """By version of the tables, the statements that lead to it from the version before."""
    assumed: Capabilities
    """What the server can do, until it has been asked."""

    def connect(self) -> Connection:
        """Open a connection."""
        ...

    def handshake(self, cursor: Cursor) -> Capabilities:
        """Configure a new connection; return what the server can do, by its settings."""
        ...

    def fault(self, error: Exception) -> Fault:
        """Return what an error of the driver says about its statement."""
        ...

    def message(self, error: Exception) -> str:
        """Return the text of a driver's error."""
        ...

    def begin(self, cursor: Cursor, seconds: float) -> None:
        """Begin a transaction in which a statement may take this long."""
        ...

    def commit(self, cursor: Cursor) -> None:
        """Commit the transaction."""
        ...

    def reap(self, cursor: Cursor, now: int, limit: int) -> int:
        """Remove at most `limit` expired rows that are not locked; return how many."""
        ...

    def lock_schema(self, cursor: Cursor) -> None:
        """Keep other nodes from changing the tables until the transaction ends."""
        ...

    def unlock_schema(self, cursor: Cursor) -> None:
        """Release that lock, if the end of the transaction does not."""
        ...
