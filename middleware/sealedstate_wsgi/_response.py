"""A response that waits for its session to be saved."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from sealedstate import Keeper, Session
from sealedstate.adapting import log_late_changes
from sealedstate.headers import set_cookie_bytes, with_session

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Headers: TypeAlias = list[tuple[str, str]]
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
)

_log = logging.getLogger("sealedstate.wsgi")


class Response:
    """The status and headers of one response, until the session is saved.

    `is_waiting`: the application has called start_response, and nothing was sent yet.
    """

    __slots__ = (
        "_environ",
        "_exc_info",
        "_headers",
        "_is_used",
        "_keeper",
        "_lines",
        "_session",
        "_start_response",
        "_status",
        "_write",
        "is_waiting",
    )

    def __init__(
        self,
        keeper: Keeper,
        session: Session,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> None:
        self._keeper = keeper
        self._session = session
        self._environ = environ
        self._start_response = start_response
        self.is_waiting = False
        self._status = ""
        self._headers: Headers = []
        self._exc_info: ExcInfo | None = None
        self._write: Callable[[bytes], object] | None = None
        # Whether the application has used the session when the headers were sent.
        self._is_used = False
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
        write = self._write
        if write is None:
            headers, session = self._headers, self._session
            if session.backend is not None:
                self._is_used = True
                lines = self._lines = self._keeper.save(session, set_cookie_bytes(headers))
                if lines:
                    environ = self._environ
                    host = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
                    self._keeper.note_scheme(environ["wsgi.url_scheme"], host)
                headers = with_session(headers, lines)
            session.mark_headers_sent()
            if self._exc_info is None:
                write = self._start_response(self._status, headers)
            else:
                write = self._start_response(self._status, headers, self._exc_info)
                self._exc_info = None  # PEP 3333: no circular reference through the traceback
            self._write, self.is_waiting = write, False
        return write

    def stream(self, first: bytes | None, others: Iterator[bytes]) -> Generator[bytes, None, None]:
        """The pieces of a body; the headers are sent with the first that is not empty.

        `first`: None if there is none.
        """
        for piece in () if first is None else chain([first], others):
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
            log_late_changes(_log, self._session)

    def _with_session(self, headers: Headers) -> Headers:
        return with_session(headers, self._lines) if self._is_used else headers


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
