"""A rotating ring: whatever happens to its storage, sessions continue with the last good one."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.errors import ConfigurationError, OperatorError, StorageUnavailable
from sealedstate.events import Event, EventLog
from sealedstate.key_sources import SeekingKeySource
from sealedstate.rotation.document import RingUnreadable
from sealedstate.rotation.reports import FileReports, Report
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import create_ring, revoke, revoke_before, rotate
from sealedstate.testing._suite import poll
from sealedstate.testing._workers import run_in_threads
from tests.support.examples import examples
from tests.support.forks import run_child
from tests.support.jar import Clock
from tests.support.ring_simulation import World
from tests.support.ring_storages import HASTY, RELOAD_EVERY, MemoryRing, rotation_config
from tests.support.shards import shards


class Reports:
    def __init__(self) -> None:
        self.reports: list[Report] = []

    def put(self, report: Report, expires_at: float) -> None:
        self.reports.append(report)

    def all(self, now: float) -> list[Report]:
        return self.reports


@pytest.fixture
def storage(clock: Clock) -> MemoryRing:
    return MemoryRing(create_ring(HASTY, int(clock()), os.urandom))


def source_of(
    storage: MemoryRing,
    clock: Clock,
    events: EventLog | None = None,
    reports: Reports | None = None,
    creates_missing: bool = False,
    **given: Any,
) -> RotatingKeySource:
    config = rotation_config(clock, **given)
    return RotatingKeySource(storage, config, events or EventLog(), reports, creates_missing)


def add_key(storage: MemoryRing, clock: Clock) -> Ring:
    """Another node announces a key."""
    assert storage.ring is not None
    storage.ring = rotate(storage.ring, HASTY, int(clock()), os.urandom, force=True)
    return storage.ring


# --- the start --------------------------------------------------------------------------------


def test_schedule_with_too_many_keys_stops_the_start_and_no_later_one_is_written(
    clock: Clock, storage: MemoryRing
) -> None:
    hasty = replace(HASTY, rotate_every=3)
    wide = replace(HASTY, rotate_every=HASTY.keep, keep=1000 * HASTY.keep)
    source = source_of(storage, clock, schedule=hasty)
    # Another process, to which few keys are due, extends what the ring promises.
    assert storage.ring is not None
    storage.ring = rotate(storage.ring, wide, int(clock()), os.urandom, force=True)
    clock.now += 3 * wide.rotate_every
    source.run_once()
    assert "at most 2000" in str(source.last_error)
    assert source.ring == storage.ring
    with pytest.raises(ConfigurationError, match="at most 2000"):
        source_of(storage, clock, schedule=hasty)


def test_missing_ring_stops_the_start_unless_nodes_create_it(clock: Clock) -> None:
    with pytest.raises(OperatorError, match="sealedstate keys init"):
        source_of(MemoryRing(), clock)
    storage = MemoryRing()
    nodes = [source_of(storage, clock, creates_missing=True) for _ in range(3)]
    assert storage.writes == 1
    assert [node.ring for node in nodes] == [storage.ring] * 3


def test_node_that_loses_the_race_uses_the_ring_of_the_winner(
    clock: Clock, storage: MemoryRing
) -> None:
    class Overtaken(MemoryRing):
        def write(self, ring: Ring, after: Ring | None) -> bool:
            self.ring = storage.ring
            return super().write(ring, after)

    assert source_of(Overtaken(), clock, creates_missing=True).ring is storage.ring


def test_unreadable_ring_stops_the_start(clock: Clock, storage: MemoryRing) -> None:
    storage.error = RingUnreadable("cut")
    with pytest.raises(RingUnreadable):
        source_of(storage, clock, creates_missing=True)
    assert storage.writes == 0


def test_start_waits_for_a_storage_that_comes_back(clock: Clock, storage: MemoryRing) -> None:
    class Starting(MemoryRing):
        def load(self) -> Ring | None:
            if self.loads == 2:
                self.error = None
            return super().load()

    starting = Starting(storage.ring)
    starting.error = StorageUnavailable("no answer yet")
    assert source_of(starting, clock).ring is storage.ring


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"reload_every": 56}, r"announce \(60 s\) .* reload_every \(56 s\) \+ skew \(5 s\)"),
        ({"skew": 51}, r"announce \(60 s\) .* reload_every \(10 s\) \+ skew \(51 s\)"),
        ({"lifetime": 3601}, r"keep \(3600 s\) .* \(3601 s\)"),
    ],
)
def test_ring_that_would_break_a_promise_stops_the_start(
    clock: Clock, storage: MemoryRing, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        source_of(storage, clock, **given)


# --- reloading --------------------------------------------------------------------------------


def test_new_ring_is_in_force_one_reload_later_and_not_loaded_before(
    clock: Clock, storage: MemoryRing
) -> None:
    source = source_of(storage, clock)
    add_key(storage, clock)
    loads = storage.loads
    clock.forward(RELOAD_EVERY - 0.1)
    assert len(source.keyring().keys) == 1
    assert storage.loads == loads
    clock.forward(0.1)
    assert len(source.keyring().keys) == len(source.keyring().keys) == 2
    assert storage.loads == loads + 1


# What the storage holds then, or what it raises.
FAULTS: dict[str, Callable[[Ring], Ring | None] | OperatorError] = {
    "lost": lambda ring: None,
    "another": lambda ring: create_ring(HASTY, ring.updated_at, os.urandom),
    "older": lambda ring: replace(ring, sequence=ring.sequence - 1),
    "rewritten": lambda ring: replace(ring, updated_at=ring.updated_at + 1),
    "cut": RingUnreadable("cut"),
    "no answer": OperatorError("no answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_last_good_ring_stays_in_force_and_the_fault_is_reported_once(
    clock: Clock,
    storage: MemoryRing,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = EventLog()
    source = source_of(storage, clock, events)
    good = source.ring
    broken = FAULTS[fault]
    if isinstance(broken, OperatorError):
        storage.error = broken
    else:
        storage.ring = broken(good)
    for _ in range(3):
        clock.forward(RELOAD_EVERY)
        assert source.keyring().keys[0].kid == good.keys[0].kid
    assert storage.writes == 0
    assert source.last_error
    assert events.counts["ring-refused"] == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    storage.ring, storage.error = good, None
    add_key(storage, clock)
    clock.forward(RELOAD_EVERY)
    assert len(source.keyring().keys) == 2
    assert source.last_error is None


def test_node_that_was_frozen_loads_before_it_seals(clock: Clock, storage: MemoryRing) -> None:
    source = source_of(storage, clock)
    for _ in range(5):
        clock.forward(1000)
        newest = add_key(storage, clock)
    clock.forward(60)
    assert source.keyring().primary(int(clock())).kid == newest.keys[0].kid


def test_other_threads_do_not_wait_while_one_loads(clock: Clock, storage: MemoryRing) -> None:
    loading, resume = threading.Event(), threading.Event()

    class Slow(MemoryRing):
        def load(self) -> Ring | None:
            if self.loads:
                loading.set()
                assert resume.wait(30)
            return super().load()

    source = source_of(Slow(storage.ring), clock)
    clock.forward(RELOAD_EVERY)
    thread = threading.Thread(target=source.keyring)
    thread.start()
    assert loading.wait(30)
    assert source.keyring().primary(int(clock())) is not None
    resume.set()
    thread.join(30)
    assert not thread.is_alive()


def test_unknown_kid_loads_the_ring_that_has_or_had_it(clock: Clock, storage: MemoryRing) -> None:
    source = source_of(storage, clock)
    assert isinstance(source, SeekingKeySource)
    ring = add_key(storage, clock)
    assert source.seek(ring.keys[0].kid)
    assert len(source.keyring().keys) == 2
    clock.forward(1)
    kid = ring.keys[1].kid
    storage.ring = revoke(ring, kid, int(clock()), os.urandom)
    assert source.seek(kid)
    assert kid in source.keyring().removed_kids


def test_flood_of_unknown_kids_loads_the_ring_once_a_second(
    clock: Clock, storage: MemoryRing
) -> None:
    source = source_of(storage, clock)
    loads = storage.loads
    for _ in range(5000):
        assert not source.seek(os.urandom(4))
    assert storage.loads == loads + 1
    clock.forward(1)
    assert not source.seek(os.urandom(4))
    assert storage.loads == loads + 2


# --- when the ring was read -------------------------------------------------------------------


def test_moment_of_a_read_is_that_of_its_beginning(clock: Clock, storage: MemoryRing) -> None:
    class Slow(MemoryRing):
        def load(self) -> Ring | None:
            ring = super().load()
            clock.forward(30)
            return ring

    began = clock()
    source = source_of(Slow(storage.ring), clock)
    assert source.read_at() == began
    clock.forward(RELOAD_EVERY)
    began = clock()
    source.keyring()
    assert (source.read_at(), clock()) == (began, began + 30)


def test_load_counts_as_a_read_only_if_it_gave_this_ring_or_a_later_state(
    clock: Clock, storage: MemoryRing
) -> None:
    source = source_of(storage, clock)
    former, ring = storage.ring, add_key(storage, clock)

    def reload() -> float:
        clock.forward(RELOAD_EVERY)
        source.keyring()
        return source.read_at()

    last = reload()
    assert last == clock()  # a later state
    assert reload() == clock() > last  # the same
    last = clock()
    another = create_ring(HASTY, int(clock()), os.urandom)
    for found in (None, former, another, replace(ring, lookup=os.urandom(32))):
        storage.ring = found
        assert reload() == last
    storage.ring, storage.error = ring, OperatorError("down")
    assert reload() == last
    storage.error = None
    assert reload() == clock() > last


@pytest.mark.parametrize(("step", "moment"), [(-1000, -1000), (1000, 0)])
def test_wall_clock_that_is_set_never_makes_a_read_later(
    step: int, moment: int, clock: Clock, storage: MemoryRing
) -> None:
    ticks = Clock(0.0)
    source = source_of(storage, clock, monotonic=ticks)
    began = clock()
    for each in (clock, ticks):
        each.forward(5)
    clock.forward(step)
    # Ahead then: its age counts. Ahead now: the time that was noted.
    assert source.read_at() == began + moment


@pytest.mark.slow
def test_ring_is_adopted_before_its_read_is_noted(clock: Clock, storage: MemoryRing) -> None:
    """A thread that asks for the moment and then for the keys gets keys as new as the moment."""
    source = source_of(storage, clock)
    pairs: list[tuple[float, int]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            moment = source.read_at()
            pairs.append((moment, len(source.keyring().keys)))

    thread = threading.Thread(target=ask)
    thread.start()
    written = [clock()]
    for _ in range(200):
        add_key(storage, clock)
        written.append(clock())
        clock.forward(RELOAD_EVERY)
        source.keyring()
    over.set()
    thread.join(30)
    # A key was added at each of these moments; the first is that of the ring's creation.
    assert all(keys > sum(at < moment for at in written[1:]) for moment, keys in pairs)


# --- rotating ---------------------------------------------------------------------------------


def test_key_that_is_due_is_announced_by_one_of_two_nodes(
    clock: Clock, storage: MemoryRing
) -> None:
    heard: list[Event] = []
    one, other = source_of(storage, clock, EventLog([heard.append])), source_of(storage, clock)
    assert not one.rotate()
    clock.forward(HASTY.rotate_every)
    assert one.rotate()
    assert not one.rotate()
    assert not other.rotate()
    assert one.ring is other.ring is storage.ring
    assert len(one.ring.keys) == 2
    assert [(event.name, event.kid) for event in heard] == [
        ("ring-rotated", one.ring.keys[0].kid.hex())
    ]


def test_another_ring_is_not_rotated_over(clock: Clock, storage: MemoryRing) -> None:
    source = source_of(storage, clock)
    clock.forward(HASTY.rotate_every)
    another = storage.ring = create_ring(HASTY, int(clock()), os.urandom)
    assert not source.rotate()
    assert storage.ring is another


def test_lost_ring_is_put_back_once(clock: Clock, storage: MemoryRing) -> None:
    events = EventLog()
    source = source_of(storage, clock, events)
    backup = storage.ring
    clock.forward(HASTY.rotate_every)
    source.run_once()
    newer = storage.ring
    for count, lost in ((1, None), (2, backup)):
        storage.ring = lost
        source.run_once()
        source.run_once()
        assert storage.ring is source.ring is newer
        assert events.counts["ring-restored"] == count


@pytest.mark.parametrize("rotations", [2, 3])
def test_ring_that_is_put_back_keeps_what_was_revoked_in_the_former_one(
    clock: Clock, storage: MemoryRing, rotations: int
) -> None:
    source = source_of(storage, clock)
    backup = source.ring
    # With two, the restored ring reaches the sequence of the current one by its revocations.
    for _ in range(rotations):
        clock.forward(HASTY.rotate_every)
        source.run_once()
    newest = source.ring
    kid = backup.keys[0].kid
    assert kid in {key.kid for key in newest.keys}
    now = int(clock())
    restored = revoke(revoke_before(backup, now, now), kid, now, os.urandom, "stolen")
    assert (restored.sequence == newest.sequence) is (rotations == 2)
    storage.ring = restored
    source.run_once()
    assert storage.ring is source.ring
    assert source.ring.sequence > newest.sequence
    assert source.ring.revoked_before == now
    assert [dead.reason for dead in source.ring.tombstones if dead.revoked] == ["stolen"]
    assert {key.kid for key in source.ring.keys} == {key.kid for key in newest.keys} - {kid}
    assert source.keyring().revoked_before == now + source.ring.schedule.skew


def test_round_survives_a_storage_that_cannot_be_written(clock: Clock, storage: MemoryRing) -> None:
    source = source_of(storage, clock)
    clock.forward(HASTY.rotate_every)
    storage.error = OperatorError("read-only")
    source.run_once()
    assert "read-only" in (source.last_error or "")
    storage.error = None
    source.run_once()
    assert len(source.ring.keys) == 2


def test_round_reports_how_many_cookies_came_with_each_kid(
    clock: Clock, storage: MemoryRing
) -> None:
    events, reports = EventLog(), Reports()
    source = source_of(storage, clock, events, reports)
    kid = source.ring.keys[0].kid
    events.emit("opened", kid=kid)
    events.emit("refused", "kid-unknown", kid=b"\1\2\3\4")
    source.run_once()
    (report,) = reports.reports
    assert (report.ring, report.sequence) == (source.ring.ring_id, 1)
    assert report.known == (report.primary,) == (kid.hex(),)
    assert report.opened == {kid.hex(): 1}
    assert report.unknown == {"01020304": 1}


def test_thread_begins_with_the_first_request_and_ends_at_close(
    clock: Clock, storage: MemoryRing
) -> None:
    before = {*threading.enumerate()}
    source = source_of(storage, clock, reload_every=1, rotate_in_process=True)
    assert {*threading.enumerate()} <= before
    source.keyring()
    (thread,) = {*threading.enumerate()} - before
    clock.forward(HASTY.rotate_every)
    assert any(storage.ring and len(storage.ring.keys) == 2 for _ in poll(30))
    assert thread.is_alive()
    source.close()
    assert any(not thread.is_alive() for _ in poll(30))


def test_forked_child_rotates_with_its_own_thread(clock: Clock, storage: MemoryRing) -> None:
    source = source_of(storage, clock, reload_every=1, rotate_in_process=True)
    source.keyring()
    # As other threads might at the moment of the fork.
    source._lock.acquire()
    condition: Any = source._closed._cond  # type: ignore[attr-defined]
    condition.acquire()

    def rotates() -> bool:
        clock.forward(HASTY.rotate_every)
        source.keyring()
        return any(len(source.ring.keys) == 2 for _ in poll(30))

    assert run_child(rotates)
    condition.release()
    source.close()


def test_thread_ends_once_nothing_refers_to_its_source(clock: Clock, storage: MemoryRing) -> None:
    before = {*threading.enumerate()}
    source: Any = source_of(storage, clock, reload_every=1, rotate_in_process=True)
    source.keyring()
    source.itself = source  # found by the collector only, in whatever thread it runs
    (thread,) = {*threading.enumerate()} - before
    del source
    gc.collect()
    assert any(not thread.is_alive() for _ in poll(30))


def test_process_has_one_thread_whichever_requests_come_first(
    clock: Clock, storage: MemoryRing
) -> None:
    source = source_of(storage, clock, rotate_in_process=True)
    before = {*threading.enumerate()}
    run_in_threads(8, lambda number, barrier: source.keyring())
    assert len({*threading.enumerate()} - before) == 1
    source.close()


# --- everything together ----------------------------------------------------------------------

SHARDS = 20


@pytest.mark.parametrize("shard", shards(SHARDS))
@examples(1000)
@given(seed=st.integers(0, 2**48))
def test_every_token_opens_on_every_node_for_its_whole_life(shard: int, seed: int) -> None:
    """Schedules, clocks, reloads and restarts in any order: 20,000 walks, most in the soak."""
    World(seed * SHARDS + shard).run(25)


REPORT = Report("node", 1, 100.0, "ring", 1, None, ("7f3a0b1c",), {"7f3a0b1c": 3})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(st.sampled_from(sorted(asdict(REPORT))), ANYTHING, min_size=1)


def test_report_is_read_back_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = FileReports(Path("keys.json.nodes"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    reports.put(REPORT, 200.0)
    assert (tmp_path / "keys.json.nodes").is_dir()
    assert reports.all(150.0) == [REPORT]
    assert reports.all(200.0) == []
    assert list((tmp_path / "keys.json.nodes").iterdir()) == []


@given(changes=CHANGES)
def test_text_is_a_report_of_valid_fields_or_refused(changes: dict[str, Any]) -> None:
    try:
        report = Report.parse(json.dumps(asdict(REPORT) | changes))
    except ValueError:
        return
    assert Report.parse(report.dump()) == report
    assert all(type(count) is int for count in report.opened.values())
    assert all(isinstance(kid, str) for kid in report.known)


def test_files_that_are_no_reports_are_ignored(tmp_path: Path) -> None:
    reports = FileReports(tmp_path)
    reports.put(REPORT, 200.0)
    (tmp_path / "folder.json").mkdir()
    for text in ("", "x", "1\n", "nan\n{}", "9e99\n[]", "9e99\n" + "[" * 60_000):
        (tmp_path / "other.json").write_text(text)
        assert reports.all(150.0) == [REPORT]
