"""Processes that create, rotate and read one ring at once.

Each process imports this module, and so it imports nothing that takes long. Time is a number that
is passed along.
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
from sealedstate.rotation import transitions
from sealedstate.rotation.ring import Ring, RingStorage, Schedule
from sealedstate.rotation.ring_file import RingFile
from sealedstate.rotation.ring_store import StoredRing
from sealedstate.storage import open_storage
from sealedstate.testing._suite import eventually, poll
from sealedstate.testing._workers import ProcessBarrier
from tests.support.backends import start_process

# To import these takes a process longer than its work.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["redis", "pymysql", "psycopg", __name__]
)

SCHEDULE = Schedule(rotate_every=10, announce=2, keep=30, skew=1)
START = 1_800_000_000
PATIENCE = 120  # seconds

Opener: TypeAlias = Callable[[], RingStorage]
"""Opens a storage, in any process."""


def at_start() -> float:
    return START


def kek_of(text: str | None) -> Keyring | None:
    """A key is not pickled, but its text is."""
    return None if text is None else Keyring((Key.parse(text),))


def open_file(path: Path, kek: str | None = None) -> RingFile:
    return RingFile(path, kek_of(kek), os.urandom, at_start, timeout=PATIENCE)


def open_row(url: str, kek: str) -> StoredRing:
    return StoredRing(open_storage(url, at_start), "tests", kek_of(kek), os.urandom, at_start)


def first_ring() -> Ring:
    return transitions.create_ring(SCHEDULE, START, os.urandom)


def kids_of(ring: Ring) -> set[str]:
    """The kids of all keys that the ring has or had."""
    return {key.kid.hex() for key in ring.keys} | {dead.kid.hex() for dead in ring.tombstones}


def due_at(ring: Ring) -> int:
    """When the next key is announced."""
    return ring.keys[0].activates_at + SCHEDULE.rotate_every - SCHEDULE.announce


def next_of(ring: Ring) -> Ring:
    return transitions.rotate(ring, SCHEDULE, due_at(ring), os.urandom)


# --- in the processes ---------------------------------------------------------------------------


def create(opener: Opener, line: ProcessBarrier) -> list[str]:
    """The ring's id, if this process has created it."""
    storage, ring = opener(), first_ring()
    assert eventually(storage.load) is None
    line.wait()
    return [ring.ring_id] if write(storage, ring, None) else []


def rotate(opener: Opener, line: ProcessBarrier, periods: int) -> list[str]:
    """The keys that this process has added, in `periods` periods in which one is due."""
    storage, added = opener(), []
    first_due = due_at(load(storage))
    for period in range(periods):
        now = first_due + period * SCHEDULE.rotate_every
        ring = load(storage)
        line.wait()
        while (following := transitions.rotate(ring, SCHEDULE, now, os.urandom)) is not ring:
            if write(storage, following, ring):
                added.append(following.keys[0].kid.hex())
            ring = load(storage)
    line.leave()
    return added


def watch(opener: Opener, begun: Path, stop: Path, answer: Path) -> None:
    """Write the states of the ring in the order in which this process saw them."""
    storage, loads, seen = opener(), 0, [load(opener())]
    begun.touch()
    while not stop.exists():
        ring = load(storage)
        loads += 1
        if ring != seen[-1]:
            seen.append(ring)
    sequences, kids = [ring.sequence for ring in seen], [sorted(kids_of(ring)) for ring in seen]
    answer.write_text(json.dumps({"loads": loads, "sequences": sequences, "kids": kids}))


def write(storage: RingStorage, ring: Ring, after: Ring | None) -> bool:
    """Whether the ring was surely written; a busy store is asked again."""
    try:
        return eventually(storage.write, ring, after)
    except OutcomeUnknown:
        return False


def load(storage: RingStorage) -> Ring:
    ring = eventually(storage.load)
    assert ring is not None, "the ring is gone"
    return ring


def write_until_killed(opener: Opener, notes: Path) -> None:
    """Rotate as fast as possible, and append the key of each successful write to `notes`."""
    storage, descriptor = opener(), os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    parent = os.getppid()
    while os.getppid() == parent:  # the parent may be killed itself
        before = storage.load()
        ring = first_ring() if before is None else next_of(before)
        if storage.write(ring, before):
            os.write(descriptor, f"{ring.keys[0].kid.hex()}\n".encode())


# --- many of them -------------------------------------------------------------------------------


def fork_writer(opener: Opener, notes: Path) -> ForkProcess:
    """A process that writes until it is killed; forked, because many are needed."""
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=write_until_killed, args=(opener, notes), daemon=True)
    with warnings.catch_warnings():
        # It uses no lock of the other threads of this process.
        warnings.simplefilter("ignore", DeprecationWarning)
        writer.start()
    return writer


def run_at_once(size: int, folder: Path, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `act(opener, line, *rest)` returned in each of `size` processes."""
    line = folder / "line"
    line.touch()
    folders = [folder / f"answer-{number}" for number in range(size)]
    opener, *rest = arguments
    processes = [
        start_process(
            _answer, act, opener, partial(ProcessBarrier, line, number, size), answer, *rest
        )
        for number, answer in enumerate(folders)
    ]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * size
    return [json.loads(answer.read_text()) for answer in folders]


def _answer(
    act: Callable[..., Any],
    opener: Opener,
    line: Callable[[], ProcessBarrier],
    answer: Path,
    *rest: Any,
) -> None:
    answer.write_text(json.dumps(act(opener, line(), *rest)))


@dataclass(frozen=True)
class Observed:
    """What a reader saw while others wrote."""

    loads: int
    sequences: list[int]
    kids: list[list[str]]

    def assert_complete(self) -> None:
        """The ring was always there, never went back, and lost no key."""
        assert self.sequences == sorted(set(self.sequences))
        assert len(self.sequences) > 1, "the reader has seen no change"
        for before, after in zip(self.kids, self.kids[1:], strict=False):
            assert set(before) < set(after)


def rotate_at_once(
    opener: Opener, folder: Path, size: int, periods: int
) -> tuple[list[str], Observed]:
    """The keys that `size` rotators have added between them, and what a reader saw meanwhile."""
    begun, stop, answer = (folder / name for name in ("begun", "stop", "observed"))
    reader = start_process(watch, opener, begun, stop, answer)
    # On a busy machine the rotators could be done before the reader has begun.
    assert any(begun.exists() for _ in poll(PATIENCE))
    added = run_at_once(size, folder, rotate, opener, periods)
    stop.touch()
    reader.join(PATIENCE)
    assert reader.exitcode == 0
    return [kid for kids in added for kid in kids], Observed(**json.loads(answer.read_text()))


def assert_one_key_a_period(ring: Ring, added: list[str], periods: int) -> None:
    """No period was left out or had two keys, and no acknowledged key is lost.

    A writer whose reply was lost may have added a key without knowing it.
    """
    assert ring.sequence == 1 + periods
    turns = {key.activates_at: key.kid.hex() for key in ring.keys}
    turns |= {dead.activates_at: dead.kid.hex() for dead in ring.tombstones}
    first = min(turns)
    assert sorted(turns) == [first + n * SCHEDULE.rotate_every for n in range(periods + 1)]
    assert len(added) == len(set(added))
    assert set(added) <= {*turns.values()} - {turns[first]}
    assert kids_of(ring) == {*turns.values()}
