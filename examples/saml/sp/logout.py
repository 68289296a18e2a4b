"""A service's part in single logout: it asks for one, and it is told of others'.

Knows LogoutRequests and their answers. Does not know pages.

The subject of this service's sessions is the NameID, which the identity provider makes for one
session of its own. So "all sessions of that subject" is what a request that comes by SOAP, without
anybody's cookie, has to end, and what is refused from then on.
"""

from __future__ import annotations

from saml2 import BINDING_HTTP_REDIRECT, BINDING_SOAP

from sealedstate import Keeper, Session

from ..drafts import (
    PARTIAL_LOGOUT,
    SUCCESS,
    logout_request,
    logout_response,
    name_id_of,
    new_id,
    session_indexes_of,
)
from ..federation import logout_path
from ..messages import SOAP_PATIENCE, NoAnswer, Received, Refused
from .deployment import Deployment
from .sign_on import Login, login_of

PART = "leaving"


class Logout:
    """Signs people out here, and tells the identity provider or is told by it."""

    def __init__(self, deployment: Deployment, keeper: Keeper) -> None:
        self._deployment = deployment
        self._messages = deployment.messages
        self._client = deployment.client
        self._idp = deployment.federation.idp
        self._keeper = keeper

    # --- it asks --------------------------------------------------------------------------------

    def leave(self, session: Session, login: Login) -> str:
        """Sign out here; where the browser goes for the rest. Raises StorageError."""
        address, request_id = self._idp.at(logout_path(BINDING_HTTP_REDIRECT)), new_id()
        xml = self._request(login, address, request_id, sign=False)
        session.invalidate()
        session[PART] = request_id  # in the session of nobody that the browser has now
        return self._messages.redirect(xml, address, "", response=False)

    def heard(self, session: Session, received: Received) -> str:
        """How the identity provider answers, as a notice. Raises Refused."""
        if received.message.in_response_to != session.get(PART):
            raise Refused("it answers what nobody has asked here")
        del session[PART]
        return _notice(received)

    def leave_by_soap(self, session: Session, login: Login) -> str:
        """Sign out here, and tell the identity provider without any browser; a notice."""
        address, request_id = self._idp.at(logout_path(BINDING_SOAP)), new_id()
        xml = self._request(login, address, request_id, sign=True)
        session.invalidate()
        try:
            kind = "LogoutResponse"
            return _notice(self._messages.ask(xml, address, request_id, kind, SOAP_PATIENCE))
        except NoAnswer:
            return "unheard"

    def _request(self, login: Login, address: str, request_id: str, sign: bool) -> str:
        return logout_request(
            self._client, address, login.name_id, login.session_index, request_id, sign
        )

    # --- it is told -----------------------------------------------------------------------------

    def told(self, session: Session, received: Received) -> str:
        """The identity provider's request, by redirect; where the browser goes with the answer."""
        self._end(received)
        login = login_of(session)
        if login is not None and _means(received, login):
            session.invalidate()
        xml, address = self._answer(received, BINDING_HTTP_REDIRECT, sign=False)
        return self._messages.redirect(xml, address, received.relay_state, response=True)

    def told_by_soap(self, received: Received) -> str:
        """The identity provider's request, by SOAP; the answer."""
        self._end(received)
        return self._answer(received, BINDING_SOAP, sign=True)[0]

    def _end(self, received: Received) -> None:
        """From now on no session of that NameID opens, in whatever browser. Raises StorageError."""
        name_id = name_id_of(received.message.name_id)
        if name_id is None:
            raise Refused("it names nobody")
        self._keeper.revoke_subject(str(name_id.value))

    def _answer(self, received: Received, binding: str, sign: bool) -> tuple[str, str]:
        return logout_response(
            self._client, received.message.id, received.issuer, binding, True, sign
        )


def _means(received: Received, login: Login) -> bool:
    name_id, indexes = name_id_of(received.message.name_id), session_indexes_of(received.message)
    same = name_id is not None and name_id.value == login.name_id.value
    return same and (not indexes or login.session_index in indexes)


def _notice(received: Received) -> str:
    if received.succeeded:
        return "signed-out"
    code = received.message.status.status_code
    second = code.status_code
    partial = code.value == SUCCESS and second is not None and second.value == PARTIAL_LOGOUT
    return "partly" if partial else "unheard"
