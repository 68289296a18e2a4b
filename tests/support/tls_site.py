"""A WSGI application behind TLS on this machine, and how a browser reaches it by its name."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

HOST = "app.example.test"
# Debian's Chromium binds sessions with keys in software, and only behind a certificate that it
# knows by its key.
_FEATURES = (
    # Otherwise it signs six times in nine minutes at most.
    "DeviceBoundSessions:RefreshQuota/false",
    "EnableBoundSessionCredentialsSoftwareKeysForManualTesting",
    "UseUnexportableKeyServiceInBrowserProcess",
)


@dataclass(frozen=True)
class TlsSite:
    """`url`: its origin. `spki`: the SHA-256 of its public key, as base64."""

    url: str
    spki: str

    @property
    def browser_arguments(self) -> list[str]:
        """With which Chromium reaches it, and binds its sessions."""
        return [
            f"--ignore-certificate-errors-spki-list={self.spki}",
            f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
            f"--enable-features={','.join(_FEATURES)}",
        ]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Tests read no log of requests."""


@contextlib.contextmanager
def serve_tls(application: WSGIApplication, folder: Path) -> Iterator[TlsSite]:
    """Serve `application` on a free port. `folder`: for its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = folder / "site.pem"
    path.write_bytes(
        key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem)
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = make_server("127.0.0.1", 0, application, _Server, _Handler)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        spki = base64.b64encode(hashlib.sha256(public).digest()).decode()
        yield TlsSite(f"https://{HOST}:{server.server_port}", spki)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
