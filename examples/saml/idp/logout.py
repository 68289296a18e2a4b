"""Single logout: who is told by which channel, and what the service that began it is answered.

Knows notices, requests of services and the two channels. Does not know pages, nor how a session
ends: that is `sealedstate.sso`'s, and it is done before any service is told.

By the front channel the user's browser goes from service to service, each time with a LogoutRequest
there and a LogoutResponse back. What leads back to the logout is the RelayState. Services without a
front channel are told by SOAP in between; a request that came by SOAP is passed on by SOAP alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from saml2 import BINDING_HTTP_REDIRECT, BINDING_SOAP

from sealedstate import Session
from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import LogoutProgress, LogoutRequest, Notice, SingleLogout

from ..drafts import (
    logout_request,
    logout_response,
    name_id_of,
    new_id,
    session_indexes_of,
)
from ..entities import endpoints
from ..messages import NoAnswer, Received, Refused
from .deployment import Deployment

PART = "logout"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asker:
    """The service whose LogoutRequest began it, and what its answer has to repeat."""

    entity_id: str
    request_id: str
    relay_state: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A logout that this browser is in the middle of. `waiting`: whose answer is awaited."""

    progress: LogoutProgress
    waiting: Notice


class Logout:
    """Ends sessions and tells services."""

    def __init__(self, deployment: Deployment, single: SingleLogout) -> None:
        self._deployment = deployment
        self._messages = deployment.messages
        self._single = single

    # --- front channel --------------------------------------------------------------------------

    def begin(self, session: Session, asker: Asker | None = None) -> LogoutProgress:
        """The user wants to be signed out everywhere. Raises StorageError: then nothing ended."""
        return self._begun(session, None, asker)

    def begin_for(self, session: Session, received: Received) -> LogoutProgress | str:
        """A service's request came with the user's browser: the logout, or the answer's address."""
        asked = _request(received)
        asker = Asker(received.issuer, received.message.id, received.relay_state)
        if self._is_about(session, asked):
            return self._begun(session, asked, asker)
        # Not about the session that is in this browser: what it means is found without it.
        complete = self.pass_on(self._single.begin_for_request(asked))
        return self.answer_address(asker, complete)

    def heard(self, received: Received) -> LogoutProgress:
        """A service's answer, by redirect. Raises Refused for what nobody has asked."""
        progress = self._single.resume(received.relay_state)
        if progress is None:
            raise Refused("it answers a logout that is not under way")
        for notice in progress.remaining:
            if received.message.in_response_to == _message_id(progress, notice):
                if notice.entity_id != received.issuer:
                    break
                _note(progress, notice, received.succeeded)
                return progress
        raise Refused("it answers what that service was not asked")

    def next_address(self, progress: LogoutProgress) -> str | None:
        """Where the browser goes next: to a service. None when all are told, or can't be."""
        for notice in progress.remaining:
            address = self._endpoint(notice, BINDING_HTTP_REDIRECT)
            if address is not None:
                xml = self._draft(notice, address, _message_id(progress, notice), sign=False)
                return self._messages.redirect(xml, address, progress.token, response=False)
            self._tell(progress, notice)
        return None

    def answer_address(self, asker: Asker, complete: bool) -> str:
        """Where the browser goes at last: back to the service that began it, with the answer."""
        xml, address = logout_response(
            self._messages.entity,
            asker.request_id,
            asker.entity_id,
            BINDING_HTTP_REDIRECT,
            complete,
            sign=False,
        )
        return self._messages.redirect(xml, address, asker.relay_state, response=True)

    # --- a browser that got stuck at a service ----------------------------------------------------

    def standing(self, session: Session) -> Standing | None:
        """The logout that this browser has not come to the end of."""
        token = _kept(session).get("token")
        progress = None if token is None else self._single.resume(token)
        if progress is None or not progress.remaining:
            return None
        return Standing(progress, progress.remaining[0])

    def skip(self, standing: Standing) -> LogoutProgress:
        """Go on without the service that did not answer."""
        standing.progress.failed(standing.waiting)
        return standing.progress

    def leave_behind(self, session: Session) -> None:
        """The user signs in again, in the middle of a logout: who remains is told by SOAP."""
        standing = self.standing(session)
        self.asker_of(session)
        if standing is not None:
            self.pass_on([standing.progress])

    def asker_of(self, session: Session) -> Asker | None:
        """Who began the logout that this browser is in, and forget that it is in one."""
        kept = _kept(session)
        if kept:
            del session[PART]
        asker = kept.get("asker")
        return None if asker is None else Asker(*asker)

    # --- back channel ---------------------------------------------------------------------------

    def by_soap(self, received: Received) -> str:
        """A service's request by SOAP, without the user's cookie: end, tell the others, answer."""
        progresses = self._single.begin_for_request(_request(received))
        complete = self.pass_on(progresses)
        xml, _ = logout_response(
            self._messages.entity,
            received.message.id,
            received.issuer,
            BINDING_SOAP,
            complete,
            sign=True,
        )
        return xml

    def pass_on(self, progresses: Iterable[LogoutProgress]) -> bool:
        """Tell all who remain by SOAP; whether everybody is told."""
        complete = True
        for progress in progresses:
            for notice in progress.remaining:
                self._tell(progress, notice)
            complete = complete and progress.is_complete and not progress.is_partial
        return complete

    def settle(self, session: Session) -> LogoutProgress | None:
        """Tell the services of a session that was ended without its cookies, which came now."""
        progress = self._single.pending(session)
        if progress is not None:
            self.pass_on([progress])
        return progress

    # --- helpers --------------------------------------------------------------------------------

    def _begun(
        self, session: Session, asked: LogoutRequest | None, asker: Asker | None
    ) -> LogoutProgress:
        progress = self._single.begin(session, asked)
        # In the session of nobody that this browser has from now on: for the way back, and for
        # whoever gets stuck at a service that does not answer.
        fields = None if asker is None else [asker.entity_id, asker.request_id, asker.relay_state]
        session[PART] = {"token": progress.token, "asker": fields}
        return progress

    def _is_about(self, session: Session, asked: LogoutRequest) -> bool:
        if session.subject is None:
            return False
        record = self._deployment.records.for_session(session)
        try:
            logins = record.services(asked.entity_id)
        except LoginsUnreadable:
            return False
        return any(
            login.name_id.value == asked.name_id.value
            and (not asked.session_indexes or login.session_index in asked.session_indexes)
            for login in logins
        )

    def _tell(self, progress: LogoutProgress, notice: Notice) -> None:
        """Tell one service by SOAP, and keep how that went."""
        address = self._endpoint(notice, BINDING_SOAP)
        if address is None:
            progress.failed(notice)
            return
        message_id = new_id()
        xml = self._draft(notice, address, message_id, sign=True)
        try:
            answer = self._messages.ask(xml, address, message_id, "LogoutResponse")
            _note(progress, notice, answer.succeeded and answer.issuer == notice.entity_id)
        except NoAnswer:
            progress.failed(notice)

    def _draft(self, notice: Notice, address: str, message_id: str, sign: bool) -> str:
        return logout_request(
            self._messages.entity,
            address,
            notice.name_id,
            notice.session_index,
            message_id,
            sign,
        )

    def _endpoint(self, notice: Notice, binding: str) -> str | None:
        """Where a service takes logout requests; None where it does not, or is not known."""
        entity = self._messages.entity
        return next(
            iter(endpoints(entity, "single_logout_service", notice.entity_id, binding)), None
        )


def _request(received: Received) -> LogoutRequest:
    name_id = name_id_of(received.message.name_id)
    if name_id is None:
        raise Refused("it names nobody")
    return LogoutRequest(received.issuer, name_id, tuple(session_indexes_of(received.message)))


def _note(progress: LogoutProgress, notice: Notice, told: bool) -> None:
    if told:
        progress.notified(notice)
    else:
        _log.warning("%s did not sign somebody out", notice.entity_id)
        progress.failed(notice)


def _message_id(progress: LogoutProgress, notice: Notice) -> str:
    """The id of the request that goes by redirect: made from what it tells, so that nobody has to
    keep it until the answer comes.
    """
    what = "\0".join(
        [progress.token, notice.entity_id, str(notice.name_id.value), notice.session_index or ""]
    )
    return f"_{hashlib.sha256(what.encode()).hexdigest()[:40]}"


def _kept(session: Session) -> dict[str, Any]:
    return cast(dict[str, Any], session.get(PART, {}))  # only `_begun` writes it
