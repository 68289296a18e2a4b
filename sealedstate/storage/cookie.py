"""The visitor's own cookie as a store: `CookieStorageService` makes one for each request.

One sealed cookie holds all records of a visitor. It is opened by the first operation of a request,
and `lines` returns the Set-Cookie values that write it back, so versions survive from one request
to the next. There is little room, no other visitor's requests see the records, and the visitor can
send an older cookie again. So it takes what need not be true, such as preferences of a device.

The payload is [records, indexes]: {context: {key: [value, version, expires_at or null]}} and
{context: {key: {member: expires_at or null}}}. No map is empty but these two.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from .._cookies.codec import KEEP_UNREADABLE, open_again
from .._cookies.header import CookieFamily
from .._wire import cbor, encoding, token
from ..errors import (
    CapacityError,
    MalformedRecord,
    NoPrimaryKey,
    StorageUnavailable,
    UnknownFormat,
    UnknownKey,
    UnreadableError,
)
from ..key_sources import KeySource
from .contract import ENTRY_BYTES, Capabilities, Clock, Stored
from .memory import MemoryStorage

__all__ = ["CookieStorage", "CookieStorageService"]

T = TypeVar("T")

# Name, value and attributes together stay below what every browser accepts in one cookie.
MAX_CHARS = 3800
NAME_BYTES = 255
# The CBOR heads around all records: those of the array and of both maps.
FRAME_BYTES = 7


@dataclass(frozen=True, slots=True)
class CookieStorageService:
    """Makes the store of each request. The cookie opens only under its name and in its `realm`."""

    cookies: CookieFamily
    realm: str
    key_source: KeySource
    clock: Clock
    random: Callable[[int], bytes]
    max_age: int | None = None

    def for_request(self, cookie_header: str = "") -> CookieStorage:
        """Return the store in the cookies of one request."""
        return CookieStorage(self, cookie_header)


class CookieStorage(MemoryStorage):
    """The records in one visitor's cookie, during one request.

    While the cookie can't be read for a reason that may be temporary, every operation raises
    StorageUnavailable and the cookie is not overwritten. An unknown key or format ends as it does
    for a session's cookie, a payload of another release one day after its seal, and a disabled key
    when it is enabled or revoked.
    """

    def __init__(self, service: CookieStorageService, cookie_header: str) -> None:
        super().__init__(service.clock)
        self._service = service
        self._header = cookie_header
        self._is_loaded = False
        self._text: str | None = None
        self._max_chars = MAX_CHARS - len(service.cookies.name) - 1
        total = encoding.token_bytes(self._max_chars) - token.OVERHEAD_BYTES - FRAME_BYTES
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
            reasons={
                "total_bytes": "everything is in one cookie",
                "evicts": "browsers drop cookies, and visitors delete them",
                "shared": "only the requests of this visitor see it",
            },
        )

    def lines(self) -> list[str]:
        """Return the Set-Cookie values to send: none if nothing was written."""
        with self._lock:
            if self._text is None:
                return []
            cookies = self._service.cookies
            return [cookies.set_line(cookies.name, self._text, self._service.max_age)]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """The lock, and the records of the cookie."""
        service, is_withheld = self._service, False
        with self._lock:
            for text in () if self._is_loaded else service.cookies.find(self._header).core:
                try:
                    self._decode(self._open(encoding.from_text(text)))
                    break
                except UnreadableError as error:
                    is_withheld = is_withheld or error.keeps_cookie
            else:
                if is_withheld:
                    raise StorageUnavailable("this node can't read the visitor's cookie now")
            self._is_loaded = True
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """All of a change, or nothing if it raises or does not fit into the cookie."""
        with self._reading():
            records, before = dict(self._records), self._encode()
            indexes = {place: dict(index) for place, index in self._indexes.items()}
            try:
                yield
                if self._encode() != before:
                    self._reap(sys.maxsize)
                    self._text = self._seal(self._encode())
            except BaseException:
                self._records, self._indexes = records, indexes
                raise

    def _open(self, sealed: bytes) -> token.Opened:
        """The authentic payload of the cookie. Raises UnreadableError."""
        source, now = self._service.key_source, int(self._service.clock())
        try:
            return token.open_token(sealed, self._context(), source.keyring(), now)
        except (UnknownKey, UnknownFormat) as error:
            return open_again(error, sealed, self._context(), source, now)[0]

    def _decode(self, opened: token.Opened) -> None:
        """Take over the records of a payload. Raises MalformedRecord for another release's."""
        is_over = self._service.clock() >= opened.sealed_at + KEEP_UNREADABLE
        value: Any = None
        with contextlib.suppress(MalformedRecord):
            value = cbor.decode(opened.payload)
        if not isinstance(value, list) or len(value) != 2:
            raise MalformedRecord(is_over=is_over)
        try:
            self._records, self._indexes = (
                _flatten(value[0], lambda row: Stored(*row)),
                _flatten(value[1], dict),
            )
        except (TypeError, ValueError, AttributeError):
            raise MalformedRecord(is_over=is_over) from None

    def _encode(self) -> bytes:
        records: dict[str, dict[str, Any]] = {}
        for (context, key), row in self._records.items():
            records.setdefault(context, {})[key] = [row.value, row.version, row.expires_at]
        indexes: dict[str, dict[str, Any]] = {}
        for (context, key), members in self._indexes.items():
            indexes.setdefault(context, {})[key] = members
        return cbor.encode([records, indexes])

    def _seal(self, payload: bytes) -> str:
        service, now = self._service, int(self._service.clock())
        try:
            key = service.key_source.keyring().primary(now)
        except NoPrimaryKey as error:
            raise StorageUnavailable("no key is active that could seal the cookie") from error
        text, _ = token.seal_text(payload, self._context(), key, now, service.random)
        if len(text) > self._max_chars:
            raise CapacityError("the visitor's cookie is full")
        return text

    def _context(self) -> token.TokenContext:
        cookies = self._service.cookies
        name = cookies.name, *cookies.variant
        return token.TokenContext("map", self._service.realm, name)


def _flatten(table: Any, make: Callable[[Any], T]) -> dict[tuple[str, str], T]:
    return {
        (context, key): make(entry)
        for context, entries in table.items()
        for key, entry in entries.items()
    }
