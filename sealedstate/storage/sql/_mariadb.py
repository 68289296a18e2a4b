"""MariaDB for SQLStorage, through PyMySQL.

PyMySQL's time-outs begin again with every packet, and while it connects, with every step. Here the
socket itself waits until the call's deadline, encrypted or not. `max_statement_time` is a little
shorter: a server that is alive but slow, or waits for a lock, then reports itself that nothing was
done. Only the resolution of a host's name is not bounded: it takes as long as the system's
resolver.

The server reports how many rows an update has changed, not how many it has found: only so can one
statement insert a record and report that another client was first. Therefore every update changes
something: the version, or else the column `changes`.

MySQL 8 understands the same SQL but has no `max_statement_time`; there only the deadline bounds a
call.
"""

from __future__ import annotations

import copy
import re
import select
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

import pymysql  # type: ignore[import-untyped]
from pymysql.connections import Connection  # type: ignore[import-untyped]
from pymysql.constants import CLIENT  # type: ignore[import-untyped]
from sqlalchemy.engine import URL

from ...errors import StorageUnavailable
from ..contract import Capabilities, Changes, Stored
from ._pool import (
    CONTEXT_BYTES,
    DEADLINE,
    FOLLOWED_PLACES,
    KEY_BYTES,
    SERVERS_SHARE,
    VALUE_BYTES,
    Driver,
    Fault,
    Params,
    Statements,
)

# What a packet contains besides the value: the statement, and the longest context and key.
PACKET_OVERHEAD = 4 * (CONTEXT_BYTES + KEY_BYTES)
ASSUMED_PACKET = 1 << 24

MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    1: (
        """
        CREATE TABLE IF NOT EXISTS sealedstate_record (
            place         BINARY(32) NOT NULL PRIMARY KEY,
            context_place BINARY(32) NOT NULL,
            full_context  BLOB NOT NULL,
            full_key      BLOB NOT NULL,
            value         LONGBLOB NOT NULL,
            version       BIGINT NOT NULL,
            expires_at    BIGINT,
            changes       BIGINT NOT NULL DEFAULT 0,
            KEY sealedstate_record_context (context_place),
            KEY sealedstate_record_expiry (expires_at)
        ) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET = binary""",
        """
        CREATE TABLE IF NOT EXISTS sealedstate_member (
            place         BINARY(32) NOT NULL PRIMARY KEY,
            index_place   BINARY(32) NOT NULL,
            context_place BINARY(32) NOT NULL,
            full_context  BLOB NOT NULL,
            full_key      BLOB NOT NULL,
            full_member   LONGBLOB NOT NULL,
            expires_at    BIGINT,
            KEY sealedstate_member_index (index_place),
            KEY sealedstate_member_context (context_place),
            KEY sealedstate_member_expiry (expires_at)
        ) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET = binary""",
    ),
    2: (
        "ALTER TABLE sealedstate_record ADD COLUMN IF NOT EXISTS changed BIGINT",
        """
        CREATE INDEX IF NOT EXISTS sealedstate_record_changed
            ON sealedstate_record (changed, place)""",
        """
        CREATE TABLE IF NOT EXISTS sealedstate_feed (
            id          INTEGER NOT NULL PRIMARY KEY,
            number      BIGINT NOT NULL,
            incarnation CHAR(36) NOT NULL
        ) ENGINE = InnoDB""",
        "INSERT IGNORE INTO sealedstate_feed (id, number, incarnation) VALUES (1, 1, UUID())",
        *(
            f"UPDATE sealedstate_record SET changed = 1 WHERE context_place = x'{place}'"
            for place in FOLLOWED_PLACES
        ),
    ),
}

# A crash can break a table of another engine, such as MyISAM, and no setting of InnoDB is about it.
_OTHER_ENGINES = """
    SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()
    AND TABLE_NAME IN ('sealedstate_schema', 'sealedstate_record', 'sealedstate_member',
        'sealedstate_feed')
    AND ENGINE <> 'InnoDB'"""
