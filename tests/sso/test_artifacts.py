"""The artifact store gives a message to its recipient, once."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError
from sealedstate.errors import CapacityError, OutcomeUnknown, StorageUnavailable, UnsupportedValue
from sealedstate.keyring import Keyring
from sealedstate.sso import ArtifactStore
from sealedstate.sso.artifacts import HANDLE_BYTES, KIND, LONGEST
from sealedstate.storage import MemoryStorage, Storage
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import OTHER_SP, RING, SP, deployment, lagging, rows
from tests.support.jar import Clock

NOW = 1_800_000_000
MESSAGE = b"<samlp:Response>" + os.urandom(10_000)


def artifacts(storage: Any, now: float = NOW, ring: Keyring = RING, **given: Any) -> ArtifactStore:
    return ArtifactStore(deployment(storage, ring, Clock(now), **given))


def in_memory() -> ArtifactStore:
    return artifacts(MemoryStorage(Clock(NOW)))


def scripted() -> ScriptedStorage:
    return ScriptedStorage(Clock(NOW))


# --- on every store -----------------------------------------------------------------------------


def test_message_is_given_once_and_only_to_its_recipient(storage: Storage) -> None:
    node, other_node = artifacts(storage), artifacts(storage)
    handle = node.put(MESSAGE, SP, 60)
    assert len(handle) == HANDLE_BYTES
    for other in (OTHER_SP, "", SP + "/", SP.upper(), "\ud800"):
        assert other_node.take(handle, other) is None
    assert artifacts(storage, realm="another").take(handle, SP) is None
    assert other_node.take(handle, SP) == MESSAGE
    assert node.take(handle, SP) is None
    assert other_node.take(handle, SP) is None


def test_message_is_gone_after_its_lifetime(storage: Storage, clock: Clock) -> None:
    early, late = (artifacts(storage).put(MESSAGE, SP, 60) for _ in range(2))
    clock.now = NOW + 59
    assert artifacts(storage, clock.now).take(early, SP) == MESSAGE
    clock.now = NOW + 60
    assert artifacts(storage, clock.now).take(late, SP) is None


def test_store_reveals_neither_message_nor_handle(storage: Storage) -> None:
    handle = artifacts(storage).put(b"a message that one could read", SP, 60)
    ((key, stored),) = rows(storage, KIND.context).items()
    assert not [secret for secret in (b"message", SP.encode(), handle) if secret in stored.value]
    assert artifacts(storage).take(key.encode()[:HANDLE_BYTES], SP) is None


def test_message_too_large_for_the_store_is_refused_before_any_write(storage: Storage) -> None:
    with pytest.raises(CapacityError, match="the store takes"):
        artifacts(storage).put(bytes(storage.capabilities.value_bytes), SP, 60)
    assert rows(storage, KIND.context) == {}


def test_message_of_message_bytes_fits() -> None:
    store, entity_id = in_memory(), "https://sp.example.org/".ljust(1024, "x")
    largest = bytes(store.message_bytes)
    assert store.take(store.put(largest, entity_id, 60), entity_id) == largest


# --- odd input ----------------------------------------------------------------------------------


@given(st.binary(max_size=50), st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_any_message_comes_back_to_any_recipient(
    message: bytes, recipient: str, other: str
) -> None:
    store = in_memory()
    handle = store.put(message, recipient, 60)
    if other != recipient:
        assert store.take(handle, other) is None
    assert store.take(handle, recipient) == message


@given(st.binary(max_size=64))
def test_made_up_handle_leads_nowhere(handle: bytes) -> None:
    store = in_memory()
    store.put(MESSAGE, SP, 60)
    assert store.take(handle, SP) is None


def test_bad_arguments_of_put_are_refused() -> None:
    odd: list[tuple[Any, Any, int, type[Exception]]] = [
        *((MESSAGE, SP, lifetime, ConfigurationError) for lifetime in (0, -1, LONGEST + 1)),
        (MESSAGE, "", 60, ConfigurationError),
        (MESSAGE, "\ud800", 60, CapacityError),
        *((message, SP, 60, UnsupportedValue) for message in ("text", None)),
        *((MESSAGE, recipient, 60, UnsupportedValue) for recipient in (5, SP.encode())),
    ]
    for message, recipient, lifetime, error in odd:
        with pytest.raises(error):
            in_memory().put(message, recipient, lifetime)


def test_bad_arguments_of_take_lead_nowhere() -> None:
    store = in_memory()
    handle = store.put(MESSAGE, SP, 60)
    odd: list[tuple[Any, Any]] = [(None, SP), ("x" * HANDLE_BYTES, SP), (handle, None)]
    for given_handle, recipient in odd:
        assert store.take(given_handle, recipient) is None
    assert store.take(handle, SP) == MESSAGE


# --- bad days -----------------------------------------------------------------------------------


def test_outage_raises_and_the_message_can_be_fetched_later() -> None:
    store = scripted()
    node = artifacts(store)
    handle = node.put(MESSAGE, SP, 60)
    for operation in ("read", "delete"):
        store.fail(operation)
        with pytest.raises(StorageUnavailable):
            node.take(handle, SP)
        store.recover()
    assert node.take(handle, SP) == MESSAGE


@pytest.mark.parametrize("done", [True, False], ids=["written", "still on its way"])
def test_put_survives_two_lost_replies(done: bool) -> None:
    store = scripted()
    node = artifacts(store)
    (store.lose_reply if done else store.delay)("create", times=2)
    handle = node.put(MESSAGE, SP, 60)
    store.arrive()
    assert node.take(handle, SP) == MESSAGE
    assert node.take(handle, SP) is None


def test_put_raises_if_every_reply_is_lost() -> None:
    store = scripted()
    node = artifacts(store)
    store.lose_reply("create", times=None)
    with pytest.raises(OutcomeUnknown):
        node.put(MESSAGE, SP, 60)


def test_lost_reply_to_take_gives_the_message_at_most_once() -> None:
    store = scripted()
    node = artifacts(store)
    taken, late = (node.put(MESSAGE, SP, 60) for _ in range(2))
    store.lose_reply("delete")
    with pytest.raises(OutcomeUnknown):
        node.take(taken, SP)
    assert node.take(taken, SP) is None
    store.delay("delete")
    with pytest.raises(OutcomeUnknown):
        node.take(late, SP)
    assert node.take(late, SP) == MESSAGE
    store.arrive()
    assert node.take(late, SP) is None


def test_node_without_the_key_leaves_the_message_in_place() -> None:
    store = MemoryStorage(Clock(NOW))
    handle = artifacts(store).put(MESSAGE, SP, 60)
    with pytest.raises(StorageUnavailable, match="kid-unknown"):
        artifacts(store, ring=lagging()).take(handle, SP)
    assert artifacts(store).take(handle, SP) == MESSAGE


def test_row_that_was_altered_moved_or_sealed_by_a_revoked_key_is_no_message() -> None:
    store = MemoryStorage(Clock(NOW))
    handle = artifacts(store).put(MESSAGE, SP, 60)
    revoked = Keyring((*lagging().keys, replace(RING.keys[0], revoked=True)), lookup=RING.lookup)
    assert artifacts(store, ring=revoked).take(handle, SP) is None
    ((key, stored),) = rows(store, KIND.context).items()
    altered = stored.value[:-1] + bytes([stored.value[-1] ^ 1])
    for version, value in enumerate((altered, stored.value), start=stored.version + 1):
        store.update(KIND.context, key, value, stored.expires_at, version)
        assert artifacts(store).take(handle, SP) is None
