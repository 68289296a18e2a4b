"""The journal: what it counts, logs and passes on, and what it never tells."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Key, Keyring, Session
from sealedstate.events import MAX_KIDS, OBSERVER_FAILED, OTHER_KIDS, Event, EventLog
from sealedstate.key_sources import StaticKeys
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock, keeper

KID = bytes.fromhex("0a0b0c0d")
ID = bytes(range(100, 116))
DIGEST = hashlib.blake2b(ID, digest_size=8).hexdigest()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The logger as it is where nobody has configured it: nothing at INFO."""
    logger = logging.getLogger("sealedstate")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


def fields(record: logging.LogRecord) -> dict[str, str]:
    found: dict[str, str] = record.__dict__["sealedstate"]
    return found


# --- counters -----------------------------------------------------------------------------------


def test_events_are_counted_by_name_and_reason() -> None:
    journal = EventLog()
    journal.emit("saved")
    journal.emit("refused", "tag")
    journal.emit("refused", "tag")
    assert journal.counts == {"saved": 1, "refused-tag": 2}
    assert not journal.by_kid


def test_keys_are_counted_by_label() -> None:
    journal = EventLog()
    journal.emit("opened", kid=KID)
    journal.emit("opened", kid=KID)
    journal.emit("refused", "kid-unknown", kid=KID)
    assert journal.by_kid == {("opened", KID.hex()): 2, ("refused-kid-unknown", KID.hex()): 1}


def test_the_counters_that_are_handed_out_are_copies() -> None:
    journal = EventLog()
    journal.emit("opened", kid=KID)
    journal.counts["opened"] += 5
    journal.by_kid["opened", KID.hex()] += 5
    assert journal.counts["opened"] == journal.by_kid["opened", KID.hex()] == 1


def test_a_flood_of_invented_kids_is_counted_and_fills_nothing() -> None:
    journal = EventLog()
    for number in range(3 * MAX_KIDS):
        journal.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    assert len(journal.by_kid) == MAX_KIDS + 1
    assert journal.by_kid["refused-kid-unknown", OTHER_KIDS] == 2 * MAX_KIDS
    assert journal.counts["refused-kid-unknown"] == 3 * MAX_KIDS


def test_a_kid_that_is_counted_by_name_stays_so_in_a_flood() -> None:
    journal = EventLog()
    for number in range(2 * MAX_KIDS):
        journal.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    journal.emit("refused", "kid-unknown", kid=bytes(4))
    assert journal.by_kid["refused-kid-unknown", "00000000"] == 2


def test_a_flood_of_invented_kids_hides_no_key_that_opens() -> None:
    journal = EventLog()
    for number in range(2 * MAX_KIDS):
        journal.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    journal.emit("opened", kid=KID)
    assert journal.by_kid["opened", KID.hex()] == 1


def test_an_observer_is_told_the_kid_and_how_it_is_counted() -> None:
    seen: list[Event] = []
    journal = EventLog([seen.append])
    for number in range(MAX_KIDS + 1):
        journal.emit("refused", "kid-unknown", kid=number.to_bytes(4, "big"))
    assert (seen[0].kid, seen[0].counted_kid) == ("00000000", "00000000")
    assert (seen[-1].kid, seen[-1].counted_kid) == (MAX_KIDS.to_bytes(4, "big").hex(), OTHER_KIDS)


class Interruptible(str):
    """A name that lets other threads run between the reading and the writing of its count."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


def test_no_count_is_lost_among_threads() -> None:
    seen: list[Event] = []
    journal, name = EventLog([seen.append]), Interruptible("opened")

    def count() -> None:
        for _ in range(250):
            journal.emit(name, kid=KID)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.counts["opened"] == journal.by_kid["opened", KID.hex()] == len(seen) == 2000


def test_a_process_that_is_forked_in_the_midst_of_a_count_goes_on_counting() -> None:
    # The lock is held as by another thread, which the child does not have.
    script = """
import os, signal
from sealedstate.events import EventLog

