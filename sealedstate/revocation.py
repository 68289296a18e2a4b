"""What logout leaves behind in the store: revoked session ids, and a watermark for each subject.

Knows the storage contract. Does not know cookies, sealing or sessions.

A revoked id stays until the session would have expired by itself. A watermark refuses every session
of a subject that began at or before it. Session ids are named by a plain hash, for they can't be
guessed; subjects by a keyed one, for they can. Rows hold no secret: a time, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from .chunking import to_text
from .errors import (
    ConfigurationError,
    ReplacedSession,
    RevokedSession,
    StorageUnavailable,
    VersionMismatch,
)
from .keys import length_prefixed
from .record import Record
from .storage.contract import Storage, next_version

SESSIONS = "sealedstate.revoked"
SUBJECTS = "sealedstate.watermark"
WRITE_TRIES = 16
# So long a request that set out with the old id may be under way when its session gets a new one.
REPLACED_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Revocations:
    """The revocations of one deployment (`realm`)."""

    storage: Storage
    realm: str
    lookup: Callable[[], bytes | None]

    def check(self, record: Record, now: float) -> None:
        """Raise RevokedSession for a record that was logged out, alone or with its subject.

        Raise ReplacedSession for one that got a new id less than REPLACED_SECONDS ago.
        """
        row = self.storage.read(SESSIONS, self._session_key(record.id))
        if row is not None:
            recent = row.value and now < int.from_bytes(row.value, "big") + REPLACED_SECONDS
            raise ReplacedSession if recent else RevokedSession
        if record.subject is not None and record.created_at <= self.watermark(record.subject):
            raise RevokedSession

    def revoke(
        self, session_id: bytes, expires_at: int, now: float, replaced: bool = False
    ) -> bool:
        """Refuse a session id until `expires_at` (epoch seconds). Raises StorageError.

        `replaced`: the session goes on under a new id. False when it was revoked already, which is
        as good: it needs no second row.
        """
        key = self._session_key(session_id)
        value = int(now).to_bytes(8, "big") if replaced else b""
        return self.storage.create(SESSIONS, key, value, expires_at * 1000, next_version(now))

    def revoke_subject(self, subject: str, expires_at: int, now: float) -> None:
        """Refuse all sessions of `subject` that began until now. Raises StorageError.

        `expires_at` (epoch seconds): when the last of them would have expired.
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
                known, at = stored.version, max(at, int.from_bytes(stored.value, "big") + 1)
                until = max(until, stored.expires_at or 0)
            if self._write(key, at, until, known, now):
                return
        raise StorageUnavailable(f"a watermark was written by others {WRITE_TRIES} times in a row")

    def watermark(self, subject: str) -> int:
        """Until when sessions of `subject` are refused (epoch seconds); -1 for none."""
        key = self._subject_key(subject)
        stored = None if key is None else self.storage.read(SUBJECTS, key)
        return -1 if stored is None else int.from_bytes(stored.value, "big")

    def _write(self, key: str, at: int, until: int, known: int | None, now: float) -> bool:
        value, version = at.to_bytes(8, "big"), next_version(now, known or 0)
        try:
            if known is None:
                return self.storage.create(SUBJECTS, key, value, until, version)
            return self.storage.update(SUBJECTS, key, value, until, version, known)
        except VersionMismatch:
            return False

    def _session_key(self, session_id: bytes) -> str:
        message = length_prefixed("sealedstate/1", "revoked", self.realm, session_id)
        return to_text(hashlib.blake2b(message, digest_size=24).digest())

    def _subject_key(self, subject: str) -> str | None:
        secret = self.lookup()
        if secret is None:
            return None
        message = length_prefixed("sealedstate/1", "watermark", self.realm, subject)
        return to_text(hashlib.blake2b(message, key=secret, digest_size=24).digest())
