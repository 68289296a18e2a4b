"""The code of docs/protector.md runs and does what the text says."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealedstate import Deployment, Keeper, Settings
from sealedstate.errors import ProtectedTextRefused
from sealedstate.key_sources import StaticKeys
from sealedstate.storage import SQLiteStorage
from tests.support.documents import Document
from tests.support.identity_providers import RING
from tests.support.jar import Browser

DOCUMENT = Document("protector.md")


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """What the document's code defines, on a real store."""
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    settings = Settings(keys=StaticKeys(RING), storage=store, longest_lifetime=14 * 86400)
    names: dict[str, Any] = {"deployment": Deployment.open(settings)}
    for block in DOCUMENT.blocks("code"):
        exec(compile(block, "protector.md", "exec"), names)
    return names


def test_documented_link_resets_a_password_once(shown: dict[str, Any]) -> None:
    account = SimpleNamespace(id=7, password_hash="old")
    earlier, link = (shown["reset_link"](account).partition("text=")[2] for _ in range(2))
    other = SimpleNamespace(id=8, password_hash="old")
    assert shown["reset_password"](other, link, "stolen") == 400
    assert shown["reset_password"](account, link[:-1], "stolen") == 400
    assert shown["reset_password"](account, link, "new") == 200
    assert account.password_hash == "new"
    for text in (link, earlier):
        assert shown["reset_password"](account, text, "again") == 400


def test_documented_invitation_is_accepted_once(shown: dict[str, Any]) -> None:
    text = shown["invitation_for"]("red")
    assert shown["accept"](text) == "red"
    assert shown["accept"](text) is None
    assert shown["accept"]("junk") is None


def test_documented_state_returns_to_its_browser_only(shown: dict[str, Any]) -> None:
    browser, victim = (Browser(Keeper(shown["deployment"])) for _ in range(2))
    texts: list[str] = []
    browser.visit(lambda session: texts.append(shown["begin_login"](session, "/cart")))
    victim.visit(lambda session: session.update(seen=True))
    assert shown["finish_login"](browser.session(), texts[0])["next"] == "/cart"
    with pytest.raises(ProtectedTextRefused):
        shown["finish_login"](victim.session(), texts[0])
    browser.visit(lambda session: setattr(session, "subject", "ann"))
    with pytest.raises(ProtectedTextRefused):
        shown["finish_login"](browser.session(), texts[0])


def test_documented_reasons_and_sizes_are_those_of_the_code(shown: dict[str, Any]) -> None:
    documented = re.findall(r"``\"([\w-]+)\"``", ProtectedTextRefused.__doc__ or "")
    assert set(DOCUMENT.table("reasons")) == set(documented)
    value = {"user": 42, "email": "jdoe@shop.example", "role": "editor"}
    assert f"| {len(shown['resets'].seal(value))} letters |" in DOCUMENT.text
    assert f"| {len(shown['resets'].seal(42))} letters |" in DOCUMENT.text
    assert len(shown["resets"].seal(b"x" * 240)) <= 68 + 4 * (240 + 2 + 2) / 3 + 1
