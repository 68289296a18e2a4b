"""Flask's session interface over a keeper."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin

from sealedstate import ConfigurationError, Keeper, Key, LegacyReader, Session, Settings, plain
from sealedstate.adapting import SessionFace
from sealedstate.cli import command_for
from sealedstate.headers import set_cookie_bytes, with_session
from sealedstate.settings import ENVIRONMENT_PREFIX, MAX_LIFETIME

_log = logging.getLogger("sealedstate.flask")

_COOKIE = {
    "SESSION_COOKIE_DOMAIN": "cookie_domain",
    "SESSION_COOKIE_PATH": "cookie_path",
    "SESSION_COOKIE_SAMESITE": "same_site",
    "SESSION_COOKIE_PARTITIONED": "partitioned",
}
_LEGACY_UNTIL = f"{ENVIRONMENT_PREFIX}LEGACY_UNTIL"
_SUBJECT_KEY = "_user_id"  # Flask-Login's
_PERMANENT = "_permanent"


class FlaskSession(SessionFace, SessionMixin):
    """`flask.session`: Flask's names, and those of a sealed session (see `SessionFace`)."""

    _session: Session
    _interface: SealedSessionInterface
    _url: tuple[str, str]
    # Set by Flask when the application looks at `flask.session`.
    accessed = False
    _is_forced = False

    def __init__(
        self, session: Session, interface: SealedSessionInterface, scheme: str, host: str
    ) -> None:
        super().__init__(session)
        vars(self).update(_interface=interface, _url=(scheme, host))

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser's window.

        It then lives for PERMANENT_SESSION_LIFETIME after the last visit, and at most for the
        setting longest_lifetime after the sign-in.
        """
        return bool(self._session.persistent or self._session.get(_PERMANENT))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        is_permanent = bool(value)
        self._session.pop(_PERMANENT, None)  # of a session that Flask has signed
        if is_permanent is not bool(self._session.persistent):
            idle, absolute = self._interface.lifetimes(is_permanent)
            until = self._interface.keeper.deployment.now() + absolute
            self._session.limit(persistent=is_permanent, idle=idle, until=until)

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the request brought no session."""
        return self._session.is_new

    @property
    def modified(self) -> bool:
        """Whether a save has something to send.

        It need not be assigned, because changes inside lists and dicts are found; True seals the
        session again in any case.
        """
        return self._is_forced or self._session.changes().is_modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._is_forced = bool(value)


class SealedSessionInterface(SessionInterface):
    """Opens and saves the sessions of one application; `keeper` has what it has open."""

    session_class = FlaskSession

    def __init__(self, keeper: Keeper, permanent_lifetime: int) -> None:
        self.keeper = keeper
        self._permanent_lifetime = permanent_lifetime

    def lifetimes(self, is_permanent: bool) -> tuple[int, int]:
        """How long a session may be unused, and how long it may live (seconds)."""
        lifetimes = self.keeper.deployment.lifetimes
        if not is_permanent:
            return lifetimes.idle, lifetimes.absolute
        longest = min(self._permanent_lifetime, lifetimes.longest)
        return longest, longest

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """The session of a request; its cookies are read when it is first used."""
        headers = request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        cross_site = self.keeper.is_cross_site(request.method, site, origin)
        session = self.keeper.session(headers.get("Cookie", ""), cross_site)
        return self.session_class(session, self, request.scheme, request.host)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Save the session with a response, whose headers then depend on the cookie."""
        if not isinstance(session, FlaskSession):
            raise TypeError(f"expected a FlaskSession, got {type(session).__name__}")
        inner, force = session._session, session._is_forced
        lines: Sequence[str] = ()
        if inner.accessed:
            if _PERMANENT in inner:
                session.permanent = session.permanent
            force = force or (session.permanent and app.config["SESSION_REFRESH_EACH_REQUEST"])
            other_bytes = set_cookie_bytes(response.headers.to_wsgi_list())
            lines = self.keeper.save(inner, other_bytes, force=bool(force))
        if inner.accessed or session.accessed:
            headers = with_session(response.headers.to_wsgi_list(), lines)
            response.headers.clear()
            response.headers.extend(headers)
        inner.mark_headers_sent()
        if lines:
            self.keeper.note_scheme(*session._url)


class SealedSessions:
    """Gives `app`, or each application of `init_app`, sealed sessions in `flask.session`.

    `settings`: by default, the SEALEDSTATE_ names of the application's configuration, variables of
    the environment, and Flask's own SESSION_COOKIE_ names and PERMANENT_SESSION_LIFETIME. Then
    ``app.extensions["sealedstate"]`` is the Keeper. Raises ConfigurationError.
    """

    def __init__(self, app: Flask | None = None, settings: Settings | None = None) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give `app` sealed sessions. Raises ConfigurationError."""
        settings = read_settings(app) if self._settings is None else self._settings
        keeper = app.extensions["sealedstate"] = Keeper(settings)
        lifetime = int(app.permanent_session_lifetime.total_seconds())
        app.session_interface = SealedSessionInterface(keeper, lifetime)
        app.cli.add_command(command_for(settings))


