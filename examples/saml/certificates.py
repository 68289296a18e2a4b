"""A key and a self-signed certificate for each member, made at the first start.

In SAML metadata a certificate only carries a public key: its names and dates are not checked.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

RSA_BITS = 2048
LIFETIME = timedelta(days=3650)


def key_file(var: Path, name: str) -> Path:
    return var / "keys" / f"{name}.key"


def certificate_file(var: Path, name: str) -> Path:
    return var / "keys" / f"{name}.crt"


def make_key(var: Path, name: str) -> None:
    """Make the key and certificate of one member, unless they exist."""
    if certificate_file(var, name).exists():
        return
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(key_file(var, name), secret)
    # Written last: if it exists, the key is complete.
    certificate = _sign_certificate(key, name)
    certificate_file(var, name).write_bytes(certificate.public_bytes(Encoding.PEM))


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _sign_certificate(key: rsa.RSAPrivateKey, name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.example.org")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .sign(key, hashes.SHA256())
    )
