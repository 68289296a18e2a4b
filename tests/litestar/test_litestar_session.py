"""What is special in Litestar: replaced and cleared sessions, exclusions, SessionAuth."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("litestar", reason="not installed: litestar")
pytest.importorskip("httpx", reason="not installed: httpx")

from litestar import Litestar, Request, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.plugins.flash import FlashConfig, FlashPlugin
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.security.session_auth import SessionAuth
from litestar.template.config import TemplateConfig
from litestar.testing import TestClient

from sealedstate import ConfigurationError, Deployment, Key, LateWrite, Settings, plain
from sealedstate.keyring import export_lookup
from sealedstate_litestar import SealedSessionConfig, load_session, sealed

URL = "https://testserver.local"
WHEN = datetime(2027, 1, 2, tzinfo=UTC)


@dataclass
class Basket:
    cart: list[str]
    since: datetime


class Profile(msgspec.Struct):
    name: str


@get("/put")
async def put(request: Request[Any, Any, Any]) -> None:
    request.session["cart"] = ["tea"]
    request.session["count"] = 1


@get("/show")
async def show(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return request.session


@get("/bare")
async def bare() -> str:
    return "bare"


@get("/free", skip_session=True)
async def free(request: Request[Any, Any, Any]) -> bool:
    return "session" in request.scope


@get("/replace")
async def replace(request: Request[Any, Any, Any]) -> None:
    values: dict[str, Any] = {
        "dict": {"cart": ["milk"]},
        "dataclass": Basket(["milk"], WHEN),
        "struct": Profile("ann"),
        "wrong": [1],
    }
    request.set_session(values[request.query_params["kind"]])


@get("/login")
async def login(request: Request[Any, Any, Any]) -> None:
    request.session["_user_id"] = "7"


@get("/clear")
async def clear(request: Request[Any, Any, Any]) -> None:
    request.clear_session()


@websocket("/chat")
async def chat(socket: WebSocket[Any, Any, Any]) -> None:
    socket.session["chats"] = socket.session.get("chats", 0) + 1
    await socket.accept()
    try:
        socket.session["chats"] = 9
    except LateWrite:
        await socket.send_json(socket.session)
    await socket.close()


# Litestar would give the root of all loggers a level.
QUIET: dict[str, Any] = {"openapi_config": None, "logging_config": None}
HANDLERS: list[Any] = [put, show, bare, free, replace, login, clear, chat]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        keys=[Key.generate(os.urandom).export(), export_lookup(os.urandom(32))],
        storage=f"sqlite:{tmp_path / 'store.db'}",
        subject_key="_user_id",
        convert=plain,
    )


def client_of(config: SealedSessionConfig, *handlers: Any) -> TestClient[Any]:
    app = Litestar([*HANDLERS, *handlers], on_app_init=[config.on_app_init], **QUIET)
    return TestClient(app, URL, session_config=config)


def _set_cookies(headers: Any) -> list[str]:
    return [value.decode() for name, value in headers if name == b"set-cookie"]


def test_session_is_replaced_by_a_dict_or_a_model(settings: Settings) -> None:
    with client_of(SealedSessionConfig(settings)) as client:
        client.get("/put")
        for kind, expected in {
            "dict": {"cart": ["milk"]},
            "dataclass": {"cart": ["milk"], "since": WHEN},
            "struct": {"name": "ann"},
        }.items():
            client.get(f"/replace?kind={kind}")
            assert client.get_session_data() == expected
        assert client.get("/replace?kind=wrong").status_code == 500
        assert client.get("/show").json() == {"name": "ann"}


@pytest.mark.parametrize("autoload", [True, False])
def test_cleared_session_is_logged_out(settings: Settings, autoload: bool) -> None:
    with client_of(SealedSessionConfig(settings, autoload=autoload)) as client:
        client.get("/login")
        captured = dict(client.cookies)
        assert client.get_session_data() == {"_user_id": "7"}
        client.get("/clear")
        assert dict(client.cookies) == {}
        client.cookies.update(captured)
        assert client.get_session_data() == {}


@pytest.mark.parametrize("autoload", [True, False])
def test_session_after_it_was_cleared_is_a_new_one(settings: Settings, autoload: bool) -> None:
    @get("/switch")
    async def switch(request: Request[Any, Any, Any]) -> None:
        request.clear_session()
        await load_session(request)
        sealed(request).sign_in("8")

    config = SealedSessionConfig(settings, autoload=autoload)
    with client_of(config, switch) as client:
        client.get("/login")
        captured = dict(client.cookies)
        client.get("/switch")
        assert client.get_session_data() == {"_user_id": "8"}
        client.cookies.clear()
        client.cookies.update(captured)
        assert client.get_session_data() == {}


def test_cleared_session_of_a_websocket_is_logged_out_or_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    @websocket("/late")
    async def late(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        socket.clear_session()
        await socket.close()

    @websocket("/refuse")
    async def refuse(socket: WebSocket[Any, Any, Any]) -> None:
        socket.clear_session()
        await socket.close()

    with client_of(SealedSessionConfig(settings), late, refuse) as client:
        client.get("/login")
        # The test client sends no secure cookie with a websocket.
        fields = {"Cookie": "; ".join("=".join(pair) for pair in client.cookies.items())}
        with (
            client.websocket_connect("/late", headers=fields) as connected,
            pytest.raises(WebSocketDisconnect),
        ):
            connected.receive()
        assert client.get_session_data() == {"_user_id": "7"}
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/refuse", headers=fields),
        ):
            pass
        assert client.get_session_data() == {}
    assert "after the response headers were sent, and lost" in caplog.text


def test_flash_messages_find_their_session_middleware(settings: Settings, tmp_path: Path) -> None:
    templates = TemplateConfig(directory=tmp_path, engine=JinjaTemplateEngine)
    plugin = FlashPlugin(FlashConfig(template_config=templates))
    Litestar(on_app_init=[SealedSessionConfig(settings).on_app_init], plugins=[plugin], **QUIET)


def test_failed_save_is_an_error_page_of_litestar(settings: Settings) -> None:
    @get("/grow")
    async def grow(request: Request[Any, Any, Any]) -> None:
        request.session["cart"].append(object())

    @get("/half")
    async def half(request: Request[Any, Any, Any]) -> None:
        request.set_session({"count": 2, "cart": object()})

    with client_of(SealedSessionConfig(settings), grow, half) as client:
        client.get("/put")
        for path in ("/grow", "/half"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["detail"]) == (500, "Internal Server Error")
            assert client.get("/show").json() == {"cart": ["tea"], "count": 1}


def test_response_that_may_show_the_session_varies_with_the_cookie(settings: Settings) -> None:
    with client_of(SealedSessionConfig(settings)) as client:
        assert "vary" not in client.get("/bare").headers
        client.get("/put")
        # Nothing notes that msgspec encodes the session.
        for path in ("/show", "/bare"):
            headers = client.get(path).headers
            assert (headers.get("vary"), "set-cookie" in headers) == ("Cookie", False)


@pytest.mark.parametrize("is_shared", [True, False])
def test_store_that_others_share_stays_open(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    given = Deployment.open(settings) if is_shared else settings
    closed: list[Deployment] = []
    close = Deployment.close

    def note(deployment: Deployment) -> None:
        closed.append(deployment)
        close(deployment)

    monkeypatch.setattr(Deployment, "close", note)
    with client_of(SealedSessionConfig(given)) as client:
        client.get("/put")
    assert len(closed) == (not is_shared)
    if isinstance(given, Deployment):
        given.close()


def test_routes_and_paths_are_excluded(settings: Settings) -> None:
    with client_of(SealedSessionConfig(settings, exclude="^/show")) as client:
        assert client.get("/free").json() is False
        assert client.get("/show").status_code == 500  # Litestar: there is no session
        assert client.get("/put").status_code == 200


def test_cookie_of_a_websocket_leaves_when_it_is_accepted(settings: Settings) -> None:
    with client_of(SealedSessionConfig(settings)) as client:
        for number in (1, 2):
            with client.websocket_connect("/chat") as connected:
                assert connected.receive_json() == {"chats": number}
                (line,) = _set_cookies(connected.scope["headers"])
                name, _, value = line.partition(";")[0].partition("=")
                client.cookies.set(name, value)


def test_what_would_make_the_loop_wait_raises(settings: Settings) -> None:
    @get("/loaded")
    async def loaded(request: Request[Any, Any, Any]) -> dict[str, Any]:
        await load_session(request)
        return request.session

    with client_of(SealedSessionConfig(settings, autoload=False), loaded) as client:
        client.get("/put")
        assert client.get("/show").status_code == 500
        assert client.get("/loaded").json() == {"cart": ["tea"], "count": 1}


def test_session_auth_works_on_it(settings: Settings) -> None:
    async def find(session: dict[str, Any], _: Any) -> str | None:
        return session.get("_user_id")

    config = SealedSessionConfig(settings)
    auth = SessionAuth[Any, Any](
        session_backend_config=config, retrieve_user_handler=find, exclude=["/login", "/put"]
    )

    @get("/me")
    async def me(request: Request[Any, Any, Any]) -> list[Any]:
        return [request.user, sealed(request).subject]

    app = Litestar([*HANDLERS, me], on_app_init=[auth.on_app_init], **QUIET)
    with TestClient(app, URL) as client:
        assert client.get("/me").status_code == 401
        client.get("/login")
        assert client.get("/me").json() == ["7", "7"]
        client.get("/clear")
        assert client.get("/me").status_code == 401


def test_names_of_litestar_are_settings() -> None:
    key = Key.generate(os.urandom).export()
    config = SealedSessionConfig(
        keys=key, key="shop", secure=False, samesite="strict", max_age=86400, path="/"
    )
    with client_of(config) as client:
        line = client.get("/put").headers["set-cookie"]
    assert line.startswith("shop=")
    assert "SameSite=Strict" in line
    assert "Secure" not in line
    assert (config.key, config.samesite, config.max_age) == ("shop", "strict", 86400)
    with pytest.raises(ConfigurationError, match="secret"):
        SealedSessionConfig(keys=key, secret=b"x" * 16)
    with pytest.raises(ConfigurationError, match="httponly"):
        SealedSessionConfig(keys=key, httponly=False)
