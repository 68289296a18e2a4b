"""What an identity provider has stored opens for ever. The rows are a file, never made here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sealedstate.sso import ArtifactStore, Consent, ConsentStore, ReplayCache
from sealedstate.sso.deployment import SsoDeployment
from sealedstate.storage import MemoryStorage
from tests.sso.make_service_vectors import (
    CONTEXTS,
    ID,
    ISSUER,
    MESSAGE,
    SUBJECT,
    VECTORS,
    a_deployment,
)
from tests.support.jar import Clock
from tests.support.login_makers import NOW, OTHER_SP, SP

KEPT: dict[str, Any] = json.loads(VECTORS.read_text("utf-8"))


@pytest.fixture
def at() -> SsoDeployment:
    storage = MemoryStorage(Clock(NOW))
    for row in KEPT["rows"]:
        value = bytes.fromhex(row["value"])
        assert storage.create(row["context"], row["key"], value, row["expires_at"], row["version"])
    return a_deployment(storage)


def test_there_is_a_row_of_every_service() -> None:
    assert [row["context"] for row in KEPT["rows"]] == list(CONTEXTS)


def test_a_message_of_then_counts_as_seen(at: SsoDeployment) -> None:
    assert not ReplayCache(at).admit(ISSUER, ID, NOW + 300, NOW)
    assert ReplayCache(at).admit(ISSUER, ID + "0", NOW + 300, NOW)


def test_an_artifact_of_then_is_given(at: SsoDeployment) -> None:
    assert ArtifactStore(at).take(bytes.fromhex(KEPT["handle"]), SP, NOW) == MESSAGE


def test_a_consent_of_then_counts(at: SsoDeployment) -> None:
    assert ConsentStore(at).of_subject(SUBJECT, NOW) == (
        Consent("attributes", 1, NOW, NOW + 9, OTHER_SP, frozenset({"mail", "eduPersonÉ"})),
        Consent("terms", 3, NOW),
    )
