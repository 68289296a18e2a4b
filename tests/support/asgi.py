"""A browser of ASGI applications in process, under asyncio and trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

import anyio

from tests.support.client import Answer
from tests.support.jar import Jar

Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[..., Awaitable[None]]
Header = tuple[bytes, bytes]


class ASGIBrowser:
    """Cookies, and requests that each run in an event loop of their own."""

    def __init__(self, application: Application, backend: str = "asyncio") -> None:
        self.application, self.backend = application, backend
        self.jar = Jar()

    def get(self, path: str, *headers: Header, method: str = "GET") -> Answer:
        """The answer; raises what the application raises."""
        answer = self.attempt(path, *headers, method=method)
        if answer.error is not None:
            raise answer.error
        return answer

    def attempt(self, path: str, *headers: Header, method: str = "GET") -> Answer:
        """The answer, with what the application raised in `error`."""
        return anyio.run(self.request, path, headers, method, backend=self.backend)

    async def request(
        self, path: str, headers: Sequence[Header] = (), method: str = "GET"
    ) -> Answer:
        """The same inside an event loop."""
        answer = Answer()
        scope = self.scope("http", path, headers) | {"method": method}

        bodies: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if not bodies:
                await anyio.sleep_forever()  # the client stays connected
            return bodies.pop()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                assert not answer.status, "a second start of a response"
                answer.status = message["status"]
                answer.headers = decode(message.get("headers", ()))
                self.jar.receive(answer.set_cookies)
            else:
                answer.body += message.get("body", b"")

        try:
            await self.application(scope, receive, send)
        except Exception as error:
            answer.error = error
        return answer

    def websocket(self, path: str, *texts: str) -> tuple[Answer, list[str]]:
        """The answer to the handshake, and what came back for `texts`."""
        return anyio.run(self._talk, path, texts, backend=self.backend)

    async def _talk(self, path: str, texts: Sequence[str]) -> tuple[Answer, list[str]]:
        answer, received = Answer(), list[str]()
        messages: list[Message] = [{"type": "websocket.connect"}]
        messages += [{"type": "websocket.receive", "text": text} for text in texts]
        messages.append({"type": "websocket.disconnect", "code": 1000})

        async def receive() -> Message:
            return messages.pop(0)

        async def send(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                answer.status = message.get("status", 101)
                answer.headers = decode(message.get("headers", ()))
                self.jar.receive(answer.set_cookies)
            elif message["type"] == "websocket.send":
                received.append(message["text"])

        try:
            await self.application(self.scope("websocket", path), receive, send)
        except Exception as error:
            answer.error = error
        return answer, received

    def scope(self, kind: str, path: str, headers: Sequence[Header] = ()) -> dict[str, Any]:
        cookie = self.jar.header().encode("latin-1")
        sent = [(b"host", b"testserver"), *headers]
        return {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "https" if kind == "http" else "wss",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [*sent, (b"cookie", cookie)] if cookie else sent,
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 443),
            "state": {},
        }


def decode(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
