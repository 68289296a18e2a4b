"""Locks and forks: one that is free in the child, and one that a fork waits for."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

# The first uWSGI that runs threads without being asked to.
UWSGI_WITH_THREADS = (2, 0, 27)


class _Lock:
    """What both locks have: the operations of `_lock`, which `renew` makes.

    gevent replaces the locks of `threading`. A lock that was made before, as in gunicorn's master
    with --preload, would admit two greenlets at once, or stop all of them for ever. So the first
    use after that renews it.
    """

    __slots__ = ("__weakref__", "_kind", "_lock")

    _lock: threading.Lock | threading.RLock
    _kind: object

    def renew(self) -> None:
        """Replace the lock by a new one, which is free."""
        raise NotImplementedError

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._kind is not threading.Lock:
            self.renew()
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        if self._kind is not threading.Lock:
            self.renew()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ForkSafeLock(_Lock):
    """Like `threading.Lock`, but new, and so unlocked, in the child of a fork.

    A child has only the thread that forked. If another thread held an ordinary lock at that
    moment, nothing in the child can release it, and the first use would wait for ever. The thread
    that forks must not hold the lock itself.
    """

    __slots__ = ()

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        self._kind, self._lock = threading.Lock, threading.Lock()


class ForkHeldLock(_Lock):
    """Like `threading.RLock`, but a fork waits until no other thread holds it.

    For what a child must not inherit half done, such as the locks of a file: the kernel gives them
    to a process and not to its child, while the memory of the child says that it has them.

    `before_fork`: a method that the thread that forks calls in the parent, holding the lock. Its
    object is not kept alive. `was_in_use`: this process was forked while another thread of its
    parent held the lock, because that took longer than FORK_SECONDS, or because the program that
    embeds Python forks without its hooks.
    """

    __slots__ = ("_before_fork", "was_in_use")

    def __init__(self, before_fork: Callable[[], object] | None = None) -> None:
        self._before_fork = None if before_fork is None else weakref.WeakMethod(before_fork)
        self.was_in_use = False
        self.renew()
        with _fork:
            _held_locks.add(self)

    def prepare_fork(self) -> None:
        """Call `before_fork`, if its object still exists."""
        if self._before_fork is not None and (method := self._before_fork()) is not None:
            method()

    def renew(self) -> None:
        # Reentrant: a signal handler that forks inside a call must not wait for its own thread.
        self._kind, self._lock = threading.Lock, threading.RLock()

    def renew_in_child(self) -> None:
        """Make the lock free in the child, where only the thread that forked exists."""
        # What its parent inherited from a thread is not repaired for a child of this process.
        self.was_in_use |= not self._lock.acquire(blocking=False)
        self.renew()


FORK_SECONDS = 10.0
"""How long a fork waits for the threads that hold a `ForkHeldLock`."""

_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
_held_locks: weakref.WeakSet[ForkHeldLock] = weakref.WeakSet()
_fork = threading.RLock()  # one fork at a time, and no new lock meanwhile
_taken: list[ForkHeldLock] = []


def _take_locks() -> None:
    _fork.acquire()
    give_up_at = time.monotonic() + FORK_SECONDS
    # No thread waits for one of them while it holds another, so any order will do.
    for lock in list(_held_locks):
        if lock.acquire(timeout=max(give_up_at - time.monotonic(), 0)):
            _taken.append(lock)
            lock.prepare_fork()


def _release_locks() -> None:
    while _taken:
        _taken.pop().release()
    _fork.release()


def _renew_locks() -> None:
    # Before the child can start a thread. To compare process ids when the lock is used would be too
    # late: two threads of the child would each make a lock, and both would enter.
    global _fork
    for lock in _locks:
        lock.renew()
    for held in _held_locks:
        held.renew_in_child()
    _taken.clear()
    _fork = threading.RLock()


os.register_at_fork(before=_take_locks, after_in_parent=_release_locks, after_in_child=_renew_locks)


def are_threads_frozen() -> bool:
    """Whether this process is a uWSGI that runs threads only while it answers a request.

    A thread that stops within a transaction would keep all other processes waiting.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    if not hasattr(uwsgi, "version_info") or uwsgi.version_info[:3] >= UWSGI_WITH_THREADS:
        return False
    return not {"enable-threads", "threads", "gevent"} & set(uwsgi.opt)
