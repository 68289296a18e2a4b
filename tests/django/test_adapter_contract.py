"""Sessions in Django, by the promises that every adapter owes; synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test.utils import override_settings

from sealedstate import Keeper, Settings
from sealedstate.binding import open_binding
from sealedstate.testing.adapters import Answer
from sealedstate_django import _keeper
from tests.support.client import attempt
from tests.support.pages.django import DjangoContract, act, act_async, urls


class InProcess:
    """Calls Django's handlers with one keeper."""

    def __init__(self, keeper: Keeper, view: Any) -> None:
        self._override = override_settings(
            ROOT_URLCONF=urls(view), MIDDLEWARE=["sealedstate_django.SealedSessionMiddleware"]
        )
        self._override.enable()
        self._keeper, self._before = keeper, _keeper._opened
        _keeper._opened = keeper, None, open_binding(keeper)
        self._is_async = view is act_async
        self._handler: Any = ASGIHandler() if self._is_async else WSGIHandler()

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        if self._is_async:
            return async_to_sync(self._send)(path, headers, body)
        extras: dict[str, object] = {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "https",
        }
        for name, value in headers:
            extras["HTTP_" + name.upper().replace("-", "_")] = value
        answer = attempt(self._handler, path, method="POST", extras=extras)
        return Answer(answer.status, answer.headers, answer.body)

    async def _send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "scheme": "https",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
        sent: list[dict[str, Any]] = []
        received: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            return received.pop() if received else await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._handler(scope, receive, send)
        start, *rest = sent
        fields = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]
        ]
        return Answer(start["status"], fields, b"".join(each.get("body", b"") for each in rest))

    def close(self) -> None:
        self._keeper.deployment.close()
        _keeper._opened = self._before
        self._override.disable()


class TestSynchronous(DjangoContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(Keeper(settings), act)


class TestAsynchronous(DjangoContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(Keeper(settings), act_async)
