"""For identity providers: login records, identifiers, single logout.

`records` has the login record of a session, `identifiers` the identifiers that need not be
stored, `registry` the numbers of known services, and `logout` single logout. `replay`,
`artifacts` and `consent` keep what an identity provider needs in a store. Errors are in
`sealedstate.errors`.
"""

from __future__ import annotations

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
from .replay import Admission, ReplayCache

__all__ = [
    "PERSISTENT",
    "TRANSIENT",
    "Admission",
    "ArtifactStore",
    "Authentication",
    "Consent",
    "ConsentStore",
    "Identifiers",
    "LoginRecord",
    "LoginRecords",
    "LogoutIndex",
    "LogoutProgress",
    "LogoutRequest",
    "NameID",
    "Notice",
    "Registry",
    "ReplayCache",
    "SAMLArtifact",
    "ServiceLogin",
    "SingleLogout",
    "compute_source_id",
    "extend_registry",
    "load_registry",
    "parse_registry",
    "read_service_entity_ids",
]
