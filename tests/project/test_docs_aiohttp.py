"""docs/aiohttp.md: its application works as the text says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from sealedstate.cli import main
from sealedstate_aiohttp import KEEPER, RequestSession, setup
from tests.support.documents import Document

DOCUMENT = Document("aiohttp.md")


async def converse(app: Any) -> None:
    client: TestClient[Any, Any] = TestClient(TestServer(app))
    another: TestClient[Any, Any] = TestClient(client.server)
    async with client, another:
        for each in (client, another):
            await each.post("/login", data={"name": "jdoe"}, allow_redirects=False)
        assert await (await client.get("/")).json() == {"user": "jdoe", "visits": 1}
        async with client.ws_connect("/chat") as socket:
            assert (await socket.receive_json())["chats"] == 1
        captured = {each.key: each.value for each in client.session.cookie_jar}
        await client.post("/logout", allow_redirects=False)
        client.session.cookie_jar.update_cookies(captured)
        assert await (await client.get("/")).json() == {"user": None, "visits": 1}
        await client.post("/login", data={"name": "jdoe"}, allow_redirects=False)
        await client.post("/logout-everywhere", allow_redirects=False)
        assert await (await another.get("/")).json() == {"user": None, "visits": 1}


def test_documented_application_and_its_test_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    names: dict[str, Any] = {}
    source = DOCUMENT.block("app").replace('keys="file', 'secure=False, keys="file')
    exec(compile(source, "aiohttp.md", "exec"), names)
    exec(compile(DOCUMENT.block("test"), "aiohttp.md", "exec"), names)
    asyncio.run(names["test_visits"]())
    asyncio.run(converse(names["app"]))


async def end_devices(app: Any) -> None:
    one: TestClient[Any, Any] = TestClient(TestServer(app))
    other: TestClient[Any, Any] = TestClient(one.server)
    async with one, other:
        for each in (one, other):
            await each.post("/login", data={"name": "jdoe"}, allow_redirects=False)
        listed = await (await one.get("/devices")).json()
        assert sorted(listed.values()) == [False, True]
        for id, is_current in listed.items():
            answer = await one.post(f"/devices/{id}/end", allow_redirects=False)
            assert answer.status == (404 if is_current else 302)
        await other.post("/login", data={"name": "jdoe"}, allow_redirects=False)
        await one.post("/devices/end-others", allow_redirects=False)
        assert list((await (await one.get("/devices")).json()).values()) == [True]


def test_documented_devices_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    names: dict[str, Any] = {"__name__": "shop"}
    source = DOCUMENT.block("app").replace('keys="file', 'secure=False, keys="file')
    exec(compile(source, "aiohttp.md", "exec"), names)
    exec(compile(DOCUMENT.block("devices"), "aiohttp.md", "exec"), names)
    asyncio.run(end_devices(names["app"]))


def test_documented_move_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="not installed: cryptography")
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    names: dict[str, Any] = {"web": web, "setup": setup, "OLD_SECRET": b"x" * 32}
    exec(compile(DOCUMENT.block("moving"), "aiohttp.md", "exec"), names)
    assert names["moving"][KEEPER].keeper.settings.legacy.name == "AIOHTTP_SESSION"


def test_documented_names_exist() -> None:
    for name in re.findall(r"`session\.(\w+)", DOCUMENT.text):
        assert hasattr(RequestSession, name) or name in ("regenerate", "subject"), name
