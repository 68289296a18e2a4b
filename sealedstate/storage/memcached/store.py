"""A storage service in memcached: shared and quick, but it evicts, and a restart empties it.

Knows memcached's commands and how a record looks there. Does not know sockets or what is stored.

A record is an item: version, expiry in milliseconds, the epoch of its context, value. Our clock and
the item's own expiry decide; memcached's, in whole seconds, comes GRACE later and only gives the
memory back. Every write is `add` where there is nothing and `cas` over what was read, also over
what is dead, so that of any number of racers one wins. Deleting is a `cas` that expires at once.

A context has an epoch, random, under a name of its own, and a record of another epoch is as absent
as none: `delete_context` draws a new one. An epoch that was evicted is drawn anew, so what was
written before does not come back. Epoch and record are read in one round trip.

What memcached can't do: tell what belongs to a context (no `keys`, no `touch_context`). Members of
an index stand in one item, and must fit into it. Answers to writes carry no mark of whose they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ...errors import CapacityError, StorageError, VersionMismatch
from .._names import context_digest, key_digest, printable
from ..contract import (
    UNCHANGED,
    Capabilities,
    Clock,
    Stored,
    Unchanged,
    check_range,
    check_size,
    millis,
)
from .client import Link, Settings, fetched

# Nodes whose clocks differ by less than this agree on what is alive.
GRACE = 300_000
# So often a write is tried again because somebody else was first.
TRIES = 256
SILENCE_LASTS, TIME_LASTS = 1_000, 60_000

_HEADER = struct.Struct(">qQ8s")
_MEMBER = struct.Struct(">QI")
_FOREVER = (1 << 64) - 1
# memcached's own: what is more is a time, and what does not fit into 31 bits is in the past.
_RELATIVE, _LAST = 30 * 86_400, (1 << 31) - 1
_AT_ONCE = -1
# An item's name, its header and memcached's share of item_size_max.
_OVERHEAD = 1024


class _Names(NamedTuple):
    """The names of an item and of its context's epoch."""

    item: bytes
    epoch: bytes


class _Seen(NamedTuple):
    """What is under a name, alive or not; `token` is what `cas` knows it by."""

    epoch: bytes | None
    of_epoch: bytes | None = None
    token: bytes | None = None
    version: int = 0
    expires: int = 0
    value: bytes = b""

    def is_alive(self, now: int) -> bool:
        return self.of_epoch is not None and self.of_epoch == self.epoch and now < self.expires

    def stored(self) -> Stored:
        return Stored(self.value, self.version, _told(self.expires))


