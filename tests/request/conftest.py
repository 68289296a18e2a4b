"""The shop of the tests of requests: one node, and a browser in which ann is signed in."""

from __future__ import annotations

import pytest

from sealedstate import Keeper
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import node, signed_in


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def shop(clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(clock, store)


@pytest.fixture
def browser(shop: Keeper) -> Browser:
    """With the cart in its cookie and the vault in the store."""
    return signed_in(shop, cart=[1], vault="secret")
