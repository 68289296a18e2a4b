"""Storage services: where parts go that fit into no cookie, and where revocations are kept.

Knows the contract and which backend a URL names. Does not know what is stored.
"""

from __future__ import annotations

from ..errors import ConfigurationError
from .contract import Capabilities, Clock, Storage, Stored
from .memory import MemoryStorage
from .sqlite import SQLiteStorage

__all__ = [
    "Capabilities",
    "MemoryStorage",
    "SQLiteStorage",
    "Storage",
    "Stored",
    "open_storage",
]


def open_storage(url: str, clock: Clock) -> Storage:
    """The store that a URL names: `memory:` or `sqlite:PATH`. Raises ConfigurationError."""
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "memory" and not rest:
        return MemoryStorage(clock)
    if colon and scheme == "sqlite" and rest:
        return SQLiteStorage(rest, clock)
    raise ConfigurationError("storage: one of 'memory:', 'sqlite:PATH', or a store object")
