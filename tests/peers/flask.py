"""A pytest plugin: every Flask application of a foreign test suite has sealed sessions.

The suites configure an application after it was made, and know only Flask's SECRET_KEY. So the
interface is made at the first request, and again after each change of the configuration, and its
keys are made of the secrets. Without a secret there is no session, as in Flask.
"""

from __future__ import annotations

import hashlib
from typing import Any

import flask
import pytest
from flask.cli import ScriptInfo
from flask.sessions import SessionInterface, SessionMixin

from sealedstate import Key
from sealedstate_flask import SealedSessionInterface
from sealedstate_flask._extension import open_keeper


class LateInterface(SessionInterface):
    """The sealed interface of each application, by its configuration of now."""

    def __init__(self) -> None:
        self._made: dict[flask.Flask, tuple[str, SealedSessionInterface]] = {}

    def open_session(self, app: flask.Flask, request: flask.Request) -> SessionMixin | None:
        return self._interface_of(app).open_session(app, request) if app.secret_key else None

    def save_session(
        self, app: flask.Flask, session: SessionMixin, response: flask.Response
    ) -> None:
        self._interface_of(app).save_session(app, session, response)

    def _interface_of(self, app: flask.Flask) -> SealedSessionInterface:
        state = state_of(app)
        if app not in self._made or self._made[app][0] != state:
            secrets = [app.secret_key, *(app.config["SECRET_KEY_FALLBACKS"] or ())]
            app.config["SEALEDSTATE_KEYS"] = [key_of(secret) for secret in secrets]
            # The suites look for cookies that are sent over plain http.
            app.config["SEALEDSTATE_SECURE"] = bool(app.config["SESSION_COOKIE_SECURE"])
            keeper = open_keeper(app, None, ScriptInfo)
            assert keeper is not None
            interface = SealedSessionInterface(app, keeper)
            self._made[app] = state_of(app), interface
        return self._made[app][1]


def pytest_configure(config: pytest.Config) -> None:
    flask.Flask.session_interface = LateInterface()


def state_of(app: Any) -> str:
    return repr(sorted(app.config.items(), key=repr))


def key_of(secret: Any) -> str:
    """The key in place of one of Flask's secrets."""
    digest = hashlib.blake2b(repr(secret).encode()).digest()
    return Key.generate(lambda size: digest[:size]).export()
