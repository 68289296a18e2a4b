"""A store in PostgreSQL or MariaDB, for many nodes: `SQLStorage`.

Each operation on a record or a member is one atomic statement in autocommit mode, and so one round
trip; a checked write that changed nothing takes a second one to find out why. Operations on a
context are one transaction. Each write also removes a few expired rows from time to time.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, StorageError, StorageUnusable, VersionMismatch
from ..contract import (
    FOLLOWED,
    LAST_VERSION,
    Capabilities,
    Changes,
    Clock,
    Listener,
    Stored,
    check_arguments,
    context_digest,
    key_digest,
    millis,
    reap_time,
    utf8,
)
from ._pool import Driver, Lease, Params, SQLPool

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

__all__ = ["SQLStorage"]

# After this many writes, at most this many expired rows are removed: a bounded price for a write,
# and the tables stay small even if no caller reaps.
REAP_EVERY = 32
REAP_LIMIT = 128
# How many rows reap() removes per statement, each within the deadline.
REAP_BATCH = 1024
# Balancers forget connections that were idle for some minutes: of three clouds for 240, 350, 600 s.
MAX_IDLE = 200.0
# After this many seconds, `capabilities` tries again to reach a server.
RETRY_SECONDS = 2.0


class SQLStorage:
    """Records in the database at `url`, such as ``postgresql://user:password@host/name``.

    `url` may also be an SQLAlchemy engine of PostgreSQL or MariaDB. Then its pool and its settings
    decide how long a call may take, and of the options only `timeout` counts, for locks.

    `timeout`: seconds that a call may take. `pool_size`: connections of each process. `max_idle`:
    after how many idle seconds a connection is not used again, because a balancer may have
    forgotten it. `pooled`: whether a pooler gives each transaction any of its connections to
    PostgreSQL; None: as the connection shows. Raises ConfigurationError if the URL is not a
    database's, or if the driver is not installed.
    """

    _address = "not opened"

    def __init__(
        self,
        url: str | Engine,
        clock: Clock,
        *,
        timeout: float = 0.5,
        pool_size: int = 8,
        max_idle: float = MAX_IDLE,
        pooled: bool | None = None,
    ) -> None:
        self._clock = clock
        if isinstance(url, str):
            name, driver, password = _open_driver(url, timeout, pooled)
            self._pool = SQLPool(driver, password, timeout, pool_size, max_idle)
        else:
            from ._engine import open_engine

            name, driver, self._pool = open_engine(url, timeout)
        self.name = name
        """The store's name in messages."""
        self._address = driver.address
        self._sql = driver.statements
        self._driver = driver
        self._reap_rows = driver.reap
        self._last_ping = -math.inf
        self._writes = 0

    def __repr__(self) -> str:
        return f"<SQLStorage {self._address}>"

    @property
    def capabilities(self) -> Capabilities:
        """By the server's settings, once it was reached."""
        if self._pool.capabilities.assumed and monotonic() > self._last_ping + RETRY_SECONDS:
            self._last_ping = monotonic()
            with contextlib.suppress(StorageError):
                self.ping()
        return self._pool.capabilities

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        self._start(context, key, value, expires_at, version)
        params = {
            **self._place(context, key),
            **_names(context, key),
            "value": bytes(value),
            "expires_at": expires_at,
            "version": version,
            "changed": context in FOLLOWED or None,
        }
        return self._write(self._sql.create, params, version)

    def read(self, context: str, key: str) -> Stored | None:
        self._start(context, key)
        place, now = key_digest(context, key), self._now()
        return self._pool.read(lambda lease: self._driver.read(lease.cursor, place, now))

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        self._start(context, key, value, expires_at, version, expected)
        params = {
            **self._place(context, key),
            "value": bytes(value),
            "expires_at": expires_at,
            "version": version,
            "changed": context in FOLLOWED or None,
        }
        lowest, highest = 0, version - 1
        if expected is not None:
            lowest, highest = expected, min(expected, highest)
        return self._write_between(self._sql.update, params, lowest, highest, version)

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        self._start(context, key, b"", None, expected)
        place = self._place(context, key)
        if expected is None:  # any version, so there is no mismatch to find
            return self._write(self._sql.delete, {**place, "lowest": 0, "highest": LAST_VERSION})
        return self._write_between(self._sql.delete, place, expected, expected)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        self._start(context, "any")
        start = utf8(prefix)
        params = {
            "context_place": context_digest(context),
            "now": self._now(),
            "prefix": start,
            "prefix_bytes": len(start),
        }
        rows = self._pool.read_many(_query(self._sql.keys, params))
        return iter([key.decode() for (key,) in rows])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self._start(context, key, utf8(member), expires_at)
        params = {
            "place": _member_digest(context, key, member),
            "index_place": key_digest(context, key),
            **_names(context, key),
            "full_member": utf8(member),
            "expires_at": expires_at,
        }
        self._write(self._sql.add_member, params)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        self._start(context, key, utf8(member))
        params = {"place": _member_digest(context, key, member), "now": self._now()}
        return self._write(self._sql.remove_member, params)

    def members(self, context: str, key: str) -> dict[str, int | None]:
        self._start(context, key)
        params = {"index_place": key_digest(context, key), "now": self._now()}
        rows = self._pool.read(_query(self._sql.members, params))
        return {member.decode(): expires_at for member, expires_at in rows}

    def ping(self) -> None:
        self._pool.start()
        self._pool.read(_query(self._sql.ping, {}))
        if self._pool.refusal:
            raise StorageUnusable(self._pool.refusal)

    def reap(self, limit: int) -> int:
        removed, count = 0, REAP_BATCH
        while count == REAP_BATCH and removed < limit:
            self._pool.start()
            count = self._reap(min(limit - removed, REAP_BATCH))
            removed += count
        return removed

    def close(self) -> None:
        self._pool.close()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        self._start(context, key, b"", expires_at)
        params = {
            **self._place(context, key),
            "expires_at": expires_at,
            "changed": context in FOLLOWED or None,
        }
        return self._write(self._sql.update_expiration, params)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        self._start(context, "any", b"", expires_at)
        params = {
            "context_place": context_digest(context),
            "now": self._now(),
            "expires_at": expires_at,
            "changed": context in FOLLOWED or None,
        }
        if params["changed"]:
            self._write(self._sql.touch_context, params)
        else:
            self._pool.transaction(lambda lease: lease.change(self._sql.touch_context, params))

    def delete_context(self, context: str) -> None:
        self._start(context, "any")
        params = {"context_place": context_digest(context)}

        def delete(lease: Lease) -> None:
            lease.change(self._sql.delete_records, params)
            lease.change(self._sql.delete_members, params)

        self._pool.transaction(delete)

    def prepare(self) -> None:
        # A new connection checks the tables, and makes them.
        self._pool.invalidate_older()
        self.ping()

    def changes(self, after: str | None, limit: int) -> Changes:
        self._pool.start()
        now = self._now()
        return self._pool.read(lambda lease: self._driver.changes(lease.cursor, after, now, limit))

    def listen(self) -> Listener | None:
        self._pool.start()
        return self._pool.listen()

    def notify(self) -> None:
        if self._sql.notify:
            self._pool.start()
            self._pool.read(_query(self._sql.notify, {}))

    # --- one statement --------------------------------------------------------------------------

    def _start(self, context: str, key: str, value: bytes = b"", *numbers: int | None) -> None:
        check_arguments(self._pool.capabilities, context, key, value, *numbers)
        self._pool.start()

    def _now(self) -> int:
        return millis(self._clock())

    def _place(self, context: str, key: str) -> dict[str, Any]:
        return {"place": key_digest(context, key), "now": self._now()}

    def _write(self, sql: str, params: Params, version: int | None = None) -> bool:
        """Return whether a statement has changed a row."""
        change = self._driver.change_numbered if params.get("changed") else self._driver.change
        has_changed = self._pool.write(lambda lease: change(lease.cursor, sql, params), version) > 0
        self._writes += 1
        if self._writes % REAP_EVERY == 0:
            # The write was made; if the clean-up fails, the call has still succeeded.
            with contextlib.suppress(StorageError):
                self._reap(REAP_LIMIT)
        return has_changed

    def _write_between(
        self, sql: str, params: Params, lowest: int, highest: int, version: int | None = None
    ) -> bool:
        """Return whether a statement has changed a record of a version in this range.

        Raises VersionMismatch if a live record has another version.
        """
        params = {**params, "lowest": lowest, "highest": highest}
        while not self._write(sql, params, version):
            place = {"place": params["place"], "now": params["now"]}
            found = self._pool.read(_query(self._sql.version, place))
            if not found:
                return False
            if not lowest <= found[0][0] <= highest:
                raise VersionMismatch(found[0][0])
            # The record was written between the two statements: the first can change it now.
        return True

    def _reap(self, limit: int) -> int:
        return self._pool.read(
            lambda lease: self._reap_rows(lease.cursor, reap_time(self._now()), limit)
        )


