"""The code of docs/sso-services.md runs, and its tables agree with the services."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealedstate.errors import MalformedToken
from sealedstate.sso import ConsentStore, ReplayCache
from sealedstate.sso.replay import LONGEST
from sealedstate.storage import USES, SQLiteStorage
from tests.support.documents import Document
from tests.support.identity_providers import OTHER_SP, RING, SP, deployment

DOCUMENT = Document("sso-services.md")


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """What the document's code defines, on a real store that needs no leniency."""
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    names: dict[str, Any] = {"deployment": deployment(store, accept=())}
    for block in DOCUMENT.blocks("code"):
        exec(compile(block, "sso-services.md", "exec"), names)
    return names


def test_message_is_accepted_once(shown: dict[str, Any]) -> None:
    message = SimpleNamespace(issuer=SP, id="_1", not_on_or_after=time.time() + 60)
    shown["accept"](message)
    with pytest.raises(PermissionError):
        shown["accept"](message)


def test_artifact_is_resolved_once_by_its_service(shown: dict[str, Any]) -> None:
    text = shown["artifact_for"](SP, b"<Response/>")
    assert shown["resolve"](text, OTHER_SP) is None
    assert shown["resolve"](text, SP) == b"<Response/>"
    assert shown["resolve"](text, SP) is None
    with pytest.raises(MalformedToken):
        shown["resolve"]("junk", SP)


def test_consent_holds_for_a_year_until_another_attribute_is_wanted(shown: dict[str, Any]) -> None:
    assert not shown["may_continue"]("ann", SP, ["mail"])
    shown["record_consent"]("ann", SP, ["mail", "name"])
    assert shown["may_continue"]("ann", SP, ["mail"])
    assert not shown["may_continue"]("ann", SP, ["birthday"])
    assert not shown["may_continue"]("ann", OTHER_SP, ["mail"])
    later = deployment(shown["deployment"].store, RING, lambda: time.time() + 365 * 86400)
    assert [one.document for one in ConsentStore(later).of_subject("ann")] == ["terms"]


def test_documented_uses_and_numbers_are_those_of_the_code(shown: dict[str, Any]) -> None:
    named = re.findall(r'\| `"(\w+)"` \|', DOCUMENT.text)
    assert named == ["replay", "artifacts", "consent"]
    assert all(USES[title].contexts for title in named)
    assert LONGEST == 86400
    assert "expires later than a day from now" in DOCUMENT.text
    assert ReplayCache(shown["deployment"], longest=5).longest == 5
