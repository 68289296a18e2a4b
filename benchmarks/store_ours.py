"""How this project uses its own stores: a record at a time, and a session's part at a time.

Knows the storage contract, the spiller, and which engine or client an application may hand in. Does
not know how calls are timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast
from urllib.parse import urlsplit

from benchmarks.store_load import PATIENCE, RECORDS, TEXT, Load
from benchmarks.store_rounds import CAS, CREATE, READ, Contender
from sealedstate import Key
from sealedstate._stored.parts import CONTEXT, StoredParts
from sealedstate._stored.table import StoreAccess
from sealedstate._wire.cbor import decode, encode
from sealedstate.keyring import Keyring
from sealedstate.storage import ManagedStorage

STORE, SESSION = "sealedstate store", "sealedstate session"


def our_store(
    store: ManagedStorage, value_bytes: int, name: str = STORE, context: str = CONTEXT
) -> Contender:
    """The operations of the contract themselves."""
    load, new = Load(value_bytes), f"{context}.new"
    versions, at = load.versions, load.expires_at_millis

    def read(number: int) -> object:
        return store.read(context, load.keys[number % RECORDS])

    def create(number: int) -> object:
        key = load.new_key(number)
        return store.create(new, key, load.value(number), at, load.first_version)

    def compare_and_set(number: int) -> object:
        place = number % RECORDS
        version = versions[place]
        versions[place] = version + 1
        return store.update(context, load.keys[place], load.value(number), at, version + 1, version)

    for number, key in enumerate(load.keys):
        store.create(context, key, load.value(number), at, load.first_version)
    acts = {READ: read, CREATE: create, CAS: compare_and_set}
    return Contender(name, acts, lambda: store.delete_context(new))


def lent_store(backend: str, url: str, value_bytes: int) -> Contender | None:
    """The same over an application's engine or client; None where there is no such thing.

    Raises ImportError where its library is not installed.
    """
    if backend not in _LENDERS:
        return None
    library, module, name, lend = _LENDERS[backend]
    lent = lend(url)
    kind = getattr(import_module(f"sealedstate.storage.{module}"), name)
    store: ManagedStorage = kind(lent, time.time, timeout=PATIENCE)
    return our_store(store, value_bytes, f"{STORE}, {library}", f"{CONTEXT}.lent")


def _sqlalchemy_engine(url: str) -> Any:
    sqlalchemy = import_module("sqlalchemy")
    parsed = sqlalchemy.make_url(url)
    driver = {"postgresql": "psycopg", "mariadb": "pymysql"}[parsed.drivername]
    return sqlalchemy.create_engine(parsed.set(drivername=f"{parsed.drivername}+{driver}"))


def _redis_client(url: str) -> Any:
    return import_module("redis").Redis.from_url(url, socket_timeout=PATIENCE)


def _pymemcache_client(url: str) -> Any:
    where = urlsplit(url)
    return import_module("pymemcache").PooledClient(
        (where.hostname, where.port), timeout=PATIENCE, connect_timeout=PATIENCE
    )


_Lender = tuple[str, str, str, Callable[[str], Any]]
_LENDERS: dict[str, _Lender] = {
    "postgresql": ("SQLAlchemy", "sql", "SQLStorage", _sqlalchemy_engine),
    "mariadb": ("SQLAlchemy", "sql", "SQLStorage", _sqlalchemy_engine),
    "redis": ("redis-py", "redis", "RedisStorage", _redis_client),
    "memcached": ("pymemcache", "memcached", "MemcachedStorage", _pymemcache_client),
}


def our_session(store: ManagedStorage, value_bytes: int) -> Contender:
    """A part of a session: encoded and sealed, checked when it is written, opened and decoded."""
    load, keyring = Load(value_bytes), Keyring((Key.generate(os.urandom),))
    access = StoreAccess(store, "bench", os.urandom, time.time, lambda: keyring)
    parts = StoredParts(access)
    sessions = [os.urandom(16) for _ in range(RECORDS)]
    versions: list[int | None] = [None] * RECORDS

    def read(number: int) -> object:
        place = number % RECORDS
        known = cast(int, versions[place])  # everything was written once, see below
        found = parts.recall(sessions[place], TEXT, known)
        return found is not None and decode(found.value)

    def write(number: int) -> object:
        place = number % RECORDS
        data, known = encode({TEXT: load.text(number)}), versions[place]
        versions[place] = parts.spill(
            sessions[place], TEXT, data, known=known, base=None, expires_at=load.expires_at
        )
        return True

    for number in range(RECORDS):
        write(number)
    return Contender(SESSION, {READ: read, CAS: write})
