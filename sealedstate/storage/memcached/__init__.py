"""A store in memcached: `MemcachedStorage`. Shared and fast, but it evicts and forgets.

A record is an item: version, expiry in milliseconds, the epoch of its context, value. The store's
clock and the item's expiry say whether it is live; memcached's own expiry, in whole seconds, comes
GRACE later and only frees the memory. Every write is `add` if there is no item and `cas` over the
item that was read, also over an expired one. Therefore, of any number of concurrent writers one
succeeds. A delete is a `cas` that expires at once.

The epoch of a context is a random value under its own name. A record of another epoch is absent, so
`delete_context` only replaces the epoch. If an epoch was evicted, the next write draws another,
and older records do not return. Epoch and record are read in one round trip.

memcached can't list the items of a context, so there is no `keys` and no `touch_context`. All
members of an index are in one item and must fit into it. A reply to a write does not say to which
request it belongs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...errors import CapacityError, StorageError, VersionMismatch
from ..contract import (
    Capabilities,
    Clock,
    Stored,
    check_arguments,
    context_digest,
    key_digest,
    millis,
    printable,
    utf8,
)
from ._client import MemcachedClient, ServerSettings, get_many

__all__ = ["MemcachedStorage"]

# Nodes whose clocks differ by less than this agree on which records are live.
GRACE = 300_000
# How often a write is tried again because another client wrote in between.
TRIES = 256
FLUSHED_PAUSE = 0.01  # seconds between tries on a server that keeps nothing
SILENCE_LASTS, TIME_LASTS = 1_000, 60_000

_HEADER = struct.Struct(">qQ8s")
_MEMBER = struct.Struct(">QI")
_PERMANENT = (1 << 64) - 1
# memcached takes more seconds than this for a date, and a date beyond 31 bits for one in the past.
_LONGEST_RELATIVE, _LATEST_DATE = 30 * 86_400, (1 << 31) - 1
_EXPIRE_NOW = -1
# How much of item_size_max the name, the header and memcached itself take.
_OVERHEAD = 1024


class MemcachedStorage:
    """Records in a memcached server: at a URL, or where a pymemcache client has it.

    `timeout`: seconds to wait for the server of a URL. Of a client, the timeouts, the TLS context
    and the prefix of keys count; the store opens connections like it, and does not use its pool.

    Raises ConfigurationError if it is not one memcached server's.
    """

    _address = "not opened"

    def __init__(self, server: str | Any, clock: Clock, *, timeout: float = 0.5) -> None:
        self._clock = clock
        self._client = MemcachedClient(server, timeout)
        self._address = self._client.address
        self._capabilities, self._capabilities_of = capabilities_by(None), self._client.settings
        self._last_ping = -SILENCE_LASTS
        self._offset, self._offset_at = 0, -TIME_LASTS

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address})"

    @property
    def capabilities(self) -> Capabilities:
        """By the server's options; those of most servers while it has not answered."""
        now = self._now()
        if self._client.settings is None and not 0 <= now - self._last_ping < SILENCE_LASTS:
            self._last_ping = now
            with contextlib.suppress(StorageError):
                self.ping()
        return self._current_capabilities()

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        self._check(context, key, value, expires_at, version)
        tries = self._tries(context, b"r", key)
        while True:
            item = next(tries)
            if item.is_live(self._now()):
                return False
            if self._put(item, value, expires_at, version):
                return True

    def read(self, context: str, key: str) -> Stored | None:
        self._check(context, key)
        item = self._get(self._names(context, b"r", key))
        if not item.is_live(self._now()):
            return None
        return Stored(item.value, item.version, _decode_expiry(item.expires))

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        self._check(context, key, value, expires_at, version, expected)
        tries = self._tries(context, b"r", key)
        while True:
            item = next(tries)
            if not item.is_live(self._now()):
                return False
            if version <= item.version or expected not in (None, item.version):
                raise VersionMismatch(item.version)
            if self._put(item, value, expires_at, version):
                return True

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        self._check(context, key, b"", None, expected)
        tries = self._tries(context, b"r", key)
        while True:
            item = next(tries)
            if not item.is_live(self._now()):
                return False
            if expected not in (None, item.version):
                raise VersionMismatch(item.version)
            if self._remove(item):
                return True

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        """Raises StorageError: memcached lists no items."""
        self._check(context, "any")
        raise StorageError("memcached can't list keys (its capability `enumerable` is False)")

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        self._check(context, key, utf8(member), expires_at)
        tries = self._tries(context, b"i", key)
        while True:
            item = next(tries)
            members = {**item.members(self._now()), member: _encode_expiry(expires_at)}
            if self._put_members(item, members):
                return

    def remove_member(self, context: str, key: str, member: str) -> bool:
        self._check(context, key, utf8(member))
        tries = self._tries(context, b"i", key)
        while True:
            item = next(tries)
            members = item.members(self._now())
            if members.pop(member, None) is None:
                return False
            if self._put_members(item, members) if members else self._remove(item):
                return True

    def members(self, context: str, key: str) -> dict[str, int | None]:
        self._check(context, key)
        members = self._get(self._names(context, b"i", key)).members(self._now())
        return {member: _decode_expiry(expires) for member, expires in members.items()}

    def ping(self) -> None:
        self._client.read(lambda client: client.version())

    def reap(self, limit: int) -> int:
        """Return 0: memcached frees the memory of expired items itself."""
        return 0

    def close(self) -> None:
        self._client.close()

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        self._check(context, key, b"", expires_at)
        tries = self._tries(context, b"r", key)
        while True:
            item = next(tries)
            if not item.is_live(self._now()):
                return False
            if self._put(item, item.value, expires_at, item.version):
                return True

    def touch_context(self, context: str, expires_at: int | None) -> None:
        """Raises StorageError: memcached lists no items."""
        self._check(context, "any", b"", expires_at)
        raise StorageError("memcached can't touch a context (its capability `contexts` is False)")

    def delete_context(self, context: str) -> None:
        self._check(context, "any")
        name, epoch = _epoch_name(self._client.server.prefix, context), os.urandom(8)
        self._client.write(lambda client: client.set(name, epoch), None)

    def prepare(self) -> None:
        self.ping()

    # --- one item -------------------------------------------------------------------------------

    def _tries(self, context: str, kind: bytes, key: str) -> Iterator[_Item]:
        """Read an item again and again, as long as other clients write between read and write.

        Raises StorageUnavailable after TRIES of them, or when the timeout is over.
        """
        names, deadline = self._names(context, kind, key), time.monotonic() + self._client.timeout
        item, why, tries = None, "other clients wrote first", 0
        while tries < TRIES and (tries == 0 or time.monotonic() <= deadline):
            tries += 1
            before, item = item, self._get(names)
            if before is not None and before.epoch is None and item.epoch is None:
                # The epoch that was added since then is gone: after a `flush_all` for a later
                # time, memcached loses for up to a second what it has just stored.
                why = "it loses at once what it has just stored (flush_all, or no memory)"
                time.sleep(FLUSHED_PAUSE)
            yield item
        raise self._client.unavailable(f"{why}, {tries} times")

    def _names(self, context: str, kind: bytes, key: str) -> _Names:
        return _names(self._client.server.prefix, context, kind, key)

    def _get(self, names: _Names) -> _Item:
        found = self._client.read(lambda client: get_many(client, names))
        epoch, _ = found.get(names.epoch, (None, None))
        data, token = found.get(names.item, (b"", None))
        if len(data) < _HEADER.size:
            return _Item(names, epoch, token=token)
        version, expires, item_epoch = _HEADER.unpack_from(data)
        return _Item(names, epoch, item_epoch, token, version, expires, data[_HEADER.size :])

    def _put(self, item: _Item, value: bytes, expires_at: int | None, version: int) -> bool:
        """Overwrite an item; False if it must be read again first."""
        names, epoch = item.names, item.epoch
        if epoch is None:
            drawn = os.urandom(8)
            self._client.read(lambda client: client.add(names.epoch, drawn))
            return False
        data = _HEADER.pack(version, _encode_expiry(expires_at), epoch) + value
        return self._overwrite(item, data, self._ttl(expires_at), version)

    def _overwrite(self, item: _Item, data: bytes, ttl: int, version: int | None) -> bool:
        def write(client: Any) -> Any:
            if item.token is None:
                return client.add(item.names.item, data, ttl)
            return client.cas(item.names.item, data, item.token, ttl)

        return bool(self._client.write(write, version))

    def _remove(self, item: _Item) -> bool:
        return self._overwrite(item, b"", _EXPIRE_NOW, None)

    def _put_members(self, item: _Item, members: Mapping[str, int]) -> bool:
        entries = [(expires, member.encode()) for member, expires in members.items()]
        value = b"".join(_MEMBER.pack(expires, len(text)) + text for expires, text in entries)
        limit = self._current_capabilities().value_bytes
        if len(value) > limit:
            raise CapacityError(f"index must be at most {limit} bytes, got {len(value)}")
        return self._put(item, value, _decode_expiry(max(members.values())), 0)

    # --- sizes and times ------------------------------------------------------------------------

    def _check(self, context: str, key: str, value: bytes = b"", *numbers: int | None) -> None:
        known = self._current_capabilities()
        if len(value) > known.value_bytes:
            known = self.capabilities  # asks the server, if it has not been asked yet
        check_arguments(known, context, key, value, *numbers)

    def _current_capabilities(self) -> Capabilities:
        if self._capabilities_of is not self._client.settings:
            self._capabilities_of = self._client.settings
            self._capabilities = capabilities_by(self._capabilities_of)
        return self._capabilities

    def _ttl(self, expires_at: int | None) -> int:
        """Return memcached's expiry of an item: seconds, a date, or 0 for permanent."""
        if expires_at is None:
            return 0
        now = self._now()
        seconds = (max(expires_at - now, 0) + GRACE + 999) // 1000
        if seconds <= _LONGEST_RELATIVE:
            return seconds
        # A date is by memcached's clock, which is `_offset` seconds ahead of the store's.
        if not 0 <= now - self._offset_at < TIME_LASTS:
            stats = self._client.read(lambda client: client.stats())
            self._offset, self._offset_at = int(stats.get(b"time", now // 1000)) - now // 1000, now
        date = now // 1000 + self._offset + seconds
        return date if date <= _LATEST_DATE else 0

    def _now(self) -> int:
        return millis(self._clock())


# --- items --------------------------------------------------------------------------------------


class _Names(NamedTuple):
    """The names of an item and of its context's epoch."""

    item: bytes
    epoch: bytes


class _Item(NamedTuple):
    """An item as it was read, live or not. `token` is None if there is none."""

    names: _Names
    epoch: bytes | None
    item_epoch: bytes | None = None
    token: bytes | None = None
    version: int = 0
    expires: int = 0
    value: bytes = b""

    def is_live(self, now: int) -> bool:
        return self.item_epoch is not None and self.item_epoch == self.epoch and now < self.expires

    def members(self, now: int) -> dict[str, int]:
        """Return the live members of an index."""
        members: dict[str, int] = {}
        if self.item_epoch is None or self.item_epoch != self.epoch:
            return members
        at = 0
        while at < len(self.value):
            expires, size = _MEMBER.unpack_from(self.value, at)
            at += _MEMBER.size + size
            if now < expires:
                members[self.value[at - size : at].decode()] = expires
        return members


def _names(prefix: bytes, context: str, kind: bytes, key: str) -> _Names:
    item = prefix + b"sealedstate:" + kind + b":" + printable(key_digest(context, key))
    return _Names(item, _epoch_name(prefix, context))


@functools.lru_cache(maxsize=64)
def _epoch_name(prefix: bytes, context: str) -> bytes:
    return prefix + b"sealedstate:e:" + printable(context_digest(context))


def _encode_expiry(expires_at: int | None) -> int:
    """Return an expiry as it is stored; a permanent one sorts last."""
    return _PERMANENT if expires_at is None else expires_at


def _decode_expiry(expires: int) -> int | None:
    return None if expires == _PERMANENT else expires


# --- capabilities by the server's settings ------------------------------------------------------


def capabilities_by(settings: ServerSettings | None) -> Capabilities:
    """Return the capabilities of a server with these settings; None: it has not been asked yet."""
    known = settings or {}
    max_item, max_bytes = known.get(b"item_size_max", 1 << 20), known.get(b"maxbytes")
    evicts = known.get(b"evictions") != b"off"
    why = "evictions on" if evicts else "evictions off (-M): when it is full, it takes no writes"
    in_memory = "memcached keeps everything in memory only"
    unlisted = "memcached can't list what belongs to a context"
    return Capabilities(
        context_bytes=1 << 16,
        key_bytes=1 << 16,
        value_bytes=max_item - _OVERHEAD,
        shared=True,
        durable=False,
        survives_restart=False,
        evicts=evicts,
        enumerable=False,
        contexts=False,
        native_expiry=True,
        assumed=settings is None,
        reasons={
            "value_bytes": f"item_size_max {max_item}",
            "durable": in_memory,
            "survives_restart": in_memory,
            "evicts": why if max_bytes is None else f"{why}, maxbytes {max_bytes}",
            "enumerable": unlisted,
            "contexts": f"{unlisted}, and so can't touch it",
        },
    )
