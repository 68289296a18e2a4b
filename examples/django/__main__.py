"""Starts the shop on a port of this machine and prints the link to open.

python examples/django [--port N] [--var DIR]
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waitress.server import create_server  # type: ignore[import-untyped, unused-ignore]

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.django.project import set_up
from sealedstate import ConfigurationError, OperatorError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# This machine only: the shop accepts any name, over plain http.
HOST = "127.0.0.1"
USUAL_PORT = 8020


def main() -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        "python examples/django", description="A small shop on Django."
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
        server = _listen(set_up(options.var), options.port)
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"The shop can't start: {error}", file=sys.stderr)
        return 1
    print(f"Open http://{HOST}:{server.effective_port}/  (Ctrl-C stops the shop)", flush=True)
    server.run()  # returns on Ctrl-C, after the requests under way were answered
    server.close()
    print("\nStopped.")
    return 0


def _listen(application: WSGIApplication, port: int | None) -> Any:
    """A waitress server that listens already. Raises OSError if the port is taken."""
    try:
        port_to_try = USUAL_PORT if port is None else port
        return create_server(application, host=HOST, port=port_to_try, ident=None)
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        return create_server(application, host=HOST, port=0, ident=None)


if __name__ == "__main__":
    sys.exit(main())
