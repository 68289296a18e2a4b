"""What a process knows of logouts: how old it may be, restarts, own writes, outages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from sealedstate._stored import feed as feeds
from sealedstate._stored.feed import (
    HINT_SPREAD,
    MOST_HINTS,
    RELOAD_AFTER,
    YOUNG_SECONDS,
    Feed,
    short_key,
)
from sealedstate._wire.encoding import to_name
from sealedstate.errors import StorageError, StorageUnavailable
from sealedstate.storage import MemoryStorage, RoutedStorage, SQLiteStorage, Stored
from sealedstate.testing import ManualClock, ScriptedStorage
from tests.support.forks import run_child
from tests.support.stored import new_feed

PAGE, MOST_ANSWERS = 50, 100
CONTEXT = "sealedstate.revoked"
OTHER = "sealedstate.watermark"


class Process:
    """A process with its feed, and its two clocks."""

    def __init__(self, store: Any, wall: ManualClock, **given: Any) -> None:
        self.wall, self.running = wall, ManualClock(1000.0)
        self.events: list[str] = []
        usual: dict[str, Any] = {
            "has_threads": False,
            "clock": self.wall,
            "running": self.running,
            "random": bytes,
            "emit": lambda name, *rest, **named: self.events.append(name),
        }
        self.feed = new_feed(store, **usual | given)

    def sees(self, key: str, context: str = CONTEXT) -> bool:
        return self.feed.look(context, key) is not None

    def wait(self, seconds: float) -> None:
        self.wall.forward(seconds)
        self.running.forward(seconds)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PAGE", PAGE)
    monkeypatch.setattr(feeds, "MOST_ANSWERS", MOST_ANSWERS)


@pytest.fixture
def wall() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(wall: ManualClock) -> ScriptedStorage:
    return ScriptedStorage(wall)


def write(store: Any, key: str, context: str = CONTEXT, version: int = 1) -> None:
    assert store.create(context, key, b"v", None, version)


def test_look_asks_once_a_second_and_never_the_record(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    write(store, "k")
    process = Process(store, wall)
    for number in range(50):
        assert process.sees("k")
        assert not process.sees(str(number), OTHER)
        process.wait(0.1)
    assert store.count["read"] == 0
    assert store.count["changes"] == 5


def test_logout_of_another_process_counts_within_the_staleness(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = Process(store, wall)
    assert not process.sees("k")
    write(store, "k")
    assert not process.sees("k")  # what it knows is new enough
    process.wait(1)
    assert process.sees("k")


@pytest.mark.parametrize("clock", ["wall", "running"])
def test_what_is_older_than_the_staleness_by_either_clock_asks(
    store: ScriptedStorage, wall: ManualClock, clock: str
) -> None:
    process = Process(store, wall, has_threads=True, polls=False)
    process.feed.poll()
    write(store, "k")
    getattr(process, clock).forward(1.999)
    assert not process.sees("k")
    getattr(process, clock).forward(0.01)
    store.calls.clear()
    assert process.sees("k")
    assert store.count["read"] == 1


def test_age_counts_from_before_the_question_was_sent(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = Process(store, wall, has_threads=True, polls=False)
    store.after("changes", act=lambda: process.wait(1.5))
    process.feed.poll()
    write(store, "k")
    assert not process.sees("k")
    process.wait(0.6)
    assert process.sees("k")


def test_look_that_a_pass_overtakes_is_as_old_as_the_pass_before(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = Process(store, wall, has_threads=True, polls=False)
    process.feed.poll()
    write(store, "k")
    process.wait(10)
    (source,) = process.feed._sources
    find = source.find

    def find_and_be_overtaken(*given: Any) -> Stored | None:
        found = find(*given)
        process.feed.poll()
        return found

    source.find = find_and_be_overtaken  # type: ignore[method-assign,assignment]
    assert process.sees("k")


@pytest.mark.parametrize("clock", ["wall", "running"])
def test_known_records_count_for_a_while_by_either_clock(
    store: ScriptedStorage, wall: ManualClock, clock: str
) -> None:
    process = Process(store, wall, has_threads=True, polls=False)

    def counts() -> bool:
        _, running, until, ahead = process.feed.known
        is_late = process.running() >= running or wall() >= until
        return not is_late and wall() - process.running() >= ahead

    assert not counts()
    store.after("changes", act=lambda: process.wait(0.5))
    process.feed.poll()
    getattr(process, clock).forward(YOUNG_SECONDS - 0.51)
    assert counts()
    getattr(process, clock).forward(0.02)
    assert not counts()
    process.feed.poll()
    # Of a clock that is set back, what had expired by it is not known.
    wall.forward(-59)
    assert counts()
    wall.forward(-2)
    assert not counts()


def test_known_records_are_those_of_all_stores_and_the_age_of_the_oldest(
    wall: ManualClock,
) -> None:
    first, second = ScriptedStorage(wall), ScriptedStorage(wall)
    process = Process(RoutedStorage(first, {OTHER: second}), wall, has_threads=True, polls=False)
    write(first, "a")
    write(second, "b", OTHER)
    second.fail("changes", times=1)
    process.feed.poll()
    assert process.feed.known.running < process.running()
    process.feed.poll()
    process.wait(1)
    second.fail("changes", times=1)
    process.feed.poll()
    known = process.feed.known
    assert {context: list(keys) for context, keys in known.records.items()} == {
        CONTEXT: [short_key("a")],
        OTHER: [short_key("b")],
    }
    assert known.running == process.running() - 1 + YOUNG_SECONDS
    assert known.wall == wall() - 1 + YOUNG_SECONDS


def test_keys_are_kept_as_the_bytes_of_names() -> None:
    for _ in range(50):
        data = os.urandom(24)
        assert short_key(to_name(data)) == data
    for key in ("k", "a+/b", "ä", "x" * 31, to_name(bytes(24)) + "="):
        assert short_key(key) == key.encode()


def test_process_sees_at_once_what_it_writes_and_reads(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = Process(store, wall)
    assert not process.sees("k")
    write(process.feed, "k")
    assert process.sees("k")
    assert process.feed.update(CONTEXT, "k", b"w", None, 2)
    assert process.feed.look(CONTEXT, "k") == Stored(b"w", 2, None)
    write(store, "read")
    assert process.feed.read(CONTEXT, "read") is not None
    assert process.sees("read")
    assert store.count["read"] == 1


def test_older_version_does_not_replace_a_later_one(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = Process(store, wall)
    write(store, "k", version=1)
    store.after("changes", act=lambda: process.feed.update(CONTEXT, "k", b"w", None, 2))
    process.feed.poll()
    assert process.feed.look(CONTEXT, "k") == Stored(b"w", 2, None)
    # Nor does the answer to a question that was asked before this process wrote.
    store.after("read", act=lambda: process.feed.update(CONTEXT, "k", b"x", None, 3), times=1)
    process.feed.read(CONTEXT, "k")
    assert process.feed.look(CONTEXT, "k") == Stored(b"x", 3, None)


def test_all_pages_are_read_and_a_pass_that_failed_continues(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    for number in range(2 * PAGE + 10):
        write(store, str(number))
    store.fail("changes", after=1, times=1)
    process = Process(store, wall, has_threads=True, polls=False)
    process.feed.poll()
    assert not process.feed.is_fresh()
    process.wait(1.5)
    process.feed.poll()
    assert process.events == ["feed-lost", "feed-followed"]
    assert store.count["changes"] == 4
    # Its first page was read 1.5 s ago.
    assert process.feed.is_fresh()
    assert not process.feed.is_fresh(0.6)
    store.calls.clear()
    assert all(process.sees(str(number)) for number in range(2 * PAGE + 10))
    assert store.count == {}


def test_request_reads_few_pages_where_there_is_no_thread(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    for number in range(5 * PAGE):
        write(store, str(number))
    process = Process(store, wall)
    for expected in (2, 4, 6):
        assert process.sees("0")
        assert store.count["changes"] == expected
    assert process.feed.is_fresh()


def test_restored_store_is_read_anew(wall: ManualClock) -> None:
    former, restored = MemoryStorage(wall), MemoryStorage(wall)
    routed = ScriptedStorage(wall, former)
    write(former, "lost")
    process = Process(routed, wall)
    assert process.sees("lost")
    write(restored, "kept")
    routed.storage = restored
    process.wait(1)
    assert process.sees("kept")
    assert not process.sees("lost")


def test_all_is_read_anew_after_a_long_silence(store: ScriptedStorage, wall: ManualClock) -> None:
    process = Process(store, wall, keep_for=RELOAD_AFTER * 2)
    write(store, "k")
    assert process.sees("k")
    store.fail()
    for _ in range(3):
        process.wait(RELOAD_AFTER / 2)
        assert process.sees("k")  # what was known counts until all is read
    store.recover()
    store.calls.clear()
    process.wait(1)
    assert process.sees("k")
    assert [call.arguments["after"] for call in store.calls] == [None]


def test_expired_records_are_forgotten(store: ScriptedStorage, wall: ManualClock) -> None:
    process = Process(store, wall)
    assert store.create(CONTEXT, "k", b"v", int((wall() + 30) * 1000), 1)
    write(store, "permanent")
    assert process.sees("k")
    process.wait(31)
    assert not process.sees("k")
    process.wait(700)
    process.sees("k")
    (source,) = process.feed._sources
    assert list(source.records[CONTEXT]) == [short_key("permanent")]


def test_clock_that_was_ahead_and_is_set_back_reads_all_again(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    assert store.create(CONTEXT, "k", b"v", int((wall() + 3600) * 1000), 1)
    wall.forward(13 * 3600)
    process = Process(store, wall)
    assert not process.sees("k")
    wall.forward(-13 * 3600)
    store.calls.clear()
    assert process.sees("k")
    assert store.calls[0].arguments["after"] is None
    # Within the skew, nothing is missing.
    wall.forward(-50)
    store.calls.clear()
    assert process.sees("k")
    assert store.calls == []


def test_contexts_in_two_stores_are_both_followed(wall: ManualClock) -> None:
    first, second = ScriptedStorage(wall), ScriptedStorage(wall)
    process = Process(RoutedStorage(first, {OTHER: second}), wall)
    write(first, "a")
    write(second, "b", OTHER)
    write(first, "stray", OTHER)  # of a time when all was in the first
    assert process.sees("a")
    assert process.sees("b", OTHER)
    assert not process.sees("stray", OTHER)
    assert first.count["read"] == second.count["read"] == 0


def test_store_that_cannot_be_followed_is_asked(wall: ManualClock, store: ScriptedStorage) -> None:
    store.capabilities = replace(store.capabilities, changes=False)
    process = Process(store, wall)
    write(store, "k")
    assert process.sees("k")
    assert not process.sees("other")
    assert store.count["read"] == 2
    assert store.count["changes"] == 0


# --- a store that is down -----------------------------------------------------------------------


def asking(store: ScriptedStorage, wall: ManualClock) -> Process:
    return Process(store, wall, staleness=None, keep_for=300)


def test_store_that_is_down_refuses_by_default(store: ScriptedStorage, wall: ManualClock) -> None:
    process = Process(store, wall)
    assert not process.sees("k")
    store.fail()
    process.wait(1.5)
    assert not process.sees("k")  # young enough
    process.wait(1)
    with pytest.raises(StorageUnavailable):
        process.sees("k")


@pytest.mark.parametrize("begin", [asking, lambda *given: Process(*given, keep_for=300)])
def test_what_was_known_last_counts_for_as_long_as_allowed(
    store: ScriptedStorage, wall: ManualClock, begin: Callable[..., Process]
) -> None:
    process = begin(store, wall)
    write(store, "ended")
    assert process.sees("ended")
    assert not process.sees("live")
    store.fail()
    process.wait(299)
    assert process.sees("ended")
    assert not process.sees("live")
    assert "logouts-assumed" in process.events
    process.wait(2)
    for key in ("ended", "live"):
        with pytest.raises(StorageUnavailable):
            process.sees(key)


def test_only_what_was_asked_is_known_without_a_feed(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = asking(store, wall)
    store.fail()
    with pytest.raises(StorageUnavailable):
        process.sees("k")


def test_own_end_counts_although_an_answer_of_before_arrives_later(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = asking(store, wall)
    store.after("read", act=lambda: write(process.feed, "k"))
    process.sees("k")
    store.fail()
    assert process.sees("k")


def test_answers_are_bounded(store: ScriptedStorage, wall: ManualClock) -> None:
    process = asking(store, wall)
    for number in range(MOST_ANSWERS + 5):
        process.feed._keep_answer(CONTEXT, str(number), None, process.feed._moment())
    assert len(process.feed._answers) == MOST_ANSWERS
    store.fail()
    with pytest.raises(StorageUnavailable):
        process.sees("0")
    assert not process.sees(str(MOST_ANSWERS))


# --- threads and forks --------------------------------------------------------------------------


def wait_until(is_met: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_met():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_thread_follows_from_the_first_look_until_it_is_closed() -> None:
    store = MemoryStorage(time.time)
    feed = new_feed(store)
    assert feed._thread is None
    write(store, "k")
    assert feed.look(CONTEXT, "k") is not None
    wait_until(feed.is_fresh)
    thread = feed._thread
    assert thread is not None
    feed.close()
    thread.join(30)
    assert not thread.is_alive()


def test_thread_ends_with_its_feed() -> None:
    feed = new_feed(MemoryStorage(time.time))
    feed.look(CONTEXT, "k")
    thread = feed._thread
    assert thread is not None
    wait_until(feed.is_fresh)
    del feed
    thread.join(30)
    assert not thread.is_alive()


def test_child_of_a_fork_follows_by_its_own_thread(tmp_path: Path) -> None:
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    write(store, "k")
    feed = new_feed(store)
    feed.look(CONTEXT, "k")
    wait_until(feed.is_fresh)

    def act() -> bool:
        parents = feed._thread
        write(store, "of the child")
        assert feed.look(CONTEXT, "k") is not None
        wait_until(lambda: feed._source_of[CONTEXT].find(CONTEXT, "of the child", 0) is not None)
        return feed._thread is not parents

    assert run_child(act)
    feed.close()
    store.close()


# --- hints --------------------------------------------------------------------------------------


class QueueListener:
    """Gets what a `HintingStore` hints, or raises an error that is put instead."""

    def __init__(self) -> None:
        self.queue: Queue[StorageError | None] = Queue()
        self.is_closed = False

    def wait(self, seconds: float) -> bool:
        try:
            error = self.queue.get(timeout=seconds)
        except Empty:
            return False
        if error is not None:
            raise error
        return True

    def close(self) -> None:
        self.is_closed = True


class HintingStore(MemoryStorage):
    """A store that hints within this process. `refusal`: raised in place of a listener."""

    def __init__(self, refusal: StorageError | None = None) -> None:
        super().__init__(time.time)
        self.refusal, self.hints = refusal, 0
        self.listeners: list[QueueListener] = []

    def listen(self) -> QueueListener:
        if self.refusal is not None:
            raise self.refusal
        self.listeners.append(QueueListener())
        return self.listeners[-1]

    def notify(self) -> None:
        self.hints += 1
        for listener in self.listeners:
            listener.queue.put(None)


@pytest.fixture
def _seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a hint causes comes in time for a test."""
    poll = Feed.poll
    monkeypatch.setattr(Feed, "poll", lambda feed: poll(feed) + 60)
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(feeds, "LISTEN_AGAIN", 0.01)


