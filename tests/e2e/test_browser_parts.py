"""Parts in the Web Storage of real browsers: scripts off, storage blocked or full, two tabs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

pytest.importorskip("selenium", reason="not installed: selenium")

from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.expected_conditions import title_contains
from selenium.webdriver.support.ui import WebDriverWait

from sealedstate import Key
from tests.support.browser import PATIENCE, complaints, follow, open_either
from tests.support.client import send
from tests.support.servers import WebServer, running

pytestmark = [pytest.mark.server, pytest.mark.soak]

APPLICATION = """
import io
import json

from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from sealedstate import Settings
from sealedstate.deployment import Deployment
from sealedstate.errors import PartUnavailable
from sealedstate_wsgi import SealedSessionMiddleware
from sealedstate_wsgi.browser import BrowserParts

FORM = "<form method=post action=/agree><input name=said><button>Agree</button></form>"
REQUESTS, POSTS, REPORTS = [], [], []


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
inner = SealedSessionMiddleware(BrowserParts(app, deployment), deployment)


@Request.application
def application(request):
    # Every request is counted, every post of the pages is kept, and every violation of their
    # Content-Security-Policy is reported here.
    if request.path == "/report":
        REPORTS.append(request.get_data(as_text=True))
        return Response(status=204)
    if request.path == "/seen":
        return Response(json.dumps([len(REQUESTS), POSTS, REPORTS]))
    if request.path != "/favicon.ico":
        REQUESTS.append(request.path)
    if request.path == "/.sealedstate/browser":
        POSTS.append(request.get_data(as_text=True))
        request.environ["wsgi.input"] = io.BytesIO(request.get_data())
    answer = Response.from_app(inner, request.environ)
    policy = answer.headers.get("Content-Security-Policy")
    if policy:
        answer.headers["Content-Security-Policy"] = policy + "; report-uri /report"
    return answer
"""
REPLAY = """
    const [body, done] = arguments;
    const headers = {"Content-Type": "application/x-www-form-urlencoded"};
    const request = {method: "POST", redirect: "manual", headers, body};
    fetch("/.sealedstate/browser", request).then((answer) => done(answer.status));
"""


@dataclass
class Visitor:
    """A visitor of the application with a browser."""

    driver: WebDriver
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

    def seen(self) -> tuple[int, list[str], list[str]]:
        """The number of requests, what pages have posted, and reports of their policy."""
        port = urlsplit(self.link).port
        assert port is not None
        requests, posts, reports = json.loads(send(port, "GET", "/seen").body)
        return requests, posts, reports

    def cookie_size(self) -> int:
        cookie = self.driver.get_cookie("s")
        assert cookie is not None
        return len(cookie["value"])

    def end_rest(self) -> None:
        """As if five minutes had passed since the browser brought the part."""
        self.driver.delete_cookie("sealedstate-write")


# Opens a visitor whose browser has these options of `open_either`.
Visit = Callable[..., AbstractContextManager[Visitor]]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    server = WebServer("waitress", tmp_path_factory.mktemp("site"), environ=environ)
    with running(server, APPLICATION):
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(params=["chromium", "firefox"])
def visit(request: pytest.FixtureRequest, link: str) -> Visit:
    @contextlib.contextmanager
    def open_visitor(**options: bool) -> Iterator[Visitor]:
        with open_either(request.param, **options) as driver:
            visitor = Visitor(driver, link)
            _, _, reports = visitor.seen()
            visitor.open("/plain")
            yield visitor
            assert complaints(driver) == []  # of the policy of content, too
            assert visitor.seen()[2] == reports

    return open_visitor


@pytest.fixture
def visitor(visit: Visit) -> Iterator[Visitor]:
    with visit() as visitor:
        yield visitor


LONG = "x" * 800


def test_part_moves_to_the_browser_and_back_and_leaves_with_the_logout(visitor: Visitor) -> None:
    # Firefox makes no entry for a form that leads to the address where it is.
    visitor.open("/start")
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


def test_replayed_posts_are_refused(visitor: Visitor) -> None:
    _, before, _ = visitor.seen()
    visitor.agree("first")
    assert visitor.open("/consent") == "first"
    visitor.agree("second")  # which is moved when five minutes have passed
    visitor.end_rest()
    visitor.open("/plain")
    cookie = visitor.driver.get_cookie("s")
    posts = visitor.seen()[1][len(before) :]
    assert [post.count("brought=") for post in posts] == [0, 1, 0]
    for post in posts[:2]:
        assert visitor.driver.execute_async_script(REPLAY, post) == 409
    assert visitor.driver.get_cookie("s") == cookie
    assert visitor.open("/consent") == "second"
    follow(visitor.driver, visitor.driver.find_element(By.XPATH, "//button[text()='Leave']"))
    assert visitor.said == "plain"
    for post in posts:
        assert visitor.driver.execute_async_script(REPLAY, post) == 409
    complaints(visitor.driver)  # the browser notes each 409


def press_continue(driver: WebDriver) -> None:
    """Press the button of the page in between."""
    wait = WebDriverWait(driver, PATIENCE, ignored_exceptions=[WebDriverException])
    wait.until(lambda driver: driver.find_element(By.XPATH, "//button[text()='Continue']")).click()


def test_browser_without_scripts_gets_a_button_once(visit: Visit) -> None:
    with visit(runs_scripts=False) as visitor:
        visitor.driver.find_element(By.NAME, "said").send_keys(LONG)
        visitor.driver.find_element(By.XPATH, "//button[text()='Agree']").click()
        press_continue(visitor.driver)
        assert visitor.said == "plain"
        assert visitor.driver.current_url.endswith("/plain")
        requests, _, _ = visitor.seen()
        for _ in range(3):
            assert visitor.open("/consent") == LONG
        assert visitor.seen()[0] == requests + 3


@pytest.mark.parametrize("runs_scripts", [True, False], ids=["scripts", "no scripts"])
@pytest.mark.parametrize("path", ["//localhost/x", "/%5Clocalhost/x", "/%2F%2Flocalhost/x"])
def test_pages_in_between_lead_to_no_other_host(
    visit: Visit, path: str, runs_scripts: bool
) -> None:
    with visit(runs_scripts=runs_scripts) as visitor:
        visitor.driver.find_element(By.NAME, "said").send_keys(LONG)
        visitor.driver.find_element(By.XPATH, "//button[text()='Agree']").click()
        if not runs_scripts:
            press_continue(visitor.driver)
        assert visitor.said == "plain"
        visitor.end_rest()
        visitor.driver.get(visitor.link + path)
        if not runs_scripts:
            press_continue(visitor.driver)
        assert visitor.said == "plain"
        assert visitor.driver.current_url.startswith(f"{visitor.link}/")


def test_blocked_storage_costs_one_page_and_no_consent(visit: Visit) -> None:
    with visit(has_storage=False) as visitor:
        assert visitor.agree(LONG) == "plain"
        requests, _, _ = visitor.seen()
        for _ in range(3):
            assert visitor.cookie_size() > 1000
            assert visitor.open("/consent") == LONG
            assert visitor.open("/plain") == "plain"
        assert visitor.seen()[0] == requests + 6


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
    requests, _, _ = visitor.seen()
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
    # A form, its page, and five navigations, of which each may cost two requests more, or, where
    # another tab outruns it, twice as many.
    assert visitor.seen()[0] - requests <= 200 * (1 + 6 * 5)
