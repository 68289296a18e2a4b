"""What the clients of Redis and memcached share: connections, and what a failed request means.

A connection that did not deliver its reply is closed, whatever the reason, so that no later request
can receive that reply. A request that was not sent completely cannot have run and is sent once more
over a new connection, and so is a read whose connection broke. Everything else is an error:
StorageUnavailable if the server certainly wrote nothing, OutcomeUnknown if it may have.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from .._forks import ForkSafeLock
from ..errors import OutcomeUnknown, StorageError, StorageUnavailable

T = TypeVar("T")


class Broken(Exception):
    """No answer, or not the answer to this request.

    `sent`: the request may have arrived completely. `timed_out`: no time is left to try again.
    """

    def __init__(self, timed_out: bool = False, sent: bool = True) -> None:
        super().__init__()
        self.timed_out, self.sent = timed_out, sent


class ServerClient(ABC):
    """Connections to one server, each used by one thread at a time and by one process only.

    `kind` and `address` name the server in messages. `timeout`: seconds.
    """

    def __init__(self, kind: str, address: str, timeout: float) -> None:
        self._kind, self.address = kind, address
        self._timeout = timeout
        self._pid = os.getpid()
        self._fork_lock = ForkSafeLock()
        # append() and pop() of a deque are atomic.
        self._idle: deque[Any] = deque()

    def close(self) -> None:
        """Close idle connections."""
        while (connection := self._pop()) is not None:
            self._close(connection)

    def unavailable(self, why: str) -> StorageUnavailable:
        """Make an error that names the server."""
        return StorageUnavailable(f"{self._kind} store {self.address}: {why}")

    def _failure(self, why: str, wrote_nothing: bool, version: int | None) -> StorageError:
        if wrote_nothing:
            return self.unavailable(why)
        return OutcomeUnknown(
            f"{self._kind} store {self.address}: {why}; it may or may not have written", version
        )

    def _call(self, act: Callable[[Any], T], is_read: bool, version: int | None) -> T:
        """Return the result of `act`, which raises Broken if there is none.

        It gets a connection, and is called a second time as the module says.
        """
        try:
            try:
                # The idle connection that was used last; those that are broken are closed.
                while (idle := self._pop()) is not None and not self._is_quiet(idle):
                    self._close(idle)
                return self._call_once(self._open() if idle is None else idle, act)
            except Broken as broken:
                if broken.timed_out or (broken.sent and not is_read):
                    raise
            return self._call_once(self._open(), act)
        except Broken as broken:
            why = "the connection broke"
            if broken.timed_out:
                why = f"no answer within {self._timeout} s"
            raise self._failure(why, is_read or not broken.sent, version) from None

    def _call_once(self, connection: Any, act: Callable[[Any], T]) -> T:
        try:
            result = act(connection)
        except BaseException:
            # After a cancelled call, too: its reply must not answer the next request.
            self._close(connection)
            raise
        self._idle.append(connection)
        return result

    def _pop(self) -> Any:
        if self._pid != os.getpid():
            with self._fork_lock:
                parents: deque[Any] = deque()
                if self._pid != os.getpid():  # no other thread of the child was first
                    parents, self._idle = self._idle, parents
                    self._pid = os.getpid()
            for connection in parents:
                self._close(connection)
        try:
            return self._idle.pop()
        except IndexError:
            return None

    @abstractmethod
    def _open(self) -> Any:
        """Open a connection. Raises StorageUnavailable."""

    @abstractmethod
    def _is_quiet(self, connection: Any) -> bool:
        """Whether a connection is open and has received nothing unasked."""

    @abstractmethod
    def _close(self, connection: Any) -> None:
        """Close a connection.

        In a forked child this may close the parent's descriptor, but must send nothing.
        """
