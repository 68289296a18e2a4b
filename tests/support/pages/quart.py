"""The page of the conformance kit in Quart."""

from __future__ import annotations

import inspect

from quart import Quart, Response, jsonify, request, session

from sealedstate import Settings
from sealedstate.testing.adapters import Act
from sealedstate_quart import SealedSessions, load_session


def make(settings: Settings) -> Quart:
    app = Quart("kit")
    SealedSessions(app, settings)
    app.add_url_rule("/act", "act", _act, methods=["POST"])
    return app


async def _act() -> Response:
    body = await request.get_data()
    assert isinstance(body, bytes)
    act = Act.parse(body)
    if act.name != "nothing":
        await load_session("vault")
    result = act.run(session, session)
    if inspect.isawaitable(result):
        result = await result
    response: Response = jsonify(result)
    response.headers.extend(act.headers)
    return response
