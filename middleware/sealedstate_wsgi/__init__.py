"""Sealed sessions for any WSGI application (PEP 3333).

Knows environ, start_response and bodies. Does not know how a session is sealed, kept or placed.

    from sealedstate import Settings
    from sealedstate_wsgi import SealedSessionMiddleware

    application = SealedSessionMiddleware(application, Settings(keys="env:"))

The session is at ``environ["sealedstate.session"]``. It is saved when the first piece of the body
is about to leave: until then the application may change it, even after it has called
start_response; from then on a write raises LateWrite, for no cookie could carry it any more, and
a first look at the session raises LateRead, for no Vary could tell a cache of it any more.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from sealedstate import Keeper, Session, Settings
from sealedstate._cookies.header import field_bytes
from sealedstate.deployment import Deployment
from sealedstate_wsgi.health import HealthApplication

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["ENVIRON_KEY", "HealthApplication", "SealedSessionMiddleware"]

ENVIRON_KEY = "sealedstate.session"

_log = logging.getLogger("sealedstate.wsgi")

Headers: TypeAlias = list[tuple[str, str]]
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
)


class SealedSessionMiddleware:
    """Gives `app` a sealed session in ``environ["sealedstate.session"]``.

    An exception of `app` before its first byte leaves the cookies as they are. SessionTooLarge and
    StorageError at saving go to the server like exceptions of `app`.
    """

    def __init__(
        self, app: WSGIApplication, sessions: Keeper | Deployment | Settings | None = None
    ) -> None:
        self.app = app
        self.keeper = sessions if isinstance(sessions, Keeper) else Keeper(sessions or Settings())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = environ[ENVIRON_KEY] = self.keeper.session(environ.get("HTTP_COOKIE", ""))
        response = _Response(self.keeper, session, start_response)
        body = self.app(environ, response.start)
        # A finished body runs no more code of the application; the same goes for a server's file.
        if type(body) in (list, tuple) or _is_servers_file(body, environ):
            try:
                if response.waits:
                    response.commit()
                else:
                    response.end()
            except BaseException:
                _close(body)  # the server will never see it
                raise
            return body
        return _Body(body, response)


def _is_servers_file(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Response:
    """The status and headers that wait for the session to be saved."""

    # Whether the application has started it and nothing has left yet.
    waits = False
    _status = ""
    _headers: Headers
    _exc_info: ExcInfo | None = None
    _write: Callable[[bytes], object] | None = None
    _lines: Sequence[str] = ()

    def __init__(self, keeper: Keeper, session: Session, start_response: StartResponse) -> None:
        self._keeper = keeper
        self._session = session
        self._start_response = start_response

    def start(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """The start_response that the application sees."""
        if self._write is not None:
            # The server re-raises exc_info, or complains of a second call. But where only empty
            # pieces have passed, this response takes the place of the one with the cookies.
            return self._start_response(status, self._with_session(headers), exc_info)
        if self.waits and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self._status, self._headers, self.waits = status, headers, True
        if exc_info is not None:
            self._exc_info = exc_info
        return self.write

    def write(self, data: bytes) -> object:
        """The write() that start_response gives to old applications."""
        return self.commit()(data)

    def commit(self) -> Callable[[bytes], object]:
        """Save the session and let the headers go, once."""
        if self._write is None:
            touched = self._session.touched
            headers = self._headers_with_session() if touched else self._headers
            self._session.frozen = True
            if self._exc_info is None:
                self._write = self._start_response(self._status, headers)
            else:
                self._write = self._start_response(self._status, headers, self._exc_info)
                self._exc_info = None  # PEP 3333: no circular reference through the traceback
            self.waits = False
        return self._write

    def end(self) -> None:
        """Tell of changes that came too late for any cookie."""
        if self._write is not None and self._session.touched:
            late = self._session.late_changes()
            if late:
                _log.error("changed after the headers went out, and lost: %s", ", ".join(late))

    def _headers_with_session(self) -> Headers:
        names = [name.lower() for name, _ in self._headers]
        taken = _taken(self._headers) if "set-cookie" in names else 0
        self._lines = self._keeper.save(self._session, taken)
        return self._with_session(self._headers)

    def _with_session(self, headers: Headers) -> Headers:
        if not self._session.touched:
            return headers
        names = [name.lower() for name, _ in headers]
        headers = _vary_on_cookie(headers) if "vary" in names else [*headers, _VARY]
        if self._lines:
            headers = _not_stored(headers) if "cache-control" in names else [*headers, _NO_STORE]
            headers += [("Set-Cookie", line) for line in self._lines]
        return headers


class _Body:
    """A body that is still being made: the headers go out with its first piece."""

    def __init__(self, body: Iterable[bytes], response: _Response) -> None:
        self._body = body
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            if self._response.waits:
                self._response.commit()
            yield piece
        if self._response.waits:
            self._response.commit()

    def close(self) -> None:
        try:
            _close(self._body)
        finally:
            self._response.end()


def _close(body: Iterable[bytes]) -> None:
    close: Any = getattr(body, "close", None)
    if close is not None:
        close()


def _taken(headers: Headers) -> int:
    """How many bytes the application's own cookies take."""
    return sum(field_bytes(value) for name, value in headers if name.lower() == "set-cookie")


def _vary_on_cookie(headers: Headers) -> Headers:
    """`headers` saying that the response depends on the Cookie header (RFC 9110, 12.5.5)."""
    for name, value in headers:
        if name.lower() == "vary":
            members = {member.strip(" \t").lower() for member in value.split(",")}
            if members & {"cookie", "*"}:
                return list(headers)
    return [*headers, _VARY]


def _not_stored(headers: Headers) -> Headers:
    """`headers` saying that no cache keeps the response, whatever the application said.

    What it said of revalidation or transformation stays (RFC 9111, 5.2.2).
    """
    said = [value for name, value in headers if name.lower() == "cache-control"]
    members = [member.strip(" \t") for value in said for member in _MEMBER.findall(value)]
    kept = [
        member
        for member in members
        if member and member.partition("=")[0].lower() not in _CONTRADICTING
    ]
    others = [(name, value) for name, value in headers if name.lower() != "cache-control"]
    return [*others, ("Cache-Control", ", ".join(["no-store", "private", *kept]))]


_VARY = ("Vary", "Cookie")
_NO_STORE = ("Cache-Control", "no-store, private")
# A comma inside a quoted string separates nothing.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
_CONTRADICTING = frozenset(
    {"public", "max-age", "s-maxage", "no-store", "private", "immutable"}
    | {"stale-while-revalidate", "stale-if-error", "must-understand"}
)
