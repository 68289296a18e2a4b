"""What Flask's configuration and ours say, and what stops the start of an application."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask, session
from flask.cli import FlaskGroup

from sealedstate import ConfigurationError, Key, OperatorError, Settings
from sealedstate.cli import main
from sealedstate_flask import SealedSessionInterface, SealedSessions, devices
from tests.flask.conftest import KEYS, MakeApp

NAME = "__Host-Http-s"


def cookie_line(app: Flask) -> str:
    with app.test_request_context():
        session["cart"] = "tea"
        line: str = app.process_response(app.response_class()).headers["Set-Cookie"]
    return line


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({}, f"{NAME}=; Path=/; Secure; HttpOnly; SameSite=Lax"),
        (
            {
                "SESSION_COOKIE_NAME": "shop",
                "SESSION_COOKIE_PATH": "/shop",
                "SESSION_COOKIE_DOMAIN": "shop.example",
                "SESSION_COOKIE_SAMESITE": "strict",
            },
            "shop=; Path=/shop; Domain=shop.example; Secure; HttpOnly; SameSite=Strict",
        ),
        ({"APPLICATION_ROOT": "/shop"}, "s=; Path=/shop; Secure; HttpOnly; SameSite=Lax"),
        (
            {"SESSION_COOKIE_SAMESITE": "None", "SESSION_COOKIE_PARTITIONED": True},
            f"{NAME}=; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
        ),
        # Ours take precedence.
        (
            {"SESSION_COOKIE_NAME": "shop", "SEALEDSTATE_COOKIE_NAME": "ours"},
            "ours=; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        ({"SEALEDSTATE_SECURE": "no"}, "s=; Path=/; HttpOnly; SameSite=Lax"),
    ],
)
def test_cookie_has_the_attributes_of_flasks_names(
    make_app: MakeApp, config: dict[str, Any], sent: str
) -> None:
    app = make_app(**config)
    name, _, rest = cookie_line(app).partition("=")
    assert f"{name}=;{rest.partition(';')[2]}" == sent
    interface = app.session_interface
    assert isinstance(interface, SealedSessionInterface)
    assert interface.get_cookie_name(app) == name
    assert f"Path={interface.get_cookie_path(app)};" in sent
    assert (interface.get_cookie_domain(app) is not None) == ("Domain" in sent)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"SEALEDSTATE_STORRAGE": "x"}, "did you mean 'SEALEDSTATE_STORAGE'"),
        ({"SEALEDSTATE_IDLE_LIFETIME": "soon"}, "^SEALEDSTATE_IDLE_LIFETIME: expected a whole"),
        ({"SESSION_COOKIE_HTTPONLY": False}, "^SESSION_COOKIE_HTTPONLY: "),
        ({"SESSION_COOKIE_DOMAIN": "a b"}, "^SESSION_COOKIE_DOMAIN: "),
        ({"SESSION_COOKIE_SAMESITE": "sometimes"}, "^SESSION_COOKIE_SAMESITE: expected one of"),
        ({"SESSION_COOKIE_PARTITIONED": True}, "^SESSION_COOKIE_PARTITIONED: needs same_site"),
        ({"SEALEDSTATE_SAME_SITE": "x"}, "^SEALEDSTATE_SAME_SITE: expected one of"),
        ({"SEALEDSTATE_KEYS": "secret"}, "^SEALEDSTATE_KEYS: "),
        ({"SEALEDSTATE_DEVICES": {"most": 5}}, "needs a store"),
        ({"SEALEDSTATE_DEVICES": {"max": 5}}, "^SEALEDSTATE_DEVICES: must be a dict with some of"),
        ({"SEALEDSTATE_LEGACY_UNTIL": "soon"}, "^SEALEDSTATE_LEGACY_UNTIL: expected a date"),
        ({"SEALEDSTATE_LEGACY_UNTIL": "2099-01-01"}, "only with SECRET_KEY"),
        (
            {
                "SEALEDSTATE_LEGACY_UNTIL": "2099-01-01",
                "SECRET_KEY": "old",
                "SESSION_COOKIE_NAME": "shop",
            },
            "'shop' .*; set SEALEDSTATE_COOKIE_NAME",
        ),
        ({"PERMANENT_SESSION_LIFETIME": "3600"}, "^PERMANENT_SESSION_LIFETIME: .* got '3600'"),
        ({"PERMANENT_SESSION_LIFETIME": None}, "^PERMANENT_SESSION_LIFETIME: "),
        ({"PERMANENT_SESSION_LIFETIME": timedelta(0)}, "^PERMANENT_SESSION_LIFETIME: "),
        ({"PERMANENT_SESSION_LIFETIME": -5}, "^PERMANENT_SESSION_LIFETIME: "),
        ({"SEALEDSTATE_LEGACY_UNTLI": "2099-01-01"}, "did you mean 'SEALEDSTATE_LEGACY_UNTIL'"),
        (
            {
                "SECRET_KEY": "k",
                "SECRET_KEY_FALLBACKS": "before",
                "SEALEDSTATE_LEGACY_UNTIL": "2099-01-01",
            },
            "^SECRET_KEY_FALLBACKS: ",
        ),
        ({"SEALEDSTATE_KEYS": "keys.json"}, "file:keys.json"),
    ],
)
def test_mistake_stops_the_start_and_names_its_setting(
    make_app: MakeApp, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_app(**config)


def test_settings_come_from_the_environment_too(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALEDSTATE_REALM", "shop")
    monkeypatch.setenv("SEALEDSTATE_IDLE_LIFETIME", "600")
    settings = make_app(SEALEDSTATE_IDLE_LIFETIME=900).extensions["sealedstate"].settings
    assert (settings.realm, settings.idle_lifetime) == ("shop", 900)


def test_permanent_lifetime_is_what_keys_and_logouts_are_kept_for(make_app: MakeApp) -> None:
    app = make_app(PERMANENT_SESSION_LIFETIME=timedelta(days=90))
    assert app.extensions["sealedstate"].settings.longest_lifetime == 90 * 86400
    short = make_app(PERMANENT_SESSION_LIFETIME=timedelta(minutes=10))
    assert short.extensions["sealedstate"].settings.longest_lifetime is None


def test_debug_mode_without_keys_warns_and_works(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(prepare=lambda app: app.config.pop("SEALEDSTATE_KEYS"), DEBUG=True)
    assert "flask sealedstate keys generate" in caplog.text
    assert cookie_line(app)
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_KEYS"):
        make_app(prepare=lambda app: app.config.pop("SEALEDSTATE_KEYS"))


def test_secret_key_is_never_a_key(make_app: MakeApp) -> None:
    """Two applications with one SECRET_KEY and different keys open nothing of each other."""
    first = make_app(SECRET_KEY="same")
    other = make_app(SECRET_KEY="same", SEALEDSTATE_KEYS=Key.generate(os.urandom).export())
    line = cookie_line(first)
    with other.test_request_context(headers={"Cookie": line.partition(";")[0]}):
        assert not session


def test_one_extension_serves_the_applications_of_a_factory(make_app: MakeApp) -> None:
    extension = SealedSessions()
    apps = []
    for realm in ("shop", "office"):
        app = Flask(realm)
        app.config.update(SEALEDSTATE_KEYS=KEYS, SEALEDSTATE_REALM=realm)
        extension.init_app(app)
        apps.append(app)
    shop, office = apps
    pair = cookie_line(shop).partition(";")[0]
    with shop.test_request_context(headers={"Cookie": pair}):
        assert session["cart"] == "tea"
    with office.test_request_context(headers={"Cookie": pair}):
        assert not session


def test_each_application_has_the_registry_that_it_describes(make_app: MakeApp) -> None:
    few = make_app(stored=True, SEALEDSTATE_DEVICES={"most": 1}, SEALEDSTATE_REALM="few")
    many = make_app(stored=True, SEALEDSTATE_DEVICES={}, SEALEDSTATE_REALM="many")
    for app, expected in ((few, 1), (many, 2)):
        for _ in range(2):
            with app.test_request_context():
                session["_user_id"] = "ann"
                app.process_response(app.response_class())
        with app.app_context():
            assert len(devices().list("ann")) == expected
    with (
        make_app().app_context(),
        pytest.raises(ConfigurationError, match="SEALEDSTATE_DEVICES: is not set"),
    ):
        devices()


def test_settings_may_be_given_as_a_value() -> None:
    app = Flask("shop")
    SealedSessions(app, Settings(keys=KEYS, cookie_name="given"))
    assert cookie_line(app).startswith("given=")


def test_command_line_has_the_applications_settings(make_app: MakeApp) -> None:
    app = make_app(stored=True)
    runner = app.test_cli_runner()
    assert runner.invoke(args=["sealedstate", "keys", "generate"]).output.startswith("sealedstate-")
    assert "does not" not in runner.invoke(args=["sealedstate", "store", "ping"]).output
    listed = runner.invoke(args=["sealedstate", "sessions", "list", "--json"])
    assert (listed.exit_code, listed.output.strip()) == (0, "[]")


def test_command_line_makes_the_keys_that_the_application_lacks(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = f"file:{tmp_path / 'keys.json'}"
    with pytest.raises(OperatorError, match="keys init"):
        make_app(SEALEDSTATE_KEYS=ring)
    loaded: list[Flask] = []

    def create_app() -> Flask:
        app = Flask("shop")
        app.config.update(SEALEDSTATE_KEYS=ring, TESTING=True)
        SealedSessions(app)
        loaded.append(app)
        return app

    def flask(*arguments: str) -> Result:
        return CliRunner().invoke(FlaskGroup(create_app=create_app), arguments)

    stopped = flask("run", "--port", "0").exception
    assert isinstance(stopped, OperatorError)
    assert not loaded
    assert flask("sealedstate", "keys", "init").exit_code == 0
    with pytest.raises(OperatorError, match="keys init"):
        loaded[0].test_client().get("/")
    # For as long as a permanent session lives.
    assert cookie_line(make_app(SEALEDSTATE_KEYS=ring))


def test_ring_for_shorter_sessions_is_extended_by_the_command_that_the_error_names(
    make_app: MakeApp, tmp_path: Path
) -> None:
    ring = f"file:{tmp_path / 'keys.json'}"
    assert main(["keys", "init", str(tmp_path / "keys.json")]) == 0
    with pytest.raises(ConfigurationError, match="`flask sealedstate keys rotate`"):
        make_app(SEALEDSTATE_KEYS=ring)
    app = Flask("shop")
    app.config["SEALEDSTATE_KEYS"] = ring

    def create_app() -> Flask:
        SealedSessions(app)
        return app

    group = FlaskGroup(create_app=create_app)
    assert CliRunner().invoke(group, ["sealedstate", "keys", "rotate"]).exit_code == 0
    assert cookie_line(make_app(SEALEDSTATE_KEYS=ring))


def test_secure_cookie_over_plain_http_is_warned_of_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.add_url_rule("/", "index", lambda: session.update(cart="tea") or "")
    for _ in range(2):
        app.test_client().get("/", base_url="http://shop.example")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_logins_that_were_begun_make_room_for_others(make_app: MakeApp) -> None:
    settings = make_app().extensions["sealedstate"].settings
    assert list(settings.may_drop) == ["_state_*"]
    settings = make_app(SEALEDSTATE_MAY_DROP="flash").extensions["sealedstate"].settings
    assert list(settings.may_drop) == ["flash"]