def read_settings(app: Flask) -> Settings:
    """The settings that an application's configuration and the environment give.

    Raises ConfigurationError.
    """
    config, environ = app.config, os.environ
    if not config["SESSION_COOKIE_HTTPONLY"]:
        raise ConfigurationError(
            "SESSION_COOKIE_HTTPONLY: a sealed session is always HttpOnly; no script can read it"
        )
    # SESSION_COOKIE_SECURE does not count: its default is False, which is seldom a choice.
    defaults: dict[str, Any] = {
        name: config[flask_name] for flask_name, name in _COOKIE.items() if config.get(flask_name)
    }
    if config["SESSION_COOKIE_NAME"] != "session":
        defaults["cookie_name"] = config["SESSION_COOKIE_NAME"]
    permanent = int(app.permanent_session_lifetime.total_seconds())
    defaults |= {"convert": plain, "subject_key": _SUBJECT_KEY}
    until = config.get(_LEGACY_UNTIL) or environ.get(_LEGACY_UNTIL)
    if until:
        defaults["legacy"] = _read_legacy(app, until)
    names = {name: value for name, value in config.items() if name != _LEGACY_UNTIL}
    others = {name: value for name, value in environ.items() if name != _LEGACY_UNTIL}
    if app.debug and not {"SEALEDSTATE_KEYS", "SEALEDSTATE_KEYS_FILE"} & {*names, *others}:
        defaults["keys"] = Key.generate(os.urandom).export()
        _log.warning(
            "SEALEDSTATE_KEYS is not set: a key of this process seals the sessions, and they end"
            " with it; `flask sealedstate keys generate` prints a key that lasts"
        )
    settings = Settings.from_config(names, environ=others, **defaults)
    if settings.longest_lifetime is None and permanent > settings.absolute_lifetime:
        longest = min(permanent, MAX_LIFETIME)
        settings = dataclasses.replace(settings, longest_lifetime=longest)
    return settings


def _read_legacy(app: Flask, until: object) -> LegacyReader:
    """A reader of the cookies that this application has signed so far."""
    config = app.config
    moment = until
    if isinstance(until, str):
        try:
            moment = datetime.fromisoformat(until)
        except ValueError:
            raise ConfigurationError(
                f"{_LEGACY_UNTIL}: expected a date such as 2027-03-01"
            ) from None
    if isinstance(moment, datetime) and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if not isinstance(moment, datetime):
        raise ConfigurationError(f"{_LEGACY_UNTIL}: expected a date, got {type(until).__name__}")
    if not config["SECRET_KEY"]:
        raise ConfigurationError(
            f"{_LEGACY_UNTIL}: sessions that Flask has signed can be read only with SECRET_KEY"
        )
    return LegacyReader(
        "flask",
        [config["SECRET_KEY"], *(config.get("SECRET_KEY_FALLBACKS") or ())],
        moment,
        config["SESSION_COOKIE_NAME"],
        int(app.permanent_session_lifetime.total_seconds()),
        _SUBJECT_KEY,
        config["SESSION_COOKIE_PATH"] or config["APPLICATION_ROOT"],
        config["SESSION_COOKIE_DOMAIN"] or None,
    )
