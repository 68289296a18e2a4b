"""The key source that loads a rotating ring again and again, and rotates it.

A request is answered from memory. Every `reload_every` seconds a request or the background thread
loads the ring; the other requests continue with the ring in memory. Whatever is wrong with the
stored ring (missing, cut, older, another ring, a store that is down), the last good ring stays in
force, and an event says what to do. No new ring is ever made in its place.

No request rotates the ring: a thread in each process does, and so may `sealedstate keys rotate`. If
several find a key due at once, one of them writes.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .._forks import ForkSafeLock
from ..errors import ConfigurationError, OperatorError, StorageUnavailable
from ..events import EventLog
from ..key_sources import ReadMoment
from ..keyring import Keyring
from . import transitions
from .document import RingUnreadable
from .reports import Report, ReportStore
from .ring import EXTEND, Ring, RingReplaced, RingStorage, Schedule, Tombstone

__all__ = ["RotatingKeySource", "RotationConfig"]

# However many cookies have an unknown kid, the ring is loaded at most this often for them.
SEEK_SECONDS = 1.0
# An application has no keys without its store, so a start waits: this often, for this many seconds.
START_TRIES, START_PAUSE = 20, 0.2
# How often a writer that lost against another tries again.
WRITE_TRIES = 8
# A process that missed this many reports is regarded as ended.
REPORTS_KEPT = 10


@dataclass(frozen=True, slots=True)
class RotationConfig:
    """How a process uses and rotates a ring. Durations are in seconds.

    `schedule`: by which the ring rotates. `lifetime`: how long what it seals can be used. `skew`:
    tolerated clock difference. `rotate_in_process`: whether a thread of this process rotates the
    ring and reports. `clock`: epoch seconds. `monotonic`: seconds that never go back, and that
    continue while the machine sleeps.
    """

    schedule: Schedule
    reload_every: int
    lifetime: int
    skew: int
    rotate_in_process: bool
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    random: Callable[[int], bytes]


class RotatingKeySource:
    """A key source for the ring in `storage`.

    `reports`: where the background thread reports. `creates_missing`: whether to create a ring at
    the start if there is none; of several nodes, exactly one creates it.

    Raises ConfigurationError or OperatorError if there is no usable ring.
    """

    def __init__(
        self,
        storage: RingStorage,
        config: RotationConfig,
        events: EventLog,
        reports: ReportStore | None = None,
        creates_missing: bool = False,
    ) -> None:
        self.storage = storage
        self.config = config
        self._reports = reports
        self._events = events
        self._lock, self._thread_lock = ForkSafeLock(), ForkSafeLock()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._closed = threading.Event()
        self._last_error: str | None = None
        # What the storage has instead of our ring, if it lost a write that it had acknowledged.
        self._lost: tuple[Ring | None] | None = None
        # When the last load began, and the last load that gave this ring or a later state of it.
        self._load_began = self._read_began = self._moment()
        self._ring = self._load_first(creates_missing)
        self._keyring = self._ring.keyring()
        self._sought_at = self._read_began.running - SEEK_SECONDS
        schedule = self._ring.schedule
        for problem in schedule.shortfalls(
            config.reload_every, config.lifetime, config.skew
        ).values():
            # Not done here: a node that does not know it yet would forget a logout too soon.
            raise ConfigurationError(problem + EXTEND)
        schedule.check_size()
        schedule.merged_with(config.schedule).check_size()

    @property
    def ring(self) -> Ring:
        """The last good ring."""
        return self._ring

    @property
    def last_error(self) -> str | None:
        """What is wrong with the stored ring; None if it is the ring in use."""
        return self._last_error

    def keyring(self) -> Keyring:
        """The keys of the last good ring, loaded again every `reload_every` seconds.

        For requests: the first call in a process starts its background thread, if the configuration
        says so.
        """
        is_running = self._pid == os.getpid() and self._thread is not None
        if not is_running and self.config.rotate_in_process and not self._is_closed:
            with self._thread_lock:
                if self._pid != os.getpid():
                    self._thread, self._pid = None, os.getpid()
                if self._thread is None:
                    # A fork may have copied the lock of the former event in use, and gevent may
                    # have replaced all locks since that was made.
                    closed = self._closed = threading.Event()
                    thread = threading.Thread(
                        target=_run,
                        args=(weakref.ref(self), closed, self.config),
                        name="sealedstate-keys",
                        daemon=True,
                    )
                    thread.start()
                    self._thread = thread
        if self.config.monotonic() - self._load_began.running >= self.config.reload_every:
            self._reload()
        return self._keyring

    def read_at(self) -> float:
        """When the last load began that gave the ring in force or a later state (epoch seconds)."""
        return self._read_began.at(self.config.clock(), self.config.monotonic())

    def seek(self, kid: bytes) -> bool:
        """Whether the ring has or had this key; loads the ring once a second at most."""
        now = self.config.monotonic()
        if now - self._sought_at < SEEK_SECONDS:
            return False
        self._sought_at = now
        self._reload()
        return self._keyring.find(kid) is not None or kid in self._keyring.removed_kids

    def run_once(self) -> None:
        """One round of the thread: load, restore a lost ring, rotate, report."""
        self._reload()
        try:
            if self._lost:
                self._put_back(self._lost[0])
            self.rotate()
        except (OperatorError, ConfigurationError) as error:
            if self._lost is None:  # otherwise the error of the reload says more
                self._set_error(f"the ring could not be written: {error}")
        if self._reports is not None:
            report = self.report()
            try:
                self._reports.put(report, report.at + REPORTS_KEPT * self.config.reload_every)
            except OperatorError as error:
                self._events.emit("report-failed", detail=str(error))

    def _put_back(self, found: Ring | None) -> None:
        """Write the current ring in place of a former one, or where there is none.

        What an operator revoked in the former ring, after a restore, stays revoked.
        """
        ring, now = self._ring, math.ceil(self.config.clock())
        for dead in self._revoked_only_in(found):
            ring = transitions.revoke(ring, dead.kid, now, self.config.random, dead.reason)
        if found is not None:
            moment = found.revoked_before
            ring = transitions.revoke_before(ring, moment, max(now, moment))
        if self.storage.write(ring, found):
            self._adopt(ring)
            self._events.emit("ring-restored", level=logging.WARNING)

    def _revoked_only_in(self, found: Ring | None) -> list[Tombstone]:
        """The revoked keys of `found` that the current ring has as keys."""
        if found is None:
            return []
        current = {key.kid for key in self._ring.keys}
        return [dead for dead in found.tombstones if dead.revoked and dead.kid in current]

    def rotate(self, force: bool = False) -> bool:
        """Write the next ring if a key is due. Raises OperatorError.

        Returns whether this call rotated the ring. `force`: announce a key although none is due.
        Raises ConfigurationError if the ring would get too many keys.
        """
        config = self.config
        for _ in range(WRITE_TRIES):
            # Rounded up, so that an announcement is never shorter than the schedule says.
            now, ring = math.ceil(config.clock()), self._ring
            if not (force or transitions.is_due(ring, now)):
                return False
            # Another process may have extended the ring's promises since the start.
            ring.schedule.merged_with(config.schedule).check_size()
            next_ring = transitions.rotate(ring, config.schedule, now, config.random, force)
            if self.storage.write(next_ring, ring):
                self._adopt(next_ring)
                self._events.emit("ring-rotated", kid=next_ring.keys[0].kid)
                return True
            self._reload()
            if self._ring is ring:
                return False  # the stored ring is not usable, and `last_error` says why
        return False

    def close(self) -> None:
        """End the background thread.

        It also ends, in `reload_every` seconds at most, once nothing refers to this source.
        """
        self._is_closed = True
        self._closed.set()

    def _load_first(self, creates_missing: bool) -> Ring:
        config = self.config
        for _ in range(START_TRIES):
            self._load_began = self._read_began = self._moment()
            try:
                ring = self.storage.load()
                break
            except StorageUnavailable:
                self._closed.wait(START_PAUSE)  # the store may be starting, too
        else:
            ring = self.storage.load()
        if ring is None and creates_missing:
            new = transitions.create_ring(config.schedule, int(config.clock()), config.random)
            # A node that loses the race uses the ring of the winner.
            ring = new if self.storage.write(new, None) else self.storage.load()
        if ring is None:
            raise OperatorError(
                f"keys: {self.storage.location} does not exist; if it did, restore it, otherwise"
                " `sealedstate keys init` creates it"
            )
        return ring

    def _reload(self) -> None:
        """Adopt a newer ring. While one thread does so, no other thread waits for it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            began = self._load_began = self._moment()
            found, current, location = self.storage.load(), self._ring, self.storage.location
            if found is None:
                self._lost = (None,)
                self._set_error(f"{location} is gone; restore it")
            elif found.ring_id != current.ring_id:
                self._lost = None
                self._set_error(
                    f"{location} is another ring: expected {current.ring_id}, got {found.ring_id}"
                )
            elif self._is_former(found):
                self._lost = (found,)
                self._set_error(
                    f"{location} is an older copy: its sequence is {found.sequence}, and"
                    f" {current.sequence} is in use"
                )
            elif found.sequence == current.sequence and found != current:
                # An operator may have revoked keys in a restored ring, until its sequence was the
                # current one. Any other history is left to the operator.
                has_revoked = found.revoked_before > current.revoked_before
                is_restored = has_revoked or self._revoked_only_in(found)
                self._lost = (found,) if is_restored else None
                self._set_error(f"{location} is a copy of the ring with another history")
            else:
                self._lost = self._last_error = None
                if found.sequence > current.sequence:
                    self._adopt(found)
                    self._events.emit("ring-reloaded")
                # After the ring: a thread that reads this first gets a ring that is as new.
                self._read_began = began
        except OperatorError as error:
            self._lost = None
            if isinstance(error, RingUnreadable):
                self._lost = (None,)  # a damaged remainder, which our ring may replace
            elif isinstance(error, RingReplaced) and self._is_former(error.ring):
                self._lost = (error.ring,)
            self._set_error(f"the ring could not be loaded: {error}")
        finally:
            self._lock.release()

    def _moment(self) -> ReadMoment:
        return ReadMoment(self.config.clock(), self.config.monotonic())

    def _is_former(self, found: Ring) -> bool:
        """Whether `found` is a former state of the current ring."""
        return found.ring_id == self._ring.ring_id and found.sequence < self._ring.sequence

    def _adopt(self, ring: Ring) -> None:
        # Two assignments. A thread that reads in between seals by a ring that is valid as well.
        self._keyring = ring.keyring()
        self._ring = ring

    def _set_error(self, problem: str) -> None:
        """Report a problem once, and not at each reload."""
        if problem != self._last_error:
            self._events.emit("ring-refused", detail=problem, level=logging.ERROR)
        self._last_error = problem

    def report(self) -> Report:
        """What this process knows about the ring that it uses."""
        ring, now, by_kid = self._ring, self.config.clock(), self._events.by_kid
        primary = ring.primary(int(now))

        def count(label: str) -> dict[str, int]:
            return {kid: times for (name, kid), times in by_kid.items() if name == label}

        return Report(
            node=platform.node(),
            pid=os.getpid(),
            at=now,
            ring=ring.ring_id,
            sequence=ring.sequence,
            primary=None if primary is None else primary.kid.hex(),
            known=tuple(key.kid.hex() for key in ring.keys),
            opened=count("opened"),
            unknown=dict(
                Counter(count("refused-kid-unknown")) + Counter(count("refused-kid-removed"))
            ),
            refused=count("refused-kid-refused"),
            complaint=self._last_error,
        )


def _run(
    reference: weakref.ref[RotatingKeySource], closed: threading.Event, config: RotationConfig
) -> None:
    """The thread of a source, which does not keep it alive."""
    # Shorter than `reload_every`, so that requests need not load, and random, so that processes do
    # not load at the same moment.
    while not closed.wait(config.reload_every * (0.6 + 0.3 * config.random(1)[0] / 255)):
        source = reference()
        if source is None:
            return
        try:
            source.run_once()
        except Exception as error:
            # Any error: if the thread ended, rotation would stop unnoticed.
            source._set_error(f"the rotation thread failed: {type(error).__name__}")
        del source  # until the next round, nothing here refers to it
