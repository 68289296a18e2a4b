"""docs/litestar.md: its application works as the text says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("litestar", reason="not installed: litestar")
pytest.importorskip("httpx", reason="not installed: httpx")

from litestar import Litestar
from litestar.testing import TestClient

from sealedstate.cli import main
from sealedstate_litestar import SealedSessionConfig
from tests.support.documents import Document

DOCUMENT = Document("litestar.md")


def test_documented_application_and_its_test_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    shop = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)  # Litestar looks for annotations there
    names: dict[str, Any] = vars(shop)
    exec(compile(DOCUMENT.block("app"), "litestar.md", "exec"), names)
    with TestClient(names["app"], "https://testserver.local") as client:
        assert client.post("/login").json() == {"user": "jdoe"}
        assert client.get("/").json() == {"visits": 1}
        with client.websocket_connect("/chat") as connected:
            assert connected.receive_json() == {"chats": 1}  # over ws://
        captured = dict(client.cookies)
        client.post("/logout")
        client.cookies.update(captured)
        assert client.get("/").json() == {"visits": 1}
    exec(compile(DOCUMENT.block("app"), "litestar.md", "exec"), names)
    exec(compile(DOCUMENT.block("test"), "litestar.md", "exec"), names)


def test_documented_devices_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    shop = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", shop)
    names: dict[str, Any] = vars(shop)
    for mark in ("app", "devices"):
        exec(compile(DOCUMENT.block(mark), "litestar.md", "exec"), names)
    handlers = [names[name] for name in ("show_devices", "end_device", "end_other_devices")]
    app = Litestar([names["login"], *handlers], on_app_init=[names["session_config"].on_app_init])
    with TestClient(app, "https://testserver.local") as client:
        browsers = []
        for _ in range(3):
            client.cookies.clear()
            client.post("/login")
            browsers.append(dict(client.cookies))
        listed = client.get("/devices").json()
        assert sorted(listed.values()) == [False, False, True]
        id = next(id for id, is_current in listed.items() if is_current)
        assert client.post(f"/devices/{id}/end").status_code == 404
        id = next(id for id, is_current in listed.items() if not is_current)
        assert client.post(f"/devices/{id}/end").status_code == 201
        assert client.post("/devices/end-others").json() == 1
        assert list(client.get("/devices").json().values()) == [True]
        for browser in browsers[:2]:
            client.cookies.clear()
            client.cookies.update(browser)
            assert client.get("/devices").json() == {}


def test_documented_move_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="not installed: cryptography")
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    names: dict[str, Any] = {"SealedSessionConfig": SealedSessionConfig, "OLD_SECRET": b"x" * 32}
    exec(compile(DOCUMENT.block("moving"), "litestar.md", "exec"), names)
    assert names["moving_config"].keeper.keeper.settings.legacy.name == "session"
