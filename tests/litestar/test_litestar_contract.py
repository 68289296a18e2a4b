"""The Litestar adapter, by the promises that every adapter owes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("litestar", reason="not installed: litestar")
pytest.importorskip("httpx", reason="not installed: httpx")

from litestar import Litestar, Request, Response, post
from litestar.testing import TestClient

from sealedstate import Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_litestar import SealedSessionConfig, load_session, sealed


class InProcess:
    """The application of the kit behind Litestar's test client."""

    def __init__(self, settings: Settings) -> None:
        self.config = SealedSessionConfig(settings)
        app = Litestar([_act], middleware=[self.config.middleware], openapi_config=None)
        self._client = TestClient(app, base_url="https://testserver.local")
        self._client.__enter__()

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        response = self._client.post(path, headers=raw, content=body)
        self._client.cookies.clear()
        return Answer(response.status_code, response.headers.multi_items(), response.content)

    def close(self) -> None:
        self._client.__exit__(None, None, None)


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


class TestLitestar(AdapterContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
