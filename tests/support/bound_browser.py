"""A browser that binds its sessions: what Chromium sends, with a key of cryptography."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

REGISTER = "/session-binding/register"
REFRESH = "/session-binding/refresh"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class DeviceKey:
    """A key pair that signs challenges."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self._private.public_key().public_numbers()
        x, y = (base64url(each.to_bytes(32, "big")) for each in (numbers.x, numbers.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    def prove(
        self,
        challenge: str,
        *,
        is_new: bool = False,
        header: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """The JWT of a challenge. `is_new`: with the public key. `header`, `claims`: changes."""
        first: dict[str, Any] = {"alg": "ES256", "typ": "dbsc+jwt"}
        if is_new:
            first["jwk"] = self.jwk
        segments = [
            base64url(json.dumps(each, separators=(",", ":")).encode())
            for each in (first | dict(header or {}), {"jti": challenge} | dict(claims or {}))
        ]
        return self.sign(".".join(segments))

    def sign(self, signed: str) -> str:
        """`signed` and its signature, r and s of 32 bytes each."""
        der = self._private.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        return f"{signed}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def challenge_of(field: str) -> str:
    """The challenge of a Secure-Session-Registration or Secure-Session-Challenge field."""
    return field.partition('challenge="')[2].partition('"')[0] or field.split('"')[1]
