"""The page of the path in Chromium and Firefox behind nginx, with scripts and without."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium", reason="not installed: selenium")

from selenium.common.exceptions import WebDriverException
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from sealedstate import Keeper, Key, Settings
from sealedstate.path import PathPages
from tests.support.browser import BROWSERS, all_cookies, complaints, open_either
from tests.support.path_stacks import Backend, Front
from tests.support.servers import running

pytestmark = [pytest.mark.server, pytest.mark.slow]

KEY = Key.generate(os.urandom)
MOUNT = "/sealedstate/path"
APPLICATION = """
from sealedstate import Keeper, Settings
from sealedstate_wsgi import PathApplication

pages = PathApplication(Keeper(Settings(keys="env:")))


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/sealedstate/path/"):
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = path[:17], path[17:]
        return pages(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ.get("HTTP_COOKIE", "").encode()]
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nginx with its defaults, in front of waitress."""
    folder = tmp_path_factory.mktemp("path")
    backend = Backend("waitress", folder)
    backend.environ = {**(backend.environ or {}), "SEALEDSTATE_KEYS": KEY.export()}
    with running(backend, APPLICATION):
        (folder / "front").mkdir()
        proxy = Front("nginx", folder / "front", backend.port)
        try:
            proxy.start()
            yield proxy.port
        finally:
            proxy.kill9()


@pytest.fixture(scope="module", params=BROWSERS)
def browser(request: pytest.FixtureRequest) -> Iterator[WebDriver]:
    with open_either(request.param) as driver:
        yield driver


@pytest.fixture(scope="module", params=BROWSERS)
def plain_browser(request: pytest.FixtureRequest) -> Iterator[WebDriver]:
    """One that runs no scripts of pages."""
    with open_either(request.param, runs_scripts=False) as driver:
        yield driver


PAGES = PathPages(Keeper(Settings(keys=[KEY.export()])))


def facts_of(browser: WebDriver) -> dict[str, Any]:
    """The report of the result page."""

    def text(driver: WebDriver) -> str | None:
        found = re.search(r"<textarea readonly[^>]*>(.*?)</textarea>", driver.page_source)
        return None if found is None else found[1]

    wait = WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException])
    return PAGES.read_report(str(wait.until(text)))


# Chromium sends a cookie without SameSite with such a form for two minutes.
CROSS_SITE = {
    "kept": "none unset lax strict",
    "post": "none unset",
    "redirect": "none unset lax",
    "site": "cross-site",
    "origin": "null",
}


def check_nothing_is_left(browser: WebDriver) -> None:
    assert [cookie["name"] for cookie in all_cookies(browser)] == []
    problems = [entry["message"] for entry in complaints(browser)]
    # The two browsers write it differently.
    assert not [text for text in problems if "content" in text.lower() and "policy" in text.lower()]


def test_page_with_scripts_measures_both_directions(browser: WebDriver, port: int) -> None:
    browser.get(PAGES.link(f"http://127.0.0.1:{port}{MOUNT}", "ticket 7"))
    browser.find_element("css selector", "#start button").click()
    facts = facts_of(browser)
    assert (facts["label"], facts["server"]) == ("ticket 7", "waitress")
    assert 0.95 * 8180 <= facts["cookie"]["passed"] <= 8190 < facts["cookie"]["refused"]
    assert facts["cookie"]["answer"] == "400"
    assert 3700 <= facts["set_cookie"]["passed"] <= 4096
    assert 3850 <= facts["response"]["passed"] <= 4096
    assert facts["response"]["answer"] == "502"
    assert (facts["kept"], facts["deleted"], facts["storage"], facts["left"]) == (
        True,
        True,
        True,
        0,
    )
    assert abs(facts["clock"]) <= 2
    assert facts["cross_site"] == CROSS_SITE
    assert facts["fitting"] == ["tight", "portable"]
    assert "carry what this site needs" in browser.page_source
    check_nothing_is_left(browser)


def test_page_without_scripts_finds_the_step_that_fails(
    plain_browser: WebDriver, port: int
) -> None:
    browser = plain_browser
    browser.get(PAGES.link(f"http://127.0.0.1:{port}{MOUNT}"))
    browser.find_element("css selector", "#start button").click()
    # A click may return before the navigation that it begins.
    WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException]).until(
        lambda driver: "Request Header Or Cookie Too Large" in driver.page_source
    )
    # Every other page works meanwhile, and gets no trial cookie.
    start = browser.current_url
    browser.get(f"http://127.0.0.1:{port}/")
    assert "t0=" not in browser.page_source
    browser.get(PAGES.link(f"http://127.0.0.1:{port}{MOUNT}"))
    assert "/trial/step" in start
    browser.find_element("css selector", "form[action^=failed] button").click()
    facts = facts_of(browser)
    assert facts["cookie"] == {"passed": 7600, "refused": 9600, "answer": "400"}
    check_nothing_is_left(browser)


def submit_cross_site(browser: WebDriver, port: int, has_button: bool) -> None:
    mount = f"http://127.0.0.1:{port}{MOUNT}"
    # To a browser, the two names are different sites.
    other = f"http://localhost:{port}{MOUNT}"
    for elsewhere, origin in (("", "null"), (other, f"http://localhost:{port}")):
        link = PAGES.link(mount, "", elsewhere).replace("/?", "/trial/step?")
        browser.get(f"{link}&step=gone&passed=13500")
        if has_button:
            assert "One more step" in browser.page_source
            browser.find_element("css selector", "button").click()
        facts = facts_of(browser)
        assert facts["cross_site"] == {**CROSS_SITE, "origin": origin}
        assert facts["problems"] == []
        check_nothing_is_left(browser)


def test_sandbox_posts_as_another_site_does(browser: WebDriver, port: int) -> None:
    submit_cross_site(browser, port, has_button=False)


def test_sandbox_without_scripts_has_a_button(plain_browser: WebDriver, port: int) -> None:
    submit_cross_site(plain_browser, port, has_button=True)
