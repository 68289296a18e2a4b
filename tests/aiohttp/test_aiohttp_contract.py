"""The aiohttp adapter, by the promises that every adapter owes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")

from aiohttp import web

from sealedstate import Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_aiohttp import get_session, setup
from tests.support.aiohttp_server import Server


class Behind:
    """The application of the kit behind aiohttp's test server."""

    def __init__(self, settings: Settings) -> None:
        app = web.Application()
        app.router.add_post("/act", _act)
        setup(app, settings)
        self._server = Server(app)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        return self._server.send("POST", path, headers, body)

    def close(self) -> None:
        self._server.close()


async def _act(request: web.Request) -> web.Response:
    act = Act.parse(await request.read())
    if act.name == "nothing":
        return web.json_response("nothing")
    session = await get_session(request, "vault")
    result = act.run(session, session)
    if inspect.isawaitable(result):
        result = await result
    response = web.json_response(result)
    for name, value in act.headers:
        response.headers.add(name, value)
    return response


class TestAiohttp(AdapterContract):
    def open_client(self, settings: Settings) -> Behind:
        return Behind(settings)
