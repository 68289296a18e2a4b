"""What small applications are made of: a keeper, or what has one."""

from __future__ import annotations

import os
from typing import Any

import pytest

import sealedstate_asgi.path
from sealedstate import ConfigurationError, Keeper, Key, Settings
from sealedstate.asynchronous import AsyncKeeper
from sealedstate.path import PathPages
from sealedstate_wsgi import HealthApplication, PathApplication, SealedSessionMiddleware
from sealedstate_wsgi.browser import BrowserParts
from sealedstate_wsgi.status import SessionStatus

SETTINGS = Settings(keys=[Key.generate(os.urandom).export()])
KEEPER = Keeper(SETTINGS)
MAKERS: list[Any] = [
    HealthApplication,
    PathApplication,
    PathPages,
    SessionStatus,
    sealedstate_asgi.path.PathApplication,
]


def app(environ: Any, start_response: Any) -> list[bytes]:
    return []


@pytest.mark.parametrize("make", MAKERS)
def test_application_takes_a_keeper_and_what_has_one(make: Any) -> None:
    for source in (KEEPER, SealedSessionMiddleware(app, KEEPER), AsyncKeeper(KEEPER)):
        make(source)


@pytest.mark.parametrize("make", [*MAKERS, lambda source: BrowserParts(app, source)])
def test_anything_else_is_refused_with_a_remedy(make: Any) -> None:
    for source in (None, SETTINGS, app, "app.toml"):
        with pytest.raises(ConfigurationError, match=f"such as .* got {type(source).__name__}"):
            make(source)


def test_browser_parts_leave_the_pages_of_the_application() -> None:
    for path in ("/", "//evil.example", "parts"):
        with pytest.raises(ConfigurationError, match="path: must begin with one slash"):
            BrowserParts(app, KEEPER.deployment, path=path)
