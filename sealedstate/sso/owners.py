"""Whose session it is, for a logout request that comes without a cookie.

Knows one small row for each session whose login records live in the store: its subject, without
which the NameIDs that are made from it can't be made again. Does not know login records.

A row of the context ``sealedstate.sso.owner`` is named by the text (see `chunking`) of BLAKE2b-192
of LP("sealedstate/1", "sso.owner", realm, session id). It holds the subject as UTF-8, sealed like
every stored value. It is written before the login records are, and lives as long as they can.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..chunking import to_text
from ..errors import UnreadableError
from ..keys import length_prefixed
from ..record import Record
from ..storage.contract import Storage, next_version
from ..toolkit import Toolkit
from .errors import RowUnreadable

CONTEXT = "sealedstate.sso.owner"


@dataclass(frozen=True, slots=True)
class Owners:
    """The rows of one deployment. Everything raises StorageError."""

    tools: Toolkit
    storage: Storage

    def write(self, record: Record, now: float) -> None:
        """Keep the subject of a session, once."""
        if record.subject is None:
            return
        tools, name, version = self.tools, self._name(record.id), next_version(now)
        data, ring = record.subject.encode(), tools.tokens.keyring()
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
            ring = self.tools.tokens.keyring()
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
