"""The code of docs/quart.md runs and does what the text says."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("quart", reason="not installed: quart")

from tests.support.asgi import ASGIBrowser
from tests.support.documents import Document

DOCUMENT = Document("quart.md")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the document defines, after its command has made the keys."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(DOCUMENT.block("app"))
    command = [sys.executable, "-m", "quart", "--app", "shop", "sealedstate", "keys", "init"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, check=True, env=environ, capture_output=True)
    names: dict[str, Any] = {"__name__": "shop"}
    for mark in ("app", "explicit", "test"):
        exec(compile(DOCUMENT.block(mark), f"quart.md: {mark}", "exec"), names)
    return names


async def converse(app: Any) -> None:
    client = app.test_client()
    await client.post("/login", form={"name": "jdoe"})
    assert await (await client.get("/")).get_json() == {"user": "jdoe", "visits": 1}
    async with client.websocket("/chat") as chat:
        assert await chat.receive() == "hello jdoe"
    another = app.test_client()
    await another.post("/login", form={"name": "jdoe"})
    await client.post("/logout")
    assert await (await client.get("/")).get_json() == {"user": None, "visits": 1}
    await client.post("/login", form={"name": "jdoe"})
    await client.post("/logout-everywhere")
    assert await (await another.get("/")).get_json() == {"user": None, "visits": 1}


def test_documented_application_and_its_test_work(shown: dict[str, Any]) -> None:
    asyncio.run(converse(shown["app"]))
    asyncio.run(shown["test_visits"]())


def test_documented_explicit_loading_works(shown: dict[str, Any]) -> None:
    browser = ASGIBrowser(shown["explicit"])
    for expected in (["gold"], ["gold", "gold"]):
        assert browser.get("/vault").json == expected