def _query(sql: str, params: Params) -> Callable[[Lease], list[Any]]:
    """Return a function that fetches the rows that a query finds."""
    return lambda lease: lease.query(sql, params)


def _names(context: str, key: str) -> dict[str, bytes]:
    return {
        "context_place": context_digest(context),
        "full_context": utf8(context),
        "full_key": utf8(key),
    }


def _member_digest(context: str, key: str, member: str) -> bytes:
    # The key's digest has a fixed length, so no member of another index gives the same input.
    return hashlib.blake2b(key_digest(context, key) + utf8(member), digest_size=32).digest()


_SCHEME = re.compile(r"(postgres(?:ql)?|mariadb|mysql)(?:\+\w+)?(?=:)")


def _open_driver(url: str, timeout: float, pooled: bool | None) -> tuple[str, Driver, str]:
    """Return the name of a URL's server, its driver and the password.

    Raises ConfigurationError, which hides the URL.
    """
    found = _SCHEME.match(url)
    if found is None:
        raise ConfigurationError(
            "storage: SQL URLs begin with postgresql://, mariadb:// or mysql://"
        )
    name = "postgresql" if found[1].startswith("postgres") else found[1]
    if found[0] != found[1]:
        raise ConfigurationError(
            f"storage: {found[0]}:// is a URL of SQLAlchemy; write {name}:// here, and parameters"
            " as the driver names them"
        )
    if url.partition("?")[0].count("@") > 1:
        raise ConfigurationError("storage: in a password, write @ as %40 and / as %2F")
    extra = "postgresql" if name == "postgresql" else "mariadb"
    try:
        if name == "postgresql":
            from ._postgresql import PostgreSQL

            postgresql = PostgreSQL(url, timeout, pooled)
            return name, postgresql, postgresql.password
        from ._mariadb import MariaDB

        mariadb = MariaDB(url, timeout)
        return name, mariadb, mariadb.password
    except ImportError as missing:
        raise ConfigurationError(
            f"storage: {name}:// needs its driver: pip install sealedstate[{extra}]"
        ) from missing
    except ConfigurationError:
        raise
    except Exception as error:
        # Drivers raise many kinds of errors for a wrong parameter.
        raise ConfigurationError(
            f"storage: the driver refuses the URL ({type(error).__name__}); are its parameters"
            " those of the driver?"
        ) from None
