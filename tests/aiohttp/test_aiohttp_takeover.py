"""Sessions that aiohttp-session has stored are taken over."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")
pytest.importorskip("aiohttp_session", reason="not installed: aiohttp_session")
pytest.importorskip("cryptography", reason="not installed: cryptography")

import aiohttp_session
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.nacl_storage import NaClCookieStorage
from cryptography.fernet import Fernet

from sealedstate import Key, LegacyReader, Settings
from sealedstate.keyring import export_lookup
from sealedstate_aiohttp import KEEPER, get_session, setup

UNTIL = datetime(2999, 1, 1, tzinfo=UTC)


async def login(request: web.Request) -> web.Response:
    (await aiohttp_session.get_session(request)).update(user="ann", cart=["tea"])
    return web.Response()


async def show(request: web.Request) -> web.Response:
    session = await get_session(request)
    return web.json_response([session.subject, dict(session)])


async def logout(request: web.Request) -> web.Response:
    (await get_session(request)).invalidate()
    return web.Response()


async def old_cookie(storage: Any) -> str:
    app = web.Application()
    aiohttp_session.setup(app, storage)
    app.router.add_get("/", login)
    async with TestClient(TestServer(app)) as client, client.get("/") as response:
        return response.headers["Set-Cookie"].partition(";")[0]


@pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
@pytest.mark.parametrize("max_age", [None, 3600])
@pytest.mark.parametrize("kind", ["text", "bytes", "nacl"])
def test_nobody_is_signed_out_by_the_move(tmp_path: Path, kind: str, max_age: int | None) -> None:
    secret: Any = Fernet.generate_key().decode() if kind == "text" else os.urandom(32)
    is_nacl = kind == "nacl"
    storage = (NaClCookieStorage if is_nacl else EncryptedCookieStorage)(secret, max_age=max_age)
    reader = LegacyReader(
        "aiohttp-nacl" if is_nacl else "aiohttp-fernet",
        secret,
        UNTIL,
        max_age=max_age,
        subject="user",
    )
    settings = Settings(
        keys=[Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        storage=f"sqlite:{tmp_path / 'store.db'}",
        secure=False,
        legacy=reader,
    )
    values = ["ann", {"user": "ann", "cart": ["tea"]}]

    async def move() -> None:
        headers = {"Cookie": await old_cookie(storage)}
        app = web.Application()
        setup(app, settings)
        app.add_routes([web.get("/show", show), web.get("/logout", logout)])
        async with TestClient(TestServer(app)) as client:
            async with client.get("/show", headers=headers) as response:
                assert await response.json() == values
                ours, deletion = response.headers.getall("Set-Cookie")
                assert deletion.startswith("AIOHTTP_SESSION=; Max-Age=0; Path=/")
            async with client.get("/show", headers={"Cookie": ours.partition(";")[0]}) as response:
                assert await response.json() == values
            assert app[KEEPER].keeper.counts["adopted"] == 1
            await client.get("/logout", headers={"Cookie": ours.partition(";")[0]})
            client.session.cookie_jar.clear()
            async with client.get("/show", headers=headers) as response:
                assert await response.json() == [None, {}]

    asyncio.run(move())
