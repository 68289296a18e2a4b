"""PostgreSQL for SQLStorage, through psycopg 3.

psycopg waits for a reply without a limit, and libpq at least two seconds for a connection; a frozen
server, or a network that drops packets, would block the caller. Here both wait on the socket until
the call's deadline. `statement_timeout` is a little shorter: a server that is alive but slow, or
waits for a lock, then reports itself that nothing was done. Only the resolution of a host's name is
not bounded: it takes as long as the system's resolver.
"""

from __future__ import annotations

import select
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready, Wait
from sqlalchemy.engine import URL

from ...errors import StorageUnavailable
from ..contract import Capabilities, Changes, Stored
from ._pool import (
    DEADLINE,
    FOLLOWED_PLACES,
    PATIENCE,
    SERVERS_SHARE,
    Cursor,
    Driver,
    Fault,
    Params,
    Statements,
)

T = TypeVar("T")

MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    1: (
        """
        CREATE TABLE IF NOT EXISTS sealedstate_record (
            place         BYTEA NOT NULL PRIMARY KEY,
            context_place BYTEA NOT NULL,
            full_context  BYTEA NOT NULL,
            full_key      BYTEA NOT NULL,
            value         BYTEA NOT NULL,
            version       BIGINT NOT NULL,
            expires_at    BIGINT,
            changes       BIGINT NOT NULL DEFAULT 0
        )""",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_record_context
            ON sealedstate_record (context_place)""",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_record_expiry
            ON sealedstate_record (expires_at) WHERE expires_at IS NOT NULL""",
        """
        CREATE TABLE IF NOT EXISTS sealedstate_member (
            place         BYTEA NOT NULL PRIMARY KEY,
            index_place   BYTEA NOT NULL,
            context_place BYTEA NOT NULL,
            full_context  BYTEA NOT NULL,
            full_key      BYTEA NOT NULL,
            full_member   BYTEA NOT NULL,
            expires_at    BIGINT
        )""",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_member_index
            ON sealedstate_member (index_place)""",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_member_context
            ON sealedstate_member (context_place)""",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_member_expiry
            ON sealedstate_member (expires_at) WHERE expires_at IS NOT NULL""",
        # Sealed values do not compress, so PostgreSQL need not try.
        "ALTER TABLE sealedstate_record ALTER COLUMN value SET STORAGE EXTERNAL",
    ),
    2: (
        "ALTER TABLE sealedstate_record ADD COLUMN IF NOT EXISTS changed XID8",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_record_changed
            ON sealedstate_record (changed, place) WHERE changed IS NOT NULL""",
        *(
            f"""
        UPDATE sealedstate_record SET changed = pg_current_xact_id()
        WHERE context_place = '\\x{place}'"""
            for place in FOLLOWED_PLACES
        ),
    ),
}

STATEMENTS = Statements(
    create="""
        INSERT INTO sealedstate_record
            (place, context_place, full_context, full_key, value, version, expires_at, changed)
        VALUES (:place, :context_place, :full_context, :full_key, :value, :version, :expires_at,
            :changed)
        ON CONFLICT (place) DO UPDATE SET value = excluded.value,
            version = excluded.version, expires_at = excluded.expires_at,
            changed = excluded.changed
        WHERE sealedstate_record.expires_at <= :now""",
    add_member="""
        INSERT INTO sealedstate_member
            (place, index_place, context_place, full_context, full_key, full_member, expires_at)
        VALUES (:place, :index_place, :context_place, :full_context, :full_key, :full_member,
            :expires_at)
        ON CONFLICT (place) DO UPDATE SET expires_at = excluded.expires_at""",
    # The oldest transaction under way is of the snapshot in which the records are read: what an
    # older transaction has written is committed in it, or never will be. The server's state: after
    # a crash it may give the numbers again that no log had, and resets its statistics.
    changes="""
        SELECT server.state, server.oldest, CAST(found.changed AS text), found.place,
            found.full_context, found.full_key, found.value, found.version, found.expires_at
        FROM (
            SELECT CONCAT(EXTRACT(EPOCH FROM pg_postmaster_start_time()), '/',
                    EXTRACT(EPOCH FROM stats_reset)) AS state,
                CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS oldest
            FROM pg_stat_bgwriter WHERE NOT pg_is_in_recovery()
        ) AS server LEFT JOIN (
            SELECT * FROM sealedstate_record
            WHERE changed IS NOT NULL AND (expires_at IS NULL OR expires_at > :now)
                AND (changed, place) > (CAST(CAST(:number AS text) AS xid8), CAST(:place AS bytea))
            ORDER BY changed, place LIMIT :limit
        ) AS found ON true
        ORDER BY found.changed, found.place""",
)
# SKIP LOCKED: reaping does not wait for other transactions. As an array, the rows are selected and
# locked only once.
REAP = [
    f"""
    DELETE FROM sealedstate_{table} WHERE place = ANY (ARRAY(
        SELECT place FROM sealedstate_{table} WHERE expires_at <= :now
        ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED))"""
    for table in ("record", "member")
]
# The number has no meaning, but must be the same in all releases.
LOCK_SCHEMA = "SELECT pg_advisory_xact_lock(7377065611)"
SETTINGS = "SELECT current_setting('synchronous_commit'), current_setting('fsync')"
SYNC_COMMITS = "SET synchronous_commit = on"
LIMITS = """
    SELECT set_config('statement_timeout', :milliseconds, true),
        set_config('lock_timeout', :milliseconds, true)"""

