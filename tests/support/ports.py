"""Ports of 127.0.0.1 for servers that cannot be given a socket and that return to their port."""

from __future__ import annotations

import contextlib
import random
import socket
import sys

# Below those that the kernel picks for outgoing connections and for whoever binds to port 0: none
# of these takes it while a server is down, and a client that calls in vain never meets itself.
_RANGE = range(20_000, 32_000)

_TAKEN: list[socket.socket] = []
"""A name in the kernel for each port, which vanishes with this process."""


def free_port() -> int:
    """A port that nobody listens on, and that no other call here is given, in any process."""
    for port in random.sample(_RANGE, 1000):
        if _is_free(port) and _take(port):
            return port
    raise AssertionError("no port is free")


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def _take(port: int) -> bool:
    if sys.platform != "linux":
        return True  # such names are Linux's
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mark.bind(f"\0sealedstate-tests-port-{port}")
    except OSError:
        mark.close()
        return False
    _TAKEN.append(mark)
    return True
