"""What WSGI servers make of several Cookie lines, of long ones, and of an empty first piece."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate import Keeper, Key, Settings
from tests.support.client import cookie_header
from tests.support.servers import WSGI_SERVERS, WebServer, running

APPLICATION = """
import os

from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def served(environ, start_response):
    session = environ["sealedstate.session"]
    if environ["PATH_INFO"] == "/write":
        session["n"] = session.get("n", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/empty":
        return pieces(session)
    return [f"{session.subject} {session.get('n')}".encode()]


def pieces(session):
    yield b""
    session["n"] = "late"
    yield b"page"


application = SealedSessionMiddleware(served, Settings(keys="env:"))
"""
KEY = Key.generate(os.urandom)


# Those of `make test`.
QUICK = ("gunicorn", "waitress")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow, pytest.mark.server))
        for name in WSGI_SERVERS
    ]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebServer]:
    environ = {"SEALEDSTATE_KEYS": KEY.export()}
    with running(WebServer(request.param, tmp_path, environ=environ), APPLICATION) as server:
        yield server


def login() -> str:
    """The Cookie header of a browser that is signed in."""
    keeper = Keeper(Settings(keys=[KEY.export()]))
    session = keeper.session()
    session.subject, session["n"] = "alice", 1
    return cookie_header(keeper.save(session))


def exchange(port: int, path: str, *cookie_lines: str) -> bytes:
    """The raw answer to a request with these Cookie lines."""
    lines = [
        f"GET {path} HTTP/1.0",
        "Host: localhost",
        *(f"Cookie: {line}" for line in cookie_lines),
    ]
    received = b""
    with (
        contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)) as connection,
        # uWSGI tears the connection of a header that is too long.
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def test_session_is_found_in_several_cookie_lines(server: WebServer) -> None:
    ours = login()
    for lines in (
        ("a=b", ours),
        (ours, "a=b; c=d"),
        ("a=b; c=d", ours, "e=f"),
        ("a=b", ours, ours),
    ):
        answer = exchange(server.port, "/write", *lines)
        assert answer.startswith(b"HTTP/1.")
        assert answer.endswith(b"alice 2")
        assert answer.lower().count(b"\nset-cookie: ") == 1


def test_write_beside_a_header_of_any_length_that_arrives_keeps_the_login(
    server: WebServer,
) -> None:
    ours = login()
    for size in (7_000, 66_000, 200_000):
        answer = exchange(server.port, "/write", f"x={'y' * size}; {ours}")
        assert b"None" not in answer
        if server.name == "waitress" or size == 7_000:  # the others refuse such lines
            assert answer.endswith(b"alice 2")


def test_write_after_an_empty_first_piece_is_sent(server: WebServer) -> None:
    answer = exchange(server.port, "/empty", login())
    assert b" 200 " in answer.partition(b"\r\n")[0]
    assert answer.lower().count(b"\nset-cookie: ") == 1
    assert b"page" in answer
