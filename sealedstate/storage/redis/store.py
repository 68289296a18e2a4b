"""A storage service in Redis or Valkey: shared by machines, as durable as the server is configured.

Knows names, scripts' arguments and what an answer means. Does not know Lua, sockets or what is
stored.

Reading is one GET; every other operation is one script, one round trip and one atomic step. What
time it is comes from our clock, and a record's own expiry decides to the millisecond; Redis's own
expiry comes GRACE later and only gives the memory back.

Names: `sealedstate:{CONTEXT}:r:KEY` is a record, `:i:KEY` an index, `:records` and `:indexes` are
the lists of them, where CONTEXT and KEY are digests. The braces put all that belongs to a context
into one hash slot, so that a script can keep a record and its list in step on a cluster too. The
price: a context lives on one node and grows with it; what shall be spread needs several contexts.
The store itself speaks to one server (or to a proxy), and does not follow a cluster's redirections.

Of a user who is held short it needs keys `sealedstate:*` and the commands `get ping eval evalsha
set getrange setrange persist pexpire pttl del unlink exists zadd zrem zrange zrangebyscore zscore
zscan scan`; `config` and `info` too, or it can claim nothing of how durable the server is.

A context's records beyond PAGE are moved or deleted a page at a time, each page in one step, so
that nobody else waits for long; what fails half-way can be done again. `keys` is a snapshot, and so
one answer, however long.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ...errors import CapacityError, StorageError, VersionMismatch
from .._names import NAME_CHARS, context_digest, key_digest, printable
from ..contract import (
    LATEST,
    UNCHANGED,
    Capabilities,
    Clock,
    Stored,
    Unchanged,
    check_range,
    check_size,
    millis,
)
from . import scripts
from .client import Link
from .server import QUESTIONS, UNKNOWN, capabilities, parse_server

# Nodes whose clocks differ by less than this agree on what is alive.
GRACE = 300_000
FACTS_LAST, SILENCE_LASTS = 60_000, 1_000
PAGE = 500
# So many steps through the server's keys a call of `reap` takes at most.
REAP_STEPS, REAP_STEP = 20, b"1000"

_FOREVER = 10**scripts.EXPIRY_CHARS - 1
_LONGEST = 100 * 365 * 86_400_000
_OFFSET = 1 << 63  # makes every version of 64 bits a number of 20 digits without a sign


class RedisStorage:
    """Records in the Redis server at `url`. `timeout`: seconds to wait for it.

    Raises ConfigurationError when the URL names none.
    """

    def __init__(self, url: str, clock: Clock, *, timeout: float = 0.5) -> None:
        self._server = parse_server(url)
        self._clock = clock
        self._link = Link(self._server, timeout)
        self._facts = UNKNOWN
        self._facts_of, self._facts_end = -1, 0
        self._reap_cursor = b"0"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server.address})"

    @property
    def capabilities(self) -> Capabilities:
        """As the server is configured: asked a minute later again, and after a new connection.

        What it said last while it does not answer, and little where it never did.
        """
        now = self._now()
        if self._facts_of != self._link.connects or not 0 < self._facts_end - now <= FACTS_LAST:
            self._facts_end = now + SILENCE_LASTS
            with contextlib.suppress(StorageError):
                self._facts = capabilities(self._link.ask_all(*QUESTIONS))
                self._facts_end = now + FACTS_LAST
            self._facts_of = self._link.connects
        return self._facts

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_size(UNKNOWN, context, key, value)
        check_range(expires_at, version)
        now, place = self._now(), _place(context, key)
        expiry, ttl = _life(expires_at, now)
        blob = _version(version) + expiry + place.identity + value
        more = (_time(now), blob, ttl, place.entry, b"%d" % (now - GRACE))
        return _done(self._link.run(scripts.CREATE, place.keys, *more, version=version))

    def read(self, context: str, key: str) -> Stored | None:
        check_size(UNKNOWN, context, key)
        place = _place(context, key)
        blob = self._link.ask(b"GET", place.keys[0], ours=place.owns)
        stored = None if blob is None else _stored(blob)
        if stored is None or stored.expires_at is None or stored.expires_at > self._now():
            return stored
        return None

    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        stored = self.read(context, key)
        return UNCHANGED if stored is not None and stored.version == version else stored

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        check_size(UNKNOWN, context, key, value)
        check_range(expires_at, version, expected)
        now, place = self._now(), _place(context, key)
        expiry, ttl = _life(expires_at, now)
        blob = _version(version) + expiry + place.identity + value
        more = (_time(now), blob, ttl, place.entry, _version(expected))
        return _done(self._link.run(scripts.UPDATE, place.keys, *more, version=version))

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_size(UNKNOWN, context, key)
        check_range(expires_at)
        now, place = self._now(), _place(context, key)
        more = (_time(now), *_life(expires_at, now), place.entry)
        return _done(self._link.run(scripts.MOVE, place.keys, *more))

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_size(UNKNOWN, context, key)
        check_range(None, expected)
        place = _place(context, key)
        more = (_time(self._now()), place.entry, _version(expected))
        return _done(self._link.run(scripts.DELETE, place.keys, *more))

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_size(UNKNOWN, context, "any")
        check_range(expires_at)
        now, room = self._now(), _room(context)
        for entries in self._scanned(room.records):
            keys = (room.records, *room.named(b"r:", entries))
            self._link.run(scripts.MOVE_ALL, keys, _time(now), *_life(expires_at, now), *entries)

    def delete_context(self, context: str) -> None:
        check_size(UNKNOWN, context, "any")
        room = _room(context)
        for entries in self._emptied(room.records):
            self._delete_all(room.records, room.named(b"r:", entries), entries)
        for entries in self._emptied(room.indexes):
            self._delete_all(room.indexes, room.named(b"i:", entries), entries)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_size(UNKNOWN, context, "any")
        alive = (b"(%d" % self._now(), b"+inf")
        entries = self._look(_room(context).records, b"ZRANGEBYSCORE", *alive)
        found = [entry[NAME_CHARS:].decode() for entry in entries]
        return iter([key for key in found if key.startswith(prefix)])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        check_size(UNKNOWN, context, key, _member(member))
        check_range(expires_at)
        now, room, entry = self._now(), _room(context), printable(key_digest(context, key))
        gone = b"%d" % (now - GRACE)
        more = (_time(now), *_life(expires_at, now), _member(member), entry, gone)
        keys = (*room.named(b"i:", [entry]), room.indexes)
        due = self._link.run(scripts.ADD, keys, *more)[1:]
        if due:
            # The member is in: whatever becomes of this, it is done.
            with contextlib.suppress(StorageError):
                self._reap_index(room, due, gone, PAGE)

    def remove_member(self, context: str, key: str, member: str) -> bool:
        check_size(UNKNOWN, context, key)
        room, entry = _room(context), printable(key_digest(context, key))
        keys = (*room.named(b"i:", [entry]), room.indexes)
        more = (_time(self._now()), _member(member), entry)
        return _done(self._link.run(scripts.REMOVE, keys, *more))

    def members(self, context: str, key: str) -> dict[str, int | None]:
        check_size(UNKNOWN, context, key)
        (index,) = _room(context).named(b"i:", [printable(key_digest(context, key))])
        alive = (b"(%d" % self._now(), b"+inf", b"WITHSCORES")
        found = self._look(index, b"ZRANGEBYSCORE", *alive)
        times = [None if float(time) > LATEST else int(time) for time in found[1::2]]
        return {member.decode(): at for member, at in zip(found[::2], times, strict=True)}

    def prepare(self) -> None:
        self.ping()

    def ping(self) -> None:
        self._link.ask_all()

    def reap(self, limit: int) -> int:
        """As the contract says. Goes on where it stopped, for a server has many other keys too."""
        removed = 0
        for _ in range(REAP_STEPS):
            step = (b"SCAN", self._reap_cursor, b"MATCH", b"sealedstate:{*}:*s")
            cursor, names = self._link.ask(*step, b"COUNT", REAP_STEP)
            for name in names:
                removed += self._reap_list(name, limit - removed)
            if removed >= limit:
                break
            self._reap_cursor = cursor
            if cursor == b"0":
                break
        return removed

    def close(self) -> None:
        self._link.close()

    # --- lists ----------------------------------------------------------------------------------

    def _look(self, key: bytes, command: bytes, *more: bytes) -> Any:
        return self._link.run(scripts.LOOK, (key,), b"", command, *more, reads=True)

    def _scanned(self, name: bytes) -> Iterator[Sequence[bytes]]:
        """The entries of a list, page by page; an entry may come twice."""
        cursor = b"0"
        while True:
            cursor, found = self._look(name, b"ZSCAN", cursor, b"COUNT", b"%d" % PAGE)
            if found:
                yield found[::2]
            if cursor == b"0":
                return

    def _emptied(self, name: bytes) -> Iterator[Sequence[bytes]]:
        """The first page of a list, again and again, until whoever takes them has removed all."""
        while entries := self._look(name, b"ZRANGE", b"0", b"%d" % (PAGE - 1)):
            yield entries

    def _delete_all(self, name: bytes, things: Sequence[bytes], entries: Sequence[bytes]) -> None:
        self._link.run(scripts.DELETE_ALL, (name, *things), b"", *entries)

    def _reap_list(self, name: bytes, limit: int) -> int:
        room = _Room(name[: -len(b"records")])
        removed, page = 0, min(limit, PAGE) if name in (room.records, room.indexes) else 0
        while page > 0:
            gone = self._reap_page(room, name, page)
            removed += gone
            page = min(limit - removed, PAGE) if gone == page else 0
        return removed

    def _reap_page(self, room: _Room, name: bytes, limit: int) -> int:
        now = self._now()
        due = (b"-inf", b"%d" % now, b"LIMIT", b"0", b"%d" % limit)
        entries = self._look(name, b"ZRANGEBYSCORE", *due)
        if name == room.records and entries:
            keys = (name, *room.named(b"r:", entries))
            return int(self._link.run(scripts.REAP, keys, _time(now), *entries))
        removed = 0
        for entry in entries:
            removed += self._reap_index(room, entry, b"%d" % now, limit - removed)
        return removed

    def _reap_index(self, room: _Room, entry: bytes, gone: bytes, limit: int) -> int:
        keys = (*room.named(b"i:", [entry]), room.indexes)
        more = (b"", entry, gone, b"%d" % limit)
        return int(self._link.run(scripts.REAP_INDEX, keys, *more))

    def _now(self) -> int:
        return max(millis(self._clock()), 0)


# --- names ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Room:
    """What belongs to one context: all names that begin with `base`."""

    base: bytes

    @property
    def records(self) -> bytes:
        return self.base + b"records"

    @property
    def indexes(self) -> bytes:
        return self.base + b"indexes"

    def named(self, kind: bytes, entries: Sequence[bytes]) -> list[bytes]:
        """The keys of records or indexes, from their entries in the list."""
        return [self.base + kind + entry[:NAME_CHARS] for entry in entries]


class _Place(NamedTuple):
    """Where a record is: its key and its list's, its entry there, and what marks it as its own."""

    keys: tuple[bytes, bytes]
    entry: bytes
    identity: bytes

    def owns(self, blob: Any) -> bool:
        """Whether an answer is this record, or that there is none."""
        begin = scripts.HEADER_BYTES - scripts.IDENTITY_BYTES
        return blob is None or blob[begin : scripts.HEADER_BYTES] == self.identity


