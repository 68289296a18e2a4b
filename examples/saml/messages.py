"""The SAML messages that a member hears, each read strictly, and how those that it says travel.

Knows signatures, addresses, ages and replays: what `from_*` gives is authentic, meant for us, fresh
and there for the first time. Does not know what a message is made of, sessions or pages.

pysaml2 by itself lets pass what is refused here: responses to a logout whose redirect nobody has
signed, unsigned logout requests at a service, messages that are a day old.
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
from .signed_query import MOST_BYTES, BadQuery, decoded, read_query
from .xml_text import SOAP, MalformedXML, enveloped, only_child

# Seconds that a message may be old, or ahead.
FRESH = 300
# Seconds to wait for an answer by SOAP. Who asks the identity provider waits while it asks others.
SOAP_SECONDS = 8
SOAP_PATIENCE = 30
SOAP_HEADERS = {
    "Content-Type": "text/xml; charset=utf-8",
    "SOAPAction": '"http://www.oasis-open.org/committees/security"',
}
# By what pysaml2 calls them.
KINDS = {
    "AuthnRequest": "authn_request",
    "LogoutRequest": "logout_request",
    "LogoutResponse": "logout_response",
    "ArtifactResolve": "artifact_resolve",
    "ArtifactResponse": "artifact_response",
}
# What comes to an address of single logout by redirect.
LOGOUT_KINDS = {"SAMLRequest": "LogoutRequest", "SAMLResponse": "LogoutResponse"}
# What pysaml2 and its parsers raise for texts that are something else; ParseError is a SyntaxError.
NONSENSE = (SAMLError, SyntaxError, ExpatError, ValueError, TypeError, KeyError, AttributeError)

_log = logging.getLogger(__name__)


class Refused(Exception):
    """A message that is not acted upon. The text is for people, and repeats nothing of it."""


class NoAnswer(Exception):
    """Another member gave no answer that can be believed."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that may be acted upon: pysaml2's object of it, its XML, and who sent it."""

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
    """What `member` hears; `entity` is pysaml2's object for it, `clock` tells epoch seconds."""

    def __init__(
        self, entity: Any, member: Member, replays: ReplayCache, clock: Callable[[], float]
    ) -> None:
        self.entity = entity
        self.member = member
        self.clock = clock
        self._replays = replays

    # --- what arrives ---------------------------------------------------------------------------

    def from_query(self, query: str, kinds: Mapping[str, str], path: str) -> Received:
        """A message by redirect; `kinds` by parameter, such as SAMLRequest. Raises Refused."""
        try:
            found = read_query(query)
        except BadQuery as error:
            raise Refused(str(error)) from None
        kind = kinds.get(found.parameter)
        if kind is None:
            raise Refused("such a message is not taken here")
        message = _parsed(found.xml, kind)
        issuer = _issuer(message)
        if not found.is_signed_by(self._certificates(issuer)):
            raise Refused("the message carries no valid signature")
        received = Received(kind, message, found.xml, issuer, found.relay_state)
        return self._admitted(received, path, must_say_where=True)

    def from_form(self, form: Mapping[str, str], kind: str, path: str) -> Received:
        """A request by POST. Raises Refused."""
        try:
            xml = decoded(form.get("SAMLRequest", "")).decode()
        except (BadQuery, UnicodeDecodeError):
            raise Refused("the form carries no message") from None
        received = self._verified(xml, kind, form.get("RelayState", ""))
        return self._admitted(received, path, must_say_where=True)

    def from_envelope(self, body: bytes, kind: str, path: str | None) -> Received:
        """A message by SOAP, sent to `path`, or without one the answer to us. Raises Refused."""
        try:
            xml = only_child(body, SOAP, "Body")
        except MalformedXML as error:
            raise Refused(str(error)) from None
        return self._admitted(self._verified(xml, kind), path, must_say_where=False)

    def once(self, issuer: str, message_id: str, expires_at: float) -> None:
        """Take note of an id. Raises Refused for one that was there, or that is out of date."""
        if not self._replays.admit(issuer, message_id, expires_at):
            raise Refused("the message was used before, or is out of date")

    def _verified(self, xml: str, kind: str, relay_state: str = "") -> Received:
        """A message whose XML signature is good."""
        if len(xml) > MOST_BYTES:
            raise Refused("the message is too long")
        message = _parsed(xml, kind)
        check = self.entity.sec.correctly_signed_message
        try:
            message = check(xml, KINDS[kind], must=True, origdoc=xml)
        except NONSENSE as error:
            _log.info("a message is refused: %s", type(error).__name__)
            raise Refused("the message carries no valid signature") from None
        return Received(kind, message, xml, _issuer(message), relay_state)

    def _admitted(self, received: Received, path: str | None, must_say_where: bool) -> Received:
        message = received.message
        here = "" if path is None else self.member.at(path)
        if (message.destination or must_say_where) and message.destination != here:
            raise Refused("the message is meant for another address")
        if message.version != "2.0":
            raise Refused("the message is not of SAML 2.0")
        issued_at = epoch(message.issue_instant)
        if abs(self.clock() - issued_at) > FRESH:
            raise Refused("the message is out of date")
        self.once(received.issuer, message.id, issued_at + FRESH)
        return received

    def _certificates(self, issuer: str) -> list[str]:
        try:
            found = self.entity.metadata.certs(issuer, "any", "signing")
        except KeyError:
            raise Refused("the message is from nobody whom we know") from None
        return ["".join(text.split()) for _, text in found]

    # --- what is sent ---------------------------------------------------------------------------

    def redirect(self, xml: str, destination: str, relay_state: str, response: bool) -> str:
        """Where to send a browser with a message: the query is signed, the XML need not be."""
        info = self.entity.apply_binding(
            BINDING_HTTP_REDIRECT, xml, destination, relay_state, response=response, sign=True
        )
        return str(dict(info["headers"])["Location"])

    def ask(
        self, xml: str, destination: str, request_id: str, kind: str, seconds: float = SOAP_SECONDS
    ) -> Received:
        """The answer, of `kind`, to a signed request by SOAP. Raises NoAnswer."""
        try:
            answer = _posted(destination, enveloped(xml), seconds)
            received = self.from_envelope(answer, kind, None)
        except (requests.RequestException, Refused) as error:
            _log.warning("no answer from %s: %s", destination, type(error).__name__)
            raise NoAnswer(f"no answer from {destination}") from error
        if received.message.in_response_to != request_id:
            raise NoAnswer(f"{destination} answers something else")
        return received


