"""`flask.session` does what Flask's users know, and what only a sealed session does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from flask import (
    Flask,
    Response,
    flash,
    get_flashed_messages,
    render_template_string,
    request,
    send_file,
    session,
    stream_with_context,
)
from flask.testing import FlaskClient

from sealedstate import LateWrite, Session, SessionTooLarge
from sealedstate_flask import FlaskSession, sealed
from tests.flask.conftest import MakeApp

NAME = "__Host-Http-s"
DAY = 86400
NOON = 1_800_000_000


def shop_of(app: Flask) -> FlaskClient:
    """Pages that change the session by the query, and that leave it alone."""

    @app.before_request
    def remember() -> None:
        if "remember" in request.args:
            session.permanent = request.args["remember"] == "yes"

    @app.get("/set")
    def assign() -> str:
        session.update((name, text) for name, text in request.args.items() if name != "remember")
        return "set"

    @app.get("/show")
    def show() -> dict[str, Any]:
        return dict(session)

    @app.get("/clear")
    def clear() -> str:
        session.clear()
        return "cleared"

    @app.get("/static-page")
    def leave_alone() -> str:
        return "no session"

    @app.get("/file")
    def file() -> Response:
        return send_file(__file__)

    return app.test_client()


def max_age(line: str) -> int | None:
    found = [text for text in line.split("; ") if text.startswith("Max-Age=")]
    return int(found[0].removeprefix("Max-Age=")) if found else None


# --- the mapping --------------------------------------------------------------------------------


def test_session_is_sealed_and_comes_back(make_app: MakeApp) -> None:
    client = shop_of(make_app())
    line = client.get("/set?cart=lapsang-souchong").headers["Set-Cookie"]
    assert line.startswith(f"{NAME}=")
    assert "HttpOnly" in line
    assert "souchong" not in line
    answer = client.get("/show")
    assert answer.json == {"cart": "lapsang-souchong"}
    assert answer.headers["Vary"] == "Cookie"
    assert "Set-Cookie" not in answer.headers


def test_page_without_session_depends_on_no_cookie(make_app: MakeApp) -> None:
    client = shop_of(make_app())
    client.get("/set?cart=tea")
    answer = client.get("/static-page")
    assert "Vary" not in answer.headers
    assert "Set-Cookie" not in answer.headers


def test_naming_the_session_is_no_use_of_it(make_app: MakeApp) -> None:
    app = make_app()

    @app.get("/name")
    def name() -> str:
        return type(sealed(session)).__name__

    answer = app.test_client().get("/name")
    assert (answer.text, "Vary" in answer.headers) == ("Session", False)


def test_change_inside_a_list_is_saved_without_modified(make_app: MakeApp) -> None:
    client = make_app().test_client()
    with client.session_transaction() as first:
        first["cart"] = ["tea"]
    with client.session_transaction() as second:
        second["cart"].append("rice")
        assert second.modified
    with client.session_transaction() as third:
        assert third["cart"] == ["tea", "rice"]
        assert not third.modified


def test_modified_true_seals_an_unchanged_session_again(make_app: MakeApp) -> None:
    client = make_app().test_client()
    with client.session_transaction() as first:
        first["cart"] = ["tea"]
    before = client.get_cookie(NAME)
    with client.session_transaction() as second:
        second.modified = True
    after = client.get_cookie(NAME)
    assert before is not None
    assert after is not None
    assert before.value != after.value


def test_new_and_sealed_show_the_session_behind(make_app: MakeApp) -> None:
    client = make_app().test_client()
    with client.session_transaction() as first:
        assert first.new
        first["cart"] = "tea"
    with client.session_transaction() as second:
        assert isinstance(second, FlaskSession)
        assert not second.new
        assert isinstance(sealed(second), Session)
        assert second.id == sealed(second).id


def test_template_shows_parts_before_names_of_the_session(make_app: MakeApp) -> None:
    app = make_app()
    with app.test_request_context():
        session.update(id="order 7", cart="tea", permanent_address="Rome")
        shown = render_template_string(
            "{{ session.id }} {{ session.cart }} {{ session['id'] }} {{ session.permanent }}"
        )
    assert shown == "order 7 tea order 7 False"


def test_attribute_that_is_none_says_how_a_part_is_assigned(make_app: MakeApp) -> None:
    app = make_app()
    with app.test_request_context(), pytest.raises(AttributeError, match=r"session\['cart'\]"):
        session.cart = ["tea"]  # type: ignore[attr-defined]


# --- permanent ----------------------------------------------------------------------------------


def test_permanent_session_lives_for_its_lifetime_after_each_visit(make_app: MakeApp) -> None:
    app = make_app(
        PERMANENT_SESSION_LIFETIME=timedelta(days=10), SEALEDSTATE_LONGEST_LIFETIME=30 * DAY
    )
    client = shop_of(app)
    with time_machine.travel(NOON, tick=False) as clock:
        line = client.get("/set?cart=tea&remember=yes").headers["Set-Cookie"]
        assert max_age(line) == 30 * DAY
        for _ in range(2):
            clock.shift(9 * DAY)
            assert client.get("/show").json == {"cart": "tea"}
        clock.shift(11 * DAY)
        assert client.get("/show").json == {}


def test_permanent_lifetime_may_be_a_short_time_of_inactivity(make_app: MakeApp) -> None:
    client = shop_of(make_app(PERMANENT_SESSION_LIFETIME=600))
    with time_machine.travel(NOON, tick=False) as clock:
        client.get("/set?cart=tea&remember=yes")
        clock.shift(599)
        # A page that leaves the session alone is a visit, too, but a file is not.
        answer = client.get("/static-page")
        assert answer.headers["Vary"] == "Cookie"
        assert "Set-Cookie" in answer.headers
        clock.shift(599)
        assert client.get("/show").json == {"cart": "tea"}
        clock.shift(599)
        with client.get("/file") as file:
            assert "Set-Cookie" not in file.headers
        clock.shift(1)
        assert client.get("/show").json == {}


@pytest.mark.parametrize("refreshes", [True, False])
def test_permanent_session_follows_a_changed_lifetime(make_app: MakeApp, refreshes: bool) -> None:
    config = {"SESSION_REFRESH_EACH_REQUEST": refreshes, "SEALEDSTATE_LONGEST_LIFETIME": 31 * DAY}
    app = make_app(**config)
    client = shop_of(app)
    app.add_url_rule("/id", "id", lambda: sealed(session).id)
    with time_machine.travel(NOON, tick=False) as clock:
        client.get("/set?cart=tea&remember=yes")
        session_id = client.get("/id").text
        for seconds in (600, 1200):
            app.permanent_session_lifetime = timedelta(seconds=seconds)
            clock.shift(599)
            assert client.get("/set?cart=milk").status_code == 200
            clock.shift(seconds - 1)
            assert client.get("/set?cart=tea").status_code == 200
            assert client.get("/id").text == session_id
        clock.shift(1200)
        assert client.get("/show").json == {}


def test_lifetime_that_is_set_after_permanent_counts_but_not_against_limit(
    make_app: MakeApp,
) -> None:
    app = make_app()
    client = shop_of(app)

    @app.get("/short")
    def shorten() -> str:
        session.permanent = True
        app.permanent_session_lifetime = timedelta(seconds=60)
        session["cart"] = "tea"
        return ""

    @app.get("/limit")
    def limit() -> str:
        session["cart"] = "tea"
        session.limit(idle=600, persistent=True)  # type: ignore[attr-defined]
        return ""

    with time_machine.travel(NOON, tick=False) as clock:
        for path, seconds in (("/short", 60), ("/limit", 600), ("/short", 60)):
            client.get(path)
            client.get("/set?cart=milk")
            clock.shift(seconds - 1)
            assert client.get("/show").json == {"cart": "milk"}
            client.get("/set?cart=tea")
            clock.shift(seconds)
            assert client.get("/show").json == {}


def test_refresh_is_when_it_is_due_where_the_application_says_so(make_app: MakeApp) -> None:
    client = shop_of(make_app(SESSION_REFRESH_EACH_REQUEST=False))
    with time_machine.travel(NOON, tick=False) as clock:
        client.get("/set?cart=tea&remember=yes")
        clock.shift(60)
        assert "Set-Cookie" not in client.get("/show").headers
        clock.shift(4 * DAY)
        assert "Set-Cookie" not in client.get("/static-page").headers
        assert "Set-Cookie" in client.get("/show").headers


def test_permanent_outlives_a_sign_in_but_not_clear(make_app: MakeApp) -> None:
    client = shop_of(make_app())
    client.get("/set?cart=tea&remember=yes")
    assert max_age(client.get("/set?_user_id=7").headers["Set-Cookie"]) == 31 * DAY
    client.get("/clear")
    assert max_age(client.get("/set?_user_id=7").headers["Set-Cookie"]) is None


def test_permanent_can_be_taken_back(make_app: MakeApp) -> None:
    client = shop_of(make_app())
    client.get("/set?cart=tea&remember=yes")
    assert max_age(client.get("/show?remember=no").headers["Set-Cookie"]) is None
    assert client.get("/show").json == {"cart": "tea"}


# --- sign-ins -----------------------------------------------------------------------------------


def test_captured_cookie_is_refused_after_clear(make_app: MakeApp) -> None:
    app = make_app(stored=True, SEALEDSTATE_SUBJECT_KEY="user")
    client = shop_of(app)
    client.get("/set?user=ann&cart=tea")
    captured = client.get_cookie(NAME)
    assert captured is not None
    client.get("/clear")
    thief = app.test_client()
    thief.set_cookie(NAME, captured.value)
    assert thief.get("/show").json == {}


def test_sign_in_has_a_new_id_and_revoke_subject_ends_it(make_app: MakeApp) -> None:
    app = make_app(stored=True)
    client = shop_of(app)
    client.get("/set?cart=tea")
    with client.session_transaction() as before:
        first = sealed(before).id
    client.get("/set?_user_id=7")
    with client.session_transaction() as after:
        assert (sealed(after).id != first, sealed(after).subject) == (True, "7")
    app.extensions["sealedstate"].revoke_subject("7")
    assert client.get("/show").json == {}


# --- responses ----------------------------------------------------------------------------------


def say() -> str:
    flash("saved")
    return ""


def test_flashed_message_is_shown_once(make_app: MakeApp) -> None:
    app = make_app()
    app.add_url_rule("/say", "say", say)
    app.add_url_rule("/hear", "hear", lambda: ", ".join(map(str, get_flashed_messages())))
    client = app.test_client()
    client.get("/say")
    assert [client.get("/hear").text, client.get("/hear").text] == ["saved", ""]


def test_kept_request_of_a_test_reads_messages_and_the_session(make_app: MakeApp) -> None:
    app = make_app()
    app.add_url_rule("/say", "say", say)
    app.add_url_rule("/nothing", "nothing", lambda: "")
    client = app.test_client()
    with client:
        client.get("/say")
        assert get_flashed_messages() == ["saved"]
    with client:
        client.get("/nothing")
        assert "_flashes" in session


def test_stream_reads_what_was_read_before_and_writes_nothing(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    errors: list[Exception] = []

    @app.get("/stream")
    def stream() -> Response:
        session["cart"] = ["tea"]

        def pieces() -> Iterator[str]:
            yield session["cart"][0]
            try:
                session["late"] = 1
            except LateWrite as error:
                errors.append(error)
            session["cart"].append("rice")

        return Response(stream_with_context(pieces()))

    with caplog.at_level(logging.ERROR, "sealedstate.flask"):
        response = app.test_client().get("/stream")
        assert response.text == "tea"
        response.close()
    assert len(errors) == 1
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["cart"]


def test_view_can_answer_a_session_that_is_too_large(make_app: MakeApp) -> None:
    app = make_app()
    client = shop_of(app)

    @app.errorhandler(SessionTooLarge)
    def refuse(error: SessionTooLarge) -> tuple[str, int]:
        return "too much", 413

    client.get("/set?cart=tea")
    answer = client.get(f"/set?note={'x' * 4000}")
    assert (answer.status_code, answer.text) == (413, "too much")
    assert client.get("/show").json == {"cart": "tea"}


def test_save_that_fails_is_an_error_page_that_no_cache_shares(make_app: MakeApp) -> None:
    app = make_app()
    client = shop_of(app)

    @app.get("/grow")
    def grow() -> str:
        session["notes"] = []
        session["notes"].append("x" * 4000)
        return "grown"

    client.get("/set?cart=tea")
    answer = client.get("/grow")
    assert (answer.status_code, answer.headers["Vary"]) == (500, "Cookie")
    assert "Set-Cookie" not in answer.headers
    assert client.get("/show").json == {"cart": "tea"}


def test_form_of_another_site_does_not_replace_a_login(make_app: MakeApp) -> None:
    app = make_app()
    app.add_url_rule("/post", view_func=lambda: session.update(a=1) or "", methods=["POST"])
    client = app.test_client()
    answer = client.post("/post", headers={"Sec-Fetch-Site": "cross-site"})
    assert "Set-Cookie" not in answer.headers
    assert "Set-Cookie" in client.post("/post").headers
