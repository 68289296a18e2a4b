"""Storage services: where parts go that fit into no cookie, and where revocations are kept.

Knows the contract and which backend a URL names. Does not know what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import ConfigurationError
from .contract import Capabilities, Clock, Storage, Stored
from .layered import CachedStorage, SplitStorage
from .memory import MemoryStorage
from .objects import ObjectView, Serializer
from .requirements import USES, mismatch, unmet
from .sqlite import SQLiteStorage

__all__ = [
    "USES",
    "CachedStorage",
    "Capabilities",
    "MemoryStorage",
    "ObjectView",
    "SQLiteStorage",
    "Serializer",
    "SplitStorage",
    "Storage",
    "Stored",
    "mismatch",
    "open_storage",
    "unmet",
]

URLS = (
    "memory:",
    "sqlite:PATH",
    "layered:MILLISECONDS:URL",
)


def open_storage(url: str | Mapping[str, str], clock: Clock) -> Storage:
    """The store that a URL names, one of `URLS`, without connecting to it yet.

    A mapping sends contexts to stores of their own: ``{"*": URL, "sealedstate.revoked": URL}``.
    Raises ConfigurationError, which repeats no URL: it may hold a password.
    """
    if not isinstance(url, str):
        return _open_split(url, clock)
    scheme, colon, rest = url.partition(":")
    opener = _OPENERS.get(scheme) if colon else None
    if opener is None:
        raise ConfigurationError(f"storage: one of {', '.join(URLS)}, or a store object")
    return opener(url, rest, clock)


def _open_split(urls: Mapping[str, str], clock: Clock) -> Storage:
    if "*" not in urls:
        raise ConfigurationError('storage: a table of contexts has "*" for all the others')
    # Contexts that name the same URL share one store, and so its connections.
    opened = {url: open_storage(url, clock) for url in set(urls.values())}
    contexts = {context: opened[url] for context, url in urls.items() if context != "*"}
    return SplitStorage(opened[urls["*"]], contexts)


def _open_memory(_: str, rest: str, clock: Clock) -> Storage:
    if rest:
        raise ConfigurationError("storage: memory: takes nothing behind the colon")
    return MemoryStorage(clock)


def _open_sqlite(_: str, rest: str, clock: Clock) -> Storage:
    if not rest:
        raise ConfigurationError("storage: sqlite:PATH needs a path")
    return SQLiteStorage(rest, clock)


def _open_layered(_: str, rest: str, clock: Clock) -> Storage:
    staleness, colon, behind = rest.partition(":")
    if not (colon and staleness.isascii() and staleness.isdigit()):
        raise ConfigurationError("storage: layered:MILLISECONDS:URL")
    return CachedStorage(open_storage(behind, clock), clock, int(staleness))


_OPENERS: dict[str, Callable[[str, str, Clock], Storage]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "layered": _open_layered,
}
