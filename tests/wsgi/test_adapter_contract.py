"""The middleware, by the promises that every adapter owes."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sealedstate import Keeper, Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.client import attempt

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """The application of the kit."""
    session = environ["sealedstate.session"]
    act = Act.parse(environ["wsgi.input"].read())
    result = act.run(session, session)
    if inspect.isawaitable(result):
        result = asyncio.run(wait_for(result))
    start_response("200 OK", [("Content-Type", "application/json"), *act.headers])
    return [json.dumps(result).encode()]


async def wait_for(result: object) -> object:
    return await result if inspect.isawaitable(result) else result


class InProcess:
    """Calls an application in this process."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._application: WSGIApplication = SealedSessionMiddleware(application, keeper)

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        import io

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
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(Keeper(settings))
