"""The live sessions of a deployment: for administrators, and for a user's own devices.

Optional: without a `SessionRegistry` a session leaves nothing in the store but its
spilled parts.

A row of the context ``sealedstate.sessions`` is named by BLAKE2b-192 of
LP("sealedstate/1", "sessions", realm, session id), as text (LP and the text of a name
are as in docs/format.md). That name is also the id that administrators and users see;
the session's own id cannot be computed from it. The row holds, sealed, the CBOR list of
the format (1), the session's id, its subject, when it began, when it was last seen
(epoch seconds), and where. The index of a subject's rows is named by the same hash of
the subject, keyed with the ring's lookup secret.

A row is written before its session is saved for the first time, and after that only by
saves that happen anyway: the first in each period of `every` seconds. Reading a session
writes nothing. So `last_seen` may be late by the settings' `refresh_after` and `every`.

Where the sessions of a user are limited, the row of the name of the index holds, sealed,
the CBOR list of the format (2) and the list of the names of rows, in the order in which
their sessions signed in. A session takes the last place once it is saved under a new id,
and looks at the rows of the others after that. It ends only sessions before it: so of two
that begin at once, the later sees the earlier and may end it, and never each the other.
A session without a place is about to take it, unless its row is older than a minute: then
it began before there was a limit, or the store has failed. It counts as the first, takes
the last place with its next row, and ends others with a later row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from ._request.load import LoadedSession, revoke_id
from ._stored.table import Entry, Kind, Put
from ._wire import cbor
from ._wire.encoding import has_lone_surrogate
from ._wire.record import format_id, parse_id
from .adapting import DEVICES, sealed
from .errors import (
    ConfigurationError,
    MalformedRecord,
    RowUnreadable,
    StorageUnavailable,
    UnsupportedValue,
    show_value,
)
from .hooks import SaveEvent, SessionHooks
from .keeper import Keeper
from .session import Session

__all__ = ["LiveSession", "SessionRegistry", "make_registry", "require_registry"]

KIND = Kind("sealedstate.sessions", "sessions", "a listed session")
FORMAT, ORDER_FORMAT = 1, 2
EVERY = 300
MOST = 1000
# How long a session that signs in may take from its row to its place in the order.
SIGN_IN_SECONDS = 60
R = TypeVar("R")
_ID = re.compile(r"[A-Za-z0-9_.]{32}")


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One session, as users and administrators see it. Times in epoch seconds.

    `id`: its name for them, 32 characters. `where`: the node that saw it last, or what the
    registry's function `where` says. `session_id`: its `Session.id`, which
    `Keeper.revoke_session` takes. `is_current`: whether it is the session that asked.
    """

    id: str
    subject: str = field(repr=False)
    started: int
    last_seen: int
    where: str
    session_id: str = field(repr=False)
    is_current: bool = False


# In the class, `list` is a method.
_Sessions: TypeAlias = list[LiveSession]


