"""The code of docs/sso-services.md runs, and its tables agree with the services."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from sealedstate import Settings
from sealedstate.errors import MalformedToken, UnsupportedValue
from sealedstate.key_sources import StaticKeys
from sealedstate.sso import Admission, ConsentStore, ReplayCache
from sealedstate.sso.replay import LONGEST
from sealedstate.storage import USES, SQLiteStorage
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.documents import Document
from tests.support.identity_providers import OTHER_SP, RING, SP, deployment

DOCUMENT = Document("sso-services.md")
HERE = "http://127.0.0.1"


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


class Browser:
    """One browser in front of the document's shop."""

    def __init__(self, shown: dict[str, Any]) -> None:
        settings = Settings(keys=StaticKeys(RING), secure=False)
        self._client = Client(SealedSessionMiddleware(shown["shop"], settings))

    def get(self, path: str) -> TestResponse:
        return self._client.get(path, base_url=HERE)

    def post(self, path: str, **form: str) -> TestResponse:
        return self._client.post(path, base_url=HERE, data=form)

    def sign_in(self) -> None:
        assert self.post("/sign-in").location == "/order"

    def ticket(self) -> str:
        return ticket_in(self.get("/order"))

    @property
    def orders(self) -> list[str]:
        return self.get("/orders").text.split()


def ticket_in(response: TestResponse) -> str:
    found = re.search(r"name=ticket value=(\S+)>", response.text)
    assert found is not None
    return found[1]


@pytest.fixture
def browser(shown: dict[str, Any]) -> Browser:
    browser = Browser(shown)
    browser.sign_in()
    return browser


def sees_the_form_again(answer: TestResponse, sentence: str) -> str:
    """The new ticket of an answer that keeps what was entered."""
    assert answer.status_code == 200
    assert sentence in answer.text
    assert 'name=what value="&lt;tea&gt;"' in answer.text
    return ticket_in(answer)


def test_double_click_and_back_button_order_once(browser: Browser) -> None:
    ticket = browser.ticket()
    for _ in range(3):
        answer = browser.post("/order", ticket=ticket, what="tea")
        assert (answer.status_code, answer.location) == (303, "/orders")
    assert browser.orders == ["tea"]


def test_form_that_was_open_for_too_long_comes_back_with_a_new_ticket(
    browser: Browser, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forms, past = shown["forms"], time.time() - 3600
    former = replace(forms, _now=lambda: past)
    monkeypatch.setitem(shown, "forms", former)
    ticket = browser.ticket()
    monkeypatch.setitem(shown, "forms", forms)
    answer = browser.post("/order", ticket=ticket, what="<tea>")
    again = sees_the_form_again(answer, "open for too long")
    assert browser.orders == []
    browser.post("/order", ticket=again, what="tea")
    assert browser.orders == ["tea"]


def test_form_from_before_the_login_or_of_another_session_is_shown_again(
    browser: Browser, shown: dict[str, Any]
) -> None:
    before = browser.ticket()
    browser.sign_in()
    other = Browser(shown)
    other.sign_in()
    for ticket in (before, other.ticket(), "", "junk"):
        answer = browser.post("/order", ticket=ticket, what="<tea>")
        again = sees_the_form_again(answer, "signed in or out")
    assert browser.orders == other.orders == []
    browser.post("/order", ticket=again, what="tea")
    assert browser.orders == ["tea"]


def test_neither_the_form_nor_the_sign_in_page_leads_in_a_circle(shown: dict[str, Any]) -> None:
    browser = Browser(shown)
    assert browser.get("/order").location == "/sign-in"
    assert browser.post("/order", ticket="t", what="tea").location == "/sign-in"
    assert browser.get("/sign-in").text == "password?"
    browser.sign_in()
    assert browser.get("/sign-in").text == "signed in"  # where the back button leads
    assert browser.orders == []


def test_form_of_another_site_is_not_shown(browser: Browser) -> None:
    # The browser holds the cookie back.
    answer = Client(browser._client.application).post(
        "/order",
        base_url=HERE,
        data={"ticket": browser.ticket(), "what": "<tea>"},
        headers={"Sec-Fetch-Site": "cross-site"},
    )
    assert (answer.status_code, answer.location) == (303, "/order")


def test_unknown_outcome_is_said_and_nothing_is_ordered(
    browser: Browser, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def admit_text(*_: object) -> Admission:
        return Admission.UNKNOWN

    ticket = browser.ticket()
    monkeypatch.setattr(shown["replays"], "admit_text", admit_text)
    answer = browser.post("/order", ticket=ticket, what="<tea>")
    sees_the_form_again(answer, "Perhaps this was sent")
    assert browser.orders == []


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


def test_terms_are_needed_until_they_were_accepted_as_shown(shown: dict[str, Any]) -> None:
    assert shown["needs_terms"]("ann")
    shown["accept_terms"]("ann", {"news": "on", "purpose": "reading"})
    assert not shown["needs_terms"]("ann")
    consents = shown["consents"]
    found = consents.find("ann", "terms of lending")
    assert found.answers == {"news": True, "purpose": "reading"}
    consents.record("ann", "terms of lending", 2, parameters=found.parameters | {"fee": 6})
    assert shown["needs_terms"]("ann")
    with pytest.raises(UnsupportedValue) as caught:
        shown["accept_terms"]("ann", {"purpose": "x" * 1025})
    assert caught.value.path == "answers['purpose']"


def test_documented_uses_and_numbers_are_those_of_the_code(shown: dict[str, Any]) -> None:
    named = re.findall(r'\| `"(\w+)"` \|', DOCUMENT.text)
    assert named == ["replay", "artifacts", "consent"]
    assert all(USES[title].contexts for title in named)
    assert LONGEST == 86400
    assert "expires later than a day from now" in DOCUMENT.text
    assert ReplayCache(shown["deployment"], longest=5).longest == 5
