"""Sessions of before are taken over: signed by Flask, and kept by Flask-Session."""

from __future__ import annotations

import warnings
from datetime import UTC, date, datetime
from typing import Any

import pytest
from cachelib import SimpleCache
from flask import Flask, session
from flask.sessions import SecureCookieSessionInterface
from flask_session import Session as ServerSideSessions

from sealedstate import ConfigurationError
from tests.flask.conftest import MakeApp
from tests.support.kv_servers import redis_server

UNTIL = "2099-01-01"
DAY = 86400


def old_cookie(app: Flask) -> str:
    """What the application's session interface of before sends a user who signs in."""
    with app.test_request_context():
        session.update(_user_id="7", cart=["tea"], seen=datetime(2026, 1, 2, tzinfo=UTC))
        session.permanent = True
        line: str = app.process_response(app.response_class()).headers["Set-Cookie"]
    return line.partition(";")[0]


def signed_by(secret: str) -> str:
    app = Flask("shop")
    app.secret_key = secret
    return old_cookie(app)


def show(app: Flask, cookie: str) -> Any:
    """The parts that a request with this cookie has, and the Set-Cookie lines of its answer."""
    if "show" not in app.view_functions:
        app.add_url_rule("/", "show", lambda: {**session, "permanent": session.permanent})
    response = app.test_client(use_cookies=False).get("/", headers={"Cookie": cookie})
    return response.json, response.headers.getlist("Set-Cookie")


