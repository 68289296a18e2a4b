"""A ring in a file: whatever happens to its writers, there is one, complete ring.

A power failure loses what was not synced. It is not tried here, but that each write is synced in
order is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from sealedstate.errors import OperatorError
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.ring_file import RingFile
from sealedstate.testing._workers import run_in_threads
from tests.support.forks import run_child
from tests.support.ring_storages import beside, create_at, leftovers, path, problem
from tests.support.ring_workers import (
    at_start,
    first_ring,
    fork_writer,
    kids_of,
    next_of,
    open_file,
)

__all__ = ["path"]

PROCESSES = 20


# --- the lock -----------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with beside(path, ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_writer_waits_for_another_but_not_for_ever(path: Path) -> None:
    _, ring = create_at(path)
    hasty = RingFile(path, None, os.urandom, at_start, timeout=0.02)
    with locked(path):
        assert f"another process has held {path}.lock" in problem(hasty.write, next_of(ring), ring)
        assert hasty.load() == ring
    assert hasty.write(next_of(ring), ring) is True


def test_removed_lock_file_locks_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, ring = create_at(path)
    lock, flock = beside(path, ".lock"), fcntl.flock
    removed: list[Path] = []

    def lock_what_is_removed(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(lock)
            lock.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock_what_is_removed)
    assert storage.write(next_of(ring), ring) is True
    assert removed
    assert lock.read_text().startswith(ring.ring_id)


def test_lock_file_that_is_a_link_is_refused(path: Path) -> None:
    beside(path, ".lock").symlink_to(path.parent / "elsewhere")
    assert f"{path}.lock" in problem(open_file(path).write, first_ring(), None)
    assert not (path.parent / "elsewhere").exists()


def test_child_that_was_forked_during_a_write_does_not_keep_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, first = create_at(path)
    fork = multiprocessing.get_context("fork")
    over, fsync = fork.Event(), os.fsync
    children: list[ForkProcess] = []

    def fsync_and_fork(descriptor: int) -> None:
        fsync(descriptor)
        if not children:
            children.append(fork.Process(target=over.wait, args=(60,), daemon=True))
            children[0].start()

    with monkeypatch.context() as patch, warnings.catch_warnings():
        # Forking beside threads is what is under test.
        warnings.simplefilter("ignore", DeprecationWarning)
        patch.setattr(os, "fsync", fsync_and_fork)
        second = next_of(first)
        assert storage.write(second, first) is True
    hasty = RingFile(path, None, os.urandom, at_start, timeout=0.02)
    assert children[0].is_alive()
    assert hasty.write(next_of(second), second) is True
    over.set()
    children[0].join()


def test_fork_waits_for_a_write_so_that_no_child_has_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, first = create_at(path)
    is_writing, may_finish, fsync = threading.Event(), threading.Event(), os.fsync

    def fsync_and_wait(descriptor: int) -> None:
        is_writing.set()
        may_finish.wait()
        fsync(descriptor)

    def has_the_lock_open() -> bool:
        lock = beside(path, ".lock")
        return any(file.resolve() == lock for file in Path("/proc/self/fd").iterdir())

    monkeypatch.setattr(os, "fsync", fsync_and_wait)
    writer = threading.Thread(target=storage.write, args=(next_of(first), first))
    writer.start()
    is_writing.wait()
    assert has_the_lock_open()
    threading.Timer(0.05, may_finish.set).start()
    assert not run_child(has_the_lock_open)
    writer.join()


def test_missing_flock_names_the_remedy() -> None:
    program = """if True:
        import importlib, sys
        from sealedstate.rotation import ring_file
        sys.platform, sys.modules["fcntl"] = "win32", None
        del ring_file.fcntl
        importlib.reload(ring_file)
        try:
            ring_file.RingFile("ring.json", None, bytes, float)
        except ring_file.ConfigurationError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr == ""
    assert "keep the ring in a store" in run.stdout


# --- faults -------------------------------------------------------------------------------------

CALLS = [
    *("open", "close", "read", "write", "pread", "pwrite", "fsync", "stat", "fstat", "lstat"),
    *("rename", "replace", "link", "unlink", "fchown", "fchmod", "listdir", "scandir"),
]


