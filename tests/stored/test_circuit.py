"""A store that does not answer is asked once a second; each call is an event."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest

from sealedstate._stored.circuit import MOST_TIMEOUTS, WatchedStorage, watch
from sealedstate.errors import OutcomeUnknown, StorageUnavailable, VersionMismatch
from sealedstate.storage import MemoryStorage, RoutedStorage
from sealedstate.storage.routing import store_of
from sealedstate.testing import ManualClock, ScriptedStorage


class Watch:
    """A store that can be frozen, so that each call takes its time-out of half a second."""

    def __init__(self) -> None:
        self.running = ManualClock(1000.0)
        self.store = ScriptedStorage(ManualClock())
        self.events: list[tuple[Any, ...]] = []
        self.watched = watch(self.store, self.running, self.emit)

    def emit(self, name: str, reason: str | None = None, **named: Any) -> None:
        self.events.append((name, reason, named.get("operation"), named.get("seconds")))

    def freeze(self) -> None:
        self.store.before(act=lambda: self.running.forward(0.5), times=None).fail()

    def is_asked(self) -> bool:
        self.store.calls.clear()
        with pytest.raises(StorageUnavailable):
            self.watched.read("c", "k")
        return bool(self.store.calls)


def test_each_call_is_an_event_with_its_outcome_and_duration() -> None:
    watch = Watch()
    watch.store.before("create", act=lambda: watch.running.forward(0.25))
    watch.watched.create("c", "k", b"v", None, 1)
    with pytest.raises(VersionMismatch):
        watch.watched.delete("c", "k", 2)
    watch.store.lose_reply("update")
    with pytest.raises(OutcomeUnknown):
        watch.watched.update("c", "k", b"v", None, 2)
    watch.store.fail("read")
    with pytest.raises(StorageUnavailable):
        watch.watched.read("c", "k")
    assert watch.events == [
        ("store-call", "answered", "create", 0.25),
        ("store-call", "refused", "delete", 0.0),
        ("store-call", "unknown", "update", 0.0),
        ("store-call", "unavailable", "read", 0.0),
    ]


def test_silent_store_is_asked_once_a_second_and_used_when_it_answers() -> None:
    watch = Watch()
    watch.freeze()
    assert MOST_TIMEOUTS == 3
    assert [watch.is_asked() for _ in range(MOST_TIMEOUTS)] == [True] * MOST_TIMEOUTS
    assert not watch.is_asked()
    asked, began = 0, watch.running()
    while watch.running() < began + 20:
        watch.running.forward(0.05)
        asked += watch.is_asked()
    assert 18 <= asked <= 20
    watch.store.recover()
    watch.running.forward(1)
    assert watch.watched.read("c", "k") is None
    assert watch.watched.read("c", "k") is None
    names = [event[0] for event in watch.events if event[0] != "store-call"]
    assert names == ["store-silent", "store-back"]


@pytest.mark.parametrize("timeout", [0.2, 0.5, 2.0])
def test_store_is_used_again_within_a_second_of_its_return(timeout: float) -> None:
    for hundredths in range(0, 200, 19):
        watch = Watch()
        runs_again_at = watch.running() + 2 + timeout * MOST_TIMEOUTS + hundredths / 100

        def answer(watch: Watch = watch, at: float = runs_again_at + 0.15) -> None:
            # A server that was frozen answers what waits, a little later.
            wait = max(at - watch.running(), 0.15)
            watch.running.forward(min(wait, timeout))
            if wait > timeout:
                raise StorageUnavailable("no answer in time")

        watch.store.before("read", act=answer, times=None)
        while watch.running() < runs_again_at + 5:
            with suppress(StorageUnavailable):
                watch.watched.read("c", "k")
                if watch.running() >= runs_again_at:
                    break
            watch.running.forward(0.03)
        assert watch.running() <= runs_again_at + 1


def test_answer_between_time_outs_counts_from_the_begin() -> None:
    watch = Watch()
    for _ in range(3):
        watch.freeze()
        assert [watch.is_asked() for _ in range(MOST_TIMEOUTS - 1)] == [True] * (MOST_TIMEOUTS - 1)
        watch.store.recover()
        watch.watched.read("c", "k")


def test_store_that_refuses_at_once_is_asked_each_time() -> None:
    watch = Watch()
    watch.store.fail()
    assert all(watch.is_asked() for _ in range(50))


def test_one_caller_at_a_time_waits_for_a_silent_store() -> None:
    watch = Watch()
    watch.freeze()
    for _ in range(MOST_TIMEOUTS):
        watch.is_asked()
    watch.running.forward(5)
    asking, go_on = threading.Event(), threading.Event()
    watch.store.recover()

    def wait() -> None:
        asking.set()
        go_on.wait(30)

    watch.store.before("read", act=wait)
    thread = threading.Thread(target=watch.watched.read, args=("c", "k"))
    thread.start()
    assert asking.wait(30)
    watch.running.forward(5)
    with pytest.raises(StorageUnavailable, match="asked again once a second"):
        watch.watched.read("c", "k")
    go_on.set()
    thread.join()
    assert watch.watched.read("c", "k") is None


def test_capabilities_of_a_silent_store_are_those_of_before() -> None:
    watch = Watch()
    before = watch.watched.capabilities
    watch.freeze()
    for _ in range(MOST_TIMEOUTS):
        watch.is_asked()
    watch.store.capabilities = None  # type: ignore[assignment]
    assert watch.watched.capabilities is before


def test_each_store_of_several_is_watched_alone() -> None:
    default, other = (MemoryStorage(ManualClock()) for _ in range(2))
    routed = watch(RoutedStorage(default, {"a": other, "b": other}), ManualClock(), Watch().emit)
    stores = [store_of(context, routed) for context in ("a", "b", "c")]
    assert all(isinstance(store, WatchedStorage) for store in stores)
    assert stores[0] is stores[1] is not stores[2]
    routed.create("a", "k", b"v", None, 1)
    assert other.read("a", "k") is not None
