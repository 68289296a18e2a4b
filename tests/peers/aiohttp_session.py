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


def keeper_of(storage: Any, **others: Any) -> Keeper:
    idle = storage.max_age or 3600
    return Keeper(Settings(keys=KEY, cookie_name=NAME, secure=False, idle_lifetime=idle, **others))


async def read_foreign(storage: Any, request: web.Request) -> tuple[dict[str, Any], int]:
    """The session of a cookie of the storage, and when it was written."""
    with contextlib.suppress(Exception):
        found = await storage.load_session(request)
        return dict(found), found.created
    return {}, 0


async def write_foreign(storage: Any, request: Any, keeper: Keeper, line: str) -> str:
    """The storage's line for the session of a sealed cookie."""
    pair = line.partition(";")[0]
    session = ForeignSession(None, data=None, new=True)
    session.update(dict(keeper.session(pair)))
    response = web.Response()
    await storage.save_session(request, response, session)
    return response.cookies[NAME].OutputString()


def session_middleware(storage: Any) -> Any:
    """aiohttp-session's function, of the same name."""
    if not isinstance(storage, Storage):
        raise RuntimeError(f"expected a storage, got {storage}")
    keeper = AsyncKeeper(keeper_of(storage))

    @web.middleware
    async def run(request: web.Request, handler: Any) -> web.StreamResponse:
        values, created = await read_foreign(storage, request)
        headers = CIMultiDict(request.headers)
        headers.popall("Cookie", None)
        if values:
            before = keeper_of(storage, clock=lambda: created)
            session = before.session()
            session.update(values)
            headers["Cookie"] = before.save(session)[0].partition(";")[0]
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
            response = await _session._save_response(request, handle)
        except web.HTTPException as error:
            await translate(request, error)
            raise
        await translate(request, response)
        return response

    async def translate(request: web.Request, response: web.StreamResponse) -> None:
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
