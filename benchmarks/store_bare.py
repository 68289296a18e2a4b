"""What a store is measured against: its driver alone, in its fastest mode, on one open connection.

Knows each driver and the least that does the same work: a value with its version and expiry under
one short key, created where there is none, overwritten where its version is the expected one. Does
not know our stores, nor how calls are timed. Drivers are imported when they are asked for, and by
name, so that neither this module nor a type checker needs any of them installed.

A driver has what every correct application gives it: writes as durable as those of our store,
a time-out of its own or of its server, and, where the server removes nothing itself, a look at the
expiry of a record. Each of its threads has a connection, so nothing is shared.

What it is spared: hashing names, one deadline for all of a call, a pool, forks, connections that
may have died, answers that belong to another call, other versions of a server's settings, removing
what has expired, listing what belongs together.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.store_load import LIFETIME, PATIENCE, RECORDS, Load
from benchmarks.store_rounds import CAS, CREATE, READ, Contender
from sealedstate.storage.sqlite import wal_is_safe


def bare(backend: str, url: str, value_bytes: int) -> Contender:
    """The bare driver of a backend at a URL. Raises ImportError where it is not installed."""
    return _OPENERS[backend](url, Load(value_bytes))


def open_dict(_: str, load: Load) -> Contender:
    """There is no driver."""
    lock, versions, at = threading.Lock(), load.versions, load.expires_at_millis
    table = {key: (load.value(0), load.first_version, at) for key in load.keys}

    def read(number: int) -> object:
        with lock:
            return table.get(load.keys[number % RECORDS])

    def create(number: int) -> object:
        key = load.new_key(number)
        with lock:
            if key in table:
                return False
            table[key] = (load.value(number), load.first_version, at)
            return True

    def compare_and_set(number: int) -> object:
        place = number % RECORDS
        key, version = load.keys[place], versions[place]
        versions[place] = version + 1
        with lock:
            if table[key][1] != version:
                return False
            table[key] = (load.value(number), version + 1, at)
            return True

    def clear() -> None:
        for key in [key for key in table if key.startswith("new-")]:
            del table[key]

    acts = {READ: read, CREATE: create, CAS: compare_and_set}
    return Contender("a dict and a lock", acts, clear)


# --- SQL ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a driver writes a parameter, and how its server makes a table and spares a duplicate."""

    parameter: str
    columns: str
    create: str

    def written(self, sql: str) -> str:
        """A statement with the parameters as the driver writes them."""
        return sql.replace("?", self.parameter)


SQLITE = Dialect(
    "?",
    "name TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL,"
    " expires_at INTEGER NOT NULL",
    "INSERT OR IGNORE INTO bare_record VALUES (?, ?, ?, ?)",
)
# Parameters travel in binary.
POSTGRESQL = Dialect(
    "%b",
    'name TEXT COLLATE "C" PRIMARY KEY, value BYTEA NOT NULL, version BIGINT NOT NULL,'
    " expires_at BIGINT NOT NULL",
    "INSERT INTO bare_record VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
)
MARIADB = Dialect(
    "%s",
    "name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,"
    " value LONGBLOB NOT NULL, version BIGINT NOT NULL, expires_at BIGINT NOT NULL",
    "INSERT IGNORE INTO bare_record VALUES (?, ?, ?, ?)",
)
READ_SQL = """
    SELECT value, version, expires_at FROM bare_record WHERE name = ? AND expires_at > ?"""
CAS_SQL = """
    UPDATE bare_record SET value = ?, version = ?, expires_at = ?
    WHERE name = ? AND version = ? AND expires_at > ?"""
CLEAR_SQL = "DELETE FROM bare_record WHERE name >= ?"


def open_sqlite3(url: str, load: Load) -> Contender:
    """A file of its own, as durable as our store's: each write is synced."""
    sqlite3 = import_module("sqlite3")
    connection = sqlite3.connect(url.partition(":")[2] + ".bare", isolation_level=None)
    mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"CREATE TABLE bare_record ({SQLITE.columns}) WITHOUT ROWID")
    return _sql("sqlite3", connection, connection.cursor(), SQLITE, load)


def open_psycopg(url: str, load: Load) -> Contender:
    """In autocommit mode, every statement prepared when it is first used, results in binary."""
    connection = import_module("psycopg").connect(url, autocommit=True, prepare_threshold=0)
    for limit in ("statement_timeout", "lock_timeout"):
        connection.execute(f"SET {limit} = '{PATIENCE}s'")
    connection.execute(f"CREATE TABLE bare_record ({POSTGRESQL.columns})")
    return _sql("psycopg", connection, connection.cursor(binary=True), POSTGRESQL, load)


