"""For identity providers: login records that fit into a cookie, and identifiers that take no room.

The front door. Knows what is public; does nothing by itself. See `login_records` for the way to
use it, `registry` for its file, and `derived` for what identifiers promise.
"""

from __future__ import annotations

from ..errors import (
    IdentifierKeyMissing,
    LoginsUnreadable,
    LogoutRequestMismatch,
    MetadataUnreadable,
    NotSignedIn,
    RegistryMissing,
    RegistryUnreadable,
    SessionIdChanged,
)
from .artifacts import ArtifactStore, SAMLArtifact, source_id_of
from .consent import Consent, ConsentStore
from .identifiers import Identifiers
from .logins import Authentication, NameID, ServiceLogin
from .logout.index import LogoutIndex, LogoutRequest
from .logout.progress import LogoutProgress, Notice
from .logout.single_logout import SingleLogout
from .records import PERSISTENT, TRANSIENT, LoginRecord, LoginRecords
from .registry import (
    Registry,
    extended_text,
    load_registry,
    parse_registry,
    read_service_entity_ids,
)
from .replay import ReplayCache
from .sessions import LiveSession, SessionRegistry

__all__ = [
    "PERSISTENT",
    "TRANSIENT",
    "ArtifactStore",
    "Authentication",
    "Consent",
    "ConsentStore",
    "IdentifierKeyMissing",
    "Identifiers",
    "LiveSession",
    "LoginRecord",
    "LoginRecords",
    "LoginsUnreadable",
    "LogoutIndex",
    "LogoutProgress",
    "LogoutRequest",
    "LogoutRequestMismatch",
    "MetadataUnreadable",
    "NameID",
    "NotSignedIn",
    "Notice",
    "Registry",
    "RegistryMissing",
    "RegistryUnreadable",
    "ReplayCache",
    "SAMLArtifact",
    "ServiceLogin",
    "SessionIdChanged",
    "SessionRegistry",
    "SingleLogout",
    "extended_text",
    "load_registry",
    "parse_registry",
    "read_service_entity_ids",
    "source_id_of",
]
