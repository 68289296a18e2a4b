"""The pages of `sealedstate.path` as an ASGI application."""

from __future__ import annotations

import sys

import anyio

from sealedstate import Keeper
from sealedstate.asynchronous import AsyncKeeper
from sealedstate.path import PathPages
from sealedstate.path._pages import MOST_BODY_BYTES, PathRequest, server_name

from ._middleware import Receive, Send
from ._session import Scope

__all__ = ["PathApplication"]

_SERVERS = ("uvicorn", "hypercorn", "daphne", "granian")


class PathApplication:
    """An ASGI application that shows what the path to it carries; see sealedstate_wsgi.

        application.mount("/sealedstate/path", PathApplication(keeper))

    `source`: a Keeper or an AsyncKeeper. Raises ConfigurationError.
    """

    def __init__(self, source: Keeper | AsyncKeeper) -> None:
        self._pages = PathPages(source)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"PathApplication answers http, and no {scope['type']}")
        body = b""
        while scope["method"] == "POST" and len(body) < MOST_BODY_BYTES:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            # HTTP/2 may send the Cookie field in pieces (RFC 9113).
            joint = "; " if key == "cookie" else ", "
            headers[key] = f"{headers[key]}{joint}{text}" if key in headers else text
        mount, path = scope.get("root_path", ""), scope["path"]
        request = PathRequest(
            scope["method"],
            mount,
            # Since ASGI 2.4, the path begins with the root path.
            path.removeprefix(mount) if path.startswith(f"{mount}/") else path,
            scope["query_string"].decode("latin-1"),
            headers,
            scope.get("scheme", "http"),
            (scope.get("client") or ("",))[0],
            _server(),
            body[:MOST_BODY_BYTES],
        )
        response = await anyio.to_thread.run_sync(self._pages.answer, request)
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers]
        status = int(response.status[:3])
        await send({"type": "http.response.start", "status": status, "headers": raw})
        content = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": content})


def _server() -> str:
    """The server of this process; the scope does not name it."""
    found = [name for name in _SERVERS if name in sys.modules]
    return server_name(found[0]) if len(found) == 1 else ""
