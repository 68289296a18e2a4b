"""The session of a request, saved when the headers of its response are sent."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from sealedstate import Deployment, Keeper, Settings, UsageError
from sealedstate.adapting import SessionFace, add_session_headers, log_late_changes, open_keeper
from sealedstate.asynchronous import AsyncKeeper, Logout
from sealedstate.binding import SessionBinding, open_binding
from sealedstate.headers import set_cookie_bytes

log = logging.getLogger("sealedstate.aiohttp")

# Where an application has its keeper, for `await app[KEEPER].revoke_subject(user)`.
KEEPER = web.AppKey("KEEPER", AsyncKeeper)


class _State:
    session: RequestSession | None = None
    are_headers_made: bool = False


_STATE: Any = "sealedstate.state"
if hasattr(web, "RequestKey"):  # aiohttp 3.14 warns of texts
    _STATE = web.RequestKey("sealedstate", _State)


def setup(
    app: web.Application,
    settings: Settings | Deployment | Keeper | None = None,
    *,
    threads: int = 32,
    **others: Any,
) -> AsyncKeeper:
    """Give `app` and its sub-applications sealed sessions, and return their keeper.

    `settings`: Settings, or a Keeper or Deployment that several share; by default, variables
    SEALEDSTATE_ of the environment and `others`, names of Settings such as `keys`. `threads`: as of
    AsyncKeeper. Middlewares that `app` already has can answer what a save raises. Raises
    ConfigurationError.
    """
    is_opened_here = settings is None or isinstance(settings, Settings)
    keeper = app[KEEPER] = AsyncKeeper(open_keeper(settings, others, os.environ), threads)
    if app.middlewares:
        app.middlewares.append(_save_early)
    if (binding := open_binding(keeper.keeper)) is not None:
        app.middlewares.insert(0, web.middleware(partial(_bind, binding, keeper)))
    app.middlewares.insert(0, _save_last)
    app.on_response_prepare.append(partial(_respond, binding))
    if is_opened_here:
        app.on_cleanup.append(lambda _: keeper.close())
    return keeper


async def get_session(request: web.Request, *parts: str) -> RequestSession:
    """The session of a request; asks the store, if there is one and the request has our cookie.

    `parts`: those of the policy ``server`` that are needed. Raises UsageError without `setup`.
    """
    state = _state_of(request)
    found = state.session
    if found is None:
        keeper = request.config_dict.get(KEEPER)
        if keeper is None:
            raise UsageError("there is no sealed session in this application; call setup(app)")
        found = state.session = RequestSession(request, keeper)
        if state.are_headers_made:
            found._session.mark_headers_sent()
    await found._keeper.load(found._session, parts)
    return found


async def new_session(request: web.Request) -> RequestSession:
    """The session of a request, after a logout: for the user who signs in now."""
    session = await get_session(request)
    await session.invalidate()
    return session


class RequestSession(SessionFace):
    """The mapping that `get_session` returns: aiohttp-session's names, and those of SessionFace."""

    _keeper: AsyncKeeper
    _logout: Logout | None = None

    def __init__(self, request: web.Request, keeper: AsyncKeeper) -> None:
        headers = request.headers
        # aiohttp has read the bytes as UTF-8, and HTTP clients may send several fields.
        cookies = "; ".join(headers.getall("Cookie", ())).encode("utf-8", "surrogateescape")
        is_socket = headers.get("Upgrade", "").lower() == "websocket"
        # Browsers hold Lax cookies back from a websocket, which is no navigation.
        method = "WEBSOCKET" if is_socket else request.method
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        cross_site = keeper.keeper.is_cross_site(method, site, origin)
        super().__init__(keeper.session(cookies.decode("latin-1"), cross_site))
        vars(self)["_keeper"] = keeper

    @property
    def identity(self) -> str | None:
        """The session's id; None for a new one."""
        return None if self._session.is_new else self._session.id

    @property
    def created(self) -> int:
        """When it began or was signed in (epoch seconds)."""
        created = self._session.created_at
        return int(self._keeper.keeper.deployment.now()) if created is None else created

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self._session

    @property
    def max_age(self) -> int | None:
        """None if its cookie ends with the browser's window; else when it ends, unused (seconds).

        Assigned, it is a limit of this session, within the setting longest_lifetime.
        """
        session, settings = self._session, self._keeper.keeper.settings
        persistent = session.persistent
        if not (settings.persistent if persistent is None else persistent):
            return None
        return session.idle_limit or settings.idle_lifetime

    @max_age.setter
    def max_age(self, seconds: int | None) -> None:
        self._session.limit(persistent=seconds is not None, idle=seconds)

    def changed(self) -> None:
        """aiohttp-session's sign of a change inside a value; such changes are found anyway."""
        self._session.load()

    def invalidate(self) -> Awaitable[None]:
        """Log out. The session is empty at once, and may be used as a new one.

        The end is recorded in the store when this is awaited, or before the response is sent. If it
        cannot be, that raises StorageError, NoPrimaryKey or SessionWithheld.
        """
        logout = vars(self)["_logout"] = Logout(self._keeper, self._session)
        return logout

    async def _save(self, request: web.Request, response: web.StreamResponse) -> Sequence[str]:
        """The lines for a response."""
        if not _state_of(request).are_headers_made and self._begin_save():
            if self._logout is not None:
                await self._logout
            fields = list(response.headers.items())
            if not response.prepared:  # otherwise these are among the fields
                cookies = response.cookies.values()
                fields += [("Set-Cookie", each.OutputString()) for each in cookies]
            self._end_save(await self._keeper.save(self._session, set_cookie_bytes(fields)))
        return self._lines or ()


