"""Single logout: who is to be told, at whose wish, with or without the user's browser.

    progress = logout.begin(session)                           # the user is there: front channel
    for progress in logout.begin_by_request(request): ...      # a service asks: back channel
        for notice in progress:
            progress.told(notice)

Knows sessions, requests of services and tokens; in which order a session is ended is `ending`'s.
Does not know SAML's messages or HTTP: whoever tells services does.

Without a store there is no revocation, no request of a service without the user's cookie, and no
row: the progress is kept in the session, which ends when everybody was told.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from ..._request.load import EndedRecord, LoadedSession, read_revoked
from ..._stored.revocations import Ending
from ...errors import (
    ConfigurationError,
    LogoutRequestMismatch,
    MalformedToken,
    NotSignedIn,
    RowUnreadable,
    SessionWithheld,
    UnreadablePart,
)
from ...keeper import Keeper
from ...session import Session
from ..logins import ServiceLogin
from ..records import LoginRecord, LoginRecords
from ..sessions import LiveSession
from .index import LogoutIndex, LogoutRequest, find_sessions
from .progress import (
    FAILED_PART,
    KeptInSession,
    KeptInStore,
    LogoutProgress,
    Notice,
    notices,
    parted,
)
from .state import REMAINS, State, is_meant
from .termination import Known, SessionTerminator

# How often a session may get a new id while it is being looked for.
FIND_TRIES = 4
# So long (seconds) a logout that nobody goes on with counts as one under way.
UNDER_WAY = 300


class SingleLogout:
    """Logs users out of an identity provider and of its services.

    Made once, it follows every save of `keeper`. Without `index`, only identifiers that
    `records.identifiers` made lead from a service's request to sessions. With a store,
    raises ConfigurationError when that does not meet the needs of ``logout``, or when the ring
    lacks a lookup key or the settings lack the merge rules of `records`.
    """

    def __init__(
        self, keeper: Keeper, records: LoginRecords, index: LogoutIndex | None = None
    ) -> None:
        self._tools, self._keeper = keeper.deployment, keeper
        self._records, self._index = records, index
        self._endings: SessionTerminator | None = None
        store, revocations = keeper.deployment.store, self._tools.revocations
        if store is not None and revocations is not None:
            if self._tools.keyring().lookup is None:
                raise ConfigurationError(
                    "a single logout needs a lookup key; `sealedstate keys generate --lookup`"
                    " prints one, to stand beside the keys"
                )
            if records.columns not in keeper.settings.merge:
                raise ConfigurationError(
                    "merge: without LoginRecords.merge_rules, of two requests at once that add a"
                    " service login one would be lost"
                )
            self._endings = SessionTerminator(keeper, store, revocations, records, index)

    @property
    def revokes(self) -> bool:
        """Whether a session that is logged out is refused from then on; False without a store."""
        return self._endings is not None

    # --- logging out ----------------------------------------------------------------------------

    def begin(self, session: Session, request: LogoutRequest | None = None) -> LogoutProgress:
        """Log the user of this session out, everywhere; `request`: the service that asked for it.

        When this returns, the session is empty, and with a store no node accepts its cookies. The
        services that remain are to be told. Raises StorageError, NoPrimaryKey, SessionWithheld,
        NotSignedIn, LogoutRequestMismatch when `request` means no login of this session, or
        LoginsUnreadable where this node lacks a registry or a key: then nothing was ended, and
        `session.invalidate()` would end it without telling anybody.
        """
        now = self._tools.now()
        services = self._signed_in(session, now).services()
        if request is not None and not any(is_meant(login, request) for login in services):
            raise LogoutRequestMismatch("the request means no service login of this session")
        if self._endings is None:
            return self._begun_in_session(session, now, request)
        session_id, arrived = _id_to_end(session)
        known = Known(session_id, session.subject, services, whole=True)
        state = self._endings.end(known, request)
        if state is None:
            raise SessionWithheld("replaced")
        if arrived is not None:
            arrived.mark_revoked()
        session.invalidate()
        return LogoutProgress(KeptInStore(self._endings.ledger, state))

    def begin_by_request(self, request: LogoutRequest) -> list[LogoutProgress]:
        """End every session that a service's request means, without any cookie.

        One progress for each, also for one that was ended before; none for a request that leads to
        no session, or only to such as ended long ago. Raises ConfigurationError without a store,
        StorageError or NoPrimaryKey when not all could be ended: then ask again.
        """
        if self._endings is None:
            raise ConfigurationError("a logout without the user's cookie needs a storage service")
        looked_at: set[bytes] = set()
        ended: list[LogoutProgress] = []
        for _ in range(FIND_TRIES):
            fresh = self._found(request) - looked_at
            found = [self._ended_by(self._endings, each, request) for each in fresh]
            looked_at |= fresh
            ended += [progress for progress in found if progress is not None]
            # One that got a new id meanwhile has entries under that: look again.
            if None not in found:
                break
        return ended

    def leave(self, session: Session, entity_id: str) -> tuple[Notice, ...]:
        """Log the user out of one service only, with all logins there; what to tell it.

        Raises NotSignedIn or LoginsUnreadable.
        """
        login = self._signed_in(session, self._tools.now())
        left = login.services(entity_id)
        for one in left:
            login.remove_service(one)
        return notices(left)

    def end(self, live: LiveSession) -> LogoutProgress | None:
        """End one session by an administrator, and tell its services; None when it has ended.

        One that was only revoked, which tells nobody, is taken up. Raises ConfigurationError,
        StorageError or NoPrimaryKey.
        """
        if self._endings is None:
            raise ConfigurationError("a logout without the user's cookie needs a storage service")
        ending, ledger = self._endings.ending(live.raw_id), self._endings.ledger
        begun = ending is Ending.REVOKED and ledger.read(ledger.name(live.raw_id)) is not None
        if begun or ending in (Ending.LOGGED_OUT, Ending.REPLACED):
            return None
        state = self._endings.end(Known(live.raw_id, live.subject), None)
        return None if state is None else LogoutProgress(KeptInStore(self._endings.ledger, state))

    def poison(self, subject: str) -> None:
        """End every session of a user that began until now, on every node, by an administrator.

        Its services are told when its cookies come next, see `owed`. Raises ConfigurationError,
        StorageError or NoPrimaryKey.
        """
        self._keeper.revoke_subject(subject)

    # --- going on -------------------------------------------------------------------------------

    def resume(self, token: str | None, session: Session | None = None) -> LogoutProgress | None:
        """The logout that a token leads back to; None for none, for one of nothing, or another's.

        Without a store it is `session` that leads back. Raises StorageError or LoginsUnreadable.
        """
        if self._endings is None:
            if session is None or session.subject is None or FAILED_PART not in session:
                return None
            return LogoutProgress(KeptInSession(self._records, session, self._tools.now()))
        if token is None:
            return None
        try:
            name, secret = parted(token)
        except MalformedToken:
            return None
        state = self._endings.ledger.read(name)
        if state is None or not hmac.compare_digest(state.secret, secret):
            return None
        return LogoutProgress(KeptInStore(self._endings.ledger, state))

    def owed(self, session: Session) -> LogoutProgress | None:
        """What is left of the logout of a session whose cookies this request still carries.

        It was ended by a service's request, by an administrator or in a request whose answer was
        lost, and its services are not all told. The session stays what it is, empty; the response
        deletes its cookies. None in all other cases, and always once all are told. Raises
        StorageError.
        """
        if self._endings is None:
            return None
        ended = read_revoked(self._tools, session, (self._records.columns,))
        if ended is None:
            return None
        try:
            state = self._with_cookies(self._endings, ended)
        except UnreadablePart:
            # They stay in the cookie, for a node that can read them.
            self._tools.emit("logins-unreadable", session_id=ended.id)
            return None
        if state is None or not state.which(REMAINS):
            return None
        session.invalidate()
        return LogoutProgress(KeptInStore(self._endings.ledger, state))

    def unfinished(self, idle: int = UNDER_WAY) -> Iterator[LogoutProgress]:
        """The logouts that nobody has gone on with for `idle` seconds and that are not complete.

        For a job that tells what a crash has left, in a store that can list. Raises StorageError;
        one that this node can't read is passed over.
        """
        if self._endings is None:
            return
        for name in self._endings.ledger.names():
            try:
                state = self._endings.ledger.read(name)
            except (UnreadablePart, RowUnreadable):
                continue
            if state is not None and state.written_at + idle <= self._tools.now():
                state = self._endings.taken_up(state)
                if state.which(REMAINS):
                    yield LogoutProgress(KeptInStore(self._endings.ledger, state))

    # --- helpers --------------------------------------------------------------------------------

    def _signed_in(self, session: Session, now: float) -> LoginRecord:
        if session.subject is None and session.withheld is not None:
            raise SessionWithheld(session.withheld)
        if session.subject is None:
            raise NotSignedIn("nobody is signed in who could be logged out")
        return self._records.for_session(session)

    def _found(self, request: LogoutRequest) -> set[bytes]:
        now = self._tools.now()
        return set(find_sessions(request, self._records.identifiers, self._index, now))

    def _ended_by(
        self, endings: SessionTerminator, session_id: bytes, request: LogoutRequest
    ) -> LogoutProgress | None:
        ending = endings.ending(session_id)
        if ending is Ending.REPLACED:
            return None
        state = None if ending is None else endings.asked_again(session_id, request)
        if state is not None and not (state.which(REMAINS) or state.owed):
            endings.forget_entries(state)
        # One that was revoked from outside has no logout yet.
        if state is None and ending is not Ending.LOGGED_OUT:
            state = endings.end(Known(session_id, None), request)
        return None if state is None else LogoutProgress(KeptInStore(endings.ledger, state))

    def _with_cookies(self, endings: SessionTerminator, ended: EndedRecord) -> State | None:
        columns, subject = self._records.columns, ended.subject
        logins = frozenset[ServiceLogin]()
        if columns in ended.parts and subject is not None:
            logins = self._records.read_logins(ended.parts[columns], ended.id, subject)
        known = Known(ended.id, subject, tuple(logins), whole=columns not in ended.torn)
        return endings.add(known, create=ended.from_outside)

    def _begun_in_session(
        self, session: Session, now: float, request: LogoutRequest | None
    ) -> LogoutProgress:
        login = self._records.for_session(session)
        for authentication in login.authentications():
            login.forget_authentication(authentication.method)
        session[FAILED_PART] = b""
        kept = KeptInSession(self._records, session, now)
        if request is not None:
            kept.asked_by(request)
        kept.end_if_done()
        return LogoutProgress(kept)


def _id_to_end(session: Session) -> tuple[bytes, LoadedSession | None]:
    """The id by which the browser knows this session, and the visit that it arrived by."""
    loaded = session.load()
    is_signed_in = session.changes().is_signed_in
    if isinstance(loaded, LoadedSession) and loaded.record is not None and not is_signed_in:
        return loaded.record.id, loaded
    return session.raw_id, None
