"""gunicorn, four workers, flaskr's way to log in and out: a captured cookie is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealedstate import Key
from tests.support.client import Client, send
from tests.support.servers import gunicorn

APPLICATION = """
from flask import Flask, session

from sealedstate_flask import SealedSessions

application = Flask(__name__)
application.config.update(
    SEALEDSTATE_STORAGE=f"sqlite:{__file__}.db", SEALEDSTATE_SUBJECT_KEY="user_id"
)
SealedSessions(application)


@application.get("/login")
def login():
    session.clear()
    session["user_id"] = 7
    session["notes"] = "x" * 20_000  # into the store
    return ""


@application.get("/")
def me():
    return {"user": session.get("user_id"), "size": len(session.get("notes", ""))}


@application.get("/logout")
def logout():
    session.clear()
    return ""
"""


@pytest.mark.slow
@pytest.mark.server
def test_captured_cookie_is_refused_by_every_worker_after_clear(tmp_path: Path) -> None:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    with gunicorn(tmp_path, APPLICATION, "--threads", "2", environ=environ) as server:
        client = Client(server.port)
        client.get("/login")
        for _ in range(20):
            assert client.get("/").json == {"user": 7, "size": 20_000}
        (captured,) = client.captured
        client.get("/logout")
        assert client.jar.header() == ""
        for _ in range(20):
            assert send(server.port, "GET", "/", captured).json == {"user": None, "size": 0}
