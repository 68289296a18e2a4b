"""The page of the conformance kit in aiohttp."""

from __future__ import annotations

import inspect

from aiohttp import web

from sealedstate import Settings
from sealedstate.testing.adapters import Act
from sealedstate_aiohttp import get_session, setup


def make(settings: Settings) -> web.Application:
    app = web.Application()
    app.router.add_post("/act", _act)
    setup(app, settings)
    return app


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
