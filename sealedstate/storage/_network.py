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

# TCP's keepalive: seconds of silence before the first probe, between probes, and how many of them.
# A balancer with a longer limit on idle connections forgets none, and the system notices those that
# were forgotten before a request is sent over them.
KEEPALIVE = (15, 5, 3)


class Broken(Exception):
    """No answer, or not the answer to this request.

    `sent`: the request may have arrived completely. `timed_out`: no time is left to try again.
    """

    def __init__(self, timed_out: bool = False, sent: bool = True) -> None:
        super().__init__()
        self.timed_out, self.sent = timed_out, sent


class Connections(ABC):
    """Connections to one server, each used by one thread at a time and by one process only."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._fork_lock = ForkSafeLock()
        # append() and pop() of a deque are atomic.
        self._idle: deque[Any] = deque()

    def take(self, deadline: float, is_checked: bool = True) -> Any:
        """Return the idle connection that was used last, or a new one.

        `is_checked`: it must be open and quiet, and those that are not are closed. A read that is
        repeated over a new connection needs no such check, if replies say what they belong to.
        """
        while (idle := self._pop()) is not None and is_checked and not self._is_quiet(idle):
            self.drop(idle)
        return self.open(deadline) if idle is None else idle

    def give(self, connection: Any) -> None:
        """Keep a connection for the next call."""
        self._idle.append(connection)

    def close_idle(self) -> None:
        """Close the connections that no call uses."""
        while (connection := self._pop()) is not None:
            self.drop(connection)

    def _pop(self) -> Any:
        if self._pid != os.getpid():
            with self._fork_lock:
                parents: deque[Any] = deque()
                if self._pid != os.getpid():  # no other thread of the child was first
                    parents, self._idle = self._idle, parents
                    self._pid = os.getpid()
            for connection in parents:
                self.drop(connection)
        try:
            return self._idle.pop()
        except IndexError:
            return None

    @abstractmethod
    def open(self, deadline: float) -> Any:
        """Open a connection by `deadline` (`time.monotonic`). Raises StorageUnavailable."""

    @abstractmethod
    def drop(self, connection: Any) -> None:
        """Close a connection.

        In a forked child this may close the parent's descriptor, but must send nothing.
        """

    @abstractmethod
    def _is_quiet(self, connection: Any) -> bool:
        """Whether a connection is open and has received nothing unasked."""


class ServerClient:
    """Sends requests over connections. `kind` and `address` name the server in messages.

    `timeout`: seconds.
    """

    knows_replies = False
    """Whether each reply says to which request it belongs."""

    def __init__(self, kind: str, address: str, timeout: float) -> None:
        self._kind, self.address = kind, address
        self._timeout = timeout

    def unavailable(self, why: str) -> StorageUnavailable:
        """Make an error that names the server."""
        return StorageUnavailable(f"{self._kind} store {self.address}: {why}")

    def _failure(self, why: str, wrote_nothing: bool, version: int | None) -> StorageError:
        if wrote_nothing:
            return self.unavailable(why)
        return OutcomeUnknown(
            f"{self._kind} store {self.address}: {why}; it may or may not have written", version
        )

    def _call(
        self,
        connections: Connections,
        deadline: float,
        act: Callable[[Any], T],
        is_read: bool,
        version: int | None,
    ) -> T:
        """Return the result of `act`, which raises Broken if there is none.

        It gets a connection, and is called a second time as the module says. By `deadline`, the
        connection must be open.
        """
        try:
            try:
                is_checked = not (is_read and self.knows_replies)
                return self._call_once(connections, connections.take(deadline, is_checked), act)
            except Broken as broken:
                # The other idle connections were not used for longer than the broken one, so
                # whatever forgot or ended it (a balancer, a restart) has ended them, too. Each
                # would cost another request its timeout.
                connections.close_idle()
                if broken.timed_out or (broken.sent and not is_read):
                    raise
            return self._call_once(connections, connections.open(deadline), act)
        except Broken as broken:
            why = "the connection broke"
            if broken.timed_out:
                why = f"no answer within {self._timeout} s"
            raise self._failure(why, is_read or not broken.sent, version) from None

    def _call_once(self, connections: Connections, connection: Any, act: Callable[[Any], T]) -> T:
        try:
            result = act(connection)
        except BaseException:
            # After a cancelled call, too: its reply must not answer the next request.
            connections.drop(connection)
            raise
        connections.give(connection)
        return result
