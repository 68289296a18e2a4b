"""A browser that binds its sessions: what Chromium sends, with a key of cryptography."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from sealedstate import Keeper, Session
from sealedstate.binding import BindingAnswer, SessionBinding
from tests.support.jar import Jar

REGISTER = "/session-binding/register"
REFRESH = "/session-binding/refresh"
BOUND_GONE = "__Host-s-bound=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"


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


class BoundBrowser:
    """A browser that binds its sessions, at one node."""

    def __init__(self, keeper: Keeper, jar: Jar | None = None) -> None:
        self.keeper, self.binding = keeper, SessionBinding(keeper)
        self.jar = Jar() if jar is None else jar
        self.key = DeviceKey()
        self.host = "app.example.test"

    def session(self) -> Session:
        return self.keeper.session(self.jar.header())

    def visit(self, change: Callable[[Session], object] = lambda session: session.subject) -> str:
        """A request; the challenge of its offer to bind the session, if it has one."""
        session = self.session()
        change(session)
        offer = self.binding.offer(session)
        self.jar.receive(self.keeper.save(session))
        return challenge_of(offer[0][1]) if offer else ""

    def sign_in(self, subject: str = "ann") -> str:
        return self.visit(lambda session: setattr(session, "subject", subject))

    def post(self, path: str, proof: str | None = None, method: str = "POST") -> BindingAnswer:
        """A request of the browser itself, whose answer it takes."""
        session = self.session()
        fields = {"host": self.host, "secure-session-response": proof}
        answer = self.binding.answer(session, method, path, fields.get)
        lines = [value for name, value in answer.headers if name == "Set-Cookie"]
        self.jar.receive([*lines, *self.keeper.save(session)])
        return answer

    def register(self, challenge: str) -> BindingAnswer:
        return self.post(REGISTER, self.key.prove(challenge, is_new=True))

    def ask(self) -> str:
        """The challenge of a request for a new bound cookie."""
        answer = self.post(REFRESH)
        assert answer.status == 403
        return challenge_of(dict(answer.headers)["Secure-Session-Challenge"])

    def refresh(self) -> BindingAnswer:
        return self.post(REFRESH, self.key.prove(self.ask()))

    def steal(self, *, with_bound: bool = False) -> BoundBrowser:
        """Another browser with the session cookie, and perhaps with the bound cookie."""
        jar = self.jar.copy()
        if not with_bound:
            jar.receive([BOUND_GONE])
        return BoundBrowser(self.keeper, jar)


def bound(keeper: Keeper) -> BoundBrowser:
    """A browser that has signed in and bound its session."""
    browser = BoundBrowser(keeper)
    assert browser.register(browser.sign_in()).status == 200
    return browser