class Fault:
    """The system call of this number fails; `late`: after it has done its work."""

    def __init__(self, number: int, code: int, late: bool) -> None:
        self.left, self.code, self.late = number, code, late
        self.hit = ""

    @contextlib.contextmanager
    def injected(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, partial(self._call, name, getattr(os, name)))
            patch.setattr(fcntl, "flock", partial(self._call, "flock", fcntl.flock))
            yield

    def _call(self, name: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left:
            return call(*given, **named)
        self.hit = name
        # A descriptor is closed whatever close says.
        result = call(*given, **named) if self.late or name == "close" else None
        _close(name, result)
        raise OSError(self.code, os.strerror(self.code))


def _close(name: str, result: Any) -> None:
    """Close what the caller never gets."""
    if name == "open" and result is not None:
        os.close(result)
    if name == "scandir" and result is not None:
        result.close()


def outcome(storage: RingFile, ring: Ring, after: Ring | None, fault: Fault) -> bool | None:
    """None for an OperatorError."""
    with fault.injected():
        try:
            return storage.write(ring, after)
        except OperatorError:
            return None


@pytest.mark.parametrize("existing", [True, False], ids=["update", "create"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_ring_is_the_old_one_or_the_new_whichever_call_fails(
    tmp_path: Path, code: int, late: bool, existing: bool
) -> None:
    hits: list[str] = []
    while True:
        path = tmp_path / str(len(hits)) / "ring.json"
        path.parent.mkdir()
        storage, old = create_at(path) if existing else (open_file(path), None)
        beside(path, ".0123456789abcdef.tmp").touch()
        new = first_ring() if old is None else next_of(old)
        fault = Fault(len(hits) + 1, code, late)
        done = outcome(storage, new, old, fault)
        if not fault.hit:
            assert done is True
            break
        hits.append(fault.hit)
        there = open_file(path).load()
        assert there in ([new] if done else [old, new]), fault.hit
        assert storage.load() == there
        assert storage.write(first_ring() if there is None else next_of(there), there) is True
        assert leftovers(path) == []
    assert {"open", "write", "fsync", "rename", "unlink", "pwrite", "flock"} <= set(hits)
    # The document, the ring before if there is one, the folder, the mark.
    assert hits.count("fsync") == 3 + existing


def test_write_syncs_the_file_before_its_rename_and_the_folder_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, ring = create_at(path)
    calls: list[tuple[str, str]] = []

    def note(name: str, call: Callable[..., Any], what: Any, *given: Any) -> Any:
        target = (
            str(Path(f"/proc/self/fd/{what}").readlink())
            if isinstance(what, int)
            else str(given[0])
        )
        calls.append((name, target))
        return call(what, *given)

    with monkeypatch.context() as patch:
        for name in ("write", "fsync", "rename", "pwrite"):
            patch.setattr(os, name, partial(note, name, getattr(os, name)))
        assert storage.write(next_of(ring), ring) is True
    names = [name for name, _ in calls]
    put = ["write", "fsync", "rename"]
    assert names == [*put, *put, "fsync", "pwrite", "fsync"]
    assert calls[2][1] == f"{path}.prev"
    assert calls[5][1] == str(path)
    assert calls[6][1] == str(path.parent)
    assert calls[8][1] == f"{path}.lock"


def test_write_in_small_pieces_is_complete(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, ring = create_at(path)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: write(file, content[:7]))
        assert storage.write(next_of(ring), ring) is True
    there = open_file(path).load()
    assert there is not None
    assert there.sequence == 2


def test_error_contains_no_secret(path: Path) -> None:
    storage, ring = create_at(path)
    for number in itertools.count(1):
        fault = Fault(number, errno.EIO, late=False)
        with fault.injected(), contextlib.suppress(OperatorError):
            storage.write(ring, ring)
            break
    document = json.loads(path.read_text())
    path.write_text(path.read_text().replace('"sequence"', '"sequences"'))
    message = problem(open_file(path).load)
    for secret in (document["keys"][0]["secret"], document["lookup"]["secret"]):
        assert secret not in message
        assert secret not in repr(storage)


def test_many_threads_of_one_storage_lose_no_key(path: Path) -> None:
    storage, ring = create_at(path)

    def add(_: int, barrier: Barrier) -> list[str]:
        added = []
        for _ in range(5):
            before = storage.load()
            assert before is not None
            barrier.wait()
            following = next_of(before)
            if storage.write(following, before):
                added.append(following.keys[0].kid.hex())
            barrier.wait()
        return added

    added = [kid for kids in run_in_threads(8, add) for kid in kids]
    last = storage.load()
    assert last is not None
    assert len(added) == 5
    assert kids_of(last) == {*added, *kids_of(ring)}


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_killed_writers_lose_nothing_and_stop_no_other(tmp_path: Path, rounds: int) -> None:
    left = 0
    for number in range(20 * rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        left += kill_writers_of(folder / "ring.json", kills=20)
        # On a fast disk it takes more kills to hit a write.
        if number + 1 >= rounds and left:
            return
    raise AssertionError("no writer was killed in the middle of a write")


def kill_writers_of(path: Path, kills: int) -> int:
    """How often a killed writer has left a temporary file."""
    storage, notes = open_file(path), path.parent / "notes"
    writers = [fork_writer(partial(open_file, path), notes)]
    sequence = left = 0
    for _ in range(kills):
        writers.append(fork_writer(partial(open_file, path), notes))
        time.sleep(random.uniform(0, 0.03))
        victim = writers.pop(random.randrange(2))
        victim.kill()
        victim.join()
        sequence = assert_nothing_lost(storage, notes, sequence)
        left += bool(leftovers(path))
    for writer in writers:
        writer.kill()
        writer.join()
    assert_nothing_lost(storage, notes, sequence)
    ring = storage.load()
    assert storage.write(first_ring() if ring is None else next_of(ring), ring) is True
    assert leftovers(path) == []
    return left


def assert_nothing_lost(storage: RingFile, notes: Path, sequence: int) -> int:
    """The sequence number of the ring, which has grown and has every acknowledged key."""
    text = notes.read_text() if notes.exists() else ""
    # A writer that is killed while it notes a key leaves half a line, which acknowledges nothing.
    acknowledged = {line[:-1] for line in text.splitlines(keepends=True) if line.endswith("\n")}
    ring = storage.load()
    if ring is None:
        assert not acknowledged
        return 0
    assert ring.sequence >= max(sequence, len(acknowledged))
    assert acknowledged <= kids_of(ring)
    return ring.sequence
