"""How members receive and send SAML messages: strictly.

What the `receive_*` methods return is authentic, meant for this member, fresh, and received for the
first time. pysaml2 alone accepts what is refused here: responses to a logout whose redirect is
unsigned, unsigned logout requests at a service, messages that are a day old.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.parsers.expat import ExpatError

import requests
from saml2 import BINDING_HTTP_REDIRECT, SAMLError, samlp

from sealedstate.sso import ReplayCache

from .federation import Member
from .signed_query import MAX_BYTES, BadQuery, decode_base64, read_query
from .xml_text import SOAP, MalformedXML, extract_only_child, wrap_in_envelope

# Seconds that a message may be old, or ahead.
FRESH = 300
# Seconds to wait for an answer by SOAP. A service that sends the identity provider a logout request
# waits longer: meanwhile the identity provider asks the other services.
SOAP_SECONDS = 8
SOAP_PATIENCE = 30
SOAP_HEADERS = {
    "Content-Type": "text/xml; charset=utf-8",
    "SOAPAction": '"http://www.oasis-open.org/committees/security"',
}
# pysaml2's names of the messages.
KINDS = {
    "AuthnRequest": "authn_request",
    "LogoutRequest": "logout_request",
    "LogoutResponse": "logout_response",
    "ArtifactResolve": "artifact_resolve",
    "ArtifactResponse": "artifact_response",
}
# What a member accepts by redirect at its logout address, by parameter.
LOGOUT_KINDS = {"SAMLRequest": "LogoutRequest", "SAMLResponse": "LogoutResponse"}
# What pysaml2 and its parsers raise for malformed texts; ParseError is a SyntaxError.
PARSE_ERRORS = (
    SAMLError,
    SyntaxError,
    ExpatError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
)

_log = logging.getLogger(__name__)


class Refused(Exception):
    """A message that is not acted upon. The text is for people, and repeats nothing of it."""


class NoAnswer(Exception):
    """Another member sent no answer, or one that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that may be acted upon: pysaml2's object of it, its XML, and its sender."""

    kind: str
    message: Any = field(repr=False)
    xml: str = field(repr=False)
    issuer: str
    relay_state: str = field(default="", repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether a response reports success, and in full."""
        code = self.message.status.status_code
        return code.value == samlp.STATUS_SUCCESS and code.status_code is None


class Messages:
    """The messages of `member`. `entity`: pysaml2's object for it; `clock`: epoch seconds."""

    def __init__(
        self, entity: Any, member: Member, replays: ReplayCache, clock: Callable[[], float]
    ) -> None:
        self.entity = entity
        self.member = member
        self.clock = clock
        self._replays = replays

    # --- receiving ------------------------------------------------------------------------------

    def receive_redirect(self, query: str, kinds: Mapping[str, str], path: str) -> Received:
        """A message by redirect; `kinds` by parameter, such as SAMLRequest. Raises Refused."""
        try:
            found = read_query(query)
        except BadQuery as error:
            raise Refused(str(error)) from None
        kind = kinds.get(found.parameter)
        if kind is None:
            raise Refused("this address does not accept such messages")
        message = _parse(found.xml, kind)
        issuer = _issuer(message)
        try:
            certificates = self.entity.metadata.certs(issuer, "any", "signing")
        except KeyError:
            raise Refused("the sender of the message is unknown") from None
        # The signature is that of the query: the XML within need not be signed.
        if not found.is_signed_by("".join(text.split()) for _, text in certificates):
            raise Refused("the message carries no valid signature")
        received = Received(kind, message, found.xml, issuer, found.relay_state)
        return self._admit(received, path, must_have_destination=True)

    def receive_form(self, form: Mapping[str, str], kind: str, path: str) -> Received:
        """A request by POST. Raises Refused."""
        try:
            xml = decode_base64(form.get("SAMLRequest", "")).decode()
        except (BadQuery, UnicodeDecodeError):
            raise Refused("the form carries no message") from None
        received = self._verify(xml, kind, form.get("RelayState", ""))
        return self._admit(received, path, must_have_destination=True)

    def receive_soap(self, body: bytes, kind: str, path: str | None) -> Received:
        """A message by SOAP, sent to `path`; None for the answer to our request. Raises Refused."""
        try:
            xml = extract_only_child(body, SOAP, "Body")
        except MalformedXML as error:
            raise Refused(str(error)) from None
        return self._admit(self._verify(xml, kind), path, must_have_destination=False)

    def admit_once(self, issuer: str, message_id: str, expires_at: float) -> None:
        """Remember an id until it expires. Raises Refused if it is known, or has expired."""
        if not self._replays.admit(issuer, message_id, expires_at):
            raise Refused("the message was used before, or is out of date")

    def _verify(self, xml: str, kind: str, relay_state: str = "") -> Received:
        """A message whose XML signature is valid."""
        if len(xml) > MAX_BYTES:
            raise Refused("the message is too long")
        _parse(xml, kind)
        try:
            message = self.entity.sec.correctly_signed_message(
                xml, KINDS[kind], must=True, origdoc=xml
            )
        except PARSE_ERRORS as error:
            _log.info("a message is refused: %s", type(error).__name__)
            raise Refused("the message carries no valid signature") from None
        return Received(kind, message, xml, _issuer(message), relay_state)

    def _admit(self, received: Received, path: str | None, must_have_destination: bool) -> Received:
        """An authentic message, unless it was meant for another member, is old, or a replay."""
        message = received.message
        # Otherwise one service could pass on to another what it received itself.
        here = "" if path is None else self.member.at(path)
        if (message.destination or must_have_destination) and message.destination != here:
            raise Refused("the message is meant for another address")
        if message.version != "2.0":
            raise Refused("the message is not of SAML 2.0")
        # The replay cache remembers an id for as long as its message is fresh, and no longer.
        issued_at = parse_instant(message.issue_instant)
        if abs(self.clock() - issued_at) > FRESH:
            raise Refused("the message is out of date")
        self.admit_once(received.issuer, message.id, issued_at + FRESH)
        return received

    # --- sending --------------------------------------------------------------------------------

    def sign_redirect(self, xml: str, destination: str, relay_state: str, response: bool) -> str:
        """The address that sends a browser on with a message, in a signed query string."""
        info = self.entity.apply_binding(
            BINDING_HTTP_REDIRECT, xml, destination, relay_state, response=response, sign=True
        )
        return str(dict(info["headers"])["Location"])

    def ask(
        self, xml: str, destination: str, request_id: str, kind: str, seconds: float = SOAP_SECONDS
    ) -> Received:
        """Send a signed request by SOAP; its answer, of `kind`. Raises NoAnswer."""
        try:
            answer = _post(destination, wrap_in_envelope(xml), seconds)
            received = self.receive_soap(answer, kind, None)
        except (requests.RequestException, Refused) as error:
            _log.warning("no answer from %s: %s", destination, type(error).__name__)
            raise NoAnswer(f"no answer from {destination}") from error
        if received.message.in_response_to != request_id:
            raise NoAnswer(f"{destination} answered another request")
        return received


def form_fields(xml: str, relay_state: str, response: bool) -> dict[str, str]:
    """The fields of a form that carries a message, which is signed itself."""
    name = "SAMLResponse" if response else "SAMLRequest"
    fields = {name: base64.b64encode(xml.encode()).decode()}
    return fields | ({"RelayState": relay_state} if relay_state else {})


def parse_instant(instant: str | None) -> float:
    """Epoch seconds of an xs:dateTime in UTC. Raises Refused."""
    try:
        moment = datetime.fromisoformat(instant or "")
    except ValueError:
        raise Refused("the message has no date") from None
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=UTC)  # SAML's times are UTC, with or without a Z
    return moment.timestamp()


def _post(destination: str, envelope: str, seconds: float) -> bytes:
    with requests.Session() as http:
        http.trust_env = False  # no proxy is between members on this machine
        answer = http.post(
            destination,
            envelope.encode(),
            headers=SOAP_HEADERS,
            timeout=seconds,
            allow_redirects=False,
        )
        answer.raise_for_status()
        return bytes(answer.content)


def _parse(xml: str, kind: str) -> Any:
    try:
        message = getattr(samlp, f"{KINDS[kind]}_from_string")(xml)
    except PARSE_ERRORS:
        message = None
    if message is None or not _issuer(message) or not message.id:
        raise Refused(f"it is not a well-formed {kind}")
    return message


def _issuer(message: Any) -> str:
    issuer = message.issuer
    return "" if issuer is None else (issuer.text or "").strip()
