"""Single sign-on: a service asks who somebody is, and gets an answer, once.

Knows AuthnRequests, what waits for a sign-in, and artifacts. Does not know how people sign in.

A request that has to wait for somebody to sign in waits in the store, under a handle that is good
for one answer, and not in the browser: no page that is sent back can change what was asked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from saml2 import BINDING_HTTP_ARTIFACT, BINDING_HTTP_POST
from saml2.saml import NAMEID_FORMAT_TRANSIENT, NAMEID_FORMAT_UNSPECIFIED

from sealedstate import Session
from sealedstate.errors import MalformedToken
from sealedstate.sso import SAMLArtifact, compute_source_id
from sealedstate.sso._codec.tables import METHODS

from ..drafts import Asked, artifact_response, authn_response, no_passive_response
from ..entities import endpoints
from ..keeping import ABSOLUTE_LIFETIME
from ..messages import Received, Refused
from .deployment import Deployment

PASSWORD = METHODS[0]
WAIT_SECONDS = 900
ARTIFACT_SECONDS = 60
AUTHENTICATION_SECONDS = 8 * 3600
NAMES_GIVEN = (None, NAMEID_FORMAT_TRANSIENT, NAMEID_FORMAT_UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An AuthnRequest that was accepted, with what its answer needs.

    `forced`: the user is to prove anew who they are; `passive`: nobody is to be asked anything.
    """

    request_id: str
    entity_id: str
    consumer: str
    binding: str
    relay_state: str
    forced: bool
    passive: bool

    @property
    def asked(self) -> Asked:
        return Asked(self.request_id, self.entity_id, self.consumer)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response on its way through the browser: by POST the message, else its artifact."""

    consumer: str
    relay_state: str
    xml: str | None = None
    artifact: str | None = None


class SignOn:
    """Answers AuthnRequests out of sessions."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._me = deployment.federation.idp.entity_id

    # --- requests -------------------------------------------------------------------------------

    def accepted(self, received: Received) -> Waiting:
        """What a service asks. Raises Refused for what its metadata or we don't allow."""
        request = received.message
        policy = request.name_id_policy
        if (policy.format if policy else None) not in NAMES_GIVEN:
            raise Refused("such names are not given here")
        binding = request.protocol_binding or BINDING_HTTP_POST
        return Waiting(
            request.id,
            received.issuer,
            self._consumer(received.issuer, binding, request.assertion_consumer_service_url),
            binding,
            received.relay_state,
            _is_true(request.force_authn),
            _is_true(request.is_passive),
        )

    def keep(self, waiting: Waiting) -> str:
        """Let a request wait; the handle that gets it back, once."""
        data = json.dumps(asdict(waiting)).encode()
        return self._deployment.artifacts.put(data, self._me, WAIT_SECONDS).hex()

    def fetch(self, handle: str) -> Waiting:
        """A request that has waited. Raises Refused where it was answered, or waited too long."""
        try:
            raw = bytes.fromhex(handle)
        except ValueError:
            raw = b""
        data = self._deployment.artifacts.take(raw, self._me)
        if data is None:
            raise Refused("it was answered already, or has waited for too long")
        return Waiting(**json.loads(data))

    def is_answerable(self, waiting: Waiting, session: Session) -> bool:
        """Whether nobody has to be asked anything for an answer."""
        if session.subject is None or waiting.forced:
            return False
        record = self._deployment.records.for_session(session)
        return record.is_fresh(PASSWORD)

    def _consumer(self, entity_id: str, binding: str, wanted: str | None) -> str:
        """Where answers go: nowhere but to an address that stands in the service's metadata."""
        entity = self._deployment.messages.entity
        addresses = endpoints(entity, "assertion_consumer_service", entity_id, binding)
        if not addresses or (wanted and wanted not in addresses):
            raise Refused("the answer would go to an address that is not the service's")
        return wanted or addresses[0]

    # --- answers --------------------------------------------------------------------------------

    def answer(self, waiting: Waiting, session: Session) -> Answer:
        """Enter the service into the session's login record, and say so to the service."""
        deployment, now = self._deployment, self._deployment.clock()
        record = deployment.records.for_session(session)
        login = record.add_derived_login(waiting.entity_id, PASSWORD)
        ends_at = session.expires_at or int(now) + ABSOLUTE_LIFETIME
        person = _person(session.subject or "")
        entity = deployment.messages.entity
        return self._by(waiting, authn_response(entity, waiting.asked, login, person, ends_at))

    def decline(self, waiting: Waiting) -> Answer:
        """Nobody is signed in, and the service wants nobody to be asked."""
        entity = self._deployment.messages.entity
        return self._by(waiting, no_passive_response(entity, waiting.asked))

    def _by(self, waiting: Waiting, xml: str) -> Answer:
        if waiting.binding != BINDING_HTTP_ARTIFACT:
            return Answer(waiting.consumer, waiting.relay_state, xml=xml)
        deployment = self._deployment
        handle = deployment.artifacts.put(xml.encode(), waiting.entity_id, ARTIFACT_SECONDS)
        artifact = SAMLArtifact(compute_source_id(self._me), handle).export()
        return Answer(waiting.consumer, waiting.relay_state, artifact=artifact)

    def resolve(self, received: Received) -> str:
        """The answer to an ArtifactResolve: the message, for the first who asks and is meant."""
        message = self._fetched(received.message.artifact, received.issuer)
        entity = self._deployment.messages.entity
        return artifact_response(entity, received.message.id, message)

    def _fetched(self, artifact: Any, issuer: str) -> str | None:
        try:
            found = SAMLArtifact.parse(artifact.text.strip() if artifact is not None else "")
        except MalformedToken:
            return None
        if not found.is_from(self._me):
            return None
        deployment = self._deployment
        message = deployment.artifacts.take(found.handle, issuer)
        return None if message is None else message.decode()


def _person(name: str) -> dict[str, list[str]]:
    """What services learn of somebody, beside a name that means nothing anywhere else."""
    return {"displayName": [name]}


def _is_true(text: str | bool | None) -> bool:
    return str(text).lower() in ("true", "1")
