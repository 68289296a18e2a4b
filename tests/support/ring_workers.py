"""Processes that found, rotate and read one ring at once.

Knows homes by what opens them, and time as a number that is passed along. Does not know how a home
keeps a ring. Each process imports this, and so nothing that takes long.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TypeAlias

from sealedstate.errors import OutcomeUnknown
from sealedstate.keyring import Key, Keyring
from sealedstate.rotation import Ring, RingStorage, Schedule, founded, rotated
from sealedstate.rotation.ring_file import RingFile
from sealedstate.rotation.ring_store import StoredRing
from sealedstate.storage import open_storage
from sealedstate.testing._suite import eventually, poll
from sealedstate.testing._workers import ProcessBarrier
from tests.support.backends import start_process

# Importing this takes a process longer than what it then does.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["redis", "sqlalchemy", "pymysql", "psycopg", __name__]
)

SCHEDULE = Schedule(rotate_every=10, announce=2, keep=30, skew=1)
START = 1_800_000_000
PATIENCE = 120  # seconds

Opener: TypeAlias = Callable[[], RingStorage]
"""Opens a home, in any process."""


def at_start() -> float:
    return START


def kek_of(text: str | None) -> Keyring | None:
    """Keys are not pickled; their text is."""
    return None if text is None else Keyring((Key.parse(text),))


def open_file(path: Path, kek: str | None = None) -> RingFile:
    return RingFile(path, kek_of(kek), os.urandom, at_start, timeout=PATIENCE)


def open_row(url: str, kek: str) -> StoredRing:
    return StoredRing(open_storage(url, at_start), "tests", kek_of(kek), os.urandom, at_start)


def first_ring() -> Ring:
    return founded(SCHEDULE, START, os.urandom)


def kids_of(ring: Ring) -> set[str]:
    """Of keys that are there, and of those that once were."""
    return {key.kid.hex() for key in ring.keys} | {dead.kid.hex() for dead in ring.tombstones}


def due_at(ring: Ring) -> int:
    """When the next key is announced."""
    return ring.keys[0].activates_at + SCHEDULE.rotate_every - SCHEDULE.announce


def next_of(ring: Ring) -> Ring:
    return rotated(ring, SCHEDULE, due_at(ring), os.urandom)


# --- in the processes ---------------------------------------------------------------------------


def found(opener: Opener, line: ProcessBarrier) -> list[str]:
    """The ring's id, if this process has founded it."""
    home, ring = opener(), first_ring()
    assert eventually(home.load) is None
    line.wait()
    return [ring.ring_id] if write(home, ring, None) else []


def rotate(opener: Opener, line: ProcessBarrier, periods: int) -> list[str]:
    """The keys that this process has added, in so many periods in which one is due."""
    home, added = opener(), []
    first_due = due_at(loaded(home))
    for period in range(periods):
        now = first_due + period * SCHEDULE.rotate_every
        ring = loaded(home)
        line.wait()
        while (following := rotated(ring, SCHEDULE, now, os.urandom)) is not ring:
            if write(home, following, ring):
                added.append(following.keys[0].kid.hex())
            ring = loaded(home)
    line.leave()
    return added


def watch(opener: Opener, begun: Path, stop: Path) -> dict[str, Any]:
    """How often the ring was loaded, and its states in the order that they were seen in."""
    home, loads, seen = opener(), 0, [loaded(opener())]
    begun.touch()
    while not stop.exists():
        ring = loaded(home)
        loads += 1
        if ring != seen[-1]:
            seen.append(ring)
    return {
        "loads": loads,
        "sequences": [ring.sequence for ring in seen],
        "kids": [sorted(kids_of(ring)) for ring in seen],
    }


def write(home: RingStorage, ring: Ring, after: Ring | None) -> bool:
    """Whether the ring was surely written; a busy store is asked again."""
    try:
        return eventually(home.write, ring, after)
    except OutcomeUnknown:
        return False


