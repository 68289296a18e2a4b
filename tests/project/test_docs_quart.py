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

from sealedstate import ConfigurationError
from sealedstate.cli import main
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


async def end_devices(app: Any) -> None:
    another, other, one = (app.test_client() for _ in range(3))
    for client in (another, other, one):
        await client.post("/login", form={"name": "jdoe"})
    (own,), others = sorted_ids(await (await one.get("/devices")).get_json())
    assert len(others) == 1  # at most two, and the first has ended
    assert (await one.post(f"/devices/{own}/end")).status_code == 404
    assert (await one.post(f"/devices/{others[0]}/end")).status_code == 302
    assert await (await one.get("/devices")).get_json() == {own: True}
    await other.post("/login", form={"name": "jdoe"})
    await one.post("/devices/end-others")
    assert await (await one.get("/devices")).get_json() == {own: True}


def sorted_ids(listed: dict[str, bool]) -> tuple[list[str], list[str]]:
    """The current session, and the others."""
    current = [id for id, is_current in listed.items() if is_current]
    return current, [id for id in listed if id not in current]


def test_documented_devices_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    names: dict[str, Any] = {"__name__": "shop"}
    source = DOCUMENT.block("app").replace(
        "SealedSessions(app)",
        'app.config.update(SEALEDSTATE_DEVICES={"most": 2}, PERMANENT_SESSION_LIFETIME=3600)\n'
        "SealedSessions(app)",
    )
    exec(compile(source, "quart.md: app", "exec"), names)
    exec(compile(DOCUMENT.block("devices"), "quart.md: devices", "exec"), names)
    asyncio.run(end_devices(names["app"]))
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_DEVICES: must be a dict"):
        exec(compile(source.replace('{"most": 2}', "2"), "quart.md: app", "exec"), names)


def test_documented_explicit_loading_works(shown: dict[str, Any]) -> None:
    browser = ASGIBrowser(shown["explicit"])
    for expected in (["gold"], ["gold", "gold"]):
        assert browser.get("/vault").json == expected
