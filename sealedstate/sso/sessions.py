"""The live sessions of a deployment, for administrators: whose, since when, last seen.

Optional: without a `SessionRegistry` a session leaves nothing in the store but its
spilled parts.

A row of the context ``sealedstate.sessions`` is named by BLAKE2b-192 of
LP("sealedstate/1", "sessions", realm, session id), as text (LP and the text of a name
are as in docs/format.md). That name is also the id that administrators see; the
session's own id cannot be computed from it. The row holds, sealed, the CBOR list of the
format (1), the session's id, its subject, when it began, when it was last seen (epoch
seconds), and where. The index of a subject's rows is named by the same hash of the
subject, keyed with the ring's lookup secret.

A row is written before its session is saved for the first time, and after that only by
saves that happen anyway: the first in each period of `every` seconds. Reading a session
writes nothing. So `last_seen` may be late by the settings' `refresh_after` and `every`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .._stored.table import Kind, Put
from .._wire import cbor
from .._wire.record import format_id
from ..errors import (
    ConfigurationError,
    MalformedRecord,
    RowUnreadable,
    StorageUnavailable,
    show_value,
)
from ..hooks import SaveEvent, SessionHooks
from ..keeper import Keeper
from ..session import Session
from .logins import check_text

__all__ = ["LiveSession", "SessionRegistry"]

KIND = Kind("sealedstate.sessions", "sessions", "a listed session")
FORMAT = 1
EVERY = 300


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One session, as administrators see it. Times in epoch seconds.

    `id`: its name for administrators, 32 characters. `where`: the node that saw it last, or
    what the registry's function `where` says. `session_id`: its `Session.id`, which
    `Keeper.revoke_session` takes.
    """

    id: str
    subject: str = field(repr=False)
    started: int
    last_seen: int
    where: str
    session_id: str = field(repr=False)


# In the class, `list` is a method.
_Sessions: TypeAlias = list[LiveSession]


class SessionRegistry(SessionHooks):
    """The live sessions of all nodes that have a registry.

    Follows every save of `keeper`. `where` names this node, or is a function that names
    the browser or the place of a session. `every`: a session's row is written at most once
    in this many seconds. Raises ConfigurationError without a store or a lookup key, and if
    the store falls short of the requirements of ``sessions``.
    """

    def __init__(
        self, keeper: Keeper, where: str | Callable[[Session], str] = "", every: int = EVERY
    ) -> None:
        if type(every) is not int or every < 1:
            raise ConfigurationError(
                f"every: must be a whole number of seconds, at least 1; got {show_value(every)}"
            )
        if not callable(where):
            check_text("where", where)
        deployment = keeper.deployment
        self._table = deployment.table(KIND)
        deployment.lookup_secret()
        if deployment.revocations is None:  # `table` refuses to do without a store
            raise AssertionError("a store without revocations")
        self._keeper, self._revocations = keeper, deployment.revocations
        self._settings, self._where, self._every = deployment.settings, where, every
        keeper.add_hooks(self, ("sessions",))

    # --- for administrators ---------------------------------------------------------------------

    def list(self, subject: str | None = None) -> _Sessions:
        """The live sessions, or those of one user; the last seen comes first.

        Rows that this node cannot read are left out and logged. Raises StorageError.
        """
        return self._list(subject)[0]

    def find(self, session: str) -> LiveSession | None:
        """The live session with this `LiveSession.id`. Raises StorageError."""
        return self._find_live(session, {}) if session else None

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
        ended = sum(self._keeper.revoke_session(session.session_id) for session in sessions)
        if unreadable:
            raise StorageUnavailable(
                f"{unreadable} sessions can't be read here and were not ended; {ended} were ended"
            )
        return ended

    # --- hooks ----------------------------------------------------------------------------------

    def before_save(self, event: SaveEvent) -> None:
        """Write the row of a session that is new or was not written for a while."""
        record, now = event.record, int(event.now)
        if record.subject is None:
            return
        sealed_at = None if event.has_new_id else event.sealed_at
        if sealed_at is not None and sealed_at // self._every == now // self._every:
            return
        # Until the cookie of the last save before the next row expires.
        idle = now + (record.terms.idle or self._settings.idle_lifetime) + self._every
        expires_at = (min(record.expires_at, idle) + self._settings.skew) * 1000
        key = self._table.key(record.id)
        where = self._where(event.session) if callable(self._where) else self._where
        check_text("where", where)
        row = [FORMAT, record.id, record.subject, record.created_at, now, where]
        wanted = Put(cbor.encode(row), expires_at)
        self._table.change(
            key, lambda _: wanted, is_new=sealed_at is None, replaces_unreadable=True
        )
        self._table.add_member(self._table.guessable_key(record.subject), key, expires_at)

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
            if session is not None:
                sessions.append(session)
        sessions.sort(key=lambda session: (-session.last_seen, session.id))
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
        """The session of a row; None for a row that was swapped or rolled back."""
        entry = self._table.read(key)
        if entry is None:
            return None
        try:
            row: Any = cbor.decode(entry.value)
        except MalformedRecord:
            row = None
        if type(row) is not list or len(row) != 6 or row[0] != FORMAT:
            raise RowUnreadable(f"{KIND.noun} was written by another release")
        _, raw_id, subject, started, last_seen, where = row
        return LiveSession(key, subject, started, last_seen, where, format_id(raw_id))

    def _remove(self, session: LiveSession) -> None:
        self._table.delete(session.id)
        self._table.remove_member(self._table.guessable_key(session.subject), session.id)