def loaded(home: RingStorage) -> Ring:
    ring = eventually(home.load)
    assert ring is not None, "the ring is gone"
    return ring


def write_for_ever(opener: Opener, notes: Path) -> None:
    """Rotate as fast as can be, and append the key that each write has added to `notes`."""
    home, descriptor = opener(), os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    parent = os.getppid()
    while os.getppid() == parent:  # which may be killed itself
        before = home.load()
        ring = first_ring() if before is None else next_of(before)
        if home.write(ring, before):
            os.write(descriptor, f"{ring.keys[0].kid.hex()}\n".encode())


# --- many of them -------------------------------------------------------------------------------


def forked_writer(opener: Opener, notes: Path) -> ForkProcess:
    """A process that writes until it is killed; forked, because many are needed."""
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=write_for_ever, args=(opener, notes), daemon=True)
    with warnings.catch_warnings():
        # It takes over no lock of this process's other threads: it only reads and writes a ring.
        warnings.simplefilter("ignore", DeprecationWarning)
        writer.start()
    return writer


def crew_of(size: int, folder: Path, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `act(*arguments)` returned to each of so many processes; the barrier comes second."""
    line = folder / "line"
    line.touch()
    folders = [folder / f"answer-{number}" for number in range(size)]
    opener, *rest = arguments
    processes = [
        start_process(
            _in_line, act, opener, partial(ProcessBarrier, line, number, size), answer, *rest
        )
        for number, answer in enumerate(folders)
    ]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * size
    return [json.loads(answer.read_text()) for answer in folders]


def _in_line(
    act: Callable[..., Any],
    opener: Opener,
    line: Callable[[], ProcessBarrier],
    answer: Path,
    *rest: Any,
) -> None:
    answer.write_text(json.dumps(act(opener, line(), *rest)))


@dataclass(frozen=True)
class Watched:
    """What a reader saw while others wrote."""

    loads: int
    sequences: list[int]
    kids: list[list[str]]

    def assert_whole(self) -> None:
        """It was always there, never went back, and lost no key."""
        assert self.sequences == sorted(set(self.sequences))
        assert len(self.sequences) > 1, "the reader has seen no change"
        for before, after in zip(self.kids, self.kids[1:], strict=False):
            assert set(before) < set(after)


def rotated_by_many(
    opener: Opener, folder: Path, size: int, periods: int
) -> tuple[list[str], Watched]:
    """The keys that so many rotators have added between them, and what a reader saw meanwhile."""
    begun, stop, answer = (folder / name for name in ("begun", "stop", "watched"))
    reader = start_process(_watch_to, opener, begun, stop, answer)
    # Else the rotators may be done on a busy machine before the reader has seen anything.
    assert any(begun.exists() for _ in poll(PATIENCE))
    added = crew_of(size, folder, rotate, opener, periods)
    stop.touch()
    reader.join(PATIENCE)
    assert reader.exitcode == 0
    return [kid for kids in added for kid in kids], Watched(**json.loads(answer.read_text()))


def _watch_to(opener: Opener, begun: Path, stop: Path, answer: Path) -> None:
    answer.write_text(json.dumps(watch(opener, begun, stop)))


def assert_one_key_a_period(ring: Ring, added: list[str], periods: int) -> None:
    """No period was left out or had two, and no key that was acknowledged is lost.

    One may have been added by somebody whose answer came too late, and who does not know.
    """
    assert ring.sequence == 1 + periods
    turns = {key.activates_at: key.kid.hex() for key in ring.keys}
    turns |= {dead.activates_at: dead.kid.hex() for dead in ring.tombstones}
    first = min(turns)
    assert sorted(turns) == [
        first + period * SCHEDULE.rotate_every for period in range(periods + 1)
    ]
    assert len(added) == len(set(added))
    assert set(added) <= {*turns.values()} - {turns[first]}
    assert kids_of(ring) == {*turns.values()}
