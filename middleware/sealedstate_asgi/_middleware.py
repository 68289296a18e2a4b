"""The middleware: a session for each request and websocket, saved when its headers are sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from sealedstate import ConfigurationError, Deployment, Keeper, Settings
from sealedstate.adapting import open_keeper
from sealedstate.asynchronous import AsyncKeeper
from sealedstate.binding import SessionBinding, open_binding
from sealedstate.errors import show_value
from sealedstate.headers import cookie_header, set_cookie_bytes, with_raw_session
from sealedstate.settings import MAX_LIFETIME, refuse_unknown, setting_names

from ._session import SESSIONS, Scope, ScopeSession

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# The messages whose headers carry the cookies.
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_SHUT_DOWN = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})
_UNSET: Final[Any] = object()
# Starlette's names of settings.
_STARLETTE = {
    "session_cookie": "cookie_name",
    "path": "cookie_path",
    "domain": "cookie_domain",
    "https_only": "secure",
}
# The other keywords of the middleware.
_OWN = ("autoload", "max_age", "scope_key", "settings", "threads")
_SAME_SITE = {"lax": "Lax", "strict": "Strict", "none": "None"}


class SealedSessionMiddleware:
    """Gives `app` a sealed session in ``scope["session"]``.

    `settings`: Settings, or a Deployment, Keeper or AsyncKeeper that several share; by default,
    variables SEALEDSTATE_ of the environment and `others`, names of Settings such as `keys`.
    `session_cookie`, `path`, `domain`, `same_site`, `https_only` and `partitioned` are those of
    Starlette, with the defaults of Settings. With a `max_age` the cookie outlives the browser's
    window, and the session ends as many seconds after the last visit; None: with the window.

    `autoload`: whether the store is asked before the application runs, if there is a store and the
    request has our cookie; or a function of the scope that says so. Otherwise the application
    awaits `load_session`. `threads`: as of AsyncKeeper. `scope_key`: where the session is.

    An exception of `app` before its response starts leaves the cookies as they are. SessionTooLarge
    and StorageError while saving are raised in `app`, where it sends the start of its response, and
    what it sends then carries none of our cookies. Raises ConfigurationError.
    """

    def __init__(
        self,
        app: ASGIApp,
        /,
        settings: Settings | Deployment | Keeper | AsyncKeeper | None = None,
        *,
        session_cookie: str = _UNSET,
        max_age: int | None = _UNSET,
        path: str = _UNSET,
        same_site: str = _UNSET,
        https_only: bool = _UNSET,
        domain: str | None = _UNSET,
        partitioned: bool = _UNSET,
        autoload: bool | Callable[[Scope], bool] = True,
        threads: int = 32,
        scope_key: str = "session",
        **others: Any,
    ) -> None:
        given = {
            "session_cookie": session_cookie,
            "path": path,
            "same_site": same_site,
            "https_only": https_only,
            "domain": domain,
            "partitioned": partitioned,
        }
        given = {name: value for name, value in given.items() if value is not _UNSET}
        if "secret_key" in others:
            raise ConfigurationError(
                "secret_key: no key is made of it; set keys. Sessions that Starlette has signed are"
                ' read with legacy=LegacyReader("starlette", secret_key, until)'
            )
        refuse_unknown(others, {*setting_names(), *given, *_STARLETTE, *_OWN})
        _check_names(others, given, max_age)
        check_autoload(autoload)
        if not isinstance(scope_key, str) or not scope_key:
            raise ConfigurationError(
                f"scope_key: expected a text such as 'session', got {show_value(scope_key)}"
            )
        keywords = others | {_STARLETTE.get(name, name): value for name, value in given.items()}
        if "same_site" in keywords:
            keywords["same_site"] = _SAME_SITE.get(same_site, same_site)
        self._has_opened = settings is None or isinstance(settings, Settings)
        if max_age is not _UNSET:
            keywords["persistent"] = max_age is not None
        if max_age is not _UNSET and max_age is not None:
            keywords["idle_lifetime"] = max_age
            before = settings.absolute_lifetime if isinstance(settings, Settings) else 12 * 3600
            keywords.setdefault("absolute_lifetime", max(max_age, before))
        if isinstance(settings, AsyncKeeper):
            open_keeper(settings.keeper, keywords, os.environ)
            self.keeper = settings
        else:
            self.keeper = AsyncKeeper(open_keeper(settings, keywords, os.environ), threads)
        self._open = (self.keeper if self.keeper.can_wait else self.keeper.keeper).session
        self.app, self._binding = app, open_binding(self.keeper.keeper)
        self._autoload = autoload
        self._scope_key = scope_key
        self._has_origins = bool(self.keeper.keeper.settings.origins)
        self._is_stack_checked = False
        # From 1.0 on, Starlette notes when an application looks at `request.session`.
        version = getattr(sys.modules.get("starlette"), "__version__", "0")
        self._is_access_noted = int(version.partition(".")[0]) >= 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            if kind == "lifespan" and self._has_opened:
                send = self._closing(send)
            await self.app(scope, receive, send)
            return
        sessions = scope.setdefault(SESSIONS, {})
        if not self._is_stack_checked:
            self._check_stack(sessions)
        if self._scope_key in sessions:  # an application around has the same keeper
            await self.app(scope, receive, send)
            return
        keeper, headers = self.keeper, list(scope["headers"])
        fields: dict[bytes, bytes] = dict(headers)
        cookies = fields.get(b"cookie", b"")
        # Without two fields of a name, this is the only one.
        has_one = len(fields) == len(headers)
        header = cookies.decode("latin-1") if has_one else cookie_header(headers)
        site = fields.get(b"sec-fetch-site")
        may_be_cross = site == b"cross-site" or (self._has_origins and b"origin" in fields)
        session = self._open(header, may_be_cross and self._is_cross_site(scope, fields))
        found = ScopeSession(keeper, session, scope, self._scope_key)
        sessions[self._scope_key] = found
        if not (keeper.can_wait and keeper.keeper.asks_store(header)):
            is_empty = not (header and keeper.keeper.may_bring_session(header))
            found.begin(is_empty, is_filled=not self._is_access_noted)
        elif self._autoload(scope) if callable(self._autoload) else self._autoload:
            await keeper.load(session)
            found.begin(False, is_filled=not self._is_access_noted)
        access, is_saved, binding = found.access, False, self._binding

        async def send_saved(message: Message) -> None:
            nonlocal is_saved
            if message["type"] in _STARTS:
                if access.is_used or found.shows_parts:
                    sent, lines = message.get("headers", ()), list[str]()
                    if access.is_used and not is_saved:
                        is_saved = True  # not tried again for the page that reports an error
                        lines = await found.save(set_cookie_bytes(sent))
                    message = {**message, "headers": with_raw_session(sent, lines)}
                    if lines:
                        scheme = "http" if scope.get("scheme") in ("http", "ws") else "https"
                        host = fields.get(b"host", b"").decode("latin-1")
                        keeper.keeper.note_scheme(scheme, host)
                        if binding is not None and kind == "http":
                            message["headers"] += _encode_fields(binding.offer(found.session))
                found.mark_headers_sent()
            elif message["type"] == "websocket.close":
                await found.close_unsent()
            await send(message)

        try:
            if binding is not None and kind == "http" and binding.is_for(scope["path"]):
                await _answer_binding(binding, found, scope, send_saved)
            else:
                await self.app(scope, receive, send_saved)
            if kind == "websocket":
                await found.close_unsent()
        finally:
            if access.is_used:
                found.log_late_changes()

    def _is_cross_site(self, scope: Scope, fields: Mapping[bytes, bytes]) -> bool:
        site, origin = fields.get(b"sec-fetch-site"), fields.get(b"origin")
        # Browsers hold Lax cookies back from a websocket, which is no navigation.
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        texts = [None if value is None else value.decode("latin-1") for value in (site, origin)]
        return self.keeper.keeper.is_cross_site(method, *texts)

    def _closing(self, send: Send) -> Send:
        """`send`, before whose last message the store is closed."""

        async def send_closed(message: Message) -> None:
            if message["type"] in _SHUT_DOWN:
                await self.keeper.close()
            await send(message)

        return send_closed

    def _check_stack(self, sessions: Mapping[str, ScopeSession]) -> None:
        """Raise ConfigurationError if this middleware and one around it would be confused.

        Checked at the first request, because other middlewares may be between the two.
        """
        cookies = self.keeper.keeper.deployment.cookies
        for key, other in sessions.items():
            if other.keeper.keeper is self.keeper.keeper and key == self._scope_key:
                continue
            if cookies.overlaps(other.keeper.keeper.deployment.cookies):
                raise ConfigurationError(
                    f"cookie_name: two sessions of one request have the cookie {cookies.name!r};"
                    " give each its own cookie_name"
                )
            if key == self._scope_key:
                raise ConfigurationError(
                    f"scope_key: two sessions of one request are in scope[{key!r}]; give each"
                    " middleware its own scope_key"
                )
        self._is_stack_checked = True


async def _answer_binding(
    binding: SessionBinding, found: ScopeSession, scope: Scope, send: Send
) -> None:
    """Answer a browser that binds its session."""
    await found.load()
    texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    answer = await found.keeper.in_thread(
        binding.answer, found.use(), scope["method"], scope["path"], texts.get
    )
    start = {"type": "http.response.start", "status": answer.status}
    await send(start | {"headers": _encode_fields(answer.headers)})
    await send({"type": "http.response.body", "body": answer.body})


def _encode_fields(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields]


def check_autoload(autoload: object) -> None:
    """Raise ConfigurationError for neither a bool nor a function."""
    if not isinstance(autoload, bool) and not callable(autoload):
        raise ConfigurationError(
            f"autoload: expected True, False or a function of the scope, got {show_value(autoload)}"
        )


def _check_names(others: Mapping[str, Any], given: Mapping[str, Any], max_age: Any) -> None:
    """Raise ConfigurationError for a setting that is given under two names, and for a bad age."""
    for name, setting in _STARLETTE.items():
        if name in given and setting in others:
            raise ConfigurationError(f"{name}: is the setting {setting}, too; give one of them")
    if max_age is _UNSET:
        return
    for setting in ("idle_lifetime", "persistent"):
        if setting in others:
            raise ConfigurationError(f"max_age: sets {setting}, too; give one of them")
    is_whole = type(max_age) is int and 1 <= max_age <= MAX_LIFETIME
    if max_age is not None and not is_whole:
        raise ConfigurationError(
            f"max_age: must be 1 to {MAX_LIFETIME} whole seconds, or None for the browser's window;"
            f" got {show_value(max_age)}"
        )
