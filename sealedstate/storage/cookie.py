"""The visitor's own cookies as a storage service, behind the same contract as every other.

Knows sealing, cookies and the contract. Does not know sessions. One sealed map per cookie name
holds all records of one visitor; it is opened when first asked and written back by `lines`, so that
its versions survive a reload. Its limits are capabilities like any other: little room, nobody else
sees it, and the visitor may show an older map again. So it takes what a server can't be asked to
keep, such as a device's preferences, and nothing that has to be true.

The payload is [records, indexes]: {context: {key: [value, version, expires_at or null]}} and
{context: {key: {member: expires_at or null}}}. No map is empty but these two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .._cookies.header import CookieFamily
from .._wire import cbor as codec
from .._wire import encoding as chunking
from .._wire import token as sealing
from ..errors import (
    CapacityError,
    MalformedRecord,
    NoPrimaryKey,
    StorageUnavailable,
    UnreadableError,
    VersionMismatch,
)
from ..key_sources import KeySource
from .contract import (
    ENTRY_BYTES,
    UNCHANGED,
    Capabilities,
    Clock,
    Stored,
    Unchanged,
    check_range,
    check_size,
    millis,
    utf8,
)

# Name, value and attributes together stay below what every browser takes in one cookie.
MAX_CHARS = 3800
EVERYTHING = 1 << 32
NAME_BYTES = 255
# CBOR's heads around all records: of the array and of both maps.
FRAME_BYTES = 7


@dataclass(frozen=True, slots=True)
class CookieStorageService:
    """Makes the store of each request. `realm` and the cookie's name stand in every seal."""

    cookies: CookieFamily
    realm: str
    key_source: KeySource
    clock: Clock
    random: Callable[[int], bytes]
    max_age: int | None = None

    def for_request(self, cookie_header: str = "") -> CookieStorage:
        """The store behind the cookies of one request."""
        return CookieStorage(self, cookie_header)


class CookieStorage:
    """The records in one visitor's cookie, during one request.

    A map that can't be read for a reason that may pass (another node's key, say) makes every
    operation raise StorageUnavailable, and is never overwritten.
    """

    def __init__(self, service: CookieStorageService, cookie_header: str) -> None:
        self._service = service
        self._header = cookie_header
        self._maps: _Maps | None = None
        self._text: str | None = None
        self._lock = threading.RLock()
        self._most_chars = MAX_CHARS - len(service.cookies.name) - 1
        total = chunking.token_bytes(self._most_chars) - sealing.OVERHEAD_BYTES - FRAME_BYTES
        self.capabilities = Capabilities(
            context_bytes=NAME_BYTES,
            key_bytes=NAME_BYTES,
            value_bytes=total - 2 * NAME_BYTES - ENTRY_BYTES,
            shared=False,
            durable=False,
            survives_restart=True,
            evicts=True,
            enumerable=True,
            server_side=False,
            total_bytes=total,
            because={
                "total_bytes": "all of it stands in one cookie",
                "evicts": "browsers drop cookies, and visitors delete them",
                "shared": "only this visitor's requests see it",
            },
        )

    def lines(self) -> list[str]:
        """The Set-Cookie field values that carry what was written; none when nothing was."""
        with self._lock:
            if self._text is None:
                return []
            cookies = self._service.cookies
            return [cookies.set_line(cookies.name, self._text, self._service.max_age)]

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        check_range(expires_at, version)
        with self._writing(context, key, value) as maps:
            if maps.live(context, key, self._now()) is not None:
                return False
            maps.put(context, key, Stored(bytes(value), version, expires_at))
            return True

    def read(self, context: str, key: str) -> Stored | None:
        check_size(self.capabilities, context, key)
        with self._lock:
            return self._opened().live(context, key, self._now())

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
        check_range(expires_at, version, expected)
        with self._writing(context, key, value) as maps:
            stored = maps.expected(context, key, self._now(), expected)
            if stored is None:
                return False
            if version <= stored.version:
                raise VersionMismatch(stored.version)
            maps.put(context, key, Stored(bytes(value), version, expires_at))
            return True

    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        check_range(expires_at)
        with self._writing(context, key) as maps:
            stored = maps.live(context, key, self._now())
            if stored is None:
                return False
            maps.put(context, key, Stored(stored.value, stored.version, expires_at))
            return True

    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        check_range(None, expected)
        with self._writing(context, key) as maps:
            if maps.expected(context, key, self._now(), expected) is None:
                return False
            del maps.records[context][key]
            return True

    def touch_context(self, context: str, expires_at: int | None) -> None:
        check_range(expires_at)
        with self._writing(context, "any") as maps:
            for key in list(maps.records.get(context, {})):
                stored = maps.live(context, key, self._now())
                if stored is not None:
                    maps.put(context, key, Stored(stored.value, stored.version, expires_at))

    def delete_context(self, context: str) -> None:
        with self._writing(context, "any") as maps:
            maps.records.pop(context, None)
            maps.indexes.pop(context, None)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        check_size(self.capabilities, context, "any")
        with self._lock:
            maps, now = self._opened(), self._now()
            found = [key for key in maps.records.get(context, {}) if key.startswith(prefix)]
            return iter([key for key in found if maps.live(context, key, now) is not None])

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        check_range(expires_at)
        with self._writing(context, key, utf8(member)) as maps:
            maps.indexes.setdefault(context, {}).setdefault(key, {})[member] = expires_at

    def remove_member(self, context: str, key: str, member: str) -> bool:
        with self._writing(context, key, utf8(member)) as maps:
            index = maps.indexes.get(context, {}).get(key, {})
            alive = member in index and _alive(index[member], self._now())
            index.pop(member, None)
            return alive

    def members(self, context: str, key: str) -> dict[str, int | None]:
        check_size(self.capabilities, context, key)
        with self._lock:
            index = self._opened().indexes.get(context, {}).get(key, {})
            return {member: at for member, at in index.items() if _alive(at, self._now())}

    def prepare(self) -> None:
        """Nothing to make."""

    def ping(self) -> None:
        with self._lock:
            self._opened()

    def reap(self, limit: int) -> int:
        with _Writing(self, self._lock) as maps:
            return maps.reap(self._now(), limit)

    def close(self) -> None:
        """Nothing to let go of; what was written leaves through `lines`."""

    # --- one map in one cookie ------------------------------------------------------------------

    def _now(self) -> int:
        return millis(self._service.clock())

    def _writing(self, context: str, key: str, value: bytes = b"") -> _Writing:
        check_size(self.capabilities, context, key, value)
        return _Writing(self, self._lock)

    def begin(self) -> _Maps:
        """The map to change, and a copy of it to fall back to."""
        return self._opened().copy()

    def commit(self, changed: _Maps) -> None:
        """Keep a changed map if it still fits into the cookie. Raises CapacityError."""
        if changed.encoded() == self._opened().encoded():
            return
        changed.reap(self._now(), EVERYTHING)
        text = self._sealed(changed)
        if len(text) > self._most_chars:
            raise CapacityError("the visitor's cookie is full")
        self._maps, self._text = changed, text

    def _opened(self) -> _Maps:
        if self._maps is None:
            self._maps = self._open()
        return self._maps

    def _open(self) -> _Maps:
        service, refused = self._service, False
        for text in service.cookies.find(self._header).core:
            try:
                token = chunking.from_text(text)
                ring, now = service.key_source.keyring(), int(service.clock())
                payload = sealing.open_token(token, self._place(), ring, now).payload
                return _Maps.decoded(payload)
            except UnreadableError as error:
                refused = refused or error.keeps_cookie
        if refused:
            raise StorageUnavailable("the visitor's map can't be read by this node now")
        return _Maps({}, {})

    def _sealed(self, maps: _Maps) -> str:
        service, now = self._service, int(self._service.clock())
        try:
            key = service.key_source.keyring().primary(now)
        except NoPrimaryKey as error:
            raise StorageUnavailable("no key may seal the visitor's map now") from error
        entropy = service.random(sealing.ENTROPY_BYTES)
        return chunking.to_text(sealing.seal(maps.encoded(), self._place(), key, now, entropy))

    def _place(self) -> sealing.TokenContext:
        return sealing.TokenContext("map", self._service.realm, (self._service.cookies.name,))


