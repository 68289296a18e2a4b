"""The lock that a forked child finds free."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable

from sealedstate._forks import ForkSafeLock


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


def hold(lock: ForkSafeLock, until: threading.Event) -> threading.Thread:
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
