"""docs/litestar.md: its application works as the text says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("litestar", reason="not installed: litestar")
pytest.importorskip("httpx", reason="not installed: httpx")

from litestar.testing import TestClient

from sealedstate.cli import main
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
