"""Storage services: where parts go that fit into no cookie, and where revocations are kept.

Knows the contract and which backend a URL names. Does not know what is stored.

A backend that needs a driver is imported when a URL names it, so that nobody needs drivers of
stores that he does not use.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from ..errors import ConfigurationError
from .cache import CachedStorage
from .contract import Capabilities, Clock, Storage, Stored
from .memory import MemoryStorage
from .requirements import USES, mismatch, unmet
from .routing import RoutedStorage
from .sqlite import SQLiteStorage
from .typed import Serializer, TypedStorage
from .urls import split_path, split_url, urls_of

__all__ = [
    "USES",
    "CachedStorage",
    "Capabilities",
    "MemoryStorage",
    "RoutedStorage",
    "SQLiteStorage",
    "Serializer",
    "Storage",
    "Stored",
    "TypedStorage",
    "mismatch",
    "open_storage",
    "unmet",
]

URLS = (
    "memory:",
    "sqlite:PATH",
    "postgresql://...",
    "mariadb://...",
    "redis://...",
    "memcached://HOST:PORT",
    "layered:MILLISECONDS:URL",
)


# What processes tell about the keys that they use, see `key_sources.reports`.
NODES = "sealedstate.nodes"


def open_storage(url: str | Mapping[str, str], clock: Clock) -> Storage:
    """The store that a URL names, one of `URLS`, without connecting to it yet.

    Behind a ``?``, beside the driver's own parameters, a URL takes ``sealedstate_timeout``, the
    seconds that a call may take (not `memory:`), and ``sealedstate_pool_size``, the connections of
    each process (SQL servers). A mapping sends contexts to stores of their own,
    ``{"*": URL, "sealedstate.revoked": URL}``, and so does a text of words,
    ``"*=URL sealedstate.revoked=URL"``.

    Raises ConfigurationError, which repeats no URL: it may hold a password.
    """
    urls = urls_of(url) if isinstance(url, str) else url
    return _open_url(urls, clock) if isinstance(urls, str) else _open_split(urls, clock)


def _open_url(url: str, clock: Clock) -> Storage:
    scheme, colon, rest = url.partition(":")
    opener = _OPENERS.get(scheme) if colon else None
    if opener is None:
        raise ConfigurationError(f"storage: one of {', '.join(URLS)}, or a store object")
    return opener(url, rest, clock)


def _open_split(urls: Mapping[str, str], clock: Clock) -> Storage:
    if "*" not in urls:
        raise ConfigurationError('storage: a table of contexts has "*" for all the others')
    _check_contexts(urls)
    # Contexts that name the same URL share one store, and so its connections.
    opened = {url: _open_url(url, clock) for url in set(urls.values())}
    contexts = {context: opened[url] for context, url in urls.items() if context != "*"}
    return RoutedStorage(opened[urls["*"]], contexts)


def _check_contexts(contexts: Iterable[str]) -> None:
    """Whoever mistypes one of ours would keep it where he does not look for it."""
    known = [*(context for use in USES.values() for context in use.contexts), NODES]
    for context in contexts:
        if context.startswith("sealedstate.") and context not in known:
            near = difflib.get_close_matches(context, known, n=1) or known
            raise ConfigurationError(
                f"storage: there is no context {context!r}; did you mean {' or '.join(near)}?"
            )


def _open_memory(_: str, rest: str, clock: Clock) -> Storage:
    if rest:
        raise ConfigurationError("storage: memory: takes nothing behind the colon")
    return MemoryStorage(clock)


def _open_sqlite(_: str, rest: str, clock: Clock) -> Storage:
    path, options = split_path(rest, ("timeout",))
    if not path:
        raise ConfigurationError("storage: sqlite:PATH needs a path")
    return SQLiteStorage(path, clock, **options)


def _open_layered(_: str, rest: str, clock: Clock) -> Storage:
    staleness, colon, behind = rest.partition(":")
    if not (colon and staleness.isascii() and staleness.isdigit()):
        raise ConfigurationError("storage: layered:MILLISECONDS:URL")
    return CachedStorage(_open_url(behind, clock), clock, int(staleness))


def _open_sql(url: str, _: str, clock: Clock) -> Storage:
    from .sql import SQLStorage

    bare, options = split_url(url, ("timeout", "pool_size"))
    return SQLStorage(bare, clock, **options)


def _open_redis(url: str, _: str, clock: Clock) -> Storage:
    from .redis import RedisStorage

    bare, options = split_url(url, ("timeout",))
    return RedisStorage(bare, clock, **options)


def _open_memcached(url: str, _: str, clock: Clock) -> Storage:
    from .memcached import MemcachedStorage

    bare, options = split_url(url, ("timeout",))
    return MemcachedStorage(bare, clock, **options)


_OPENERS: dict[str, Callable[[str, str, Clock], Storage]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "layered": _open_layered,
    "postgresql": _open_sql,
    "mariadb": _open_sql,
    "mysql": _open_sql,
    "redis": _open_redis,
    "rediss": _open_redis,
    "valkey": _open_redis,
    "valkeys": _open_redis,
    "memcached": _open_memcached,
}
