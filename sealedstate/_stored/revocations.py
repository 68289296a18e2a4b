"""What logout leaves behind in the store: revoked session ids, and a watermark for each subject.

Knows rows and the storage contract. Does not know cookies or sessions.

A revoked id stays until the session would have expired by itself. A watermark refuses every session
of a subject that began at or before it. Session ids are named by a plain hash, for they can't be
guessed; subjects by a keyed one, for they can.

A row that does not open lets nobody in. That of a session refuses it by being there, whatever it
holds. Of a watermark nobody can tell how high it stood, so it refuses all sessions of its subject,
as a store that is down does, until it is written anew: when the subject is signed out everywhere
once more or, where the row is lost for every node, when it signs in. Against an owner of the store
who deletes a row, or who brings back a whole one of before, nothing helps.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from .._wire.encoding import to_text
from .._wire.record import Record
from ..errors import (
    ConfigurationError,
    ReplacedSession,
    RevokedSession,
    StorageUnavailable,
    UnreadableError,
    VersionMismatch,
)
from ..keyring import Keyring, length_prefixed
from ..storage.contract import Storage, Stored, next_version
from .table import Rows

SESSIONS = "sealedstate.revoked"
SUBJECTS = "sealedstate.watermark"
WRITE_TRIES = 16
# So long a request that set out with the old id may be under way when its session gets a new one.
REPLACED_SECONDS = 60
# What a revocation holds that was asked for from outside of the session; a session that got a new
# id has the time of that, 8 bytes.
_FROM_OUTSIDE = b"\x00"


class Ending(Enum):
    """How a session was ended. LOGGED_OUT: in a request of its own. REVOKED: from outside, by its
    id. REPLACED: it goes on under a new id, or may do so.
    """

    LOGGED_OUT = "logged out"
    REVOKED = "revoked"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Revocations:
    """The revocations of one deployment, whose ring in force `keyring` tells."""

    storage: Storage
    rows: Rows
    keyring: Callable[[], Keyring]

    def check(self, record: Record, now: float) -> None:
        """Raise RevokedSession for a record that was logged out, alone or with its subject.

        Raise ReplacedSession for one that got, or may have got, a new id less than REPLACED_SECONDS
        ago. Raises StorageError when it can't be told.
        """
        key = self._session_key(record.id)
        stored = self.storage.read(SESSIONS, key)
        if stored is not None:
            raise self._refusal(key, stored, now)
        if record.subject is not None and record.created_at <= self.watermark(record.subject, now):
            raise RevokedSession

    def ending(self, session_id: bytes, now: float) -> Ending | None:
        """How a session was ended by its id; None when it was not. Raises StorageError."""
        key = self._session_key(session_id)
        stored = self.storage.read(SESSIONS, key)
        if stored is None:
            return None
        try:
            data = self.rows.open_row(SESSIONS, key, stored, self.keyring(), now)
        except UnreadableError as error:
            return Ending.REPLACED if error.keeps_cookie else Ending.LOGGED_OUT
        if data == _FROM_OUTSIDE:
            return Ending.REVOKED
        return Ending.REPLACED if data else Ending.LOGGED_OUT

    def revoke(
        self, session_id: bytes, expires_at: int, now: float, how: Ending = Ending.LOGGED_OUT
    ) -> bool:
        """Refuse a session id until `expires_at` (epoch seconds); `how` it was ended.

        False when it was revoked already, which is as good: it needs no second row. Raises
        StorageError or NoPrimaryKey.
        """
        key, version = self._session_key(session_id), next_version(now)
        replaced_at = int(now).to_bytes(8, "big")
        data = {Ending.REPLACED: replaced_at, Ending.REVOKED: _FROM_OUTSIDE}.get(how, b"")
        value = self.rows.seal_row(SESSIONS, key, version, data, self.keyring(), now)
        return self.storage.create(SESSIONS, key, value, expires_at * 1000, version)

    def revoke_subject(self, subject: str, expires_at: int, now: float) -> None:
        """Refuse all sessions of `subject` that began until now.

        `expires_at` (epoch seconds): when the last of them would have expired. Raises StorageError
        or NoPrimaryKey.
        """
        key = self._subject_key(subject)
        if key is None:
            raise ConfigurationError(
                "revoking by subject needs a lookup key; `sealedstate keys generate --lookup`"
                " prints one, to stand beside the keys"
            )
        for _ in range(WRITE_TRIES):
            stored = self.storage.read(SUBJECTS, key)
            known, at, until = None, int(now), expires_at * 1000
            if stored is not None:
                # It only rises, by a second at least: who signed in since began just above it.
                known, until = stored.version, _later(expires_at, stored)
                with contextlib.suppress(UnreadableError):  # whatever it was, now is late enough
                    at = self._above(key, stored, now)
            if self._write(key, at, until, known, now):
                return
        raise StorageUnavailable(f"a watermark was written by others {WRITE_TRIES} times in a row")

    def watermark(self, subject: str, now: float) -> int:
        """Until when sessions of `subject` are refused (epoch seconds); -1 for none.

        Raises StorageError, also for one that can't be read.
        """
        key = self._subject_key(subject)
        stored = None if key is None else self.storage.read(SUBJECTS, key)
        if key is None or stored is None:
            return -1
        try:
            return self._mark(key, stored, now)
        except UnreadableError as error:
            raise _unreadable(error) from error

    def begin(self, subject: str, expires_at: int, now: float) -> int:
        """When a session of `subject` that begins now is to say that it began (epoch seconds).

        Somebody who signs in within the second of "sign out everywhere" must not be refused.
        `expires_at`: as for `revoke_subject`, should a lost watermark have to be written anew.
        Raises StorageError or NoPrimaryKey.
        """
        key = self._subject_key(subject)
        stored = None if key is None else self.storage.read(SUBJECTS, key)
        if key is None or stored is None:
            return int(now)
        try:
            return self._above(key, stored, now)
        except UnreadableError as error:
            if error.keeps_cookie:
                raise _unreadable(error) from error  # another node may know who is signed in
        # Where somebody else writes first, his is as good.
        self._write(key, int(now), _later(expires_at, stored), stored.version, now)
        return max(int(now), self.watermark(subject, now) + 1)

    def _refusal(self, key: str, stored: Stored, now: float) -> UnreadableError:
        """Why a session is refused that has a row."""
        try:
            data = self.rows.open_row(SESSIONS, key, stored, self.keyring(), now)
        except UnreadableError as error:
            # Where another node can read of a new id, the cookie that carries it may be there.
            return ReplacedSession() if error.keeps_cookie else RevokedSession()
        recent = data and now < int.from_bytes(data, "big") + REPLACED_SECONDS
        return ReplacedSession() if recent else RevokedSession()

    def _above(self, key: str, stored: Stored, now: float) -> int:
        """Now, or just above a watermark that is later. Raises UnreadableError."""
        return max(int(now), self._mark(key, stored, now) + 1)

    def _mark(self, key: str, stored: Stored, now: float) -> int:
        return int.from_bytes(self.rows.open_row(SUBJECTS, key, stored, self.keyring(), now), "big")

    def _write(self, key: str, at: int, until: int, known: int | None, now: float) -> bool:
        version = next_version(now, known or 0)
        data = at.to_bytes(8, "big")
        value = self.rows.seal_row(SUBJECTS, key, version, data, self.keyring(), now)
        try:
            if known is None:
                return self.storage.create(SUBJECTS, key, value, until, version)
            return self.storage.update(SUBJECTS, key, value, until, version, known)
        except VersionMismatch:
            return False

    def _session_key(self, session_id: bytes) -> str:
        message = length_prefixed("sealedstate/1", "revoked", self.rows.realm, session_id)
        return to_text(hashlib.blake2b(message, digest_size=24).digest())

    def _subject_key(self, subject: str) -> str | None:
        secret = self.keyring().lookup
        if secret is None:
            return None
        message = length_prefixed("sealedstate/1", "watermark", self.rows.realm, subject)
        return to_text(hashlib.blake2b(message, key=secret, digest_size=24).digest())


def _later(expires_at: int, stored: Stored) -> int:
    """The later of `expires_at` (epoch seconds) and of when a row expires, in milliseconds."""
    return max(expires_at * 1000, stored.expires_at or 0)


def _unreadable(error: UnreadableError) -> StorageUnavailable:
    return StorageUnavailable(f"a watermark is unreadable here ({error.reason})")
