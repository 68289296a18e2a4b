"""Ends one session by its id, in the safe order, and records whom to tell.

Knows the order of steps, and what a request under way does that was overtaken by them. Does not
know the user's session of this request, nor how a session was found.

    1. what is to be told is recorded (`ledger`), then
    2. the revocation is; from when that was acknowledged, no node accepts the session
    3. login records that were written meanwhile are read and recorded, too
    4. stored login records are deleted; index entries are once nobody is left to be told

What fails before the end of step 2 raises, and nothing was ended. What fails later costs no logout:
the row says that something is owed. A request under way that adds a service login looks for a
revocation after it has written and before it answers. So either step 3 finds its login, or it
records it itself, as one more to be told.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..._request.load import recall_part
from ..._stored.revocations import Ending, Revocations
from ..._wire import cbor as codec
from ..._wire.encoding import to_text
from ..._wire.record import Place, Policy, Record
from ...deployment import Deployment
from ...errors import RowUnreadable, StorageError, UnreadableError, UnreadablePart
from ...hooks import SaveEvent, SessionHooks
from ...keeper import Keeper
from ...keyring import length_prefixed
from ...session import Part, Session
from ...storage.contract import Storage, next_version
from ..logins import ServiceLogin
from ..records import LoginRecords, needs_subject
from .index import LogoutIndex, LogoutRequest
from .state import REMAINS, Ledger, State

# FOLD sealedstate.sso.owners
# Whose session it is, for a logout request that comes without a cookie.
#
# Knows one small row for each session whose login records live in the store: its subject, without
# which the NameIDs that are made from it can't be made again. Does not know login records.
#
# A row of the context ``sealedstate.sso.owner`` is named by the text (see `chunking`) of
# BLAKE2b-192
# of LP("sealedstate/1", "sso.owner", realm, session id). It holds the subject as UTF-8, sealed like
# every stored value. It is written before the login records are, and lives as long as they can.


CONTEXT = "sealedstate.sso.owner"


@dataclass(frozen=True, slots=True)
class SubjectTable:
    """The rows of one deployment. Everything raises StorageError."""

    tools: Deployment
    storage: Storage

    def write(self, record: Record, now: float) -> None:
        """Keep the subject of a session, once."""
        if record.subject is None:
            return
        tools, name, version = self.tools, self._name(record.id), next_version(now)
        data, ring = record.subject.encode(), tools.keyring()
        value = tools.rows.seal_row(CONTEXT, name, version, data, ring, now)
        expires_at = (record.expires_at + tools.settings.skew) * 1000
        self.storage.create(CONTEXT, name, value, expires_at, version)

    def read(self, session_id: bytes, now: float) -> str | None:
        """The subject of a session, where it was kept."""
        name = self._name(session_id)
        stored = self.storage.read(CONTEXT, name)
        if stored is None:
            return None
        try:
            ring = self.tools.keyring()
            return self.tools.rows.open_row(CONTEXT, name, stored, ring, now).decode()
        except UnreadableError as error:
            if error.keeps_cookie:
                raise RowUnreadable(f"an owner is unreadable here ({error.reason})") from error
            return None

    def delete(self, session_id: bytes) -> None:
        """Forget the owner of a session that has ended."""
        self.storage.delete(CONTEXT, self._name(session_id))

    def _name(self, session_id: bytes) -> str:
        realm = self.tools.settings.realm
        message = length_prefixed("sealedstate/1", "sso.owner", realm, session_id)
        return to_text(hashlib.blake2b(message, digest_size=24).digest())


log = logging.getLogger("sealedstate")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a session when its logout begins.

    `whole`: its cookies were read, so that nothing else can be in them.
    """

    session_id: bytes
    subject: str | None
    logins: tuple[ServiceLogin, ...] = ()
    whole: bool = False