def open_pymysql(url: str, load: Load) -> Contender:
    """In autocommit mode."""
    where = urlsplit(url)
    connection = import_module("pymysql").connect(
        host=where.hostname,
        port=where.port,
        user=unquote(where.username or ""),
        password=unquote(where.password or ""),
        database=where.path.strip("/"),
        autocommit=True,
        read_timeout=PATIENCE,
        write_timeout=PATIENCE,
    )
    cursor = connection.cursor()
    cursor.execute(f"SET SESSION max_statement_time = {PATIENCE}")
    cursor.execute(f"CREATE TABLE bare_record ({MARIADB.columns}) ENGINE = InnoDB")
    return _sql("PyMySQL", connection, cursor, MARIADB, load)


def _sql(name: str, connection: Any, cursor: Any, dialect: Dialect, load: Load) -> Contender:
    statements = dialect.create, READ_SQL, CAS_SQL, CLEAR_SQL
    insert, select, update, delete = map(dialect.written, statements)
    versions, at = load.versions, load.expires_at_millis

    def create_as(key: str, number: int) -> object:
        cursor.execute(insert, (key, load.value(number), load.first_version, at))
        return cursor.rowcount

    def read(number: int) -> object:
        cursor.execute(select, (load.keys[number % RECORDS], int(time.time() * 1000)))
        return cursor.fetchone()

    def create(number: int) -> object:
        return create_as(load.new_key(number), number)

    def compare_and_set(number: int) -> object:
        place = number % RECORDS
        version = versions[place]
        versions[place] = version + 1
        now, key = int(time.time() * 1000), load.keys[place]
        cursor.execute(update, (load.value(number), version + 1, at, key, version, now))
        return cursor.rowcount

    def clear() -> None:
        cursor.execute(delete, ("new-",))

    for number, key in enumerate(load.keys):
        create_as(key, number)
    acts = {READ: read, CREATE: create, CAS: compare_and_set}
    return Contender(name, acts, clear, close=connection.close)


# --- key-value servers ----------------------------------------------------------------------------

_HEADER = struct.Struct(">qq")
# Keys: the record. More: what to write, the version that must be there, for how long in ms.
COMPARE_AND_SET = """
if redis.call('GETRANGE', KEYS[1], 0, 7) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
"""


def open_redis(url: str, load: Load) -> Contender:
    """One connection, and no pool; to compare and set is one script, called by its digest."""
    client = import_module("redis").Redis.from_url(
        url,
        single_connection_client=True,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
    )
    digest = client.script_load(COMPARE_AND_SET)
    versions, milliseconds = load.versions, LIFETIME * 1000

    def create_as(key: str, number: int) -> object:
        return client.set(key, _blob(load, load.first_version, number), px=milliseconds, nx=True)

    def read(number: int) -> object:
        return _unpacked(client.get(load.keys[number % RECORDS]))

    def create(number: int) -> object:
        return create_as(load.new_key(number), number)

    def compare_and_set(number: int) -> object:
        place = number % RECORDS
        version = versions[place]
        versions[place] = version + 1
        blob, expected = _blob(load, version + 1, number), version.to_bytes(8, "big")
        return client.evalsha(digest, 1, load.keys[place], blob, expected, milliseconds)

    def clear() -> None:
        for name in client.scan_iter("new-*", count=1000):
            client.unlink(name)

    for number, key in enumerate(load.keys):
        create_as(key, number)
    acts = {READ: read, CREATE: create, CAS: compare_and_set}
    return Contender("redis-py", acts, clear, close=client.close)


def open_pymemcache(url: str, load: Load) -> Contender:
    """To compare and set is two round trips: what `cas` knows a value by comes with `gets`."""
    where = urlsplit(url)
    client = import_module("pymemcache.client.base").Client(
        (where.hostname, where.port),
        no_delay=True,
        default_noreply=False,
        timeout=PATIENCE,
        connect_timeout=PATIENCE,
    )
    versions = load.versions

    def create_as(key: str, number: int) -> object:
        return client.add(key, _blob(load, load.first_version, number), LIFETIME)

    def read(number: int) -> object:
        return _unpacked(client.get(load.keys[number % RECORDS]))

    def create(number: int) -> object:
        return create_as(load.new_key(number), number)

    def compare_and_set(number: int) -> object:
        place = number % RECORDS
        key, version = load.keys[place], versions[place]
        versions[place] = version + 1
        found, token = client.gets(key)
        if _HEADER.unpack_from(found)[0] != version:
            return False
        return client.cas(key, _blob(load, version + 1, number), token, LIFETIME)

    for number, key in enumerate(load.keys):
        create_as(key, number)
    acts = {READ: read, CREATE: create, CAS: compare_and_set}
    return Contender("pymemcache", acts, close=client.close)


def _blob(load: Load, version: int, number: int) -> bytes:
    return _HEADER.pack(version, load.expires_at_millis) + load.value(number)


def _unpacked(blob: bytes) -> tuple[bytes, int, int]:
    version, expires_at = _HEADER.unpack_from(blob)
    return blob[_HEADER.size :], version, expires_at


_OPENERS: dict[str, Callable[[str, Load], Contender]] = {
    "memory": open_dict,
    "sqlite": open_sqlite3,
    "postgresql": open_psycopg,
    "mariadb": open_pymysql,
    "redis": open_redis,
    "memcached": open_pymemcache,
}
