"""Cookies in real browsers: what they keep, and what a form of another site brings."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from selenium.webdriver.common.by import By

from sealedstate import Key, Settings
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.browser import (
    BROWSERS,
    all_cookies,
    complaints,
    follow,
    forget_visitor,
    open_either,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from selenium.webdriver.remote.webdriver import WebDriver

pytestmark = pytest.mark.server


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    session = environ["sealedstate.session"]
    path = environ["PATH_INFO"]
    if path.endswith("/sign-in"):
        session.subject = "alice"
    if path.endswith("/sign-out"):
        session.invalidate()
    if path == "/assertion":
        session.subject = "bob"
    if path == "/paid":
        session["paid"] = True
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{session.subject} {session.withheld}".encode()]


@contextlib.contextmanager
def serve(**settings: Any) -> Iterator[str]:
    """The address of the application with these settings."""
    made = Settings(keys=[Key.generate(os.urandom).export()], **settings)
    app = SealedSessionMiddleware(application, made)
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", params=BROWSERS)
def opened(request: pytest.FixtureRequest) -> Iterator[WebDriver]:
    with open_either(request.param) as driver:
        yield driver


@pytest.fixture
def driver(opened: WebDriver) -> WebDriver:
    forget_visitor(opened)
    return opened


def text_at(driver: WebDriver, url: str) -> str:
    driver.get(url)
    return driver.find_element(By.TAG_NAME, "body").text


def submit_from_another_site(driver: WebDriver, url: str) -> str:
    """The page that a form of another site leads to."""
    form = f'<form method="post" action="{url}"><button>go</button></form>'
    driver.get(f"data:text/html,{quote(form)}")
    follow(driver, driver.find_element(By.TAG_NAME, "button"))
    return driver.find_element(By.TAG_NAME, "body").text


def test_form_of_another_site_replaces_no_login_and_can_sign_in(driver: WebDriver) -> None:
    with serve() as address:
        assert text_at(driver, f"{address}/sign-in") == "alice None"
        assert submit_from_another_site(driver, f"{address}/paid") == "None cross-site"
        assert text_at(driver, f"{address}/") == "alice None"
        assert submit_from_another_site(driver, f"{address}/assertion") == "bob cross-site"
        assert text_at(driver, f"{address}/") == "bob None"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("__Host-Http-s", "Lax")),
        ({"same_site": "Strict"}, ("__Host-Http-s", "Strict")),
        ({"same_site": "None"}, ("__Host-Http-s", "None")),
        ({"same_site": "None", "partitioned": True}, ("__Host-Http-s", "None")),
        ({"cookie_path": "/app"}, None),
    ],
)
def test_browsers_keep_the_cookies_of_every_setting(
    driver: WebDriver, settings: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    with serve(**settings) as address:
        assert text_at(driver, f"{address}/app/sign-in") == "alice None"
        assert text_at(driver, f"{address}/app/") == "alice None"
        (cookie,) = all_cookies(driver)
        assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
        assert cookie["path"] == settings.get("cookie_path", "/")
        assert complaints(driver) == []
        if expected is not None:  # without the prefix, a script can set one for another path
            assert (cookie["name"], cookie["sameSite"]) == expected
            script = "document.cookie = arguments[0] + '=planted; Path=/; Secure'"
            driver.execute_script(script, cookie["name"])
            assert text_at(driver, f"{address}/app/") == "alice None"
        text_at(driver, f"{address}/app/sign-out")
        assert all_cookies(driver) == []
