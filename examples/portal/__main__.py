"""Starts the portal on a port of this machine and prints the one link to open.

    python examples/portal [--port N] [--profile NAME] [--var DIR]

Knows the command line and the server, waitress. Does not know sessions.
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
from examples.portal.deployment import Deployment
from sealedstate import PROFILES, ConfigurationError, OperatorError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# This machine only: the portal signs in anybody, over plain http.
HOST = "127.0.0.1"
USUAL_PORT = 8000
THREADS = 8


def main() -> int:
    """Serve until Ctrl-C."""
    given = _arguments()
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a request waited a moment
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it like Ctrl-C
    try:
        application = make_application(Deployment(given.var), given.profile)
        server = _server(application, given.port)
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"The portal can't start: {error}", file=sys.stderr)
        return 1
    print(f"Open http://{HOST}:{server.effective_port}/  (Ctrl-C stops the portal)", flush=True)
    server.run()  # returns on Ctrl-C, when the requests under way are answered
    server.close()
    print("\nStopped.")
    return 0


def _arguments() -> argparse.Namespace:
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


def _server(application: WSGIApplication, port: int | None) -> Any:
    """A waitress server that listens already. Raises OSError for a port that can't be had."""
    try:
        return _listen(application, USUAL_PORT if port is None else port)
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        return _listen(application, 0)


def _listen(application: WSGIApplication, port: int) -> Any:
    return create_server(application, host=HOST, port=port, threads=THREADS, ident=None)


if __name__ == "__main__":
    sys.exit(main())