@functools.lru_cache(maxsize=64)
def _room(context: str) -> _Room:
    return _Room(b"sealedstate:{" + printable(context_digest(context)) + b"}:")


def _place(context: str, key: str) -> _Place:
    room, digest = _room(context), key_digest(context, key)
    entry = printable(digest) + key.encode()
    record = room.base + b"r:" + entry[:NAME_CHARS]
    return _Place((record, room.records), entry, digest[: scripts.IDENTITY_BYTES])


# --- arguments and answers ----------------------------------------------------------------------


def _time(now: int) -> bytes:
    return b"%016d" % now


def _life(expires_at: int | None, now: int) -> tuple[bytes, bytes]:
    """An expiry as it is stored, and for how long Redis shall keep it ("": for ever)."""
    if expires_at is None:
        return b"%d" % _FOREVER, b""
    left = max(expires_at - now, 0) + GRACE
    return b"%016d" % expires_at, b"%d" % left if left < _LONGEST else b""


def _version(version: int | None) -> bytes:
    return b"" if version is None else b"%020d" % (version + _OFFSET)


def _member(member: str) -> bytes:
    try:
        return member.encode()
    except UnicodeEncodeError:
        raise CapacityError("text with a lone surrogate is no member") from None


def _done(answer: bytes) -> bool:
    """What a script answered: 1 for yes, 0 for absence, or the version that is in the way."""
    if len(answer) == scripts.VERSION_CHARS:
        raise VersionMismatch(int(answer) - _OFFSET)
    return answer == b"1"


def _stored(blob: bytes) -> Stored:
    expiry = int(blob[scripts.VERSION_CHARS : scripts.VERSION_CHARS + scripts.EXPIRY_CHARS])
    return Stored(
        blob[scripts.HEADER_BYTES :],
        int(blob[: scripts.VERSION_CHARS]) - _OFFSET,
        None if expiry == _FOREVER else expiry,
    )
