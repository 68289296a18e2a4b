"""What an identity provider has stored opens for ever. The rows are files, never made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sealedstate._wire.record import parse_id
from sealedstate.deployment import Deployment
from sealedstate.sso import (
    ArtifactStore,
    Consent,
    ConsentStore,
    LogoutRequest,
    ReplayCache,
    ServiceLogin,
)
from sealedstate.storage import MemoryStorage
from tests.sso.make_service_vectors import (
    ASKED,
    CONTEXTS,
    ENTERED,
    ENTERED_BY_USER,
    ID,
    ISSUER,
    LOGINS,
    LOGOUT,
    LOGOUT_CONTEXTS,
    MESSAGE,
    SERVICES,
    SHOWN,
    SUBJECT,
    IdentityProvider,
    a_deployment,
)
from tests.support.identity_providers import NOW, OTHER_SP, SP, as_notice
from tests.support.jar import Clock


def read(path: Path) -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return vectors


KEPT, LOGOUTS = read(SERVICES), read(LOGOUT)


def store_of(vectors: dict[str, Any], now: int) -> MemoryStorage:
    storage = MemoryStorage(Clock(now))
    for row in vectors["rows"]:
        value = bytes.fromhex(row["value"])
        assert storage.create(row["context"], row["key"], value, row["expires_at"], row["version"])
    for entry in vectors.get("members", ()):
        storage.add_member(*entry.values())
    return storage


# --- replay, artifacts, consent -----------------------------------------------------------------


@pytest.fixture
def at() -> Deployment:
    return a_deployment(store_of(KEPT, NOW))


def test_vectors_cover_every_context() -> None:
    assert list(dict.fromkeys(row["context"] for row in KEPT["rows"])) == list(CONTEXTS)
    assert [row["context"] for row in LOGOUTS["rows"]] == list(LOGOUT_CONTEXTS)


def test_message_of_the_vectors_counts_as_seen(at: Deployment) -> None:
    assert not ReplayCache(at).admit(ISSUER, ID, NOW + 300)
    assert ReplayCache(at).admit(ISSUER, ID + "0", NOW + 300)


def test_artifact_of_the_vectors_is_given(at: Deployment) -> None:
    assert ArtifactStore(at).take(bytes.fromhex(KEPT["handle"]), SP) == MESSAGE


def test_consents_of_the_vectors_are_valid(at: Deployment) -> None:
    assert ConsentStore(at).of_subject(SUBJECT) == (
        Consent("attributes", 1, NOW, NOW + 9, OTHER_SP, frozenset({"mail", "eduPersonÉ"})),
        Consent("terms", 3, NOW),
    )
    assert ConsentStore(at).of_subject(ASKED) == (
        Consent("terms", 4, NOW, NOW + 9, parameters=SHOWN, answers=ENTERED_BY_USER),
    )


# --- sessions and single logout -----------------------------------------------------------------


@pytest.fixture
def idp() -> IdentityProvider:
    return IdentityProvider(store_of(LOGOUTS, NOW + 2), NOW + 2)


def request(login: ServiceLogin) -> LogoutRequest:
    return LogoutRequest(login.entity_id, login.name_id)


def test_session_of_the_vectors_is_listed(idp: IdentityProvider) -> None:
    (live,) = idp.sessions.list()
    assert (parse_id(live.session_id).hex(), live.subject) == (LOGOUTS["session_id"], SUBJECT)
    assert (live.started, live.last_seen, live.where) == (NOW, NOW, "node-1")
    assert idp.sessions.list(SUBJECT) == [live]


def test_logout_of_the_vectors_is_resumed(idp: IdentityProvider) -> None:
    progress = idp.logout.resume(LOGOUTS["token"])
    assert progress is not None
    assert [notice.entity_id for notice in progress.remaining] == [ENTERED]
    assert progress.failures == (as_notice(LOGINS[2]),)
    assert not progress.pending_in_cookie
    assert idp.keeper.session(LOGOUTS["cookies"][1]).subject is None


def test_index_of_the_vectors_leads_to_both_sessions(idp: IdentityProvider) -> None:
    for login in LOGINS:
        found = {session_id.hex() for session_id in idp.index.find_ids(request(login))}
        assert len(found) == 2
        assert LOGOUTS["session_id"] in found


def test_live_session_of_the_vectors_is_logged_out_with_all_its_services(
    idp: IdentityProvider,
) -> None:
    token = LOGOUTS["token"]
    (progress,) = (
        progress
        for progress in idp.logout.begin_for_request(request(LOGINS[2]))
        if progress.token != token
    )
    entered = {notice for notice in progress if notice.entity_id == ENTERED}
    assert len(entered) == 1
    assert set(progress) - entered == {as_notice(login) for login in LOGINS[:2]}
    assert not progress.pending_in_cookie
