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

import configparser
import copy
import errno
import inspect
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql  # type: ignore[import-untyped]
from pymysql.connections import Connection  # type: ignore[import-untyped]
from pymysql.constants import CLIENT  # type: ignore[import-untyped]

from ...errors import ConfigurationError, StorageUnavailable, StorageUnusable
from ..contract import Capabilities, Changes, Stored
from ..urls import check_file, show_name
from ._pool import (
    CONTEXT_BYTES,
    DEADLINE,
    FOLLOWED_PLACES,
    KEY_BYTES,
    SERVERS_SHARE,
    VALUE_BYTES,
    Driver,
    Fault,
    Misdirected,
    Params,
    Statements,
    new_echo,
    pyformat,
    watch,
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
# A read of a record. All in one column, named like the number of the statement: PyMySQL takes half
# of its time for the descriptions of columns.
_READ = STATEMENTS.read.replace(
    "value, version, expires_at",
    "CONCAT(:echo, ' ', version, ' ', IFNULL(expires_at, ''), ' ', value) AS `:echo`",
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
        COMMIT AND NO CHAIN;
        SELECT :echo AS echo, @sealedstate_rows;
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
        f"DELETE FROM sealedstate_{table} WHERE place IN :places AND expires_at <= :now",
    )
    for table in ("record", "member")
]
# What promises rest on, whatever the server's defaults and its `init_connect` say. Strict: values
# that do not fit are refused, not truncated. Without NO_BACKSLASH_ESCAPES, on which PyMySQL's
# escaping relies. With completion_type=CHAIN, a commit would begin the next transaction; limits of
# SELECT would hide records. The waits for locks are whole seconds, at least one.
_SESSION = """
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',
        SESSION autocommit = 1, SESSION completion_type = 0,
        SESSION sql_select_limit = 18446744073709551615,
        SESSION max_join_size = 18446744073709551615, SESSION sql_big_selects = 1,
        SESSION sql_safe_updates = 0, SESSION sql_auto_is_null = 0,
        SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1"""
SESSION = f"""{_SESSION}, SESSION tx_isolation = 'READ-COMMITTED',
        SESSION max_statement_time = :seconds"""
MYSQL_SESSION = f"{_SESSION}, SESSION transaction_isolation = 'READ-COMMITTED'"
# Where the application configures the connection, for one statement.
STATEMENT_SETTINGS = """
    SET STATEMENT sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',
        sql_select_limit = 18446744073709551615, max_join_size = 18446744073709551615,
        sql_big_selects = 1, sql_safe_updates = 0, sql_auto_is_null = 0,
        innodb_lock_wait_timeout = 1, lock_wait_timeout = 1, max_statement_time = {seconds} FOR """
STATEMENT_TIME = "SET SESSION max_statement_time = :seconds"
SETTINGS = """
    SELECT @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog, @@max_allowed_packet,
        @@version"""
# From this release on, the recovery from a crash under load may read on behind the end of InnoDB's
# log, and apply old records over newer rows. No setting prevents it. Early releases of 11.0 to 11.4
# are sound; they are out of date, and count as the others.
REPEATS_LOG_SINCE = (10, 11, 9)
# Who may not see it gets no row. In MySQL it has another name.
REPLICAS = "SHOW GLOBAL STATUS WHERE Variable_name = 'Slaves_connected'"
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
ACCESS_DENIED = 1045