def follow(store: Any) -> Feed:
    """A feed whose threads follow and listen."""
    feed = new_feed(store, staleness=600)
    feed.look(CONTEXT, "any")
    wait_until(feed.is_fresh)
    return feed


def knows(feed: Feed, key: str) -> bool:
    return feed._source_of[CONTEXT].find(CONTEXT, key, 0) is not None


@pytest.mark.usefixtures("_seldom")
def test_process_polls_at_a_hint_and_hints_at_its_own_writes() -> None:
    store = HintingStore()
    reader, writer = follow(store), follow(store)
    wait_until(lambda: len(store.listeners) == 2)
    write(writer, "k")
    wait_until(lambda: knows(reader, "k"))
    assert store.hints == 1
    assert writer.update(CONTEXT, "k", b"w", None, 2)
    wait_until(lambda: store.hints == 2)
    # A process without a thread, such as a command, hints itself.
    write(new_feed(store), "other")
    assert store.hints == 3
    wait_until(lambda: knows(reader, "other"))
    reader.close()
    writer.close()
    wait_until(lambda: all(listener.is_closed for listener in store.listeners))


@pytest.mark.usefixtures("_seldom")
def test_connection_for_hints_is_opened_again() -> None:
    store = HintingStore()
    reader = follow(store)
    wait_until(lambda: len(store.listeners) == 1)
    store.listeners[0].queue.put(StorageUnavailable("it broke"))
    wait_until(lambda: len(store.listeners) == 2)
    assert store.listeners[0].is_closed
    write(store, "k")
    store.notify()
    wait_until(lambda: knows(reader, "k"))
    reader.close()


def test_process_that_gets_no_hints_says_so_once_and_polls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sealedstate")
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.02)
    reader = follow(HintingStore(StorageError("no right to subscribe")))
    write(reader._default, "k")
    wait_until(lambda: knows(reader, "k"))
    reader.close()
    (record,) = [each for each in caplog.records if "hints" in each.message]
    assert "no right to subscribe" in record.message


def test_hint_is_followed_at_once_and_many_cost_few_polls(
    store: ScriptedStorage, wall: ManualClock
) -> None:
    process = Process(store, wall, has_threads=True, polls=False)
    feed = process.feed
    pause = feed.work(True)
    process.wait(0.1)
    assert feed.work(False) == pytest.approx(pause - 0.1)
    feed._wake.is_hinted = True
    assert feed.work(False) <= HINT_SPREAD
    store.calls.clear()
    seconds = 20
    for _ in range(seconds * 100):
        feed._wake.is_hinted = True
        due = process.running() + feed.work(False)
        process.wait(0.01)
        if process.running() >= due:
            feed.work(True)
    # Without hints, one in 0.8 s.
    assert store.count["changes"] <= MOST_HINTS + seconds + seconds / 0.8
