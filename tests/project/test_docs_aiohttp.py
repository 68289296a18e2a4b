"""docs/aiohttp.md: its application works as the text says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")

from aiohttp.test_utils import TestClient, TestServer

from sealedstate.cli import main
from sealedstate_aiohttp import RequestSession
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


def test_documented_names_exist() -> None:
    for name in re.findall(r"`session\.(\w+)", DOCUMENT.text):
        assert hasattr(RequestSession, name) or name in ("regenerate", "subject"), name
