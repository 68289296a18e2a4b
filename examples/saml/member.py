"""One member of the federation as a process: `python examples/saml` starts four of them."""

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
# Where the identity provider keeps service logins, and the policy of that part.
LOGINS = {"store": "server", "cookie": "auto"}


def main() -> int:
    """Serve until a signal ends the process."""
    options = _parse_arguments()
    logging.basicConfig(format=f"{options.name}: %(levelname)s %(name)s: %(message)s")
    for noisy in ("saml2", "waitress.queue"):  # we log what is refused
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listener = socket.socket(fileno=options.socket)
    try:
        application = _make_application(options, federation_at(options.ports))
    except KeyboardInterrupt:
        return 0  # stopped while it was starting
    except (ConfigurationError, OperatorError, OSError) as error:
        print(f"{options.name} can't start: {error}", file=sys.stderr)
        return 1
    server = create_server(application, sockets=[listener], threads=THREADS, ident=None)
    server.run()
    server.close()
    return 0


def _make_application(options: argparse.Namespace, federation: Federation) -> WSGIApplication:
    # Imported here, since a member is either an identity provider or a service.
    if options.name == federation.idp.name:
        from examples.saml.idp.resources import IdPResources
        from examples.saml.idp.site import IdentityProvider

        return IdentityProvider(IdPResources(options.var, federation, LOGINS[options.logins]))
    from examples.saml.sp.resources import ServiceResources
    from examples.saml.sp.site import ServiceProvider

    service = federation.service(options.name)
    return ServiceProvider(ServiceResources(options.var, federation, service))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One member of the federation.")
    parser.add_argument("name")
    parser.add_argument("--var", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True, help="an inherited, bound socket")
    parser.add_argument("--logins", choices=LOGINS, default="store")
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
