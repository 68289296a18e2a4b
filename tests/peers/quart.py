"""A pytest plugin: every Quart application of a foreign test suite has sealed sessions.

As with Flask (see flask.py), the interface is made at the first request, and again after each
change of the configuration, with keys made of the secrets.
"""

from __future__ import annotations

from typing import Any

import pytest
import quart
from quart.cli import ScriptInfo
from quart.sessions import SessionInterface, SessionMixin

from sealedstate.asynchronous import AsyncKeeper
from sealedstate_flask._extension import open_keeper
from sealedstate_quart import SealedSessionInterface

from .flask import key_of, state_of


class LateInterface(SessionInterface):
    """The sealed interface of each application, by its configuration of now."""

    def __init__(self) -> None:
        self._made: dict[quart.Quart, tuple[str, SealedSessionInterface]] = {}

    async def open_session(self, app: quart.Quart, request: Any) -> SessionMixin | None:
        return await self._interface_of(app).open_session(app, request) if app.secret_key else None

    async def save_session(self, app: quart.Quart, session: SessionMixin, response: Any) -> None:
        await self._interface_of(app).save_session(app, session, response)

    def _interface_of(self, app: quart.Quart) -> SealedSessionInterface:
        state = state_of(app)
        if app not in self._made or self._made[app][0] != state:
            secrets = [app.secret_key, *(app.config["SECRET_KEY_FALLBACKS"] or ())]
            app.config["SEALEDSTATE_KEYS"] = [key_of(secret) for secret in secrets]
            # The suite looks for cookies that are sent over plain http.
            app.config["SEALEDSTATE_SECURE"] = bool(app.config["SESSION_COOKIE_SECURE"])
            keeper = open_keeper(app, None, ScriptInfo)
            assert keeper is not None
            interface = SealedSessionInterface(app, AsyncKeeper(keeper))
            self._made[app] = state_of(app), interface
        return self._made[app][1]


def pytest_configure(config: pytest.Config) -> None:
    interface: Any = LateInterface()
    quart.Quart.session_interface = interface
