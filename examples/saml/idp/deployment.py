"""How the identity provider keeps what it keeps: sessions, login records, keys, messages seen.

Knows `Settings` and the services of `sealedstate.sso`. Does not know requests or pages.
"""

from __future__ import annotations

import time
from pathlib import Path

from sealedstate import Settings
from sealedstate.deployment import Deployment as SealedDeployment
from sealedstate.deployment import open_keys
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

from ..entities import identity_provider, metadata_file
from ..federation import Federation
from ..keeping import ABSOLUTE_LIFETIME, Keeping
from ..messages import FRESH, Messages

REALM = "idp"
# What has been told to services leads back to a session for as long as that lives, and a day.
IDENTIFIER_LIFETIME = ABSOLUTE_LIFETIME + 86400
PROFILE = "portable"


class Deployment:
    """All that the identity provider has, in its own part of the directory `var`.

    `logins`: where service logins live. In the store ("server"), a logout without the user's
    cookie reads them there and tells everybody at once. In the cookie ("auto", while they fit), the
    others are told when that cookie comes next.

    Raises ConfigurationError, OperatorError or OSError.
    """

    def __init__(self, var: Path, federation: Federation, logins: str = "server") -> None:
        self.federation = federation
        self.clock = time.time
        keeping = Keeping(var, federation.idp.name)
        registry = _registry(keeping.directory / "registry", var, federation)
        identifiers = Identifiers(open_keys(_identifier_keys(keeping), keeping.store), realm=REALM)
        self.records = LoginRecords(registry, identifiers, head="authn", columns="services")
        self.settings = keeping.settings(
            REALM,
            profile=PROFILE,
            part_policies={"csrf": "cookie", "authn": "cookie", "services": logins},
            spill_order=["services"],
            merge=self.records.merge_rules,
        )
        opened = SealedDeployment.open(self.settings)
        replays = ReplayCache(opened, longest=2 * FRESH)
        self.artifacts = ArtifactStore(opened)
        entity = identity_provider(var, federation)
        self.messages = Messages(entity, federation.idp, replays, self.clock)


def _identifier_keys(keeping: Keeping) -> Settings:
    """The ring of identifier keys: apart from the one that seals cookies, and kept for longer."""
    return keeping.settings(f"{REALM}.identifiers", lifetime=IDENTIFIER_LIFETIME)


def _registry(path: Path, var: Path, federation: Federation) -> Registry:
    """The services of all metadata, each with its number for ever: what is new is appended."""
    text = path.read_text("utf-8") if path.exists() else ""
    for service in federation.services:
        with metadata_file(var, service.name).open("rb") as file:
            text = extend_registry(text, read_service_entity_ids(file))
    path.write_text(text, "utf-8")
    return parse_registry(text)
