"""Sessions in Django, by the promises that every adapter owes; synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path

from sealedstate import Keeper, Settings
from sealedstate.testing.adapters import Act, AdapterContract, Answer, Visitor
from sealedstate_django import _keeper, sealed
from tests.support.client import attempt


class Face(MutableMapping[str, Any]):
    """`request.session` as a mapping; Django's has no length and cannot be iterated."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Any:
        return self._session[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._session[name] = value

    def __delitem__(self, name: str) -> None:
        del self._session[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._session.keys())

    def __len__(self) -> int:
        return len(sealed(self._session))

    def __contains__(self, name: object) -> bool:
        return name in self._session

    def clear(self) -> None:
        self._session.clear()


class Api:
    """The session of sealedstate; opened when it is used."""

    def __init__(self, session: Any) -> None:
        self._of = session

    def __getattr__(self, name: str) -> Any:
        return getattr(sealed(self._of), name)


def act(request: HttpRequest) -> HttpResponse:
    asked = Act.parse(request.body)
    result = asked.run(Face(request.session), Api(request.session))
    if inspect.isawaitable(result):
        result = finish(result)
    return HttpResponse(json.dumps(result), headers=dict(asked.headers))


async def act_async(request: HttpRequest) -> HttpResponse:
    """The same with a session that was loaded before, as asynchronous views can have it."""
    session: Any = request.session
    asked = Act.parse(request.body)
    if asked.name == "nothing":
        return HttpResponse(json.dumps("nothing"), headers=dict(asked.headers))
    await session.aload()
    result = asked.run(Face(session), Api(session))
    if inspect.isawaitable(result):
        result = await result
    return HttpResponse(json.dumps(result), headers=dict(asked.headers))


def finish(result: Any) -> Any:
    """The result of a coroutine that waits for nothing, without an event loop."""
    try:
        result.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


class InProcess:
    """Calls Django's handlers with one keeper."""

    def __init__(self, keeper: Keeper, view: Any) -> None:
        module = type("urls", (), {"urlpatterns": [path("act", view)]})
        self._override = override_settings(
            ROOT_URLCONF=module, MIDDLEWARE=["sealedstate_django.SealedSessionMiddleware"]
        )
        self._override.enable()
        self._keeper, self._before = keeper, _keeper._keeper
        _keeper._keeper = keeper
        self._is_async = view is act_async
        self._handler: Any = ASGIHandler() if self._is_async else WSGIHandler()

    def send(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        if self._is_async:
            return async_to_sync(self._send)(path, headers, body)
        import io

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
        _keeper._keeper = self._before
        self._override.disable()


class DjangoContract(AdapterContract):
    def test_empty_session_has_no_cookie(self, visitor: Visitor) -> None:
        """Django keeps the key of a session that was emptied, and ends it by `flush`."""
        visitor.do("put", {"cart": ["tea"]})
        before = visitor.id
        visitor.do("clear")
        assert visitor.id == before
        visitor.do("call", "invalidate", {})
        assert visitor.cookies == {}


class TestSynchronous(DjangoContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(Keeper(settings), act)


class TestAsynchronous(DjangoContract):
    def open_client(self, settings: Settings) -> InProcess:
        return InProcess(Keeper(settings), act_async)
