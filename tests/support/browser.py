"""A real browser for tests: headless Chromium with an empty profile, driven by chromedriver.

It reaches this machine only, and leaves nothing behind when it is closed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

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
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
    "--window-size=1200,1000",
)

_HAS_ARRIVED = "return window.leaving !== true && document.readyState === 'complete'"


@contextlib.contextmanager
def open_browser(*arguments: str) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile. Skips the test if none is installed, or fails it.

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


def follow(driver: webdriver.Chrome, element: WebElement) -> None:
    """Click `element`, a link or a button, and wait for the page that it leads to."""
    driver.execute_script("window.leaving = true")
    element.click()
    # Asked during a change of pages, chromedriver answers with one of several errors.
    wait = WebDriverWait(driver, PATIENCE, ignored_exceptions=[WebDriverException])
    wait.until(lambda _: driver.execute_script(_HAS_ARRIVED))


def forget_visitor(driver: webdriver.Chrome) -> None:
    """Empty the jar, of all hosts, and the console: tests share a browser, in any order."""
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    complaints(driver)


def complaints(driver: webdriver.Chrome) -> list[dict[str, Any]]:
    """The warnings and errors that the browser has written to its console since the last call.

    It also notes, as information, that the driver typed into a page before the page's autofocus.
    """
    found: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry for entry in found if entry["level"] != "INFO"]


def take_picture(driver: webdriver.Chrome, path: Path, width: int, height: int) -> None:
    """Save what a window of that size shows of the page."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.save_screenshot(str(path))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
