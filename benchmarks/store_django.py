"""Django's sessions on the same servers: its `db` backend on databases, its `cache` on the others.

Knows Django's settings and session stores. Does not know servers beyond their URLs, our stores, or
how calls are timed. Django is imported when it is asked for, and by name, so that neither this
module nor a type checker needs it installed.

The settings are those that Django's documentation recommends for speed: connections stay open
(CONN_MAX_AGE None), psycopg 3, mysqlclient, the cache backends that come with it. Where mysqlclient
is not installed, PyMySQL takes its place.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.store_load import RECORDS, TEXT, Load
from benchmarks.store_rounds import CAS, READ, Contender
from sealedstate.storage.sqlite import wal_is_safe

DB, CACHE = "Django db session", "Django cache session"
DJANGO = {DB, CACHE}
_BACKENDS = "django.contrib.sessions.backends"
_DUMMY = {"ENGINE": "django.db.backends.dummy"}
_LOCAL = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def django_sessions(urls: Mapping[str, str], value_bytes: int) -> dict[str, Contender]:
    """A contender for each backend that Django has sessions for, by backend.

    Can be called once in a process. Raises ImportError where Django is not installed.
    """
    django, conf = import_module("django"), import_module("django.conf")
    databases = {name: _DATABASES[name](url) for name, url in urls.items() if name in _DATABASES}
    caches = {name: _CACHES[name](url) for name, url in urls.items() if name in _CACHES}
    conf.settings.configure(
        SECRET_KEY=secrets.token_urlsafe(50),
        INSTALLED_APPS=["django.contrib.sessions"],
        DATABASES={"default": _DUMMY, **databases},
        DATABASE_ROUTERS=[_Router()],
        CACHES={"default": _LOCAL, **caches},
        USE_TZ=True,
    )
    django.setup()
    by_db = {name: _by_db(name, Load(value_bytes)) for name in databases}
    return by_db | {name: _by_cache(name, Load(value_bytes)) for name in caches}


def database_of(backend: str, url: str) -> dict[str, Any]:
    """The setting of a database, as recommended for speed."""
    return _DATABASES[backend](url)


def cache_of(backend: str, url: str) -> dict[str, Any]:
    """The setting of a cache."""
    return _CACHES[backend](url)


def mysql_driver() -> str:
    """What Django speaks to MariaDB with."""
    return "mysqlclient" if find_spec("MySQLdb") else "pymysql"


class _Router:
    """Sends every question to the database whose turn it is."""

    alias = "default"

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return _Router.alias

    db_for_write = db_for_read


def _by_db(alias: str, load: Load) -> Contender:
    connection = import_module("django.db").connections[alias]
    model = import_module("django.contrib.sessions.models").Session
    with connection.schema_editor() as editor:
        editor.create_model(model)
    store = import_module(f"{_BACKENDS}.db").SessionStore

    def turn() -> None:
        _Router.alias = alias

    return _contender(DB, store, turn, connection.close, load)


def _by_cache(alias: str, load: Load) -> Contender:
    settings = import_module("django.conf").settings
    store = import_module(f"{_BACKENDS}.cache").SessionStore

    def turn() -> None:
        settings.SESSION_CACHE_ALIAS = alias

    close = import_module("django.core.cache").caches[alias].close
    return _contender(CACHE, store, turn, close, load)


def _contender(
    name: str, store: Any, turn: Callable[[], None], close: Callable[[], object], load: Load
) -> Contender:
    """Loads and saves as SessionMiddleware does, each time through a new session object."""

    def made(number: int) -> str:
        session = store()
        session[TEXT] = load.text(number)
        session.create()
        session.save()
        return str(session.session_key)

    def read(number: int) -> object:
        return store(keys[number % RECORDS]).load()

    def write(number: int) -> object:
        sessions[number % RECORDS][TEXT] = load.text(number)
        sessions[number % RECORDS].save()
        return True

    turn()
    keys = [made(number) for number in range(RECORDS)]
    sessions = [store(key) for key in keys]
    for session in sessions:
        session.load()
    return Contender(name, {READ: read, CAS: write}, begin=turn, close=close)


# --- settings -------------------------------------------------------------------------------------


def _sqlite(url: str) -> dict[str, Any]:
    mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
    pragmas = f"PRAGMA journal_mode = {mode}; PRAGMA synchronous = FULL"
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": url.partition(":")[2] + ".django",
        "CONN_MAX_AGE": None,
        "OPTIONS": {"init_command": pragmas},
    }


def _postgresql(url: str) -> dict[str, Any]:
    (options,) = parse_qs(urlsplit(url).query)["options"]
    return _server(url) | {
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": {"options": options},
    }


def _mariadb(url: str) -> dict[str, Any]:
    if mysql_driver() == "pymysql":
        import_module("pymysql").install_as_MySQLdb()
    return _server(url) | {"ENGINE": "django.db.backends.mysql"}


def _server(url: str) -> dict[str, Any]:
    where = urlsplit(url)
    return {
        "HOST": where.hostname,
        "PORT": where.port,
        "USER": unquote(where.username or ""),
        "PASSWORD": unquote(where.password or ""),
        "NAME": where.path.strip("/"),
        "CONN_MAX_AGE": None,
    }


def _redis(url: str) -> dict[str, Any]:
    return {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}


def _memcached(url: str) -> dict[str, Any]:
    return {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": urlsplit(url).netloc,
    }


_DATABASES = {"sqlite": _sqlite, "postgresql": _postgresql, "mariadb": _mariadb}
_CACHES = {"redis": _redis, "memcached": _memcached}
