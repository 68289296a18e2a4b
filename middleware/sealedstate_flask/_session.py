"""Flask's session interface over a keeper."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, cast

from flask import Flask, Request, Response
from flask import request as current_request
from flask import session as current_session
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.datastructures import Headers

from sealedstate import Keeper
from sealedstate.adapting import (
    SessionFace,
    add_session_headers,
    log_late_changes,
    open_session,
    sealed,
)
from sealedstate.binding import SessionBinding, open_binding
from sealedstate.headers import set_cookie_bytes

log = logging.getLogger("sealedstate.flask")

SUBJECT_KEY = "_user_id"  # Flask-Login's
_TUTORIAL_KEY = "user_id"  # that of Flask's tutorial
_PERMANENT = "_permanent"  # Flask's name for it inside a session


class FlaskSession(SessionFace, SessionMixin):  # type: ignore[override]
    """`flask.session`: Flask's names, and those of a sealed session (see `SessionFace`)."""

    _interface: SealedSessionInterface
    _environ: dict[str, Any]
    accessed = False  # Flask sets it when the application looks at `flask.session`
    _is_forced = False
    _idle: int | None = None  # what this request gave a permanent session

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser's window.

        Such a session ends PERMANENT_SESSION_LIFETIME after its last visit, or by longest_lifetime.
        If that has changed, it counts from the next save.
        """
        persistent = self._session.persistent
        if persistent is None:
            persistent = self._interface.keeper.settings.persistent
        return persistent or bool(self._session.get(_PERMANENT))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        is_permanent, session = bool(value), self._session
        if session.pop(_PERMANENT, False) or self.permanent is not is_permanent:
            deployment = self._interface.keeper.deployment
            lifetimes = deployment.lifetimes
            idle = vars(self)["_idle"] = self._interface.permanent_idle() if is_permanent else None
            until = deployment.now() + (lifetimes.longest if is_permanent else lifetimes.absolute)
            session.limit(persistent=is_permanent, idle=idle or lifetimes.idle, until=until)

    @property
    def modified(self) -> bool:
        """Whether a save has something to send, or had.

        It need not be assigned, because changes inside lists and dicts are found; True seals the
        session again in any case.
        """
        if self._lines is not None:
            return bool(self._lines)
        inner = self._session
        return self._is_forced or (inner.accessed and inner.changes().is_modified)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._is_forced = bool(value)
        if value:
            self._session.load()

    def clear(self) -> None:
        """Remove every part; as Flask has it, the session is not permanent any more."""
        self.permanent = False
        super().clear()


class SealedSessionInterface(SessionInterface):
    """Opens and saves the sessions of `app`; `keeper` has what it has open."""

    session_class = FlaskSession

    def __init__(self, app: Any, keeper: Keeper) -> None:
        self.app, self.keeper, self.binding = app, keeper, open_binding(keeper)
        self._cookies = keeper.deployment.cookies
        has_default_key = keeper.settings.subject_key == SUBJECT_KEY
        # Until a user signs in, or another part seems to name one.
        self._watches_users = has_default_key and keeper.deployment.store is not None
        # Flask's own list: a first request may have been before.
        functions = app.before_request_funcs.setdefault(None, [])
        functions.insert(0, self._check_application)
        if self.binding is not None:
            functions.insert(0, partial(self._bind, self.binding))

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """The session of a request; its cookies are read when it is first used."""
        environ = request.environ
        session = open_session(self.keeper, environ)
        return self.session_class(session, _interface=self, _environ=environ)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Save the session with a response. Raises SessionTooLarge, StorageError, NoPrimaryKey."""
        inner, found = sealed(session), cast(FlaskSession, session)
        if not response.direct_passthrough and self._may_renew(found):
            inner.load()
        lines: Sequence[str] = ()
        try:
            if inner.accessed:
                lines = self.keeper.save(inner, **self._options(found, response.headers))
        finally:
            add_session_headers(
                self.keeper, inner, response.headers, lines, found._environ, self.binding
            )
        vars(found)["_lines"] = lines
        # A request that is kept to be looked at after its response, by the debugger or by a test's
        # `with client:`, may still read flashed messages, which removes them. A stream may not.
        if response.is_streamed or "werkzeug.debug.preserve_context" not in found._environ:
            inner.mark_headers_sent()
        if response.is_streamed and inner.accessed:
            response.call_on_close(partial(log_late_changes, log, inner))

    # Extensions ask for these. They are what is sent, whatever the configuration leaves open.

    def get_cookie_name(self, app: Flask) -> str:
        return self._cookies.name

    def get_cookie_domain(self, app: Flask) -> str | None:
        return self._cookies.domain

    def get_cookie_path(self, app: Flask) -> str:
        return self._cookies.path

    def permanent_idle(self) -> int:
        """How long after its last visit a permanent session ends, in seconds."""
        unused = int(self.app.permanent_session_lifetime.total_seconds())
        return max(1, min(unused, self.keeper.deployment.lifetimes.longest))

    def _may_renew(self, session: FlaskSession) -> bool:
        """Whether the session is permanent, and renewed although the application has not used it.

        Flask renews permanent sessions in every response; but no cache could keep a file then.
        """
        if (
            session._session.accessed
            or self._cookies.name not in session._environ.get("HTTP_COOKIE", "")
            or not self.app.config["SESSION_REFRESH_EACH_REQUEST"]
        ):
            return False
        # It is not used by that: the response must not depend on a session that it leaves.
        record = session._session.load_ahead(()).record
        return record is not None and bool(record.terms.persistent)

    def _options(self, session: FlaskSession, headers: Headers) -> dict[str, Any]:
        """With what a keeper saves the session."""
        self._keep_permanent(session)
        renews_each = self.app.config["SESSION_REFRESH_EACH_REQUEST"]
        is_renewed = renews_each and session.permanent and not session._session.is_peeked
        force = bool(session._is_forced or is_renewed)
        return {"other_bytes": set_cookie_bytes(headers.to_wsgi_list()), "force": force}

    def _keep_permanent(self, session: FlaskSession) -> None:
        """Let a permanent session stay permanent over a sign-in, as it does in Flask."""
        inner, key = session._session, self.keeper.settings.subject_key
        if _PERMANENT in inner:  # a session that Flask has signed
            session.permanent = session.permanent
        if key is not None:
            inner.follow_subject(key)
            if self._watches_users and (inner.subject is not None or _TUTORIAL_KEY in inner):
                self._watches_users = False
                if inner.subject is None:
                    log.warning(
                        "session['user_id'] names no user here, but session['_user_id']: set"
                        " SEALEDSTATE_SUBJECT_KEY = 'user_id'; otherwise a sign-in gets no new id,"
                        " a logout is not recorded, and revoke_subject ends no session"
                    )
        record = inner.load().record
        is_silent = inner.persistent is None and not inner.is_new
        if is_silent and record is not None and record.terms.persistent:
            session.permanent = True
        if not session.permanent:
            return
        # PERMANENT_SESSION_LIFETIME may have changed since. What `limit` was asked for stays.
        followed = session._idle
        if followed is None and record is not None and record.terms.persistent:
            lifetimes = self.keeper.deployment.lifetimes
            is_longest = record.ends_at(lifetimes) >= record.created_at + lifetimes.longest
            followed = record.terms.idle if is_longest else None
        if followed is not None and inner.idle_limit == followed:
            inner.idle_limit = self.permanent_idle()

    def _bind(self, binding: SessionBinding) -> Any:
        """The answer to a browser that binds its session; None for any other request."""
        request, inner = current_request, sealed(current_session)
        path = request.root_path + request.path
        if not binding.is_for(path):
            return None
        answer = binding.answer(inner, request.method, path, request.headers.get)
        return Response(answer.body, answer.status, list(answer.headers))

    def _check_application(self) -> None:
        """Warn, at the first request, of what other extensions do to these sessions."""
        functions = self.app.before_request_funcs
        # Not changed in place: Flask goes through it now.
        functions[None] = [each for each in functions[None] if each != self._check_application]
        interface = self.app.session_interface
        if not isinstance(interface, SealedSessionInterface):
            log.warning(
                "sessions are not sealed: after SealedSessions(app), the application was given the"
                " interface %s; call SealedSessions(app) last",
                type(interface).__name__,
            )
        duration, never = self.app.config.get("REMEMBER_COOKIE_DURATION"), (0, timedelta(0))
        has_remember_cookie = hasattr(self.app, "login_manager") and duration not in never
        if has_remember_cookie and self.keeper.deployment.store is not None:
            # No sign-out in the store ends it.
            log.warning(
                "Flask-Login's remember cookie signs in again after a sign-out everywhere; set"
                " session.permanent = True in place of login_user(remember=True), and"
                " REMEMBER_COOKIE_DURATION = 0"
            )
