"""The page of the conformance kit in Django, synchronous and asynchronous."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import django
from django.conf import settings as project
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from sealedstate.testing.adapters import Act, AdapterContract, Visitor
from sealedstate_django import sealed
from tests.support.pages.wsgi import finish


def make(config: Mapping[str, Any], is_async: bool = False) -> Any:
    """`config`: the settings of sealedstate by their names."""
    project.configure(
        ROOT_URLCONF=urls(act_async if is_async else act),
        SECRET_KEY="the project's secret",
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["sealedstate_django.SealedSessionMiddleware"],
        INSTALLED_APPS=["sealedstate_django"],
        LOGGING_CONFIG=None,
        USE_TZ=True,
        SESSION_ENGINE="sealedstate_django",
        SESSION_EXPIRE_AT_BROWSER_CLOSE=True,
        SEALEDSTATE=dict(config),
    )
    django.setup()
    return get_asgi_application() if is_async else get_wsgi_application()


def make_async(config: Mapping[str, Any]) -> Any:
    return make(config, is_async=True)


def urls(view: Any) -> Any:
    """A module of urls."""
    return type("urls", (), {"urlpatterns": [path("act", view)]})


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
    result = finish(asked.run(Face(request.session), Api(request.session)))
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


class DjangoContract(AdapterContract):
    has_binding = True

    def test_empty_session_has_no_cookie(self, visitor: Visitor) -> None:
        """Django keeps the key of a session that was emptied, and ends it by `flush`."""
        visitor.do("put", {"cart": ["tea"]})
        before = visitor.id
        visitor.do("clear")
        assert visitor.id == before
        visitor.do("call", "invalidate", {})
        assert visitor.cookies == {}
