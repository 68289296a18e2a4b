"""The Pyramid adapter, by the promises that every adapter owes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("pyramid", reason="not installed: pyramid")
pytest.importorskip("webtest", reason="not installed: webtest")

from webtest import TestApp as Browser

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.pages import pyramid


class InProcess:
    """The application of the kit behind WebTest, each request with another browser."""

    def __init__(self, settings: Settings) -> None:
        self._app = pyramid.make(settings)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        browser = Browser(self._app, {"wsgi.url_scheme": "https", "HTTP_HOST": "localhost"})
        try:
            response = browser.post(path, body, dict(headers), expect_errors=True)
        except (RuntimeError, TypeError):
            return Answer(500, [])  # what a server makes of it
        return Answer(response.status_int, response.headerlist, response.body)

    def close(self) -> None:
        self._app.registry["sealedstate"].deployment.close()


class TestPyramid(AdapterContract):
    has_binding = True

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
