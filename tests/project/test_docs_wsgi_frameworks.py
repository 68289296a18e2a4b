"""docs/wsgi-frameworks.md: each application counts visits, and ends its session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from sealedstate.cli import main
from tests.support.asgi import ASGIBrowser
from tests.support.documents import Document

DOCUMENT = Document("wsgi-frameworks.md")


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0


def run(mark: str) -> Any:
    """The application of a block."""
    names: dict[str, Any] = {}
    exec(compile(DOCUMENT.block(mark), f"wsgi-frameworks.md: {mark}", "exec"), names)
    return names["application"]


@pytest.mark.parametrize("name", ["falcon", "bottle", "cherrypy"])
def test_documented_application_works(name: str) -> None:
    pytest.importorskip(name, reason=f"not installed: {name}")
    client = Client(run(name))
    for visits in (1, 2):
        answer = client.get("/", base_url="https://localhost")
        assert (answer.status_code, json.loads(answer.data)) == (200, {"visits": visits})
    client.delete("/", base_url="https://localhost")
    assert json.loads(client.get("/", base_url="https://localhost").data) == {"visits": 1}


def test_documented_asgi_application_works() -> None:
    pytest.importorskip("falcon", reason="not installed: falcon")
    browser = ASGIBrowser(run("falcon-asgi"))
    for visits in (1, 2):
        assert browser.get("/").json == {"visits": visits}
    browser.get("/", method="DELETE")
    assert browser.get("/").json == {"visits": 1}