STATEMENTS = Statements(
    make_schema="""
        CREATE TABLE IF NOT EXISTS sealedstate_schema (version INTEGER NOT NULL PRIMARY KEY)
        ENGINE = InnoDB""",
    # 0 if the tables must be changed first.
    schema_version=f"""
        SELECT IF(EXISTS ({_OTHER_ENGINES}), 0, MAX(version)) FROM sealedstate_schema""",
    # 1 row: inserted. 2: an expired record was replaced. 0: a live one was left unchanged.
    # The assignments run in this order; expires_at must be last, because the others read it.
    create="""
        INSERT INTO sealedstate_record
            (place, context_place, full_context, full_key, value, version, expires_at, changed)
        VALUES (:place, :context_place, :full_context, :full_key, :value, :version, :expires_at,
            :changed)
        ON DUPLICATE KEY UPDATE
            changed = IF(expires_at <= :now, VALUES(changed), changed),
            value = IF(expires_at <= :now, VALUES(value), value),
            version = IF(expires_at <= :now, VALUES(version), version),
            changes = IF(expires_at <= :now, changes + 1, changes),
            expires_at = IF(expires_at <= :now, VALUES(expires_at), expires_at)""",
    add_member="""
        INSERT INTO sealedstate_member
            (place, index_place, context_place, full_context, full_key, full_member, expires_at)
        VALUES (:place, :index_place, :context_place, :full_context, :full_key, :full_member,
            :expires_at)
        ON DUPLICATE KEY UPDATE expires_at = VALUES(expires_at)""",
    changes="""
        SELECT feed.incarnation, feed.number, found.changed, found.place,
            found.full_context, found.full_key, found.value, found.version, found.expires_at
        FROM sealedstate_feed AS feed LEFT JOIN (
            SELECT * FROM sealedstate_record
            WHERE (changed > :number OR (changed = :number AND place > :place))
                AND (expires_at IS NULL OR expires_at > :now)
            ORDER BY changed, place LIMIT :limit
        ) AS found ON TRUE
        WHERE feed.id = 1 ORDER BY found.changed, found.place""",
)
# One statement for the server, so that no client that stops in between keeps the lock on the number
# of the feed. Because of that lock the numbers are committed in their order.
NUMBERED = """
    BEGIN NOT ATOMIC
        DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
        START TRANSACTION;
        UPDATE sealedstate_feed SET number = LAST_INSERT_ID(number + 1) WHERE id = 1;
        {sql};
        SET @sealedstate_rows = ROW_COUNT();
        COMMIT;
        SELECT @sealedstate_rows;
    END"""
# A server that took over from another, or that was started again, may give numbers again.
STATE = """
    SELECT CONCAT_WS('/', @@hostname, @@server_id, UNIX_TIMESTAMP() - VARIABLE_VALUE)
    FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'UPTIME'"""
# SKIP LOCKED: reaping does not wait for other transactions.
REAP = [
    (
        f"""
    SELECT place FROM sealedstate_{table} WHERE expires_at <= :now
    ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED""",
        f"DELETE FROM sealedstate_{table} WHERE place IN :places",
    )
    for table in ("record", "member")
]
# Strict: values that do not fit are refused, not truncated. Without NO_BACKSLASH_ESCAPES, on which
# PyMySQL's escaping relies. The waits for locks are whole seconds, at least one.
_STRICT = """
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',
        SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1"""
SESSION = f"""{_STRICT}, SESSION tx_isolation = 'READ-COMMITTED',
        SESSION max_statement_time = :seconds"""
MYSQL_SESSION = f"{_STRICT}, SESSION transaction_isolation = 'READ-COMMITTED'"
STATEMENT_TIME = "SET SESSION max_statement_time = :seconds"
SETTINGS = """
    SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog, @@max_allowed_packet,
        @@version"""
# From this release on, the recovery from a crash under load may read on behind the end of InnoDB's
# log, and apply old records over newer rows. No setting prevents it. Early releases of 11.0 to 11.4
# are sound; they are out of date, and count as the others.
REPEATS_LOG_SINCE = (10, 11, 9)
LOCK_SCHEMA = "SELECT GET_LOCK('sealedstate_schema', :seconds)"
UNLOCK_SCHEMA = "SELECT RELEASE_LOCK('sealedstate_schema')"
# By error code. After all other errors that the server reports, the statement is rolled back.
FAULTS: Mapping[int, Fault] = {
    0: Fault.LOST,  # PyMySQL's "this connection is closed"
    1053: Fault.LOST,  # the server shuts down
    1927: Fault.LOST,  # KILL
    4031: Fault.LOST,  # idle for too long
    1213: Fault.RETRY,  # deadlock
    1020: Fault.RETRY,  # "record has changed since last read"
    1290: Fault.READ_ONLY,
    1792: Fault.READ_ONLY,
    1836: Fault.READ_ONLY,
    1146: Fault.NO_TABLES,
    1153: Fault.TOO_LARGE,  # larger than max_allowed_packet
    1264: Fault.TOO_LARGE,
    1406: Fault.TOO_LARGE,
}
CLIENT_FAULTS = range(2000, 3000)


