"""The extension, and how an application's configuration becomes settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo
from flask.sessions import SessionInterface

from sealedstate import ConfigurationError, Keeper, Settings, plain
from sealedstate.adapting import (
    SESSION_COOKIE,
    config_names,
    read_session_cookie,
    temporary_key,
)
from sealedstate.cli import command_for
from sealedstate.devices import CONFIG as DEVICES
from sealedstate.devices import SessionRegistry, make_registry
from sealedstate.errors import OperatorError, show_value
from sealedstate.settings import ENVIRONMENT_PREFIX as PREFIX
from sealedstate.settings import MAX_LIFETIME

from ._session import SUBJECT_KEY, SealedSessionInterface, log
from ._takeover import UNTIL, read_predecessor

MAY_DROP = ["_state_*"]  # Authlib's, of logins that were begun


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
            open_registry(app, partial(SessionRegistry, keeper))
            app.session_interface = SealedSessionInterface(app, keeper)


def devices() -> SessionRegistry:
    """The registry of the application, which SEALEDSTATE_DEVICES describes.

    Raises ConfigurationError without that.
    """
    registry: SessionRegistry = find_registry(current_app)
    return registry


def open_registry(app: Any, make: Callable[..., object]) -> None:
    """Give an application of Flask or Quart the registry that its configuration describes."""
    if (config := app.config.get(DEVICES)) is not None:
        app.extensions["sealedstate_devices"] = make_registry(make, config)


def find_registry(app: Any) -> Any:
    """The registry of an application. Raises ConfigurationError."""
    if "sealedstate_devices" not in app.extensions:
        raise ConfigurationError(f'{DEVICES}: is not set; set it to a dict such as {{"most": 5}}')
    return app.extensions["sealedstate_devices"]


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
    with config_names({*app.config, *os.environ}, PREFIX, SESSION_COOKIE):
        value = app.config["PERMANENT_SESSION_LIFETIME"]
        seconds = value.total_seconds() if isinstance(value, timedelta) else value
        # The comparison is also false for NaN.
        if type(seconds) not in (int, float) or not seconds >= 1:
            raise ConfigurationError(
                "PERMANENT_SESSION_LIFETIME: must be a timedelta or a number of seconds, at least"
                f" 1 s; got {show_value(value)}"
            )
        if settings is None:
            settings = read_settings(app)
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


def read_settings(app: Any) -> Settings:
    """What the application's configuration and the environment set. Raises ConfigurationError."""
    config = app.config
    defaults = read_session_cookie(config, default_name="session")
    defaults["cookie_path"] = SessionInterface().get_cookie_path(app)
    defaults |= {"convert": plain, "may_drop": MAY_DROP, "subject_key": SUBJECT_KEY}
    # UNTIL is no setting, but the date of one, and DEVICES describes a registry.
    given, environ = dict(config), dict(os.environ)
    variable = environ.pop(UNTIL, None)
    until = given.pop(UNTIL, None) or variable
    given.pop(DEVICES, None)
    names = {name for name in [*given, *environ] if name.startswith(PREFIX)}
    if until:
        key = given.get(f"{PREFIX}SUBJECT_KEY") or environ.get(f"{PREFIX}SUBJECT_KEY", SUBJECT_KEY)
        defaults["legacy"] = read_predecessor(app, until, key)
        if "cookie_name" in defaults and f"{PREFIX}COOKIE_NAME" not in names:
            raise ConfigurationError(
                f"{UNTIL}: the old cookies have the name {config['SESSION_COOKIE_NAME']!r}"
                f" (SESSION_COOKIE_NAME); set {PREFIX}COOKIE_NAME to another name"
            )
    if app.debug and not {f"{PREFIX}KEYS", f"{PREFIX}KEYS_FILE"} & names:
        defaults["keys"] = temporary_key(log, f"{PREFIX}KEYS", "flask")
    settings = Settings.from_config(given, environ=environ, others=[UNTIL], **defaults)
    permanent = int(app.permanent_session_lifetime.total_seconds())
    if settings.longest_lifetime is None and permanent > settings.absolute_lifetime:
        settings = dataclasses.replace(settings, longest_lifetime=min(permanent, MAX_LIFETIME))
    return settings
