"""Parts in the Web Storage of a real browser: scripts off, storage blocked or full, two tabs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("selenium", reason="not installed: selenium")

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import title_contains
from selenium.webdriver.support.ui import WebDriverWait

from sealedstate import Key
from tests.support.browser import PATIENCE, complaints, follow, open_browser
from tests.support.servers import WebServer, running

pytestmark = [pytest.mark.server, pytest.mark.soak]

APPLICATION = """
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import Settings
from sealedstate.deployment import Deployment
from sealedstate.errors import PartUnavailable
from sealedstate_wsgi import SealedSessionMiddleware
from sealedstate_wsgi.browser import BrowserParts

FORM = "<form method=post action=/agree><input name=said><button>Agree</button></form>"
COUNTS = {}


@Request.application
def app(request):
    session = request.environ["sealedstate.session"]
    if request.path == "/agree":
        session.subject = "ann"
        session["consent"] = request.form["said"]
        return redirect("/plain", 303)
    if request.path == "/logout":
        session.invalidate()
        return redirect("/out", 303)
    text = "plain"
    if request.path == "/consent":
        try:
            text = session.get("consent", "none")
        except PartUnavailable:
            text = "unavailable"
    page = f"<title>{request.full_path}</title><p id=said>{text}</p>{FORM}"
    return Response(page + "<form method=post action=/logout><button>Leave</button></form>",
                    mimetype="text/html")


deployment = Deployment.open(
    Settings.from_env(secure=False, part_policies={"consent": "browser"})
)
application = SealedSessionMiddleware(BrowserParts(app, deployment), deployment)
"""
BLOCKED = (
    "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('blocked',"
    " 'SecurityError'); }});"
)


@dataclass
class Visitor:
    """A visitor of the application with a browser."""

    driver: Chrome
    link: str

    def open(self, path: str) -> str:
        """Navigate; what the application's page says once it is there."""
        self.driver.get(self.link + path)
        return self.said

    @property
    def said(self) -> str:
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        return str(wait.until(lambda driver: driver.find_element(By.ID, "said").text))

    def agree(self, said: str) -> str:
        self.driver.find_element(By.NAME, "said").send_keys(said)
        follow(self.driver, self.driver.find_element(By.XPATH, "//button[text()='Agree']"))
        return self.said

    def stored(self) -> list[str]:
        return list(self.driver.execute_script("return Object.keys(localStorage)"))

    def cookie_size(self) -> int:
        cookie = self.driver.get_cookie("s")
        assert cookie is not None
        return len(cookie["value"])

    def end_rest(self) -> None:
        """As if five minutes had passed since the browser brought the part."""
        self.driver.delete_cookie("sealedstate-write")


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    server = WebServer("waitress", tmp_path_factory.mktemp("site"), environ=environ)
    with running(server, APPLICATION):
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def visitor(link: str) -> Iterator[Visitor]:
    with open_browser() as driver:
        visitor = Visitor(driver, link)
        visitor.open("/plain")
        yield visitor
        assert complaints(driver) == []  # of the policy of content, too


LONG = "x" * 800


def test_part_moves_to_the_browser_and_back_and_leaves_with_the_logout(visitor: Visitor) -> None:
    history = visitor.driver.execute_script("return history.length")
    assert visitor.agree(LONG) == "plain"
    assert len(visitor.stored()) == 1
    assert visitor.cookie_size() < 250
    assert visitor.open("/plain?a=b#part") == "plain"
    assert visitor.open("/consent?a=b#part") == LONG
    assert visitor.driver.current_url.endswith("/consent?a=b#part")
    assert visitor.cookie_size() > 1000
    # One entry for each page of the application, and none for those in between.
    assert visitor.driver.execute_script("return history.length") == history + 3
    visitor.end_rest()
    assert visitor.open("/plain") == "plain"
    assert visitor.cookie_size() < 250
    visitor.driver.back()
    assert visitor.said == LONG
    visitor.end_rest()
    visitor.open("/plain")
    visitor.driver.execute_script("localStorage.setItem('other', 'of the application')")
    follow(visitor.driver, visitor.driver.find_element(By.XPATH, "//button[text()='Leave']"))
    assert visitor.said == "plain"
    assert visitor.stored() == ["other"]


