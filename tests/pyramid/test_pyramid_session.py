"""What is special in Pyramid: ISession, ini settings, callbacks, exception views."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyramid", reason="not installed: pyramid")
pytest.importorskip("webtest", reason="not installed: webtest")

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import LegacySessionCSRFStoragePolicy, SessionCSRFStoragePolicy, get_csrf_token
from pyramid.events import NewRequest, NewResponse
from pyramid.httpexceptions import HTTPFound
from pyramid.interfaces import ISession
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
from webtest import TestApp as Browser
from zope.interface.verify import verifyObject

from sealedstate import ConfigurationError, Key, LateRead, LateWrite, UnsupportedValue
from sealedstate.keyring import export_lookup
from sealedstate_pyramid import SealedSessionFactory

HTTPS = {"wsgi.url_scheme": "https"}


class Site:
    """An application of single views, and its settings."""

    def __init__(self, folder: Path) -> None:
        keys = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
        self.settings: dict[str, Any] = {
            "sealedstate.keys": keys,
            "sealedstate.storage": f"sqlite:{folder / 'store.db'}",
        }
        self.keepers: list[Any] = []

    def browser(
        self,
        views: dict[str, Callable[[Request], Any]],
        prepare: Callable[[Configurator], object] = repr,
    ) -> Browser:
        with Configurator(settings=self.settings) as config:
            config.include("sealedstate_pyramid")
            for name, view in {"put": put, "show": show, **views}.items():
                config.add_route(name, f"/{name}")
                config.add_view(view, route_name=name, renderer="json")
            prepare(config)
            self.keepers.append(config.registry["sealedstate"])
            return Browser(config.make_wsgi_app(), HTTPS)


def put(request: Request) -> str:
    request.session["cart"] = ["tea"]
    return "put"


def show(request: Request) -> dict[str, Any]:
    return dict(request.session)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in os.environ:
        if name.startswith("SEALEDSTATE_"):
            monkeypatch.delenv(name)
    made = Site(tmp_path)
    yield made
    for keeper in made.keepers:
        keeper.deployment.close()


def test_session_is_what_pyramid_calls_one(site: Site) -> None:
    def view(request: Request) -> list[Any]:
        session = request.session
        assert verifyObject(ISession, session)
        return [session.new, abs(session.created - site.keepers[0].deployment.now()) < 5]

    assert site.browser({"view": view}).get("/view").json == [True, True]


def test_flashed_messages_are_shown_once(site: Site) -> None:
    def say(request: Request) -> str:
        for message, queue, again in [("a", "", True), ("a", "", False), ("b", "x", True)]:
            request.session.flash(message, queue, again)
        return "said"

    def hear(request: Request) -> list[Any]:
        session = request.session
        return [session.peek_flash(), session.pop_flash(), session.pop_flash("x")]

    browser = site.browser({"say": say, "hear": hear})
    browser.get("/say")
    assert browser.get("/hear").json == [["a"], ["a"], ["b"]]
    assert browser.get("/hear").json == [[], [], []]


@pytest.mark.parametrize("policy", [LegacySessionCSRFStoragePolicy, SessionCSRFStoragePolicy])
def test_token_against_other_sites_is_kept(site: Site, policy: Any) -> None:
    def prepare(config: Configurator) -> None:
        config.set_csrf_storage_policy(policy())
        config.set_default_csrf_options(require_csrf=True)

    browser = site.browser({"token": get_csrf_token}, prepare)
    token = browser.get("/token").json
    assert browser.get("/token").json == token
    assert browser.post("/put", {"csrf_token": token}, {"Referer": "https://localhost/"}).json
    assert browser.post("/put", {"csrf_token": "other"}, HTTPS, status=400)


@pytest.mark.parametrize("way", ["invalidate", "forget"])
def test_captured_cookie_is_refused_after_a_logout(site: Site, way: str) -> None:
    helper = SessionAuthenticationHelper()

    def login(request: Request) -> str:
        helper.remember(request, "7")
        return str(request.session.id)

    def logout(request: Request) -> str:
        if way == "forget":
            helper.forget(request)
        else:
            request.session.invalidate()
            request.session["after"] = 1
        return "out"

    browser = site.browser({"login": login, "logout": logout})
    before = browser.get("/login").json
    assert browser.get("/login").json != before
    captured = dict(browser.cookies)
    browser.get("/logout")
    assert browser.get("/show").json == ({} if way == "forget" else {"after": 1})
    browser.reset()
    for name, value in captured.items():
        browser.set_cookie(name, value)
    assert browser.get("/show").json == {}


def test_settings_are_in_the_ini_file(site: Site) -> None:
    site.settings["sealedstate.cookie_name"] = "shop"
    site.settings["sealedstate.same_site"] = "Strict"
    site.settings["sealedstate.keys"] = "\n".join(site.settings["sealedstate.keys"])
    line = site.browser({}).get("/put").headers["Set-Cookie"]
    assert line.startswith("shop=")
    assert "SameSite=Strict" in line
    site.settings["sealedstate.cookie_nam"] = "shop"
    with pytest.raises(ConfigurationError, match=r"sealedstate\.cookie_name"):
        site.browser({})


def test_session_is_saved_after_all_other_callbacks(site: Site) -> None:
    def later(request: Request, response: Response) -> None:
        request.add_response_callback(last)
        request.session["later"] = 1
        response.set_cookie("theme", "dark")

    def last(request: Request, response: Response) -> None:
        request.session["last"] = 1

    def view(request: Request) -> str:
        request.session.get("cart")
        request.add_response_callback(later)
        return "viewed"

    browser = site.browser({"view": view})
    assert len(browser.get("/view").headers.getall("Set-Cookie")) == 2
    assert browser.get("/show").json == {"later": 1, "last": 1}


@pytest.mark.parametrize("is_read", [True, False])
def test_callback_may_use_the_session_first_and_last(site: Site, is_read: bool) -> None:
    def write(request: Request, response: Response) -> None:
        request.session["seen"] = 1

    def view(request: Request) -> int:
        return len(request.session) if is_read else 0

    def prepare(config: Configurator) -> None:
        assert not config.registry.has_listeners  # which would slow every request
        config.add_subscriber(lambda event: event.request.add_response_callback(write), NewRequest)

    browser = site.browser({"view": view}, prepare)
    assert "Set-Cookie" in browser.get("/view").headers
    assert browser.get("/show").json == {"seen": 1}


def test_session_is_saved_with_an_exception_view_only(site: Site) -> None:
    def broken(request: Request) -> None:
        request.session["broken"] = 1
        raise KeyError(request.GET["kind"])

    def fail(request: Request) -> None:
        request.session["failed"] = 1
        raise RuntimeError("failed")

    def answer(error: Exception, request: Request) -> Response:
        request.session["seen"] = 1
        return Response("sorry", status=500)

    def prepare(config: Configurator) -> None:
        config.add_exception_view(answer, context=KeyError)

    browser = site.browser({"broken": broken, "fail": fail}, prepare)
    with pytest.raises(RuntimeError):
        browser.get("/fail")
    assert browser.get("/show").json == {}
    browser.get("/broken?kind=a", status=500)
    assert browser.get("/show").json == {"broken": 1, "seen": 1}


def fail_after(handler: Any, registry: Any) -> Any:
    """A tween that fails after the view, as the commit of a transaction may."""

    def tween(request: Request) -> Response:
        response = handler(request)
        if request.path == "/commit":
            raise KeyError("commit")
        return response

    return tween


@pytest.mark.parametrize("path", ["broken", "commit"])
def test_response_of_an_exception_view_may_leave_the_cookies(site: Site, path: str) -> None:
    def broken(request: Request) -> None:
        request.session["broken"] = 1
        if path == "broken":
            raise KeyError("broken")

    def answer(error: Exception, request: Request) -> Response:
        return Response("sorry", status=500)

    def prepare(config: Configurator) -> None:
        keeper = config.registry["sealedstate"]
        config.set_session_factory(SealedSessionFactory(keeper, set_on_exception=False))
        config.add_exception_view(answer, context=KeyError)
        config.add_tween(f"{__name__}.fail_after", under=EXCVIEW)

    browser = site.browser({path: broken}, prepare)
    answered = browser.get(f"/{path}", status=500)
    assert site.keepers[0].counts["saved"] == 0
    assert (answered.headers.getall("Set-Cookie"), answered.vary) == ([], ("Cookie",))
    assert browser.get("/show").json == {}


@pytest.mark.parametrize("is_raised", [True, False])
@pytest.mark.parametrize("is_answered", [True, False])
def test_failed_save_leaves_the_cookies_as_they_are(
    site: Site, is_answered: bool, is_raised: bool
) -> None:
    def broken(request: Request) -> str:
        request.session["cart"].append(object())
        if is_raised:
            raise HTTPFound("/show")
        return "broken"

    def answer(error: Exception, request: Request) -> Response:
        request.session["seen"] = 1
        return Response(type(error).__name__, status=500)

    def prepare(config: Configurator) -> None:
        if is_answered:
            config.add_exception_view(answer, context=UnsupportedValue)

    browser = site.browser({"broken": broken}, prepare)
    browser.get("/put")
    if is_answered:
        page = browser.get("/broken", status=500)
        assert (page.text, page.vary) == ("UnsupportedValue", ("Cookie",))
        assert "Set-Cookie" not in page.headers
    else:
        with pytest.raises(UnsupportedValue):
            browser.get("/broken")
    assert browser.get("/show").json == {"cart": ["tea"]}


def test_session_is_sealed_once_although_it_is_saved_early(site: Site) -> None:
    browser = site.browser({})
    browser.get("/put")
    assert site.keepers[0].counts["saved"] == 1


def test_what_cannot_be_opened_is_named_as_in_the_ini_file(site: Site) -> None:
    site.settings["sealedstate.storage"] = "oracle://cache"
    with pytest.raises(ConfigurationError, match=r"^sealedstate\.storage: "):
        site.browser({})


@pytest.mark.parametrize(("is_read", "error"), [(True, LateWrite), (False, LateRead)])
def test_stream_and_subscriber_are_too_late(
    site: Site, is_read: bool, error: type[Exception]
) -> None:
    caught: list[str] = []

    def use(request: Request) -> None:
        try:
            request.session.get("cart")
            request.session["late"] = 1
        except error as late:
            caught.append(type(late).__name__)

    def view(request: Request) -> Response:
        if is_read:
            request.session.get("cart")

        def rows() -> Iterator[bytes]:
            use(request)
            yield b"rows"

        return Response(app_iter=rows())

    def prepare(config: Configurator) -> None:
        config.add_subscriber(lambda event: use(event.request), NewResponse)

    assert site.browser({"view": view}, prepare).get("/view").body == b"rows"
    assert len(caught) == 2


def test_late_change_inside_a_value_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def view(request: Request) -> Response:
        cart, seen = request.session["cart"], request.session.setdefault("seen", [])
        request.add_finished_callback(lambda _: seen.append(1))

        def rows() -> Iterator[bytes]:
            yield b"rows"
            cart.append("milk")

        return Response(app_iter=rows())

    browser = site.browser({"view": view})
    browser.get("/put")
    browser.get("/view")
    late = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert [message.rpartition(": ")[2] for message in late] == ["seen", "cart, seen"]
