"""Starts a shop on a port of this machine, and prints the link to open."""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sealedstate import ConfigurationError, OperatorError

# This machine only: the shop accepts any name, over plain http.
HOST = "127.0.0.1"


def run_shop(
    framework: str,
    usual_port: int,
    make_app: Callable[[Path], Any],
    serve: Callable[[Any, socket.socket], object],
) -> int:
    """Serve until Ctrl-C; returns the exit code. `make_app`: from the directory of its state."""
    name = framework.lower()
    parser = argparse.ArgumentParser(
        f"python examples/{name}", description=f"A small shop on {framework}."
    )
    parser.add_argument(
        "--port",
        type=int,
        help=f"0 for any free one; by default {usual_port}, or a free one when it is taken",
    )
    parser.add_argument(
        "--var",
        type=Path,
        default=Path(__file__).parents[1] / name / "var",
        metavar="DIR",
        help="where keys and store are kept (made at the first start)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it like Ctrl-C
    try:
        app = make_app(options.var)
        listener = _listen(options.port, usual_port)
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"The shop can't start: {error}", file=sys.stderr)
        return 1
    port = listener.getsockname()[1]
    print(f"Open http://{HOST}:{port}/  (Ctrl-C stops the shop)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        serve(app, listener)
    print("\nStopped.")
    return 0


def serve_wsgi(app: Any, listener: socket.socket) -> None:
    """Serve with waitress, which answers the requests under way on Ctrl-C."""
    from waitress.server import create_server  # type: ignore[import-untyped, unused-ignore]

    server = create_server(app, sockets=[listener], ident=None)
    server.run()
    server.close()


def serve_asgi(app: Any, listener: socket.socket) -> None:
    """Serve with uvicorn, which answers the requests under way on Ctrl-C and raises it again."""
    import uvicorn

    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def _listen(port: int | None, usual_port: int) -> socket.socket:
    """A socket that listens already. Raises OSError if the port is taken."""
    try:
        return socket.create_server((HOST, usual_port if port is None else port))
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        return socket.create_server((HOST, 0))
