"""PostgreSQL for SQLStorage, through psycopg 3.

psycopg waits for a reply without a limit, and libpq at least two seconds for a connection; a frozen
server, or a network that drops packets, would block the caller. Here both wait on the socket until
the call's deadline. `statement_timeout` is a little shorter: a server that is alive but slow, or
waits for a lock, then reports itself that nothing was done. Only the resolution of a host's name is
not bounded: it takes as long as the system's resolver.

Reads of a record, which requests wait for, are sent by the functions of libpq itself: psycopg's
cursors take as long as the server does. As with cursors, the server prepares them after some.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.waiting import Ready, Wait

from ...errors import ConfigurationError, StorageError, StorageUnavailable, escape_text
from .._network import KEEPALIVE
from ..contract import Capabilities, Changes, Listener, Stored
from ..urls import check_file
from ._pool import (
    DEADLINE,
    FOLLOWED_PLACES,
    PATIENCE,
    SERVERS_SHARE,
    Driver,
    Fault,
    Misdirected,
    Params,
    Statements,
    new_echo,
    pyformat,
    wait_for,
    watch,
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
    # Transactions that notify commit one after another. So the write does not notify, and what
    # does, does not wait for the disk.
    notify="""
        SELECT CAST(pg_notify('sealedstate', '') AS text),
            set_config('synchronous_commit', 'off', true)""",
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
# The last column: tables that a crash empties.
SETTINGS = """
    SELECT pg_backend_pid() AS pid, current_setting('synchronous_commit'),
        current_setting('fsync'), current_setting('synchronous_standby_names'),
        (SELECT count(*) FROM pg_stat_replication),
        (SELECT count(*) FROM pg_class
            WHERE relname IN ('sealedstate_schema', 'sealedstate_record', 'sealedstate_member')
            AND relpersistence <> 'p' AND pg_table_is_visible(oid)),
        (SELECT reset_val FROM pg_settings WHERE name = 'statement_timeout')"""
# What promises rest on. Without row_security, a policy that hides rows makes a statement fail.
SESSION = """
    SELECT set_config('synchronous_commit', :commit, false),
        set_config('statement_timeout', :longest, false),
        set_config('lock_timeout', :longest, false),
        set_config('idle_in_transaction_session_timeout', :idle_longest, false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('row_security', 'off', false)"""

# How a statement carries its number (see `Driver`). A query returns a row even if it finds none,
# and a change how many there are.
QUERY = "SELECT :echo AS echo, q.* FROM (SELECT 1 AS one) AS one LEFT JOIN ({}) AS q ON TRUE"
_CHANGE = """
    WITH changed AS ({} RETURNING 1) SELECT :echo AS echo, '', count(*) FROM changed"""
# The same behind a pooler, where the next statement may get another server connection, and other
# clients may have configured it: the settings are those of the statement. PostgreSQL
# evaluates the columns in their order, and locks the rows when it counts what has changed.
POOLED_CHANGE = """
    WITH changed AS ({} RETURNING 1)
    SELECT :echo AS echo, set_config('lock_timeout', :longest, true),
        (SELECT count(*) FROM changed), set_config('synchronous_commit', :commit, true)"""

# What a read sends and receives: all in binary, and numbers as 64 bits.
_READ_NAME = b"sealedstate_read"
_READ_TEXT = QUERY.format(STATEMENTS.read).replace(":echo", "$1").replace(":place", "$2")
_READ = _READ_TEXT.replace(":now", "$3").encode()
_READ_TYPES, _BINARY = (20, 17, 20), (1, 1, 1)  # int8, bytea, int8
_NUMBER = struct.Struct(">q")

# A server that was frozen for a minute starts a process for each client that has tried to connect
# and given up, in their order. So the first attempt is kept, and is answered first. It is kept for
# some seconds after its last use only: another server may have taken over.
LATE_SECONDS = 5.0
LATE_POLL = 0.02  # seconds between two looks at it, while a new attempt is under way

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


# Of a connection that only listens. A balancer must not forget it.
_KEEPALIVES = dict(
    zip(("keepalives_idle", "keepalives_interval", "keepalives_count"), KEEPALIVE, strict=True)
)


class Unconfirmed(Exception):
    """The server has committed, but no standby has confirmed it."""


class PostgreSQLConnection(psycopg.Connection[Any]):
    """A connection that waits until the thread's deadline, and is useless after that."""

    opened_at = 0.0
    is_pooled = False
    """Whether the server's connections are shared with other clients."""
    warning = ""
    """What the server has warned of since this was last emptied."""
    _has_surplus = False
    _is_readable: Callable[[float], bool]
    _reads = 0
    """How many reads were sent before the server has prepared them."""

    @classmethod
    def open(cls, conninfo: bytes, attempts: list[_Attempt]) -> PostgreSQLConnection:
        opened_at = monotonic()
        connection = cls(_connect(conninfo, attempts))
        connection.opened_at = opened_at
        connection.autocommit = True
        connection.add_notice_handler(connection._note)
        connection._is_readable = watch(connection.pgconn.socket)
        return connection

    def __del__(self, *_: Any) -> None:
        """Do not warn: a store may be dropped without being closed, and libpq closes this."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        # In binary, bytes arrive as they are, not as twice as many hexadecimal digits.
        return super().cursor(*args, **{"binary": True, **kwargs})

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # libpq skips messages that arrive while it awaits none, and its notice has no code.
        if diagnostic.sqlstate is None:
            self._has_surplus = True
        elif diagnostic.sqlstate == "01000":
            self.warning = diagnostic.message_primary or "a warning"

    def is_stale(self) -> bool:
        try:
            self.pgconn.is_busy()  # libpq looks at what it has read ahead
        except psycopg.Error:
            return True
        is_open = self.pgconn.status == pq.ConnStatus.OK  # else the descriptor may be another's
        return self._has_surplus or not is_open or self._is_readable(0)

    def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:
        try:
            awaited = next(gen)
            while True:
                awaited = gen.send(self._wait_until_ready(awaited))
        except StopIteration as end:
            result: T = end.value
            return result

    def _wait_until_ready(self, awaited: Wait) -> Ready:
        if awaited != Wait.R:
            return _wait_until_ready(self.pgconn.socket, awaited)
        if not self._is_readable(DEADLINE.remaining()):
            raise psycopg.OperationalError("no answer in time")
        return Ready.R

    def read(self, values: Sequence[bytes]) -> pq.abc.PGresult:
        """Return the answer to `_READ` with these values."""
        pgconn, threshold = self.pgconn, self.prepare_threshold
        if threshold is None or self._reads < threshold:
            self._reads += 1
            pgconn.send_query_params(_READ, values, _READ_TYPES, _BINARY, pq.Format.BINARY)
            return self._receive()
        if self._reads == threshold:
            pgconn.send_prepare(_READ_NAME, _READ, _READ_TYPES)
            self._receive()
            self._reads += 1
        pgconn.send_query_prepared(_READ_NAME, values, _BINARY, pq.Format.BINARY)
        return self._receive()

    def _receive(self) -> pq.abc.PGresult:
        """Return the single answer to what was sent. Raises its error, or Misdirected."""
        pgconn, results = self.pgconn, list[pq.abc.PGresult]()
        while pgconn.flush():
            if self._wait_until_ready(Wait.RW) & Ready.R:
                pgconn.consume_input()
        while True:
            while pgconn.is_busy():
                self._wait_until_ready(Wait.R)
                pgconn.consume_input()
            if (result := pgconn.get_result()) is None:
                break
            results.append(result)
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        if len(results) != 1:
            raise Misdirected
        return results[0]


class PostgreSQLListener:
    """A connection that listens for hints, of the process that has opened it."""

    def __init__(self, connection: PostgreSQLConnection, address: str) -> None:
        self._connection, self._address = connection, address
        self._pid = os.getpid()

    def wait(self, seconds: float) -> bool:
        pgconn = self._connection.pgconn
        try:
            # It may have come, and was read, with the answer to LISTEN.
            found = pgconn.notifies()
            if found is None and any(wait_for(pgconn.socket, True, False, seconds)):
                pgconn.consume_input()
                found = pgconn.notifies()
            is_hinted = found is not None
            while found is not None:
                found = pgconn.notifies()
        except psycopg.Error:
            raise StorageUnavailable(f"{self._address}: the connection for hints broke") from None
        return is_hinted

    def close(self) -> None:
        # A child would say goodbye in the name of its parent.
        if self._pid == os.getpid():
            self._connection.close()


class _Attempt:
    """A connection that this process opens, as libpq's PQconnectPoll prescribes."""

    def __init__(self, conninfo: bytes) -> None:
        self.pgconn = pq.PGconn.connect_start(conninfo)
        self.status = pq.PollingStatus.WRITING
        self.pid, self.late_at = os.getpid(), 0.0

    def is_open(self) -> bool:
        """Return whether it is complete. Raises its error if it has failed."""
        if self.pgconn.status == pq.ConnStatus.BAD or self.status == pq.PollingStatus.FAILED:
            raise psycopg.OperationalError(self.pgconn.get_error_message())
        return self.status == pq.PollingStatus.OK

    def proceed(self, seconds: float) -> None:
        """Take the next step, if the server makes it possible in time."""
        is_reading = self.status == pq.PollingStatus.READING
        # The socket may differ each time, because a host may have several addresses.
        if any(wait_for(self.pgconn.socket, is_reading, not is_reading, seconds)):
            self.status = pq.PollingStatus(self.pgconn.connect_poll())


def _connect(conninfo: bytes, attempts: list[_Attempt]) -> pq.abc.PGconn:
    """Open a connection, but not longer than until the deadline.

    `attempts`: earlier attempts that were late; the connection is that of the first of them, or of
    a new one, that the server answers. If it answers none, the first that waits for it remains.
    """
    fresh, is_late = _Attempt(conninfo), False
    attempts.append(fresh)
    try:
        while True:
            left = DEADLINE.remaining()
            for attempt in list(attempts):
                try:
                    if attempt.is_open():
                        attempt.pgconn.nonblocking = 1
                        attempts.remove(attempt)
                        return attempt.pgconn
                    attempt.proceed(left if len(attempts) == 1 else min(left, LATE_POLL))
                except psycopg.Error:
                    if attempt is fresh:
                        raise
                    attempts.remove(attempt)
                    attempt.pgconn.finish()
            if not left:
                is_late = True
                raise psycopg.OperationalError("no answer in time")
    finally:
        kept: list[_Attempt] = []
        if is_late:
            kept = [each for each in attempts if each.status == pq.PollingStatus.READING][:1]
        for attempt in attempts:
            if attempt not in kept:
                attempt.pgconn.finish()
        attempts[:] = kept


def _wait_until_ready(fd: int, awaited: Wait) -> Ready:
    """Wait until the socket is ready or the deadline has passed."""
    readable, writable = wait_for(
        fd, bool(awaited & Wait.R), bool(awaited & Wait.W), DEADLINE.remaining()
    )
    if not (readable or writable):
        raise psycopg.OperationalError("no answer in time")
    return Ready((Ready.R if readable else 0) | (Ready.W if writable else 0))


# libpq repeats a part of the URL in its other messages, which may be one of the password.
_UNKNOWN_PARAMETER = re.compile(r'invalid URI query parameter: "[a-z_]{1,40}"')


def _parse(url: str) -> list[dict[str, Any]]:
    """Return libpq's parameters for each host of a URL. Raises ConfigurationError."""
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error as error:
        known = _UNKNOWN_PARAMETER.match(str(error))
        why = known.group() if known else "see its chapter on connection URIs"
        raise ConfigurationError(f"storage: libpq refuses the URL ({why})") from None
    hosts, ports, addresses = (
        str(found[name]).split(",") if name in found else []
        for name in ("host", "port", "hostaddr")
    )
    if "@" in "".join((*hosts, *ports, str(found.get("dbname", "")))):
        # The @ is from a password, so host and database may contain parts of it.
        raise ConfigurationError("storage: in a password, write @ as %40 and / as %2F")
    if not all(re.fullmatch(r"[0-9]{0,5}", port) and int(port or 1) < 1 << 16 for port in ports):
        raise ConfigurationError("storage: a port must be a number from 1 to 65535")
    count = max(len(hosts), len(addresses), 1)
    columns = {"host": hosts, "port": ports * count if len(ports) == 1 else ports}
    columns["hostaddr"] = addresses
    if any(values and len(values) != count for values in columns.values()):
        raise ConfigurationError(
            f"storage: {count} hosts need {count} ports, or one for all, separated by commas"
        )
    if count > 1:
        found.setdefault("target_session_attrs", "read-write")
    rest = {name: value for name, value in found.items() if name not in columns}
    return [
        rest | {name: values[number] for name, values in columns.items() if values}
        for number in range(count)
    ]


def _explain_passfile(path: str) -> str:
    """Return why libpq ignores a file of passwords, or nothing."""
    try:
        check_file("passfile", path)
        mode = Path(path).stat().st_mode
    except (ConfigurationError, OSError) as error:
        return str(error)
    if os.name == "posix" and mode & 0o077:  # as libpq judges it
        return (
            f"storage: passfile: libpq ignores the file {escape_text(path, 1000)}, because others"
            " may read it; run chmod 600 on it"
        )
    return ""


class PostgreSQL(Driver):
    """The servers that a URL of libpq names.

    `pooled`: whether a pooler gives each transaction any of its server connections; None: find out.
    """

    migrations = MIGRATIONS
    number = "CASE WHEN :changed THEN pg_current_xact_id() END"

    def __init__(self, url: str, timeout: float, pooled: bool | None = None) -> None:
        super().__init__(STATEMENTS)
        self._reap = [pyformat(sql) for sql in REAP]
        self._settings, self._session = pyformat(SETTINGS), pyformat(SESSION)
        self._pooled = pooled
        attempts = _parse(url)
        first = attempts[0]
        self.password = str(first.get("password", ""))
        self.hosts = [
            f"{each.get('host') or each.get('hostaddr') or 'its socket'}:{each.get('port') or 5432}"
            for each in attempts
        ]
        self.address = f"postgresql at {','.join(self.hosts)}/{first.get('dbname') or ''}"
        # Where the URL has no password, libpq asks a file, and ignores one that it cannot use.
        self._passfile = "" if self.password else str(first.get("passfile", ""))
        if self._passfile and (why := _explain_passfile(self._passfile)):
            raise ConfigurationError(why)
        self._limits = limits(timeout)
        # Only the URL may say that commits are not synced.
        self._syncs_commits = "synchronous_commit" not in str(first.get("options", ""))
        # No options of sealedstate at the start of a connection, because poolers refuse them.
        self._conninfos = [
            # As an answer is text or bytes by the encoding, that of the role does not count.
            make_conninfo(
                "", **{"application_name": "sealedstate", **each, "client_encoding": "UTF8"}
            ).encode()
            for each in attempts
        ]
        self._commit = "on"
        self._queries: dict[str, str] = {}
        self._changes: dict[tuple[bool, str], str] = {}
        # By host, an attempt to connect that the server has not answered.
        self._late: dict[int, _Attempt] = {}

    def connect(self, host: int) -> PostgreSQLConnection:
        late, attempts = self._late.pop(host, None), list[_Attempt]()
        if late and late.pid == os.getpid():  # else it is the parent's
            if monotonic() - late.late_at < LATE_SECONDS:
                attempts.append(late)
            else:
                late.pgconn.finish()
        try:
            return PostgreSQLConnection.open(self._conninfos[host], attempts)
        finally:
            for late in attempts:
                late.late_at, self._late[host] = monotonic(), late

    def listen(self, host: int) -> Listener | None:
        given = {**_KEEPALIVES, **conninfo_to_dict(self._conninfos[host].decode())}
        connection = PostgreSQLConnection.open(make_conninfo("", **given).encode(), [])
        try:
            ((pid,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
            if pid != connection.pgconn.backend_pid if self._pooled is None else self._pooled:
                raise StorageError(
                    f"{self.address}: a pooler is in between, through which no notifications come"
                )
            connection.execute("LISTEN sealedstate")
        except BaseException:
            connection.close()
            raise
        return PostgreSQLListener(connection, self.address)

    def handshake(self, cursor: Any) -> Capabilities:
        connection: PostgreSQLConnection = cursor.connection
        # Before it is known who answers, nothing may rest on this connection.
        connection.prepare_threshold = None
        ((pid, commit, *others),) = self.query(cursor, self._settings, {})
        # A pooler reports a number of its invention, with which it identifies its client.
        connection.is_pooled = (
            pid != connection.pgconn.backend_pid if self._pooled is None else self._pooled
        )
        if commit == "off" and self._syncs_commits:
            commit = "on"
        self._commit = commit
        if not connection.is_pooled:
            self.query(cursor, self._session, {**self._limits, "commit": commit})
            connection.prepare_threshold = 5
        return self._describe(connection.is_pooled, commit, *others)

    def _describe(
        self,
        is_pooled: bool,
        commit: str,
        fsync: str,
        standbys: str,
        replicas: int,
        unlogged: int,
        statement_timeout: str,
    ) -> Capabilities:
        waits = bool(standbys) and commit not in ("local", "off")
        durable = commit != "off" and fsync == "on" and not unlogged
        reason = f"synchronous_commit is {commit} and fsync is {fsync}"
        if unlogged:
            reason += "; a table is UNLOGGED or temporary, so that a crash empties it"
        if standbys and commit in ("local", "off"):
            reason += f"; synchronous_commit {commit} does not wait for synchronous_standby_names"
        elif standbys:
            reason += (
                "; synchronous_standby_names is set: a standby that it names has acknowledged"
                " logouts, and a failover to it loses none"
            )
        if replicas and not waits:
            reason += (
                f"; {replicas} standby{'s follow' if replicas > 1 else ' follows'}: a failover may"
                " lose acknowledged logouts (replication is asynchronous)"
            )
        if is_pooled:
            reason += "; a pooler is in between, so each statement brings its settings"
        advice = {
            "set fsync on": fsync != "on",
            "allow synchronous_commit: remove off from the options of the URL": commit == "off",
            "run ALTER TABLE ... SET LOGGED for the tables of sealedstate": unlogged,
            "set synchronous_standby_names, if a failover may lose no acknowledged logout": (
                replicas and not standbys
            ),
            "set synchronous_commit on, so that standbys are waited for": standbys and not waits,
            "let synchronous_standby_names name two standbys, as in ANY 1 (a, b): without its only"
            " standby, the server acknowledges nothing": waits and replicas < 2,
            "name the standby in the URL, too, or give a name that follows the primary": (
                replicas and len(self.hosts) == 1 and not is_pooled
            ),
            "set a statement_timeout for the role, because the pooler lets none be set by a"
            " connection": is_pooled and statement_timeout == "0",
        }
        return replace(
            self.assumed,
            assumed=False,
            durable=durable,
            reasons={"durable": reason},
            advice=tuple(line for line, applies in advice.items() if applies),
        )

    def fault(self, error: Exception) -> Fault:
        return fault_of(error.sqlstate if isinstance(error, psycopg.Error) else None)

    def message(self, error: Exception) -> str:
        message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        message = message or str(error)
        if self._passfile and "no password supplied" in message:
            message += f"; {_explain_passfile(self._passfile) or 'passfile has no line for it'}"
        return message

    def query(self, cursor: Any, sql: str, params: Params) -> list[tuple[Any, ...]]:
        query = self._queries.get(sql)
        if query is None:
            query = self._queries[sql] = pyformat(QUERY.format(sql))
        echo = new_echo()
        cursor.execute(query, {**params, "echo": echo})
        rows = cursor.fetchall()
        if not rows or any(row[0] != echo for row in rows):
            raise Misdirected
        return [] if rows[0][1] is None else [row[1:] for row in rows]

    def read(self, cursor: Any, place: bytes, now: int) -> Stored | None:
        echo = _NUMBER.pack(new_echo())
        found = cursor.connection.read((echo, place, _NUMBER.pack(now)))
        if found.ntuples != 1 or found.nfields != 4 or found.get_value(0, 0) != echo:
            raise Misdirected
        value, version, expires_at = (found.get_value(0, column) for column in (1, 2, 3))
        if value is None or version is None:
            return None
        (number,) = _NUMBER.unpack(version)
        return Stored(value, number, _NUMBER.unpack(expires_at)[0] if expires_at else None)

    def change(self, cursor: Any, sql: str, params: Params) -> int:
        is_pooled: bool = cursor.connection.is_pooled
        change = self._changes.get((is_pooled, sql))
        if change is None:
            form = POOLED_CHANGE if is_pooled else _CHANGE
            change = self._changes[is_pooled, sql] = pyformat(form.format(sql))
        echo = new_echo()
        cursor.connection.warning = ""
        cursor.execute(change, {**params, **self._limits, "echo": echo, "commit": self._commit})
        rows = cursor.fetchall()
        if len(rows) != 1 or rows[0][0] != echo:
            raise Misdirected
        _check_replication(cursor)
        count: int = rows[0][2]
        return count

    def begin(self, cursor: Any, seconds: float) -> None:
        limit = _milliseconds(seconds)
        self._run_script(
            cursor,
            "BEGIN ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL statement_timeout = {limit}",
            f"SET LOCAL lock_timeout = {limit}",
            f"SET LOCAL synchronous_commit = '{self._commit}'",
        )

    def commit(self, cursor: Any) -> None:
        self._run_script(cursor, "COMMIT")

    def _run_script(self, cursor: Any, *statements: str) -> None:
        """Run statements without parameters in one round trip."""
        echo = new_echo()
        cursor.connection.warning = ""
        script = cursor.connection.cursor(binary=False)
        script.execute("; ".join((*statements, f"SELECT {echo}")), prepare=False)
        states = [script.statusmessage]
        while script.nextset():
            states.append(script.statusmessage)
        if len(states) != len(statements) + 1 or script.fetchall() != [(echo,)]:
            raise Misdirected
        _check_replication(cursor)
        if "ROLLBACK" in states:  # instead of COMMIT
            raise psycopg.errors.TransactionRollback("the transaction was rolled back")

    def lock_schema(self, cursor: Any) -> None:
        cursor.execute(LOCK_SCHEMA)

    def unlock_schema(self, cursor: Any) -> None:
        """Do nothing; the end of the transaction releases the lock."""

    def convert_tables(self, cursor: Any) -> None:
        """Do nothing; there is one kind of table."""

    def change_numbered(self, cursor: Any, sql: str, params: Params) -> int:
        return self.change(cursor, sql, params)

    def changes(self, cursor: Any, after: str | None, now: int, limit: int) -> Changes:
        # A transaction may commit after others that have greater numbers. So what comes next, after
        # all pages, is everything since the oldest transaction that was under way at the first.
        known, oldest, number, place = (after or ":0:0:").split(":")
        params = {"number": number, "place": bytes.fromhex(place), "now": now, "limit": limit}
        rows = self.query(cursor, self.statements.changes, params)
        if not rows:
            raise StorageUnavailable(
                f"{self.address}: it is a standby, which cannot say what has changed"
            )
        state, now_oldest = rows[0][:2]
        if after is not None and (state != known or int(now_oldest) < int(oldest)):
            return self.changes(cursor, None, now, limit)
        found = [row for row in rows if row[2] is not None]
        found.sort(key=lambda row: (int(row[2]), row[3]))
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

    def reap(self, cursor: Any, now: int, limit: int) -> int:
        removed = 0
        for sql in self._reap:
            removed += self.change(cursor, sql, {"now": now, "limit": limit - removed})
        return removed


def _check_replication(cursor: Any) -> None:
    # An administrator may end the wait for a synchronous standby; then the server warns of a commit
    # that a failover takes back, and reports success.
    if cursor.connection.warning:
        raise Unconfirmed(cursor.connection.warning)


def fault_of(sqlstate: str | None) -> Fault:
    """Return what a code of the server means; None: the error is not the server's."""
    if sqlstate is None:
        return Fault.LOST
    return FAULTS.get(sqlstate) or FAULTS.get(sqlstate[:2], Fault.REFUSED)


def limits(timeout: float) -> Params:
    """Return the settings that bound statements, for calls of `timeout` seconds."""
    return {
        "longest": str(_milliseconds(timeout)),
        "idle_longest": str(_milliseconds(timeout * PATIENCE)),
    }


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * SERVERS_SHARE * 1000), 1)
