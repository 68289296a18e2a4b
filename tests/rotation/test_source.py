"""A rotating ring: whatever happens where it is kept, sessions go on with the last good one."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from dataclasses import replace
from typing import Any

import pytest

from sealedstate.errors import ConfigurationError, OperatorError, StorageUnavailable
from sealedstate.events import Event, EventLog
from sealedstate.key_sources import SeekingKeySource
from sealedstate.rotation import Ring, RingUnreadable, Schedule, founded, revoked, rotated
from sealedstate.rotation.reports import Report
from sealedstate.rotation.source import RotatingKeySource, RotationConfig
from sealedstate.testing._suite import poll
from tests.support.jar import Clock

RELOAD = 10
SCHEDULE = Schedule(rotate_every=1000, announce=60, keep=3600, skew=5)


class Home:
    """A place for a ring that can go wrong in every way."""

    where = "the home"

    def __init__(self, ring: Ring | None = None) -> None:
        self.ring = ring
        self.error: OperatorError | None = None
        self.loads = self.writes = 0

    def load(self) -> Ring | None:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return self.ring

    def write(self, ring: Ring, after: Ring | None) -> bool:
        self.writes += 1
        if self.error is not None:
            raise self.error
        if self.ring != after:
            return False
        self.ring = ring
        return True


class Board:
    def __init__(self) -> None:
        self.reports: list[Report] = []

    def put(self, report: Report, expires_at: float) -> None:
        self.reports.append(report)

    def all(self, now: float) -> list[Report]:
        return self.reports


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(clock: Clock) -> Home:
    return Home(founded(SCHEDULE, int(clock()), os.urandom))


def tending(clock: Clock, **given: Any) -> RotationConfig:
    usual: dict[str, Any] = {
        "schedule": SCHEDULE,
        "reload_every": RELOAD,
        "lifetime": 3600,
        "skew": 5,
        "rotates": False,
        "clock": clock,
        "ticks": clock,
        "random": os.urandom,
    }
    return RotationConfig(**usual | given)


def keys_of(
    home: Home, clock: Clock, journal: EventLog | None = None, **given: Any
) -> RotatingKeySource:
    founds = given.pop("founds", False)
    board = given.pop("board", None)
    return RotatingKeySource(home, tending(clock, **given), journal or EventLog(), board, founds)


def advanced(ring: Ring, clock: Clock) -> Ring:
    return rotated(ring, SCHEDULE, int(clock()), os.urandom, force=True)


# --- the start --------------------------------------------------------------------------------


def test_a_missing_ring_stops_the_start_and_names_the_command(clock: Clock) -> None:
    with pytest.raises(ConfigurationError, match="sealedstate keys init"):
        keys_of(Home(), clock)


def test_where_nodes_found_the_ring_all_of_them_use_the_first_ones(clock: Clock) -> None:
    home = Home()
    nodes = [keys_of(home, clock, founds=True) for _ in range(3)]
    assert home.writes == 1
    assert {node.ring.ring_id for node in nodes} == {home.ring.ring_id if home.ring else None}


def test_who_loses_the_race_to_found_takes_the_winners_ring(clock: Clock, home: Home) -> None:
    class Overtaken(Home):
        def write(self, ring: Ring, after: Ring | None) -> bool:
            self.ring = home.ring  # somebody was faster
            return super().write(ring, after)

    assert keys_of(Overtaken(), clock, founds=True).ring is home.ring


def test_an_unreadable_ring_stops_the_start(clock: Clock, home: Home) -> None:
    home.error = RingUnreadable("cut short")
    with pytest.raises(RingUnreadable):
        keys_of(home, clock, founds=True)
    assert home.writes == 0


def test_a_start_waits_for_a_place_that_comes_back(clock: Clock, home: Home) -> None:
    class Starting(Home):
        def load(self) -> Ring | None:
            if self.loads == 2:
                self.error = None
            return super().load()

    starting = Starting(home.ring)
    starting.error = StorageUnavailable("no answer yet")
    assert keys_of(starting, clock).ring is home.ring


@pytest.mark.parametrize(
    ("given", "inequality"),
    [
        ({"reload_every": 56}, r"announce \(60 s\) >= reload_every \(56 s\) \+ skew \(5 s\)"),
        ({"skew": 51}, r"announce \(60 s\) >= reload_every \(10 s\) \+ skew \(51 s\)"),
        ({"lifetime": 3601}, r"keep \(3600 s\) >= absolute_lifetime \(3601 s\)"),
    ],
)
def test_a_ring_that_would_break_a_promise_stops_the_start(
    clock: Clock, home: Home, given: dict[str, Any], inequality: str
) -> None:
    with pytest.raises(ConfigurationError, match=inequality):
        keys_of(home, clock, **given)


# --- reloading --------------------------------------------------------------------------------


def test_a_new_ring_is_in_force_one_reload_later_and_not_looked_for_before(
    clock: Clock, home: Home
) -> None:
    keys = keys_of(home, clock)
    assert home.ring is not None
    home.ring = advanced(home.ring, clock)
    loads = home.loads
    clock.forward(RELOAD - 0.1)
    assert len(keys.keyring().keys) == 1
    assert home.loads == loads
    clock.forward(0.1)
    assert len(keys.keyring().keys) == 2
    assert len(keys.keyring().keys) == 2
    assert home.loads == loads + 1


def _gone(home: Home, clock: Clock) -> None:
    home.ring = None


def _foreign(home: Home, clock: Clock) -> None:
    home.ring = founded(SCHEDULE, int(clock()), os.urandom)


def _older(home: Home, clock: Clock) -> None:
    assert home.ring is not None
    home.ring = replace(home.ring, sequence=home.ring.sequence - 1)


def _other_history(home: Home, clock: Clock) -> None:
    assert home.ring is not None
    home.ring = replace(home.ring, updated_at=home.ring.updated_at + 1)


def _unreadable(home: Home, clock: Clock) -> None:
    home.error = RingUnreadable("cut short")


def _down(home: Home, clock: Clock) -> None:
    home.error = OperatorError("no answer")


@pytest.mark.parametrize("fault", [_gone, _foreign, _older, _other_history, _unreadable, _down])
def test_whatever_is_wrong_with_the_ring_the_last_good_one_stays_and_it_is_said_once(
    clock: Clock, home: Home, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    journal = EventLog()
    keys = keys_of(home, clock, journal)
    good = keys.ring
    fault(home, clock)
    for _ in range(3):
        clock.forward(RELOAD)
        assert keys.keyring().keys[0].kid == good.keys[0].kid
    assert home.writes == 0
    assert keys.complaint
    assert journal.counts["ring-refused"] == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    home.ring, home.error = advanced(good, clock), None
    clock.forward(RELOAD)
    assert len(keys.keyring().keys) == 2
    assert keys.complaint is None


def test_a_frozen_node_looks_before_it_seals_again(clock: Clock, home: Home) -> None:
    keys = keys_of(home, clock)
    assert home.ring is not None
    for _ in range(5):
        clock.forward(1000)
        home.ring = rotated(home.ring, SCHEDULE, int(clock()), os.urandom)
    clock.forward(60)
    assert keys.keyring().primary(int(clock())).kid == home.ring.keys[0].kid


def test_while_one_thread_loads_the_others_go_on_with_the_last_good_ring(
    clock: Clock, home: Home
) -> None:
    loading, go_on = threading.Event(), threading.Event()

    class Slow(Home):
        def load(self) -> Ring | None:
            if self.loads:
                loading.set()
                assert go_on.wait(30)
            return super().load()

    keys = keys_of(Slow(home.ring), clock)
    clock.forward(RELOAD)
    thread = threading.Thread(target=keys.keyring)
    thread.start()
    assert loading.wait(30)
    assert keys.keyring().primary(int(clock())) is not None
    go_on.set()
    thread.join(30)
    assert not thread.is_alive()


# --- unknown kids -----------------------------------------------------------------------------


def test_an_unknown_kid_brings_the_new_ring_at_once(clock: Clock, home: Home) -> None:
    keys = keys_of(home, clock)
    assert isinstance(keys, SeekingKeySource)
    assert home.ring is not None
    home.ring = advanced(home.ring, clock)
    assert keys.seek(home.ring.keys[0].kid)
    assert len(keys.keyring().keys) == 2


def test_the_kid_of_a_key_that_is_no_more_is_known(clock: Clock, home: Home) -> None:
    keys = keys_of(home, clock)
    assert home.ring is not None
    kid = home.ring.keys[0].kid
    home.ring = revoked(home.ring, kid, int(clock()), os.urandom)
    assert keys.seek(kid)
    assert kid in keys.keyring().removed_kids


def test_a_flood_of_unknown_kids_loads_the_ring_once_a_second(clock: Clock, home: Home) -> None:
    keys = keys_of(home, clock)
    loads = home.loads
    for _ in range(5000):
        assert not keys.seek(os.urandom(4))
    assert home.loads == loads + 1
    clock.forward(1)
    assert not keys.seek(os.urandom(4))
    assert home.loads == loads + 2


# --- rotating ---------------------------------------------------------------------------------


def test_a_key_that_is_due_is_announced_and_a_key_that_is_not_is_not(
    clock: Clock, home: Home
) -> None:
    keys = keys_of(home, clock)
    assert not keys.rotate()
    clock.forward(SCHEDULE.rotate_every)
    assert keys.rotate()
    assert not keys.rotate()
    assert home.ring is keys.ring
    assert len(keys.ring.keys) == 2


def test_of_two_who_find_a_key_due_one_announces_it(clock: Clock, home: Home) -> None:
    one, other = keys_of(home, clock), keys_of(home, clock)
    clock.forward(SCHEDULE.rotate_every)
    assert one.rotate()
    assert not other.rotate()
    assert one.ring is other.ring is home.ring
    assert len(one.ring.keys) == 2


def test_nobody_rotates_over_a_foreign_ring(clock: Clock, home: Home) -> None:
    keys = keys_of(home, clock)
    clock.forward(SCHEDULE.rotate_every)
    _foreign(home, clock)
    foreign = home.ring
    assert not keys.rotate()
    assert home.ring is foreign


def test_the_tending_round_puts_back_a_ring_that_is_gone(clock: Clock, home: Home) -> None:
    journal = EventLog()
    keys = keys_of(home, clock, journal)
    good, home.ring = home.ring, None
    keys.tend()
    assert home.ring is good
    assert journal.counts["ring-restored"] == 1
    keys.tend()
    assert journal.counts["ring-restored"] == 1


def test_the_tending_round_puts_back_what_an_older_backup_has_lost(
    clock: Clock, home: Home
) -> None:
    keys = keys_of(home, clock)
    backup = home.ring
    clock.forward(SCHEDULE.rotate_every)
    keys.tend()
    newer, home.ring = home.ring, backup
    keys.tend()
    assert home.ring is newer
    assert keys.ring is newer


def test_the_tending_round_outlives_a_place_that_cannot_be_written(
    clock: Clock, home: Home
) -> None:
    keys = keys_of(home, clock)
    clock.forward(SCHEDULE.rotate_every)
    home.error = OperatorError("read-only")
    keys.tend()
    assert keys.complaint is not None
    assert "read-only" in keys.complaint
    home.error = None
    keys.tend()
    assert len(keys.ring.keys) == 2


def test_the_tending_round_reports_what_arrives_under_each_kid(clock: Clock, home: Home) -> None:
    journal, board = EventLog(), Board()
    keys = keys_of(home, clock, journal, board=board)
    kid = keys.ring.keys[0].kid
    journal.emit("opened", kid=kid)
    journal.emit("refused", "kid-unknown", kid=b"\1\2\3\4")
    keys.tend()
    (report,) = board.reports
    assert (report.ring, report.sequence) == (keys.ring.ring_id, 1)
    assert report.known == (report.primary,) == (kid.hex(),)
    assert report.opened == {kid.hex(): 1}
    assert report.unknown == {"01020304": 1}
    assert Report.parse(report.dump()) == report


def test_a_thread_of_the_process_rotates_and_ends_when_told(clock: Clock, home: Home) -> None:
    before = {*threading.enumerate()}
    keys = keys_of(home, clock, reload_every=1, rotates=True)
    assert {*threading.enumerate()} <= before
    keys.keyring()
    (tending,) = {*threading.enumerate()} - before
    clock.forward(SCHEDULE.rotate_every)
    assert any(home.ring and len(home.ring.keys) == 2 for _ in poll(30))
    assert tending.is_alive()
    keys.close()
    assert any(not tending.is_alive() for _ in poll(30))


def test_a_forked_child_tends_with_a_thread_of_its_own(clock: Clock, home: Home) -> None:
    keys = keys_of(home, clock, reload_every=1, rotates=True)
    keys.keyring()
    keys._lock.acquire()  # as another thread might at the moment of the fork
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads is the point
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            clock.forward(SCHEDULE.rotate_every)
            keys.keyring()
            if any(len(keys.ring.keys) == 2 for _ in poll(30)):
                os.write(write, b"rotated")
        os._exit(0)
    os.close(write)
    assert os.read(read, 100) == b"rotated"
    os.close(read)
    os.waitpid(child, 0)
    keys.close()


def test_observers_hear_of_the_ring(clock: Clock, home: Home) -> None:
    heard: list[Event] = []
    keys = keys_of(home, clock, EventLog([heard.append]))
    clock.forward(SCHEDULE.rotate_every)
    keys.tend()
    assert [event.name for event in heard] == ["ring-rotated"]
    assert heard[0].kid == keys.ring.keys[0].kid.hex()