class _DeadlineSocket(socket.socket):
    """A socket that waits until the thread's deadline."""

    is_looking = False
    """Whether only what was received already may be read."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self.is_looking:
            raise BlockingIOError(errno.EAGAIN, "nothing was read ahead")
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
    _is_readable: Callable[[float], bool]
    _sock: Any
    _rfile: Any
    state: str | None = None
    ctx: ssl.SSLContext
    server_version: str

    def open_socket(self) -> None:
        """Connect to the first address that accepts, and log in."""
        self.opened_at = monotonic()
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
        self.connect(sock)
        self._is_readable = watch(self._sock.fileno())
        self.has_statement_time = "MariaDB" in self.server_version

    def is_stale(self) -> bool:
        sock = self._sock
        if sock is None or self._is_readable(0):
            return True
        # A reply that came twice may have been read together with the first.
        sock.is_looking = True
        try:
            return bool(self._rfile.peek(1) or getattr(sock, "pending", int)())
        except OSError:
            return True
        finally:
            sock.is_looking = False


def _value_bytes(packet: int) -> int:
    # PyMySQL sends every byte as two hexadecimal digits, in a packet with the whole statement.
    return max(min(VALUE_BYTES, (packet - PACKET_OVERHEAD) // 2), 0)


# What a packet must carry beside the statement for sessions of a usual size to fit.
LEAST_VALUE_BYTES = 1 << 16


def _is_true(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


# Parameters of PyMySQL that are no text; all others are passed as they are.
_TYPES: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout", "client_flag"), int),
    **dict.fromkeys(("compress", "local_infile", "use_unicode", "ssl_check_hostname"), _is_true),
    **dict.fromkeys(("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"), _is_true),
}
_TLS = ("ssl_ca", "ssl_key", "ssl_cert", "ssl_capath", "ssl_cipher", "ssl_check_hostname")
_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
_PARAMETERS = {*inspect.signature(Connection).parameters, *_TLS} - {
    *("user", "password", "passwd", "host", "port", "database", "db"),
    *("ssl", "conv", "cursorclass", "auth_plugin_map", "defer_connect"),  # no text
}


def _parse(url: str) -> dict[str, Any]:
    """Return PyMySQL's parameters. Raises ConfigurationError, which hides the URL."""
    if "," in url.partition("?")[0].rpartition("@")[2]:
        raise ConfigurationError(
            "storage: mariadb:// takes one host; name a proxy, or a name that follows the primary"
        )
    try:
        parts = urlsplit(url)
        found: dict[str, Any] = {"host": parts.hostname, "port": parts.port or 3306}
        found["user"], password = (unquote(x or "") for x in (parts.username, parts.password))
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        options = {name: _TYPES.get(name, str)(text) for name, text in pairs}
    except (ValueError, KeyError):
        raise ConfigurationError(
            "storage: the URL of MariaDB is malformed, or a parameter of PyMySQL has a wrong value"
        ) from None
    database = unquote(parts.path.removeprefix("/"))
    if "@" in f"{parts.netloc.rpartition('@')[0]}{database}" or not url.startswith(
        f"{parts.scheme}://"
    ):
        # The @ is from a password, so host and database may contain parts of it.
        raise ConfigurationError("storage: in a password, write @ as %40 and / as %2F")
    for name, value in options.items():
        if name not in _PARAMETERS:
            raise ConfigurationError(
                f"storage: PyMySQL takes no {show_name('parameter', name)} in a URL; user,"
                " password, host, port and database precede the ?"
            )
        if name in _FILES:
            check_file(name, str(value))
    if not found["host"]:
        found["host"] = "localhost"
    if tls := {name.removeprefix("ssl_"): options.pop(name) for name in _TLS if name in options}:
        options["ssl"] = tls
    # As bytes, because PyMySQL encodes text as Latin-1. Without one, a file of options may have it.
    if password:
        found["password"] = password.encode()
    return {key: value for key, value in found.items() if value} | {"database": database} | options


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


