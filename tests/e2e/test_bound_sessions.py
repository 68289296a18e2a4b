"""Chromium binds a session to a key in software, and a cookie that is copied from it is refused."""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="not installed: cryptography")
pytest.importorskip("selenium", reason="not installed: selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By

from examples.bound.app import make_application
from examples.bound.serving import HttpsSite, serve_https
from sealedstate import Keeper, Key, Settings
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.browser import follow, open_browser

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Less is for tests: with its quota, Chromium would not keep up.
LIFE = 5
HOST = "app.example.test"
PATIENCE = 20


def page(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Signs in at /sign-in; shows who it is and why it is not."""
    session = environ["sealedstate.session"]
    if environ["PATH_INFO"] == "/sign-in":
        session.subject = "ann"
    elif environ["PATH_INFO"] == "/sign-out":
        session.invalidate()
    text = f"{session.subject} bound={session.is_bound} refusal={session.refusal}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]


class Visit:
    """The browser, the site, and what the site's node has counted."""

    def __init__(
        self, site: HttpsSite, driver: webdriver.Chrome, keeper: Keeper, sent: list[str]
    ) -> None:
        self.site, self.driver, self.keeper, self._sent = site, driver, keeper, sent

    def read(self, path: str = "/") -> str:
        """What the browser shows of a page."""
        self.driver.get(self.site.url + path)
        text: str = self.driver.execute_script("return document.body.innerText")
        return text

    def cookies(self) -> dict[str, str]:
        """What malware finds in the browser's jar."""
        return cookies_of(self.driver, self.site.url)

    def read_as_thief(self, cookies: dict[str, str]) -> str:
        """What another client sees with these cookies."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        port = int(self.site.url.rpartition(":")[2])
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        pairs = "; ".join(f"{name}={value}" for name, value in cookies.items())
        connection.request("GET", "/", headers={"Cookie": pairs})
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def sign_in(self) -> str:
        """Sign in; the session cookie from before the binding."""
        assert self.read("/sign-in") == "ann bound=False refusal=None"
        return self._sent[-1].partition("=")[2].partition(";")[0]

    def await_binding(self, before: str) -> None:
        """Wait until the browser has both cookies of the binding.

        A request that is sent earlier has the replaced cookie.
        """
        await_true(
            lambda: (
                "__Host-s-bound" in (cookies := self.cookies())
                and cookies["__Host-Http-s"] != before
            )
        )


def cookies_of(driver: webdriver.Chrome, url: str) -> dict[str, str]:
    found = driver.execute_cdp_cmd("Network.getCookies", {"urls": [url]})
    return {each["name"]: each["value"] for each in found["cookies"]}


def await_true(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def visit(folder: Path, **given: Any) -> Iterator[Visit]:
    key = Key.generate(os.urandom).export()
    settings = Settings(keys=[key], binding_path="/session-binding", bound_lifetime=LIFE, **given)
    keeper = Keeper(settings)
    sent: list[str] = []
    application = watch(SealedSessionMiddleware(page, keeper), sent)
    with (
        serve_https(application, HOST, 0, folder) as site,
        open_browser(*site.browser_arguments) as driver,
    ):
        yield Visit(site, driver, keeper, sent)
    keeper.deployment.close()


def watch(application: Callable[..., Any], sent: list[str]) -> Callable[..., Any]:
    """`application`; `sent` gets the Set-Cookie lines of sign-ins."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            if environ["PATH_INFO"] == "/sign-in":
                sent.extend(value for name, value in headers if name == "Set-Cookie")
            return start_response(status, headers, *exc_info)

        return application(environ, start)

    return call


@pytest.mark.server
def test_demo_shows_what_a_copied_cookie_opens(tmp_path: Path) -> None:
    with (
        serve_https(make_application(tmp_path), HOST, 0, tmp_path) as site,
        open_browser(*site.browser_arguments) as driver,
    ):
        driver.get(site.url)
        follow(driver, driver.find_element(By.CSS_SELECTOR, "button[formaction='/sign-in']"))

        def is_bound() -> bool:
            driver.get(site.url)
            return "opens only in this browser" in driver.find_element(By.ID, "state").text

        await_true(is_bound)  # a request under way has the replaced cookie
        follow(driver, driver.find_element(By.CSS_SELECTOR, "button[formaction='/steal']"))
        rows = driver.find_elements(By.CSS_SELECTOR, "table tr")[1:]
        opened = [row.find_elements(By.TAG_NAME, "td")[2].text for row in rows]
        # From before the binding, the session cookie alone, and all cookies.
        assert opened == ["nothing (replaced)", "nothing (unbound)", "the session of ann"]


@pytest.mark.soak
@pytest.mark.parametrize("has_store", [False, True])
def test_browser_renews_its_cookie_ten_times_and_thieves_are_left_behind(
    tmp_path: Path, has_store: bool
) -> None:
    given = {"storage": f"sqlite:{tmp_path / 'sessions.db'}"} if has_store else {}
    with visit(tmp_path, **given) as its:
        before = its.sign_in()
        its.await_binding(before)
        assert its.read() == "ann bound=True refusal=None"
        stolen = its.cookies()
        assert its.read_as_thief(stolen) == "ann bound=True refusal=None"
        for number in range(1, 11):
            time.sleep(LIFE)
            assert its.read() == "ann bound=True refusal=None"
            await_true(lambda number=number: its.keeper.counts["bound-renewed"] >= number)  # type: ignore[misc]
            # The bound cookie that was copied has lived for `bound_lifetime` at most.
            assert its.read_as_thief(stolen) == "None bound=False refusal=withheld"
        # A cookie from before the binding: as the documentation says.
        as_before = its.read_as_thief({"__Host-Http-s": before})
        assert as_before.startswith("None " if has_store else "ann bound=False")
        assert its.read("/sign-out").startswith("None ")
        # A renewal under way may bring the bound cookie back, which opens nothing alone.
        assert "__Host-Http-s" not in its.cookies()
        # A second sign-in takes the place of the binding.
        its.await_binding(its.sign_in())
        time.sleep(LIFE)
        assert its.read() == "ann bound=True refusal=None"
        assert its.keeper.counts["proof-refused-signature"] == 0


@pytest.mark.soak
def test_browser_that_does_not_speak_it_notices_nothing(tmp_path: Path) -> None:
    with visit(tmp_path) as its:
        usual = [each for each in its.site.browser_arguments if "features" not in each]
        with open_browser(*usual, "--disable-features=DeviceBoundSessions") as driver:
            other = Visit(its.site, driver, its.keeper, its._sent)
            other.sign_in()
            time.sleep(LIFE + 1)
            assert other.read() == "ann bound=False refusal=None"
            assert its.keeper.counts["bound"] == 0
