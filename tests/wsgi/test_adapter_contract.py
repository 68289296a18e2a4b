"""The middleware, by the promises that every adapter owes."""

from __future__ import annotations

import io
from collections.abc import Sequence

from sealedstate import Keeper, Settings
from sealedstate.testing.adapters import AdapterContract, Answer
from tests.support.client import attempt
from tests.support.pages import wsgi


class InProcess:
    """Calls an application in this process."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._application = wsgi.make(keeper)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        extras: dict[str, object] = {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "https",
        }
        for name, value in headers:
            extras["HTTP_" + name.upper().replace("-", "_")] = value
        answer = attempt(self._application, path, method="POST", extras=extras)
        if answer.error is not None:
            return Answer(500, ())
        return Answer(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        self._keeper.deployment.close()


class TestMiddleware(AdapterContract):
    has_binding = True

    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(Keeper(settings))


class TestWithoutStore(TestMiddleware):
    has_store = False