journal = EventLog()
journal.emit("opened")
with journal._lock:
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs does not stay
        journal.emit("opened")
        os._exit(0 if journal.counts["opened"] == 2 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- logs ---------------------------------------------------------------------------------------


def test_an_event_is_one_structured_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sealedstate"):
        EventLog().emit("refused", "tag", kid=KID, session_id=ID, detail="look at it")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("sealedstate", "INFO")
    assert fields(record) == {
        "event": "refused",
        "reason": "tag",
        "kid": "0a0b0c0d",
        "session": DIGEST,
        "detail": "look at it",
    }
    assert record.getMessage() == f"refused-tag kid=0a0b0c0d session={DIGEST} look at it"


def test_what_an_event_has_not_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sealedstate"):
        EventLog().emit("ring-reloaded")
    (record,) = caplog.records
    assert fields(record) == {"event": "ring-reloaded"}
    assert record.getMessage() == "ring-reloaded"


def test_a_json_formatter_finds_the_fields() -> None:
    class AsJSON(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return json.dumps({"level": record.levelname, **record.__dict__["sealedstate"]})

    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(AsJSON())
    logger = logging.getLogger("sealedstate")
    logger.addHandler(handler)
    try:
        EventLog().emit("ring-refused", detail="gone", level=logging.ERROR)
    finally:
        logger.removeHandler(handler)
    assert json.loads(written.getvalue()) == {
        "level": "ERROR",
        "event": "ring-refused",
        "detail": "gone",
    }


@pytest.mark.usefixtures("quiet")
def test_what_is_below_the_level_of_the_logger_is_counted_and_observed_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Event] = []
    journal = EventLog([seen.append])
    journal.emit("saved", session_id=ID)
    journal.emit("ring-refused", level=logging.ERROR)
    assert journal.counts == {"saved": 1, "ring-refused": 1}
    assert [event.name for event in seen] == ["saved", "ring-refused"]
    assert [record.getMessage() for record in caplog.records] == ["ring-refused"]


@pytest.mark.usefixtures("quiet")
def test_where_nobody_looks_no_session_is_digested(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[bytes | None] = []

    def digest(session_id: bytes | None) -> str:
        digested.append(session_id)
        return "0" * 16

    monkeypatch.setattr("sealedstate.events._digest", digest)
    EventLog().emit("opened", session_id=ID)
    assert digested == []
    EventLog([lambda event: None]).emit("opened", session_id=ID)
    assert digested == [ID]


@given(session_id=st.binary(min_size=16, max_size=16))
def test_no_event_tells_a_session_id(session_id: bytes) -> None:
    seen: list[Any] = []

    def keep(record: logging.LogRecord) -> bool:
        seen.append(record)
        return False

    handler = logging.Handler()
    handler.addFilter(keep)
    logger = logging.getLogger("sealedstate")
    logger.addHandler(handler)
    try:
        EventLog([seen.append]).emit("ring-x", session_id=session_id, level=logging.ERROR)
    finally:
        logger.removeHandler(handler)
    record, event = seen
    told = f"{record.__dict__} {record.getMessage()} {event!r}"
    shown = base64.urlsafe_b64encode(session_id).decode().rstrip("=")
    assert event.session is not None
    assert len(event.session) == 16
    for text in (session_id.hex(), shown, repr(session_id)):
        assert text not in told


def test_of_what_a_session_holds_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []
    clock, key = Clock(), Key.generate(os.urandom)
    given: dict[str, Any] = {"profile": "standard", "part_policies": {"stored": "server"}}
    given |= {"storage": MemoryStorage(clock), "observers": [seen.append]}
    browser = Browser(keeper(clock, keys=StaticKeys(Keyring((key,))), **given))

    def sign_in(session: Session) -> None:
        session.subject = "canary-subject"
        session["stored"] = session["carried"] = "canary-value"

    with caplog.at_level(logging.DEBUG):
        browser.visit(sign_in)
        assert browser.read()["stored"] == "canary-value"
        session = browser.session()
        other = keeper(clock, observers=[seen.append])
        assert not other.session(browser.jar.header())
        session.invalidate()
        assert not browser.session()
    assert {"spilled", "saved", "opened", "recalled", "revoked", "refused"} == {
        event.name for event in seen
    }
    records = "".join(f"{record.__dict__} {record.getMessage()}" for record in caplog.records)
    told = f"{seen} {records}"
    cookies = browser.jar.ours().values()
    for secret in ("canary", key.export().rpartition(":")[2], session.id, *cookies):
        assert secret not in told


def test_sessions_are_told_apart_and_recognised() -> None:
    seen: list[Event] = []
    journal = EventLog([seen.append])
    for session_id in (ID, ID, os.urandom(16)):
        journal.emit("opened", session_id=session_id)
    first, again, other = (event.session for event in seen)
    assert first == again != other


# --- observers ----------------------------------------------------------------------------------


class Faulty:
    """An observer that fails, by an error of a kind that can be changed."""

    error: Exception = ValueError("out of order")

    def __call__(self, event: Event) -> None:
        raise self.error


def test_an_observer_that_fails_hurts_neither_the_request_nor_the_others() -> None:
    seen: list[Event] = []
    journal = EventLog([Faulty(), seen.append])
    journal.emit("saved")
    assert [event.name for event in seen] == ["saved"]
    assert journal.counts == {"saved": 1, OBSERVER_FAILED: 1}


def test_an_observer_that_keeps_failing_is_complained_of_once_for_each_kind_of_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faulty = Faulty()
    journal = EventLog([faulty])
    for _ in range(3):
        journal.emit("saved")
    faulty.error = OSError("another trouble")
    journal.emit("saved")
    complaints = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in complaints] == ["an observer failed at saved"] * 2
    assert "out of order" in caplog.text
    assert journal.counts[OBSERVER_FAILED] == 4


def test_an_observer_may_note_something_itself() -> None:
    journal: EventLog

    def echo(event: Event) -> None:
        if event.name == "saved":
            journal.emit("echoed")

    journal = EventLog([echo])
    journal.emit("saved")
    assert journal.counts == {"saved": 1, "echoed": 1}


def test_an_interrupt_is_not_swallowed() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EventLog([interrupted]).emit("saved")


def test_what_can_not_be_called_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="str is not a function"):
        EventLog(["prometheus"])  # type: ignore[list-item]
