"""The sessions that an application has from before: signed by Flask, or kept by Flask-Session."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from flask.sessions import SecureCookieSessionInterface, SessionInterface
from werkzeug.test import create_environ

from sealedstate import ConfigurationError, LegacyReader
from sealedstate.adapting import read_moment
from sealedstate.errors import UncheckedSession
from sealedstate.legacy import StoredSession
from sealedstate.settings import ENVIRONMENT_PREFIX

from ._session import log

UNTIL = f"{ENVIRONMENT_PREFIX}LEGACY_UNTIL"
# Of a signed id. Flask-Session's ids are of these letters.
MAX_CHARS = 512
_ID = re.compile(r"[A-Za-z0-9_-]+")


def read_predecessor(app: Any, until: object, subject: str) -> LegacyReader:
    """A reader of the sessions of `app.session_interface`. Raises ConfigurationError."""
    config, interface = app.config, app.session_interface
    cookie: dict[str, Any] = {
        "until": read_moment(UNTIL, until),
        "cookie_name": config["SESSION_COOKIE_NAME"],
        "max_age": int(app.permanent_session_lifetime.total_seconds()),
        "subject": subject,
        "cookie_path": SessionInterface().get_cookie_path(app),
        "cookie_domain": config["SESSION_COOKIE_DOMAIN"] or None,
    }
    fallbacks = config.get("SECRET_KEY_FALLBACKS") or ()
    if isinstance(fallbacks, str | bytes):
        raise ConfigurationError("SECRET_KEY_FALLBACKS: must be a list of keys, not one key")
    secrets = [config["SECRET_KEY"], *fallbacks]
    # Flask-Session makes the class of its interface by the type of its store.
    if type(interface).__module__.partition(".")[0] == "flask_session":
        name = config["SESSION_COOKIE_NAME"]
        return LegacyReader("flask", [], **cookie, fetch=partial(_fetch, app, interface, name))
    # Quart's interface, which is another class, signs in the same way.
    if getattr(interface, "salt", None) != SecureCookieSessionInterface.salt:
        raise ConfigurationError(
            f"{UNTIL}: sessions of {type(interface).__name__} are not known here; those of Flask"
            " and of Flask-Session are"
        )
    if not secrets[0]:
        raise ConfigurationError(
            f"{UNTIL}: sessions that Flask has signed can be read only with SECRET_KEY"
        )
    return LegacyReader("flask", secrets, **cookie)


def _fetch(app: Any, interface: Any, name: str, text: str) -> StoredSession | None:
    """The session of Flask-Session whose id is in the cookie, read through its own interface.

    Raises UncheckedSession if its store does not answer.
    """
    if len(text) > MAX_CHARS:
        return None
    environ = create_environ(headers={"Cookie": f"{name}={text}"})
    try:
        session = interface.open_session(app, app.request_class(environ))
    except Exception as error:
        # Each store has its own errors. The cookie is left alone until the store answers.
        log.error("Flask-Session's store does not answer: %s", type(error).__name__)
        raise UncheckedSession from error
    # A new id is that of an empty session: the cookie's is unknown, expired or forged.
    if not text.startswith(session.sid) or _ID.fullmatch(session.sid) is None or not session:
        return None
    # SQL databases may find an id in whatever case. Its age is not known.
    return StoredSession(session.sid.casefold(), session)