@dataclass(slots=True)
class _Maps:
    records: dict[str, dict[str, Stored]]
    indexes: dict[str, dict[str, dict[str, int | None]]]

    @classmethod
    def decoded(cls, payload: bytes) -> _Maps:
        """What `encoded` made. Raises MalformedRecord for what another release made."""
        value: Any = codec.decode(payload)
        try:
            records, indexes = value
            return cls(
                {
                    context: {key: Stored(*row) for key, row in rows.items()}
                    for context, rows in records.items()
                },
                {context: dict(rows) for context, rows in indexes.items()},
            )
        except (TypeError, ValueError, AttributeError):
            raise MalformedRecord from None

    def encoded(self) -> bytes:
        records = {
            context: {key: [row.value, row.version, row.expires_at] for key, row in rows.items()}
            for context, rows in self.records.items()
            if rows
        }
        indexes = {
            context: {key: index for key, index in rows.items() if index}
            for context, rows in self.indexes.items()
            if any(rows.values())
        }
        return codec.encode([records, indexes])

    def copy(self) -> _Maps:
        return _Maps(
            {context: dict(rows) for context, rows in self.records.items()},
            {
                context: {key: dict(index) for key, index in rows.items()}
                for context, rows in self.indexes.items()
            },
        )

    def put(self, context: str, key: str, stored: Stored) -> None:
        self.records.setdefault(context, {})[key] = stored

    def live(self, context: str, key: str, now: int) -> Stored | None:
        stored = self.records.get(context, {}).get(key)
        return stored if stored is not None and _alive(stored.expires_at, now) else None

    def expected(self, context: str, key: str, now: int, expected: int | None) -> Stored | None:
        stored = self.live(context, key, now)
        if stored is not None and expected is not None and stored.version != expected:
            raise VersionMismatch(stored.version)
        return stored

    def reap(self, now: int, limit: int) -> int:
        dead: list[tuple[dict[str, Any], str]] = [
            (rows, key)
            for rows in self.records.values()
            for key, row in rows.items()
            if not _alive(row.expires_at, now)
        ]
        dead += [
            (index, member)
            for rows in self.indexes.values()
            for index in rows.values()
            for member, at in index.items()
            if not _alive(at, now)
        ]
        for table, name in dead[:limit]:
            del table[name]
        return len(dead[:limit])


class _Writing:
    """One change of a map: all of it, or, should it raise or not fit, nothing."""

    def __init__(self, store: CookieStorage, lock: threading.RLock) -> None:
        self._store, self._lock = store, lock

    def __enter__(self) -> _Maps:
        self._lock.acquire()
        try:
            self._maps = self._store.begin()
        except BaseException:
            self._lock.release()
            raise
        return self._maps

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._store.commit(self._maps)
        finally:
            self._lock.release()


def _alive(expires_at: int | None, now: int) -> bool:
    return expires_at is None or now < expires_at