class _DeadlineSocket(socket.socket):
    """A socket that waits until the thread's deadline."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_remaining())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_remaining())
        super().sendall(*args, **kwargs)


class _DeadlineTLSSocket(_DeadlineSocket, ssl.SSLSocket):
    """The same under TLS."""


def _remaining() -> float:
    return DEADLINE.remaining() or 0.001  # 0 would make the socket non-blocking


class MariaDBConnection(Connection):  # type: ignore[misc]
    """A connection that waits until the thread's deadline, and is useless after that."""

    opened_at = 0.0
    has_statement_time = False
    state: str | None = None
    ctx: ssl.SSLContext
    server_version: str
    _poll: select.poll

    def open_socket(self) -> None:
        """Connect to the first address that accepts, and log in."""
        self.opened_at, self._poll = monotonic(), select.poll()
        if self.unix_socket:
            addresses: list[tuple[int, Any]] = [(socket.AF_UNIX, self.unix_socket)]
        else:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            addresses = [(family, address) for family, _, _, _, address in found]
        problem = OSError("the host has no address")
        for family, address in addresses:
            sock = _DeadlineSocket(family, socket.SOCK_STREAM)
            try:
                if family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    if self.bind_address is not None:
                        sock.bind((self.bind_address, 0))
                sock.settimeout(_remaining())
                sock.connect(address)
                break
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError):
                    raise
                problem = error
        else:
            raise problem
        # TLS keeps the same descriptor.
        self._poll.register(sock.fileno(), select.POLLIN)
        self.connect(sock)
        self.has_statement_time = "MariaDB" in self.server_version

    def is_stale(self) -> bool:
        return not self.open or bool(self._poll.poll(0))


