"""Single sign-on: a service asks who the user is, and gets one answer.

A request that waits for a sign-in waits in the store, under a handle that is good for one answer,
and not in the browser: no page that comes back can change what was asked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import cast

from saml2 import BINDING_HTTP_ARTIFACT, BINDING_HTTP_POST
from saml2.saml import NAMEID_FORMAT_TRANSIENT, NAMEID_FORMAT_UNSPECIFIED

from sealedstate import Session
from sealedstate.errors import MalformedToken
from sealedstate.sso import SAMLArtifact, compute_source_id

from ..drafts import (
    RequestContext,
    draft_artifact_response,
    draft_authn_response,
    draft_no_passive_response,
)
from ..entities import find_endpoints
from ..messages import Received, Refused
from .resources import IdPResources

PASSWORD = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"  # noqa: S105
WAIT_SECONDS = 900
ARTIFACT_SECONDS = 60
AUTHENTICATION_SECONDS = 8 * 3600
NAME_ID_FORMATS = (None, NAMEID_FORMAT_TRANSIENT, NAMEID_FORMAT_UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class AuthnRequest:
    """A service's request that was accepted, with what its answer needs.

    `forced`: the user must prove again who they are. `passive`: the user must not be asked.
    """

    request_id: str
    entity_id: str
    consumer: str
    binding: str
    relay_state: str
    forced: bool
    passive: bool

    @property
    def context(self) -> RequestContext:
        """What the response repeats."""
        return RequestContext(self.request_id, self.entity_id, self.consumer)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response on its way through the browser: the message itself, or an artifact for it."""

    consumer: str
    relay_state: str
    xml: str | None = None
    artifact: str | None = None


class SignOn:
    """Answers AuthnRequests out of sessions."""

    def __init__(self, resources: IdPResources) -> None:
        self._resources = resources
        self._entity = resources.messages.entity
        self._me = resources.federation.idp.entity_id

    # --- requests -------------------------------------------------------------------------------

    def accept(self, received: Received) -> AuthnRequest:
        """What a service asks. Raises Refused for what its metadata or this site forbids."""
        request = received.message
        policy = request.name_id_policy
        if (policy.format if policy else None) not in NAME_ID_FORMATS:
            raise Refused("NameIDs of that format are not available")
        binding = request.protocol_binding or BINDING_HTTP_POST
        # The answer goes only to an address in the service's metadata, whatever the request says.
        wanted = request.assertion_consumer_service_url
        addresses = find_endpoints(
            self._entity, "assertion_consumer_service", received.issuer, binding
        )
        if not addresses or (wanted and wanted not in addresses):
            raise Refused("the answer would go to an address that is not the service's")
        return AuthnRequest(
            request.id,
            received.issuer,
            wanted or addresses[0],
            binding,
            received.relay_state,
            _is_true(request.force_authn),
            _is_true(request.is_passive),
        )

    def store(self, request: AuthnRequest) -> str:
        """Let a request wait; the handle that fetches it, once."""
        data = json.dumps(asdict(request)).encode()
        return self._resources.artifacts.put(data, self._me, WAIT_SECONDS).hex()

    def fetch(self, handle: str) -> AuthnRequest:
        """A request that has waited. Raises Refused if it was answered, or waited too long."""
        try:
            raw = bytes.fromhex(handle)
        except ValueError:
            raw = b""
        data = self._resources.artifacts.take(raw, self._me)
        if data is None:
            raise Refused("the request was answered already, or has waited too long")
        return AuthnRequest(**json.loads(data))

    def is_answerable(self, request: AuthnRequest, session: Session) -> bool:
        """Whether the session holds the answer, without asking the user."""
        if session.subject is None or request.forced:
            return False
        record = self._resources.records.for_session(session)
        return record.is_fresh(PASSWORD)

    # --- answers --------------------------------------------------------------------------------

    def answer(self, request: AuthnRequest, session: Session) -> Answer:
        """Add the service to the session's login record, and answer who the user is."""
        record = self._resources.records.for_session(session)
        login = record.add_derived_login(request.entity_id, PASSWORD)
        ends_at = cast(int, session.expires_at)  # known as soon as the user is signed in
        # What services learn of the user, besides a NameID that means nothing elsewhere.
        person = {"displayName": [session.subject or ""]}
        response = draft_authn_response(self._entity, request.context, login, person, ends_at)
        return self._address(request, response)

    def decline(self, request: AuthnRequest) -> Answer:
        """The user is not signed in, and the service forbade asking."""
        return self._address(request, draft_no_passive_response(self._entity, request.context))

    def resolve(self, received: Received) -> str:
        """The answer to an ArtifactResolve: the message, once, for its service."""
        artifact, message = received.message.artifact, None
        try:
            found = SAMLArtifact.parse(artifact.text.strip() if artifact is not None else "")
        except MalformedToken:
            found = None
        if found is not None and found.is_from(self._me):
            message = self._resources.artifacts.take(found.handle, received.issuer)
        xml = None if message is None else message.decode()
        return draft_artifact_response(self._entity, received.message.id, xml)

    def _address(self, request: AuthnRequest, xml: str) -> Answer:
        """A response in the binding that the service wants."""
        if request.binding != BINDING_HTTP_ARTIFACT:
            return Answer(request.consumer, request.relay_state, xml=xml)
        handle = self._resources.artifacts.put(xml.encode(), request.entity_id, ARTIFACT_SECONDS)
        artifact = SAMLArtifact(compute_source_id(self._me), handle).export()
        return Answer(request.consumer, request.relay_state, artifact=artifact)


def _is_true(text: str | bool | None) -> bool:
    return str(text).lower() in ("true", "1")
