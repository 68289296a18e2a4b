"""Ends one session by its id, in the safe order, and records which services must be notified.

    1. record the services that are known (`progress`)
    2. revoke the session; once the store has acknowledged that, no node accepts it
    3. read the stored login records, and record the services that were added meanwhile
    4. delete the stored login records; delete the index entries once no service is pending

If a step fails before the end of step 2, the caller gets the error and no session was ended. If
a later step fails, the session is still logged out, and the row says that services are pending.

A request that is under way adds a service login in this order: write it, then check for a
revocation, then answer. So either step 3 finds the login, or that request finds the revocation
and records the login itself (`before_sending`).

A session whose login records live in the store also has a row of the context
``sealedstate.sso.owner``, because identifiers that are derived from the subject cannot be
derived again without it. The row is named by BLAKE2b-192 of
LP("sealedstate/1", "sso.owner", realm, session id), as text (LP and the text of a name are
as in docs/format.md). It holds the subject as UTF-8, sealed like every stored value. It is
written before the login records are, and lives as long as they can.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..._request.load import revoke_id
from ..._stored.revocations import MAX_SUCCESSORS, Ending, too_many_ids
from ..._stored.table import Kind
from ..._wire import cbor
from ..._wire.record import Place, Policy
from ...errors import StorageError, UnreadableError, UnreadablePart
from ...hooks import SaveEvent, SessionHooks
from ...keeper import Keeper
from ...session import Part, Session
from ..logins import ServiceLogin
from ..records import LoginRecords, needs_subject
from .index import LogoutIndex, LogoutRequest, find_added
from .progress import LogoutState, LogoutTable

SUBJECT_KIND = Kind("sealedstate.sso.owner", "sso.owner", "a session's subject")

log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class KnownSession:
    """What the caller knows of a session when its logout begins.

    `has_read_cookies`: all its cookies were read, so they hold no logins but `logins`.
    """

    session_id: bytes = field(repr=False)
    subject: str | None = field(repr=False)
    logins: tuple[ServiceLogin, ...] = field(default=(), repr=False)
    has_read_cookies: bool = False


class SessionTerminator(SessionHooks):
    """Ends sessions of `keeper`, which has a store, and follows every save."""

    def __init__(self, keeper: Keeper, records: LoginRecords, index: LogoutIndex | None) -> None:
        deployment = keeper.deployment
        if deployment.revocations is None or deployment.parts is None:
            raise AssertionError("sessions are ended by id only with a store")
        self._deployment = deployment
        self.revocations, self._parts = deployment.revocations, deployment.parts
        self._records, self._index = records, index
        self._policy = deployment.policies.get(records.columns, Policy.AUTO)
        self._subjects = deployment.table(SUBJECT_KIND)
        self.table = LogoutTable(deployment, records)
        keeper.add_hooks(self, ("logout",))

    # --- ending ---------------------------------------------------------------------------------

    def end(self, known: KnownSession, request: LogoutRequest | None) -> LogoutState | None:
        """End a session, or the session of the same subject that has replaced it.

        None if it was replaced by a session of another subject. Raises StorageError or NoPrimaryKey
        if it could not be ended.
        """
        for _ in range(1 + MAX_SUCCESSORS):
            state = self._end_id(known, request)
            if state is not None:
                return state
            successor = self.revocations.next_id(known.session_id)
            if successor is None:
                return None
            known = replace(known, session_id=self.last_id(successor), has_read_cookies=False)
        raise too_many_ids()

    def last_id(self, session_id: bytes) -> bytes:
        """The id under which a session continues for the same subject; else its own id.

        Raises StorageUnavailable after MAX_SUCCESSORS.
        """
        for _ in range(1 + MAX_SUCCESSORS):
            successor = self.revocations.next_id(session_id)
            if successor is None:
                return session_id
            session_id = successor
        raise too_many_ids()

    def _end_id(self, known: KnownSession, request: LogoutRequest | None) -> LogoutState | None:
        """End a session; None if it has, or may have, got a new id."""
        # The row of a session that is not revoked belongs to a logout that failed before step 2.
        # Nothing in it counts as notified: the user may have returned to those services since.
        is_live = self.revocations.ending(known.session_id) is None
        new = self.table.create_state(known.session_id, known.subject, pending_in_cookie=True)

        def record(state: LogoutState) -> LogoutState:
            state = state.restart() if is_live else state
            if request is not None:
                state = state.mark_requested(request)
            return _add_known(state, known)

        # Step 1. A crash after it leaves a row that `SingleLogout.unfinished` completes.
        state = self._change(new, record)
        # Step 2. It raises if the revocation may not be stored: no logout is claimed then.
        ended = revoke_id(self._deployment, known.session_id, follows=False)
        if ended is None and self.revocations.ending(known.session_id) is Ending.REPLACED:
            # The session continues under a new id, so this row is about no logout.
            self.table.delete(known.session_id)
            return None
        return self.collect_stored_logins(state, known.has_read_cookies)

    def collect_stored_logins(
        self, state: LogoutState, has_read_cookies: bool = False
    ) -> LogoutState:
        """Steps 3 and 4: record what the store has of a session, then delete it.

        If a step fails, the state stays as it is, with logins that may be pending.
        """
        try:
            stored = self._read_stored_logins(state)
            known = stored or KnownSession(state.session_id, state.subject)
            if has_read_cookies:
                known = replace(known, has_read_cookies=True)
            # Step 3 comes before step 4, because only logins in the row may be deleted elsewhere.
            recorded = self._change(state, lambda found: _complete(found, known))
            if stored is not None:
                self._parts.delete(state.session_id, self._records.columns)
                self._subjects.delete(self._subjects.key(state.session_id))
            # A service that asks again must find this logout while a service is pending.
            if recorded.is_settled:
                self.forget_entries(recorded)
            return recorded
        except (StorageError, UnreadableError, UnreadablePart) as error:
            log.warning("a session is logged out, but its clean-up is incomplete: %s", error)
            return state

    def resume(self, state: LogoutState) -> LogoutState:
        """Continue an interrupted logout as far as possible without the browser."""
        if self.revocations.ending(state.session_id) is None:
            # It was interrupted between steps 1 and 2.
            revoke_id(self._deployment, state.session_id, follows=False)
        if self.revocations.ending(state.session_id) is Ending.REPLACED:
            known = KnownSession(state.session_id, state.subject, state.logins)
            return self.end(known, None) or state
        return self.collect_stored_logins(state)

    # --- logouts that have begun ----------------------------------------------------------------

    def add_logins(self, known: KnownSession, create: bool) -> LogoutState | None:
        """Record service logins that became known only after their session was ended.

        `create`: also if no logout of the session is recorded; otherwise that gives None.
        """
        new = self.table.create_state(known.session_id, known.subject, pending_in_cookie=False)
        if create:
            return self._change(new, lambda state: _complete(state, known))
        return self.table.change_existing(known.session_id, lambda state: _complete(state, known))

    def forget_entries(self, state: LogoutState) -> None:
        """Remove the index entries of a session whose services were all notified."""
        if self._index is not None:
            self._index.forget(state.session_id, state.logins)

    # --- hooks ----------------------------------------------------------------------------------

    def before_save(self, event: SaveEvent) -> None:
        """Store the subject before the session's login records go to the store."""
        name, record = self._records.columns, event.record
        part = event.parts.get(name)
        if part is None or event.places.get(name) is not Place.SPILLED or record.subject is None:
            return
        if event.has_new_id or part.place is not Place.SPILLED:
            expires_at = (record.expires_at + self._deployment.settings.skew) * 1000
            self._subjects.create(
                self._subjects.key(record.id), record.subject.encode(), expires_at
            )

    def before_sending(self, event: SaveEvent) -> None:
        """Record the logins that this save adds if the session was ended meanwhile."""
        record, added = event.record, find_added(self._deployment, self._records, event)
        if not added:
            return
        try:
            self.revocations.check(record)
        except UnreadableError:
            self._add_late(KnownSession(record.id, record.subject, tuple(added)))

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        """Record the logins of a session that a logout overtakes."""
        part = session.changes().parts.get(self._records.columns)
        if not (isinstance(part, Part) and part.is_changed) or session.subject is None:
            return
        try:
            services = self._records.for_session(session).services()
        except UnreadablePart:
            self._deployment.emit("logins-unreadable", session_id=arrived_id)
            return
        self._add_late(KnownSession(arrived_id, session.subject, services))

    # --- helpers --------------------------------------------------------------------------------

    def _add_late(self, known: KnownSession) -> None:
        # A local logout notifies no service. Every other ending does, so the logins need a row.
        ending = self.revocations.ending(known.session_id)
        self.add_logins(known, create=ending is not Ending.LOGGED_OUT)

    def _change(
        self, new: LogoutState, change: Callable[[LogoutState], LogoutState]
    ) -> LogoutState:
        """Change the row of a session, which is `new` if there is none."""
        changed = self.table.change(new.session_id, lambda state: change(state or new), known=new)
        return changed or new

    def _read_stored_logins(self, state: LogoutState) -> KnownSession | None:
        """What the store has of a session; None if it has no readable login records."""
        if self._policy is Policy.COOKIE:
            return None
        recalled = self._parts.recall(state.session_id, self._records.columns)
        if recalled is None:
            return None
        session_id, subject, value = state.session_id, state.subject, cbor.decode(recalled.value)
        if subject is None:
            entry = self._subjects.read(self._subjects.key(session_id))
            subject = None if entry is None else entry.value.decode()
        if subject is None and any(map(needs_subject, self._records.read_columns(value))):
            return None  # they stay in the store; the logout stays pending
        logins = self._records.read_logins(value, session_id, subject or "")
        # Unless the part lives only in the store, cookies may hold newer logins.
        return KnownSession(session_id, subject, tuple(logins), self._policy is Policy.SERVER)


def _add_known(state: LogoutState, known: KnownSession) -> LogoutState:
    if state.subject is None and known.subject is not None:
        state = state.with_subject(known.subject)
    return state.add(known.logins)


def _complete(state: LogoutState, known: KnownSession) -> LogoutState:
    """Add what is known of a revoked session, whose cookies may be settled by it."""
    pending_in_cookie = state.pending_in_cookie and not known.has_read_cookies
    return replace(_add_known(state, known), pending_in_cookie=pending_in_cookie)
