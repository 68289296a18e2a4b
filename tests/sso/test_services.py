"""What all services of an identity provider refuse at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sealedstate import Keeper
from sealedstate.devices import SessionRegistry
from sealedstate.errors import ConfigurationError
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import (
    ArtifactStore,
    ConsentStore,
    LoginRecords,
    LogoutIndex,
    ReplayCache,
)
from sealedstate.storage import USES
from tests.support.identity_providers import a_key, identifiers, registry
from tests.support.jar import Clock, keeper
from tests.support.tables import check_each

# By its use, how a service is made, and what its store must not be.
SERVICES: dict[str, tuple[Callable[[Keeper], object], str]] = {
    "replay": (lambda node: ReplayCache(node.deployment), "is seen by every process"),
    "artifacts": (lambda node: ArtifactStore(node.deployment), "is seen by every process"),
    "consent": (lambda node: ConsentStore(node.deployment), "does not forget"),
    "sessions": (SessionRegistry, "is seen by every process"),
    "logins": (
        lambda node: LogoutIndex(node, LoginRecords(registry(), identifiers())),
        "is seen by every process",
    ),
}


def test_constructor_of_each_service_refuses_what_cannot_keep_its_promise() -> None:
    def check(use: str) -> None:
        open_service, need = SERVICES[use]
        usual: dict[str, Any] = {"storage": "memory:", "accept_weak_store_for": tuple(USES)}
        for given, message in (
            ({"storage": None, "accept_weak_store_for": ()}, "needs a store"),
            ({"keys": StaticKeys(Keyring((a_key(1),)))}, "keys generate --lookup"),
            ({"accept_weak_store_for": ["revocation"]}, f"{use} needs a store that .*{need}"),
        ):
            if use == "artifacts" and "keys" in given:
                continue  # its keys are random, and need no lookup key
            node = keeper(Clock(), **usual | given)
            with pytest.raises(ConfigurationError, match=message):
                open_service(node)
        open_service(keeper(Clock(), **usual))

    check_each(list(SERVICES), check)


def test_session_registry_refuses_a_period_of_nothing() -> None:
    node = keeper(Clock(), storage="memory:", accept_weak_store_for=tuple(USES))
    with pytest.raises(ConfigurationError, match="every: must be"):
        SessionRegistry(node, every=0)