class MariaDB(Driver):
    """The server that a URL names."""

    migrations = MIGRATIONS
    number = "IF(:changed, LAST_INSERT_ID(), NULL)"
    assumed = replace(Driver.assumed, value_bytes=_value_bytes(ASSUMED_PACKET))

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(STATEMENTS)
        self._reap = [(pyformat(select), pyformat(delete)) for select, delete in REAP]
        self._read, self._session, self._time, self._lock = map(
            pyformat, (_READ, SESSION, STATEMENT_TIME, LOCK_SCHEMA)
        )
        self._timeout = timeout
        self._queries: dict[str, str] = {}
        self._changes: dict[str, str] = {}
        self._blocks: dict[str, str] = {}
        self._arguments = _parse(url)
        self.password = self._arguments.get("password", b"").decode()
        self._template = self._make_template()
        at = self._template.unix_socket or f"{self._template.host}:{self._template.port}"
        self.hosts = [str(at)]
        self.address = f"{url.partition(':')[0]} at {at}/{self._arguments['database']}"

    def _make_template(self) -> MariaDBConnection:
        """Make a connection to copy. Raises ConfigurationError for its file of options."""
        if "read_default_file" in self._arguments:
            # Without it, PyMySQL would log in as the user of this process.
            path = Path(self._arguments["read_default_file"]).expanduser()
            check_file("read_default_file", str(path))
        flags = self._arguments.get("client_flag", 0) & ~CLIENT.FOUND_ROWS
        try:
            template = MariaDBConnection(
                **{
                    **self._arguments,
                    "client_flag": flags | CLIENT.MULTI_STATEMENTS,
                    "charset": "utf8mb4",
                    "autocommit": True,
                    "defer_connect": True,
                }
            )
        except configparser.Error as error:
            # Its text repeats a line, which may be that of the password.
            raise ConfigurationError(
                f"storage: read_default_file: PyMySQL refuses the file ({type(error).__name__});"
                " are its options under [client]?"
            ) from None
        if template.ssl:
            template.ctx.sslsocket_class = _DeadlineTLSSocket
        return template

    def connect(self, host: int) -> MariaDBConnection:
        # A copy, because reading the system's certificates takes 50 ms.
        connection = copy.copy(self._template)
        try:
            connection.open_socket()
        except pymysql.OperationalError as error:
            # The password in a file of options may have changed.
            if error.args[0] != ACCESS_DENIED or "read_default_file" not in self._arguments:
                raise
            try:
                self._template = self._make_template()
            except ConfigurationError as problem:
                raise pymysql.OperationalError(
                    ACCESS_DENIED, f"{error.args[-1]}; {problem}"
                ) from None
            connection = copy.copy(self._template)
            connection.open_socket()
        return connection

    def _set_statement_time(self, cursor: Any, seconds: float) -> None:
        """Set how long a statement may take from now on."""
        if cursor.connection.has_statement_time:
            cursor.execute(self._time, {"seconds": seconds * SERVERS_SHARE})

    def handshake(self, cursor: Any) -> Capabilities:
        if cursor.connection.has_statement_time:
            self.change(cursor, self._session, {"seconds": self._timeout * SERVERS_SHARE})
        else:
            self.change(cursor, MYSQL_SESSION, {})
        (settings,) = self.query(cursor, SETTINGS, {})
        cursor.execute(REPLICAS)
        replicas = sum(int(count) for _, count in cursor.fetchall())
        return self._describe(settings, replicas, cursor.connection.has_statement_time)

    def _describe(self, found: tuple[Any, ...], replicas: int, is_mariadb: bool) -> Capabilities:
        flush, log, sync, packet, version = found
        release = tuple(map(int, re.findall(r"\d+", version)[:3]))
        repeats_log = is_mariadb and release >= REPEATS_LOG_SINCE
        if _value_bytes(packet) < LEAST_VALUE_BYTES:
            raise StorageUnusable(
                f"{self.address}: max_allowed_packet is {packet}; it must be at least"
                f" {2 * LEAST_VALUE_BYTES + PACKET_OVERHEAD}"
            )
        advice = []
        if repeats_log:
            advice.append("keep logouts in PostgreSQL, if no crash may cost one")
        settings = f"innodb_flush_log_at_trx_commit is {flush}, log_bin {log}"
        if flush != 1:
            effect = "writes are synced once a second"
            advice.append("set innodb_flush_log_at_trx_commit = 1")
        elif not log:
            # InnoDB makes a commit visible just before it is on the disk; the binary log closes
            # that gap. Of 60 crashes under load, 7 took back what another client had read.
            effect = "a crash may take back what was read but not yet acknowledged"
            advice.append("set log_bin, so that no crash takes back what was read")
        elif sync != 1:
            effect = "a power failure may take back writes, the server's crash none"
        else:
            effect = "every write is synced"
        if replicas:
            effect += (
                f"; Slaves_connected {replicas}: a failover may lose acknowledged logouts"
                " (replication is asynchronous, unless it is semi-synchronous and a replica has"
                " answered in time)"
            )
            advice.append(
                "replicate semi-synchronously, with rpl_semi_sync_master_timeout longer than"
                " outages, so that a failover keeps acknowledged logouts"
            )
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
            changes=is_mariadb,
            value_bytes=_value_bytes(packet),
            reasons={
                "durable": why,
                "value_bytes": f"max_allowed_packet is {packet}",
            },
            advice=tuple(advice),
        )

    def query(self, cursor: Any, sql: str, params: Params) -> list[tuple[Any, ...]]:
        echo = new_echo()
        query = self._queries.get(sql)
        if query is None:
            # The name of a column is in the answer even if it has no rows.
            columns = sql.lstrip().removeprefix("SELECT")
            query = self._queries[sql] = f"SELECT %(echo)s AS `%(echo)s`,{columns}"
        cursor.execute(query, {**params, "echo": echo})
        rows = cursor.fetchall()
        if cursor.description[0][0] != str(echo) or any(row[0] != echo for row in rows):
            raise Misdirected
        return [row[1:] for row in rows]

    def read(self, cursor: Any, place: bytes, now: int) -> Stored | None:
        echo = new_echo()
        cursor.execute(self._read, {"echo": echo, "place": place, "now": now})
        rows = cursor.fetchall()
        if cursor.description[0][0] != str(echo):
            raise Misdirected
        if not rows:
            return None
        number, version, expires_at, value = rows[0][0].split(b" ", 3)
        if int(number) != echo:
            raise Misdirected
        return Stored(value, int(version), int(expires_at) if expires_at else None)

    def change(self, cursor: Any, sql: str, params: Params) -> int:
        change = self._changes.get(sql)
        if change is None:
            change = self._changes[sql] = f"SELECT %(echo)s; {sql}"
        echo = new_echo()
        cursor.execute(change, {**params, "echo": echo})
        if cursor.fetchall() != ((echo,),) or not cursor.nextset() or cursor.description:
            raise Misdirected
        count: int = cursor.rowcount
        return count

    def fault(self, error: Exception) -> Fault:
        return fault_of(error if isinstance(error, pymysql.Error) else None)

    def message(self, error: Exception) -> str:
        return str(error.args[-1] if error.args else error)

    def begin(self, cursor: Any, seconds: float) -> None:
        self._set_statement_time(cursor, seconds)
        cursor.execute("BEGIN")

    def commit(self, cursor: Any) -> None:
        self._set_statement_time(cursor, self._timeout)
        self.change(cursor, "COMMIT", {})

    def lock_schema(self, cursor: Any) -> None:
        # A lock of the whole server: changing a table ends a transaction and releases its locks.
        seconds = DEADLINE.remaining() * SERVERS_SHARE
        if self.query(cursor, self._lock, {"seconds": seconds}) != [(1,)]:
            raise pymysql.OperationalError(1205, "another node is making the tables")

    def unlock_schema(self, cursor: Any) -> None:
        cursor.execute(UNLOCK_SCHEMA)

    def convert_tables(self, cursor: Any) -> None:
        for (table,) in self.query(cursor, _OTHER_ENGINES, {}):
            cursor.execute(f"ALTER TABLE {table} ENGINE = InnoDB")

    def change_numbered(self, cursor: Any, sql: str, params: Params) -> int:
        if not cursor.connection.has_statement_time:
            return self.change(cursor, sql, params)  # MySQL has no such blocks, and is not followed
        block = self._blocks.get(sql)
        if block is None:
            block = self._blocks[sql] = pyformat(NUMBERED).replace("{sql}", sql)
        echo = new_echo()
        cursor.execute(block, {**params, "echo": echo})
        rows = cursor.fetchall()
        while cursor.nextset():
            pass  # what the block itself returns
        if len(rows) != 1 or rows[0][0] != echo:
            raise Misdirected
        count: int = rows[0][1]
        return count

    def changes(self, cursor: Any, after: str | None, now: int, limit: int) -> Changes:
        connection = cursor.connection
        if connection.state is None:
            ((connection.state,),) = self.query(cursor, STATE, {})
        known, number, place = (after or ":0:").split(":")
        params = {"number": int(number), "place": bytes.fromhex(place), "now": now, "limit": limit}
        rows = self.query(cursor, self.statements.changes, params)
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
        found.sort(key=lambda row: (row[2], row[3]))
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
            found = self.query(cursor, expired, {"now": now, "limit": limit - removed})
            if places := tuple(place for (place,) in found):
                self.change(cursor, remove, {"places": places, "now": now})
            self.change(cursor, "COMMIT", {})
            removed += len(places)
        return removed


def fault_of(error: object) -> Fault:
    """Return what an error of a driver means, by its code."""
    arguments = getattr(error, "args", ())
    code = arguments[0] if arguments else None
    if not isinstance(code, int) or code in CLIENT_FAULTS:
        return Fault.LOST
    return FAULTS.get(code, Fault.REFUSED)
