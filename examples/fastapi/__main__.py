"""Starts the shop on a port of this machine and prints the link to open.

python examples/fastapi [--port N] [--var DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import socket
import sys
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.fastapi.app import make_app
from sealedstate import ConfigurationError, OperatorError

# This machine only: the shop accepts any name, over plain http.
HOST = "127.0.0.1"
USUAL_PORT = 8020


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        "python examples/fastapi", description="A small shop on FastAPI."
    )
    parser.add_argument(
        "--port",
        type=int,
        help=f"0 for any free one; by default {USUAL_PORT}, or a free one when it is taken",
    )
    parser.add_argument(
        "--var",
        type=Path,
        default=Path(__file__).with_name("var"),
        metavar="DIR",
        help="where keys and store are kept (made at the first start)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it like Ctrl-C
    try:
        app = make_app(options.var)
        listener = _listen(options.port)
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"The shop can't start: {error}", file=sys.stderr)
        return 1
    port = listener.getsockname()[1]
    print(f"Open http://{HOST}:{port}/  (Ctrl-C stops the shop)", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    # It answers the requests under way, and then raises the signal again.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    print("\nStopped.")
    return 0


def _listen(port: int | None) -> socket.socket:
    """A socket that listens already. Raises OSError if the port is taken."""
    try:
        return socket.create_server((HOST, USUAL_PORT if port is None else port))
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        return socket.create_server((HOST, 0))


if __name__ == "__main__":
    sys.exit(main())
