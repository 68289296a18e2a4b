"""Sealed client-side sessions: encrypted, compact, cut to what browsers and servers carry.

The names of every application. Further public modules: `errors`, `keyring`, `key_sources`,
`rotation`, `storage`, `sso`, `hooks`, `testing` and `exporters`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._request.load import PartInfo, SessionInfo
from ._wire.cbor import plain
from .deployment import Deployment
from .errors import (
    ConfigurationError,
    LateRead,
    LateWrite,
    OperatorError,
    SealedStateError,
    SessionNotLoaded,
    SessionTooLarge,
    SessionWithheld,
    StorageError,
    UnreadablePart,
    UnsupportedValue,
    UsageError,
)
from .events import Event, Observer
from .keeper import Keeper, Outcome, Saved
from .key_sources import KeySource
from .keyring import Key
from .profiles import PROFILES, Profile
from .session import Session
from .settings import Settings
from .storage import Storage, open_storage

if TYPE_CHECKING:
    from .legacy import LegacyReader
    from .protector import Protector

__version__ = "0.1.0"

__all__ = [
    "PROFILES",
    "ConfigurationError",
    "Deployment",
    "Event",
    "Keeper",
    "Key",
    "KeySource",
    "LateRead",
    "LateWrite",
    "LegacyReader",
    "Observer",
    "OperatorError",
    "Outcome",
    "PartInfo",
    "Profile",
    "Protector",
    "Saved",
    "SealedStateError",
    "Session",
    "SessionInfo",
    "SessionNotLoaded",
    "SessionTooLarge",
    "SessionWithheld",
    "Settings",
    "Storage",
    "StorageError",
    "UnreadablePart",
    "UnsupportedValue",
    "UsageError",
    "__version__",
    "open_storage",
    "plain",
]


def __getattr__(name: str) -> object:
    # Few applications use these, and importing them takes time at each start.
    match name:
        case "LegacyReader":
            from .legacy import LegacyReader

            return LegacyReader
        case "Protector":
            from .protector import Protector

            return Protector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
