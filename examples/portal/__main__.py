"""Starts the portal on a port of this machine and prints the link to open.

python examples/portal [--port N] [--profile NAME] [--var DIR]
"""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waitress.server import create_server  # type: ignore[import-untyped, unused-ignore]

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.portal.app import make_application
from examples.portal.resources import PortalResources
from sealedstate import PROFILES, ConfigurationError, OperatorError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# This machine only: the portal accepts any name, over plain http.
HOST = "127.0.0.1"
USUAL_PORT = 8000
THREADS = 8


def main() -> int:
    """Serve until Ctrl-C."""
    options = _parse_arguments()
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a request waited a moment
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it like Ctrl-C
    try:
        application = make_application(PortalResources(options.var), options.profile)
        server = _listen(application, options.port)
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"The portal can't start: {error}", file=sys.stderr)
        return 1
    print(f"Open http://{HOST}:{server.effective_port}/  (Ctrl-C stops the portal)", flush=True)
    server.run()  # returns on Ctrl-C, after the requests under way were answered
    server.close()
    print("\nStopped.")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python examples/portal", description="A single-sign-on demo.")
    parser.add_argument(
        "--port",
        type=int,
        help=f"0 for any free one; by default {USUAL_PORT}, or a free one when it is taken",
    )
    parser.add_argument(
        "--profile", choices=PROFILES, default="portable", help="the cookie budget to start with"
    )
    parser.add_argument(
        "--var",
        type=Path,
        default=Path(__file__).with_name("var"),
        metavar="DIR",
        help="where keys and store are kept (made at the first start)",
    )
    return parser.parse_args()


def _listen(application: WSGIApplication, port: int | None) -> Any:
    """A waitress server that listens already. Raises OSError if the port is taken."""
    arguments = {"host": HOST, "threads": THREADS, "ident": None}
    try:
        return create_server(application, port=USUAL_PORT if port is None else port, **arguments)
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        return create_server(application, port=0, **arguments)


if __name__ == "__main__":
    sys.exit(main())