@web.middleware
async def _save_early(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Save with a response that is not sent yet, so that what a save raises can be answered."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if (found := _state_of(request).session) is not None:
            await found._save(request, error)
        raise
    found = _state_of(request).session
    if found is not None and not response.prepared:
        await found._save(request, response)
    return response


@web.middleware
async def _save_last(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The same around all middlewares; what they raise, unless it is a response, saves nothing."""
    state = _state_of(request)  # clones of the request share it
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if state.session is not None:
            await state.session._save(request, error)
        raise
    except Exception:
        if state.session is not None:
            vars(state.session)["_is_failed"] = True
        raise
    if (found := state.session) is not None:
        if not response.prepared:
            await found._save(request, response)
        elif found._session.accessed:
            log_late_changes(log, found._session)
    return response


async def _bind(
    binding: SessionBinding, keeper: AsyncKeeper, request: web.Request, handler: Handler
) -> web.StreamResponse:
    """Answer browsers that bind their sessions."""
    if not binding.is_for(request.path):
        return await handler(request)
    session = (await get_session(request))._session
    session.load()
    answer = await keeper.in_thread(
        binding.answer, session, request.method, request.path, request.headers.get
    )
    return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


async def _respond(
    binding: SessionBinding | None, request: web.Request, response: web.StreamResponse
) -> None:
    """Give the headers of any response what they owe to the session, which is saved until then."""
    state = _state_of(request)
    if state.are_headers_made:
        return
    found = state.session
    if found is not None:
        session, keeper = found._session, found._keeper.keeper
        environ = {"wsgi.url_scheme": request.scheme, "HTTP_HOST": request.headers.get("Host", "")}
        lines: Sequence[str] = ()
        try:
            lines = await found._save(request, response)
        finally:
            add_session_headers(keeper, session, response.headers, lines, environ, binding)
        if isinstance(response, web.WebSocketResponse):
            session.load()  # reading stays possible: no cache keeps a conversation
        session.mark_headers_sent()
    state.are_headers_made = True


def _state_of(request: web.Request) -> _State:
    try:
        state: _State = request[_STATE]
    except KeyError:
        state = request[_STATE] = _State()
    return state
