"""``storage="django:ALIAS"``: the server of a database of the project, as the URL of a store.

The store has separate connections, to the database that the alias names, whatever routers say
about reads. So what it records does not depend on a transaction of the project: a logout in a
transaction that is rolled back stays a logout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from sealedstate import ConfigurationError

__all__ = ["database_url"]

SQLITE_SUFFIX = ".sealedstate"
# For a store, such an end of a path is options.
_OPTIONS = re.compile(r"\?\w+=")
# What Django reads itself; all other OPTIONS are the driver's.
_DJANGOS = frozenset(
    {"assume_role", "init_command", "isolation_level", "pool", "server_side_binding", "sql_mode"}
    | {"charset", "cursor_factory", "use_unicode"}
)


def database_url(alias: str, options: str = "") -> str:
    """The URL of the store in a database; `options`: such as ``sealedstate_timeout=1``.

    For SQLite, a file beside the database: SQLite locks a whole file for a transaction, so a logout
    would wait for the transaction of its request. For a database in memory, as in tests, a
    store in memory. Raises ConfigurationError.
    """
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist:
        raise ConfigurationError(
            f"storage: there is no database {alias!r} in DATABASES for django:{alias}"
        ) from None
    database: Mapping[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite":
        name = str(database["NAME"])
        if ":memory:" in name or "mode=memory" in name:
            return "memory:"
        if name.startswith("file:") or _OPTIONS.search(name):
            raise ConfigurationError(
                f"storage: the NAME of the database of django:{alias} is a URI or looks like one;"
                " name a file for the store instead, such as sqlite:/var/lib/shop/sessions.db"
            )
        return f"sqlite:{name}{SQLITE_SUFFIX}" + (f"?{options}" if options else "")
    if connection.vendor not in ("postgresql", "mysql"):
        raise ConfigurationError(
            f"storage: django:{alias} is a database of {connection.vendor}; PostgreSQL, MariaDB,"
            " MySQL and SQLite can be the store"
        )
    return _server_url(connection.vendor, database, options)


def _server_url(vendor: str, database: Mapping[str, Any], options: str) -> str:
    given = {name: value for name, value in database["OPTIONS"].items() if name not in _DJANGOS}
    certificates = given.pop("ssl", None) or {}
    if isinstance(certificates, Mapping):
        given |= {f"ssl_{name}": value for name, value in certificates.items()}
    host, port = str(database["HOST"] or ""), database["PORT"]
    if host.startswith("/"):  # the directory or the name of a socket
        given["host" if vendor == "postgresql" else "unix_socket"] = host
        host = ""
    elif ":" in host:
        host = f"[{host}]"
    if port and host:
        host = f"{host}:{port}"
    elif port:
        given["port"] = port
    if not host and vendor == "mysql":
        host = "localhost"
    texts = (str(database[each] or "") for each in ("USER", "PASSWORD", "NAME"))
    user, password, name = (quote(text, safe="") for text in texts)
    account = f"{user}:{password}@" if password else f"{user}@" if user else ""
    drivers = {name: value for name, value in given.items() if isinstance(value, str | int)}
    query = "&".join(part for part in (urlencode(drivers), options) if part)
    return f"{vendor}://{account}{host}/{name}" + (f"?{query}" if query else "")
