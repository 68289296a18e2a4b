"""A form of another site, in a real browser: it replaces no login, and can sign in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from selenium.webdriver.common.by import By

from sealedstate import Key, Settings
from sealedstate_wsgi import SealedSessionMiddleware
from tests.support.browser import follow, open_browser

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from selenium import webdriver

pytestmark = pytest.mark.server


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    session = environ["sealedstate.session"]
    path = environ["PATH_INFO"]
    if path == "/sign-in":
        session.subject = "alice"
    if path == "/assertion":
        session.subject = "bob"
    if path == "/paid":
        session["paid"] = True
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{session.subject} {session.withheld}".encode()]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    settings = Settings(keys=[Key.generate(os.urandom).export()])
    app = SealedSessionMiddleware(application, settings)
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def text_at(driver: webdriver.Chrome, url: str) -> str:
    driver.get(url)
    return driver.find_element(By.TAG_NAME, "body").text


def submit_from_another_site(driver: webdriver.Chrome, url: str) -> str:
    """The page that a form of another site leads to."""
    form = f'<form method="post" action="{url}"><button>go</button></form>'
    driver.get(f"data:text/html,{quote(form)}")
    follow(driver, driver.find_element(By.TAG_NAME, "button"))
    return driver.find_element(By.TAG_NAME, "body").text


def test_form_of_another_site_replaces_no_login_and_can_sign_in(address: str) -> None:
    with open_browser() as driver:
        assert text_at(driver, f"{address}/sign-in") == "alice None"
        assert submit_from_another_site(driver, f"{address}/paid") == "None cross-site"
        assert text_at(driver, f"{address}/") == "alice None"
        assert submit_from_another_site(driver, f"{address}/assertion") == "bob cross-site"
        assert text_at(driver, f"{address}/") == "bob None"
