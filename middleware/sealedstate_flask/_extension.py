"""The extension, and how an application's configuration becomes settings."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from functools import partial
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo
from flask.sessions import SecureCookieSessionInterface, SessionInterface
from werkzeug.test import create_environ

from sealedstate import ConfigurationError, Keeper, Settings
from sealedstate.adapting import DEVICES, LEGACY_UNTIL, FrameworkConfig
from sealedstate.cli import command_for
from sealedstate.devices import SessionRegistry, make_registry, require_registry
from sealedstate.errors import OperatorError, show_value
from sealedstate.legacy import Fetch, StoredSession
from sealedstate.settings import ENVIRONMENT_PREFIX, MAX_LIFETIME

from ._session import SUBJECT_KEY, SealedSessionInterface, log

# Of an id of Flask-Session, signed or not, and the letters of one that is not.
MAX_CHARS = 512
_ID = re.compile(r"[A-Za-z0-9_-]+")


class SealedSessions:
    """Gives `app`, or each application of `init_app`, sealed sessions in `flask.session`.

    `settings`: by default, the SEALEDSTATE_ names of the application's configuration, variables of
    the environment, and Flask's own SESSION_COOKIE_ names and PERMANENT_SESSION_LIFETIME. Then
    ``app.extensions["sealedstate"]`` is the Keeper, and with SEALEDSTATE_DEVICES `devices()` is the
    registry of sessions. Raises ConfigurationError.
    """

    def __init__(self, app: Flask | None = None, settings: Settings | None = None) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give `app` sealed sessions. Raises ConfigurationError."""
        if not isinstance(app, Flask):
            kind = type(app).__name__
            raise ConfigurationError(f"app: expected Flask, got {kind}; see sealedstate_quart")
        keeper = open_keeper(app, self._settings, ScriptInfo)
        if keeper is not None:
            app.extensions["sealedstate"] = keeper
            given = app.config.get(DEVICES)
            app.extensions["sealedstate_devices"] = make_registry(SessionRegistry, keeper, given)
            app.session_interface = SealedSessionInterface(app, keeper)


def devices() -> SessionRegistry:
    """The registry of the application, which SEALEDSTATE_DEVICES describes.

    Raises ConfigurationError without that.
    """
    found: SessionRegistry | None = current_app.extensions.get("sealedstate_devices")
    return require_registry(found)


def open_keeper(app: Any, settings: Settings | None, script_info: type) -> Keeper | None:
    """The keeper of an application of Flask or Quart, which also gets our commands.

    None: it has no keys, and is loaded by a command, which may be what makes them. `script_info`:
    the framework's ScriptInfo, by which its commands load an application. Raises
    ConfigurationError.
    """
    command = click.get_current_context(silent=True)
    # Servers have commands of click, too, but load the application by no ScriptInfo.
    is_command = command is not None and command.find_object(script_info) is not None
    is_server = command is not None and command.command.name == "run"
    config = app.config
    found = FrameworkConfig("flask", config.get, config, ENVIRONMENT_PREFIX, SUBJECT_KEY)
    with found.names():
        value = app.config["PERMANENT_SESSION_LIFETIME"]
        seconds = value.total_seconds() if isinstance(value, timedelta) else value
        # The comparison is also false for NaN.
        if type(seconds) not in (int, float) or not seconds >= 1:
            raise ConfigurationError(
                "PERMANENT_SESSION_LIFETIME: must be a timedelta or a number of seconds, at least"
                f" 1 s; got {show_value(value)}"
            )
        if settings is None:
            settings = _read_settings(app, found)
        app.cli.add_command(command_for(settings))
        try:
            return Keeper(settings)
        except (ConfigurationError, OperatorError) as error:
            name = script_info.__module__.partition(".")[0]  # flask or quart
            error.args = (str(error).replace("`sealedstate ", f"`{name} sealedstate "),)
            if is_server or not is_command:
                raise
            # `flask sealedstate keys init` needs the application before there are keys.
            app.before_request(partial(_refuse, error))
            return None


def _refuse(error: Exception) -> None:
    raise error


def _read_settings(app: Any, found: FrameworkConfig) -> Settings:
    """What the application's configuration and the environment set. Raises ConfigurationError."""
    found.defaults["cookie_path"] = SessionInterface().get_cookie_path(app)
    permanent = int(app.permanent_session_lifetime.total_seconds())
    if found.until:
        fetch = find_fetch(app)
        found.take_over(permanent, fetch, is_signed=fetch is None)
    if app.debug:
        found.add_temporary_key(log, "flask")
    settings = found.read()
    if settings.longest_lifetime is None and permanent > settings.absolute_lifetime:
        settings = dataclasses.replace(settings, longest_lifetime=min(permanent, MAX_LIFETIME))
    return settings


def find_fetch(app: Any) -> Fetch | None:
    """What reads a session of `app.session_interface`; None for cookies that Flask has signed.

    Raises ConfigurationError for any other interface.
    """
    interface = app.session_interface
    # Flask-Session makes the class of its interface by the type of its store.
    if type(interface).__module__.partition(".")[0] == "flask_session":
        return partial(_fetch, app, interface, app.config["SESSION_COOKIE_NAME"])
    # Quart's interface, which is another class, signs in the same way.
    if getattr(interface, "salt", None) != SecureCookieSessionInterface.salt:
        raise ConfigurationError(
            f"{LEGACY_UNTIL}: sessions of {type(interface).__name__} are not known here; those of"
            " Flask and of Flask-Session are"
        )
    return None


def _fetch(app: Any, interface: Any, name: str, text: str) -> StoredSession | None:
    """The session of Flask-Session whose id is in the cookie, read through its own interface."""
    if len(text) > MAX_CHARS:
        return None
    environ = create_environ(headers={"Cookie": f"{name}={text}"})
    session = interface.open_session(app, app.request_class(environ))
    # A new id is that of an empty session: the cookie's is unknown, expired or forged.
    if not text.startswith(session.sid) or _ID.fullmatch(session.sid) is None or not session:
        return None
    # SQL databases may find an id in whatever case. Its age is not known.
    return StoredSession(session.sid.casefold(), session)