class SessionRegistry(SessionHooks):
    """The live sessions of all nodes that have a registry.

    Follows every save of `keeper`. `where` names this node, or is a function that names
    the browser or the place of a session. `every`: a session's row is written at most once
    in this many seconds. `most`: how many sessions a user may have at a time, 1 to 1000;
    None for any number. After a sign-in, those are ended that were last used longest ago.

    The sign-in does not depend on that: if the store fails meanwhile, it is logged, and a
    later sign-in, or a later row of one of the sessions, ends them. Raises
    ConfigurationError without a store or a lookup key, and if the store falls short of the
    requirements of ``sessions``.
    """

    def __init__(
        self,
        keeper: Keeper,
        where: str | Callable[[Session], str] = "",
        every: int = EVERY,
        most: int | None = None,
    ) -> None:
        if type(every) is not int or every < 1:
            raise ConfigurationError(
                f"every: must be a whole number of seconds, at least 1; got {show_value(every)}"
            )
        if most is not None and (type(most) is not int or not 1 <= most <= MOST):
            raise ConfigurationError(
                f"most: must be a whole number from 1 to {MOST}, or None; got {show_value(most)}"
            )
        if not callable(where):
            _check_where(where)
        deployment = self._deployment = keeper.deployment
        self._table = deployment.table(KIND)
        deployment.lookup_secret()
        if deployment.revocations is None:  # `table` refuses to do without a store
            raise AssertionError("a store without revocations")
        self._keeper, self._revocations = keeper, deployment.revocations
        self._settings, self._where, self._every = deployment.settings, where, every
        self._most = most
        keeper.add_hooks(self, ("sessions",))

    # --- for users ------------------------------------------------------------------------------

    def of(self, session: object) -> _Sessions:
        """The live sessions of the user of `session`; the last used comes first.

        `session`: a Session, or what a framework has for it (see `adapting.sealed`); it is
        marked as the current among them. Empty for a visitor. Sessions that this node
        cannot read are left out and logged, and those from before the registry are not
        known. Raises StorageError.
        """
        return self._list_own(sealed(session))[0]

    def end_one(self, session: object, id: str) -> LiveSession | None:
        """End another session of the user of `session`; returns what it was.

        `id`: its `LiveSession.id`, as it came with the request. None if the user has no such
        session, and for `session` itself, which `invalidate` ends. Raises StorageError.
        """
        own = sealed(session)
        live = self.find(id)
        if live is None or live.subject != own.subject or id in self._current_ids(own):
            return None
        return live if self._keeper.revoke_session(live.session_id) else None

    def end_others(self, session: object) -> int:
        """End all other sessions of the user of `session`; returns how many there were.

        Raises StorageError, also if this node cannot read some rows; it ends the other
        sessions first.
        """
        sessions, unreadable = self._list_own(sealed(session))
        return self._end(unreadable, [each for each in sessions if not each.is_current])

    # --- for administrators ---------------------------------------------------------------------

    def list(self, subject: str | None = None) -> _Sessions:
        """The live sessions, or those of one user; the last seen comes first.

        Rows that this node cannot read are left out and logged. Raises StorageError.
        """
        return self._list(subject)[0]

    def find(self, session: str) -> LiveSession | None:
        """The live session with this `LiveSession.id`. Raises StorageError."""
        return self._find_live(session, {}) if _ID.fullmatch(session) else None

    def revoke(self, session: str) -> bool:
        """End one session; False if there is no live session with this id.

        Its services are notified when its cookies come next (`SingleLogout.pending`), or by
        `SingleLogout.end`. Raises StorageError.
        """
        live = self.find(session)
        return live is not None and self._keeper.revoke_session(live.session_id)

    def revoke_subject(self, subject: str) -> None:
        """End all sessions of a user, listed or not. Raises StorageError."""
        self._keeper.revoke_subject(subject)

    def revoke_all(self) -> int:
        """End all sessions that are listed now; returns how many there were.

        Raises StorageError, also if this node cannot read some rows; it ends the other
        sessions first.
        """
        sessions, unreadable = self._list()
        return self._end(unreadable, sessions)

    # --- hooks ----------------------------------------------------------------------------------

    def before_save(self, event: SaveEvent) -> None:
        """Write the row of a session that is new or was not written for a while."""
        record, now = event.record, int(event.now)
        if record.subject is None or not self._is_row_due(event):
            return
        # Until the cookie of the last save before the next row expires.
        idle = now + (record.terms.idle or self._settings.idle_lifetime) + self._every
        expires_at = (min(record.expires_at, idle) + self._settings.skew) * 1000
        key = self._table.key(record.id)
        where = self._where(event.session) if callable(self._where) else self._where
        _check_where(where)
        row = [FORMAT, record.id, record.subject, record.created_at, now, where]
        wanted = Put(cbor.encode(row), expires_at)
        self._table.change(key, lambda _: wanted, is_new=event.has_new_id, replaces_unreadable=True)
        self._table.add_member(self._table.guessable_key(record.subject), key, expires_at)

    def after_failed_save(self, event: SaveEvent) -> None:
        """Remove the row of a session whose cookie was not sent."""
        record = event.record
        if record.subject is not None and event.has_new_id:
            key = self._table.key(record.id)
            self._table.delete(key)
            self._table.remove_member(self._table.guessable_key(record.subject), key)

    def after_save(self, event: SaveEvent) -> None:
        """End the sessions of the user that are too many, if a row was written."""
        record, most = event.record, self._most
        if most is None or record.subject is None or not self._is_row_due(event):
            return
        own, index = self._table.key(record.id), self._table.guessable_key(record.subject)
        if not event.has_new_id and len(self._table.members(index)) <= most:
            return
        members: Mapping[str, int | None] = {}
        order: list[str] = []
        had_place = False

        def take_place(entry: Entry | None) -> Put | None:
            nonlocal members, order, had_place
            before: list[str] = []
            if entry is not None and entry.error is None:
                kind, names, *_ = _decode(entry)
                before = [key for key in names if type(key) is str] if kind == ORDER_FORMAT else []
            # After the order was read: each session that has a place is in the index.
            members = self._table.members(index)
            order = [key for key in before if key in members]
            had_place = own in order
            if not had_place:
                order.append(own)
            if own not in members or order == before:
                return None
            expires_at = max(members[key] or 0 for key in order)
            return Put(cbor.encode([ORDER_FORMAT, order]), expires_at)

        self._table.change(index, take_place)
        if own not in members or len(members) <= most or not (event.has_new_id or had_place):
            return
        places = {key: number for number, key in enumerate(order)}
        signs_in_since = event.now - SIGN_IN_SECONDS - self._settings.skew

        def rank(each: LiveSession) -> tuple[int, int]:
            # Without a place it signs in at this moment, or began before there was a limit.
            late = len(order) if each.last_seen > signs_in_since else -1
            return each.last_seen, places.get(each.id, late)

        others = [each for each in self._list(record.subject)[0] if each.id != own]
        for each in sorted(others, key=rank, reverse=True)[most - 1 :]:
            if rank(each)[1] < places[own]:
                # A new id that it got meanwhile has a later place.
                revoke_id(self._deployment, parse_id(each.session_id), follows=False)

    def after_revoke(self, session_id: bytes, now: float) -> None:
        """Remove a session that was ended or got a new id."""
        session = self._read(self._table.key(session_id))
        if session is not None:
            self._remove(session)

    def after_revoke_subject(self, subject: str, now: float) -> None:
        """Remove the sessions of a user that were ended, and none that began since."""
        watermark = self._revocations.watermark(subject)
        for key in self._table.members(self._table.guessable_key(subject)):
            session = self._read(key)
            if session is not None and session.started <= watermark:
                self._remove(session)

    # --- rows -----------------------------------------------------------------------------------

    def _is_row_due(self, event: SaveEvent) -> bool:
        """Whether this save is the first of its session, or the first in a period."""
        if event.has_new_id or event.sealed_at is None:
            return True
        return event.sealed_at // self._every != int(event.now) // self._every

    def _list_own(self, session: Session) -> tuple[_Sessions, int]:
        """The live sessions of the user of a session, and how many rows cannot be read here."""
        if session.subject is None:
            return [], 0
        sessions, unreadable = self._list(session.subject)
        current = self._current_ids(session)
        return [replace(each, is_current=each.id in current) for each in sessions], unreadable

    def _current_ids(self, session: Session) -> set[str]:
        """The names of a session: of its id, and of that which the request brought."""
        loaded, ids = session.load(), {parse_id(session.id)}
        if isinstance(loaded, LoadedSession):
            records = loaded.record, loaded.adopted
            ids.update(record.id for record in records if record is not None)
        return {self._table.key(each) for each in ids}

    def _end(self, unreadable: int, sessions: _Sessions) -> int:
        ended = sum(self._keeper.revoke_session(each.session_id) for each in sessions)
        if unreadable:
            raise StorageUnavailable(
                f"{unreadable} sessions can't be read here and were not ended; {ended} were ended"
            )
        return ended

    def _list(self, subject: str | None = None) -> tuple[_Sessions, int]:
        """The live sessions, and how many rows cannot be read here."""
        keys: Iterable[str] = (
            self._table.keys()
            if subject is None
            else self._table.members(self._table.guessable_key(subject))
        )
        watermarks: dict[str, int] = {}
        sessions, unreadable = [], 0
        for key in keys:
            try:
                session = self._find_live(key, watermarks)
            except RowUnreadable:
                unreadable += 1
                continue
            # Anyone who can write to the store can put a row into the index of another subject.
            if session is not None and subject in (None, session.subject):
                sessions.append(session)
        sessions.sort(key=lambda each: (-each.last_seen, -each.started, each.id))
        return sessions, unreadable

    def _find_live(self, key: str, watermarks: dict[str, int]) -> LiveSession | None:
        """The session of a row unless it was ended. `watermarks`: those read before."""
        session = self._read(key)
        if session is None or self._keeper.is_ended(session.session_id):
            return None
        if session.subject not in watermarks:
            watermarks[session.subject] = self._revocations.watermark(session.subject)
        return session if session.started > watermarks[session.subject] else None

    def _read(self, key: str) -> LiveSession | None:
        """The session of a row; None for an order, and a row that was swapped or rolled back."""
        entry = self._table.read(key)
        if entry is None:
            return None
        row = _decode(entry)
        if row[0] == ORDER_FORMAT:
            return None
        _, raw_id, subject, started, last_seen, where = row
        return LiveSession(key, subject, started, last_seen, where, format_id(raw_id))

    def _remove(self, session: LiveSession) -> None:
        self._table.delete(session.id)
        self._table.remove_member(self._table.guessable_key(session.subject), session.id)


