"""Device-bound sessions: a session opens only in the browser that has its key (experimental).

The server's side of Device Bound Session Credentials, a draft of the W3C
(https://w3c.github.io/webappsec-dbsc/), without any state on the server:

    sign-in       -> Secure-Session-Registration: the path, and a challenge
    POST register <- a proof (JWT, ES256) of the challenge, by a key that the browser has made
                  -> the session with the public key in its sealed core, under a new id; and the
                     bound cookie, which lives for minutes
    POST refresh  <- nothing, when the bound cookie has expired
                  -> 403 and Secure-Session-Challenge
    POST refresh  <- a proof of that challenge, by the key of the session
                  -> the bound cookie

`_request.load` opens a bound session only with its bound cookie. A challenge is a sealed token of
one session id and one key, and counts for CHALLENGE_SECONDS; with a store, once. A browser that
does not speak this ignores the first header, and nothing changes for its sessions.

Every adapter answers under the setting `binding_path` by one `SessionBinding`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, TypeAlias

from ._request.load import LoadedSession
from ._stored.table import Kind
from ._wire.encoding import to_name
from ._wire.record import DEVICE
from .errors import ConfigurationError, NoPrimaryKey, OutcomeUnknown, StorageError, UnreadableError
from .keeper import Keeper
from .keyring import length_prefixed
from .session import Session, id_bytes

__all__ = ["BindingAnswer", "SessionBinding", "open_binding"]

KIND = Kind("sealedstate.binding", "binding", "a challenge", is_sealed=False)
CLAIM_BYTES, NAME_BYTES = 16, 15
# A browser answers at once; a replay without a store is bounded by this.
CHALLENGE_SECONDS = 60
# What browsers send is a third of it.
MAX_PROOF_CHARS = 2048
MAX_CHALLENGE_CHARS = 256
COORDINATE_BYTES = 32
SIGNATURE_BYTES = 64

Reason: TypeAlias = Literal["malformed", "key", "challenge", "signature", "session", "replayed"]
Header: TypeAlias = Callable[[str], str | None]
"""The value of a header field of the request, by its name in small letters."""

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ANSWERS = ("secure-session-response", "sec-session-response")


class _Refused(Exception):
    """A proof that proves nothing."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BindingAnswer:
    """A response to a browser: status, header fields, body."""

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


class Proof(NamedTuple):
    """A JWT of a browser, well-formed and not verified.

    `signed`: what its `signature` (r and s, 32 bytes each) covers. `challenge`: its jti. `key`: the
    public key in its header (a point of P-256, compressed), if there is one.
    """

    signed: bytes
    signature: bytes
    challenge: str
    key: bytes | None

    def __repr__(self) -> str:
        return "<Proof>"