class MemcachedStorage:
    """Records in the memcached server at `url`. `timeout`: seconds to wait for it.

    Raises ConfigurationError when the URL names none.
    """

    def __init__(self, url: str, clock: Clock, *, timeout: float = 0.5) -> None:
        self._clock = clock
        self._link = Link(url, timeout)
        self._facts, self._facts_of = _capabilities(None), self._link.settings
        self._asked_at = -SILENCE_LASTS
        self._ahead, self._ahead_at = 0, -TIME_LASTS

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._link.address})"

    @property
    def capabilities(self) -> Capabilities:
        """As the server was started; as most servers are, while it does not answer."""
        now = self._now()
        if self._link.settings is None and not 0 <= now - self._asked_at < SILENCE_LASTS:
            self._asked_at = now
            with contextlib.suppress(StorageError):
                self.ping()
        return self._known()

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        self._check(context, key, value)
        check_range(expires_at, version)
        names = _names(context, b"r", key)
        for _ in range(TRIES):
            seen = self._look(names)
            if seen.is_alive(self._now()):
                return False
            if self._put(names, seen, value, expires_at, version):
                return True
        raise self._crowded()

    def read(self, context: str, key: str) -> Stored | None:
        self._check(context, key)
        seen = self._look(_names(context, b"r", key))
        return seen.stored() if seen.is_alive(self._now()) else None

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
        self._check(context, key, value)
        check_range(expires_at, version, expected)
        names = _names(context, b"r", key)
        for _ in range(TRIES):
            seen = self._look(names)
            if not seen.is_alive(self._now()):
                return False
            if version <= seen.version or expected not in (None, seen.version):
                raise VersionMismatch(seen.version)
            if self._put(names, seen, value, expires_at, version):
                return True
        raise self._crowded()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        self._check(context, key)
        check_range(expires_at)
        names = _names(context, b"r", key)
        for _ in range(TRIES):
            seen = self._look(names)
            if not seen.is_alive(self._now()):
                return False
            if self._put(names, seen, seen.value, expires_at, seen.version):
                return True
        raise self._crowded()

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        self._check(context, key)
        check_range(None, expected)
        names = _names(context, b"r", key)
        for _ in range(TRIES):
            seen = self._look(names)
            if not seen.is_alive(self._now()):
                return False
            if expected not in (None, seen.version):
                raise VersionMismatch(seen.version)
            if self._drop(names, seen):
                return True
        raise self._crowded()

    def touch_context(self, context: str, expires_at: int | None) -> None:
        """Not here: raises StorageError."""
        self._check(context, "any")
        check_range(expires_at)
        raise StorageError("memcached can't touch a context (its capability `contexts` is False)")

    def delete_context(self, context: str) -> None:
        self._check(context, "any")
        name, epoch = _epoch_name(context), os.urandom(8)
        self._link.write(lambda client: client.set(name, epoch), None)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        """Not here: raises StorageError."""
        self._check(context, "any")
        raise StorageError("memcached can't list keys (its capability `enumerable` is False)")

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self._check(context, key, _encoded(member))
        check_range(expires_at)
        names = _names(context, b"i", key)
        for _ in range(TRIES):
            seen = self._look(names)
            members = {**_members(seen, self._now()), member: _kept(expires_at)}
            if self._put_members(names, seen, members):
                return
        raise self._crowded()

    def remove_member(self, context: str, key: str, member: str) -> bool:
        self._check(context, key, _encoded(member))
        names = _names(context, b"i", key)
        for _ in range(TRIES):
            seen = self._look(names)
            members = _members(seen, self._now())
            if members.pop(member, None) is None:
                return False
            if self._put_members(names, seen, members) if members else self._drop(names, seen):
                return True
        raise self._crowded()

    def members(self, context: str, key: str) -> dict[str, int | None]:
        self._check(context, key)
        seen = self._look(_names(context, b"i", key))
        return {member: _told(at) for member, at in _members(seen, self._now()).items()}

    def prepare(self) -> None:
        self.ping()

    def ping(self) -> None:
        self._link.read(lambda client: client.version())

    def reap(self, limit: int) -> int:
        """Nothing to do: memcached gives the memory back by itself."""
        return 0

    def close(self) -> None:
        self._link.close()

    # --- one item -------------------------------------------------------------------------------

    def _look(self, names: _Names) -> _Seen:
        found = self._link.read(lambda client: fetched(client, names))
        epoch, _ = found.get(names.epoch, (None, None))
        item, token = found.get(names.item, (b"", None))
        if len(item) < _HEADER.size:
            return _Seen(epoch, token=token)
        version, expires, of_epoch = _HEADER.unpack_from(item)
        return _Seen(epoch, of_epoch, token, version, expires, item[_HEADER.size :])

    def _put(
        self, names: _Names, seen: _Seen, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        """Write over what was seen; False where it can't be, and has to be seen anew."""
        if seen.epoch is None:
            epoch = os.urandom(8)
            self._link.read(lambda client: client.add(names.epoch, epoch))
            return False
        item = _HEADER.pack(version, _kept(expires_at), seen.epoch) + value
        ttl = self._ttl(expires_at)
        if seen.token is None:
            done = self._link.write(lambda client: client.add(names.item, item, ttl), version)
        else:
            done = self._link.write(
                lambda client: client.cas(names.item, item, seen.token, ttl), version
            )
        return bool(done)

    def _drop(self, names: _Names, seen: _Seen) -> bool:
        def expire(client: Any) -> Any:
            return client.cas(names.item, b"", seen.token, _AT_ONCE)

        return bool(self._link.write(expire, None))

    def _put_members(self, names: _Names, seen: _Seen, members: Mapping[str, int]) -> bool:
        entries = [(at, member.encode()) for member, at in members.items()]
        value = b"".join(_MEMBER.pack(at, len(text)) + text for at, text in entries)
        most = self._known().value_bytes
        if len(value) > most:
            raise CapacityError(f"an index of {len(value)} bytes; the store takes {most}")
        return self._put(names, seen, value, _told(max(members.values())), 0)

    def _crowded(self) -> StorageError:
        return self._link.unavailable(f"others were first {TRIES} times")

    # --- sizes and times ------------------------------------------------------------------------

    def _check(self, context: str, key: str, value: bytes = b"") -> None:
        known = self._known()
        # Perhaps it is only that the server was not asked yet.
        check_size(
            known if len(value) <= known.value_bytes else self.capabilities, context, key, value
        )

    def _known(self) -> Capabilities:
        if self._facts_of is not self._link.settings:
            self._facts_of = self._link.settings
            self._facts = _capabilities(self._facts_of)
        return self._facts

    def _ttl(self, expires_at: int | None) -> int:
        """For how many seconds memcached keeps an item, or until when; 0 for ever."""
        if expires_at is None:
            return 0
        seconds = (max(expires_at - self._now(), 0) + GRACE + 999) // 1000
        if seconds <= _RELATIVE:
            return seconds
        until = self._now() // 1000 + self._seconds_ahead() + seconds
        return until if until <= _LAST else 0

    def _seconds_ahead(self) -> int:
        """By how much memcached's clock is ahead of ours: times are told by its own."""
        now = self._now()
        if not 0 <= now - self._ahead_at < TIME_LASTS:
            stats = self._link.read(lambda client: client.stats())
            self._ahead, self._ahead_at = int(stats.get(b"time", now // 1000)) - now // 1000, now
        return self._ahead

    def _now(self) -> int:
        return millis(self._clock())


# --- items ----------------------------------------------------------------------------------------


def _names(context: str, kind: bytes, key: str) -> _Names:
    item = b"sealedstate:" + kind + b":" + printable(key_digest(context, key))
    return _Names(item, _epoch_name(context))


@functools.lru_cache(maxsize=64)
def _epoch_name(context: str) -> bytes:
    return b"sealedstate:e:" + printable(context_digest(context))


def _kept(expires_at: int | None) -> int:
    """An expiry as it is kept: for ever sorts last."""
    return _FOREVER if expires_at is None else expires_at


def _told(expires: int) -> int | None:
    return None if expires == _FOREVER else expires


def _members(seen: _Seen, now: int) -> dict[str, int]:
    """The live members of an index."""
    members: dict[str, int] = {}
    at = 0
    while seen.of_epoch is not None and seen.of_epoch == seen.epoch and at < len(seen.value):
        expires, size = _MEMBER.unpack_from(seen.value, at)
        at += _MEMBER.size + size
        if now < expires:
            members[seen.value[at - size : at].decode()] = expires
    return members


def _encoded(member: str) -> bytes:
    try:
        return member.encode()
    except UnicodeEncodeError:
        raise CapacityError("text with a lone surrogate is no member") from None


# --- what it can do -------------------------------------------------------------------------------


def _capabilities(told: Settings | None) -> Capabilities:
    """What a server can do that told these settings; what most can, where it told none.

    None: it was not asked yet.
    """
    settings = told or {}
    most, room = settings.get(b"item_size_max", 1 << 20), settings.get(b"maxbytes")
    evicts = settings.get(b"evictions") != b"off"
    why = "evictions on" if evicts else "evictions off (-M): when it is full, it takes no writes"
    unlisted = "memcached can't list what belongs to a context"
    return Capabilities(
        context_bytes=1 << 16,
        key_bytes=1 << 16,
        value_bytes=most - _OVERHEAD,
        shared=True,
        durable=False,
        survives_restart=False,
        evicts=evicts,
        enumerable=False,
        contexts=False,
        expires_itself=True,
        presumed=told is None,
        because={
            "value_bytes": f"item_size_max {most}",
            "durable": "memcached keeps everything in memory only",
            "survives_restart": "memcached keeps everything in memory only",
            "evicts": why if room is None else f"{why}, maxbytes {room}",
            "enumerable": unlisted,
            "contexts": f"{unlisted}, and so can't touch it",
        },
    )