# By SQLSTATE; two letters are a whole class. After all other errors that the server reports,
# the statement is rolled back.
FAULTS: Mapping[str, Fault] = {
    "08": Fault.LOST,
    "57P01": Fault.LOST,  # an administrator has ended the connection
    "57P02": Fault.LOST,  # another backend has crashed
    "57P05": Fault.LOST,  # idle for too long
    "25P03": Fault.LOST,  # idle in a transaction for too long
    "40003": Fault.LOST,  # "statement completion unknown"
    "40": Fault.RETRY,
    "25006": Fault.READ_ONLY,
    "42P01": Fault.NO_TABLES,
    "22": Fault.TOO_LARGE,
    "54": Fault.TOO_LARGE,
}

_EVENTS = {
    Wait.R: select.POLLIN,
    Wait.W: select.POLLOUT,
    Wait.RW: select.POLLIN | select.POLLOUT,
}


class PostgreSQLConnection(psycopg.Connection[Any]):
    """A connection that waits until the thread's deadline, and is useless after that."""

    opened_at = 0.0
    _poll: select.poll

    @classmethod
    def open(cls, conninfo: bytes) -> PostgreSQLConnection:
        opened_at, poll = monotonic(), select.poll()
        connection = cls(_connect(conninfo, poll))
        connection.opened_at, connection._poll = opened_at, poll
        connection.autocommit = True
        return connection

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        # In binary, bytes arrive as they are, not as twice as many hexadecimal digits.
        return super().cursor(*args, binary=True, **kwargs)

    def is_stale(self) -> bool:
        try:
            self._poll.register(self.pgconn.socket, select.POLLIN)
        except psycopg.Error:  # the socket is closed
            return True
        return bool(self._poll.poll(0))

    def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:
        try:
            awaited = next(gen)
            while True:
                self._poll.register(self.pgconn.socket, _EVENTS[awaited])
                awaited = gen.send(_ready(self._poll))
        except StopIteration as end:
            result: T = end.value
            return result


def _connect(conninfo: bytes, poll: select.poll) -> pq.abc.PGconn:
    """Connect as libpq's PQconnectPoll prescribes, but not longer than until the deadline."""
    pgconn = pq.PGconn.connect_start(conninfo)
    try:
        status = pq.PollingStatus.WRITING
        while status != pq.PollingStatus.OK:
            if pgconn.status == pq.ConnStatus.BAD or status == pq.PollingStatus.FAILED:
                raise psycopg.OperationalError(pgconn.get_error_message())
            is_reading = status == pq.PollingStatus.READING
            # The socket may differ each time, because a host may have several addresses.
            fd = pgconn.socket
            poll.register(fd, select.POLLIN if is_reading else select.POLLOUT)
            _ready(poll)
            poll.unregister(fd)
            status = pq.PollingStatus(pgconn.connect_poll())
    except BaseException:
        pgconn.finish()
        raise
    pgconn.nonblocking = 1
    return pgconn


def _ready(poll: select.poll) -> Ready:
    """Wait until the socket is ready or the deadline has passed."""
    found = poll.poll(DEADLINE.remaining() * 1000)
    if not found:
        raise psycopg.OperationalError("no answer in time")
    event = found[0][1]
    # An error, or the end of the connection, is read like an answer.
    readable = event & ~select.POLLOUT
    if not readable:
        return Ready.W
    return Ready.RW if event & select.POLLOUT else Ready.R


