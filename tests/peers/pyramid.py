"""A pytest plugin: Pyramid's tests of its cookie sessions get sealed ones.

The tests write the cookies of requests themselves, by `_serialize`, which is replaced: it seals
a session at the time that they want. Their requests have cookies but no header, and they call the
first response callback themselves.
"""

from __future__ import annotations

import os
from typing import Any

import pyramid.session
import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate_pyramid import PyramidSession, SealedSessionFactory

KEY = Key.generate(os.urandom).export()
LONG = 400 * 86400
NAMES = {"path": "cookie_path", "domain": "cookie_domain", "cookie_name": "cookie_name"}


def settings_of(named: dict[str, Any], **others: Any) -> Settings:
    """The settings that Pyramid's keywords mean."""
    values = {ours: named[name] for name, ours in NAMES.items() if name in named}
    int(named.get("reissue_time") or 0)
    int(named.get("max_age") or 0)
    timeout = named.get("timeout", 1200)
    idle = LONG if timeout is None else int(timeout)
    return Settings(
        **{"keys": KEY, "cookie_name": "session", "secure": bool(named.get("secure")), **values},
        idle_lifetime=idle,
        absolute_lifetime=LONG,
        skew=0,
        **others,
    )


class Factory:
    """BaseCookieSessionFactory and SignedCookieSessionFactory."""

    def __init__(self, *_: Any, secret: str = "", set_on_exception: bool = True, **named: Any):
        keeper = Keeper(settings_of(named))
        self._make = SealedSessionFactory(keeper, set_on_exception=set_on_exception)

    def __call__(self, request: Any) -> PyramidSession:
        pairs = (f"{name}={value}" for name, value in request.cookies.items())
        request.environ.setdefault("REQUEST_METHOD", "GET")
        request.environ.setdefault("wsgi.url_scheme", "https")
        request.environ["HTTP_COOKIE"] = "; ".join(pairs)
        session = self._make(request)
        (save,) = request.response_callbacks

        def take_and_save(request: Any, response: Any) -> Any:
            request.response_callbacks.clear()
            return save(request, response)

        request.response_callbacks[0] = take_and_save
        return session


def serialize(self: Any, value: Any, **_: Any) -> str:
    """The cookie of a session that was sealed at the time of the value."""
    if not isinstance(value, tuple):
        return str(value)
    sealed_at, _, state = value
    keeper = Keeper(settings_of({"timeout": None}, clock=lambda: sealed_at or 1_600_000_000))
    session = keeper.session()
    session.update(state)
    (line,) = keeper.save(session)
    return line.partition(";")[0].partition("=")[2]


def pytest_configure(config: pytest.Config) -> None:
    session: Any = pyramid.session
    session.BaseCookieSessionFactory = session.SignedCookieSessionFactory = Factory


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if hasattr(item.cls, "_serialize"):
            item.cls._serialize = serialize
