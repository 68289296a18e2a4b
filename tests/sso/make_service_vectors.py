"""Writes tests/vectors/sso-*.json: stored rows that open for ever. Run once for each new vector.

python -m tests.sso.make_service_vectors
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sealedstate._wire.record import parse_id
from sealedstate.deployment import Deployment
from sealedstate.devices import SessionRegistry
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import (
    PERSISTENT,
    ArtifactStore,
    ConsentStore,
    LoginRecords,
    LogoutIndex,
    LogoutRequest,
    NameID,
    ReplayCache,
    ServiceLogin,
    SingleLogout,
)
from sealedstate.sso._codec.tables import METHODS
from sealedstate.storage import MemoryStorage
from tests.support.identity_providers import (
    ENTITY_IDS,
    NOW,
    OTHER_SP,
    SERVED,
    SP,
    TOLERATED,
    a_key,
    deployment,
    identifiers,
    registry,
)
from tests.support.jar import Clock, Jar, keeper
from tests.support.rings import randomness

VECTORS = Path(__file__).parents[1] / "vectors"
SERVICES, LOGOUT = VECTORS / "sso-services.json", VECTORS / "sso-logout.json"
REALM, ISSUER, ID, SUBJECT = "vectors", "https://idp.example.org/saml", "_5c1f", "jdoé"
ASKED = "ann"
SHOWN: dict[str, str | int | bool] = {"fee": 5, "operator": "Exämple"}
ENTERED_BY_USER: dict[str, str | int | bool] = {"age": -1, "news": True, "why": ""}
RING = Keyring((a_key(1),), lookup=a_key(77).secret, long_term_keys=(a_key(2),))
MESSAGE = b"<samlp:Response/>"
CONTEXTS = ("sealedstate.sso.replay", "sealedstate.sso.artifact", "sealedstate.sso.consent")
LOGOUT_CONTEXTS = (
    "sealedstate.part",
    "sealedstate.revoked",
    "sealedstate.sessions",
    "sealedstate.sso.owner",
    "sealedstate.sso.logout",
)
LOGINS = [
    ServiceLogin(SP, METHODS[0], NameID(SUBJECT), "_1", NOW - 60),
    ServiceLogin(OTHER_SP, METHODS[0], NameID("n", PERSISTENT, ISSUER, OTHER_SP), None, NOW - 120),
    ServiceLogin(ENTITY_IDS[3], "urn:own", NameID("x" * 40), "", NOW - 30),
]
ENTERED = ENTITY_IDS[5]


def a_deployment(storage: MemoryStorage) -> Deployment:
    return deployment(storage, RING, Clock(NOW), REALM, random=randomness("service vectors"))


class IdentityProvider:
    """One node, whose clock shows `now`."""

    def __init__(self, storage: MemoryStorage, now: int) -> None:
        self.clock = Clock(now)
        self.records = LoginRecords(registry(), identifiers())
        self.keeper = keeper(
            self.clock,
            storage=storage,
            keys=StaticKeys(RING),
            realm=REALM,
            random=randomness("logout vectors"),
            merge=self.records.merge_rules,
            part_policies=SERVED,
            accept_weak_store_for=TOLERATED,
        )
        self.index = LogoutIndex(self.keeper, self.records, ISSUER)
        self.logout = SingleLogout(self.keeper, self.records, self.index)
        self.sessions = SessionRegistry(self.keeper, "node-1")

    def sign_in(self) -> Jar:
        """A browser of the user, who went to all services."""
        jar, session = Jar(), self.keeper.session()
        session.subject = SUBJECT
        login = self.records.for_session(session)
        login.authenticate(METHODS[0], duration=3600)
        login.add_service(*LOGINS)
        login.add_derived_login(ENTERED, METHODS[0])
        jar.receive(self.keeper.save(session))
        return jar


def rows_of(storage: MemoryStorage, contexts: Iterable[str]) -> list[dict[str, Any]]:
    rows = []
    for context in contexts:
        for key in storage.keys(context):
            stored = storage.read(context, key)
            assert stored is not None
            row = {"context": context, "key": key, "version": stored.version}
            row |= {"expires_at": stored.expires_at, "value": stored.value.hex()}
            rows.append(row)
    return rows


def members_of(storage: MemoryStorage) -> list[dict[str, Any]]:
    return [
        {"context": context, "key": key, "member": member, "expires_at": expires_at}
        for (context, key), members in sorted(storage._indexes.items())
        for member, expires_at in sorted(members.items())
    ]


def services() -> dict[str, Any]:
    storage = MemoryStorage(Clock(NOW))
    at = a_deployment(storage)
    ReplayCache(at).admit(ISSUER, ID, NOW + 300)
    handle = ArtifactStore(at).put(MESSAGE, SP, 60)
    consents = ConsentStore(at)
    consents.record(SUBJECT, "terms", 3)
    consents.record(SUBJECT, "attributes", 1, NOW + 9, OTHER_SP, ["mail", "eduPersonÉ"])
    consents.record(ASKED, "terms", 4, NOW + 9, parameters=SHOWN, answers=ENTERED_BY_USER)
    return {"handle": handle.hex(), "rows": rows_of(storage, CONTEXTS)}


def logouts() -> dict[str, Any]:
    """Of two sessions, the second is logged out and one service of each status remains in it."""
    storage = MemoryStorage(Clock(NOW + 1))
    idp = IdentityProvider(storage, NOW)
    first = idp.sign_in()
    idp.clock.forward(1)
    second = idp.sign_in()
    session = idp.keeper.session(second.header())
    progress = idp.logout.begin(session, LogoutRequest(OTHER_SP, LOGINS[1].name_id))
    notified, failed, _ = progress.remaining
    progress.notified(notified)
    progress.failed(failed)
    live = idp.keeper.session(first.header())
    assert live.subject == SUBJECT
    return {
        "session_id": parse_id(live.id).hex(),
        "token": progress.token,
        "cookies": [first.header(), second.header()],
        "rows": rows_of(storage, LOGOUT_CONTEXTS),
        "members": members_of(storage),
    }


def main() -> None:
    for path, vectors in ((SERVICES, services()), (LOGOUT, logouts())):
        path.write_text(json.dumps(vectors, indent=2) + "\n")


if __name__ == "__main__":
    main()
