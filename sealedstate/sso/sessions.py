"""A list of live sessions for administrators: who, since when, last seen when and where.

Knows rows, an index by subject, and what is told of saves. Does not know cookies or login records.
It is optional: without it no session leaves anything in the store but what spills.

A row of the context ``sealedstate.sessions`` is named by the text (see `chunking`) of BLAKE2b-192
of LP("sealedstate/1", "sessions", realm, session id), also the id that administrators see:
from it nobody gets the session's own. It holds, sealed like every stored value, the CBOR list of
the format (1), the session's id, its subject, when it began, when it was last seen (epoch seconds),
and where. The index of a subject's rows is named by the same hash of its subject, keyed with the
ring's lookup secret.

A row is written before its session is saved for the first time, and then by saves that there are
anyway: the first in each span of `every` seconds. Nothing is written because somebody reads. So
`last_seen` is late by what the settings allow a seal to age, and `every`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from .._wire import cbor as codec
from .._wire.encoding import to_text
from ..errors import (
    ConfigurationError,
    RowUnreadable,
    StorageUnavailable,
    UnreadableError,
    VersionMismatch,
)
from ..hooks import SaveEvent, SessionHooks
from ..keeper import Keeper
from ..keyring import length_prefixed
from ..storage.contract import next_version

CONTEXT = "sealedstate.sessions"
FORMAT = 1
EVERY = 300


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One session. `id`: 32 characters that name it to administrators; times in epoch seconds.

    `where`: the node that saw it last. `raw_id` is its own id, 16 bytes.
    """

    id: str
    subject: str
    started: int
    last_seen: int
    where: str
    raw_id: bytes = field(repr=False)


# In the class, `list` is a method.
_Sessions: TypeAlias = list[LiveSession]


