"""A ring that is kept in one place and changes there: the last good one, loaded anew in time.

Knows rings, their home and time. Does not know what the home is.

A request is answered from memory. Every `reload_every` seconds one of them, or the tending thread,
looks whether the ring has changed; the others go on with what they have. Whatever is wrong with the
ring then (gone, cut short, older, another one, a store that is down), the last good one stays in
force and the journal says what to do. Nothing is ever made anew in its place.

Rotation is never done on the way of a request: a thread of each process tends the ring, and so may
`sealedstate keys rotate`. Of all who find a key due at once, one writes.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from .._forks import ForkSafeLock
from ..errors import ConfigurationError, OperatorError, StorageUnavailable
from ..events import EventLog
from ..keyring import Keyring
from . import Ring, RingReplaced, RingStorage, RingUnreadable, Schedule, founded, is_due, rotated
from .reports import Report, ReportStore

# Of unknown kids, however many come, one a second makes this process look for a new ring.
SEEK_SECONDS = 1.0
# A start waits for a store that does not answer, for the application has no keys without it: so
# many times so many seconds, and what the store's own deadline takes.
START_TRIES, START_PAUSE = 20, 0.2
# A writer that loses against another tries again with what it finds, so often.
WRITE_TRIES = 8
# A process that has not reported for so many rounds is taken for gone.
REPORTS_KEPT = 10


@dataclass(frozen=True, slots=True)
class RotationConfig:
    """How a process uses and tends a ring. Durations in seconds.

    `schedule`: by which it rotates; `lifetime`: how long what it seals can be used; `skew`: how far
    its clock may differ; `rotates`: whether a thread of it tends the ring. `clock` tells epoch
    seconds, `ticks` seconds that never go back.
    """

    schedule: Schedule
    reload_every: int
    lifetime: int
    skew: int
    rotates: bool
    clock: Callable[[], float]
    ticks: Callable[[], float]
    random: Callable[[int], bytes]


class RotatingKeySource:
    """A key source over `home`. Raises ConfigurationError or OperatorError when made.

    `board`: where the tending thread reports. `founds`: whether a missing ring is made at the
    start, by exactly one of all nodes.
    """

    def __init__(
        self,
        home: RingStorage,
        tending: RotationConfig,
        journal: EventLog,
        board: ReportStore | None = None,
        founds: bool = False,
    ) -> None:
        self.home = home
        self.tending = tending
        self._board = board
        self._journal = journal
        self._lock = ForkSafeLock()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._complaint: str | None = None
        # What is there instead of ours, where the place has lost a write that it had acknowledged.
        self._lost: tuple[Ring | None] | None = None
        self._adopt(self._first(founds))
        self._looked_at = tending.ticks()
        self._sought_at = self._looked_at - SEEK_SECONDS
        self.ring.schedule.check(tending.reload_every, tending.lifetime, tending.skew)

    @property
    def ring(self) -> Ring:
        """The last good ring."""
        return self._ring

    @property
    def complaint(self) -> str | None:
        """What is wrong with the ring where it is kept; None when this is the one."""
        return self._complaint

    def keyring(self) -> Keyring:
        self._begin_in_this_process()
        if self.tending.ticks() - self._looked_at >= self.tending.reload_every:
            self._look()
        return self._keyring

    def seek(self, kid: bytes) -> bool:
        """Look for a ring that knows a kid, at most once a second; whether it is known now."""
        ticks = self.tending.ticks()
        if ticks - self._sought_at < SEEK_SECONDS:
            return False
        self._sought_at = ticks
        self._look()
        return self._keyring.find(kid) is not None or kid in self._keyring.removed_kids

    def tend(self) -> None:
        """One round of the tending thread: load, put back what is gone, rotate, report."""
        self._look()
        try:
            if self._lost and self.home.write(self._ring, self._lost[0]):
                self._journal.emit("ring-restored", level=logging.WARNING)
            self.rotate()
        except OperatorError as error:
            if self._lost is None:  # else it was said already what is there
                self._complain(f"the ring could not be written: {error}")
        self._report()

    def rotate(self, force: bool = False) -> bool:
        """Write the next ring if a key is due; whether this call did it. Raises OperatorError."""
        tending = self.tending
        for _ in range(WRITE_TRIES):
            # Rounded up: an announcement is never shorter than it says.
            now, ring = math.ceil(tending.clock()), self._ring
            if not (force or is_due(ring, now)):
                return False
            next_ring = rotated(ring, tending.schedule, now, tending.random, force)
            if self.home.write(next_ring, ring):
                self._adopt(next_ring)
                self._journal.emit("ring-rotated", kid=next_ring.keys[0].kid)
                return True
            self._look()
            if self._ring is ring:
                return False  # what is there is none of ours, and the complaint says so
        return False

    def close(self) -> None:
        """End the tending thread."""
        self._ended.set()

    # --- looking --------------------------------------------------------------------------------

    def _first(self, founds: bool) -> Ring:
        ring = self._loaded_at_last()
        if ring is None and founds:
            made = founded(self.tending.schedule, int(self.tending.clock()), self.tending.random)
            # Who loses finds the winner's.
            ring = made if self.home.write(made, None) else self.home.load()
        if ring is None:
            raise ConfigurationError(
                f"keys: there is no ring at {self.home.where}: restore it if one was there, else"
                " `sealedstate keys init` makes one"
            )
        return ring

    def _loaded_at_last(self) -> Ring | None:
        """What is there. A place that does not answer is given time: it may be starting, too."""
        for _ in range(START_TRIES):
            try:
                return self.home.load()
            except StorageUnavailable:
                self._ended.wait(START_PAUSE)
        return self.home.load()

    def _look(self) -> None:
        """Take over a newer ring. One thread does it at a time, and nobody waits for it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = self.tending.ticks()
            found = self.home.load()
            self._lost = (found,) if found is None or self._is_former(found) else None
            if self._is_next(found):
                self._adopt(found)
                self._journal.emit("ring-reloaded")
        except OperatorError as error:
            self._lost = self._left_by(error)
            self._complain(f"the ring can't be loaded: {error}")
        finally:
            self._lock.release()

    def _is_next(self, found: Ring | None) -> TypeGuard[Ring]:
        """Whether a ring takes the place of ours. One that must not is complained of."""
        ours, problem = self._ring, None
        if found is None:
            problem = f"the ring is gone from {self.home.where}: restore it"
        elif found.ring_id != ours.ring_id:
            problem = f"another ring ({found.ring_id}, not {ours.ring_id}) is at {self.home.where}"
        elif self._is_former(found):
            problem = (
                f"the ring at {self.home.where} is older ({found.sequence}) than the one in use"
                f" ({ours.sequence})"
            )
        elif found.sequence == ours.sequence and found != ours:
            problem = f"a ring with another history is at {self.home.where}"
        if problem is not None:
            self._complain(problem)
            return False
        self._complaint = None
        return found is not None and found.sequence > ours.sequence

    def _left_by(self, error: OperatorError) -> tuple[Ring | None] | None:
        """What may be there instead of ours: a former state of it, or what is no ring any more."""
        if isinstance(error, RingUnreadable):
            return (None,)
        if isinstance(error, RingReplaced) and self._is_former(error.ring):
            return (error.ring,)
        return None

    def _is_former(self, found: Ring) -> bool:
        """Whether a ring is ours as it once was."""
        return found.ring_id == self._ring.ring_id and found.sequence < self._ring.sequence

    def _adopt(self, ring: Ring) -> None:
        # Two assignments: who reads in between seals by a ring that is good as well.
        self._keyring = ring.keyring()
        self._ring = ring

    def _complain(self, problem: str) -> None:
        """Once for each problem, not once for each look at it."""
        if problem != self._complaint:
            self._journal.emit("ring-refused", detail=problem, level=logging.ERROR)
        self._complaint = problem

    # --- reporting ------------------------------------------------------------------------------

    def report(self) -> Report:
        """What this process can tell about the ring that it uses."""
        ring, now = self._ring, self.tending.clock()
        primary, by_kid = ring.primary(int(now)), self._journal.by_kid
        return Report(
            node=platform.node(),
            pid=os.getpid(),
            at=now,
            ring=ring.ring_id,
            sequence=ring.sequence,
            primary=None if primary is None else primary.kid.hex(),
            known=tuple(key.kid.hex() for key in ring.keys),
            opened=_of(by_kid, "opened"),
            unknown=_of(by_kid, "refused-kid-unknown"),
            refused=_of(by_kid, "refused-kid-refused"),
            complaint=self._complaint,
        )

    def _report(self) -> None:
        if self._board is None:
            return
        report = self.report()
        try:
            self._board.put(report, report.at + REPORTS_KEPT * self.tending.reload_every)
        except OperatorError as error:
            self._journal.emit("report-failed", detail=str(error))

    # --- the tending thread ---------------------------------------------------------------------

    def _begin_in_this_process(self) -> None:
        if self._pid != os.getpid():
            # The parent's thread does not exist in the child.
            self._thread, self._pid = None, os.getpid()
        if self._thread is None and self.tending.rotates and not self._ended.is_set():
            self._thread = threading.Thread(
                target=self._tend_on, name="sealedstate-keys", daemon=True
            )
            self._thread.start()

    def _tend_on(self) -> None:
        while not self._ended.wait(self._pause()):
            try:
                self.tend()
            except Exception as error:
                # Whatever it is: a thread that ends would stop the rotation unnoticed.
                self._complain(f"tending the ring failed: {type(error).__name__}")

    def _pause(self) -> float:
        """Shorter than `reload_every`, so that requests need not look, and not for all the same."""
        return self.tending.reload_every * (0.6 + 0.3 * self.tending.random(1)[0] / 255)


def _of(by_kid: Counter[tuple[str, str]], label: str) -> dict[str, int]:
    return {kid: count for (name, kid), count in by_kid.items() if name == label}
