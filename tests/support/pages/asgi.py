"""The page of the conformance kit in Starlette and in FastAPI."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sealedstate import Settings
from sealedstate.testing.adapters import Act
from sealedstate_asgi import SealedSessionMiddleware, load_session, sealed


def make(settings: Settings) -> Starlette:
    middleware = Middleware(SealedSessionMiddleware, settings=settings)
    return Starlette(routes=[Route("/act", act, methods=["POST"])], middleware=[middleware])


def make_fastapi(settings: Settings) -> Any:
    from fastapi import FastAPI

    from sealedstate_asgi.fastapi import Sealed

    app = FastAPI()
    app.add_middleware(SealedSessionMiddleware, settings=settings)

    async def page(request: Request, session: Sealed) -> Response:
        return await act(request)

    page.__annotations__ |= {"request": Request, "session": Sealed}
    app.post("/act")(page)
    return app


async def act(request: Request) -> Response:
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