class SessionTerminator(SessionHooks):
    """Ends sessions of `keeper`, and follows every save."""

    def __init__(
        self,
        keeper: Keeper,
        storage: Storage,
        revocations: Revocations,
        records: LoginRecords,
        index: LogoutIndex | None,
    ) -> None:
        self._keeper, self._tools = keeper, keeper.deployment
        self._storage, self._revocations = storage, revocations
        self._records, self._index = records, index
        self._owners = SubjectTable(self._tools, storage)
        self.ledger = Ledger(self._tools, storage, records)
        keeper.add_hooks(self, ("logout",))

    # --- ending ---------------------------------------------------------------------------------

    def end(self, known: Known, request: LogoutRequest | None) -> State | None:
        """End a session; None when it has, or may have, got a new id.

        Raises StorageError or NoPrimaryKey when it could not be ended.
        """
        name = self.ledger.name(known.session_id)
        begun = self.ledger.begun(known.session_id, known.subject, owed=True)
        # A row of a session that lives is of a logout that did not come about: nothing counts as
        # told, for the user may have gone there again.
        is_live = self.ending(known.session_id) is None

        def changed(state: State) -> State:
            return _joined(state.begun_again() if is_live else state, known, request)

        state = self._changed(name, begun, changed)
        first = self._keeper.revoke_session(known.session_id)
        if not first and self.ending(known.session_id) is Ending.REPLACED:
            self.ledger.delete(name)
            return None
        return self.settle(state, known.whole)

    def ending(self, session_id: bytes) -> Ending | None:
        """How a session was ended. Raises StorageError."""
        return self._revocations.ending(session_id)

    def settle(self, state: State, whole: bool = False) -> State:
        """Record what the store still knows of a revoked session, and delete that.

        What fails here leaves the logout as it is, with something owed.
        """
        try:
            stored = self._stored(state)
            # Where they may also live in cookies, what the store has may be of before.
            owed = not (whole or (stored.is_read and self._policy is Policy.SERVER))
            known = Known(state.session_id, stored.subject, stored.logins)
            settled = self._changed(
                self.ledger.name(state.session_id),
                state,
                lambda now: replace(_joined(now, known, None), owed=now.owed and owed),
            )
            self._forget(settled, stored)
            return settled
        except (StorageError, UnreadablePart) as error:
            log.warning("a logout is recorded, and something of it is left for later: %s", error)
            return state

    def asked_again(self, session_id: bytes, request: LogoutRequest) -> State | None:
        """A logout that is under way or over, which a service asks for; None without a row."""
        return self.ledger.change(
            self.ledger.name(session_id),
            lambda state: None if state is None else state.asked_by(request),
        )

    def taken_up(self, state: State) -> State:
        """A logout in which somebody stopped, brought as far as it can be without the browser."""
        if self.ending(state.session_id) is None:
            self._keeper.revoke_session(state.session_id)
        return self.settle(state)

    def forget_entries(self, state: State) -> None:
        """Remove what leads from services to a session of which all were told."""
        if self._index is not None:
            self._index.forget(state.session_id, state.logins)

    def add(self, known: Known, create: bool) -> State | None:
        """Record service logins of a session that was ended before they were known.

        `create`: also where no logout of it is recorded; else that is None.
        """
        begun = self.ledger.begun(known.session_id, known.subject, owed=False)

        def changed(state: State | None) -> State | None:
            if state is None and not create:
                return None
            joined = _joined(state or begun, known, None)
            return replace(joined, owed=joined.owed and not known.whole)

        return self.ledger.change(self.ledger.name(known.session_id), changed)

    # --- following ------------------------------------------------------------------------------

    def before_save(self, save: SaveEvent) -> None:
        """Keep whose login records are about to go to the store."""
        name = self._records.columns
        part = save.parts.get(name)
        if part is None or save.places.get(name) is not Place.SPILLED:
            return
        if save.has_new_id or part.place is not Place.SPILLED:
            self._owners.write(save.record, save.now)

    def before_sending(self, save: SaveEvent) -> None:
        """A login that was added while the session was being ended is to be told, too."""
        try:
            added = self._records.find_new_logins(save)
        except UnreadablePart:
            self._tools.emit("logins-unreadable", session_id=save.record.id)
            return
        if added and self._is_ended(save):
            self._late(Known(save.record.id, save.record.subject, tuple(added)))

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        """The same for one that will not even be saved."""
        part = session.changes().parts.get(self._records.columns)
        is_changed = isinstance(part, Part) and part.is_changed
        if not is_changed or session.subject is None:
            return
        try:
            services = self._records.for_session(session).services()
        except UnreadablePart:
            self._tools.emit("logins-unreadable", session_id=arrived_id)
            return
        self._late(Known(arrived_id, session.subject, services))

    # --- helpers --------------------------------------------------------------------------------

    @property
    def _policy(self) -> Policy:
        return self._tools.policies.get(self._records.columns, Policy.AUTO)

    def _late(self, known: Known) -> None:
        # A local logout leaves the services alone; everything else that ends a session does not.
        self.add(known, create=self.ending(known.session_id) is not Ending.LOGGED_OUT)

    def _is_ended(self, save: SaveEvent) -> bool:
        try:
            self._revocations.check(save.record)
        except UnreadableError:
            return True
        return False

    def _changed(self, name: str, begun: State, change: Callable[[State], State]) -> State:
        return self.ledger.change(name, lambda state: change(state or begun)) or begun

    def _stored(self, state: State) -> _Stored:
        """The service logins in the store."""
        if self._policy is Policy.COOKIE:
            return _Stored(state.subject)
        data = recall_part(self._tools, state.session_id, self._records.columns)
        if data is None:
            return _Stored(state.subject)
        subject = state.subject
        if subject is None:
            subject = self._owners.read(state.session_id, self._tools.now())
        value = codec.decode(data)
        if subject is not None:
            logins = self._records.read_logins(value, state.session_id, subject)
            return _Stored(subject, tuple(logins), is_read=True)
        if any(needs_subject(login) for login in self._records.read_columns(value)):
            return _Stored(None)
        return _Stored(
            None, tuple(self._records.read_logins(value, state.session_id, "")), is_read=True
        )

    def _forget(self, state: State, stored: _Stored) -> None:
        if stored.is_read:
            if self._tools.parts is not None:
                self._tools.parts.delete(state.session_id, self._records.columns)
            self._owners.delete(state.session_id)
        # Who asks again is to find the same logout, as long as somebody is to be told.
        if not (state.which(REMAINS) or state.owed):
            self.forget_entries(state)


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the store holds of a session. `is_read`: its login records are there, and were read."""

    subject: str | None
    logins: tuple[ServiceLogin, ...] = ()
    is_read: bool = False


def _joined(state: State, known: Known, request: LogoutRequest | None) -> State:
    if request is not None:
        state = state.asked_by(request)
    if state.subject is None:
        state = replace(state, subject=known.subject)
    return state.joined(known.logins)
