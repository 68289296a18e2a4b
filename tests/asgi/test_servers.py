"""Sessions behind real ASGI servers, over http and with a websocket's handshake."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sealedstate import Key
from tests.support.client import Client, send
from tests.support.installed import need_driver
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

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
ADDRESS = ("--host", "127.0.0.1", "--port", "{port}")
SERVERS = {
    "uvicorn": ("uvicorn", *ADDRESS, "--loop", "asyncio", "--http", "h11", "served:application"),
    "uvicorn uvloop": (
        *("uvicorn", *ADDRESS, "--loop", "uvloop", "--http", "httptools", "served:application"),
    ),
    "hypercorn": ("hypercorn", "--bind", "127.0.0.1:{port}", "served:application"),
    "hypercorn trio": (
        *("hypercorn", "--bind", "127.0.0.1:{port}", "-k", "trio", "served:application"),
    ),
    "granian": ("granian", *ADDRESS, "--interface", "asgi", "served:application"),
    "daphne": ("daphne", "-b", "127.0.0.1", "-p", "{port}", "served:application"),
}


class ASGIServer(ServerProcess):
    """One of `SERVERS` in a directory, around `application` of its module `served`."""

    def __init__(self, kind: str, directory: Path) -> None:
        super().__init__(free_port(), directory)
        self.name = kind  # type: ignore[misc]
        self.environ = {
            "SEALEDSTATE_KEYS": Key.generate(os.urandom).export(),
            "PYTHONPATH": ":".join([str(directory), *sys.path]),
            "PATH": os.environ["PATH"],
        }

    def command(self) -> Sequence[str]:
        options = [option.replace("{port}", str(self.port)) for option in SERVERS[self.name]]
        return [sys.executable, "-m", *options]

    def is_ready(self) -> bool:
        return send(self.port, "GET", "/who").status == 200


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ASGIServer]:
    need_driver(request.param.partition(" ")[0])
    (tmp_path / "served.py").write_text(APPLICATION)
    server = ASGIServer(request.param, tmp_path)
    try:
        with server.shown_log():
            server.start()
            yield server
            server.stop()
    finally:
        server.kill9()


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


def test_sessions_behind_a_real_server(server: ASGIServer) -> None:
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
