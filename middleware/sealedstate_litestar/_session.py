"""Litestar's session configuration and backend over the ASGI middleware."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import msgspec
from litestar import asgi
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.middleware.base import DefineMiddleware
from litestar.middleware.session.base import (
    BaseBackendConfig,
    BaseSessionBackend,
    SessionMiddleware,
)
from litestar.types import ASGIApp, Empty, Message, Scope, Scopes
from litestar.utils import get_serializer_from_scope
from litestar.utils.scope.state import ScopeState

import sealedstate_asgi
from sealedstate import (
    ConfigurationError,
    Deployment,
    Keeper,
    LateRead,
    LateWrite,
    Settings,
)
from sealedstate.adapting import SessionDict
from sealedstate.asynchronous import AsyncKeeper, SealedSession
from sealedstate.binding import open_binding
from sealedstate.headers import set_cookie_bytes, with_raw_session
from sealedstate_asgi import SealedSessionMiddleware
from sealedstate_asgi._middleware import check_autoload
from sealedstate_asgi._session import UnloadedSession

log = logging.getLogger("sealedstate.litestar")

# Litestar's names of settings -> those of the ASGI middleware.
_LITESTAR = {"key": "session_cookie", "samesite": "same_site", "secure": "https_only"}
# What a session carries as it is; anything else in a model becomes what its encoder makes of it.
_KEPT = (bytes, date, datetime, timedelta, Decimal, UUID)


class SealedSessionBackend(BaseSessionBackend["SealedSessionConfig"]):
    """Reads and writes the session of a connection outside a request, as test clients do."""

    def get_session_id(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
        """None: the id of a session is ``sealed(request).id``."""
        return None

    async def load_from_connection(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> dict[str, Any]:
        """A dict of the session's parts."""
        found = await self._open(connection)
        return dict(found.parts)

    async def store_in_message(
        self, scope_session: Any, message: Message, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> None:
        """Give `message` the cookies of the connection's session, with these parts."""
        found = await self._open(connection)
        await _replace(found, scope_session, connection.scope)
        fields = cast("dict[str, Any]", message)["headers"]
        fields[:] = with_raw_session(fields, await found.save(set_cookie_bytes(fields)))

    async def _open(self, connection: ASGIConnection[Any, Any, Any, Any]) -> SealedSession:
        keeper = self.config.keeper
        # Test clients make connections that have cookies but no header.
        pairs = (f"{name}={value}" for name, value in connection.cookies.items())
        session = keeper.session("; ".join(pairs))
        found = SealedSession(keeper, session)
        await found.load(*keeper.keeper.deployment.policies)
        return found


class SealedSessionConfig(BaseBackendConfig[SealedSessionBackend]):
    """Configures sealed sessions; `middleware` or `on_app_init` gives them to an application.

    `settings`, `others`, `autoload` and `threads` are those of
    `sealedstate_asgi.SealedSessionMiddleware`, and `others` also takes Litestar's names `key`,
    `max_age`, `path`, `domain`, `secure` and `samesite`. `exclude`, `exclude_opt_key` and `scopes`
    are as in Litestar. `keeper`: the AsyncKeeper of all routes. Raises ConfigurationError.
    """

    _backend_class = SealedSessionBackend
    httponly = True

    def __init__(
        self,
        settings: Settings | Deployment | Keeper | AsyncKeeper | None = None,
        *,
        exclude: str | list[str] | None = None,
        exclude_opt_key: str = "skip_session",
        scopes: Scopes | None = None,
        autoload: bool | Callable[[Scope], bool] = True,
        threads: int = 32,
        **others: Any,
    ) -> None:
        if "secret" in others:
            raise ConfigurationError("secret: no key is made of it; set keys")
        if not others.pop("httponly", True):
            raise ConfigurationError(
                "httponly: a sealed session is always HttpOnly; no script can read it"
            )
        check_autoload(autoload)
        for name, another in _LITESTAR.items():
            if name in others and another in others:
                raise ConfigurationError(f"{name}: is {another}, too; give one of them")
        given = {_LITESTAR.get(name, name): value for name, value in others.items()}
        made = SealedSessionMiddleware(_nowhere, settings, threads=threads, **given)
        self.keeper, self._has_opened = made.keeper, made._has_opened
        self.exclude, self.exclude_opt_key = exclude, exclude_opt_key
        self.scopes = scopes or {ScopeType.HTTP, ScopeType.WEBSOCKET}
        self.autoload = autoload
        values, cookies = self.keeper.keeper.settings, self.keeper.keeper.deployment.cookies
        self.key, self.path, self.domain = cookies.name, cookies.path, cookies.domain
        self.secure, self.max_age = values.secure, values.idle_lifetime
        self.samesite = cast("Any", values.same_site.lower())

    @property
    def middleware(self) -> DefineMiddleware:
        """The middleware, for one of the application's layers."""
        return DefineMiddleware(_Middleware, backend=SealedSessionBackend(self))

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Give an application the middleware, and close its stores when it shuts down."""
        app_config.middleware = [self.middleware, *app_config.middleware]
        if (binding := open_binding(self.keeper.keeper)) is not None:
            # Without a route its middleware is not called, which answers.
            paths = [f"{binding.path}/register", f"{binding.path}/refresh"]
            route = asgi(paths, opt={"exclude_from_csrf": True}, copy_scope=True)(_leave)
            app_config.route_handlers = [*app_config.route_handlers, route]
        if self._has_opened:
            app_config.on_shutdown = [*app_config.on_shutdown, self.keeper.close]
        return app_config


class _Middleware(SessionMiddleware[SealedSessionBackend]):
    """The ASGI middleware, with Litestar's exclusions and its ways to replace a session.

    Each route has one. All have the keeper of their configuration.
    """

    def __init__(self, app: ASGIApp, backend: SealedSessionBackend) -> None:
        super().__init__(app, backend)
        self._app: Any = app
        config, autoload = backend.config, cast("Any", backend.config.autoload)
        self._sessions = SealedSessionMiddleware(self._run, config.keeper, autoload=autoload)

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return self._sessions(scope, receive, send)

    async def _run(self, scope: Any, receive: Any, send: Any) -> None:
        """The application. What it put in place of the session's dict is saved in its place."""
        is_started = False

        async def send_replaced(message: Any) -> None:
            nonlocal is_started
            ends = (".start", ".accept") if is_started else (".start", ".accept", ".close")
            if not message["type"].endswith(ends):
                await send(message)
                return
            is_started = True
            try:
                if _is_replaced(scope):
                    await _follow(scope)
                await send(message)
            except Exception:
                # Otherwise Litestar would make no page of this error.
                ScopeState.from_scope(scope).response_started = False
                raise

        if isinstance(parts := scope.get("session"), SessionDict) and not parts.is_filled:
            parts.fill()  # msgspec encodes it without calling a method
        await self._app(scope, receive, send_replaced)
        try:
            if _is_replaced(scope):
                await _follow(scope)
        except (LateRead, LateWrite):
            log.error("cleared or replaced after the response headers were sent, and lost")


def sealed(connection: Any, key: str = "session") -> SealedSession:
    """As `sealedstate_asgi.sealed`. After `clear_session` it is the new session."""
    found = sealedstate_asgi.sealed(connection, key)
    scope = connection if isinstance(connection, Mapping) else connection.scope
    if scope.get(key) is Empty:
        found.begin_logout()
        cast("Any", scope)[key] = found.parts
    return found


async def load_session(connection: Any, *parts: str, key: str = "session") -> SealedSession:
    """As `sealedstate_asgi.load_session`, also after `clear_session`."""
    scope = connection if isinstance(connection, Mapping) else connection.scope
    is_cleared = scope.get(key) is Empty
    found = await sealedstate_asgi.load_session(connection, *parts, key=key)
    if is_cleared:
        found.begin_logout()
    return found


def _is_replaced(scope: Any) -> bool:
    """Whether the application put something in place of the session's dict."""
    return not isinstance(scope.get("session"), (SessionDict, UnloadedSession))


async def _follow(scope: Any) -> None:
    """Let the session have what the application put in place of its dict."""
    value, found = scope.get("session"), sealedstate_asgi.sealed(scope)
    await found.load()
    scope["session"] = found.parts  # also for the page of an error
    await _replace(found, value, scope)


async def _replace(found: SealedSession, value: Any, scope: Scope) -> None:
    """Log out for Empty or nothing; otherwise let the session have the parts of `value`."""
    if value is Empty or value is None:
        await found.invalidate()
        return
    if not isinstance(value, Mapping):
        encode = get_serializer_from_scope(scope)
        value = msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=encode)
    if not isinstance(value, Mapping):
        raise TypeError(f"set_session: expected a mapping or a model, got {type(value).__name__}")
    before = dict(found.parts)
    try:
        _assign(found, value)
    except Exception:
        _assign(found, before)
        raise


def _assign(found: SealedSession, values: Mapping[str, Any]) -> None:
    for name in [name for name in found.session if name not in values]:
        del found.parts[name]
    for name, value in values.items():
        # The user who is signed in is not signed in again.
        if value != found.subject or found.parts.get(name) != value:
            found.parts[name] = value


async def _leave(scope: Any, receive: Any, send: Any) -> None:
    """The route of the binding, which the middleware around it answers."""


async def _nowhere(*_: Any) -> None:
    """An application that is not there: the first middleware only reads the settings."""
