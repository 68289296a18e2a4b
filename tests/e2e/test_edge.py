"""nginx asks the gate of docs/edge.md for each request to a backend that knows no sessions."""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sealedstate import Keeper, Key, Settings
from tests.support.client import Answer, cookie_header
from tests.support.documents import Document
from tests.support.jar import Jar
from tests.support.nginx import Nginx, started
from tests.support.ports import free_port
from tests.support.servers import WebServer, running

pytestmark = pytest.mark.server

DOCUMENT = Document("edge.md")
BACKEND = """
import json


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    names = ("PATH_INFO", "HTTP_X_GATE_USER", "HTTP_COOKIE")
    return [json.dumps([environ.get(name) for name in names]).encode()]
"""
KEY, UNKNOWN_KEY = (Key.generate(os.urandom) for _ in range(2))


def nginx(directory: Path, gate: int, backend: int) -> Nginx:
    """nginx with the document's configuration, without TLS, in front of two servers."""

    def http(port: int) -> str:
        server = DOCUMENT.block("nginx")
        for shown, here in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port}"),
            ("127.0.0.1:8001", f"127.0.0.1:{gate}"),
            ("127.0.0.1:8002", f"127.0.0.1:{backend}"),
        ):
            assert shown in server
            server = server.replace(shown, here)
        return server

    return Nginx(directory, http, "/account/sign-in")


def ask(port: int, method: str, path: str, *headers: tuple[str, str], body: str = "") -> Answer:
    """One request, with these header lines as they are, whatever their names."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
        line.putrequest(method, path)
        line.putheader("Content-Type", "application/x-www-form-urlencoded")
        line.putheader("Content-Length", str(len(body)))
        for name, value in headers:
            line.putheader(name, value)
        line.endheaders(body.encode())
        response = line.getresponse()
        return Answer(response.status, response.getheaders(), response.read())


class Site:
    """A site behind the gate. `settings`: those of its nodes."""

    def __init__(self, port: int, backend: int, settings: Settings) -> None:
        self.port, self.backend, self.settings = port, backend, settings

    def visit(self, cookie: str, *headers: tuple[str, str]) -> Answer:
        return ask(self.port, "GET", "/page", ("Cookie", cookie), *headers)

    def sign_in(self, name: str) -> str:
        """The Cookie header of a browser after its sign-in."""
        answer = ask(self.port, "POST", "/account/sign-in", body=f"name={name}")
        assert answer.status == 303
        jar = Jar()
        jar.receive(answer.set_cookies)
        return jar.header()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    places = [tmp_path_factory.mktemp(name) for name in ("gate", "backend", "nginx")]
    environ = {
        "SEALEDSTATE_KEYS": KEY.export(),
        "SEALEDSTATE_STORAGE": f"sqlite:{places[0] / 'store.db'}",
        "SEALEDSTATE_REFRESH_AFTER": "60",
    }
    gate = WebServer("waitress", places[0], environ=environ)
    backend = WebServer("waitress", places[1])
    front = nginx(places[2], gate.port, backend.port)
    with running(gate, DOCUMENT.block("gate")), running(backend, BACKEND), started(front):
        yield Site(front.port, backend.port, Settings.from_env(environ))


def is_sent_to_sign_in(answer: Answer) -> bool:
    (location,) = answer.all("Location") or [""]
    return answer.status == 302 and location.endswith("/account/sign-in")


def test_user_of_the_session_passes_and_clients_cannot_name_another(site: Site) -> None:
    cookie = site.sign_in("J%C3%B6rg%0D%0A")
    for lie in ((), (("X-Gate-User", "root"),), (("x-gate-USER", "root"), ("X-Gate-User", "eve"))):
        answer = site.visit(cookie, *lie)
        assert answer.status == 200
        # Neither the lie nor the cookie has come through.
        assert answer.json == ["/page", "J%C3%B6rg%0D%0A", None]
        assert answer.set_cookies == []
        assert answer.all("Cache-Control") == ["private, no-store"]
    assert site.visit(cookie, ("X_Gate_User", "root")).json[1] == "J%C3%B6rg%0D%0A"
    for lie in ((("X-Gate-User", "root"),), (("X_Gate_User", "root"),)):
        assert is_sent_to_sign_in(site.visit("", *lie))
    assert ask(site.port, "GET", "/_gate", ("Cookie", cookie)).status == 404


def test_logged_out_and_forged_sessions_are_sent_to_the_sign_in(site: Site) -> None:
    cookie = site.sign_in("ann")
    forged = cookie[:-8] + ("A" if cookie[-8] != "A" else "B") + cookie[-7:]
    for other in ("", "a=b", forged):
        assert is_sent_to_sign_in(site.visit(other))
    assert site.visit(f"{cookie}; theme=dark").status == 200
    answer = ask(site.port, "POST", "/account/sign-out", ("Cookie", cookie))
    assert answer.status == 303
    assert is_sent_to_sign_in(site.visit(cookie))  # a copy, in the next request


def test_withheld_session_gets_neither_the_page_nor_the_sign_in(site: Site) -> None:
    keeper = Keeper(Settings(keys=[UNKNOWN_KEY.export()]))
    session = keeper.session()
    session.subject = "ann"
    answer = site.visit(cookie_header(keeper.save(session)))
    assert (answer.status, answer.all("Retry-After")) == (503, ["30"])
    assert answer.set_cookies == []


def test_refreshed_cookie_reaches_the_browser_and_passes(site: Site) -> None:
    then = Keeper(replace(site.settings, clock=lambda: time.time() - 300))
    session = then.session()
    session.subject = "ann"
    cookie = cookie_header(then.save(session))
    jar, answer = Jar(), site.visit(cookie)
    assert (answer.status, len(answer.set_cookies)) == (200, 1)
    jar.receive(answer.set_cookies)
    refreshed = site.visit(jar.header())
    assert (refreshed.json[1], refreshed.set_cookies) == ("ann", [])


def test_form_of_another_site_is_sent_to_the_sign_in(site: Site) -> None:
    site.sign_in("ann")  # whose cookie the browser holds back
    answer = ask(site.port, "POST", "/page", ("Sec-Fetch-Site", "cross-site"), body="a=b")
    assert is_sent_to_sign_in(answer)


def test_no_request_passes_while_the_gate_is_down(site: Site, tmp_path: Path) -> None:
    with started(front := nginx(tmp_path, free_port(), site.backend)):
        answer = ask(front.port, "GET", "/page", ("Cookie", site.sign_in("ann")))
        assert answer.status == 500
        assert b"ann" not in answer.body
