"""The code of docs/flask.md runs and does what the text says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user

from sealedstate.adapting import SESSION_COOKIE
from tests.support.documents import Document

DOCUMENT = Document("flask.md")


def run(mark: str, names: dict[str, Any]) -> None:
    exec(compile(DOCUMENT.block(mark), f"flask.md: {mark}", "exec"), names)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the document's application defines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(DOCUMENT.block("start"))
    command = [sys.executable, "-m", "flask", "--app", "shop", "sealedstate", "keys", "init"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, check=True, env=environ, capture_output=True)
    names: dict[str, Any] = {"__name__": "shop", "check_password": lambda name, _: name}
    start = DOCUMENT.block("start").replace(
        "SealedSessions(app)", f"{DOCUMENT.block('devices-config')}\nSealedSessions(app)"
    )
    exec(compile(start, "flask.md: start", "exec"), names)
    for mark in ("login", "devices", "stream"):
        run(mark, names)
    yield names
    names["app"].extensions["sealedstate"].deployment.close()


def sign_in(app: Flask, browser: str, **form: str) -> FlaskClient:
    client = app.test_client()
    agent = {"User-Agent": browser}
    client.post("/login", data={"name": "ann", "password": "", **form}, headers=agent)
    return client


def devices(client: FlaskClient) -> dict[str, Any]:
    """The document's list, by the browser's name."""
    listed = client.get("/devices").json
    assert listed is not None
    return {each["device"]: SimpleNamespace(**each) for each in listed}


def test_documented_views_show_and_end_a_users_devices(shown: dict[str, Any]) -> None:
    app = shown["app"]
    first, second, third = (sign_in(app, name) for name in ("Firefox", "Chrome", "Safari"))
    listed = devices(first)
    assert {name: each.this for name, each in listed.items()} == {
        "Firefox": True,
        "Chrome": False,
        "Safari": False,
    }
    stranger = app.test_client()
    stranger.post("/login", data={"name": "joe", "password": ""})
    assert stranger.post(f"/devices/{listed['Chrome'].id}/end").status_code == 404
    first.post(f"/devices/{listed['Chrome'].id}/end")
    assert set(devices(first)) == {"Firefox", "Safari"}
    third.post("/devices/end-others")
    assert set(devices(third)) == {"Safari"}
    third.post("/logout-everywhere")
    for client in (first, second, third):
        with client.session_transaction() as session:
            assert "_user_id" not in session


def test_documented_login_remembers_and_logs_out(shown: dict[str, Any]) -> None:
    client = sign_in(shown["app"], "Firefox", remember="on")
    cookie = client.get_cookie("__Host-Http-s")
    assert cookie is not None
    assert cookie.max_age is not None
    # Less by the seconds from the sign-in to the save.
    assert 31 * 86400 - 60 < cookie.max_age <= 31 * 86400
    client.post("/logout")
    thief = shown["app"].test_client()
    thief.set_cookie("__Host-Http-s", cookie.value)
    with thief.session_transaction() as session:
        assert not session


def test_documented_login_of_flask_login_is_permanent(shown: dict[str, Any]) -> None:
    app = shown["app"]
    LoginManager(app)
    user = UserMixin()
    user.id = "ann"
    with app.test_request_context():
        run("flask-login", {**shown, "user": user, "login_user": login_user})
        session = shown["session"]
        assert (session["_user_id"], session.permanent) == ("ann", True)


def test_documented_move_reads_what_flask_has_signed(shown: dict[str, Any]) -> None:
    app = Flask("moved")
    app.config.update(SEALEDSTATE_KEYS="file:keys.json", SECRET_KEY="as before")
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer is not None
    cookie = f"session={signer.dumps({'_user_id': 'ann'})}"
    run("move", {**shown, "app": app})
    with app.test_request_context(headers={"Cookie": cookie}):
        assert shown["session"]["_user_id"] == "ann"
    app.extensions["sealedstate"].deployment.close()


def test_documented_handler_answers_a_full_session(shown: dict[str, Any]) -> None:
    app = Flask("full")
    app.config.update(SEALEDSTATE_KEYS="file:keys.json")
    run("full", {**shown, "app": app, "_": shown["SealedSessions"](app)})
    client = app.test_client()
    for item, status in (("tea", 302), ("x" * 9000, 413), ("milk", 302)):
        assert client.post("/cart", data={"item": item}).status_code == status
    with client.session_transaction() as session:
        assert session["cart"] == ["tea", "milk"]
    app.extensions["sealedstate"].deployment.close()


def test_documented_test_passes(shown: dict[str, Any]) -> None:
    run("tests", shown)
    test: Callable[[Flask], None] = shown["test_cart"]
    test(shown["app"])


def test_every_name_of_flask_that_counts_is_documented() -> None:
    documented = " ".join(DOCUMENT.table("names"))
    assert all(
        name in documented for name in [*SESSION_COOKIE.values(), "SESSION_REFRESH_EACH_REQUEST"]
    )
