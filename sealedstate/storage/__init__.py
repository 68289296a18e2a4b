"""Storage services, for session parts that fit into no cookie and for revocations.

`open_storage` returns the store of a URL. `Storage` is what a store owes, see
`sealedstate.storage.contract`; `USES` is what sealedstate needs of stores, see
`sealedstate.storage.requirements`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cache import CachedStorage
from .contract import (
    Capabilities,
    ManagedStorage,
    Serializer,
    Storage,
    Stored,
    TypedStorage,
    read_if_changed,
)
from .memory import MemoryStorage
from .requirements import USES
from .routing import RoutedStorage
from .urls import open_storage

if TYPE_CHECKING:
    from .sqlite import SQLiteStorage

__all__ = [
    "USES",
    "CachedStorage",
    "Capabilities",
    "ManagedStorage",
    "MemoryStorage",
    "RoutedStorage",
    "SQLiteStorage",
    "Serializer",
    "Storage",
    "Stored",
    "TypedStorage",
    "open_storage",
    "read_if_changed",
]


def __getattr__(name: str) -> object:
    # Imported when it is used, as every store with a driver: sqlite3 takes a twentieth of a start.
    if name == "SQLiteStorage":
        from .sqlite import SQLiteStorage

        return SQLiteStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