class PostgreSQL(Driver):
    """The server that a URL names."""

    errors = (psycopg.Error,)
    migrations = MIGRATIONS
    number = "CASE WHEN :changed THEN pg_current_xact_id() END"

    def __init__(self, url: URL, timeout: float) -> None:
        super().__init__(url, psycopg, STATEMENTS)
        self._reap = [self._compile(sql) for sql in REAP]
        self._limits = self._compile(LIMITS)
        _, arguments = self.dialect.create_connect_args(url)
        arguments.pop("context")  # SQLAlchemy's type adapters, which no statement needs
        host, port = arguments.get("host", "its socket"), arguments.get("port", 5432)
        self.address = f"postgresql at {host}:{port}/{url.database or ''}"
        options, limit = arguments.pop("options", ""), _milliseconds(timeout)
        self._syncs_commits = "synchronous_commit" not in options
        # The options in the URL follow, and so take precedence.
        options = (
            f"-c statement_timeout={limit} -c lock_timeout={limit}"
            f" -c idle_in_transaction_session_timeout={_milliseconds(timeout * PATIENCE)}"
            f" -c default_transaction_isolation=read\\ committed {options}"
        )
        arguments = {"application_name": "sealedstate", **arguments, "options": options}
        self._conninfo = make_conninfo("", **arguments).encode()

    def connect(self) -> PostgreSQLConnection:
        return PostgreSQLConnection.open(self._conninfo)

    def handshake(self, cursor: Cursor) -> Capabilities:
        cursor.execute(SETTINGS)
        commit, fsync = cursor.fetchone()
        if commit == "off" and self._syncs_commits:
            cursor.execute(SYNC_COMMITS)
            commit = "on"
        reason = f"synchronous_commit is {commit} and fsync is {fsync}"
        durable = commit != "off" and fsync == "on"
        return replace(self.assumed, assumed=False, durable=durable, reasons={"durable": reason})

    def fault(self, error: Exception) -> Fault:
        code = error.sqlstate if isinstance(error, psycopg.Error) else None
        if code is None:
            return Fault.LOST
        return FAULTS.get(code) or FAULTS.get(code[:2], Fault.REFUSED)

    def message(self, error: Exception) -> str:
        message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        return message or str(error)

    def begin(self, cursor: Cursor, seconds: float) -> None:
        cursor.execute("BEGIN")
        cursor.execute(self._limits, {"milliseconds": str(_milliseconds(seconds))})

    def lock_schema(self, cursor: Cursor) -> None:
        cursor.execute(LOCK_SCHEMA)

    def unlock_schema(self, cursor: Cursor) -> None:
        """Do nothing; the end of the transaction releases the lock."""

    def convert_tables(self, cursor: Cursor) -> None:
        """Do nothing; there is one kind of table."""

    def execute_numbered(self, cursor: Cursor, sql: str, params: Params) -> int:
        cursor.execute(sql, params)
        return cursor.rowcount

    def changes(self, cursor: Cursor, after: str | None, now: int, limit: int) -> Changes:
        # A transaction may commit after others that have greater numbers. So what comes next, after
        # all pages, is everything since the oldest transaction that was under way at the first.
        known, oldest, number, place = (after or ":0:0:").split(":")
        params = {"number": number, "place": bytes.fromhex(place), "now": now, "limit": limit}
        cursor.execute(self.statements.changes, params)
        rows = cursor.fetchall()
        if not rows:
            raise StorageUnavailable(
                f"{self.address}: it is a standby, which cannot say what has changed"
            )
        state, now_oldest = rows[0][:2]
        if after is not None and (state != known or int(now_oldest) < int(oldest)):
            return self.changes(cursor, None, now, limit)
        found = [row for row in rows if row[2] is not None]
        if not place:
            oldest = now_oldest  # this is the first page
        is_last = len(found) < limit
        number, place = (oldest, "") if is_last else (found[-1][2], found[-1][3].hex())
        return Changes(
            [(row[4].decode(), row[5].decode(), Stored(*row[6:])) for row in found],
            f"{state}:{oldest}:{number}:{place}",
            is_last,
            after is None,
        )

    def reap(self, cursor: Cursor, now: int, limit: int) -> int:
        removed = 0
        for sql in self._reap:
            cursor.execute(sql, {"now": now, "limit": limit - removed})
            removed += cursor.rowcount
        return removed


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * SERVERS_SHARE * 1000), 1)
