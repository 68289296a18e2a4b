"""The ASGI middleware, by the promises that every adapter owes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.asgi import decode
from tests.support.pages import asgi


class InProcess:
    """Calls the application in event loops of this process, each request in another."""

    def __init__(self, settings: Settings, backend: str) -> None:
        self._application = asgi.make(settings)
        self._backend = backend

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        return anyio.run(self._send, path, headers, body, backend=self._backend)

    async def _send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), *raw],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 443),
            "state": {},
        }
        started: dict[str, Any] = {"status": 0, "headers": ()}
        pieces: list[bytes] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
            else:
                pieces.append(message.get("body", b""))

        try:
            await self._application(scope, receive, send)
        except Exception:
            # The server logs it; an error page of the framework has been sent before.
            assert started["status"] in (0, 500)
        return Answer(started["status"] or 500, decode(started["headers"]), b"".join(pieces))

    def close(self) -> None:
        """The application closes its store with its lifespan, which there was none of."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
class TestASGI(AdapterContract):
    has_binding = True

    @pytest.fixture(autouse=True)
    def _choose(self, backend: str) -> None:
        self.backend = backend

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings, self.backend)
