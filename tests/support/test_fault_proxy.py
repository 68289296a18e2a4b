"""The proxy that stands between tests and servers keeps to what it says of its faults."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from tests.support.fault_proxy import FaultProxy


class SlowList(list[Any]):
    """Takes its time to remember something, as a busy machine may."""

    def append(self, item: Any) -> None:
        time.sleep(0.3)
        super().append(item)


def echo_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(100):
            connection.sendall(piece)


def test_cut_ends_every_connection_that_has_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=echo_once, args=(listener,), daemon=True)
        server.start()
        with FaultProxy(listener.getsockname()[1]) as proxy:
            proxy._pairs = SlowList()
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.settimeout(10)
                client.sendall(b"are you there?")
                assert client.recv(100) == b"are you there?"
                proxy.refusing = True
                proxy.cut()
                with contextlib.suppress(ConnectionError):
                    assert client.recv(100) == b"", "it stands still"
        server.join(10)
