"""The Quart adapter, by the promises that every adapter owes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence

import pytest

pytest.importorskip("quart", reason="not installed: quart")

from quart import Quart, Response, jsonify, request, session

from sealedstate import Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_quart import SealedSessions, load_session


class InProcess:
    """The application of the kit behind Quart's test client, each request in another loop."""

    def __init__(self, settings: Settings) -> None:
        self._app = Quart("kit")
        SealedSessions(self._app, settings)
        self._app.add_url_rule("/act", "act", _act, methods=["POST"])

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        return asyncio.run(self._send(path, headers, body))

    async def _send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        client = self._app.test_client(use_cookies=False)
        response = await client.post(path, scheme="https", headers=dict(headers), data=body)
        return Answer(
            response.status_code, list(response.headers), await response.get_data(as_text=False)
        )

    def close(self) -> None:
        asyncio.run(self._app.extensions["sealedstate"].close())


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


class TestQuart(AdapterContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
