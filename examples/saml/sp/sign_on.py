"""A service's part in single sign-on: it asks, and accepts one answer to each question.

The ids of requests that wait for an answer are in the visitor's session, which is sealed. But a
visitor who keeps an old cookie has an old session, so the replay cache makes sure that no assertion
counts twice.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, cast

from saml2 import BINDING_HTTP_REDIRECT, BINDING_SOAP

from sealedstate import Session
from sealedstate.sso import NameID

from ..drafts import draft_artifact_resolve, draft_authn_request, new_id, read_name_id
from ..messages import PARSE_ERRORS, NoAnswer, Refused, form_fields, parse_instant
from ..xml_text import PROTOCOL, MalformedXML, extract_child
from .resources import ServiceResources

PENDING = "pending"
MAX_PENDING = 5


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """An AuthnRequest on its way: an address to visit, or a form to post there."""

    address: str
    fields: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """Who the user is at this service, as the identity provider says."""

    name_id: NameID
    session_index: str | None
    display_name: str
    method: str


class SignOn:
    """Asks the identity provider and reads its answers."""

    def __init__(self, resources: ServiceResources) -> None:
        self._service = resources.service
        self._client = resources.client
        self._messages = resources.messages
        self._idp = resources.federation.idp

    def ask(self, session: Session) -> OutgoingRequest:
        """Ask who the visitor is, and remember the request in their session."""
        request_id, address = new_id(), self._idp.at("/sso")
        session[PENDING] = [*_pending(session), request_id][-MAX_PENDING:]
        # A redirect is signed as a whole, a form carries a message that is signed itself.
        by_redirect = self._service.asks_by == BINDING_HTTP_REDIRECT
        xml = draft_authn_request(
            self._client, address, self._service.answered_by, request_id, sign=not by_redirect
        )
        if by_redirect:
            return OutgoingRequest(self._messages.sign_redirect(xml, address, "", response=False))
        return OutgoingRequest(address, form_fields(xml, "", response=False))

    def accept(self, session: Session, response: str) -> None:
        """Read a response (base64) and sign the visitor in. Raises Refused."""
        found = self._read(response, _pending(session))
        login, assertion = _read_login(found), found.assertion
        expires_at = parse_instant(assertion.conditions.not_on_or_after)
        self._messages.admit_once(assertion.issuer.text.strip(), assertion.id, expires_at)
        pending = [each for each in _pending(session) if each != found.in_response_to]
        session.clear()
        session.subject = str(login.name_id.value)
        session[PENDING] = pending
        name = login.name_id
        session["login"] = {
            "name_id": [name.format, name.name_qualifier, name.sp_name_qualifier],
            "session_index": login.session_index,
            "display_name": login.display_name,
            "method": login.method,
        }

    def fetch(self, artifact: str) -> str:
        """The response (base64) behind an artifact. Raises Refused."""
        endpoints = self._client.metadata.artifact_resolution_service(
            self._idp.entity_id, BINDING_SOAP, "idpsso"
        )
        address, request_id = str(endpoints[0]["location"]), new_id()
        xml = draft_artifact_resolve(self._client, artifact, address, request_id)
        try:
            answer = self._messages.ask(xml, address, request_id, "ArtifactResponse")
            response = extract_child(answer.xml, PROTOCOL, "Response")
        except (NoAnswer, MalformedXML) as error:
            raise Refused("the identity provider returns no message for it") from error
        if response is None:
            raise Refused("the artifact was used before, or is none")
        return base64.b64encode(response.encode()).decode()

    def _read(self, response: str, pending: list[str]) -> Any:
        try:
            found = self._client.parse_authn_request_response(
                response, self._service.answered_by, dict.fromkeys(pending, "/")
            )
        except PARSE_ERRORS as error:
            reasons = {
                "UnsolicitedResponse": "this browser has not asked for it",
                "StatusNoPassive": "the user is not signed in",
            }
            other = "its signature or its contents are not valid"
            raise Refused(reasons.get(type(error).__name__, other)) from error
        if found is None or found.assertion is None:
            raise Refused("it is not an answer")
        return found


def find_login(session: Session) -> Login | None:
    """Who the visitor is here; None if they are not signed in."""
    if session.subject is None:
        return None
    stored = cast(dict[str, Any], session["login"])  # only `accept` writes it
    name_id = NameID(session.subject, *stored["name_id"])
    return Login(name_id, stored["session_index"], stored["display_name"], stored["method"])


def _read_login(found: Any) -> Login:
    name_id = read_name_id(found.name_id)
    if name_id is None:
        raise Refused("it carries no NameID")
    statement = found.assertion.authn_statement[0]
    names = found.ava.get("displayName", [""])
    method = statement.authn_context.authn_context_class_ref.text.strip()
    return Login(name_id, statement.session_index, names[0], method)


def _pending(session: Session) -> list[str]:
    """The ids of requests that wait for an answer."""
    return list(cast(list[str], session.get(PENDING, [])))  # only this module writes it
