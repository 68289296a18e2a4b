"""What is special in Quart: websockets, awaited logouts, and a loop that never waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

pytest.importorskip("quart", reason="not installed: quart")

from click.testing import CliRunner, Result
from quart import Quart, flash, get_flashed_messages, session, websocket
from quart.cli import QuartGroup
from quart.sessions import SecureCookieSessionInterface

from sealedstate import (
    ConfigurationError,
    Key,
    LateWrite,
    OperatorError,
    SessionNotLoaded,
    UnsupportedValue,
    UsageError,
)
from sealedstate.keyring import export_lookup
from sealedstate_flask import SealedSessions as FlaskSessions
from sealedstate_quart import SealedSessions, load_session
from tests.support.asgi import ASGIBrowser, decode
from tests.support.client import Answer

KEYS = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
MakeApp: TypeAlias = Callable[..., Quart]


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApp]:
    """Make an application: with or without a store, and with this configuration."""
    for name in os.environ:
        if name.startswith("SEALEDSTATE_"):
            monkeypatch.delenv(name)
    made: list[Quart] = []

    def make(stored: bool = True, autoload: bool = True, **config: Any) -> Quart:
        app = Quart("shop")
        app.config["SEALEDSTATE_KEYS"] = KEYS
        app.config["PROPAGATE_EXCEPTIONS"] = True
        if stored:
            app.config["SEALEDSTATE_STORAGE"] = f"sqlite:{tmp_path / 'store.db'}"
        app.config.update(config)
        SealedSessions(app, autoload=autoload)
        app.add_url_rule("/put", "put", _put)
        app.add_url_rule("/get", "get", _get)
        app.add_url_rule("/bare", "bare", _bare)
        made.append(app)
        return app

    yield make
    for app in made:
        asyncio.run(app.extensions["sealedstate"].close())


async def _put() -> str:
    session["cart"] = ["tea"]
    return "put"


async def _get() -> dict[str, Any]:
    return dict(session)


async def _bare() -> str:
    return "bare"


def talk(browser: ASGIBrowser, path: str) -> tuple[Answer, list[str]]:
    """The answer to a handshake, and what came until the application ended the websocket."""

    async def run() -> tuple[Answer, list[str]]:
        answer, received, ended = Answer(), list[str](), asyncio.Event()
        messages = [{"type": "websocket.connect"}]

        async def receive() -> dict[str, Any]:
            if not messages:
                await ended.wait()
                return {"type": "websocket.disconnect", "code": 1000}
            return messages.pop()

        async def send(message: Any) -> None:
            if message["type"] == "websocket.accept":
                answer.headers = decode(message["headers"])
                browser.jar.receive(answer.set_cookies)
            elif message["type"] == "websocket.send":
                received.append(message["text"])
            else:
                ended.set()

        scope = browser.scope("websocket", path)
        scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
        await browser.application(scope, receive, send)
        return answer, received

    return asyncio.run(run())


@pytest.mark.parametrize("stored", [False, True])
def test_cookie_of_a_websocket_leaves_when_it_is_accepted(make_app: MakeApp, stored: bool) -> None:
    app = make_app(stored)
    errors: list[Exception] = []

    @app.websocket("/chat")
    async def chat() -> None:
        session["chats"] = session.get("chats", 0) + 1
        await websocket.accept(headers={"X-Chat": "1"})
        await websocket.send(str(session["chats"]))
        try:
            session["chats"] = 9
        except LateWrite as error:
            errors.append(error)

    browser = ASGIBrowser(app)
    for number in (1, 2):
        answer, received = talk(browser, "/chat")
        assert received == [str(number)]
        assert len(answer.set_cookies) == 1
        assert ("x-chat", "1") in answer.headers
        assert len(errors) == number
    assert browser.get("/get").json == {"chats": 2}


def test_session_may_be_read_after_a_websocket_was_accepted(make_app: MakeApp) -> None:
    app = make_app()

    @app.websocket("/chat")
    async def chat() -> None:
        await websocket.send("hello")
        await websocket.send(str(session["cart"]))

    browser = ASGIBrowser(app)
    browser.get("/put")
    _, received = talk(browser, "/chat")
    assert received == ["hello", "['tea']"]


def test_what_would_make_the_loop_wait_raises(make_app: MakeApp) -> None:
    app = make_app(autoload=False)

    @app.get("/loaded")
    async def loaded() -> Any:
        return dict(await load_session())

    browser = ASGIBrowser(app)
    browser.get("/put")  # without a cookie there is nothing to ask
    with pytest.raises(SessionNotLoaded):
        browser.get("/get")
    assert browser.get("/loaded").json == {"cart": ["tea"]}
    assert browser.get("/bare").set_cookies == []


def test_cookie_of_a_websocket_of_two_tasks_leaves(make_app: MakeApp) -> None:
    app = make_app()

    @app.websocket("/chat")
    async def chat() -> None:
        session["cart"] = ["milk"]
        await asyncio.gather(*(websocket.send("hello") for _ in range(2)))

    browser = ASGIBrowser(app)
    browser.get("/put")
    answer, received = talk(browser, "/chat")
    assert (len(answer.set_cookies), received) == (1, ["hello"] * 2)


@pytest.mark.parametrize("way", ["await", "forgot", "clear"])
def test_captured_cookie_is_refused_after_a_logout(make_app: MakeApp, way: str) -> None:
    app = make_app()

    @app.get("/login")
    async def login() -> str:
        session["_user_id"] = "7"
        return "in"

    @app.get("/await")
    async def invalidate() -> str:
        await session.invalidate()  # type: ignore[attr-defined]
        return "out"

    @app.get("/forgot")
    async def forgot() -> str:
        session.invalidate()  # type: ignore[attr-defined]
        return "out"

    @app.get("/clear")
    def clear() -> str:  # in a thread
        session.clear()
        return "out"

    browser = ASGIBrowser(app)
    browser.get("/login")
    captured = browser.jar.copy()
    browser.get(f"/{way}")
    browser.jar = captured
    assert browser.get("/get").json == {}


@pytest.mark.parametrize("way", ["invalidate", "clear"])
def test_logout_of_a_websocket_that_is_not_accepted_is_recorded(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    app, revoked = make_app(), list[int]()

    @app.get("/login")
    async def login() -> str:
        session["_user_id"] = "7"
        return "in"

    @app.websocket("/leave")
    async def leave() -> None:
        getattr(session, way)()
        await websocket.close(1008)
        revoked.append(app.extensions["sealedstate"].keeper.counts["revoked"])

    @app.websocket("/write")
    async def write() -> None:
        session["cart"] = ["milk"]
        await websocket.close(1008)

    browser = ASGIBrowser(app)
    browser.get("/login")
    talk(browser, "/write")
    assert "not accepted, and lost" in caplog.text
    assert browser.get("/get").json == {"_user_id": "7"}
    talk(browser, "/leave")
    assert (revoked, browser.get("/get").json) == ([1], {})


def test_session_of_another_interface_is_named() -> None:
    app = Quart("plain")
    app.secret_key = "old"

    async def load() -> None:
        async with app.test_request_context("/"):
            await load_session()

    with pytest.raises(UsageError, match="SealedSessions"):
        asyncio.run(load())
    with pytest.raises(ConfigurationError, match="got Quart; see sealedstate_quart"):
        FlaskSessions(app)  # type: ignore[arg-type]


def test_part_of_the_name_of_a_method_is_shown(make_app: MakeApp) -> None:
    app = make_app()

    @app.get("/name")
    async def name() -> Any:
        session["invalidate"] = "mine"
        return session.invalidate  # type: ignore[attr-defined]

    assert ASGIBrowser(app).get("/name").body == b"mine"


def test_permanent_session_is_renewed_where_the_view_ignores_it(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()

    @app.get("/stay")
    async def stay() -> str:
        session["cart"] = ["tea"]
        session.permanent = True
        return "stays"

    browser, store = ASGIBrowser(app), app.extensions["sealedstate"].keeper.deployment.store
    browser.get("/put")
    assert browser.get("/bare").set_cookies == []
    browser.get("/stay")
    asked: list[object] = []
    monkeypatch.setattr(store, "read", lambda *key: asked.append(key))
    (line,) = browser.get("/bare").set_cookies
    assert len(asked) == 2  # before the view, and before the session is renewed
    assert "Max-Age=" in line
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    assert browser.get("/bare").set_cookies == []


def test_flashed_message_is_shown_once(make_app: MakeApp) -> None:
    app = make_app()

    @app.get("/say")
    async def say() -> str:
        await flash("saved")
        return "said"

    @app.get("/show")
    async def show() -> list[Any]:
        return list(get_flashed_messages())

    browser = ASGIBrowser(app)
    browser.get("/say")
    assert [browser.get("/show").json for _ in range(2)] == [["saved"], []]


def test_failed_save_leaves_the_cookies_as_they_are(make_app: MakeApp) -> None:
    app = make_app()

    @app.get("/broken")
    async def broken() -> str:
        session.get("cart", []).append(object())
        return "broken"

    browser = ASGIBrowser(app)
    browser.get("/put")
    with pytest.raises(UnsupportedValue):
        browser.get("/broken")
    assert browser.get("/get").json == {"cart": ["tea"]}


def test_session_that_quart_has_signed_is_taken_over(make_app: MakeApp) -> None:
    app = make_app(SECRET_KEY="as before", SEALEDSTATE_LEGACY_UNTIL="2099-03-01")
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer is not None
    cookie = f"session={signer.dumps({'_user_id': 'ann'})}"
    answer = ASGIBrowser(app).get("/get", (b"cookie", cookie.encode()))
    assert answer.json == {"_user_id": "ann"}


def test_configuration_is_that_of_flask(make_app: MakeApp) -> None:
    app = make_app(SESSION_COOKIE_NAME="shop", SESSION_COOKIE_SAMESITE="strict")
    (line,) = ASGIBrowser(app).get("/put").set_cookies
    assert line.startswith("shop=")
    assert "SameSite=Strict" in line
    with pytest.raises(ConfigurationError, match="SESSION_COOKIE_HTTPONLY"):
        make_app(SESSION_COOKIE_HTTPONLY=False)


def test_test_client_changes_the_session(make_app: MakeApp) -> None:
    app = make_app()

    async def use() -> Any:
        client = app.test_client()
        async with client.session_transaction() as changed:
            changed["cart"] = ["milk"]
        return await (await client.get("/get")).get_json()

    assert asyncio.run(use()) == {"cart": ["milk"]}


def test_autoload_is_a_flag() -> None:
    with pytest.raises(ConfigurationError, match=r"^autoload: "):
        SealedSessions(autoload="false")  # type: ignore[arg-type]


def test_only_other_commands_than_run_begin_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quart, "run", lambda *_, **__: None)

    def create_app() -> Quart:
        app = Quart("shop")
        app.config["SEALEDSTATE_KEYS"] = f"file:{tmp_path / 'keys.json'}"
        SealedSessions(app)
        return app

    group = QuartGroup(create_app=create_app)

    def quart(*arguments: str) -> Result:
        return CliRunner().invoke(group, arguments)

    assert isinstance(quart("run").exception, OperatorError)
    assert "sealedstate-" in quart("sealedstate", "keys", "generate").output
