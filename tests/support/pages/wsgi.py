"""The page of the conformance kit as a WSGI application."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sealedstate import Keeper, Settings
from sealedstate.testing.adapters import Act
from sealedstate_wsgi import SealedSessionMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def make(sessions: Settings | Keeper) -> WSGIApplication:
    return SealedSessionMiddleware(application, sessions)


def make_with_errors(settings: Settings) -> WSGIApplication:
    """With pages of errors: where an application raises, uWSGI answers nothing at all."""
    inner = make(settings)

    def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return inner(environ, start_response)
        except Exception:
            traceback.print_exc()
            start_response("500 Internal Server Error", [("Content-Length", "0")])
            return []

    return served


def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    if environ["REQUEST_METHOD"] != "POST":
        start_response("405 Method Not Allowed", [("Content-Length", "0")])
        return []
    session = environ["sealedstate.session"]
    act = Act.parse(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    body = json.dumps(finish(act.run(session, session))).encode()
    length = ("Content-Length", str(len(body)))
    start_response("200 OK", [("Content-Type", "application/json"), length, *act.headers])
    return [body]


def finish(result: Any) -> Any:
    """The result, or that of a coroutine that waits for nothing, without an event loop."""
    if not inspect.isawaitable(result):
        return result
    try:
        next(result.__await__())
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")
