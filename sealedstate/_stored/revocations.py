"""Ended and replaced session ids, and a watermark for each subject.

The row of a session id refuses that id until its session would have expired. The row is
created, never overwritten, so that create decides every race: a session has one end or
one successor, the id under which it continues. An end that finds a successor follows it;
a new id that finds an end is refused, and if it finds another successor, it is refused or
takes the place of that successor. So every id that began with one session is reached
from every older id of that session.

A watermark refuses every session of a subject that began at or before it. It is set
`skew` seconds ahead, because a session that began before it may have been dated by a
clock that is ahead; a sign-in takes a time after the watermark of its subject. Session
ids are named by a plain hash, because they cannot be guessed; subjects by a keyed hash,
because they can.

A row that does not open lets no session in. The row of a session refuses it by
being there, whatever its value. A watermark that does not open could have been
any time, so it refuses all sessions of its subject, as a store that is down does,
until it is written again: at the next sign-out everywhere or, if no node can open
the row, at the next sign-in. Nothing helps against an owner of the store who
deletes a row or restores an earlier value.

A node with another lookup key, or without one, would find no watermark and accept the
sessions that it refuses. So beside the watermarks there is the mark of the lookup key,
under a name that every node knows: BLAKE2b-128, keyed with the lookup secret, of
LP("sealedstate/1", "lookup"). It lives as long as the watermarks,
or an hour longer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from .._wire.record import ID_BYTES, Record
from ..errors import (
    ConfigurationError,
    ReplacedSession,
    RevokedSession,
    RowUnreadable,
    StorageUnavailable,
    UnreadableError,
)
from ..keyring import length_prefixed
from .feed import Feed
from .table import Entry, Kind, Look, Put, SealedTable, StoreAccess

SESSIONS = "sealedstate.revoked"
SUBJECTS = "sealedstate.watermark"
# How long a request that began with the old id may be under way when its session gets a new id.
REPLACED_SECONDS = 60
# How many new ids one end follows. Each costs the user a request: a sign-in, a change of privilege.
MAX_SUCCESSORS = 4096
# How many new ids a check follows, to know whether a session continues.
CHECKED_SUCCESSORS = 16
# Of how many users a process keeps the digest of the name.
RECENT_SUBJECTS = 4096
# By how much the mark of the lookup key outlives the watermarks.
MARK_SECONDS = 3600
TIME_BYTES = 8
_REVOKED, _REPLACED = b"\x00", b"\x01"
MARK_BYTES = 8
LOOKUP_MARK_BYTES = 16
_REPLACED_BYTES = 1 + TIME_BYTES + ID_BYTES + TIME_BYTES + 2 * MARK_BYTES
_NO_SUBJECT = bytes(MARK_BYTES)
# Before an id, where it is hashed: as `length_prefixed`.
_ID_PREFIX = length_prefixed(bytes(ID_BYTES))[:-ID_BYTES]


class Ending(Enum):
    """How a session ended.

    LOGGED_OUT: in a request with its cookie. REVOKED: by its id, without its
    cookie. REPLACED: it continues under a new id.
    """

    LOGGED_OUT = "logged out"
    REVOKED = "revoked"
    REPLACED = "replaced"


class Successor(NamedTuple):
    """The session that replaces another: its id, 16 bytes, and its expiry (epoch seconds).

    `subject` and `replaced_subject`: whose it is and whose the other was, as `subject_mark`.
    """

    id: bytes
    expires_at: int
    subject: bytes
    replaced_subject: bytes

    def __repr__(self) -> str:
        return f"<Successor of the same subject: {self.subject == self.replaced_subject}>"


class EndedId(NamedTuple):
    """What the row of a session id says. `replaced_at` is in epoch seconds, 0 for an end."""

    ending: Ending
    replaced_at: int = 0
    successor: Successor | None = None


class Revocations:
    """The revocations of one deployment. All methods raise StorageError.

    `skew`: tolerated clock difference between nodes, in seconds. `feed`: what this process knows
    of them, if the settings let it keep that.
    """

    def __init__(self, access: StoreAccess, skew: int, feed: Feed | None = None) -> None:
        self._skew, self._feed = skew, feed
        self._sessions = SealedTable(access, Kind(SESSIONS, "revoked", "a revocation"))
        self._subjects = SealedTable(access, Kind(SUBJECTS, "watermark", "a watermark"))
        self._marks = SealedTable(access, Kind(SUBJECTS, "lookup", "the mark of the lookup key"))
        # The lookup key by which watermarks were looked for first.
        self._lookup: bytes | None = None
        # Most requests are of users who came a moment ago, and a keyed hash takes 5 % of a request.
        self._subject_digest = lru_cache(RECENT_SUBJECTS)(
            lambda subject, lookup: self._subjects.digest(length_prefixed(subject), lookup)
        )
        self._now = access.now
        self._keyring = access.keyring

    def is_known_live(self, record: Record, now: float) -> bool:
        """Whether this process knows that a record was not logged out.

        Costs little, for each request: a name is hashed only if there are rows to compare it with.
        If it returns False, `check` finds out. `now`: when the request began to open the record
        (epoch seconds).
        """
        feed = self._feed
        if feed is None:
            return False
        records, until_running, until_wall, ahead = feed.known
        sessions, subjects = records[SESSIONS], records[SUBJECTS]
        if sessions and self._sessions.digest(_ID_PREFIX + record.id) in sessions:
            return False
        lookup = self._keyring().lookup
        if lookup != self._lookup:
            return False
        subject = record.subject if subjects and lookup is not None else None
        if subject is not None and self._subject_digest(subject, lookup) in subjects:
            return False
        # After the look, because the age counts until a request goes by the answer.
        running = feed.running()
        return running < until_running and now < until_wall and now - running >= ahead

    def check(self, record: Record, *, asks: bool = True) -> None:
        """Raise RevokedSession for a record that was logged out, alone or with its subject.

        Raises ReplacedSession for one that got, or may have got, a new id less than
        REPLACED_SECONDS ago, unless the session under the new id was ended since. `asks`: False to
        go by what this process knows of logouts, as old as the settings allow.
        """
        known: Look | None = None
        if self._feed is not None:
            known = self._feed.ask if asks else self._feed.look
        entry = self._sessions.look(self._sessions.key(record.id), known)
        if entry is not None:
            # If another node can read of a new id, the cookie that carries it may be there.
            if entry.error is not None:
                raise ReplacedSession if entry.error.keeps_cookie else RevokedSession
            ended = _decode(entry.value)
            is_recent = self._now() < ended.replaced_at + REPLACED_SECONDS
            raise ReplacedSession if is_recent and self._continues(ended, known) else RevokedSession
        if record.subject is not None and record.created_at <= self.watermark(
            record.subject, known
        ):
            raise RevokedSession

    def find(self, session_id: bytes, known: Look | None = None) -> EndedId | None:
        """How a session was ended by its id; None if it was not.

        Of a row that does not open, the successor is not known. `known`: asked instead of the
        store.
        """
        entry = self._sessions.look(self._sessions.key(session_id), known)
        if entry is None:
            return None
        if entry.error is not None:
            return EndedId(Ending.REPLACED if entry.error.keeps_cookie else Ending.LOGGED_OUT)
        return _decode(entry.value)

    def ending(self, session_id: bytes) -> Ending | None:
        """How a session was ended by its id; None if it was not."""
        ended = self.find(session_id)
        return None if ended is None else ended.ending

    def end(
        self, session_id: bytes, expires_at: int, ending: Ending, *, follows: bool = True
    ) -> bytes | None:
        """Refuse a session id until `expires_at` (epoch seconds), or the id that replaced it.

        LOGGED_OUT follows every successor, REVOKED only those of the same subject; such an id
        is refused until its own expiry and the skew. `follows`: False to follow none. Returns the
        id that this call has ended; None if it was ended before. Raises NoPrimaryKey,
        RowUnreadable if a row does not open and so may hide a successor, and StorageUnavailable
        after MAX_SUCCESSORS.
        """
        value = _REVOKED if ending is Ending.REVOKED else b""
        subject, is_meant = b"", True
        for _ in range(1 + MAX_SUCCESSORS):
            if is_meant:
                if self._create(session_id, value, expires_at):
                    return session_id
                ended: EndedId | None = self._read(session_id)
            else:
                ended = self.find(session_id)
            successor = None if ended is None else ended.successor
            if successor is None or not follows:
                return None
            # The user may sign in again over a session of another user.
            subject = subject or successor.replaced_subject
            is_meant = ending is Ending.LOGGED_OUT or successor.subject == subject
            session_id, expires_at = successor.id, successor.expires_at + self._skew
        raise too_many_ids()

    def next_id(self, session_id: bytes) -> bytes | None:
        """The next id of a session that belongs to the same subject; None without one.

        Raises StorageUnavailable after MAX_SUCCESSORS ids of others.
        """
        subject = b""
        for _ in range(1 + MAX_SUCCESSORS):
            ended = self.find(session_id)
            successor = None if ended is None else ended.successor
            if successor is None:
                return None
            subject = subject or successor.replaced_subject
            if successor.subject == subject:
                return successor.id
            session_id = successor.id
        raise too_many_ids()

    def replace(
        self,
        session_id: bytes,
        expires_at: int,
        successor: Successor,
        *,
        joins: Collection[bytes] | None = (),
    ) -> bytes | Ending:
        """Refuse a session id until `expires_at` (epoch seconds): it continues as `successor`.

        Returns the id that is refused now, or else why the successor must not be used: the
        session was ended, or has another successor (REPLACED). A successor whose subject is one
        of `joins` (marks; None for every subject) is replaced instead, and the new one becomes
        the last. A row also lives until its successor expires. Raises NoPrimaryKey, and
        RowUnreadable and StorageUnavailable as `end` does.
        """
        for _ in range(1 + MAX_SUCCESSORS):
            until = max(expires_at, successor.expires_at + self._skew)
            if self._create(session_id, _encode(int(self._now()), successor), until):
                return session_id
            ended = self._read(session_id)
            other = ended.successor
            if other is not None and other.id == successor.id:
                return session_id  # this save was carried out before
            if other is None or (joins is not None and other.subject not in joins):
                return ended.ending
            successor = successor._replace(replaced_subject=other.subject)
            session_id, expires_at = other.id, other.expires_at + self._skew
        raise too_many_ids()

    def revoke_subject(self, subject: str, lifetime: int) -> None:
        """Refuse all sessions of `subject` that began until now, by any clock within the skew.

        `lifetime`: of the longest session (seconds). Raises ConfigurationError without a lookup
        key, NoPrimaryKey. The caller calls `mark_lookup` before.
        """

        def raise_watermark(entry: Entry | None) -> Put:
            # A session that began before this moment may be dated by a clock that is ahead.
            time = int(self._now()) + self._skew
            if entry is not None and entry.error is None:
                # It only rises, by a second at least: a later sign-in began just above it.
                time = max(time, _time(entry) + 1)
            return _watermark(time, time + lifetime + self._skew, entry)

        key = self._subjects.guessable_key(subject)
        self._subjects.change(key, raise_watermark, replaces_unreadable=True, tries=16)

    def mark_lookup(self, lifetime: int) -> None:
        """Leave the mark of this node's lookup key, for as long as a watermark of now lives.

        `lifetime`: as for `revoke_subject`. Raises NoPrimaryKey, and ConfigurationError without a
        lookup key or if watermarks are named with another.
        """
        mark = _lookup_mark(self._subjects.lookup_secret())
        until = (int(self._now()) + lifetime + 2 * self._skew) * 1000
        # Longer than it must, so that not every sign-out writes the mark.
        put = Put(mark, until + MARK_SECONDS * 1000)

        def keep(entry: Entry | None) -> Put | None:
            if entry is None or entry.error is not None:
                return put
            if entry.value != mark:
                raise _other_lookup(entry, has_one=True)
            return put if (entry.expires_at or until) < until else None

        self._marks.change(self._marks.key(), keep, replaces_unreadable=True)

    def check_lookup(self) -> bool:
        """Whether the watermarks are named with the lookup key of this node.

        False if that is not known: there are none, or their mark does not open here. Raises
        ConfigurationError if they are named with another, or if this node has none.
        """
        entry = self._marks.look(self._marks.key())
        if entry is None or entry.error is not None:
            return False
        lookup = self._keyring().lookup
        if lookup is None or entry.value != _lookup_mark(lookup):
            raise _other_lookup(entry, has_one=lookup is not None)
        return True

    def watermark(self, subject: str, known: Look | None = None) -> int:
        """Until when sessions of `subject` are refused (epoch seconds); -1 for none.

        `known`: asked instead of the store. Raises StorageUnavailable for a watermark that does not
        open here.
        """
        entry = self._look_up(subject, known)
        if entry is None:
            return -1
        if entry.error is not None:
            raise _unreadable(entry.error)
        return _time(entry)

    def begin(self, subject: str, lifetime: int, now: float, since: int | None = None) -> int:
        """When a session of `subject` that begins at `now` must say that it began.

        That is later than the watermark, so that a user who signs in right after "sign out
        everywhere" is not refused. Epoch seconds. `since`: when the session began that the
        user had when the request came; raises RevokedSession if it was signed out everywhere
        meanwhile. `lifetime`: as for `revoke_subject`, used if a watermark is lost and has to
        be written again. Raises NoPrimaryKey.
        """
        entry = self._look_up(subject)
        if entry is not None and entry.error is not None:
            if entry.error.keeps_cookie:
                raise _unreadable(entry.error)  # another node may know who is signed in

            def replace(found: Entry | None) -> Put | None:
                # If another node wrote first, its watermark is equally valid.
                is_lost = found is not None and found.error is not None
                time = int(now) + self._skew
                return _watermark(time, time + lifetime + self._skew, found) if is_lost else None

            entry = self._subjects.change(self._subjects.guessable_key(subject), replace)
        if entry is None:
            return int(now)
        if since is not None and since <= _time(entry):
            raise RevokedSession
        return max(int(now), _time(entry) + 1)

    def _continues(self, ended: EndedId, known: Look | None) -> bool:
        """Whether the session that replaced another is in use, as far as this node can read."""
        for _ in range(CHECKED_SUCCESSORS):
            found = None if ended.successor is None else self.find(ended.successor.id, known)
            if found is None:
                return ended.ending is Ending.REPLACED
            ended = found
        return True

    def _create(self, session_id: bytes, value: bytes, expires_at: int) -> bool:
        return self._sessions.create(self._sessions.key(session_id), value, expires_at * 1000)

    def _read(self, session_id: bytes) -> EndedId:
        """What a row says that was there a moment ago. Raises RowUnreadable."""
        entry = self._sessions.look(self._sessions.key(session_id))
        if entry is None:
            raise StorageUnavailable("the row of a session vanished while it was being ended")
        if entry.error is not None:
            raise RowUnreadable(
                f"the row of a session does not open here ({entry.error.reason}), and may name a"
                " new id"
            )
        ended = _decode(entry.value)
        if ended.successor is None and entry.value not in (b"", _REVOKED):
            raise RowUnreadable("the row of a session was written by another release")
        return ended

    def _look_up(self, subject: str, known: Look | None = None) -> Entry | None:
        lookup = self._keyring().lookup
        if lookup != self._lookup:
            if self._lookup is not None:
                raise StorageUnavailable("the keys have another lookup key than before, or none")
            self._lookup = lookup
        if lookup is None:
            return None
        return self._subjects.look(self._subjects.guessable_key(subject), known)


def too_many_ids() -> StorageUnavailable:
    """The error of an end, or of a new id, that cannot reach the last id of its session."""
    return StorageUnavailable(
        f"the session got more than {MAX_SUCCESSORS} new ids, and the last was not reached;"
        " revoke_subject ends it with all sessions of its user"
    )


def subject_mark(subject: str | None) -> bytes:
    """8 bytes that are the same for the same subject."""
    if subject is None:
        return _NO_SUBJECT
    return hashlib.blake2b(length_prefixed(subject), digest_size=MARK_BYTES).digest()


def _lookup_mark(lookup: bytes) -> bytes:
    message = length_prefixed("sealedstate/1", "lookup")
    return hashlib.blake2b(message, key=lookup, digest_size=LOOKUP_MARK_BYTES).digest()


def _other_lookup(entry: Entry, *, has_one: bool) -> ConfigurationError:
    """The error of a node that would not find the watermarks that other nodes have written."""
    problem = "is not that" if has_one else "is missing; there is one"
    end = datetime.fromtimestamp((entry.expires_at or 0) / 1000, UTC)
    return ConfigurationError(
        f"keys: the lookup key {problem} by which users were signed out everywhere in this store,"
        " and their sessions would be accepted; add the lookup key of the other nodes, or use this"
        f" list after {end:%Y-%m-%d %H:%M} UTC, when those sessions have ended"
    )


def _encode(replaced_at: int, successor: Successor) -> bytes:
    times = (time.to_bytes(TIME_BYTES, "big") for time in (replaced_at, successor.expires_at))
    marks = successor.subject, successor.replaced_subject
    return b"".join([_REPLACED, *times, successor.id, *marks])


def _decode(value: bytes) -> EndedId:
    """What a row says. Any value that the specification does not have is an end."""
    if len(value) != _REPLACED_BYTES or not value.startswith(_REPLACED):
        return EndedId(Ending.REVOKED if value else Ending.LOGGED_OUT)
    replaced_at, expires_at = (int.from_bytes(value[at : at + 8], "big") for at in (1, 9))
    successor = Successor(value[17:33], expires_at, value[33:41], value[41:49])
    return EndedId(Ending.REPLACED, replaced_at, successor)


def _time(entry: Entry) -> int:
    return int.from_bytes(entry.value, "big")


def _watermark(time: int, expires_at: int, over: Entry | None = None) -> Put:
    """A watermark lives until the later of `expires_at` (seconds) and its row's expiry."""
    kept_until = 0 if over is None or over.expires_at is None else over.expires_at
    return Put(time.to_bytes(8, "big"), max(expires_at * 1000, kept_until))


def _unreadable(error: UnreadableError) -> StorageUnavailable:
    return StorageUnavailable(f"a watermark is unreadable here ({error.reason})")
