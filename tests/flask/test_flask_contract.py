"""The Flask adapter, by the promises that every adapter owes."""

from __future__ import annotations

from collections.abc import Sequence

from sealedstate import Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.pages import flask


class InProcess:
    """The application of the kit behind Flask's test client."""

    def __init__(self, settings: Settings) -> None:
        self._app = flask.make(settings)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        client = self._app.test_client(use_cookies=False)
        response = client.post(path, base_url="https://localhost", headers=headers, data=body)
        return Answer(response.status_code, list(response.headers), response.data)

    def close(self) -> None:
        self._app.extensions["sealedstate"].deployment.close()


class TestFlask(AdapterContract):
    has_binding = True

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(settings)
