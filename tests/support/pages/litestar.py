"""The page of the conformance kit in Litestar."""

from __future__ import annotations

import inspect
import json
from typing import Any

from litestar import Litestar, Request, Response, post

from sealedstate import Settings
from sealedstate.testing.adapters import Act
from sealedstate_litestar import SealedSessionConfig, load_session, sealed


def make(settings: Settings) -> Litestar:
    config = SealedSessionConfig(settings)
    # Litestar would give the root of all loggers a level.
    return Litestar(
        [_act], on_app_init=[config.on_app_init], openapi_config=None, logging_config=None
    )


@post("/act", status_code=200)
async def _act(request: Request[Any, Any, Any]) -> Response[Any]:
    act = Act.parse(await request.body())
    if act.name == "nothing":
        return Response(b'"nothing"', media_type="application/json")
    await load_session(request, "vault")
    result = act.run(request.session, sealed(request))
    if inspect.isawaitable(result):
        result = await result
    response = Response(json.dumps(result).encode(), media_type="application/json")
    for name, value in act.headers:
        response.headers[name] = value
    return response