class SessionBinding:
    """Answers browsers that bind sessions to a key, for any framework.

    An adapter calls `answer` for each request whose path `is_for` knows, saves the session with
    that answer, and adds the fields of `offer` to all other responses. `path`: the setting
    `binding_path`. Raises ConfigurationError without that setting or the package cryptography, or
    if the store falls short of the requirements of ``binding``.
    """

    def __init__(self, keeper: Keeper) -> None:
        deployment, path = keeper.deployment, keeper.settings.binding_path
        if path is None:
            raise ConfigurationError("binding_path: must be set to bind sessions")
        if find_spec("cryptography") is None:
            raise ConfigurationError(
                "binding_path: needs the package cryptography; install sealedstate[binding]"
            )
        self.path = path
        self._deployment, self._subject_key = deployment, keeper.settings.subject_key
        self._register, self._refresh = f"{path}/register", f"{path}/refresh"
        self._lifetime = keeper.settings.bound_lifetime
        self._table = None
        if deployment.store is not None:
            deployment.require("binding")
            self._table = deployment.table(KIND)

    def is_for(self, path: str) -> bool:
        """Whether a request of this path is answered here. `path`: as the browser sees it."""
        return path == self._register or path == self._refresh

    def offer(self, session: Session) -> list[tuple[str, str]]:
        """The header fields that offer the browser to bind this session.

        None, unless this request has signed a user in. Raises UnsupportedValue for a part that
        should name a user and does not.
        """
        if session.backend is None and not session.has_signed_in:
            return []
        if self._subject_key is not None and session.is_touched:
            session.follow_subject(self._subject_key)
        if not session.has_signed_in or session.subject is None or session.is_bound:
            return []
        try:
            challenge = self._seal_challenge(id_bytes(session), b"")
        except NoPrimaryKey:
            return []  # the save says so
        offer = f'(ES256);path="{self._register}";challenge="{challenge}"'
        return [("Secure-Session-Registration", offer)]

    def answer(self, session: Session, method: str, path: str, header: Header) -> BindingAnswer:
        """The answer to a request under `path`; it may change `session`, which is saved with it."""
        if method != "POST":
            return _answer(405, fields=[("Allow", "POST")])
        loaded = session.load()
        if not isinstance(loaded, LoadedSession):
            raise TypeError("session: expected a session of this keeper")
        # Another moment or another node may know better, so the browser shall keep its key.
        if loaded.withheld is not None and loaded.unbound is None:
            return _answer(503)
        # The browser's name of the binding, one for each host and cookie: a new sign-in takes the
        # place of the old, and hosts of one site do not meet.
        cookie = self._deployment.cookies.name
        message = length_prefixed("sealedstate/1", "binding", header("host") or "", cookie)
        name = to_name(hashlib.blake2b(message, digest_size=NAME_BYTES).digest())
        text = next(filter(None, map(header, _ANSWERS)), None)
        try:
            if path == self._register:
                return self._bind(session, name, text)
            return self._renew(loaded, name, text)
        except (StorageError, NoPrimaryKey):
            return _answer(503)

    # --- the two requests -----------------------------------------------------------------------

    def _bind(self, session: Session, name: str, text: str | None) -> BindingAnswer:
        deployment, before = self._deployment, id_bytes(session)
        try:
            # A key is registered once: another would let in whoever has copied the cookie.
            if session.subject is None or session.is_bound:
                raise _Refused("session")
            proof = read_proof(text)
            if proof.key is None:
                raise _Refused("key")
            self._verify(proof, before, b"", proof.key)
        except _Refused as error:
            deployment.emit("proof-refused", error.reason, session_id=before)
            return _answer(403)
        session.bind_device(proof.key)
        earlier = "is refused from now on"
        if deployment.store is None:
            earlier = "opens until it expires, because there is no store to refuse it"
        deployment.emit(
            "bound", session_id=id_bytes(session), detail=f"a cookie from before {earlier}"
        )
        return self._confirm(name, proof.key)

    def _renew(self, loaded: LoadedSession, name: str, text: str | None) -> BindingAnswer:
        record = loaded.unbound or loaded.record
        if record is None or DEVICE not in record.fields:
            # Signed out, or signed in again: the key is of no more use.
            return _answer(200, {"session_identifier": name, "continue": False})
        device = record.fields[DEVICE]
        if text is not None:
            try:
                self._verify(read_proof(text), record.id, device, device)
            except _Refused as error:
                self._deployment.emit("proof-refused", error.reason, session_id=record.id)
                # Late, or for the id of before: the browser may try once more.
                if error.reason not in ("challenge", "replayed"):
                    return _answer(403)
            else:
                self._deployment.emit("bound-renewed", session_id=record.id)
                return self._confirm(name, device)
        challenge = self._seal_challenge(record.id, device)
        field = ("Secure-Session-Challenge", f'"{challenge}";id="{name}"')
        return _answer(403, fields=[field])

    def _confirm(self, name: str, device: bytes) -> BindingAnswer:
        """What the browser is to do, and the bound cookie."""
        deployment = self._deployment
        cookies, now = deployment.cookies, int(deployment.now())
        text = deployment.codec.seal_bound(device, deployment.keyring().sealing_time(now))
        # Renewed before it ends here, whatever the way takes.
        line = cookies.set_line(cookies.bound_name, text, self._lifetime - self._lifetime // 5)
        credential = {
            "type": "cookie",
            "name": cookies.bound_name,
            "attributes": cookies.attributes,
        }
        document = {
            "session_identifier": name,
            "refresh_url": self._refresh,
            "scope": {"include_site": False, "scope_specification": []},
            "credentials": [credential],
        }
        return _answer(200, document, [("Set-Cookie", line)])

    # --- proofs ---------------------------------------------------------------------------------

    def _verify(self, proof: Proof, session_id: bytes, device: bytes, key: bytes) -> None:
        """Raise _Refused unless `key` has signed a challenge that counts now.

        `session_id` and `device`: what the challenge was sealed for. Raises StorageError.
        """
        deployment = self._deployment
        now = int(deployment.now())
        try:
            # First, because it takes a tenth of the time of the signature.
            sealed_at = deployment.codec.open_challenge(proof.challenge, session_id, device, now)
        except UnreadableError:
            raise _Refused("challenge") from None
        ahead = 2 * deployment.settings.skew
        if not sealed_at - ahead <= now < sealed_at + CHALLENGE_SECONDS:
            raise _Refused("challenge")
        if not is_signed(proof, key):
            raise _Refused("signature")
        if self._table is None:
            return
        expires_at = (sealed_at + CHALLENGE_SECONDS + 2 * ahead) * 1000
        claim = deployment.random(CLAIM_BYTES)
        try:
            if self._table.create(self._table.key(proof.challenge), claim, expires_at):
                return
        except OutcomeUnknown:
            pass  # perhaps another request was first
        raise _Refused("replayed")

    def _seal_challenge(self, session_id: bytes, device: bytes) -> str:
        deployment = self._deployment
        now = deployment.keyring().sealing_time(int(deployment.now()))
        return deployment.codec.seal_challenge(session_id, device, now)


def open_binding(keeper: Keeper) -> SessionBinding | None:
    """The binding of a keeper; None without the setting `binding_path`. For adapters.

    Raises ConfigurationError.
    """
    return None if keeper.settings.binding_path is None else SessionBinding(keeper)


def read_proof(text: str | None) -> Proof:
    """A browser's JWT (RFC 7519), in one spelling and within its sizes. Raises _Refused."""
    if text is None or len(text) > MAX_PROOF_CHARS:
        raise _Refused("malformed")
    # A string of structured fields (RFC 9651), or as it is: browsers have sent both.
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    segments = text.split(".")
    if len(segments) != 3:
        raise _Refused("malformed")
    header, claims = _read_json(segments[0]), _read_json(segments[1])
    if header.get("typ") != "dbsc+jwt" or header.get("alg") != "ES256" or "crit" in header:
        raise _Refused("malformed")
    challenge = claims.get("jti")
    if type(challenge) is not str or not 0 < len(challenge) <= MAX_CHALLENGE_CHARS:
        raise _Refused("malformed")
    signature = _read_base64(segments[2])
    if len(signature) != SIGNATURE_BYTES:
        raise _Refused("malformed")
    key = _read_key(header["jwk"]) if "jwk" in header else None
    signed = f"{segments[0]}.{segments[1]}".encode()
    return Proof(signed, signature, challenge, key)


def is_signed(proof: Proof, key: bytes) -> bool:
    """Whether `key` (a point of P-256, compressed) has signed the proof."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    r, s = (
        int.from_bytes(proof.signature[start : start + COORDINATE_BYTES], "big")
        for start in (0, COORDINATE_BYTES)
    )
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        signature = utils.encode_dss_signature(r, s)
        public.verify(signature, proof.signed, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):  # no point of the curve; or not its signature
        return False
    return True


def _read_key(jwk: Any) -> bytes:
    """The point of an EC key (RFC 7518, 6.2), compressed. Raises _Refused."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if type(jwk) is not dict or jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or "d" in jwk:
        raise _Refused("key")
    point = b"\x04"
    for name in ("x", "y"):
        text = jwk.get(name)
        number = _read_base64(text) if type(text) is str else b""
        if len(number) != COORDINATE_BYTES:
            raise _Refused("key")
        point += number
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:  # it is not on the curve
        raise _Refused("key") from None
    form = serialization.PublicFormat.CompressedPoint
    return public.public_bytes(serialization.Encoding.X962, form)


def _read_json(text: str) -> dict[str, Any]:
    """The JSON object of one segment; each name is there once. Raises _Refused."""
    try:
        # NaN and Infinity, which are no JSON, raise ValueError as they do in `int`.
        found = json.loads(
            _read_base64(text).decode(), object_pairs_hook=_unique, parse_constant=int
        )
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a name twice, too deep
        raise _Refused("malformed") from None
    if type(found) is not dict:
        raise _Refused("malformed")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _read_base64(text: str) -> bytes:
    """The bytes of a base64url text without padding, in its only spelling. Raises _Refused."""
    if _SEGMENT.fullmatch(text) is None:
        raise _Refused("malformed")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise _Refused("malformed") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise _Refused("malformed")
    return data


def _answer(
    status: int, document: Any = None, fields: list[tuple[str, str]] | None = None
) -> BindingAnswer:
    body = b"" if document is None else json.dumps(document).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return BindingAnswer(status, (*headers, *(fields or ())), body)
