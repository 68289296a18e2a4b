"""A lock that is free in the child of a fork."""

from __future__ import annotations

import os
import threading
import weakref


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
