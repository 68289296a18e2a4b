"""A WSGI application over https on this machine, and Chromium that binds its sessions."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Keys in software, for machines without hardware that keeps them. A browser for daily use needs
# none of these.
FEATURES = (
    "DeviceBoundSessions:RefreshQuota/false",
    "EnableBoundSessionCredentialsSoftwareKeysForManualTesting",
    "UseUnexportableKeyServiceInBrowserProcess",
)


class HttpsSite(NamedTuple):
    """`url`: the origin. `spki`: the SHA-256 of its public key, as base64."""

    url: str
    spki: str

    @property
    def browser_arguments(self) -> list[str]:
        """With which Chromium reaches the site, trusts its certificate and binds sessions."""
        host = self.url.removeprefix("https://").partition(":")[0]
        return [
            # With --ignore-certificate-errors it would bind nothing.
            f"--ignore-certificate-errors-spki-list={self.spki}",
            f"--host-resolver-rules=MAP {host} 127.0.0.1",
            f"--enable-features={','.join(FEATURES)}",
        ]


@contextlib.contextmanager
def serve_https(
    application: WSGIApplication, host: str, port: int, folder: Path
) -> Iterator[HttpsSite]:
    """Serve on `port` (0: any that is free) while the block runs. `folder`: of the certificate."""
    path, spki = make_certificate(host, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = make_server("127.0.0.1", port, _as_https(application), _Server, _Handler)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield HttpsSite(f"https://{host}:{server.server_port}", spki)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(host: str, folder: Path) -> tuple[Path, str]:
    """A certificate and its key in one file, and the SHA-256 of the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = folder / "site.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem)
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return path, base64.b64encode(hashlib.sha256(public).digest()).decode()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The page shows what happens."""


def _as_https(application: WSGIApplication) -> Callable[..., Any]:
    """wsgiref does not see that its socket speaks TLS."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        environ["wsgi.url_scheme"] = "https"
        return application(environ, start_response)

    return call