class SessionRegistry(SessionHooks):
    """The live sessions of all nodes that have one of these. Made once, it follows every save.

    `where` names this node; `every` (seconds) bounds how often a session's row is written. Raises
    ConfigurationError without a store that meets the needs of ``sessions``, or a lookup key.
    """

    def __init__(self, keeper: Keeper, where: str = "", every: int = EVERY) -> None:
        self._keeper, self._tools, self._where = keeper, keeper.deployment, where
        if keeper.deployment.store is None or self._tools.revocations is None:
            raise ConfigurationError("a list of sessions needs a storage service")
        if every < 1:
            raise ConfigurationError("every: at least one second")
        self._storage, self._revocations = keeper.deployment.store, self._tools.revocations
        self._every = every
        self._subject_key("")
        keeper.add_hooks(self, ("sessions",))

    # --- for administrators ---------------------------------------------------------------------

    def list(self, subject: str | None = None) -> _Sessions:
        """The live sessions, or those of one user; the one that was seen last comes first.

        Rows that this node can't read are left out, and logged. Raises StorageError.
        """
        return self._listed(subject)[0]

    def _listed(self, subject: str | None = None) -> tuple[_Sessions, int]:
        """The live sessions, and how many rows can't be read here."""
        keys: Iterable[str] = (
            self._storage.keys(CONTEXT)
            if subject is None
            else self._storage.members(CONTEXT, self._subject_key(subject))
        )
        marks: dict[str, int] = {}
        found, unreadable = [], 0
        for key in keys:
            try:
                session = self._live(key, marks)
            except RowUnreadable:
                unreadable += 1
                continue
            if session is not None:
                found.append(session)
        found.sort(key=lambda session: (-session.last_seen, session.id))
        return found, unreadable

    def find(self, session: str) -> LiveSession | None:
        """The live session with this `LiveSession.id`. Raises StorageError."""
        return self._live(session, {}) if session else None

    def revoke(self, session: str) -> bool:
        """End one session; False where none with this id lives. Raises StorageError.

        Its services are told when its cookies come next (`SingleLogout.owed`), or by
        `SingleLogout.end`.
        """
        found = self.find(session)
        return found is not None and self._keeper.revoke_session(found.raw_id)

    def revoke_subject(self, subject: str) -> None:
        """End all sessions of a user, listed or not. Raises StorageError."""
        self._keeper.revoke_subject(subject)

    def revoke_all(self) -> int:
        """End all sessions that are listed now; how many there were.

        Raises StorageError, also when there were rows that this node can't read: it ends the rest.
        """
        found, unreadable = self._listed()
        ended = sum(self._keeper.revoke_session(session.raw_id) for session in found)
        if unreadable:
            raise StorageUnavailable(
                f"{unreadable} sessions can't be read here, and were not ended; {ended} were"
            )
        return ended

    # --- what it follows ------------------------------------------------------------------------

    def before_save(self, save: SaveEvent) -> None:
        """Write down a session that is new, or was not written down for a while."""
        if save.record.subject is None or not self._is_due(save):
            return
        settings, now, record = self._tools.settings, int(save.now), save.record
        # As long as a seal that is written before the next row can be.
        idle = now + settings.idle_lifetime + self._every
        expires_at = (min(record.expires_at, idle) + settings.skew) * 1000
        key, subject = self._key(record.id), save.record.subject
        row = [FORMAT, record.id, subject, record.created_at, now, self._where]
        self._write(key, codec.encode(row), expires_at, save)
        self._storage.add_member(CONTEXT, self._subject_key(subject), key, expires_at)

    def after_revoke(self, session_id: bytes, now: float) -> None:
        """Remove a session that was ended, or that got a new id."""
        session = self._read(self._key(session_id))
        if session is not None:
            self._remove(session)

    def after_revoke_subject(self, subject: str, now: float) -> None:
        """Remove the sessions of a user that were ended; none that began since."""
        mark = self._revocations.watermark(subject)
        for key in self._storage.members(CONTEXT, self._subject_key(subject)):
            session = self._read(key)
            if session is not None and session.started <= mark:
                self._remove(session)

    # --- helpers --------------------------------------------------------------------------------

    def _is_due(self, save: SaveEvent) -> bool:
        if save.has_new_id or save.sealed_at is None:
            return True
        return save.sealed_at // self._every != int(save.now) // self._every

    def _write(self, key: str, data: bytes, expires_at: int, save: SaveEvent) -> None:
        stored = None if save.has_new_id else self._storage.read(CONTEXT, key)
        version = next_version(save.now, 0 if stored is None else stored.version)
        ring = self._tools.keyring()
        value = self._tools.rows.seal_row(CONTEXT, key, version, data, ring, save.now)
        try:
            if stored is None:
                self._storage.create(CONTEXT, key, value, expires_at, version)
            else:
                self._storage.update(CONTEXT, key, value, expires_at, version)
        except VersionMismatch:
            return  # another request was seen at the same moment: that is as good

    def _live(self, key: str, marks: dict[str, int]) -> LiveSession | None:
        """A row's session, unless it was ended; `marks`: watermarks that were read before."""
        session, now = self._read(key), self._tools.now()
        if session is None or self._revocations.ending(session.raw_id) is not None:
            return None
        if session.subject not in marks:
            marks[session.subject] = self._revocations.watermark(session.subject)
        return session if session.started > marks[session.subject] else None

    def _read(self, key: str) -> LiveSession | None:
        stored = self._storage.read(CONTEXT, key)
        if stored is None:
            return None
        ring, now = self._tools.keyring(), self._tools.now()
        try:
            row = codec.decode(self._tools.rows.open_row(CONTEXT, key, stored, ring, now))
        except UnreadableError as error:
            if error.keeps_cookie:
                raise RowUnreadable(f"a session's row is unreadable ({error.reason})") from error
            return None  # swapped or rolled back: it tells of nobody
        if type(row) is not list or len(row) != 6 or row[0] != FORMAT:
            raise RowUnreadable("a session's row was written by another release")
        _, raw_id, subject, started, last_seen, where = row
        return LiveSession(key, subject, started, last_seen, where, raw_id)

    def _remove(self, session: LiveSession) -> None:
        self._storage.delete(CONTEXT, session.id)
        self._storage.remove_member(CONTEXT, self._subject_key(session.subject), session.id)

    def _key(self, session_id: bytes) -> str:
        return self._hashed(session_id, b"")

    def _subject_key(self, subject: str) -> str:
        secret = self._tools.keyring().lookup
        if secret is None:
            raise ConfigurationError(
                "a list of sessions needs a lookup key; `sealedstate keys generate --lookup`"
                " prints one, to stand beside the keys"
            )
        return self._hashed(subject, secret)

    def _hashed(self, named: str | bytes, secret: bytes) -> str:
        realm = self._tools.settings.realm
        message = length_prefixed("sealedstate/1", "sessions", realm, named)
        return to_text(hashlib.blake2b(message, key=secret, digest_size=24).digest())
