"""For identity providers: login records, single logout, replays, artifacts, consent.

See `records` for login records, `registry` for the registry's file, `identifiers` for what derived
identifiers promise, and docs/sso.md and docs/sso-services.md for how to use all of it.
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
from .artifacts import ArtifactStore, SAMLArtifact, compute_source_id
from .consent import Consent, ConsentStore
from .identifiers import Identifiers
from .logins import Authentication, NameID, ServiceLogin
from .logout.index import LogoutIndex, LogoutRequest
from .logout.progress import LogoutProgress, Notice
from .logout.single_logout import SingleLogout
from .records import PERSISTENT, TRANSIENT, LoginRecord, LoginRecords
from .registry import (
    Registry,
    extend_registry,
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
    "compute_source_id",
    "extend_registry",
    "load_registry",
    "parse_registry",
    "read_service_entity_ids",
]
