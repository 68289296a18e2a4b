"""A message in a signed query string (SAML's redirect binding), read strictly.

The signature covers the octets as they were sent. Source: saml-bindings-2.0-os, 3.4.4.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_plus

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_der_x509_certificate
from saml2.xmldsig import SIG_RSA_SHA256

MAX_BYTES = 65_536


class BadQuery(ValueError):
    """A query string that carries no message, or more than one, or one that is too long."""


@dataclass(frozen=True, slots=True)
class SignedQuery:
    """`parameter` is SAMLRequest or SAMLResponse; `signed` is what the signature covers."""

    parameter: str
    xml: str
    relay_state: str
    signed: bytes
    signature: bytes
    algorithm: str

    def is_signed_by(self, certificates: Iterable[str]) -> bool:
        """Whether one of the certificates (DER in base64) holds the key of the signature."""
        if self.algorithm != SIG_RSA_SHA256 or not self.signature:
            return False
        for certificate in certificates:
            key = load_der_x509_certificate(base64.b64decode(certificate)).public_key()
            if not isinstance(key, RSAPublicKey):
                continue
            try:
                key.verify(self.signature, self.signed, PKCS1v15(), SHA256())
            except InvalidSignature:
                continue
            return True
        return False


def read_query(query: str) -> SignedQuery:
    """The message of a query string, its signature not yet verified. Raises BadQuery."""
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    raw = {name: value for name, _, value in pairs}
    if len(raw) != len(pairs):
        raise BadQuery("a parameter occurs twice")
    parameters = [name for name in ("SAMLRequest", "SAMLResponse") if name in raw]
    if len(parameters) != 1:
        raise BadQuery("a query must hold exactly one message")
    parameter = parameters[0]
    # As they were sent: decoded and encoded again they could be other octets.
    covered = [name for name in (parameter, "RelayState", "SigAlg") if name in raw]
    return SignedQuery(
        parameter,
        inflate(unquote_plus(raw[parameter])),
        unquote_plus(raw.get("RelayState", "")),
        "&".join(f"{name}={raw[name]}" for name in covered).encode(),
        decode_base64(unquote_plus(raw.get("Signature", ""))),
        unquote_plus(raw.get("SigAlg", "")),
    )


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 text. Raises BadQuery."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadQuery("the text is not base64") from None


def inflate(text: str) -> str:
    """The XML of a parameter. Raises BadQuery, also for more than MAX_BYTES of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(decode_base64(text), MAX_BYTES)
        if not inflater.eof:
            raise BadQuery("the message is cut short, or too long")
        return data.decode()
    except (zlib.error, UnicodeDecodeError):
        raise BadQuery("the message is not deflated text") from None
