"""A pytest plugin: aiohttp-session's tests of its cookie storages get sealed sessions.

The tests write the cookies of requests themselves, and read those of responses. So the cookies are
translated at the application's border, between the storage's form and the sealed one; the session
and when it is saved are those of `sealedstate_aiohttp`.
"""

from __future__ import annotations

import contextlib
import os
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any

import aiohttp_session
from aiohttp import web
from multidict import CIMultiDict

from sealedstate import Keeper, Key, Settings
from sealedstate.asynchronous import AsyncKeeper
from sealedstate_aiohttp import RequestSession, _session, get_session, new_session

NAME = "AIOHTTP_SESSION"
KEY = Key.generate(os.urandom).export()
MODULE: Any = aiohttp_session
Storage: Any = aiohttp_session.AbstractStorage
ForeignSession: Any = aiohttp_session.Session


# The pairs of sealed cookies by the storage's values that the browser got for them.
SEALED: dict[str, str] = {}


def keeper_of(foreign: Any, **others: Any) -> Keeper:
    idle = foreign.max_age or 3600
    return Keeper(Settings(keys=KEY, cookie_name=NAME, secure=False, idle_lifetime=idle, **others))


async def seal_foreign(storage: Any, request: web.Request) -> str | None:
    """The pair of a sealed cookie for the request's cookie of the storage."""
    if (pair := SEALED.get(storage.load_cookie(request))) is not None:
        return pair
    with contextlib.suppress(Exception):  # a test may have written it
        found = await storage.load_session(request)
        keeper = keeper_of(storage, clock=lambda: found.created)
        session = keeper.session()
        session.update(found)
        return keeper.save(session)[0].partition(";")[0]
    return None


async def write_foreign(storage: Any, request: Any, keeper: Keeper, line: str) -> str:
    """The storage's line for the session of a sealed cookie."""
    pair = line.partition(";")[0]
    session = ForeignSession(None, data=None, new=True)
    session.update(dict(keeper.session(pair)))
    response = web.Response()
    await storage.save_session(request, response, session)
    cookie = response.cookies[NAME]
    SEALED[cookie.value] = pair
    return cookie.OutputString()


def session_middleware(storage: Any) -> Any:
    """aiohttp-session's function, of the same name."""
    if not isinstance(storage, Storage):
        raise RuntimeError(f"expected a storage, got {storage}")
    stored = {"storage": "memory:", "accept_weak_store_for": ["revocation"]}
    keeper = AsyncKeeper(keeper_of(storage, **stored))

    @web.middleware
    async def run(request: web.Request, handler: Any) -> web.StreamResponse:
        headers = CIMultiDict(request.headers)
        headers.popall("Cookie", None)
        if (pair := await seal_foreign(storage, request)) is not None:
            headers["Cookie"] = pair
        stand_in: Any = SimpleNamespace(headers=headers, method=request.method)
        found = RequestSession(stand_in, keeper)
        vars(found)["_request"] = request
        _session._state_of(request).session = found

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            if not isinstance(response, web.StreamResponse):
                raise RuntimeError("aiohttp takes nothing but a response")
            return response

        try:
            response = await _session._save_last(request, handle)
        except web.HTTPException as error:
            await translate(request, error)
            raise
        await translate(request, response)
        return response

    async def translate(request: web.Request, response: web.StreamResponse) -> None:
        await _session._respond(None, request, response)
        for line in response.headers.popall("Set-Cookie", ()):
            if line.startswith(f"{NAME}="):
                line = await write_foreign(storage, request, keeper.keeper, line)
            cookie = SimpleCookie(line)
            response.headers.add("Set-Cookie", next(iter(cookie.values())).OutputString())

    return run


RequestSession._changed = property(lambda self: self._session.changes().is_modified)  # type: ignore[attr-defined]
ForeignSession.register(RequestSession)
MODULE.session_middleware = session_middleware
MODULE.get_session, MODULE.new_session = get_session, new_session
