"""No visitor behind nginx's cache gets the page or the cookie of another.

nginx before 1.23 obeys only the last of several Vary lines, so the pages here have several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate import Keeper, Key, Settings
from tests.support.client import Answer, cookie_header, send
from tests.support.nginx import Nginx, started
from tests.support.servers import WebServer, running

pytestmark = pytest.mark.server

APPLICATION = """
from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware

HEADERS = {
    "/two-lines": [("Vary", "Cookie"), ("Vary", "Accept-Language")],
    "/three-lines": [("vary", "Accept"), ("Vary", "Cookie"), ("VARY", "Accept-Language")],
    "/before": [("Vary", "Accept-Language"), ("Vary", "Accept")],
    "/one-line": [("Vary", "Accept-Language, Cookie")],
    "/none": [],
    "/shared": [("Vary", "Accept"), ("Vary", "Accept-Language")],
    "/private-first": [("Cache-Control", "private"), ("Cache-Control", "max-age=600")],
    "/write": [("X-Accel-Expires", "600"), ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")],
}


def served(environ, start_response):
    path, session = environ["PATH_INFO"], environ["sealedstate.session"]
    name = "a visitor" if path == "/shared" else session.subject
    if path == "/write":
        session["seen"] = session.get("seen", 0) + 1
    headers = [("Content-Type", "text/plain"), *HEADERS.get(path, [])]
    if path != "/private-first":
        headers.append(("Cache-Control", "public, max-age=600"))
    start_response("200 OK", headers)
    return [f"dear {name}".encode()]


application = SealedSessionMiddleware(served, Settings(keys="env:"))
"""
CONFIGURATION = """
    proxy_cache_path {directory}/cache keys_zone=pages:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_cache pages;
            {ignored}
            add_header X-Cache $upstream_cache_status;
        }}
    }}
"""
KEY = Key.generate(os.urandom)


# The second obeys what targeted fields say, although a cookie comes with them.
@pytest.fixture(params=["", "proxy_ignore_headers Set-Cookie;"], ids=["default", "cookies"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    backend = WebServer("waitress", tmp_path, environ={"SEALEDSTATE_KEYS": KEY.export()})

    def http(port: int) -> str:
        return CONFIGURATION.format(
            directory=tmp_path, port=port, backend=backend.port, ignored=request.param
        )

    with running(backend, APPLICATION), started(Nginx(tmp_path, http)) as front:
        yield front.port


def browser_of(subject: str) -> str:
    """The Cookie header of a browser that is signed in."""
    keeper = Keeper(Settings(keys=[KEY.export()]))
    session = keeper.session()
    session.subject = subject
    return cookie_header(keeper.save(session))


def visit(port: int, path: str, cookie: str) -> tuple[Answer, str]:
    """The answer, and whether it came from the cache: HIT, MISS, or another word of nginx."""
    answer = send(port, "GET", path, cookie)
    return answer, answer.all("X-Cache")[0]


def test_cache_gives_each_visitor_their_page_and_keeps_it(port: int) -> None:
    visitors = {name: browser_of(name) for name in ("alice", "bob")} | {"None": ""}
    for path in ("/two-lines", "/three-lines", "/before", "/one-line", "/none"):
        for expected in ("MISS", "HIT"):
            for name, cookie in visitors.items():
                answer, cached = visit(port, path, cookie)
                assert (answer.body, cached) == (f"dear {name}".encode(), expected)
    for name, cookie in [*visitors.items(), *visitors.items()]:
        answer, cached = visit(port, "/private-first", cookie)
        assert (answer.body, cached) == (f"dear {name}".encode(), "MISS")


def test_cache_keeps_no_response_with_a_cookie(port: int) -> None:
    visitors = {name: browser_of(name) for name in ("alice", "bob")}
    for name, cookie in [*visitors.items(), *visitors.items()]:
        answer, cached = visit(port, "/write", cookie)
        assert (answer.body, cached) == (f"dear {name}".encode(), "MISS")
        assert len(answer.set_cookies) == 1


def test_cache_shares_the_page_of_an_untouched_session(port: int) -> None:
    answers = [visit(port, "/shared", browser_of(name)) for name in ("alice", "bob")]
    assert [cached for _, cached in answers] == ["MISS", "HIT"]
