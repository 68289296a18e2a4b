"""Connections that wait to be used again: by one thread at a time, and by one process only.

Knows forks. Does not know how to connect, nor what is said on a connection.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .._forks import ForkSafeLock

C = TypeVar("C")


class ConnectionStack(Generic[C]):
    """Idle connections, the last one used first.

    `is_quiet`: whether a connection stands and nothing came in that nobody asked for. `close` must
    spare the parent's connection when it is called in a child: close a descriptor, say nothing.
    """

    def __init__(self, is_quiet: Callable[[C], bool], close: Callable[[C], None]) -> None:
        self._is_quiet = is_quiet
        self._close = close
        self._pid = os.getpid()
        self._forking = ForkSafeLock()
        # Its append() and pop() are atomic; a lock could be held by another thread during a fork.
        self._connections: deque[C] = deque()

    def take(self) -> C | None:
        """A connection that can be used, if there is one. What can't is closed."""
        if self._pid != os.getpid():
            self._forget_the_parents()
        while (connection := self._pop()) is not None:
            if self._is_quiet(connection):
                return connection
            self._close(connection)
        return None

    def put(self, connection: C) -> None:
        """Give back a connection that nothing is left to be read from."""
        self._connections.append(connection)

    def close(self) -> None:
        """Close those that nobody uses."""
        if self._pid != os.getpid():
            self._forget_the_parents()
        while (connection := self._pop()) is not None:
            self._close(connection)

    def _pop(self) -> C | None:
        try:
            return self._connections.pop()
        except IndexError:
            return None

    def _forget_the_parents(self) -> None:
        with self._forking:
            if self._pid == os.getpid():
                return  # another thread did it
            parents, self._connections, self._pid = self._connections, deque(), os.getpid()
        for connection in parents:
            self._close(connection)
