"""The code of docs/sso-services.md runs, and its tables agree with the services."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealedstate import Settings
from sealedstate.errors import MalformedToken
from sealedstate.key_sources import StaticKeys
from sealedstate.sso import ReplayCache
from sealedstate.sso.replay import LONGEST
from sealedstate.storage import USES, SQLiteStorage
from tests.support.documents import Document
from tests.support.login_makers import OTHER_SP, SP
from tests.support.services import RING

DOCUMENT = Document("sso-services.md").text


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """What the document's code defines, on a real store that needs no leniency."""
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    names: dict[str, Any] = {"settings": Settings(keys=StaticKeys(RING), storage=store)}
    for block in re.findall(r"<!-- code -->\n```python\n(.*?)```", DOCUMENT, re.DOTALL):
        exec(compile(block, "sso-services.md", "exec"), names)
    return names


def test_message_is_accepted_once(shown: dict[str, Any]) -> None:
    now = time.time()
    message = SimpleNamespace(issuer=SP, id="_1", not_on_or_after=now + 60)
    shown["accept"](message, now)
    with pytest.raises(PermissionError):
        shown["accept"](message, now)


def test_artifact_is_resolved_once_by_its_service(shown: dict[str, Any]) -> None:
    now = time.time()
    text = shown["artifact_for"](SP, b"<Response/>", now)
    assert shown["resolved"](text, OTHER_SP, now) is None
    assert shown["resolved"](text, SP, now) == b"<Response/>"
    assert shown["resolved"](text, SP, now) is None
    with pytest.raises(MalformedToken):
        shown["resolved"]("junk", SP, now)


def test_consent_holds_until_another_attribute_is_wanted(shown: dict[str, Any]) -> None:
    now = time.time()
    assert not shown["may_go_on"]("ann", SP, ["mail"], now)
    shown["agreed"]("ann", SP, ["mail", "name"], now)
    assert shown["may_go_on"]("ann", SP, ["mail"], now)
    assert not shown["may_go_on"]("ann", SP, ["birthday"], now)
    assert not shown["may_go_on"]("ann", OTHER_SP, ["mail"], now)
    assert not shown["may_go_on"]("ann", SP, ["mail"], now + 365 * 86400)


def test_documented_uses_and_numbers_are_those_of_the_code(shown: dict[str, Any]) -> None:
    named = re.findall(r'\| `"(\w+)"` \|', DOCUMENT)
    assert named == ["replay", "artifacts", "consent"]
    assert all(USES[title].contexts for title in named)
    assert LONGEST == 86400
    assert "expires later than a day from now" in DOCUMENT
    assert ReplayCache.of(shown["settings"], longest=5).longest == 5
