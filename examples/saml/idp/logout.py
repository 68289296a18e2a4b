"""Single logout: which service is notified by which channel, and how the logout is answered.

How a session ends is the business of `sealedstate.sso`, and it has ended before any service is
notified.

Front channel: the user's browser goes from service to service, each time with a LogoutRequest there
and a LogoutResponse back. The RelayState leads back to the logout. Services without a front channel
are notified by SOAP in between. Back channel: a request by SOAP is passed on only by SOAP.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, cast

from saml2 import BINDING_HTTP_REDIRECT, BINDING_SOAP

from sealedstate import Session
from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import LogoutProgress, LogoutRequest, Notice, SingleLogout

from ..drafts import (
    draft_logout_request,
    draft_logout_response,
    new_id,
    read_name_id,
    read_session_indexes,
)
from ..entities import find_endpoints
from ..messages import NoAnswer, Received, Refused
from .resources import IdPResources

PART = "logout"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Requester:
    """The service whose LogoutRequest began a logout, and what its answer repeats."""

    entity_id: str
    request_id: str
    relay_state: str


@dataclass(frozen=True, slots=True)
class UnfinishedLogout:
    """A logout that this browser is in the middle of. `waiting_for`: whose answer is missing."""

    progress: LogoutProgress
    waiting_for: Notice


class Logout:
    """Ends sessions and notifies services."""

    def __init__(self, resources: IdPResources, single_logout: SingleLogout) -> None:
        self._resources = resources
        self._messages = resources.messages
        self._entity = resources.messages.entity
        self._single_logout = single_logout

    # --- front channel --------------------------------------------------------------------------

    def begin(self, session: Session) -> LogoutProgress:
        """The user signs out everywhere. Raises StorageError: then nothing has ended."""
        return self._begin(session, None, None)

    def begin_for(self, session: Session, received: Received) -> LogoutProgress | str:
        """A service's request came with the user's browser.

        Returns the logout that began, or the address of the answer if the request was not about
        this browser's session.
        """
        request = _read_request(received)
        requester = Requester(received.issuer, received.message.id, received.relay_state)
        if self._is_about(session, request):
            return self._begin(session, request, requester)
        is_complete = self.notify_by_soap(self._single_logout.begin_for_request(request))
        return self.answer_address(requester, is_complete)

    def receive_answer(self, received: Received) -> LogoutProgress:
        """A service's LogoutResponse, by redirect. Raises Refused if it answers no request."""
        progress = self._single_logout.resume(received.relay_state)
        if progress is None:
            raise Refused("it answers a logout that is not under way")
        for notice in progress.remaining:
            if received.message.in_response_to == _message_id(progress, notice):
                # Only the service that was asked may answer.
                if notice.entity_id != received.issuer:
                    break
                _record(progress, notice, received.succeeded)
                return progress
        raise Refused("it answers a request that this service did not get")

    def next_address(self, progress: LogoutProgress) -> str | None:
        """Where the browser goes next: to a service. None when no service is left to be visited."""
        for notice in progress.remaining:
            address = self._find_address(notice, BINDING_HTTP_REDIRECT)
            if address is not None:
                xml = self._draft(notice, address, _message_id(progress, notice), sign=False)
                return self._messages.sign_redirect(xml, address, progress.token, response=False)
            self._notify(progress, notice)
        return None

    def answer_address(self, requester: Requester, is_complete: bool) -> str:
        """Where the browser goes at last: back to the service that began it, with the answer."""
        xml, address = draft_logout_response(
            self._entity,
            requester.request_id,
            requester.entity_id,
            BINDING_HTTP_REDIRECT,
            is_complete,
            sign=False,
        )
        return self._messages.sign_redirect(xml, address, requester.relay_state, response=True)

    # --- a browser that does not come back from a service -----------------------------------------

    def find_unfinished(self, session: Session) -> UnfinishedLogout | None:
        """The logout that this browser is in the middle of."""
        token = _read_state(session).get("token")
        progress = None if token is None else self._single_logout.resume(token)
        if progress is None or not progress.remaining:
            return None
        return UnfinishedLogout(progress, progress.remaining[0])

    def skip(self, unfinished: UnfinishedLogout) -> LogoutProgress:
        """Continue without the service that did not answer."""
        unfinished.progress.failed(unfinished.waiting_for)
        return unfinished.progress

    def finish_by_soap(self, session: Session) -> None:
        """The user signs in again, in the middle of a logout: notify the rest by SOAP."""
        unfinished = self.find_unfinished(session)
        self.pop_requester(session)
        if unfinished is not None:
            self.notify_by_soap([unfinished.progress])

    def pop_requester(self, session: Session) -> Requester | None:
        """The service that began this browser's logout. The session forgets that logout."""
        state = _read_state(session)
        if state:
            del session[PART]
        requester = state.get("requester")
        return None if requester is None else Requester(*requester)

    # --- back channel ---------------------------------------------------------------------------

    def answer_soap(self, received: Received) -> str:
        """A service's request by SOAP, without the user's cookie: end, notify, answer."""
        progresses = self._single_logout.begin_for_request(_read_request(received))
        is_complete = self.notify_by_soap(progresses)
        xml, _ = draft_logout_response(
            self._entity,
            received.message.id,
            received.issuer,
            BINDING_SOAP,
            is_complete,
            sign=True,
        )
        return xml

    def notify_by_soap(self, progresses: Iterable[LogoutProgress]) -> bool:
        """Notify all remaining services by SOAP; whether every service has confirmed."""
        is_complete = True
        for progress in progresses:
            for notice in progress.remaining:
                self._notify(progress, notice)
            is_complete = is_complete and progress.is_complete and not progress.is_partial
        return is_complete

    def notify_pending(self, session: Session) -> None:
        """Notify the services of a session that ended without its cookie, which came now."""
        progress = self._single_logout.pending(session)
        if progress is not None:
            self.notify_by_soap([progress])

    # --- helpers --------------------------------------------------------------------------------

    def _begin(
        self, session: Session, request: LogoutRequest | None, requester: Requester | None
    ) -> LogoutProgress:
        progress = self._single_logout.begin(session, request)
        # Written into the empty session that this browser has from now on: for the way back, and
        # for a browser that does not come back from a service.
        fields = None if requester is None else list(astuple(requester))
        session[PART] = {"token": progress.token, "requester": fields}
        return progress

    def _is_about(self, session: Session, request: LogoutRequest) -> bool:
        """Whether a request means a service login of this session."""
        if session.subject is None:
            return False
        record = self._resources.records.for_session(session)
        try:
            logins = record.services(request.entity_id)
        except LoginsUnreadable:
            return False
        return any(
            login.name_id.value == request.name_id.value
            and (not request.session_indexes or login.session_index in request.session_indexes)
            for login in logins
        )

    def _notify(self, progress: LogoutProgress, notice: Notice) -> None:
        """Notify one service by SOAP, and record its answer."""
        address = self._find_address(notice, BINDING_SOAP)
        if address is None:
            progress.failed(notice)
            return
        message_id = new_id()
        xml = self._draft(notice, address, message_id, sign=True)
        try:
            answer = self._messages.ask(xml, address, message_id, "LogoutResponse")
        except NoAnswer:
            progress.failed(notice)
        else:
            is_confirmed = answer.succeeded and answer.issuer == notice.entity_id
            _record(progress, notice, is_confirmed)

    def _draft(self, notice: Notice, address: str, message_id: str, sign: bool) -> str:
        return draft_logout_request(
            self._entity, address, notice.name_id, notice.session_index, message_id, sign
        )

    def _find_address(self, notice: Notice, binding: str) -> str | None:
        """Where a service accepts logout requests; None if it does not, or is unknown."""
        service = "single_logout_service"
        return next(iter(find_endpoints(self._entity, service, notice.entity_id, binding)), None)


def _read_request(received: Received) -> LogoutRequest:
    name_id = read_name_id(received.message.name_id)
    if name_id is None:
        raise Refused("it carries no NameID")
    indexes = tuple(read_session_indexes(received.message))
    return LogoutRequest(received.issuer, name_id, indexes)


def _record(progress: LogoutProgress, notice: Notice, is_confirmed: bool) -> None:
    if is_confirmed:
        progress.notified(notice)
    else:
        _log.warning("%s did not confirm a logout", notice.entity_id)
        progress.failed(notice)


def _message_id(progress: LogoutProgress, notice: Notice) -> str:
    """The id of a request that goes by redirect. It is computed from the request's contents, so
    that it need not be stored until the answer comes.
    """
    contents = "\0".join(
        [progress.token, notice.entity_id, str(notice.name_id.value), notice.session_index or ""]
    )
    return f"_{hashlib.sha256(contents.encode()).hexdigest()[:40]}"


def _read_state(session: Session) -> dict[str, Any]:
    return cast(dict[str, Any], session.get(PART, {}))  # only `_begin` writes it
