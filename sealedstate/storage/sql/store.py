"""A storage service in PostgreSQL or MariaDB, for many nodes, through SQLAlchemy.

Knows the contract and which statement keeps each of its promises. Does not know any server, how it
is reached, or what is stored.

Each call is one atomic statement in autocommit mode, and so one round trip; a checked write that
has changed nothing takes another one to tell why. What concerns a whole context is one transaction.
Expired rows are removed a few at a time by the writes themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Literal

from ...errors import ConfigurationError, StorageError, VersionMismatch
from .._names import context_digest, key_digest
from ..contract import (
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

try:
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import SQLAlchemyError

    from .driver import Cursor, Driver
    from .pool import Link
except ImportError as missing:
    raise ConfigurationError(
        "storage: SQL needs SQLAlchemy and a driver:"
        " pip install sealedstate[postgresql], or sealedstate[mariadb]"
    ) from missing

# Every so many writes, at most so many expired rows are removed: a bounded price, and the tables
# can't grow for ever even if nobody calls reap().
REAP_EVERY = 32
REAP_LIMIT = 128
# reap() removes so many at a time, each time within the deadline.
REAP_BATCH = 1024
# How many seconds later `capabilities` tries again to reach a server that was not there.
ASK_AGAIN = 2.0


class SQLStorage:
    """Records in the database that a URL names, as in ``postgresql://user:password@host/name``.

    `timeout`: seconds that a call may take. Raises ConfigurationError for a URL that names none, or
    when the driver is not installed.
    """

    def __init__(self, url: str, clock: Clock, *, timeout: float = 0.5, pool_size: int = 8) -> None:
        self._clock = clock
        found = _parsed(url)
        # What a sentence calls it.
        self.name = found.get_backend_name()
        driver = _driver(found, timeout)
        self._where = driver.where
        self._sql = driver.statements
        self._reap_with = driver.reap
        self._link = Link(driver, str(found.password or ""), timeout, pool_size)
        self._asked_at = -math.inf
        self._writes = 0

    def __repr__(self) -> str:
        return f"<SQLStorage {self._where}>"

    @property
    def capabilities(self) -> Capabilities:
        """By the server's settings, once it was reached."""
        if not self._link.was_reached and monotonic() > self._asked_at + ASK_AGAIN:
            self._asked_at = monotonic()
            with contextlib.suppress(StorageError):
                self.ping()
        return self._link.capabilities

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_range(expires_at, version)
        self._begin(context, key, value)
        row = {
            "place": key_digest(context, key),
            "context_place": context_digest(context),
            "full_context": utf8(context),
            "full_key": utf8(key),
            **self._new(value, expires_at, version),
        }
        return self._changed(self._sql.create, row, version)

    def read(self, context: str, key: str) -> Stored | None:
        self._begin(context, key)
        found = self._row(self._sql.read, self._named(context, key))
        return None if found is None else Stored(*found)

    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        self._begin(context, key)
        row = {**self._named(context, key), "version": version}
        found = self._row(self._sql.read_if_changed, row)
        if found is None:
            return None
        return UNCHANGED if found[0] is None else Stored(*found)

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        check_range(expires_at, version, expected)
        self._begin(context, key, value)
        row = {"place": key_digest(context, key), **self._new(value, expires_at, version)}
        if expected is None:
            return self._checked(self._sql.update, row, lambda current: current < version, version)
        return self._checked(
            self._sql.update_checked,
            {**row, "expected": expected},
            lambda current: current == expected < version,
            version,
        )

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_range(expires_at)
        self._begin(context, key)
        row = {**self._named(context, key), "expires_at": expires_at}
        return self._changed(self._sql.update_expiration, row)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_range(None, expected)
        self._begin(context, key)
        row = self._named(context, key)
        if expected is None:
            return self._changed(self._sql.delete, row)
        return self._checked(
            self._sql.delete_checked,
            {**row, "expected": expected},
            lambda current: current == expected,
        )

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_range(expires_at)
        self._begin(context, "any")
        row = {
            "context_place": context_digest(context),
            "now": self._now(),
            "expires_at": expires_at,
        }
        self._link.tell_at_length(lambda cursor: cursor.execute(self._sql.touch_context, row))

    def delete_context(self, context: str) -> None:
        self._begin(context, "any")
        row = {"context_place": context_digest(context)}

        def delete(cursor: Cursor) -> None:
            cursor.execute(self._sql.delete_records, row)
            cursor.execute(self._sql.delete_members, row)

        self._link.tell_at_length(delete)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        self._begin(context, "any")
        start = utf8(prefix)
        row = {
            "context_place": context_digest(context),
            "now": self._now(),
            "prefix": start,
            "prefix_bytes": len(start),
        }
        found = self._link.ask_at_length(lambda cursor: _all(cursor, self._sql.keys, row))
        return iter([key.decode() for (key,) in found])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        check_range(expires_at)
        self._begin(context, key, utf8(member))
        row = {
            "place": _member_digest(context, key, member),
            "index_place": key_digest(context, key),
            "context_place": context_digest(context),
            "full_context": utf8(context),
            "full_key": utf8(key),
            "full_member": utf8(member),
            "expires_at": expires_at,
        }
        self._changed(self._sql.add_member, row)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        self._begin(context, key, utf8(member))
        row = {"place": _member_digest(context, key, member), "now": self._now()}
        return self._changed(self._sql.remove_member, row)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        self._begin(context, key)
        row = {"index_place": key_digest(context, key), "now": self._now()}
        found = self._link.ask(lambda cursor: _all(cursor, self._sql.members, row))
        return {member.decode(): expires_at for member, expires_at in found}

    def prepare(self) -> None:
        # Whoever opens a connection looks at the tables, and makes them.
        self._link.distrust()
        self.ping()

    def ping(self) -> None:
        self._link.start()
        self._row(self._sql.ping, {})

    def reap(self, limit: int) -> int:
        removed, some = 0, REAP_BATCH
        while some == REAP_BATCH and removed < limit:
            self._link.start()
            some = self._reap(min(limit - removed, REAP_BATCH))
            removed += some
        return removed

    def close(self) -> None:
        self._link.close()

    # --- one statement --------------------------------------------------------------------------

    def _begin(self, context: str, key: str, value: bytes = b"") -> None:
        check_size(self._link.capabilities, context, key, value)
        self._link.start()

    def _now(self) -> int:
        return millis(self._clock())

    def _named(self, context: str, key: str) -> dict[str, Any]:
        return {"place": key_digest(context, key), "now": self._now()}

    def _new(self, value: bytes, expires_at: int | None, version: int) -> dict[str, Any]:
        return {
            "value": bytes(value),
            "expires_at": expires_at,
            "version": version,
            "now": self._now(),
        }

    def _row(self, sql: str, row: Mapping[str, Any]) -> Any:
        """The one row that a question brings, or None."""

        def ask(cursor: Cursor) -> Any:
            cursor.execute(sql, row)
            return cursor.fetchone()

        return self._link.ask(ask)

    def _changed(self, sql: str, row: Mapping[str, Any], version: int | None = None) -> bool:
        """Whether a statement has changed a row."""

        def write(cursor: Cursor) -> int:
            cursor.execute(sql, row)
            return cursor.rowcount

        changed = self._link.tell(write, version)
        self._reap_sometimes()
        return changed > 0

    def _checked(
        self,
        sql: str,
        row: Mapping[str, Any],
        fits: Callable[[int], bool],
        version: int | None = None,
    ) -> bool:
        """Whether a statement that looks at the version has changed a row; why not, is told."""
        while not self._changed(sql, row, version):
            found = self._row(self._sql.version, {"place": row["place"], "now": row["now"]})
            if found is None:
                return False
            if not fits(found[0]):
                raise VersionMismatch(found[0])
            # It came to be in between the two statements: now the first one may change it.
        return True

    def _reap_sometimes(self) -> None:
        self._writes += 1
        if self._writes % REAP_EVERY == 0:
            # The write has happened, whatever becomes of the expired rows.
            with contextlib.suppress(StorageError):
                self._reap(REAP_LIMIT)

    def _reap(self, limit: int) -> int:
        return self._link.ask(lambda cursor: self._reap_with(cursor, self._now(), limit))


