"""The Pyramid adapter, by the promises that every adapter owes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("pyramid", reason="not installed: pyramid")
pytest.importorskip("webtest", reason="not installed: webtest")

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from webtest import TestApp as Browser

from sealedstate import Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_pyramid import SealedSessionFactory, sealed


class InProcess:
    """The application of the kit behind WebTest, each request with another browser."""

    def __init__(self, settings: Settings) -> None:
        self._factory = SealedSessionFactory(settings)
        with Configurator(session_factory=self._factory) as config:
            config.add_route("act", "/act")
            config.add_view(_act, route_name="act", request_method="POST")
            self._app = config.make_wsgi_app()

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        browser = Browser(self._app, {"wsgi.url_scheme": "https", "HTTP_HOST": "localhost"})
        try:
            response = browser.post(path, body, dict(headers), expect_errors=True)
        except (RuntimeError, TypeError):
            return Answer(500, [])  # what a server makes of it
        return Answer(response.status_int, response.headerlist, response.body)

    def close(self) -> None:
        self._factory.keeper.deployment.close()


def _act(request: Request) -> Response:
    act = Act.parse(request.environ["wsgi.input"].read(request.content_length))
    result = act.run(request.session, sealed(request.session))
    if inspect.isawaitable(result):
        result = asyncio.run(_wait_for(result))
    response = Response(json_body=result)
    response.headerlist.extend(act.headers)
    return response


async def _wait_for(result: Any) -> Any:
    return await result


class TestPyramid(AdapterContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
