"""Sessions behind real ASGI servers, over http and with a websocket's handshake."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate import Key
from tests.support.client import Client
from tests.support.servers import ASGI_SERVERS, WebServer, running

pytestmark = pytest.mark.server

APPLICATION = """
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from sealedstate_asgi import SealedSessionMiddleware, sealed


async def count(request):
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(request.session)

async def login(request):
    sealed(request).sign_in("ann")
    return JSONResponse(1)

async def logout(request):
    await sealed(request).invalidate()
    return JSONResponse(1)

async def who(request):
    return JSONResponse(sealed(request).subject)

async def streamed(request):
    request.session["note"] = "x" * 6000

    async def pieces():
        yield b"page"

    return StreamingResponse(pieces())

async def note(request):
    return JSONResponse(len(request.session.get("note", "")))

async def talk(socket):
    socket.session["n"] = socket.session.get("n", 0) + 1
    await socket.accept()
    await socket.close()

VIEWS = (count, login, logout, who, streamed, note)
application = Starlette(
    routes=[*(Route(f"/{view.__name__}", view) for view in VIEWS), WebSocketRoute("/talk", talk)]
)
application.add_middleware(SealedSessionMiddleware, storage=f"sqlite:{Path(__file__).parent}/db")
"""


@pytest.fixture(params=ASGI_SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebServer]:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    with running(WebServer(request.param, tmp_path, environ=environ), APPLICATION) as server:
        yield server


def shake_hands(port: int, path: str, cookie: str) -> list[str]:
    """The lines of the answer to a websocket's handshake."""
    lines = [
        *(f"GET {path} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
        *(["Cookie: " + cookie] if cookie else []),
    ]
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(1 << 16)
            assert piece, received
            received += piece
    return received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")


def test_sessions_behind_a_real_server(server: WebServer) -> None:
    browser, thief = Client(server.port), Client(server.port)
    for expected in (1, 2):
        assert browser.get("/count").json == {"n": expected}
    browser.get("/login")
    thief.jar = browser.jar.copy()
    assert thief.get("/who").json == "ann"
    answer = browser.get("/streamed")
    assert (answer.body, len(answer.set_cookies)) == (b"page", 1)
    assert browser.get("/note").json == 6000
    status, *headers = shake_hands(server.port, "/talk", browser.jar.header())
    assert " 101 " in status
    cookies = [line for line in headers if line.lower().startswith("set-cookie:")]
    browser.receive([line.partition(":")[2].strip() for line in cookies])
    # These servers send no headers of the application with an acceptance; docs/asgi.md says so.
    has_cookie = server.name not in ("daphne", "granian")
    assert len(cookies) == has_cookie
    assert browser.get("/count").json["n"] == 3 + has_cookie
    browser.get("/logout")
    assert browser.get("/who").json is None
    assert thief.get("/who").json is None
