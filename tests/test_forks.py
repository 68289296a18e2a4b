"""Locks and forks: one that a child finds free, and one that a fork waits for."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
import warnings
import weakref
from _thread import allocate_lock
from collections.abc import Callable

import pytest

from sealedstate import _forks
from sealedstate._forks import ForkHeldLock, ForkSafeLock
from tests.support.documents import ROOT


def fork(act: Callable[[], bool]) -> bool:
    """Whether `act` returned True in a forked child."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads, which is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    try:
        os._exit(0 if act() else 1)
    finally:
        os._exit(2)


def hold(lock: ForkSafeLock | ForkHeldLock, until: threading.Event) -> threading.Thread:
    """A thread that holds the lock until the event is set."""
    is_held = threading.Event()

    def run() -> None:
        with lock:
            is_held.set()
            until.wait()

    thread = threading.Thread(target=run)
    thread.start()
    is_held.wait()
    return thread


def test_lock_admits_one_thread_at_a_time() -> None:
    lock, done = ForkSafeLock(), threading.Event()
    thread = hold(lock, done)
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=0.01)
    done.set()
    thread.join()
    assert lock.acquire()
    lock.release()
    with lock:
        pass


def test_lock_held_by_another_thread_is_free_in_a_forked_child_only() -> None:
    lock, done = ForkSafeLock(), threading.Event()
    thread = hold(lock, done)
    assert fork(lambda: lock.acquire(timeout=20))
    assert not lock.acquire(blocking=False)
    done.set()
    thread.join()
    # And in a child of the child, whose parent's main thread holds it.
    assert fork(lambda: lock.acquire(timeout=20) and fork(lambda: lock.acquire(timeout=20)))


def test_threads_of_a_child_exclude_one_another_from_their_first_use_on() -> None:
    lock, done = ForkSafeLock(), threading.Event()
    thread = hold(lock, done)

    def race() -> bool:
        inside, most = 0, 0

        def run() -> None:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

        racers = [threading.Thread(target=run) for _ in range(8)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        return most == 1

    assert fork(race)
    done.set()
    thread.join()


def test_dropped_lock_leaves_nothing_behind() -> None:
    dropped = weakref.ref(ForkSafeLock())
    gc.collect()
    assert dropped() is None


@pytest.mark.parametrize("kind", [ForkSafeLock, ForkHeldLock])
def test_lock_made_before_gevent_replaced_the_locks_is_renewed_by_its_first_use(
    kind: type[ForkSafeLock] | type[ForkHeldLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = kind()
    before = lock._lock
    monkeypatch.setattr(threading, "Lock", lambda: allocate_lock())
    with lock:
        now = lock._lock
        assert now is not before
    assert lock.acquire()
    assert lock._lock is now
    lock.release()


# --- the lock that a fork waits for ---------------------------------------------------------------


def test_fork_waits_until_no_thread_is_inside_and_leaves_the_lock_free() -> None:
    lock, may_leave = ForkHeldLock(), threading.Event()
    thread = hold(lock, may_leave)
    threading.Timer(0.1, may_leave.set).start()
    assert fork(lambda: may_leave.is_set() and lock.acquire(timeout=20) and not lock.was_in_use)
    thread.join()
    assert acquires_in_a_thread(lock)


def test_thread_that_forks_may_hold_the_lock_itself() -> None:
    lock = ForkHeldLock()
    with lock:
        assert fork(lambda: lock.acquire(timeout=20))
        # And the parent has it as before.
        assert not acquires_in_a_thread(lock)
    assert acquires_in_a_thread(lock)


def acquires_in_a_thread(lock: ForkHeldLock) -> bool:
    answers: list[bool] = []

    def try_it() -> None:
        answers.append(lock.acquire(blocking=False))
        if answers == [True]:
            lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return answers == [True]


def test_child_of_a_fork_that_waited_too_long_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forks, "FORK_SECONDS", 0.01)
    lock, free, may_leave = ForkHeldLock(), ForkHeldLock(), threading.Event()
    thread = hold(lock, may_leave)
    assert fork(lambda: lock.was_in_use and lock.acquire(timeout=20) and not free.was_in_use)
    # And so does a child of that child.
    assert fork(lambda: fork(lambda: lock.was_in_use and not free.was_in_use))
    assert not lock.was_in_use
    may_leave.set()
    thread.join()


class Resource:
    """What must be left before a fork."""

    def __init__(self) -> None:
        self.calls: list[bool] = []
        self.lock = ForkHeldLock(self.leave)

    def leave(self) -> None:
        self.calls.append(acquires_in_a_thread(self.lock))


def test_method_runs_before_a_fork_with_the_lock_held_and_keeps_nothing_alive() -> None:
    resource = Resource()
    dropped, lock, calls = weakref.ref(resource), resource.lock, resource.calls
    assert fork(lambda: calls == [False])
    assert calls == [False]
    del resource
    assert dropped() is None
    assert fork(lambda: lock.acquire(timeout=20))


def test_forks_of_several_threads_wait_for_one_another() -> None:
    locks = [ForkHeldLock() for _ in range(5)]
    answers: list[bool] = []

    def run() -> None:
        for _ in range(5):
            answers.append(fork(lambda: all(lock.acquire(timeout=20) for lock in locks)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 20
    assert all(acquires_in_a_thread(lock) for lock in locks)


# --- all locks of the package ---------------------------------------------------------------------

ORDINARY = re.compile(
    r"threading\.(Lock|RLock|Condition|Event|Semaphore|BoundedSemaphore)\(|Queue(\[\w+\])?\("
)
# What makes the locks, and a thread's event, which the child replaces.
MAY_USE = {"_forks.py", "feed.py", "source.py"}


def test_no_lock_that_a_fork_may_copy_is_an_ordinary_one() -> None:
    found = [
        file
        for folder in ("sealedstate", "middleware")
        for file in (ROOT / folder).rglob("*.py")
        if ORDINARY.search(file.read_text("utf-8")) and "testing" not in file.parts
    ]
    assert {file.name for file in found} == MAY_USE
