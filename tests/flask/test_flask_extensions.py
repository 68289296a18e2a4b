"""Flask-Login and Flask-WTF work unchanged, and logging out with them is a logout."""

from __future__ import annotations

import logging
import re

import pytest
from flask import Flask, session
from flask_login import (
    LoginManager,
    UserMixin,
    current_user,
    login_required,
    login_user,
    logout_user,
)
from flask_wtf import FlaskForm
from flask_wtf.csrf import CSRFProtect
from wtforms import StringField

from sealedstate_flask import sealed
from tests.flask.conftest import MakeApp

NAME = "__Host-Http-s"


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


def with_login(app: Flask) -> None:
    manager = LoginManager(app)
    manager.user_loader(User)

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["cart"] = "tea"
        login_user(User(name))
        return sealed(session).id

    @app.get("/logout")
    def logout() -> str:
        logout_user()
        return ""

    @app.get("/me")
    @login_required  # type: ignore[untyped-decorator]
    def me() -> str:
        return f"{current_user.id} {session['cart']}"


def test_flask_login_signs_in_and_out_of_a_sealed_session(make_app: MakeApp) -> None:
    app = make_app(stored=True, prepare=with_login)
    client = app.test_client()
    with client.session_transaction() as visit:
        visit["cart"] = "rice"
    before = client.get_cookie(NAME)
    client.get("/login/ann")
    assert client.get("/me").text == "ann tea"
    captured = client.get_cookie(NAME)
    client.get("/logout")
    assert client.get("/me").status_code == 401
    for cookie in (before, captured):
        assert cookie is not None
        thief = app.test_client()
        thief.set_cookie(NAME, cookie.value)
        assert thief.get("/me").status_code == 401


def test_sign_out_everywhere_reaches_every_browser_of_the_user(make_app: MakeApp) -> None:
    app = make_app(stored=True, prepare=with_login)
    browsers = [app.test_client() for _ in range(3)]
    for browser, name in zip(browsers, ["ann", "ann", "joe"], strict=True):
        browser.get(f"/login/{name}")
    app.extensions["sealedstate"].revoke_subject("ann")
    assert [browser.get("/me").status_code for browser in browsers] == [401, 401, 200]


@pytest.mark.parametrize(
    ("stored", "duration", "warnings"), [(True, None, 1), (True, 0, 0), (False, None, 0)]
)
def test_remember_cookie_beside_a_store_is_warned_of(
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    stored: bool,
    duration: int | None,
    warnings: int,
) -> None:
    more = {} if duration is None else {"REMEMBER_COOKIE_DURATION": duration}
    app = make_app(stored, **more)
    with_login(app)  # after the sessions: the first request notices it
    with caplog.at_level(logging.WARNING, "sealedstate.flask"):
        for _ in range(2):
            app.test_client().get("/login/ann")
    assert caplog.text.count("remember cookie") == warnings


def test_flask_wtf_accepts_the_token_of_its_session_only(make_app: MakeApp) -> None:
    app = make_app(SECRET_KEY="of the tokens")
    CSRFProtect(app)

    class Order(FlaskForm):  # type: ignore[misc]
        goods = StringField()

    @app.route("/", methods=["GET", "POST"])
    def order() -> str:
        form = Order()
        return f"ordered {form.goods.data}" if form.validate_on_submit() else str(form.csrf_token)

    client = app.test_client()
    token = re.findall(r'value="([^"]+)"', client.get("/").text)[0]
    form = {"goods": "tea", "csrf_token": token}
    assert client.post("/", data=form).text == "ordered tea"
    assert app.test_client().post("/", data=form).status_code == 400


@pytest.mark.parametrize(("key", "warnings"), [("user_id", 1), ("_user_id", 0), ("cart", 0)])
def test_sign_in_by_a_part_that_names_no_user_is_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, key: str, warnings: int
) -> None:
    app = make_app(stored=True)
    app.add_url_rule("/", "index", lambda: session.update({key: 7}) or "")
    for _ in range(2):
        app.test_client().get("/")
    assert caplog.text.count("SEALEDSTATE_SUBJECT_KEY") == warnings
