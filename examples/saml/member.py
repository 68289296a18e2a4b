"""One member of the federation as a process: `python examples/saml` starts four of them.

Knows a listening socket and who to be. Does not know what a member does.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from waitress.server import create_server

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.saml.federation import Federation, federation_at
from sealedstate import ConfigurationError, OperatorError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

THREADS = 8
# Where the identity provider keeps service logins, and the policy that does it.
LOGINS = {"store": "server", "cookie": "auto"}


def main() -> int:
    """Serve until a signal says that it is enough."""
    given = _arguments()
    logging.basicConfig(format=f"{given.name}: %(levelname)s %(name)s: %(message)s")
    for noisy in ("saml2", "waitress.queue"):  # what is refused is told by us, once
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listener = socket.socket(fileno=given.socket)
    try:
        application = _application(given, federation_at(given.ports))
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"{given.name} can't start: {error}", file=sys.stderr)
        return 1
    server = create_server(application, sockets=[listener], threads=THREADS, ident=None)
    server.run()
    server.close()
    return 0


def _application(given: argparse.Namespace, federation: Federation) -> WSGIApplication:
    # Imported here: each member is one of them, and never both.
    if given.name == federation.idp.name:
        from examples.saml.idp.deployment import Deployment
        from examples.saml.idp.site import IdentityProvider

        return IdentityProvider(Deployment(given.var, federation, LOGINS[given.logins]))
    from examples.saml.sp.deployment import Deployment as ServiceDeployment
    from examples.saml.sp.site import ServiceProvider

    service = federation.service(given.name)
    return ServiceProvider(ServiceDeployment(given.var, federation, service))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One member of the federation.")
    parser.add_argument("name")
    parser.add_argument("--var", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True, help="an inherited, bound socket")
    parser.add_argument("--logins", choices=LOGINS, default="store")
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
