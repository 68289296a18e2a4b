"""docs/asgi.md: its applications work as the text says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from sealedstate.cli import main
from sealedstate_asgi import SealedSession
from tests.support.asgi import ASGIBrowser
from tests.support.documents import Document

ASGI = Document("asgi.md")


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0


def run(*marks: str, **names: Any) -> dict[str, Any]:
    for mark in marks:
        exec(compile(ASGI.block(mark), f"asgi.md {mark}", "exec"), names)
    return names


def test_documented_application_and_its_test_work() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the test client's own library
        warnings.simplefilter("ignore", UserWarning)
        pytest.importorskip("httpx", reason="not installed: httpx")
        app = run("app", "test")["app"]
    browser = ASGIBrowser(app)
    assert browser.get("/login").json == {"user": "jdoe"}
    captured = browser.jar.copy()
    browser.get("/logout")
    browser.jar = captured
    assert browser.get("/").json == {"visits": 1}


def test_documented_dependency_works() -> None:
    pytest.importorskip("fastapi", reason="not installed: fastapi")
    browser = ASGIBrowser(run("fastapi")["api"])
    assert browser.get("/login", method="POST").status == 200
    assert browser.get("/me").json == {"user": "jdoe", "theme": None}
    browser.get("/logout", method="POST")
    assert browser.get("/me").json["user"] is None


def test_documented_devices_work() -> None:
    pytest.importorskip("fastapi", reason="not installed: fastapi")
    shown = run("devices")
    first, second = ASGIBrowser(shown["site"]), ASGIBrowser(shown["site"])
    for browser, name in ((first, "Firefox"), (second, "Chrome")):
        agent = (b"user-agent", name.encode())
        assert browser.get("/login", agent, method="POST").status == 200
    assert first.get("/devices").json == {"Firefox": True, "Chrome": False}
    ids = {each.where: each.id for each in shown["devices"].registry.list()}
    assert first.get(f"/devices/{ids['Firefox']}/end", method="POST").status == 404
    assert first.get(f"/devices/{ids['Chrome']}/end", method="POST").status == 200
    assert second.get("/devices").json == {}
    assert first.get("/devices/end-others", method="POST").json == 0
    assert first.get("/devices").json == {"Firefox": True}


def test_documented_explicit_loading_works() -> None:
    browser = ASGIBrowser(run("explicit")["explicit"])
    for expected in (["gold"], ["gold", "gold"]):
        assert browser.get("/vault").json == expected
    assert browser.get("/account").json == {"user": None, "has_vault": True}
    assert browser.get("/news").body == b"news"


def test_documented_handler_answers_a_full_session() -> None:
    browser = ASGIBrowser(run("full")["full"])
    answers = []
    for item in ("tea", "x" * 9000, "milk"):
        answer = browser.get(f"/cart/{item}", method="POST")
        answers.append((answer.status, answer.json))
    assert answers == [(200, 1), (413, "Your cart is full."), (200, 2)]


def test_documented_names_exist() -> None:
    text = ASGI.text[ASGI.text.index("| | |") :].partition("\n\n")[0]
    for name in re.findall(r"`(?:await )?(\w+)", text):
        assert hasattr(SealedSession, name) or name in ("idle", "until", "persistent"), name
