"""Two sessions of one request: a login, and a session that lives for months."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from sealedstate import ConfigurationError, Keeper, Key, Session, Settings
from sealedstate._cookies.header import field_bytes
from sealedstate.testing import ManualClock
from sealedstate_wsgi import ENVIRON_KEY, SealedSessionMiddleware
from tests.support.client import Client, ask, cookie_header
from tests.support.servers import gunicorn

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LASTING = "example.lasting"
DAY = 86400


def settings(clock: ManualClock, **given: Any) -> Settings:
    return Settings(keys=[Key.generate(os.urandom).export()], clock=clock, **given)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Uses the sessions that the query names: `r` and `w` for the login, `R` and `W`."""
    login: Any = environ[ENVIRON_KEY]
    lasting: Any = environ[LASTING]
    assert {type(login), type(lasting)} == {Session}
    query = environ["QUERY_STRING"]
    if "w" in query:
        login["visits"] = login.get("visits", 0) + 1
    if "W" in query:
        lasting["theme"] = "dark" * (query.count("W"))
    shown = [login.get("visits") if "r" in query else None]
    shown.append(lasting.get("theme") if "R" in query else None)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Cache-Control", "no-transform")])
    return [repr(shown).encode()]


def stack(clock: ManualClock, app: WSGIApplication = page) -> WSGIApplication:
    lasting = settings(
        clock,
        cookie_name="__Host-lasting",
        idle_lifetime=180 * DAY,
        absolute_lifetime=360 * DAY,
        persistent=True,
    )
    inner = validator(SealedSessionMiddleware(validator(app), lasting, environ_key=LASTING))
    return validator(SealedSessionMiddleware(inner, settings(clock)))


def test_two_sessions_live_side_by_side_for_their_own_lifetimes(clock: ManualClock) -> None:
    app = stack(clock)
    jar = Client(0)  # never connected
    for query, shown in (("w W", "[None, None]"), ("r R", "[1, 'dark']"), ("w", "[None, None]")):
        answer = ask(app, f"/?{query.replace(' ', '')}", jar.jar.header())
        assert answer.body.decode() == shown
        jar.receive(answer.set_cookies)
    assert ask(app, "/?rR", jar.jar.header()).body == b"[2, 'dark']"
    clock.forward(90 * DAY)
    assert ask(app, "/?rR", jar.jar.header()).body == b"[None, 'dark']"


def test_response_has_one_vary_and_one_cache_control_for_both(clock: ManualClock) -> None:
    app = stack(clock)
    both = ask(app, "/?wW")
    assert len(both.set_cookies) == 2
    assert both.all("Vary") == ["Cookie"]
    (directives,) = both.all("Cache-Control")
    assert directives.split(", ") == ["no-store", "private", "no-transform"]
    cookie = cookie_header(both.set_cookies)
    for query in ("r", "R", "rR"):
        read = ask(app, f"/?{query}", cookie)
        assert (read.all("Vary"), read.set_cookies) == (["Cookie"], [])
    assert ask(app, "/", cookie).all("Vary") == []


def test_each_counts_the_cookies_and_lines_of_the_other(clock: ManualClock) -> None:
    app = stack(clock)
    answer = ask(app, "/?w" + "W" * 500)  # 2 kB of the lasting session
    assert sum(map(field_bytes, answer.set_cookies)) <= 3072
    lasting, login = answer.set_cookies
    keeper = Keeper(settings(clock))
    info = keeper.info(keeper.session(cookie_header([lasting])))
    assert info.foreign_bytes == len(cookie_header([lasting]))
    # A login is written beside it.
    assert ask(app, "/?r", cookie_header([lasting, login])).body == b"[1, None]"


# --- what must differ ---------------------------------------------------------------------------


def test_two_sessions_with_one_cookie_name_are_refused(clock: ManualClock) -> None:
    names = (("s", "s"), ("s", "s-1"), ("s-2", "s"))
    for inner_name, outer_name in names:
        inner = SealedSessionMiddleware(
            hello, settings(clock, cookie_name=inner_name), environ_key=LASTING
        )
        outer = settings(clock, cookie_name=outer_name)
        with pytest.raises(ConfigurationError, match="cookie_name: two sessions of one request"):
            SealedSessionMiddleware(inner, outer)
        # What is between the two hides them from each other until the first request.
        app = SealedSessionMiddleware(validator(inner), outer)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="give each its own cookie_name"):
                ask(app)


def test_two_sessions_in_one_place_are_refused(clock: ManualClock) -> None:
    inner = SealedSessionMiddleware(hello, settings(clock, cookie_name="lasting"))
    with pytest.raises(ConfigurationError, match=r"environ_key: two sessions.*'sealedstate"):
        SealedSessionMiddleware(inner, settings(clock))
    with pytest.raises(ConfigurationError, match="environ_key"):
        ask(SealedSessionMiddleware(validator(inner), settings(clock)))


def test_one_keeper_at_two_places_of_the_environ_is_refused(clock: ManualClock) -> None:
    keeper = Keeper(settings(clock))
    inner = SealedSessionMiddleware(hello, keeper, environ_key=LASTING)
    with pytest.raises(ConfigurationError, match="cookie_name"):
        ask(SealedSessionMiddleware(validator(inner), keeper))


def test_application_that_is_called_again_with_its_environ_gets_a_session(
    clock: ManualClock,
) -> None:
    app = SealedSessionMiddleware(hello, settings(clock))

    def again(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        list(app({**environ, "wsgi.errors": environ["wsgi.errors"]}, lambda *_: lambda data: None))
        environ[ENVIRON_KEY] = app.keeper.session()
        return app(environ, start_response)

    assert ask(again).body == b"hello"
    # Applications beside one another may have what they like.
    other = SealedSessionMiddleware(hello, settings(clock))
    assert ask(other).body == ask(app).body == b"hello"


SERVED = """
import os
from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def page(environ, start_response):
    login, lasting = environ["sealedstate.session"], environ["example.lasting"]
    login.subject = login.subject or "ann"
    lasting["visits"] = lasting.get("visits", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain"), ("Vary", "Accept")])
    return [f"{login.subject} {lasting['visits']}".encode()]


inner = SealedSessionMiddleware(
    page, Settings(cookie_name="__Host-lasting"), environ_key="example.lasting"
)
application = SealedSessionMiddleware(inner, Settings())
"""


def test_two_sessions_are_kept_by_a_real_server(tmp_path: Path) -> None:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    with gunicorn(tmp_path, SERVED, environ=environ, workers=2) as server:
        client = Client(server.port)
        for number in range(1, 4):
            answer = client.get("/")
            assert answer.body.decode() == f"ann {number}"
            assert answer.all("Vary") == ["Accept, Cookie"]
            assert answer.all("Cache-Control") == ["no-store, private"]
        assert len(client.jar.header().split("; ")) == 2
