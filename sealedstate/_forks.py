"""What the child of a fork can use: locks that are free, and a stack of idle connections."""

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


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def _renew_locks() -> None:
    # Before the child can start a thread. To compare process ids when the lock is used would be too
    # late: two threads of the child would each make a lock, and both would enter.
    for lock in _locks:
        lock._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


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
