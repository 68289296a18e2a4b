"""The Flask adapter, by the promises that every adapter owes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from typing import Any

from flask import Flask, Response, jsonify, request, session

from sealedstate import Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_flask import SealedSessions, sealed


class InProcess:
    """The application of the kit behind Flask's test client."""

    def __init__(self, settings: Settings) -> None:
        self._app = Flask("kit")
        SealedSessions(self._app, settings)
        self._app.add_url_rule("/act", "act", _act, methods=["POST"])

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        client = self._app.test_client(use_cookies=False)
        response = client.post(path, base_url="https://localhost", headers=headers, data=body)
        return Answer(response.status_code, list(response.headers), response.data)

    def close(self) -> None:
        self._app.extensions["sealedstate"].deployment.close()


def _act() -> Response:
    act = Act.parse(request.get_data())
    result = act.run(session, sealed(session))
    if inspect.isawaitable(result):
        result = asyncio.run(_wait_for(result))
    response = jsonify(result)
    response.headers.extend(act.headers)
    return response


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result


class TestFlask(AdapterContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