def _all(cursor: Cursor, sql: str, row: Mapping[str, Any]) -> list[Any]:
    cursor.execute(sql, row)
    return list(cursor.fetchall())


def _member_digest(context: str, key: str, member: str) -> bytes:
    # The digest before it is of one length: no other index has a member that is hashed the same.
    return hashlib.blake2b(key_digest(context, key) + utf8(member), digest_size=32).digest()


def _parsed(url: str) -> URL:
    """The URL with the driver that we use. No message repeats it: it holds a password."""
    try:
        found = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise ConfigurationError(
            "storage: the URL is not of the form scheme://user:password@host:port/database"
        ) from None
    if "@" in f"{found.host}{found.database}":
        # It came from a password, of which no part must get into a message.
        raise ConfigurationError("storage: in a password, write @ as %40 and / as %2F")
    if found.drivername == "postgresql":
        return found.set(drivername="postgresql+psycopg")
    if found.drivername in ("mariadb", "mysql"):
        return found.set(drivername=f"{found.drivername}+pymysql")
    raise ConfigurationError("storage: SQL begins with postgresql://, mariadb:// or mysql://")


def _driver(url: URL, timeout: float) -> Driver:
    extra = "postgresql" if url.drivername.startswith("postgresql") else "mariadb"
    try:
        return _opened(url, timeout, extra)
    except ImportError as missing:
        raise ConfigurationError(
            f"storage: {url.get_backend_name()}:// needs its driver:"
            f" pip install sealedstate[{extra}]"
        ) from missing
    except Exception as error:
        # Drivers refuse a parameter by errors of many kinds.
        why = str(error).replace(str(url.password), "***") if url.password else str(error)
        raise ConfigurationError(f"storage: the driver refuses the URL ({why})") from None


def _opened(url: URL, timeout: float, extra: str) -> Driver:
    if extra == "postgresql":
        from .postgresql import PostgreSQL

        return PostgreSQL(url, timeout)
    from .mariadb import MariaDB

    return MariaDB(url, timeout)