def make_registry(make: Callable[..., R], keeper: object, config: object) -> R | None:
    """What `make` makes of SEALEDSTATE_DEVICES in a framework's configuration; None if not set.

    `make`: takes `keeper`, `where`, `every` and `most`. `config`: a dict with some of the last
    three. For adapters. Raises ConfigurationError.
    """
    if config is None:
        return None
    if not isinstance(config, Mapping) or not {"where", "every", "most"}.issuperset(config):
        given = sorted(map(str, config)) if isinstance(config, Mapping) else config
        raise ConfigurationError(
            f"{DEVICES}: must be a dict with some of where, every and most; got {show_value(given)}"
        )
    try:
        return make(keeper, **config)
    except (ConfigurationError, UnsupportedValue) as error:
        if str(error).partition(":")[0] in config:
            raise ConfigurationError(f"{DEVICES}: {error}") from None
        raise


def require_registry(registry: R | None) -> R:
    """What `make_registry` returned; raises ConfigurationError for None."""
    if registry is None:
        raise ConfigurationError(f'{DEVICES}: is not set; set it to a dict such as {{"most": 5}}')
    return registry


def _decode(entry: Entry) -> Any:
    """The list in a row. Raises RowUnreadable."""
    try:
        row: Any = cbor.decode(entry.value)
    except MalformedRecord:
        row = None
    if type(row) is not list or (row[:1], len(row)) not in (([FORMAT], 6), ([ORDER_FORMAT], 2)):
        raise RowUnreadable(f"{KIND.noun} was written by another release")
    return row


def _check_where(where: object) -> None:
    if type(where) is not str:
        raise UnsupportedValue("where", f"expected text, got {type(where).__name__}")
    if has_lone_surrogate(where):
        raise UnsupportedValue("where", "must be valid Unicode (lone surrogate found)")
