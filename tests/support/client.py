"""Clients for tests: one that calls a WSGI application in process, one that uses real sockets."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from werkzeug.test import create_environ

from sealedstate.testing import adapters
from tests.support.jar import Jar

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


@dataclass
class Answer:
    """What came back, in process or over a socket. `error`: what the application raised."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    error: BaseException | None = None

    def all(self, name: str) -> list[str]:
        """The values of every header field with this name."""
        return [value for header, value in self.headers if header.lower() == name.lower()]

    @property
    def set_cookies(self) -> list[str]:
        return self.all("Set-Cookie")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One request as a strict server makes it: headers leave with the first byte, no earlier."""

    def __init__(self, application: WSGIApplication, environ: WSGIEnvironment) -> None:
        self.environ = environ
        self.answer = Answer()
        self._status = ""
        self._headers: Headers | None = None
        self._sent: list[bytes] = []
        self._application = application

    def run(self, stop_after: int | None = None) -> Answer:
        """The whole answer, or what a client got who hung up after so many pieces."""
        try:
            self._exchange(stop_after)
        except Exception as error:
            self.answer.error = error
        self.answer.body = b"".join(self._sent)
        if self._headers is not None and (self._sent or self.answer.error is None):
            self.answer.status, self.answer.headers = int(self._status[:3]), self._headers
        return self.answer

    def _exchange(self, stop_after: int | None) -> None:
        body: Iterable[bytes] = self._application(self.environ, self.start_response)
        try:
            if stop_after != 0:
                for number, piece in enumerate(body, 1):
                    self.write(piece)
                    if number == stop_after:
                        return
                assert self._headers is not None, "the application never called start_response"
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /
    ) -> Any:
        if exc_info is not None:
            if self._sent and exc_info[1] is not None:
                raise exc_info[1]
        elif self._headers is not None:
            raise AssertionError("start_response was called twice")
        self._status, self._headers = status, headers
        return self.write

    def write(self, data: bytes) -> None:
        assert self._headers is not None, "bytes before start_response"
        if data:
            self._sent.append(data)


def environ_of(
    path: str = "/",
    cookie: str = "",
    method: str = "GET",
    extras: Mapping[str, object] | None = None,
) -> WSGIEnvironment:
    """A request's environ. `extras` go before everything else."""
    headers = {"Cookie": cookie} if cookie else {}
    return create_environ(path, method=method, headers=headers, environ_overrides=extras)


def attempt(
    application: WSGIApplication,
    path: str = "/",
    cookie: str = "",
    method: str = "GET",
    extras: Mapping[str, object] | None = None,
    stop_after: int | None = None,
) -> Answer:
    """The answer in process, with what the application raised in `error`.

    Without a byte on the wire an exception leaves no status and no headers.
    """
    return Exchange(application, environ_of(path, cookie, method, extras)).run(stop_after)


def ask(
    application: WSGIApplication,
    path: str = "/",
    cookie: str = "",
    method: str = "GET",
    extras: Mapping[str, object] | None = None,
) -> Answer:
    """The answer in process. Raises what the application raises."""
    answer = attempt(application, path, cookie, method, extras)
    if answer.error is not None:
        raise answer.error
    return answer


def cookie_header(lines: Iterable[str]) -> str:
    """What a browser without cookies sends back after these Set-Cookie lines."""
    jar = Jar()
    jar.receive(lines)
    return jar.header()


class Client:
    """A browser that talks to 127.0.0.1, as if over https. Every request has its own connection.

    `captured` are the Cookie headers that a thief could have seen, in order and each once.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.jar = Jar()
        self.captured: list[str] = []

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, value: object = None) -> Answer:
        """POST `value` as JSON."""
        return self.request("POST", path, json.dumps(value).encode())

    def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """The whole answer. Raises OSError or HTTPException for a torn connection.

        Cookies are kept as soon as the headers are there, as browsers do, whole body or not.
        """
        return send(self.port, method, path, self.jar.header(), body, self.receive)

    def receive(self, lines: list[str]) -> None:
        """Keep what these Set-Cookie lines set."""
        self.jar.receive(lines)
        header = self.jar.header()
        if header and header not in self.captured:
            self.captured.append(header)


def send(
    port: int,
    method: str,
    path: str,
    cookie: str = "",
    body: bytes | None = None,
    receive: Callable[[list[str]], object] = list,
    headers: Iterable[tuple[str, str]] = (),
) -> Answer:
    """One request over a fresh connection; `receive` gets the Set-Cookie lines before the body."""
    fields = [*headers, ("Cookie", cookie)] if cookie else [*headers]
    if body is not None or method == "POST":
        fields.append(("Content-Length", str(len(body or b""))))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path)
        for name, value in fields:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(response.status, response.getheaders())
        receive(answer.set_cookies)
        answer.body = response.read()
        return answer
    finally:
        connection.close()


class OverHTTP:
    """A client of the kit for adapters. Each request has a connection, so it meets any worker."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> adapters.Answer:
        answer = send(self._port, "POST", path, body=body, headers=headers)
        return adapters.Answer(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        """Nothing is open between requests."""
