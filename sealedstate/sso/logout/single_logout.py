"""Single logout: which services must be notified, with or without the user's browser.

    progress = logout.begin(session)                            # front channel: the user is there
    for progress in logout.begin_for_request(request): ...      # back channel: a service asks
        for notice in progress:
            progress.notified(notice)

The application sends the messages (SAML, OpenID Connect). `_termination` has the order in which
a session is ended.

Without a store there is no revocation, no row, and no logout by a service's request alone. The
progress is kept in the session, which ends when every service was notified.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from ..._request.load import LoadedSession, read_revoked
from ..._stored.revocations import Ending
from ..._wire.record import parse_id
from ...devices import LiveSession
from ...errors import (
    ConfigurationError,
    HeldBackCookie,
    LogoutRequestMismatch,
    NotSignedIn,
    RowUnreadable,
    SessionWithheld,
    UnreadablePart,
)
from ...keeper import Keeper
from ...session import Session, id_bytes
from ..logins import ServiceLogin, check_seconds
from ..records import LoginRecord, LoginRecords
from ._termination import KnownSession, SessionTerminator
from .index import LogoutIndex, LogoutRequest, find_sessions, lacks_format, matches
from .progress import (
    FAILED_PART,
    PENDING,
    LogoutProgress,
    Notice,
    SessionProgress,
    StoredProgress,
    make_notices,
)

__all__ = ["SingleLogout"]

log = logging.getLogger("sealedstate")

FORMAT_HINT = (
    "; its NameID has no Format: if the service was given another Format than unspecified, pass"
    " LogoutRequest(..., any_format=True)"
)
# How often a session may get a new id while it is being looked for.
FIND_TRIES = 4
# A logout that no node has continued for this long (seconds) counts as interrupted.
UNDER_WAY = 300


class SingleLogout:
    """Logs users out of an identity provider and of its services.

    Follows every save of `keeper`. Without `index`, only identifiers that `records.identifiers`
    derived lead from a service's request to sessions. With a store, raises ConfigurationError if
    the store falls short of the requirements of ``logout``, the ring has no lookup key, or the
    settings lack the merge rules of `records`.
    """

    def __init__(
        self, keeper: Keeper, records: LoginRecords, index: LogoutIndex | None = None
    ) -> None:
        self._deployment, self._keeper = keeper.deployment, keeper
        self._records, self._index = records, index
        self._terminator: SessionTerminator | None = None
        if keeper.deployment.store is not None:
            keeper.deployment.lookup_secret()
            if records.columns not in keeper.settings.merge:
                raise ConfigurationError(
                    "merge: must include LoginRecords.merge_rules; otherwise a service login is"
                    " lost when two requests add one at once"
                )
            self._terminator = SessionTerminator(keeper, records, index)

    @property
    def revokes(self) -> bool:
        """Whether nodes refuse a session that is logged out; False without a store."""
        return self._terminator is not None

    # --- logging out ----------------------------------------------------------------------------

    def begin(self, session: Session, request: LogoutRequest | None = None) -> LogoutProgress:
        """Log the user of this session out of all services.

        `request`: of the service that asked for it, which need not be notified. When this returns,
        the session is empty, and with a store no node accepts its cookies; the remaining services
        must be notified. Raises StorageError, NoPrimaryKey, SessionWithheld, NotSignedIn,
        LogoutRequestMismatch if `request` is about no login of this session, or LoginsUnreadable if
        this node lacks a registry or a key. Then no session was ended; `session.invalidate()` ends
        it without notifying any service.
        """
        # All checks come first: they may refuse the logout only while nothing has happened.
        login = self._login_record(session)
        services = login.services()
        if request is not None and not any(matches(one, request) for one in services):
            hint = FORMAT_HINT if lacks_format(request) else ""
            raise LogoutRequestMismatch(
                f"the request is about no service login of this session{hint}"
            )
        loaded = session.load()
        if isinstance(loaded, LoadedSession):
            if self._terminator is not None and loaded.withheld == HeldBackCookie.reason:
                # The session that this request began is ended by its id. The cookie that the
                # browser held back is of another session.
                loaded.mark_revoked()
            else:
                loaded.check_known()
        if self._terminator is None:
            # The session no longer authenticates its user, but holds the progress.
            for authentication in login.authentications():
                login.forget_authentication(authentication.method)
            session[FAILED_PART] = b""
            progress = SessionProgress(self._records, session)
            progress.begin(request)
            return progress
        # The id that the browser's cookie has, and what the request loaded under it.
        loaded, session_id, opened = session.load(), id_bytes(session), None
        is_same = not session.changes().is_signed_in
        if is_same and isinstance(loaded, LoadedSession) and loaded.record is not None:
            session_id, opened = loaded.record.id, loaded
        known = KnownSession(session_id, session.subject, services, has_read_cookies=True)
        state = self._terminator.end(known, request)
        if state is None:
            # Another user signed in to this browser: that cookie is on its way.
            raise SessionWithheld("replaced")
        # Only now: the cookies are deleted after the revocation is stored, never before.
        if opened is not None:
            opened.mark_revoked()
        session.invalidate()
        return StoredProgress(self._terminator.table, state)

    def begin_for_request(self, request: LogoutRequest) -> list[LogoutProgress]:
        """End every session that a service's request is about, without any cookie.

        Returns one progress for each session, also for one that was ended before; the list is
        empty if the request leads to no session, or only to sessions that ended long ago. Raises
        ConfigurationError without a store, StorageError or NoPrimaryKey if some session could not
        be ended: then the service should ask again.
        """
        terminator = self._require_terminator()
        seen: set[bytes] = set()
        begun: list[LogoutProgress] = []
        for _ in range(FIND_TRIES):
            now, identifiers = self._deployment.now(), self._records.identifiers
            named = find_sessions(request, identifiers, self._index, now)
            # A session that got a new id is meant, also where only its old id was derived.
            found = {terminator.last_id(each) for each in named} - seen
            progresses = [self._end_for_request(terminator, each, request) for each in found]
            seen |= found
            begun += [progress for progress in progresses if progress is not None]
            # A session that got a new id meanwhile has entries under that: look again.
            if None not in progresses:
                break
        if not begun and not seen and lacks_format(request):
            log.warning("a logout request leads to no session%s", FORMAT_HINT)
        return begun

    def leave_service(self, session: Session, entity_id: str) -> tuple[Notice, ...]:
        """Log the user out of one service, from all logins there; returns notices.

        Raises NotSignedIn, SessionWithheld or LoginsUnreadable.
        """
        login = self._login_record(session)
        services = login.services(entity_id)
        for one in services:
            login.remove_service(one)
        return make_notices(services)

    def end(self, live: LiveSession) -> LogoutProgress | None:
        """End one session at an administrator's wish; None if it has ended.

        Also begins the logout of a session that was only revoked, which notified no service.
        Raises ConfigurationError, StorageError or NoPrimaryKey.
        """
        terminator = self._require_terminator()
        session_id, table = parse_id(live.session_id), terminator.table
        ending = terminator.revocations.ending(session_id)
        has_begun = ending is Ending.REVOKED and table.read(table.key(session_id)) is not None
        if has_begun or ending is Ending.LOGGED_OUT:
            return None
        state = terminator.end(KnownSession(session_id, live.subject), None)
        return None if state is None else StoredProgress(terminator.table, state)

    def revoke_subject(self, subject: str) -> None:
        """End every session of a user that began until now, on every node.

        Their services are notified when their cookies come next, see `pending`. Raises
        ConfigurationError, StorageError or NoPrimaryKey.
        """
        self._keeper.revoke_subject(subject)

    # --- continuing -----------------------------------------------------------------------------

    def resume(self, token: str | None, session: Session | None = None) -> LogoutProgress | None:
        """The logout that a token leads back to; None if there is none.

        Without a store, `session` leads back. Raises StorageError or LoginsUnreadable.
        """
        if self._terminator is None:
            if session is None or session.subject is None or FAILED_PART not in session:
                return None
            return SessionProgress(self._records, session)
        if token is None:
            return None
        state = self._terminator.table.find(token)
        return None if state is None else StoredProgress(self._terminator.table, state)

    def pending(self, session: Session) -> LogoutProgress | None:
        """The pending services of the ended session that this request's cookies name.

        That is a session that was ended by a service's request, by an administrator, or in a
        request whose response was lost. The session stays empty, and the response deletes its
        cookies. None in all other cases, and once all services were notified. Raises StorageError.
        """
        if self._terminator is None:
            return None
        ended = read_revoked(self._deployment, session, (self._records.columns,))
        if ended is None:
            return None
        columns, subject = self._records.columns, ended.subject
        logins = frozenset[ServiceLogin]()
        try:
            if columns in ended.parts and subject is not None:
                logins = self._records.read_logins(ended.parts[columns], ended.id, subject)
            is_read = columns not in ended.torn
            known = KnownSession(ended.id, subject, tuple(logins), has_read_cookies=is_read)
            state = self._terminator.add_logins(known, create=ended.from_outside)
        except UnreadablePart:
            # The logins stay in the cookie until a node that can read them gets it.
            self._deployment.emit("logins-unreadable", session_id=ended.id)
            return None
        if state is None or PENDING not in state.status:
            return None
        session.invalidate()
        return StoredProgress(self._terminator.table, state)

    def unfinished(self, idle: int = UNDER_WAY) -> Iterator[LogoutProgress]:
        """The logouts with pending services, not continued for `idle` seconds.

        For a job that notifies the services that a crash has left, on a store that can list. Leaves
        out logouts that this node cannot read. Raises StorageError, and UnsupportedValue for an
        `idle` that is no number.
        """
        check_seconds("idle", idle)
        if self._terminator is None:
            return
        table = self._terminator.table
        for key in table.list_keys():
            try:
                state = table.read(key)
            except (UnreadablePart, RowUnreadable):
                continue
            if state is not None and state.written_at + idle <= self._deployment.now():
                state = self._terminator.resume(state)
                if PENDING in state.status:
                    yield StoredProgress(self._terminator.table, state)

    # --- helpers --------------------------------------------------------------------------------

    def _require_terminator(self) -> SessionTerminator:
        if self._terminator is None:
            raise ConfigurationError(
                "storage: a logout without the user's cookie needs a store; set storage"
            )
        return self._terminator

    def _login_record(self, session: Session) -> LoginRecord:
        if session.subject is None and session.withheld is not None:
            raise SessionWithheld(session.withheld)
        if session.subject is None:
            raise NotSignedIn("no user is signed in to this session")
        return self._records.for_session(session)

    def _end_for_request(
        self, terminator: SessionTerminator, session_id: bytes, request: LogoutRequest
    ) -> LogoutProgress | None:
        ending, state = terminator.revocations.ending(session_id), None
        if ending is Ending.REPLACED:
            return None
        if ending is not None:
            state = terminator.table.change_existing(
                session_id, lambda found: found.mark_requested(request)
            )
        if state is not None and state.is_settled:
            terminator.forget_entries(state)
        # A session that was revoked by its id has no logout yet; one that was logged out locally
        # notifies no service.
        if state is None and ending is not Ending.LOGGED_OUT:
            state = terminator.end(KnownSession(session_id, None), request)
        return None if state is None else StoredProgress(terminator.table, state)
