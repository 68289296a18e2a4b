"""The sessions that an application has from before: signed by Flask, or kept by Flask-Session."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from flask.sessions import SecureCookieSessionInterface, SessionInterface
from werkzeug.test import create_environ

from sealedstate import ConfigurationError, LegacyReader
from sealedstate.adapting import read_moment
from sealedstate.errors import UncheckedSession
from sealedstate.legacy import Adopted
from sealedstate.settings import ENVIRONMENT_PREFIX

from ._session import log

UNTIL = f"{ENVIRONMENT_PREFIX}LEGACY_UNTIL"


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
    secrets = [config["SECRET_KEY"], *(config.get("SECRET_KEY_FALLBACKS") or ())]
    # Flask-Session makes the class of its interface by the type of its store.
    if type(interface).__module__.partition(".")[0] == "flask_session":
        return StoredSessionReader(
            "flask", secrets[0] or b"unsigned", app=app, interface=interface, **cookie
        )
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


@dataclass(frozen=True, slots=True)
class StoredSessionReader(LegacyReader):
    """Reads server-side sessions of Flask-Session through its own interface."""

    app: Any = field(default=None, repr=False)
    interface: Any = field(default=None, repr=False)

    def read(self, text: str, now: int) -> Adopted | None:
        """The session whose id is in the cookie. Raises UncheckedSession without its store."""
        if now >= self.until.timestamp() or len(text) > 512:
            return None
        environ = create_environ(headers={"Cookie": f"{self.name}={text}"})
        try:
            session = self.interface.open_session(self.app, self.app.request_class(environ))
        except Exception as error:
            # Each store has its own errors. The cookie is left alone until the store answers.
            log.error("Flask-Session's store does not answer: %s", type(error).__name__)
            raise UncheckedSession from error
        values = dict(session)
        # A new id is that of an empty session: the cookie's is unknown, expired or forged.
        if not text.startswith(session.sid) or not values:
            return None
        digest = hashlib.blake2b(f"flask-session {session.sid}".encode(), digest_size=16)
        # Its age is not known, so any sign-out everywhere of its user refuses it.
        return Adopted(values, digest.digest(), 0)
