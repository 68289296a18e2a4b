"""A service's part in single sign-on: it asks, and believes one answer to each question.

Knows AuthnRequests, assertions and artifacts. Does not know pages.

What was asked stands in the visitor's own session, which is sealed. But whoever keeps an old cookie
has an old session: that no assertion counts twice is for the replay cache to see to.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, cast

from saml2 import BINDING_HTTP_REDIRECT, BINDING_SOAP

from sealedstate import Session
from sealedstate.sso import NameID

from ..drafts import artifact_resolve, authn_request, name_id_of, new_id
from ..messages import NONSENSE, NoAnswer, Refused, epoch, form_fields
from ..xml_text import PROTOCOL, MalformedXML, child_named
from .deployment import Deployment

ASKED = "asked"
MOST_ASKED = 5


@dataclass(frozen=True, slots=True)
class Question:
    """An AuthnRequest on its way: an address to go to, or a form to post there."""

    address: str
    fields: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """Who somebody is here, as the identity provider says."""

    name_id: NameID
    session_index: str | None
    display_name: str
    method: str


class SignOn:
    """Asks the identity provider and reads its answers."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._client = deployment.client
        self._idp = deployment.federation.idp

    def ask(self, session: Session) -> Question:
        """Ask who the visitor is, and note in their session that it was asked."""
        service, messages, request_id = (
            self._deployment.service,
            self._deployment.messages,
            new_id(),
        )
        session[ASKED] = [*_asked(session), request_id][-MOST_ASKED:]
        by_redirect = service.asks_by == BINDING_HTTP_REDIRECT
        address = self._idp.at("/sso")
        xml = authn_request(
            self._client, address, service.answered_by, request_id, sign=not by_redirect
        )
        if by_redirect:
            return Question(messages.redirect(xml, address, "", response=False))
        return Question(address, form_fields(xml, "", response=False))

    def believe(self, session: Session, response: str) -> Login:
        """Read a response (base64) and sign the visitor in. Raises Refused."""
        found = self._read(response, _asked(session))
        login, assertion = _login(found), found.assertion
        expires_at = epoch(assertion.conditions.not_on_or_after)
        self._deployment.messages.once(assertion.issuer.text.strip(), assertion.id, expires_at)
        left = [each for each in _asked(session) if each != found.in_response_to]
        session.clear()
        session.subject = str(login.name_id.value)
        session[ASKED] = left
        _write(session, login)
        return login

    def by_artifact(self, artifact: str) -> str:
        """The response (base64) behind an artifact. Raises Refused."""
        address, request_id = self._resolver(), new_id()
        xml = artifact_resolve(self._client, artifact, address, request_id)
        try:
            answer = self._deployment.messages.ask(xml, address, request_id, "ArtifactResponse")
            response = child_named(answer.xml, PROTOCOL, "Response")
        except (NoAnswer, MalformedXML) as error:
            raise Refused("the identity provider gives no message for it") from error
        if response is None:
            raise Refused("the artifact was used before, or is none")
        return base64.b64encode(response.encode()).decode()

    def _resolver(self) -> str:
        found = self._client.metadata.artifact_resolution_service(
            self._idp.entity_id, BINDING_SOAP, "idpsso"
        )
        return str(found[0]["location"])

    def _read(self, response: str, asked: list[str]) -> Any:
        binding = self._deployment.service.answered_by
        outstanding = dict.fromkeys(asked, "/")
        try:
            found = self._client.parse_authn_request_response(response, binding, outstanding)
        except NONSENSE as error:
            raise Refused(_why(error)) from error
        if found is None or found.assertion is None:
            raise Refused("it is no answer")
        return found


def login_of(session: Session) -> Login | None:
    """Who the visitor is here; None for nobody."""
    if session.subject is None:
        return None
    kept = cast(dict[str, Any], session["login"])  # only `_write` writes it
    name_id = NameID(session.subject, *kept["name_id"])
    return Login(name_id, kept["session_index"], kept["display_name"], kept["method"])


def _write(session: Session, login: Login) -> None:
    name = login.name_id
    session["login"] = {
        "name_id": [name.format, name.name_qualifier, name.sp_name_qualifier],
        "session_index": login.session_index,
        "display_name": login.display_name,
        "method": login.method,
    }


def _login(found: Any) -> Login:
    name_id = name_id_of(found.name_id)
    if name_id is None:
        raise Refused("it names nobody")
    statement = found.assertion.authn_statement[0]
    names = found.ava.get("displayName", [""])
    method = statement.authn_context.authn_context_class_ref.text.strip()
    return Login(name_id, statement.session_index, names[0], method)


def _asked(session: Session) -> list[str]:
    return list(cast(list[str], session.get(ASKED, [])))  # only we write it


def _why(error: Exception) -> str:
    known = {
        "UnsolicitedResponse": "nobody has asked for it",
        "StatusNoPassive": "nobody is signed in",
    }
    return known.get(type(error).__name__, "its signature or its contents are not valid")
