"""The event log: what it counts, logs and passes on, and what it never shows."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sealedstate import ConfigurationError, Key
from sealedstate.events import (
    MAX_KIDS,
    OBSERVER_FAILED,
    OTHER_KIDS,
    Event,
    EventLog,
    EventName,
    JSONFormatter,
)
from sealedstate.testing._workers import run_in_threads
from tests.support.forks import run_child

KID = bytes.fromhex("0a0b0c0d")
ID = bytes(range(100, 116))
DIGEST = hashlib.blake2b(ID, digest_size=8).hexdigest()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The logger as in an application that does not configure it: nothing at INFO."""
    logger = logging.getLogger("sealedstate")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


# --- counters -----------------------------------------------------------------------------------


def test_events_are_counted_by_label_and_by_kid() -> None:
    events = EventLog()
    events.emit("saved")
    events.emit("refused", "tag")
    events.emit("refused", "kid-unknown", kid=KID)
    for _ in range(2):
        events.emit("opened", kid=KID)
    counts = {"saved": 1, "refused-tag": 1, "refused-kid-unknown": 1, "opened": 2}
    by_kid = {("opened", KID.hex()): 2, ("refused-kid-unknown", KID.hex()): 1}
    assert (events.counts, events.by_kid) == (counts, by_kid)
    events.counts["opened"] += 5
    events.by_kid["opened", KID.hex()] += 5
    assert (events.counts, events.by_kid) == (counts, by_kid)


def test_a_flood_of_invented_kids_fills_no_memory_and_hides_no_key() -> None:
    seen: list[Event] = []
    unseen, observed = EventLog(), EventLog([seen.append])
    for events in (unseen, observed):
        for number in range(3 * MAX_KIDS):
            events.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
        assert len(events.by_kid) == MAX_KIDS + 1
        assert events.by_kid["refused-kid-unknown", OTHER_KIDS] == 2 * MAX_KIDS
        assert events.counts["refused-kid-unknown"] == 3 * MAX_KIDS
        # A kid that was counted by its name is still counted by it.
        events.emit("refused", "kid-unknown", kid=bytes(4))
        assert events.by_kid["refused-kid-unknown", "00000000"] == 2
        events.emit("opened", kid=KID)
        assert events.by_kid["opened", KID.hex()] == 1
    assert (seen[0].kid, seen[0].counted_kid) == ("00000000", "00000000")
    assert (seen[MAX_KIDS].kid, seen[MAX_KIDS].counted_kid) == ("00000100", OTHER_KIDS)


class Interruptible(str):
    """A name that lets other threads run between the reading and the writing of its count."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


def test_threads_lose_no_count() -> None:
    seen: list[Event] = []
    events, name = EventLog([seen.append]), cast(EventName, Interruptible("opened"))

    def count(*_: object) -> None:
        for _number in range(150):
            events.emit(name, kid=KID)

    run_in_threads(8, count)
    assert events.counts["opened"] == events.by_kid["opened", KID.hex()] == len(seen) == 1200


def test_a_process_that_is_forked_during_a_count_continues_to_count() -> None:
    events = EventLog()
    events.emit("opened")

    def emit() -> int:
        events.emit("opened")
        return events.counts["opened"]

    with events._lock:  # as by another thread, which the child does not have
        assert run_child(emit) == 2


# --- logs ---------------------------------------------------------------------------------------


def test_an_event_is_one_structured_log_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sealedstate"):
        EventLog().emit("refused", "tag", kid=KID, session_id=ID, detail="look at it")
        EventLog().emit("ring-reloaded")
    full, short = caplog.records
    assert (full.name, full.levelname) == ("sealedstate", "INFO")
    assert full.getMessage() == f"refused-tag kid=0a0b0c0d session={DIGEST} look at it"
    assert full.__dict__["sealedstate"] == {
        "event": "refused",
        "reason": "tag",
        "kid": "0a0b0c0d",
        "session": DIGEST,
        "detail": "look at it",
    }
    assert short.getMessage() == "ring-reloaded"
    assert short.__dict__["sealedstate"] == {"event": "ring-reloaded"}


@pytest.mark.usefixtures("quiet")
def test_events_below_the_level_of_the_logger_are_counted_and_observed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Event] = []
    events = EventLog([seen.append])
    events.emit("saved", session_id=ID)
    events.emit("ring-refused", level=logging.ERROR)
    assert events.counts == {"saved": 1, "ring-refused": 1}
    assert [event.name for event in seen] == ["saved", "ring-refused"]
    assert [record.getMessage() for record in caplog.records] == ["ring-refused"]


@pytest.mark.usefixtures("quiet")
def test_without_log_and_observers_no_session_id_is_hashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[bytes] = []

    def blake2b(session_id: bytes, digest_size: int) -> Any:
        hashed.append(session_id)
        return hashlib.blake2b(session_id, digest_size=digest_size)

    monkeypatch.setattr("sealedstate.events.hashlib", SimpleNamespace(blake2b=blake2b))
    EventLog().emit("opened", session_id=ID)
    assert hashed == []
    EventLog([lambda event: None]).emit("opened", session_id=ID)
    assert hashed == [ID]


# --- observers ----------------------------------------------------------------------------------


def test_a_failing_observer_affects_nothing_and_is_logged_once_for_each_kind_of_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = [ValueError("out of order")] * 3 + [OSError("another fault")]
    seen: list[Event] = []

    def fail(event: Event) -> None:
        raise errors[len(seen)]

    events = EventLog([fail, seen.append])
    for _ in errors:
        events.emit("saved")
    assert [event.name for event in seen] == ["saved"] * 4
    assert events.counts == {"saved": 4, OBSERVER_FAILED: 4}
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    messages = [record.getMessage() for record in failures]
    assert [message.partition("; ")[0] for message in messages] == [
        "an observer failed at saved: ValueError: out of order",
        "an observer failed at saved: OSError: another fault",
    ]
    assert all(f"; in {__file__}:" in message for message in messages)


def test_what_a_failing_observer_says_is_printed_on_one_line_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = Key.generate(os.urandom).export()

    def fail(event: Event) -> None:
        raise RuntimeError(f"\x1b[31m\r\nforged line {key}")

    EventLog([fail]).emit("saved")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().isprintable()
    assert record.exc_info is None
    assert key not in caplog.text


def test_an_observer_may_emit_an_event() -> None:
    def echo(event: Event) -> None:
        if event.name == "saved":
            events.emit("spilled")

    events = EventLog([echo])
    events.emit("saved")
    assert events.counts == {"saved": 1, "spilled": 1}


def test_an_interrupt_is_not_suppressed() -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EventLog([interrupt]).emit("saved")


def test_an_observer_that_is_not_callable_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="expected functions, got str"):
        EventLog(["prometheus"])  # type: ignore[list-item]


def test_json_formatter_writes_a_record_with_the_fields_of_its_event_on_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    EventLog().emit("refused", "tag", kid=bytes(4), detail="a\nb")
    try:
        raise ValueError("line\nend")
    except ValueError:
        logging.getLogger("app").exception("failed %s", "here")
    lines = [JSONFormatter().format(record) for record in caplog.records]
    assert all("\n" not in line for line in lines)
    event, other = map(json.loads, lines)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "INFO",
        "logger": "sealedstate",
        "message": "refused-tag kid=00000000 a\\nb",
        "event": "refused",
        "reason": "tag",
        "kid": "00000000",
        "detail": "a\\nb",
    }
    assert (other["logger"], other["message"]) == ("app", "failed here")
    assert "ValueError: line" in other["exception"]
