"""A message in a signed query string, as SAML's redirect binding has it, read strictly.

Knows URLs, DEFLATE and RSA signatures over octets as they were sent. Does not know what a message
says. Source: saml-bindings-2.0-os, 3.4.4.
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

MOST_BYTES = 65_536


class BadQuery(ValueError):
    """A query string that carries no message, or more than one, or one that is too long."""


@dataclass(frozen=True, slots=True)
class SignedQuery:
    """`parameter` is SAMLRequest or SAMLResponse; `signed` what the signature covers."""

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
        return any(self._verifies(text) for text in certificates)

    def _verifies(self, certificate: str) -> bool:
        key = load_der_x509_certificate(base64.b64decode(certificate)).public_key()
        if not isinstance(key, RSAPublicKey):
            return False
        try:
            key.verify(self.signature, self.signed, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


def read_query(query: str) -> SignedQuery:
    """The message of a query string. Raises BadQuery; whether its signature is good, is another
    question."""
    raw = _raw_fields(query)
    parameters = [name for name in ("SAMLRequest", "SAMLResponse") if name in raw]
    if len(parameters) != 1:
        raise BadQuery("a query holds one message")
    parameter = parameters[0]
    covered = [name for name in (parameter, "RelayState", "SigAlg") if name in raw]
    return SignedQuery(
        parameter,
        inflated(unquote_plus(raw[parameter])),
        unquote_plus(raw.get("RelayState", "")),
        "&".join(f"{name}={raw[name]}" for name in covered).encode(),
        decoded(unquote_plus(raw.get("Signature", ""))),
        unquote_plus(raw.get("SigAlg", "")),
    )


def decoded(text: str) -> bytes:
    """What base64 says. Raises BadQuery."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadQuery("that is no base64") from None


def inflated(text: str) -> str:
    """The XML of a parameter. Raises BadQuery, also for what would grow without end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(decoded(text), MOST_BYTES)
        if not inflater.eof:
            raise BadQuery("the message is cut, or too long")
        return data.decode()
    except (zlib.error, UnicodeDecodeError):
        raise BadQuery("the message is not deflated text") from None


def _raw_fields(query: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    fields = {name: value for name, _, value in pairs}
    if len(fields) != len(pairs):
        raise BadQuery("a parameter stands twice")
    return fields
