"""What the identity provider opens: settings, login records, keys, caches. Start reading here."""

from __future__ import annotations

import time
from pathlib import Path

from sealedstate.deployment import Deployment, open_keys
from sealedstate.sso import (
    ArtifactStore,
    Identifiers,
    LoginRecords,
    Registry,
    ReplayCache,
    extend_registry,
    parse_registry,
    read_service_entity_ids,
)

from ..entities import make_identity_provider, metadata_file
from ..federation import Federation
from ..messages import FRESH, Messages
from ..resources import ABSOLUTE_LIFETIME, MemberResources

REALM = "idp"
# Identifiers that services know must lead back to a session for as long as it lives, and a day.
IDENTIFIER_LIFETIME = ABSOLUTE_LIFETIME + 86400
PROFILE = "portable"


class IdPResources:
    """All that the identity provider has, in its directory below `var`.

    `logins`: where service logins live. In the store ("server"), a logout without the user's
    cookie reads them there and reaches all services at once. In the cookie ("auto", while they
    fit), the other services are reached when that cookie comes next.

    Raises ConfigurationError, OperatorError or OSError.
    """

    def __init__(self, var: Path, federation: Federation, logins: str = "server") -> None:
        self.federation = federation
        self.clock = time.time
        member = MemberResources(var, federation.idp.name)
        registry = _extend_registry(member.directory / "registry", var, federation)
        # Identifier keys have a separate ring, whose keys are kept longer than those of cookies.
        ring = member.settings(f"{REALM}.identifiers", IDENTIFIER_LIFETIME)
        identifiers = Identifiers(open_keys(ring, member.store), realm=REALM)
        self.records = LoginRecords(registry, identifiers, head="authn", columns="services")
        settings = member.settings(
            REALM,
            profile=PROFILE,
            part_policies={"csrf": "cookie", "authn": "cookie", "services": logins},
            spill_order=["services"],
            merge=self.records.merge_rules,
        )
        self.deployment = Deployment.open(settings)
        self.artifacts = ArtifactStore(self.deployment)
        self.messages = Messages(
            make_identity_provider(var, federation),
            federation.idp,
            ReplayCache(self.deployment, longest=2 * FRESH),
            self.clock,
        )


def _extend_registry(path: Path, var: Path, federation: Federation) -> Registry:
    """The registry of all services: each has its number for ever, new ones are appended."""
    text = path.read_text("utf-8") if path.exists() else ""
    for service in federation.services:
        with metadata_file(var, service.name).open("rb") as file:
            text = extend_registry(text, read_service_entity_ids(file))
    path.write_text(text, "utf-8")
    return parse_registry(text)
