"""Real browsers for tests, headless and with empty profiles, behind selenium's interface.

Chromium is driven by chromedriver, and Firefox by itself. They reach this machine only, and leave
nothing behind when they are closed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.firefox import HAS_ARRIVED, LEAVE, Firefox, open_firefox
from tests.support.installed import program

PATIENCE = 60  # seconds; a page of this machine that takes longer is broken

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # small in containers: pages crash
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--hide-scrollbars",
    "--window-size=1200,1000",
)

# Firefox has a preference for it, and then `null` in its place.
_BLOCKED = (
    "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('blocked',"
    " 'SecurityError'); }});"
)
# Firefox is installed by `make soak` and `make paths` only.
BROWSERS = ["chromium", pytest.param("firefox", marks=pytest.mark.soak)]


@contextlib.contextmanager
def open_browser(*arguments: str) -> Iterator[webdriver.Chrome]:
    """Chromium with an empty profile. Skips the test if none is installed, or fails it.

    `arguments`: of its command line, beside the usual ones.
    """
    chromium = program("chromium", "chromium-browser", "google-chrome")
    service = Service(program("chromedriver"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*ARGUMENTS, *arguments, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, service)
        try:
            yield driver
        finally:
            driver.quit()  # stops chromedriver and the browser that it has started


@contextlib.contextmanager
def open_either(
    name: str, *, runs_scripts: bool = True, has_storage: bool = True
) -> Iterator[WebDriver]:
    """One of BROWSERS. `runs_scripts`: those of pages. `has_storage`: Web Storage."""
    if name == "firefox":
        preferences = {"javascript.enabled": runs_scripts, "dom.storage.enabled": has_storage}
        with open_firefox(preferences) as firefox:
            yield firefox
        return
    with open_browser() as chromium:
        if not runs_scripts:
            chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        if not has_storage:
            source = {"source": _BLOCKED}
            chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
        yield chromium


def follow(driver: WebDriver, element: WebElement) -> None:
    """Click `element`, a link or a button, and wait for the page that it leads to."""
    driver.execute_script(LEAVE)
    element.click()
    # Asked during a change of pages, both answer with one of several errors.
    wait = WebDriverWait(driver, PATIENCE, ignored_exceptions=[WebDriverException])
    wait.until(lambda _: driver.execute_script(f"return {HAS_ARRIVED}"))


def forget_visitor(driver: WebDriver) -> None:
    """Empty the jar, of all hosts, and the console: tests share a browser, in any order."""
    if isinstance(driver, Firefox):
        driver.send("storage.deleteCookies")
    else:
        cast(webdriver.Chrome, driver).execute_cdp_cmd("Network.clearBrowserCookies", {})
    complaints(driver)


def all_cookies(driver: WebDriver) -> list[dict[str, Any]]:
    """The cookies of all hosts and paths."""
    if isinstance(driver, Firefox):
        return driver.all_cookies()
    found = cast(webdriver.Chrome, driver).execute_cdp_cmd("Network.getAllCookies", {})
    return cast(list[dict[str, Any]], found["cookies"])


def complaints(driver: WebDriver) -> list[dict[str, Any]]:
    """The warnings and errors that the browser has written to its console since the last call.

    Chromium also notes, as information, that the driver typed into a page before its autofocus.
    """
    if isinstance(driver, Firefox):
        return driver.complaints()
    chromium = cast(webdriver.Chrome, driver)
    found: list[dict[str, Any]] = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry for entry in found if entry["level"] != "INFO"]


def take_picture(driver: WebDriver, path: Path, width: int, height: int) -> None:
    """Save what a window of Chromium of that size shows of the page."""
    chromium = cast(webdriver.Chrome, driver)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.save_screenshot(str(path))
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