def test_texts_of_before_and_altered_texts_are_refused(visitor: Visitor) -> None:
    post = """
        const [name, text, done] = arguments;
        const body = new URLSearchParams({part: "consent", [name]: text});
        fetch("/.sealedstate/browser", {method: "POST", body}).then((x) => done(x.status));
    """
    visitor.agree("first")
    (first,) = visitor.driver.execute_script("return Object.values(localStorage)")
    visitor.open("/plain")
    visitor.agree("second")
    assert len(visitor.stored()) == 2
    for text, name in itertools.product((first, first[:-1], "junk"), ("kept", "brought")):
        assert visitor.driver.execute_async_script(post, name, text) == 409
    assert visitor.open("/consent") == "second"
    for said in "abcd":
        visitor.end_rest()
        visitor.agree(said)
        assert len(visitor.stored()) <= 3
    complaints(visitor.driver)  # the browser notes each 409


def test_browser_without_scripts_gets_a_button_once(visitor: Visitor) -> None:
    off: dict[str, Any] = {"value": True}
    visitor.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", off)
    visitor.driver.find_element(By.NAME, "said").send_keys(LONG)
    visitor.driver.find_element(By.XPATH, "//button[text()='Agree']").click()
    wait = WebDriverWait(visitor.driver, PATIENCE)
    wait.until(lambda driver: driver.find_elements(By.XPATH, "//button[text()='Continue']"))
    visitor.driver.find_element(By.XPATH, "//button[text()='Continue']").click()
    assert visitor.said == "plain"
    assert visitor.driver.current_url.endswith("/plain")
    for _ in range(3):
        assert visitor.open("/consent") == LONG
    visitor.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_blocked_storage_costs_one_page_and_no_consent(visitor: Visitor) -> None:
    visitor.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": BLOCKED})
    visitor.open("/plain")
    assert visitor.agree(LONG) == "plain"
    for _ in range(3):
        assert visitor.cookie_size() > 1000
        assert visitor.open("/consent") == LONG
        assert visitor.open("/plain") == "plain"


def test_full_storage_keeps_the_part_in_the_cookie(visitor: Visitor) -> None:
    visitor.driver.execute_script(
        """
        let piece = "x".repeat(1 << 20), number = 0;
        while (piece.length) {
            try { localStorage.setItem(`fill${number++}`, piece); }
            catch { piece = piece.slice(0, piece.length >> 1); }
        }
        """
    )
    filled = len(visitor.stored())
    assert visitor.agree(LONG) == "plain"
    assert visitor.cookie_size() > 1000
    assert len(visitor.stored()) == filled
    assert visitor.open("/consent") == LONG


def test_storage_that_was_cleared_is_asked_once(visitor: Visitor) -> None:
    visitor.agree(LONG)
    visitor.driver.execute_script("localStorage.clear()")
    for _ in range(2):
        assert visitor.open("/consent") == "unavailable"
    complaints(visitor.driver)  # of the 409
    assert visitor.agree("again") == "plain"
    assert visitor.open("/consent") == "again"


def test_two_tabs_lose_no_consent_in_200_rounds(visitor: Visitor) -> None:
    driver = visitor.driver
    tabs = [driver.current_window_handle]
    driver.switch_to.new_window("tab")
    tabs.append(driver.current_window_handle)
    visitor.open("/plain")

    def navigate_at_once(path: str, end: str) -> list[str]:
        for tab in tabs:
            driver.switch_to.window(tab)
            driver.execute_script(f"setTimeout(() => location.assign('{path}?{end}'), 0)")
        found = []
        for tab in tabs:
            driver.switch_to.window(tab)
            wait = WebDriverWait(driver, PATIENCE, ignored_exceptions=[WebDriverException])
            wait.until(title_contains(f"{path}?{end}"))
            found.append(visitor.said)
        return found

    moves = 0
    for number in range(200):
        visitor.end_rest()
        assert visitor.agree(f"round {number}") == "plain"
        # One tab may ask for what the other has brought already.
        assert navigate_at_once("/consent", f"{number}.") == [f"round {number}"] * 2
        visitor.end_rest()
        # Both may move it, each as a generation of its own; the cookie names one of them.
        assert navigate_at_once("/plain", f"{number}.") == ["plain"] * 2
        moves += visitor.cookie_size() < 250
        assert visitor.open("/consent") == f"round {number}"
    assert moves > 100
