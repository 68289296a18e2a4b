"""The page of the path in Chromium behind nginx, with scripts and without."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.path import PathPages
from tests.support.installed import need_driver
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
    need_driver("selenium")
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    need_driver("selenium")
    from tests.support.browser import open_browser

    # To a browser, the two names are different sites.
    with open_browser(
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    ) as driver:
        yield driver


PAGES = PathPages(Keeper(Settings(keys=[KEY.export()])))


def facts_of(browser: Any) -> dict[str, Any]:
    """The report of the result page."""
    from selenium.webdriver.support.ui import WebDriverWait

    def text(driver: Any) -> str | None:
        found = re.search(r"<textarea readonly[^>]*>(.*?)</textarea>", driver.page_source)
        return None if found is None else found[1]

    return PAGES.read_report(str(WebDriverWait(browser, 60).until(text)))


# Chromium sends a cookie without SameSite with such a form for two minutes.
CROSS_SITE = {
    "kept": "none unset lax strict",
    "post": "none unset",
    "redirect": "none unset lax",
    "site": "cross-site",
    "origin": "null",
}


def check_nothing_is_left(browser: Any) -> None:
    cookies = browser.execute_cdp_cmd("Network.getAllCookies", {})["cookies"]
    assert [cookie["name"] for cookie in cookies] == []
    problems = [entry["message"] for entry in browser.get_log("browser")]
    assert not [text for text in problems if "Content Security Policy" in text]


def test_page_with_scripts_measures_both_directions(browser: Any, port: int) -> None:
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


def test_page_without_scripts_finds_the_step_that_fails(browser: Any, port: int) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(PAGES.link(f"http://127.0.0.1:{port}{MOUNT}"))
        browser.find_element("css selector", "#start button").click()
        # A click may return before the navigation that it begins.
        WebDriverWait(browser, 60).until(
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
        cookies = browser.execute_cdp_cmd("Network.getAllCookies", {})["cookies"]
        assert cookies == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.delete_all_cookies()


@pytest.mark.parametrize("has_scripts", [True, False], ids=["scripts", "no scripts"])
def test_sandbox_posts_as_another_site_does(browser: Any, port: int, has_scripts: bool) -> None:
    mount = f"http://127.0.0.1:{port}{MOUNT}"
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not has_scripts})
    try:
        for other, origin in (
            ("", "null"),
            (f"http://localhost:{port}{MOUNT}", f"http://localhost:{port}"),
        ):
            link = PAGES.link(mount, "", other).replace("/?", "/trial/step?")
            browser.get(f"{link}&step=gone&passed=13500")
            if not has_scripts:
                assert "One more step" in browser.page_source
                browser.find_element("css selector", "button").click()
            facts = facts_of(browser)
            assert facts["cross_site"] == {**CROSS_SITE, "origin": origin}
            assert facts["problems"] == []
            check_nothing_is_left(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.delete_all_cookies()
