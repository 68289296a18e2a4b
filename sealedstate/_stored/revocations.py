"""Revoked session ids, and a watermark for each subject.

A revoked id stays until its session would have expired. A watermark refuses every
session of a subject that began at or before it. Session ids are named by a plain
hash, because they cannot be guessed; subjects by a keyed hash, because they can.

A row that does not open lets no session in. The row of a session refuses it by
being there, whatever its value. A watermark that does not open could have been
any time, so it refuses all sessions of its subject, as a store that is down does,
until it is written again: at the next sign-out everywhere or, if no node can open
the row, at the next sign-in. Nothing helps against an owner of the store who
deletes a row or restores an earlier value.
"""

from __future__ import annotations

from enum import Enum

from .._wire.record import Record
from ..errors import ReplacedSession, RevokedSession, StorageUnavailable, UnreadableError
from .table import Entry, Kind, Put, SealedTable, StoreAccess

SESSIONS = "sealedstate.revoked"
SUBJECTS = "sealedstate.watermark"
# How long a request that began with the old id may be under way when its session gets a new id.
REPLACED_SECONDS = 60
_REVOKED = b"\x00"


class Ending(Enum):
    """How a session ended.

    LOGGED_OUT: in a request with its cookie. REVOKED: by its id, without its
    cookie. REPLACED: it continues, or may continue, under a new id.
    """

    LOGGED_OUT = "logged out"
    REVOKED = "revoked"
    REPLACED = "replaced"


class Revocations:
    """The revocations of one deployment. All methods raise StorageError."""

    def __init__(self, access: StoreAccess) -> None:
        self._sessions = SealedTable(access, Kind(SESSIONS, "revoked", "a revocation"))
        self._subjects = SealedTable(access, Kind(SUBJECTS, "watermark", "a watermark"))
        self._now = access.now
        self._keyring = access.keyring

    def check(self, record: Record) -> None:
        """Raise RevokedSession for a record that was logged out, alone or with its subject.

        Raises ReplacedSession for one that got, or may have got, a new id less than
        REPLACED_SECONDS ago.
        """
        entry = self._sessions.look(self._sessions.key(record.id))
        if entry is not None:
            # If another node can read of a new id, the cookie that carries it may be there.
            if entry.error is not None:
                raise ReplacedSession if entry.error.keeps_cookie else RevokedSession
            replaced_at = int.from_bytes(entry.value, "big")
            is_recent = entry.value and self._now() < replaced_at + REPLACED_SECONDS
            raise ReplacedSession if is_recent else RevokedSession
        if record.subject is not None and record.created_at <= self.watermark(record.subject):
            raise RevokedSession

    def ending(self, session_id: bytes) -> Ending | None:
        """How a session was ended by its id; None if it was not."""
        entry = self._sessions.look(self._sessions.key(session_id))
        if entry is None:
            return None
        if entry.error is not None:
            return Ending.REPLACED if entry.error.keeps_cookie else Ending.LOGGED_OUT
        if entry.value == _REVOKED:
            return Ending.REVOKED
        return Ending.REPLACED if entry.value else Ending.LOGGED_OUT

    def revoke(
        self, session_id: bytes, expires_at: int, ending: Ending = Ending.LOGGED_OUT
    ) -> bool:
        """Refuse a session id until `expires_at` (epoch seconds).

        False if it was revoked already, which needs no second row. Raises NoPrimaryKey.
        """
        replaced_at = int(self._now()).to_bytes(8, "big")
        value = {Ending.REPLACED: replaced_at, Ending.REVOKED: _REVOKED}.get(ending, b"")
        return self._sessions.create(self._sessions.key(session_id), value, expires_at * 1000)

    def revoke_subject(self, subject: str, expires_at: int) -> None:
        """Refuse all sessions of `subject` that began until now.

        `expires_at` (epoch seconds): when the last of them would have expired. Raises
        ConfigurationError without a lookup key, NoPrimaryKey.
        """

        def raise_watermark(entry: Entry | None) -> Put:
            now = int(self._now())
            if entry is None:
                return _watermark(now, expires_at)
            # It only rises, by a second at least: a later sign-in began just above it.
            now = now if entry.error is not None else max(now, _time(entry) + 1)
            return _watermark(now, expires_at, entry)

        key = self._subjects.guessable_key(subject)
        self._subjects.change(key, raise_watermark, replaces_unreadable=True, tries=16)

    def watermark(self, subject: str) -> int:
        """Until when sessions of `subject` are refused (epoch seconds); -1 for none.

        Raises StorageUnavailable for a watermark that does not open here.
        """
        entry = self._look_up(subject)
        if entry is None:
            return -1
        if entry.error is not None:
            raise _unreadable(entry.error)
        return _time(entry)

    def begin(self, subject: str, expires_at: int, now: float) -> int:
        """When a session of `subject` that begins at `now` must say that it began.

        A user who signs in within the second of "sign out everywhere" must not be
        refused. Epoch seconds. `expires_at`: as for `revoke_subject`; used if a watermark
        is lost and has to be written again. Raises NoPrimaryKey.
        """
        entry = self._look_up(subject)
        if entry is not None and entry.error is not None:
            if entry.error.keeps_cookie:
                raise _unreadable(entry.error)  # another node may know who is signed in

            def replace(found: Entry | None) -> Put | None:
                # If another node wrote first, its watermark is equally valid.
                is_lost = found is not None and found.error is not None
                return _watermark(int(now), expires_at, found) if is_lost else None

            entry = self._subjects.change(self._subjects.guessable_key(subject), replace)
        return int(now) if entry is None else max(int(now), _time(entry) + 1)

    def _look_up(self, subject: str) -> Entry | None:
        if self._keyring().lookup is None:
            return None
        return self._subjects.look(self._subjects.guessable_key(subject))


def _time(entry: Entry) -> int:
    return int.from_bytes(entry.value, "big")


def _watermark(time: int, expires_at: int, over: Entry | None = None) -> Put:
    """A watermark lives until the later of `expires_at` (seconds) and its row's expiry."""
    kept_until = 0 if over is None or over.expires_at is None else over.expires_at
    return Put(time.to_bytes(8, "big"), max(expires_at * 1000, kept_until))


def _unreadable(error: UnreadableError) -> StorageUnavailable:
    return StorageUnavailable(f"a watermark is unreadable here ({error.reason})")