@pytest.mark.parametrize("until", [UNTIL, date(2099, 1, 1), datetime(2099, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("secret", ["new", "old"])
def test_signed_session_is_taken_over(make_app: MakeApp, secret: str, until: object) -> None:
    app = make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"], SEALEDSTATE_LEGACY_UNTIL=until)
    found, lines = show(app, signed_by(secret))
    assert (found["_user_id"], found["cart"], found["permanent"]) == ("7", ["tea"], True)
    assert "_permanent" not in show(app, lines[0].partition(";")[0])[0]
    assert lines[0].startswith("__Host-Http-s=")
    assert "; Max-Age=" in lines[0]
    assert lines[1].startswith("session=; Max-Age=0")


def test_signed_session_opens_nothing_without_a_date_or_its_secret(make_app: MakeApp) -> None:
    assert show(make_app(SECRET_KEY="new"), signed_by("new")) == ({"permanent": False}, [])
    app = make_app(SECRET_KEY="new", SEALEDSTATE_LEGACY_UNTIL=UNTIL)
    assert show(app, signed_by("other"))[0] == {"permanent": False}
    over = make_app(SECRET_KEY="new", SEALEDSTATE_LEGACY_UNTIL="2020-01-01")
    assert show(over, signed_by("new"))[0] == {"permanent": False}


def test_interface_that_is_not_known_is_refused(make_app: MakeApp) -> None:
    class Salted(SecureCookieSessionInterface):
        salt = "other"

    with pytest.raises(ConfigurationError, match="SEALEDSTATE_LEGACY_UNTIL: sessions of Salted"):
        make_app(
            prepare=lambda app: setattr(app, "session_interface", Salted()),
            SECRET_KEY="new",
            SEALEDSTATE_LEGACY_UNTIL=UNTIL,
        )


def keep_on_server(make_app: MakeApp, **config: Any) -> tuple[Flask, str]:
    """An application that had Flask-Session, and a cookie of that time."""
    cookies: list[str] = []

    def had_server_side_sessions(app: Flask) -> None:
        app.config.update(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ServerSideSessions(app)
        cookies.append(old_cookie(app))

    app = make_app(True, had_server_side_sessions, SEALEDSTATE_LEGACY_UNTIL=UNTIL)
    return app, cookies[0]


@pytest.fixture(params=[False, True], ids=["unsigned", "signed"])
def kept(request: pytest.FixtureRequest, make_app: MakeApp) -> tuple[Flask, str, Any]:
    """An application that had Flask-Session, a cookie of that time, and its store."""
    cache = SimpleCache()
    config = {"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": cache, "SECRET_KEY": "secret"}
    return (*keep_on_server(make_app, **config, SESSION_USE_SIGNER=request.param), cache)


def test_session_of_flask_session_is_taken_over(kept: tuple[Flask, str, Any]) -> None:
    app, cookie, _ = kept
    found, lines = show(app, cookie)
    assert (found["_user_id"], found["cart"], found["permanent"]) == ("7", ["tea"], True)
    assert lines[1].startswith("session=; Max-Age=0")
    assert show(app, f"{cookie}x")[0] == {"permanent": False}


def test_session_of_flask_session_can_be_signed_out(kept: tuple[Flask, str, Any]) -> None:
    app, cookie, _ = kept

    @app.get("/clear")
    def clear() -> str:
        session.clear()
        return ""

    assert show(app, cookie)[0]["_user_id"] == "7"
    app.test_client(use_cookies=False).get("/clear", headers={"Cookie": cookie})
    assert show(app, cookie)[0] == {"permanent": False}


def test_id_in_another_case_is_signed_out_too(make_app: MakeApp) -> None:
    """As with Flask-Session's tables in MySQL, which compares without case."""

    class AnyCase(SimpleCache):
        def get(self, key: str) -> Any:
            return super().get(
                next((kept for kept in self._cache if kept.lower() == key.lower()), key)
            )

    app, cookie = keep_on_server(make_app, SESSION_TYPE="cachelib", SESSION_CACHELIB=AnyCase())
    app.add_url_rule("/clear", "clear", lambda: session.pop("_user_id"))
    name, _, sid = cookie.partition("=")
    other = f"{name}={sid.swapcase()}"
    assert show(app, other)[0]["_user_id"] == "7"
    app.test_client(use_cookies=False).get("/clear", headers={"Cookie": cookie})
    for old in (cookie, other):
        assert show(app, old)[0] == {"permanent": False}


def test_sign_out_everywhere_reaches_sessions_of_flask_session(
    kept: tuple[Flask, str, Any],
) -> None:
    app, cookie, _ = kept
    app.extensions["sealedstate"].revoke_subject("7")
    assert show(app, cookie)[0] == {"permanent": False}


def test_cookie_is_left_alone_while_the_store_of_flask_session_is_down(
    kept: tuple[Flask, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, cookie, cache = kept

    def refuse(name: str) -> None:
        raise ConnectionError(name)

    app.add_url_rule("/set", "set", lambda: session.update(cart="rice") or "")
    show(app, "")
    with monkeypatch.context() as patched:
        patched.setattr(cache, "get", refuse)
        response = app.test_client(use_cookies=False).get("/set", headers={"Cookie": cookie})
        assert (response.status_code, response.headers.getlist("Set-Cookie")) == (200, [])
    assert show(app, cookie)[0]["cart"] == ["tea"]


@pytest.mark.server
def test_session_that_flask_session_keeps_in_redis_is_taken_over(make_app: MakeApp) -> None:
    with redis_server() as server:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = Redis(port=server.port, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        app, cookie = keep_on_server(make_app, SESSION_TYPE="redis", SESSION_REDIS=client)
        app.add_url_rule("/clear", "clear", lambda: session.pop("_user_id"))
        server.pause()
        found, lines = show(app, cookie)
        assert (found, lines) == ({"permanent": False}, [])
        server.resume()
        found, lines = show(app, cookie)
        assert (found["_user_id"], found["cart"], found["permanent"]) == ("7", ["tea"], True)
        assert lines[1].startswith("session=; Max-Age=0")
        app.test_client(use_cookies=False).get("/clear", headers={"Cookie": cookie})
        assert show(app, cookie)[0] == {"permanent": False}
        client.close()


def test_interface_that_takes_the_place_of_ours_is_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache())
    ServerSideSessions(app)
    calls: list[str] = []
    app.before_request(lambda: calls.append("other"))
    app.add_url_rule("/", "index", str)
    for _ in range(2):
        app.test_client().get("/")
    assert caplog.text.count("call SealedSessions(app) last") == 1
    assert calls == ["other", "other"]
