"""The ASGI middleware, by the promises that every adapter owes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sealedstate import Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_asgi import SealedSessionMiddleware, load_session, sealed
from tests.support.asgi import decode


async def act(request: Request) -> Response:
    """The page of the kit."""
    wanted = Act.parse(await request.body())
    if wanted.name == "nothing":
        return JSONResponse("nothing")
    await load_session(request, "vault")
    result = wanted.run(request.session, sealed(request))
    if inspect.isawaitable(result):
        result = await result
    response = JSONResponse(result)
    for name, value in wanted.headers:
        response.headers.append(name, value)
    return response


class InProcess:
    """Calls the application in event loops of this process, each request in another."""

    def __init__(self, settings: Settings, backend: str) -> None:
        middleware = Middleware(SealedSessionMiddleware, settings=settings)
        self._application = Starlette(
            routes=[Route("/act", act, methods=["POST"])], middleware=[middleware]
        )
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
    @pytest.fixture(autouse=True)
    def _choose(self, backend: str) -> None:
        self.backend = backend

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings, self.backend)
