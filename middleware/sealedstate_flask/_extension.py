"""The extension, and how an application's configuration becomes settings."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from flask import Flask, current_app
from flask.sessions import SessionInterface

from sealedstate import ConfigurationError, Keeper, Key, Settings, plain
from sealedstate.cli import command_for
from sealedstate.devices import CONFIG as DEVICES
from sealedstate.devices import SessionRegistry, make_registry
from sealedstate.errors import OperatorError
from sealedstate.settings import ENVIRONMENT_PREFIX as PREFIX
from sealedstate.settings import MAX_LIFETIME

from ._session import SealedSessionInterface, log
from ._takeover import UNTIL, read_predecessor

SUBJECT_KEY = "_user_id"  # Flask-Login's
# Not SESSION_COOKIE_SECURE: its default is False, so the application need not have chosen that.
SOURCES = {
    "cookie_name": "SESSION_COOKIE_NAME",
    "cookie_path": "SESSION_COOKIE_PATH",
    "cookie_domain": "SESSION_COOKIE_DOMAIN",
    "same_site": "SESSION_COOKIE_SAMESITE",
    "partitioned": "SESSION_COOKIE_PARTITIONED",
}


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
        with _names_of(app.config):
            settings = read_settings(app) if self._settings is None else self._settings
            app.cli.add_command(command_for(settings))
            try:
                keeper = app.extensions["sealedstate"] = Keeper(settings)
                if (given := app.config.get(DEVICES)) is not None:
                    registry = make_registry(partial(SessionRegistry, keeper), given)
                    app.extensions["sealedstate_devices"] = registry
            except (ConfigurationError, OperatorError) as error:
                if os.environ.get("FLASK_RUN_FROM_CLI") != "true":
                    raise
                # `flask sealedstate keys init` needs the application before there are keys.
                app.before_request(partial(_refuse, error))
                return
        app.session_interface = SealedSessionInterface(app, keeper)


def devices() -> SessionRegistry:
    """The registry of the application, which SEALEDSTATE_DEVICES describes.

    Raises ConfigurationError without that.
    """
    registry = current_app.extensions.get("sealedstate_devices")
    if not isinstance(registry, SessionRegistry):
        raise ConfigurationError(f'{DEVICES}: is not set; set it to a dict such as {{"most": 5}}')
    return registry


def _refuse(error: Exception) -> None:
    raise error


def read_settings(app: Flask) -> Settings:
    """What an application's configuration and the environment set. Raises ConfigurationError."""
    config = app.config
    if not config["SESSION_COOKIE_HTTPONLY"]:
        raise ConfigurationError(
            "SESSION_COOKIE_HTTPONLY: a sealed session is always HttpOnly; no script can read it"
        )
    defaults: dict[str, Any] = {
        name: config[source] for name, source in SOURCES.items() if config.get(source)
    }
    defaults["cookie_path"] = SessionInterface().get_cookie_path(app)
    if isinstance(same_site := defaults.get("same_site"), str):
        defaults["same_site"] = same_site.title()
    if defaults.get("cookie_name") == "session":
        # Flask's default. A name with a prefix is better, and leaves the old cookie for a takeover.
        del defaults["cookie_name"]
    defaults |= {"convert": plain, "subject_key": SUBJECT_KEY}
    # UNTIL is no setting, but the date of one, and DEVICES describes a registry.
    given, environ = dict(config), dict(os.environ)
    until = given.pop(UNTIL, None) or environ.pop(UNTIL, None)
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
        defaults["keys"] = Key.generate(os.urandom).export()
        log.warning(
            "SEALEDSTATE_KEYS is not set: a key of this process seals the sessions, and they end"
            " with it; `flask sealedstate keys generate` prints a key that lasts"
        )
    settings = Settings.from_config(given, environ=environ, **defaults)
    permanent = int(app.permanent_session_lifetime.total_seconds())
    if settings.longest_lifetime is None and permanent > settings.absolute_lifetime:
        settings = dataclasses.replace(settings, longest_lifetime=min(permanent, MAX_LIFETIME))
    return settings


@contextlib.contextmanager
def _names_of(config: Mapping[str, Any]) -> Iterator[None]:
    """Let an error name a setting as the application's configuration does."""
    try:
        yield
    except ConfigurationError as error:
        name, colon, problem = str(error).partition(":")
        setting = name.removeprefix(PREFIX).lower()
        ours = f"{PREFIX}{setting.upper()}"
        source = ours if ours in {*config, *os.environ} else SOURCES.get(setting)
        if source is None or source == name:
            raise
        raise ConfigurationError(f"{source}{colon}{problem}") from None
