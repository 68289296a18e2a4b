"""A TCP proxy on 127.0.0.1 with switchable faults, between a client and a real server.

It knows no protocol: what arrives in one piece is one request, or one reply.

    with FaultProxy(server.port) as proxy:
        client = connect(proxy.port)
        proxy.drop_replies = True
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

PATIENCE = 60  # seconds; a thread that has not ended by then hangs

# Lingering for no time at all: the kernel sends RST in place of FIN.
_ABRUPTLY = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Pair:
    """A client's connection, and ours to the server in its name."""

    client: socket.socket
    server: socket.socket
    threads: list[threading.Thread] = field(default_factory=list)
    is_forgotten: bool = False

    def close(self, abruptly: bool = False) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                if abruptly:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
                # Wakes the thread that reads from it, which keeps it open as long as it does.
                end.shutdown(socket.SHUT_RD if abruptly else socket.SHUT_RDWR)
            end.close()


class FaultProxy:
    """Forwards to `target_port` of this machine. Its faults are attributes, all off at first:

    `latency`: seconds by which each piece comes late, in either direction. `stalled`: pieces wait
    until it is False again. `drop_replies`: requests arrive, and instead of the reply the
    connection closes; not so the next `passed_replies`. `swap_replies`: the next two replies, of
    two connections, change places. `repeat_reply`: the next reply comes twice. `refusing`: new
    connections are reset. `cut()` resets all connections. `forget()` drops without a word what
    still comes over those that exist.

    `connections` and `requests` count what has come from clients, `dropped` the replies lost.
    """

    def __init__(self, target_port: int) -> None:
        self.latency = 0.0
        self.stalled = False
        self.drop_replies = False
        self.passed_replies = 0
        self.swap_replies = False
        self.repeat_reply = False
        self.refusing = False
        self.connections = 0
        self.requests = 0
        self.dropped = 0
        self._target = ("127.0.0.1", target_port)
        self._pairs: list[_Pair] = []
        self._held: tuple[_Pair, bytes] | None = None
        self._lock = threading.Lock()
        # Held while a connection begins, so that `cut` meets it whole or finds it refused.
        self._beginning = threading.Lock()
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for pair in self._pairs:
            pair.close()
            for thread in pair.threads:
                thread.join(PATIENCE)

    def cut(self) -> None:
        """Reset all connections that stand now; it has happened when this returns."""
        with self._beginning:
            standing = list(self._pairs)
        for pair in standing:
            pair.close(abruptly=True)
            for thread in pair.threads:
                thread.join(PATIENCE)

    def forget(self) -> None:
        """Forget all connections that exist now, like a balancer; new ones work."""
        with self._beginning:
            for pair in self._pairs:
                pair.is_forgotten = True

    def _accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                with self._beginning:
                    self._begin(_Pair(client, socket.socket()))

    def _begin(self, pair: _Pair) -> None:
        try:
            if self.refusing:
                raise ConnectionRefusedError
            pair.server.connect(self._target)
        except OSError:
            pair.close(abruptly=True)
            return
        for end in (pair.client, pair.server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        for act in (self._requests, self._replies):
            thread = threading.Thread(target=act, args=(pair,), daemon=True)
            thread.start()
            pair.threads.append(thread)
        # From now on `cut` may end them.
        self._pairs.append(pair)

    def _requests(self, pair: _Pair) -> None:
        def forward(piece: bytes) -> None:
            self.requests += 1
            pair.server.sendall(piece)

        self._pump(pair, pair.client, forward)

    def _replies(self, pair: _Pair) -> None:
        def forward(piece: bytes) -> None:
            if self.drop_replies and not self._passes():
                self.dropped += 1
                raise ConnectionAbortedError
            if self.repeat_reply:
                self.repeat_reply, piece = False, piece * 2
            if not self._swapped(pair, piece):
                pair.client.sendall(piece)

        self._pump(pair, pair.server, forward)

    def _passes(self) -> bool:
        with self._lock:
            self.passed_replies -= 1
            return self.passed_replies >= 0

    def _swapped(self, pair: _Pair, piece: bytes) -> bool:
        """Whether the piece is taken care of: held, or sent to the client of the one held."""
        with self._lock:
            if not self.swap_replies:
                return False
            if self._held is None:
                self._held = (pair, piece)
                return True
            other, its_piece = self._held
            self._held, self.swap_replies = None, False
        other.client.sendall(piece)
        pair.client.sendall(its_piece)
        return True

    def _pump(self, pair: _Pair, source: socket.socket, forward: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if self.latency:
                    self._closed.wait(self.latency)
                while self.stalled and not self._closed.wait(0.01):
                    pass
                if not pair.is_forgotten:
                    forward(piece)
        pair.close()


class FaultProxies:
    """Several proxies with the same faults, as for the nodes of a cluster."""

    def __init__(self, proxies: Sequence[FaultProxy]) -> None:
        self.__dict__["all"] = proxies

    def __getattr__(self, name: str) -> Any:
        """A count of all of them, or the fault that they have."""
        values = [getattr(proxy, name) for proxy in self.__dict__["all"]]
        return sum(values) if type(values[0]) is int else values[0]

    def __setattr__(self, name: str, value: object) -> None:
        for proxy in self.__dict__["all"]:
            setattr(proxy, name, value)

    def cut(self) -> None:
        for proxy in self.__dict__["all"]:
            proxy.cut()
