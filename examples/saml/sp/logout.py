"""A service's part in single logout: it asks for one, and takes part in those of others.

The subject of this service's sessions is the NameID, which the identity provider makes for one of
its sessions. So a request by SOAP, without the user's cookie, ends all sessions of that subject.
"""

from __future__ import annotations

from saml2 import BINDING_HTTP_REDIRECT, BINDING_SOAP

from sealedstate import Keeper, Session
from sealedstate.sso import NameID

from ..drafts import (
    PARTIAL_LOGOUT,
    SUCCESS,
    draft_logout_request,
    draft_logout_response,
    new_id,
    read_name_id,
    read_session_indexes,
)
from ..federation import logout_path
from ..messages import SOAP_PATIENCE, NoAnswer, Received, Refused
from .resources import ServiceResources
from .sign_on import Login, find_login

PART = "leaving"


class Logout:
    """Signs users out here, on their wish or on the identity provider's."""

    def __init__(self, resources: ServiceResources, keeper: Keeper) -> None:
        self._messages = resources.messages
        self._client = resources.client
        self._idp = resources.federation.idp
        self._keeper = keeper

    # --- the user signs out here ----------------------------------------------------------------

    def leave(self, session: Session, login: Login) -> str:
        """Sign out here; where the browser goes for the rest. Raises StorageError."""
        address, request_id = self._idp.at(logout_path(BINDING_HTTP_REDIRECT)), new_id()
        xml = self._draft_request(login, address, request_id, sign=False)
        session.invalidate()
        session[PART] = request_id  # in the empty session that the browser has now
        return self._messages.sign_redirect(xml, address, "", response=False)

    def receive_answer(self, session: Session, received: Received) -> str:
        """The identity provider's answer, as the name of a notice. Raises Refused."""
        if received.message.in_response_to != session.get(PART):
            raise Refused("it answers a request that this browser did not send")
        del session[PART]
        return _choose_notice(received)

    def leave_by_soap(self, session: Session, login: Login) -> str:
        """Sign out here, and ask the identity provider without the browser; a notice."""
        address, request_id = self._idp.at(logout_path(BINDING_SOAP)), new_id()
        xml = self._draft_request(login, address, request_id, sign=True)
        session.invalidate()
        try:
            answer = self._messages.ask(
                xml, address, request_id, "LogoutResponse", seconds=SOAP_PATIENCE
            )
        except NoAnswer:
            return "not-confirmed"
        return _choose_notice(answer)

    def _draft_request(self, login: Login, address: str, request_id: str, sign: bool) -> str:
        return draft_logout_request(
            self._client, address, login.name_id, login.session_index, request_id, sign
        )

    # --- the identity provider asks -------------------------------------------------------------

    def answer_redirect(self, session: Session, received: Received) -> str:
        """End what a request by redirect names; where the browser goes with the answer."""
        name_id = self._end(received)
        login, indexes = find_login(session), read_session_indexes(received.message)
        is_named = login is not None and login.name_id.value == name_id.value
        if login and is_named and (not indexes or login.session_index in indexes):
            session.invalidate()
        xml, address = self._draft_answer(received, BINDING_HTTP_REDIRECT, sign=False)
        return self._messages.sign_redirect(xml, address, received.relay_state, response=True)

    def answer_soap(self, received: Received) -> str:
        """End what a request by SOAP names; the answer."""
        self._end(received)
        return self._draft_answer(received, BINDING_SOAP, sign=True)[0]

    def _end(self, received: Received) -> NameID:
        """Refuse all sessions of a NameID from now on, in every browser. Raises StorageError."""
        name_id = read_name_id(received.message.name_id)
        if name_id is None:
            raise Refused("it carries no NameID")
        self._keeper.revoke_subject(str(name_id.value))
        return name_id

    def _draft_answer(self, received: Received, binding: str, sign: bool) -> tuple[str, str]:
        return draft_logout_response(
            self._client, received.message.id, received.issuer, binding, True, sign
        )


def _choose_notice(received: Received) -> str:
    if received.succeeded:
        return "signed-out"
    code = received.message.status.status_code
    second = code.status_code
    is_partial = code.value == SUCCESS and second is not None and second.value == PARTIAL_LOGOUT
    return "partly-signed-out" if is_partial else "not-confirmed"
