"""A response that waits for its session to be saved."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from sealedstate import Keeper, Session
from sealedstate._cookies.header import field_bytes
from sealedstate.errors import escape_text

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Headers: TypeAlias = list[tuple[str, str]]
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
)

_log = logging.getLogger("sealedstate.wsgi")

_VARY = ("Vary", "Cookie")
_NO_STORE = ("Cache-Control", "no-store, private")
# A comma inside a quoted string separates nothing.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
_CONTRADICTING = frozenset(
    {"public", "max-age", "s-maxage", "no-store", "private", "immutable"}
    | {"stale-while-revalidate", "stale-if-error", "must-understand"}
)
# Fields that some caches obey before Cache-Control (RFC 9213), and what forbids storing in each;
# in any other that ends in -cache-control, no-store does.
_TARGETED = {
    "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    "x-accel-expires": "0",
    "surrogate-control": "no-store",
    "edge-control": "no-store",
    "x-litespeed-cache-control": "no-cache",
}


class Response:
    """The status and headers of one response, until the session is saved.

    `is_waiting`: the application has called start_response, and nothing was sent yet.
    """

    # Whether the application has used the session when the headers were sent.
    _is_used = False

    def __init__(self, keeper: Keeper, session: Session, start_response: StartResponse) -> None:
        self._keeper = keeper
        self._session = session
        self._start_response = start_response
        self.is_waiting = False
        self._status = ""
        self._headers: Headers = []
        self._exc_info: ExcInfo | None = None
        self._write: Callable[[bytes], object] | None = None
        self._lines: Sequence[str] = ()

    def start(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """The start_response for the application."""
        if self._write is not None:
            # The server raises exc_info, or rejects a second call. But if a middleware in between
            # has sent nothing yet, this response replaces the response with the cookies.
            return self._start_response(status, self._with_session(headers), exc_info)
        if self.is_waiting and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self._status, self._headers, self.is_waiting = status, headers, True
        if exc_info is not None:
            self._exc_info = exc_info
        return self.write

    def write(self, data: bytes) -> object:
        """The write() that start_response returns, for old applications."""
        # An empty piece sends no headers (PEP 3333).
        return self.commit()(data) if data or self._write is not None else None

    def commit(self) -> Callable[[bytes], object]:
        """Save the session and send the headers, once. Returns the server's write()."""
        if self._write is None:
            headers = self._headers
            if self._session.backend is not None:
                self._is_used = True
                # The application's own cookies count towards what one response may carry.
                names = [name.lower() for name, _ in headers]
                other_bytes = _set_cookie_bytes(headers) if "set-cookie" in names else 0
                self._lines = self._keeper.save(self._session, other_bytes)
                headers = self._with_session(headers)
            self._session.mark_headers_sent()
            if self._exc_info is None:
                self._write = self._start_response(self._status, headers)
            else:
                self._write = self._start_response(self._status, headers, self._exc_info)
                self._exc_info = None  # PEP 3333: no circular reference through the traceback
            self.is_waiting = False
        return self._write

    def stream(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of `body`; the headers are sent with the first that is not empty."""
        for piece in body:
            if self.is_waiting:
                if not piece:
                    # Most servers send the headers with an empty piece, against PEP 3333.
                    continue
                self.commit()
            yield piece
        if self.is_waiting:
            self.commit()

    def close(self, body: Iterable[bytes]) -> None:
        """Close `body`, and log changes of the session that its code made too late."""
        try:
            close(body)
        finally:
            self.check_late_changes()

    def check_late_changes(self) -> None:
        """Log changes of the session that were made after the headers were sent."""
        if self._write is not None and self._is_used:
            late = self._session.late_changes()
            if late:
                names = escape_text(", ".join(late), 1000)
                _log.error("changed after the response headers were sent, and lost: %s", names)

    def _with_session(self, headers: Headers) -> Headers:
        if not self._is_used:
            return headers
        names = [name.lower() for name, _ in headers]
        headers = _vary_on_cookie(headers) if "vary" in names else [*headers, _VARY]
        if self._lines:
            together = " ".join(names)
            if "expires" in together or "-control" in together:
                headers = [_override_targeted(name, value) for name, value in headers]
            headers = (
                _forbid_storing(headers) if "cache-control" in names else [*headers, _NO_STORE]
            )
            headers += [("Set-Cookie", line) for line in self._lines]
        elif names.count("cache-control") > 1:
            headers = _with_one(headers, "Cache-Control", ", ".join(_directives(headers)))
        return headers


def close(body: Iterable[bytes]) -> None:
    """Call the close method of `body`, if it has one."""
    method: Any = getattr(body, "close", None)
    if method is not None:
        method()


def send_json(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: str,
    document: Mapping[str, object],
    headers: Sequence[tuple[str, str]] = (),
) -> list[bytes]:
    """Answer a GET or HEAD with a JSON document that no cache keeps."""
    body = json.dumps(document).encode() + b"\n"
    start_response(status, [*_body_headers(body, "application/json"), *headers])
    return [body] if environ["REQUEST_METHOD"] == "GET" else []


def refuse_method(start_response: StartResponse) -> list[bytes]:
    """Answer any other method."""
    body = b"GET and HEAD only\n"
    headers = _body_headers(body, "text/plain; charset=utf-8")
    start_response("405 Method Not Allowed", [*headers, ("Allow", "GET, HEAD")])
    return [body]


def _body_headers(body: bytes, kind: str) -> Headers:
    return [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]


def _set_cookie_bytes(headers: Headers) -> int:
    return sum(field_bytes(value) for name, value in headers if name.lower() == "set-cookie")


def _vary_on_cookie(headers: Headers) -> Headers:
    """`headers` with one Vary line that contains Cookie or is ``*`` (RFC 9110, 12.5.5).

    nginx before 1.23 obeys only the last of several lines.
    """
    values = [value for name, value in headers if name.lower() == "vary"]
    members = [member.strip(" \t") for value in values for member in value.split(",")]
    names = [member.lower() for member in members]
    if "*" in names:
        return _with_one(headers, "Vary", "*")
    if len(values) == 1 and "cookie" in names:
        return list(headers)
    merged: dict[str, str] = {}
    for name, member in zip([*names, "cookie"], [*members, "Cookie"], strict=True):
        if member:
            merged.setdefault(name, member)
    return _with_one(headers, "Vary", ", ".join(merged.values()))


def _forbid_storing(headers: Headers) -> Headers:
    """`headers` with a Cache-Control under which no cache stores the response.

    Directives of the application that do not contradict it stay, such as no-transform
    (RFC 9111, 5.2.2).
    """
    kept = [
        member
        for member in _directives(headers)
        if member.partition("=")[0].lower() not in _CONTRADICTING
    ]
    return _with_one(headers, "Cache-Control", ", ".join(["no-store", "private", *kept]))


def _directives(headers: Headers) -> list[str]:
    """The members of all Cache-Control lines."""
    values = [value for name, value in headers if name.lower() == "cache-control"]
    members = (member.strip(" \t") for value in values for member in _MEMBER.findall(value))
    return [member for member in members if member]


def _override_targeted(name: str, value: str) -> tuple[str, str]:
    """A header field, with a value that forbids storing if it is for one kind of cache."""
    lowered = name.lower()
    if lowered == "surrogate-control":
        # What asks for processing of the page stays, such as content="ESI/1.0".
        content = [part.strip(" \t") for part in _MEMBER.findall(value) if "content=" in part]
        return name, ", ".join([_TARGETED[lowered], *content])
    if lowered in _TARGETED or lowered.endswith("-cache-control"):
        return name, _TARGETED.get(lowered, "no-store")
    return name, value


def _with_one(headers: Headers, name: str, value: str) -> Headers:
    """`headers` with one line of this name, in the place of the first of several."""
    names = [each.lower() for each, _ in headers]
    others = [field for field in headers if field[0].lower() != name.lower()]
    others.insert(names.index(name.lower()), (name, value))
    return others
