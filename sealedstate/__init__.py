"""Sealed client-side sessions: encrypted, compact, cut to what browsers and servers carry.

The front door. Everything else is imported from the module that it lives in.
"""

from __future__ import annotations

from ._request.info import PartInfo, SessionInfo
from .errors import (
    ConfigurationError,
    LateRead,
    LateWrite,
    NoPrimaryKey,
    OperatorError,
    SealedStateError,
    SessionTooLarge,
    SessionWithheld,
    StorageError,
    StorageUnavailable,
    UnreadablePart,
    UnsupportedValue,
    UsageError,
)
from .keeper import Keeper
from .keyring import Key, Keyring, KeyState
from .legacy import LegacyReader
from .profiles import PROFILES, Profile
from .session import Session
from .settings import Settings

__version__ = "0.1.0"

__all__ = [
    "PROFILES",
    "ConfigurationError",
    "Keeper",
    "Key",
    "KeyState",
    "Keyring",
    "LateRead",
    "LateWrite",
    "LegacyReader",
    "NoPrimaryKey",
    "OperatorError",
    "PartInfo",
    "Profile",
    "SealedStateError",
    "Session",
    "SessionInfo",
    "SessionTooLarge",
    "SessionWithheld",
    "Settings",
    "StorageError",
    "StorageUnavailable",
    "UnreadablePart",
    "UnsupportedValue",
    "UsageError",
    "__version__",
]
