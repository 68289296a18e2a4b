"""A pytest plugin: requests of Authlib's tests of its Starlette client have sealed sessions.

They make requests of scopes with a plain dict as the session, which a sealed one replaces.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from sealedstate import Keeper, Key, Settings, plain
from sealedstate.asynchronous import AsyncKeeper, SealedSession


def pytest_configure(config: pytest.Config) -> None:
    keeper = AsyncKeeper(Keeper(Settings(keys=Key.generate(os.urandom).export(), convert=plain)))
    make: Callable[..., None] = HTTPConnection.__init__

    def make_sealed(self: HTTPConnection, scope: Any, *given: Any) -> None:
        if type(scope.get("session")) is dict:
            session = SealedSession(keeper, keeper.session())
            session.begin(is_empty=True)
            session.parts.update(scope["session"])
            scope["session"] = session.parts
        make(self, scope, *given)

    HTTPConnection.__init__ = make_sealed  # type: ignore[method-assign,assignment]
