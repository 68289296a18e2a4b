"""What is special in aiohttp: streams, files, websockets, raised responses, aiohttp-session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="not installed: aiohttp")

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from sealedstate import (
    Key,
    LateRead,
    LateWrite,
    Settings,
    StorageError,
    UnsupportedValue,
    UsageError,
)
from sealedstate.errors import StorageUnavailable
from sealedstate.keyring import export_lookup
from sealedstate_aiohttp import KEEPER, get_session, new_session, setup

Handler = Callable[[web.Request], Any]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        keys=[Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        storage=f"sqlite:{tmp_path / 'store.db'}",
        secure=False,
        longest_lifetime=30 * 86400,
    )


async def put(request: web.Request) -> web.Response:
    (await get_session(request))["cart"] = ["tea"]
    return web.Response()


async def show(request: web.Request) -> web.Response:
    return web.json_response(dict(await get_session(request)))


class Browser:
    """A client of aiohttp, and what it captured."""

    def __init__(self, client: TestClient[Any, Any]) -> None:
        self.client = client
        self.session: ClientSession = client.session

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.client.get(path, allow_redirects=False) as response:
            assert response.status == status, await response.text()
            await response.read()
            return response

    async def show(self) -> Any:
        async with self.client.get("/show") as response:
            return await response.json()

    def cookies(self) -> dict[str, str]:
        return {each.key: each.value for each in self.session.cookie_jar}


def visit(settings: Settings, talk: Callable[[Browser], Any], **handlers: Handler) -> None:
    """Let `talk` visit an application of these handlers."""

    async def run() -> None:
        app = web.Application()
        setup(app, settings)
        for name, handler in {"put": put, "show": show, **handlers}.items():
            app.router.add_get(f"/{name}", handler)
        async with TestClient(TestServer(app)) as client:
            await talk(Browser(client))

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["stream", "file", "websocket", "raised"])
def test_cookie_leaves_with_any_response(settings: Settings, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("rows")

    async def handle(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["kind"] = kind
        if kind == "file":
            return web.FileResponse(tmp_path / "file")
        if kind == "raised":
            raise web.HTTPFound("/show")
        if kind == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.close()
            return socket
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"rows")
        return stream

    async def talk(browser: Browser) -> None:
        if kind == "websocket":
            async with browser.client.ws_connect("/handle"):
                pass
        else:
            response = await browser.get("/handle", 302 if kind == "raised" else 200)
            assert response.headers["Vary"] == "Cookie"
            assert "no-store" in response.headers["Cache-Control"]
        assert await browser.show() == {"kind": kind}

    visit(settings, talk, handle=handle)


@pytest.mark.parametrize("is_read", [True, False])
def test_what_comes_after_the_headers_raises(settings: Settings, is_read: bool) -> None:
    errors: list[type[Exception]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if is_read:
            (await get_session(request)).get("cart")
        stream = web.StreamResponse()
        await stream.prepare(request)
        session = await get_session(request)
        try:
            session.get("cart")
            session["late"] = 1
        except (LateRead, LateWrite) as error:
            errors.append(type(error))
        return stream

    async def talk(browser: Browser) -> None:
        await browser.get("/put")
        await browser.get("/handle")
        assert await browser.show() == {"cart": ["tea"]}

    visit(settings, talk, handle=handle)
    assert errors == [LateWrite if is_read else LateRead]


def test_session_of_a_websocket_may_be_read_on(settings: Settings) -> None:
    async def chat(request: web.Request) -> web.WebSocketResponse:
        session = await get_session(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(dict(session))
        await socket.close()
        return socket

    async def talk(browser: Browser) -> None:
        await browser.get("/put")
        async with browser.client.ws_connect("/chat") as socket:
            assert await socket.receive_json() == {"cart": ["tea"]}

    visit(settings, talk, chat=chat)


@pytest.mark.parametrize("is_awaited", [True, False])
def test_captured_cookie_is_refused_after_a_logout(settings: Settings, is_awaited: bool) -> None:
    async def logout(request: web.Request) -> web.Response:
        session = await get_session(request)
        ending = session.invalidate()
        if is_awaited:
            await ending
        assert session.empty
        session["after"] = 1
        return web.Response()

    async def talk(browser: Browser) -> None:
        await browser.get("/put")
        captured = browser.cookies()
        await browser.get("/logout")
        assert await browser.show() == {"after": 1}
        browser.session.cookie_jar.clear()
        browser.session.cookie_jar.update_cookies(captured)
        assert await browser.show() == {}

    visit(settings, talk, logout=logout)


def test_new_session_takes_the_place_of_the_first(settings: Settings) -> None:
    async def login(request: web.Request) -> web.Response:
        session = await get_session(request)
        before = session.identity
        session = await new_session(request)
        session["user"] = "7"
        assert before not in (None, session.id)
        return web.Response()

    async def talk(browser: Browser) -> None:
        await browser.get("/put")
        await browser.get("/login")
        assert await browser.show() == {"user": "7"}

    visit(settings, talk, login=login)


def test_failed_logout_is_answered_by_the_application(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StorageUnavailable("the store is down")

    async def logout(request: web.Request) -> web.Response:
        session, store = await get_session(request), request.app[KEEPER].keeper.deployment.store
        monkeypatch.setattr(store, "create", fail)
        try:
            await session.invalidate()
        except StorageError:
            return web.Response(status=503)
        return web.Response()

    async def talk(browser: Browser) -> None:
        await browser.get("/put")
        response = await browser.get("/logout", 503)
        assert "Set-Cookie" not in response.headers

    visit(settings, talk, logout=logout)


def test_clone_of_a_request_has_its_session(settings: Settings) -> None:
    async def clone(request: web.Request) -> web.Response:
        return await put(request.clone(rel_url="/another"))

    async def talk(browser: Browser) -> None:
        await browser.get("/clone")
        assert await browser.show() == {"cart": ["tea"]}

    visit(settings, talk, clone=clone)


def test_names_of_aiohttp_session_work(settings: Settings) -> None:
    async def limit(request: web.Request) -> web.Response:
        session = await get_session(request)
        session.changed()
        facts = [session.new, session.identity, session.empty, session.max_age]
        facts.append(session.created > 0)
        session["a"] = 1
        session.max_age = 20 * 86400
        assert session.max_age == 20 * 86400
        return web.json_response(facts)

    async def facts(request: web.Request) -> web.Response:
        session = await get_session(request)
        return web.json_response([session.new, len(session.identity or ""), session.max_age])

    async def talk(browser: Browser) -> None:
        response = await browser.client.get("/limit")
        assert await response.json() == [True, None, True, None, True]
        assert "Max-Age=" in response.headers["Set-Cookie"]
        response = await browser.client.get("/facts")
        assert await response.json() == [False, 22, 20 * 86400]

    visit(settings, talk, limit=limit, facts=facts)


def test_exception_and_failed_save_leave_the_cookies(settings: Settings) -> None:
    async def fail(request: web.Request) -> web.Response:
        (await get_session(request))["failed"] = 1
        raise RuntimeError("the application has failed")

    async def grow(request: web.Request) -> web.Response:
        (await get_session(request))["cart"].append(object())
        return web.Response()

    async def talk(browser: Browser) -> None:
        await browser.get("/put")
        for path in ("/fail", "/grow"):
            response = await browser.get(path, 500)
            assert "Set-Cookie" not in response.headers
            assert response.headers["Vary"] == "Cookie"
        assert await browser.show() == {"cart": ["tea"]}

    visit(settings, talk, fail=fail, grow=grow)


def test_middlewares_around_answer_a_failed_save_and_change_the_session(settings: Settings) -> None:
    @web.middleware
    async def around(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except UnsupportedValue:
            return web.Response(status=500, text="sorry")
        (await get_session(request))["later"] = 1
        response.set_cookie("theme", "dark")
        return response

    async def grow(request: web.Request) -> web.Response:
        (await get_session(request))["cart"].append(object())
        return web.Response()

    async def run() -> None:
        app = web.Application(middlewares=[around])
        setup(app, settings)
        app.add_routes([web.get(f"/{view.__name__}", view) for view in (put, show, grow)])
        async with TestClient(TestServer(app)) as client:
            browser = Browser(client)
            response = await browser.get("/put")
            assert len(response.headers.getall("Set-Cookie")) == 2
            assert await browser.show() == {"cart": ["tea"], "later": 1}
            response = await browser.get("/grow", 500)
            assert await response.text() == "sorry"
            assert "Set-Cookie" not in response.headers
            assert await browser.show() == {"cart": ["tea"], "later": 1}

    asyncio.run(run())


def test_sub_application_shares_the_session(settings: Settings) -> None:
    async def run() -> None:
        app, inner = web.Application(), web.Application()
        setup(app, settings)
        inner.router.add_get("/show", show)
        app.router.add_get("/put", put)
        app.add_subapp("/inner", inner)
        async with TestClient(TestServer(app)) as client:
            await client.get("/put")
            response = await client.get("/inner/show")
            assert await response.json() == {"cart": ["tea"]}

    asyncio.run(run())


def test_session_without_setup_is_an_error(settings: Settings) -> None:
    async def run() -> None:
        app = web.Application()
        caught: list[str] = []

        async def use(request: web.Request) -> web.Response:
            try:
                await get_session(request)
            except UsageError as error:
                caught.append(str(error))
            return web.Response()

        app.router.add_get("/", use)
        async with TestClient(TestServer(app)) as client:
            await client.get("/")
        assert "setup" in caught[0]

    asyncio.run(run())
