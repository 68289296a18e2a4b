"""What a fork leaves whole: locks that are free in the child, and a stack of idle connections."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class ForkSafeLock:
    """Like `threading.Lock`, but new, and so unlocked, in the child of a fork.

    A child has only the thread that forked. If another thread held an ordinary lock at that
    moment, nothing in the child can release it, and the first use would wait for ever. The thread
    that forks must not hold the lock itself.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ForkHeldLock:
    """Like `threading.RLock`, but a fork waits until no other thread holds it.

    For what a child must not inherit half done, such as the locks of a file: the kernel gives them
    to a process and not to its child, while the memory of the child says that it has them.

    `before_fork`: a method that the thread that forks calls in the parent, holding the lock. Its
    object is not kept alive. `was_in_use`: this process was forked while another thread of its
    parent held the lock, because that took longer than FORK_SECONDS, or because the program that
    embeds Python forks without its hooks.
    """

    __slots__ = ("__weakref__", "_before_fork", "_lock", "was_in_use")

    def __init__(self, before_fork: Callable[[], object] | None = None) -> None:
        # Reentrant: a signal handler that forks inside a call must not wait for its own thread.
        self._lock = threading.RLock()
        self._before_fork = None if before_fork is None else weakref.WeakMethod(before_fork)
        self.was_in_use = False
        with _fork:
            _held_locks.add(self)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def prepare_fork(self) -> None:
        """Call `before_fork`, if its object still exists."""
        if self._before_fork is not None and (method := self._before_fork()) is not None:
            method()

    def renew(self) -> None:
        """Make the lock free in the child, where only the thread that forked exists."""
        self.was_in_use = not self._lock.acquire(blocking=False)
        self._lock = threading.RLock()


FORK_SECONDS = 10.0
"""How long a fork waits for a thread that holds a `ForkHeldLock`."""

_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
_held_locks: weakref.WeakSet[ForkHeldLock] = weakref.WeakSet()
_fork = threading.RLock()  # one fork at a time, and no new lock meanwhile
_taken: list[ForkHeldLock] = []


def _take_locks() -> None:
    _fork.acquire()
    # No thread waits for one of them while it holds another, so any order will do.
    for lock in list(_held_locks):
        if lock.acquire(timeout=FORK_SECONDS):
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
        lock._lock = threading.Lock()
    for held in _held_locks:
        held.renew()
    _taken.clear()
    _fork = threading.RLock()


os.register_at_fork(before=_take_locks, after_in_parent=_release_locks, after_in_child=_renew_locks)


class ConnectionStack(Generic[C]):
    """Idle connections of one process; the last one that was used is taken first.

    `is_quiet`: whether a connection is open and has received nothing unasked. `close` must not
    disturb the parent's connection when it runs in a forked child: it may close the descriptor, but
    send nothing.
    """

    def __init__(self, is_quiet: Callable[[C], bool], close: Callable[[C], None]) -> None:
        self._is_quiet = is_quiet
        self._close = close
        self._pid = os.getpid()
        self._fork_lock = ForkSafeLock()
        # append() and pop() of a deque are atomic.
        self._connections: deque[C] = deque()

    def take(self) -> C | None:
        """Return a connection that can be used, or None. Closes those that can't."""
        while (connection := self._pop()) is not None:
            if self._is_quiet(connection):
                return connection
            self._close(connection)
        return None

    def put(self, connection: C) -> None:
        """Give back a connection from which everything was read."""
        self._connections.append(connection)

    def close(self) -> None:
        """Close all idle connections."""
        while (connection := self._pop()) is not None:
            self._close(connection)

    def _pop(self) -> C | None:
        if self._pid != os.getpid():
            with self._fork_lock:
                parents: deque[C] = deque()
                if self._pid != os.getpid():  # no other thread of the child was first
                    parents, self._connections = self._connections, parents
                    self._pid = os.getpid()
            for connection in parents:
                self._close(connection)
        try:
            return self._connections.pop()
        except IndexError:
            return None
