"""The artifact store: who an artifact is for gets it, once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Keyring, Settings
from sealedstate.deployment import Deployment
from sealedstate.errors import CapacityError, OutcomeUnknown, StorageUnavailable, UnsupportedValue
from sealedstate.key_sources import StaticKeys
from sealedstate.sso import ArtifactStore
from sealedstate.sso.artifacts import CONTEXT, HANDLE_BYTES, LONGEST
from sealedstate.storage import MemoryStorage, Storage
from tests.support.jar import Clock
from tests.support.login_makers import OTHER_SP, SP
from tests.support.services import ON_SERVERS, RING, Unanswering, deployment, lagging, opened, rows
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

NOW = 1_800_000_000
MESSAGE = b"<samlp:Response>" + os.urandom(10_000)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture(params=["memory", "sqlite", *ON_SERVERS])
def storage(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Storage]:
    with opened(request.param, request, tmp_path, clock) as store:
        yield store


def artifacts(storage: Any, ring: Keyring = RING, realm: str = "default") -> ArtifactStore:
    return ArtifactStore(deployment(storage, ring, realm))


def in_memory() -> ArtifactStore:
    return artifacts(MemoryStorage(Clock(NOW)))


# --- on every store -----------------------------------------------------------------------------


def test_a_message_is_given_once_to_whom_it_is_for(storage: Storage) -> None:
    node, other_node = artifacts(storage), artifacts(storage)
    handle = node.put(MESSAGE, SP, 60, NOW)
    assert len(handle) == HANDLE_BYTES
    assert other_node.take(handle, SP, NOW) == MESSAGE
    assert node.take(handle, SP, NOW) is None
    assert other_node.take(handle, SP, NOW) is None


def test_who_it_is_not_for_gets_nothing_and_takes_nothing_away(storage: Storage) -> None:
    store = artifacts(storage)
    handle = store.put(MESSAGE, SP, 60, NOW)
    for other in (OTHER_SP, "", SP + "/", SP.upper(), "\ud800"):
        assert store.take(handle, other, NOW) is None
    assert artifacts(storage, realm="another").take(handle, SP, NOW) is None
    assert store.take(handle, SP, NOW) == MESSAGE


def test_a_message_that_nobody_fetched_is_gone_after_its_lifetime(
    storage: Storage, clock: Clock
) -> None:
    store = artifacts(storage)
    early, late = (store.put(MESSAGE, SP, 60, NOW) for _ in range(2))
    clock.now = NOW + 59
    assert store.take(early, SP, clock.now) == MESSAGE
    clock.now = NOW + 60
    assert store.take(late, SP, clock.now) is None


def test_nothing_that_stands_in_the_store_tells_of_the_message_or_lets_one_ask(
    storage: Storage,
) -> None:
    handle = artifacts(storage).put(b"a message that one could read", SP, 60, NOW)
    ((key, stored),) = rows(storage, CONTEXT).items()
    assert b"message" not in stored.value
    assert SP.encode() not in stored.value
    assert handle not in stored.value
    assert artifacts(storage).take(key.encode()[:20], SP, NOW) is None


def test_a_message_that_the_store_can_not_take_is_refused_before_anything_is_written(
    storage: Storage,
) -> None:
    store = artifacts(storage)
    with pytest.raises(CapacityError, match="the store takes"):
        store.put(bytes(storage.capabilities.value_bytes), SP, 60, NOW)
    assert rows(storage, CONTEXT) == {}


def test_the_largest_message_that_is_named_fits() -> None:
    store = in_memory()
    largest = bytes(store.message_bytes)
    entity_id = "https://sp.example.org/".ljust(1024, "x")
    handle = store.put(largest, entity_id, 60, NOW)
    assert store.take(handle, entity_id, NOW) == largest


# --- odd input ----------------------------------------------------------------------------------


@given(st.binary(max_size=50), st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_any_message_comes_back_to_its_recipient_and_to_nobody_else(
    message: bytes, recipient: str, other: str
) -> None:
    store = in_memory()
    handle = store.put(message, recipient, 60, NOW)
    if other != recipient:
        assert store.take(handle, other, NOW) is None
    assert store.take(handle, recipient, NOW) == message


@given(st.binary(max_size=64))
def test_a_handle_that_was_never_given_out_leads_nowhere(handle: bytes) -> None:
    store = in_memory()
    store.put(MESSAGE, SP, 60, NOW)
    assert store.take(handle, SP, NOW) is None


@pytest.mark.parametrize("lifetime", [0, -1, LONGEST + 1])
def test_a_lifetime_out_of_bounds_is_a_mistake_of_the_caller(lifetime: int) -> None:
    with pytest.raises(ConfigurationError):
        in_memory().put(MESSAGE, SP, lifetime, NOW)


def test_an_artifact_is_for_somebody() -> None:
    with pytest.raises(ConfigurationError):
        in_memory().put(MESSAGE, "", 60, NOW)
    with pytest.raises(CapacityError):
        in_memory().put(MESSAGE, "\ud800", 60, NOW)


def test_what_is_no_message_or_no_name_is_refused_and_what_is_no_handle_leads_nowhere() -> None:
    store = in_memory()
    nothing: Any = None
    wrong: list[Any] = [("text", SP), (None, SP), (MESSAGE, 5), (MESSAGE, SP.encode())]
    for message, recipient in wrong:
        with pytest.raises(UnsupportedValue):
            store.put(message, recipient, 60, NOW)
    handle = store.put(MESSAGE, SP, 60, NOW)
    no_bytes: Any = "x" * HANDLE_BYTES
    assert store.take(nothing, SP, NOW) is None
    assert store.take(no_bytes, SP, NOW) is None
    assert store.take(handle, nothing, NOW) is None
    assert store.take(handle, SP, NOW) == MESSAGE


# --- bad days -----------------------------------------------------------------------------------


def test_an_outage_raises_and_the_message_can_be_fetched_later() -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    handle = artifacts(store).put(MESSAGE, SP, 60, NOW)
    for operation in ("read", "delete"):
        store.down = {operation}
        with pytest.raises(StorageUnavailable):
            artifacts(store).take(handle, SP, NOW)
    store.down.clear()
    assert artifacts(store).take(handle, SP, NOW) == MESSAGE


@pytest.mark.parametrize("fault", ["lost", "late"])
def test_putting_survives_lost_replies(fault: str) -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    getattr(store, fault)["create"] = 2
    handle = artifacts(store).put(MESSAGE, SP, 60, NOW)
    store.arrive()
    assert artifacts(store).take(handle, SP, NOW) == MESSAGE
    assert artifacts(store).take(handle, SP, NOW) is None


def test_putting_says_when_nobody_can_tell() -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    store.lost["create"] = 3
    with pytest.raises(OutcomeUnknown):
        artifacts(store).put(MESSAGE, SP, 60, NOW)


def test_who_may_have_taken_a_message_and_can_not_tell_does_not_get_it() -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    handle = artifacts(store).put(MESSAGE, SP, 60, NOW)
    store.lost["delete"] = 1
    with pytest.raises(OutcomeUnknown):
        artifacts(store).take(handle, SP, NOW)
    assert artifacts(store).take(handle, SP, NOW) is None


def test_who_asks_again_before_his_first_request_arrives_gets_it_once() -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    handle = artifacts(store).put(MESSAGE, SP, 60, NOW)
    store.late["delete"] = 1
    with pytest.raises(OutcomeUnknown):
        artifacts(store).take(handle, SP, NOW)
    assert artifacts(store).take(handle, SP, NOW) == MESSAGE
    store.arrive()
    assert artifacts(store).take(handle, SP, NOW) is None


def test_a_node_that_lags_behind_takes_nothing_away() -> None:
    storage = MemoryStorage(Clock(NOW))
    handle = artifacts(storage).put(MESSAGE, SP, 60, NOW)
    with pytest.raises(StorageUnavailable, match="kid-unknown"):
        artifacts(storage, lagging()).take(handle, SP, NOW)
    assert artifacts(storage).take(handle, SP, NOW) == MESSAGE


def test_a_row_that_was_tampered_with_is_no_message() -> None:
    storage = MemoryStorage(Clock(NOW))
    handle = artifacts(storage).put(MESSAGE, SP, 60, NOW)
    ((key, stored),) = rows(storage, CONTEXT).items()
    forged = bytearray(stored.value)
    forged[-1] ^= 1
    storage.update(CONTEXT, key, bytes(forged), stored.expires_at, stored.version + 1)
    assert artifacts(storage).take(handle, SP, NOW) is None
    storage.update(CONTEXT, key, stored.value, stored.expires_at, stored.version + 2)
    assert artifacts(storage).take(handle, SP, NOW) is None


def test_a_message_sealed_by_a_key_that_was_revoked_is_none() -> None:
    storage = MemoryStorage(Clock(NOW))
    handle = artifacts(storage).put(MESSAGE, SP, 60, NOW)
    revoked = Keyring((*lagging().keys, replace(RING.keys[0], revoked=True)), lookup=RING.lookup)
    assert artifacts(storage, revoked).take(handle, SP, NOW) is None


# --- at the start -------------------------------------------------------------------------------


def test_a_store_that_others_do_not_see_stops_the_start_unless_that_is_accepted() -> None:
    def settings(*accept_weak_store_for: str) -> Settings:
        return Settings(
            keys=StaticKeys(RING), storage="memory:", accept_weak_store_for=accept_weak_store_for
        )

    with pytest.raises(ConfigurationError, match="artifacts needs a store that is seen by every"):
        ArtifactStore.of(Deployment.open(settings()))
    store = ArtifactStore.of(Deployment.open(settings("artifacts")))
    now = settings().clock()
    assert store.take(store.put(MESSAGE, SP, 60, now), SP, now) == MESSAGE