def _value_bytes(packet: int) -> int:
    # PyMySQL sends every byte as two hexadecimal digits, in a packet with the whole statement.
    return max(min(VALUE_BYTES, (packet - PACKET_OVERHEAD) // 2), 0)


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


class MariaDB(Driver):
    """The server that a URL names."""

    # PyMySQL trusts the server's packets: those of another service raise the last three.
    errors = (pymysql.Error, OSError, struct.error, ValueError, IndexError)
    migrations = MIGRATIONS
    number = "IF(:changed, LAST_INSERT_ID(), NULL)"
    assumed = replace(Driver.assumed, value_bytes=_value_bytes(ASSUMED_PACKET))

    def __init__(self, url: URL, timeout: float) -> None:
        super().__init__(url, pymysql, STATEMENTS)
        self._reap = [(self._compile(select), self._compile(delete)) for select, delete in REAP]
        self._session, self._time, self._lock = map(
            self._compile, (SESSION, STATEMENT_TIME, LOCK_SCHEMA)
        )
        self._timeout = timeout
        _, arguments = self.dialect.create_connect_args(url)
        arguments["client_flag"] = arguments.get("client_flag", 0) & ~CLIENT.FOUND_ROWS
        # As bytes, because PyMySQL encodes text as Latin-1.
        arguments["password"] = str(url.password or "").encode()
        options = {"charset": "utf8mb4", "autocommit": True, "defer_connect": True}
        self._template = MariaDBConnection(**{**arguments, **options})
        if self._template.ssl:
            self._template.ctx.sslsocket_class = _DeadlineTLSSocket
        at = self._template.unix_socket or f"{self._template.host}:{self._template.port}"
        self.address = f"{url.get_backend_name()} at {at}/{url.database or ''}"

    def connect(self) -> MariaDBConnection:
        # A copy, because reading the system's certificates takes 50 ms.
        connection = copy.copy(self._template)
        connection.open_socket()
        return connection

    def _set_statement_time(self, cursor: Any, seconds: float) -> None:
        """Set how long a statement may take from now on."""
        if cursor.connection.has_statement_time:
            cursor.execute(self._time, {"seconds": seconds * SERVERS_SHARE})

    def handshake(self, cursor: Any) -> Capabilities:
        if cursor.connection.has_statement_time:
            cursor.execute(self._session, {"seconds": self._timeout * SERVERS_SHARE})
        else:
            cursor.execute(MYSQL_SESSION)
        cursor.execute(SETTINGS)
        flush, log, sync, packet, version = cursor.fetchone()
        release = tuple(map(int, re.findall(r"\d+", version)[:3]))
        repeats_log = cursor.connection.has_statement_time and release >= REPEATS_LOG_SINCE
        settings = f"innodb_flush_log_at_trx_commit is {flush}, log_bin {log}"
        if flush != 1:
            effect = "writes are synced once a second"
        elif not log:
            # InnoDB makes a commit visible just before it is on the disk; the binary log closes
            # that gap. Of 60 crashes under load, 7 took back what another client had read.
            effect = "a crash may take back what was read but not yet acknowledged"
        elif sync != 1:
            effect = "a power failure may take back writes, the server's crash none"
        else:
            effect = "every write is synced"
        why = f"{settings} and sync_binlog {sync}: {effect}"
        if repeats_log:
            why = (
                f"MariaDB {_dotted(release)}, as all since {_dotted(REPEATS_LOG_SINCE)}, may take"
                " back acknowledged writes after kill -9 under load, whatever its settings: keep"
                f" what must survive that in PostgreSQL; {why}"
            )
        return replace(
            self.assumed,
            assumed=False,
            durable=flush == 1 and not repeats_log,
            changes=cursor.connection.has_statement_time,
            value_bytes=_value_bytes(packet),
            reasons={
                "durable": why,
                "value_bytes": f"max_allowed_packet is {packet}",
            },
        )

    def fault(self, error: Exception) -> Fault:
        code = error.args[0] if isinstance(error, pymysql.Error) and error.args else None
        if not isinstance(code, int) or code in CLIENT_FAULTS:
            return Fault.LOST
        return FAULTS.get(code, Fault.REFUSED)

    def message(self, error: Exception) -> str:
        return str(error.args[-1] if error.args else error)

    def begin(self, cursor: Any, seconds: float) -> None:
        self._set_statement_time(cursor, seconds)
        cursor.execute("BEGIN")

    def commit(self, cursor: Any) -> None:
        self._set_statement_time(cursor, self._timeout)
        cursor.execute("COMMIT")

    def lock_schema(self, cursor: Any) -> None:
        # A lock of the whole server: changing a table ends a transaction and releases its locks.
        cursor.execute(self._lock, {"seconds": DEADLINE.remaining() * SERVERS_SHARE})
        if cursor.fetchone() != (1,):
            raise pymysql.OperationalError(1205, "another node is making the tables")

    def unlock_schema(self, cursor: Any) -> None:
        cursor.execute(UNLOCK_SCHEMA)

    def convert_tables(self, cursor: Any) -> None:
        cursor.execute(_OTHER_ENGINES)
        for (table,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {table} ENGINE = InnoDB")

    def execute_numbered(self, cursor: Any, sql: str, params: Params) -> int:
        if (
            not cursor.connection.has_statement_time
        ):  # MySQL has no such blocks, and is not followed
            cursor.execute(sql, params)
            return int(cursor.rowcount)
        cursor.execute(NUMBERED.replace("{sql}", sql), params)
        ((count,),) = cursor.fetchall()
        return int(count)

    def changes(self, cursor: Any, after: str | None, now: int, limit: int) -> Changes:
        connection = cursor.connection
        if connection.state is None:
            cursor.execute(STATE)
            (connection.state,) = cursor.fetchone()
        known, number, place = (after or ":0:").split(":")
        params = {"number": int(number), "place": bytes.fromhex(place), "now": now, "limit": limit}
        cursor.execute(self.statements.changes, params)
        rows = cursor.fetchall()
        if not rows:
            raise StorageUnavailable(
                f"{self.address}: the row of sealedstate_feed is missing, with the number of the"
                " last logout; restore the whole database"
            )
        incarnation, last_number = rows[0][:2]
        state = f"{connection.state}/{incarnation}"
        if after is not None and (state != known or last_number < int(number)):
            return self.changes(cursor, None, now, limit)
        found = [row for row in rows if row[2] is not None]
        if found:
            number, place = found[-1][2], found[-1][3].hex()
        return Changes(
            [(row[4].decode(), row[5].decode(), Stored(*row[6:])) for row in found],
            f"{state}:{number}:{place}",
            len(found) < limit,
            after is None,
        )

    def reap(self, cursor: Any, now: int, limit: int) -> int:
        removed = 0
        for expired, remove in self._reap:
            cursor.execute("BEGIN")
            cursor.execute(expired, {"now": now, "limit": limit - removed})
            if places := tuple(place for (place,) in cursor.fetchall()):
                cursor.execute(remove, {"places": places})
            cursor.execute("COMMIT")
            removed += len(places)
        return removed
