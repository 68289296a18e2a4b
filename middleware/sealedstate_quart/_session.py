"""The extension, and Quart's session interface over an `AsyncKeeper`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, cast

from flask.sessions import SessionMixin
from quart import Quart, Response, current_app
from quart import request as current_request
from quart import session as current_session
from quart.cli import ScriptInfo
from quart.sessions import SessionInterface
from quart.wrappers import Websocket
from werkzeug.datastructures import Headers

from sealedstate import ConfigurationError, Settings, UsageError
from sealedstate.adapting import (
    DEVICES,
    add_session_headers,
    log_late_changes,
    open_session,
    sealed,
)
from sealedstate.asynchronous import AsyncKeeper, AsyncSessionRegistry, Logout
from sealedstate.binding import SessionBinding
from sealedstate.devices import make_registry, require_registry
from sealedstate_flask import FlaskSession
from sealedstate_flask import SealedSessionInterface as FlaskInterface
from sealedstate_flask._extension import open_keeper
from sealedstate_flask._session import log


class SealedSessions:
    """Gives `app`, or each application of `init_app`, sealed sessions in `quart.session`.

    `settings`: by default, what `sealedstate_flask` reads of the configuration and the environment.
    `autoload`: whether the store is asked before the application runs, if there is a store and the
    request has our cookie; otherwise the application awaits `load_session`. `threads`: as of
    AsyncKeeper, which is ``app.extensions["sealedstate"]``. With SEALEDSTATE_DEVICES, `devices()`
    is the registry of sessions. Raises ConfigurationError.
    """

    def __init__(
        self,
        app: Quart | None = None,
        settings: Settings | None = None,
        *,
        autoload: bool = True,
        threads: int = 32,
    ) -> None:
        if not isinstance(autoload, bool):
            raise ConfigurationError(f"autoload: expected True or False, got {autoload!r}")
        self._settings, self._autoload, self._threads = settings, autoload, threads
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        """Give `app` sealed sessions. Raises ConfigurationError."""
        opened = open_keeper(app, self._settings, ScriptInfo)
        if opened is not None:
            keeper = AsyncKeeper(opened, self._threads)
            app.extensions["sealedstate"] = keeper
            given = app.config.get(DEVICES)
            app.extensions["sealedstate_devices"] = make_registry(
                AsyncSessionRegistry, keeper, given
            )
            # Quart takes any interface, but says so of its default only.
            interface: Any = SealedSessionInterface(app, keeper, self._autoload)
            app.session_interface = interface
            app.after_serving(keeper.close)


def devices() -> AsyncSessionRegistry:
    """The registry of the application, which SEALEDSTATE_DEVICES describes.

    Raises ConfigurationError without that.
    """
    found: AsyncSessionRegistry | None = current_app.extensions.get("sealedstate_devices")
    return require_registry(found)


class QuartSession(FlaskSession):
    """`quart.session`: that of Flask (see FlaskSession), but `invalidate` is awaited.

    The session is empty at once. If it is not awaited, the end is recorded before the response
    starts.
    """

    _interface: Any  # a SealedSessionInterface
    _logout: Logout | None = None

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return self._invalidate if name == "invalidate" and name not in self._session else found

    def _invalidate(self) -> Logout:
        logout = vars(self)["_logout"] = Logout(self._interface.asynchronous, self._session)
        return logout


class _Response(Protocol):
    """What a save asks of a response of Quart or of Werkzeug."""

    headers: Headers


class SealedSessionInterface(FlaskInterface, SessionInterface):  # type: ignore[misc]
    """Opens and saves the sessions of `app`; `asynchronous` has what it has open."""

    session_class = QuartSession

    def __init__(self, app: Quart, keeper: AsyncKeeper, autoload: bool = True) -> None:
        super().__init__(app, keeper.keeper)
        self.asynchronous = keeper
        self._autoload = autoload

    async def open_session(self, app: Quart, request: Any) -> QuartSession:  # type: ignore[override]
        """The session of a request or websocket, whose store has been asked if it has to be."""
        is_websocket = isinstance(request, Websocket)
        environ = {
            # Browsers hold Lax cookies back from a websocket, which is no navigation.
            "REQUEST_METHOD": "WEBSOCKET" if is_websocket else request.method,
            # HTTP/2 may send it in several fields.
            "HTTP_COOKIE": "; ".join(request.headers.getlist("Cookie")),
            "HTTP_ORIGIN": request.headers.get("Origin"),
            "HTTP_SEC_FETCH_SITE": request.headers.get("Sec-Fetch-Site"),
            "HTTP_HOST": request.headers.get("Host", ""),
            "wsgi.url_scheme": "http" if request.scheme in ("http", "ws") else "https",
            "quart.is_kept": bool((request.scope or {}).get("_quart._preserve_context")),
        }
        inner = open_session(self.keeper, environ, self.asynchronous.session)
        found = self.session_class(inner, _interface=self, _environ=environ)
        if self._autoload and self.keeper.asks_store(environ["HTTP_COOKIE"]):
            await self.asynchronous.load(found._session)
        if is_websocket:
            environ["quart.accepting"] = asyncio.Lock()
            request._accept = partial(self._accept, found, request._accept)
            request._close = partial(self._close, found, request._close)
        return found

    async def save_session(  # type: ignore[override]
        self, app: Quart, session: SessionMixin, response: _Response | None
    ) -> None:
        """Save the session with a response. Raises SessionTooLarge, StorageError, NoPrimaryKey.

        A websocket has no response in the end. Its session was saved when it was accepted.
        """
        inner, found = sealed(session), cast(QuartSession, session)
        if response is None:
            await self._leave_unsent(found)
            if inner.accessed:
                log_late_changes(log, inner)
            return
        if not _is_file(response) and self._may_renew(found):
            inner.load()
        await self._save(found, response.headers)
        # A test's `async with client:` may still read flashed messages, which removes them.
        if not found._environ["quart.is_kept"]:
            found._session.mark_headers_sent()

    async def _bind(self, binding: SessionBinding) -> Response | None:
        """The same in an event loop."""
        request, inner = current_request, sealed(current_session)
        path = request.root_path + request.path
        if not binding.is_for(path):
            return None
        await self.asynchronous.load(inner)
        inner.load()
        answer = await self.asynchronous.in_thread(
            binding.answer, inner, request.method, path, request.headers.get
        )
        return Response(answer.body, answer.status, Headers(answer.headers))

    def _may_renew(self, session: FlaskSession) -> bool:
        """The same without asking the store."""
        if not self._autoload and self.keeper.asks_store(session._environ["HTTP_COOKIE"]):
            return False
        return super()._may_renew(session)

    async def _save(self, session: QuartSession, headers: Headers) -> None:
        inner = session._session
        lines: Sequence[str] = ()
        try:
            if session._logout is not None:
                await session._logout
            if inner.accessed:
                lines = await self.asynchronous.save(inner, **self._options(session, headers))
        finally:
            add_session_headers(self.keeper, inner, headers, lines, session._environ, self.binding)
        vars(session)["_lines"] = lines

    async def _accept(
        self, session: QuartSession, accept: Any, headers: Headers, subprotocol: str | None
    ) -> None:
        """Accept a websocket, with the cookies of its session if it was not accepted yet.

        Each send and receive calls this, also of several tasks at once.
        """
        environ, inner = session._environ, session._session
        async with environ["quart.accepting"]:
            if not environ.get("quart.is_sent"):
                await self._save(session, headers)
                environ["quart.is_sent"] = True
                # Reading stays possible: no cache keeps what comes after the headers.
                if self._autoload or inner.accessed:
                    inner.load()
                inner.mark_headers_sent()
            await accept(headers, subprotocol)

    async def _close(self, session: QuartSession, close: Any, *reason: Any) -> None:
        """Close a websocket, whose logout is recorded before if it was not accepted."""
        await self._leave_unsent(session)
        await close(*reason)

    async def _leave_unsent(self, session: QuartSession) -> None:
        environ, inner = session._environ, session._session
        async with environ["quart.accepting"]:
            if inner.accessed and not environ.get("quart.is_sent"):
                if session._logout is not None:
                    await session._logout
                await self.asynchronous.close_unsent(inner)
                environ["quart.is_sent"] = True
                inner.mark_headers_sent()


async def load_session(*parts: str) -> QuartSession:
    """Ask the store for the session, if that was not done, and for stored `parts`; and return it.

    Needed before the first use with ``autoload=False``, and for parts of the policy ``server``.
    """
    found = current_session._get_current_object()  # type: ignore[attr-defined]
    if not isinstance(found, QuartSession):
        raise UsageError("there is no sealed session in this application; call SealedSessions(app)")
    await found._interface.asynchronous.load(found._session, parts)
    return found


def _is_file(response: _Response) -> bool:
    return type(getattr(response, "response", None)).__name__ in ("FileBody", "IOBody")
