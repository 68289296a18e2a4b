"""A login at an OpenID provider with Authlib, after 40 logins that were begun and abandoned."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("authlib", reason="not installed: authlib")
pytest.importorskip("httpx", reason="not installed: httpx")
pytest.importorskip("requests", reason="not installed: requests")
pytest.importorskip("uvicorn", reason="not installed: uvicorn")

import uvicorn
from flask import Flask, redirect, session, url_for
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sealedstate import Key
from sealedstate.keyring import export_lookup
from sealedstate.profiles import PROFILES
from sealedstate_asgi import SealedSessionMiddleware
from sealedstate_flask import SealedSessions
from tests.support.client import Client, send
from tests.support.openid_provider import CLIENT_ID, CLIENT_SECRET, make_provider, serve
from tests.support.ports import free_port
from tests.support.server_process import until

pytestmark = [
    pytest.mark.server,
    # Authlib warns of httpx where there is no httpx2.
    pytest.mark.filterwarnings("ignore:The httpx module is deprecated"),
]

ABANDONED = 40
Settings = dict[str, Any]
Shop = Callable[[str, Settings], AbstractContextManager[int]]


def registration(issuer: str) -> dict[str, Any]:
    return {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "server_metadata_url": f"{issuer}/.well-known/openid-configuration",
        "client_kwargs": {"scope": "openid profile email", "code_challenge_method": "S256"},
    }


@contextlib.contextmanager
def flask_shop(issuer: str, settings: Settings) -> Iterator[int]:
    from authlib.integrations.flask_client import OAuth

    app = Flask("shop")
    app.config.update({f"SEALEDSTATE_{name.upper()}": each for name, each in settings.items()})
    SealedSessions(app)
    provider = OAuth(app).register("provider", **registration(issuer))

    @app.get("/login")
    def login() -> Any:
        return provider.authorize_redirect(url_for("back", _external=True))

    @app.get("/back")
    def back() -> Any:
        session["user"] = provider.authorize_access_token()["userinfo"]
        session["sub"] = session["user"]["sub"]
        return redirect("/")

    @app.get("/")
    def me() -> Any:
        return {"user": session.get("user"), "parts": list(session)}

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return ""

    with serve(app) as port:
        yield port


@contextlib.contextmanager
def django_shop(issuer: str, settings: Settings) -> Iterator[int]:
    from tests.support.django_site import set_up

    set_up()
    from authlib.integrations.django_client import OAuth
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
    from django.test.utils import override_settings
    from django.urls import path

    import sealedstate_django.test  # noqa: F401 - opens sessions again with other settings

    provider = OAuth().register("provider", **registration(issuer))

    def login(request: HttpRequest) -> HttpResponse:
        found: HttpResponse = provider.authorize_redirect(
            request, request.build_absolute_uri("/back")
        )
        return found

    def back(request: HttpRequest) -> HttpResponse:
        request.session["user"] = provider.authorize_access_token(request)["userinfo"]
        request.session["sub"] = request.session["user"]["sub"]
        return HttpResponseRedirect("/")

    def me(request: HttpRequest) -> HttpResponse:
        parts = list(request.session.keys())
        return JsonResponse({"user": request.session.get("user"), "parts": parts})

    def logout(request: HttpRequest) -> HttpResponse:
        request.session.flush()
        return HttpResponse()

    module: Any = types.ModuleType("authlib_shop")
    module.urlpatterns = [
        path("", me),
        path("login", login),
        path("back", back),
        path("logout", logout),
    ]
    sys.modules[module.__name__] = module
    site = override_settings(ROOT_URLCONF=module.__name__, SEALEDSTATE=settings)
    with site, serve(get_wsgi_application()) as port:
        yield port


@contextlib.contextmanager
def starlette_shop(issuer: str, settings: Settings) -> Iterator[int]:
    from authlib.integrations.starlette_client import OAuth

    provider = OAuth().register("provider", **registration(issuer))

    async def login(request: Request) -> Response:
        found: Response = await provider.authorize_redirect(request, request.url_for("back"))
        return found

    async def back(request: Request) -> Response:
        request.session["user"] = (await provider.authorize_access_token(request))["userinfo"]
        request.session["sub"] = request.session["user"]["sub"]
        return RedirectResponse("/")

    async def me(request: Request) -> Response:
        return JSONResponse({"user": request.session.get("user"), "parts": list(request.session)})

    async def logout(request: Request) -> Response:
        request.session.clear()
        return Response()

    routes = [Route(f"/{each.__name__}", each) for each in (login, back, logout)]
    app = Starlette(routes=[Route("/", me), *routes])
    app.add_middleware(SealedSessionMiddleware, **settings)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "uvicorn answers")
        yield port
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    with serve(make_provider()) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("shop", [flask_shop, django_shop, starlette_shop])
@pytest.mark.parametrize("has_store", [False, True])
def test_login_succeeds_after_forty_abandoned_ones(
    shop: Shop, has_store: bool, issuer: str, tmp_path: Path
) -> None:
    settings: Settings = {
        "keys": [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        "subject_key": "sub",
        **({"storage": f"sqlite:{tmp_path}/store.db"} if has_store else {}),
    }
    with shop(issuer, settings) as port:
        browser = Client(port)
        for _ in range(ABANDONED):
            place = begin(browser)
        finish(browser, place)
        found = browser.get("/").json
        assert (found["user"]["sub"], found["user"]["name"]) == ("ann", "Ann")
        # With Starlette, Authlib keeps the state of the newest login only.
        states = [name for name in found["parts"] if name.startswith("_state_")]
        most = (ABANDONED - 1) if has_store else 6
        assert (0 < len(states) <= most) or (shop is starlette_shop and not states)
        captured = browser.jar.header()
        assert len(captured) <= PROFILES["portable"].total_bytes
        browser.get("/logout")
        assert browser.get("/").json["user"] is None
        if has_store:
            assert send(port, "GET", "/", captured).json["user"] is None


def begin(browser: Client) -> str:
    """Where the shop sends the browser for a login."""
    answer = browser.get("/login")
    assert answer.status == 302, answer.body
    return answer.all("Location")[0]


def finish(browser: Client, place: str) -> None:
    """Sign in at the provider, and return to the shop with its code."""
    there = urlsplit(place)
    answer = send(there.port or 80, "GET", f"{there.path}?{there.query}")
    assert answer.status == 302, answer.body
    back = urlsplit(answer.all("Location")[0])
    answer = browser.get(f"{back.path}?{back.query}")
    assert answer.status in (302, 307), answer.body
