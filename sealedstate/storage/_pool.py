"""Idle connections, each used by one thread at a time and by one process only."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .._forks import ForkSafeLock

C = TypeVar("C")


class ConnectionStack(Generic[C]):
    """Idle connections; the last one that was used is taken first.

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
