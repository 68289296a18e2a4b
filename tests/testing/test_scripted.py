"""The scripted store is a store, and does to its calls what the script says."""

from __future__ import annotations

import pytest

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage import MemoryStorage, Storage
from sealedstate.storage.contract import Clock, Stored
from sealedstate.testing import ScriptedStorage, StorageContract
from tests.support.jar import Clock as StandingClock


class TestScriptedStorageKeepsTheContract(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        return ScriptedStorage(clock)


@pytest.fixture
def store() -> ScriptedStorage:
    store = ScriptedStorage(StandingClock())
    store.create("c", "k", b"1", None, 1)
    store.calls.clear()
    return store


def test_scripted_storage_counts_calls_and_keeps_their_arguments(store: ScriptedStorage) -> None:
    store.read("c", "k")
    store.update("c", "k", b"2", expires_at=None, version=2)
    assert store.count == {"read": 1, "update": 1}
    call = store.calls[-1]
    assert (call.operation, call.context, call.arguments["version"]) == ("update", "c", 2)


def test_scripted_storage_wraps_any_store() -> None:
    behind = MemoryStorage(StandingClock())
    ScriptedStorage(StandingClock(), behind).create("c", "k", b"1", None, 1)
    assert behind.read("c", "k") == Stored(b"1", 1, None)


def test_scripted_failure_spares_other_calls_and_ends_with_recovery(
    store: ScriptedStorage,
) -> None:
    store.fail("read", context="c", after=1, times=2)
    store.read("c", "k")
    store.read("another", "k")
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            store.read("c", "k")
    store.read("c", "k")
    store.fail(error=KeyError)
    for operation in (store.ping, lambda: store.members("c", "k")):
        with pytest.raises(KeyError):
            operation()
    store.recover().ping()


def test_scripted_failure_of_an_unknown_operation_is_refused(store: ScriptedStorage) -> None:
    with pytest.raises(AssertionError, match="upsert"):
        store.fail("upsert")


@pytest.mark.parametrize("done", [True, False])
def test_lost_reply_raises_what_a_driver_would(store: ScriptedStorage, done: bool) -> None:
    store.lose_reply(done=done, times=2)
    with pytest.raises(OutcomeUnknown) as lost:
        store.update("c", "k", b"2", None, 2)
    assert lost.value.version == 2
    with pytest.raises(StorageUnavailable):
        store.read("c", "k")
    assert store.read("c", "k") == (Stored(b"2", 2, None) if done else Stored(b"1", 1, None))


def test_delayed_write_arrives_later_or_comes_too_late(store: ScriptedStorage) -> None:
    store.delay("update", times=2)
    for version in (5, 3):
        with pytest.raises(OutcomeUnknown):
            store.update("c", "k", b"late", None, version)
    assert store.read("c", "k") == Stored(b"1", 1, None)
    store.arrive()
    assert store.read("c", "k") == Stored(b"late", 5, None)


def test_answer_comes_without_the_store(store: ScriptedStorage) -> None:
    store.answer("delete", value=True)
    assert store.delete("c", "k")
    assert store.read("c", "k") is not None


def test_acts_run_before_and_after_a_call_once(store: ScriptedStorage) -> None:
    store.before("read", act=lambda: store.update("c", "k", b"2", None, 2))
    assert store.read("c", "k") == Stored(b"2", 2, None)
    store.after("read", act=lambda: store.update("c", "k", b"3", None, 3))
    assert store.read("c", "k") == Stored(b"2", 2, None)
    assert store.read("c", "k") == Stored(b"3", 3, None)


def test_lines_of_a_script_apply_in_their_order(store: ScriptedStorage) -> None:
    seen: list[str] = []
    store.before("read", act=lambda: seen.append("first"))
    store.fail("read", times=1)
    store.before("read", act=lambda: seen.append("later"))
    with pytest.raises(StorageUnavailable):
        store.read("c", "k")
    assert seen == ["first"]
    store.read("c", "k")
    assert seen == ["first", "later"]
