"""The code of docs/devices.md runs and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sealedstate.cli import main
from sealedstate.devices import LiveSession, SessionRegistry
from tests.support.documents import Document
from tests.support.jar import Browser

DEVICES = Document("devices.md")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the document defines."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init", "keys.json"]) == 0
    names: dict[str, Any] = {}
    exec(compile(DEVICES.block("registry"), "devices.md", "exec"), names)
    return names


def test_documented_functions_show_and_end_a_users_devices(shown: dict[str, Any]) -> None:
    def sign_in(device: str) -> Browser:
        browser = Browser(shown["keeper"])
        browser.visit(lambda session: session.update(device=device))
        browser.visit(lambda session: setattr(session, "subject", "ann"))
        return browser

    browsers = {name: sign_in(name) for name in ("Firefox", "Chrome", "Safari")}
    session = browsers["Firefox"].session()
    listed = {name: (id, this) for id, name, _, this in shown["show_devices"](session)}
    assert {name: this for name, (_, this) in listed.items()} == {
        "Firefox": True,
        "Chrome": False,
        "Safari": False,
    }
    assert shown["end_device"](session, listed["Chrome"][0]) == "Chrome is signed out."
    assert shown["end_device"](session, listed["Chrome"][0]) == "You are not signed in there."
    assert shown["end_other_devices"](session) == "1 are signed out."
    for number in range(5):
        sign_in(str(number))
    assert len(shown["registry"].list("ann")) == 5
    shown["keeper"].deployment.close()


def test_documented_names_exist() -> None:
    for name in re.findall(r"`(\w+)\(", DEVICES.text):
        assert hasattr(SessionRegistry, name), name
    (fields,) = re.findall(r"Each is a `LiveSession`: (.*?)\n`where` is", DEVICES.text, re.DOTALL)
    for name in re.findall(r"`(\w+)`", fields):
        assert name in LiveSession.__dataclass_fields__, name