def form_fields(xml: str, relay_state: str, response: bool) -> dict[str, str]:
    """The fields of a form that carries a message, which is signed itself."""
    name = "SAMLResponse" if response else "SAMLRequest"
    fields = {name: base64.b64encode(xml.encode()).decode()}
    return fields | ({"RelayState": relay_state} if relay_state else {})


def epoch(instant: str | None) -> float:
    """Epoch seconds of an xs:dateTime in UTC. Raises Refused."""
    try:
        moment = datetime.fromisoformat(instant or "")
    except ValueError:
        raise Refused("the message has no date") from None
    if moment.utcoffset() is None:
        moment = moment.replace(tzinfo=UTC)  # SAML's times are UTC, said or not
    return moment.timestamp()


def _posted(destination: str, envelope: str, seconds: float) -> bytes:
    with requests.Session() as http:
        http.trust_env = False  # no proxy stands between members on this machine
        answer = http.post(
            destination,
            envelope.encode(),
            headers=SOAP_HEADERS,
            timeout=seconds,
            allow_redirects=False,
        )
        answer.raise_for_status()
        return bytes(answer.content)


def _parsed(xml: str, kind: str) -> Any:
    try:
        message = getattr(samlp, f"{KINDS[kind]}_from_string")(xml)
    except NONSENSE:
        message = None
    if message is None or not _issuer(message) or not message.id:
        raise Refused(f"that is no {kind}")
    return message


def _issuer(message: Any) -> str:
    issuer = message.issuer
    return "" if issuer is None else (issuer.text or "").strip()
