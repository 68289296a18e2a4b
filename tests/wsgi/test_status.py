"""The session's status: what it answers for each state of a session, and that it changes none."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from sealedstate import Keeper
from sealedstate._request.load import REFUSALS
from sealedstate.keyring import Key
from sealedstate.testing import ScriptedStorage
from sealedstate_wsgi import SealedSessionMiddleware, SessionStatus
from tests.support.client import Answer, Client, ask, cookie_header
from tests.support.documents import Document
from tests.support.installed import program
from tests.support.jar import Browser, Clock, Jar, keeper
from tests.support.servers import gunicorn
from tests.support.shop import ABSOLUTE, HOUR, IDLE, ROTATED, node, sign_in
from tests.support.tables import check_each

STATUS = Document("status.md")
NOT_SIGNED_IN = {"signed_in": False, "idle_seconds": None, "absolute_seconds": None}


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def shop(clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(clock, store)


@pytest.fixture
def browser(shop: Keeper) -> Browser:
    return Browser(shop)


def status(keeper: Keeper, cookie: str, method: str = "GET") -> Answer:
    return ask(validator(SessionStatus(keeper)), "/session", cookie, method)


def asked(browser: Browser) -> Any:
    answer = status(browser.keeper, browser.jar.header())
    assert answer.status == 200
    return answer.json


def reason(browser: Browser) -> str:
    """Why the visitor is not signed in."""
    document = asked(browser)
    found: str = document.pop("reason")
    assert document == NOT_SIGNED_IN
    return found


def test_signed_in_visitor_learns_when_the_session_ends(browser: Browser, clock: Clock) -> None:
    sign_in(browser, cart=[1])
    expected = {"signed_in": True, "reason": None}
    assert asked(browser) == expected | {"idle_seconds": IDLE, "absolute_seconds": ABSOLUTE}
    clock.forward(100.5)
    assert asked(browser) == expected | {"idle_seconds": IDLE - 101, "absolute_seconds": 43099}
    for _ in range(6):  # the absolute end comes first at last
        clock.forward(IDLE - 101)
        browser.visit(len)
    document = asked(browser)
    assert document["absolute_seconds"] == document["idle_seconds"] < IDLE


def test_asking_renews_nothing_and_sets_nothing(browser: Browser, clock: Clock) -> None:
    sign_in(browser, cart=[1])
    for minute in range(IDLE // 60):
        document = asked(browser)
        assert document["idle_seconds"] == IDLE - 60 * minute
        clock.forward(60)
    assert reason(browser) == "expired"


def replace(browser: Browser, clock: Clock, seconds: float = 0) -> None:
    """Another request gave the session a new id; its response is on its way."""
    session = browser.session()
    session.regenerate()
    assert browser.keeper.save(session)
    clock.forward(seconds)


def bring(browser: Browser, value: str = "") -> None:
    """Another cookie, or none."""
    browser.jar = Jar()
    if value:
        name = browser.keeper.deployment.cookies.name
        browser.jar.receive([f"{name}={value}; Path=/; Secure; HttpOnly"])
        assert browser.jar.header()


def become_a_visitor(browser: Browser) -> None:
    browser.visit(lambda session: session.invalidate())
    browser.visit(lambda session: session.update(cart=1))


REASONS: dict[str, tuple[str, Callable[[Browser, Clock], object]]] = {
    "no cookie": ("none", lambda browser, clock: bring(browser)),
    "a visitor's session": ("none", lambda browser, clock: become_a_visitor(browser)),
    "a cookie of nothing": ("none", lambda browser, clock: bring(browser, "x" * 300)),
    "idle": ("expired", lambda browser, clock: clock.forward(IDLE)),
    "signed out here": (
        "signed-out",
        lambda browser, clock: browser.session().invalidate(),
    ),
    "signed out everywhere": (
        "signed-out",
        lambda browser, clock: browser.keeper.revoke_subject("ann"),
    ),
    "a new id on its way": ("replaced", replace),
    "a new id long ago": ("signed-out", lambda browser, clock: replace(browser, clock, HOUR)),
}


def test_visitor_learns_why_not_signed_in(clock: Clock) -> None:
    def check(case: tuple[str, Callable[[Browser, Clock], object]]) -> None:
        expected, act = case
        browser = Browser(node(clock, ScriptedStorage(clock)))
        sign_in(browser, cart=[1])
        act(browser, clock)
        assert reason(browser) == expected
        refusal = browser.session().refusal
        assert (refusal or "none") == expected

    check_each(REASONS, check)


def test_cookie_that_cannot_be_judged_is_withheld(
    browser: Browser, clock: Clock, store: ScriptedStorage
) -> None:
    sign_in(browser)
    store.fail("read")
    assert reason(browser) == "withheld"
    store.recover()
    assert asked(browser)["signed_in"]
    ahead = Browser(node(clock, None, ROTATED))
    sign_in(ahead)
    behind = Browser(node(clock, None), ahead.jar)
    assert reason(behind) == "withheld"
    clock.forward(1000)  # no node can have a key any more that this node does not know
    assert reason(behind) == "expired"


def test_session_of_the_application_says_why_it_is_empty(browser: Browser) -> None:
    session = browser.session()
    assert session.refusal is None
    session.subject = "ann"
    assert session.refusal is None
    session.invalidate()
    assert session.refusal == "signed-out"


def test_reasons_are_the_documented_ones() -> None:
    assert set(STATUS.table("reasons")) == {"none", "withheld", *REFUSALS.values()}


def test_answer_is_kept_by_no_cache_and_read_by_no_other_origin(browser: Browser) -> None:
    sign_in(browser)
    for cookie in ("", browser.jar.header()):
        answer = status(browser.keeper, cookie)
        assert answer.all("Cache-Control") == ["no-store"]
        assert answer.all("Vary") == ["Cookie"]
        assert answer.all("Content-Type") == ["application/json"]
        assert answer.all("Cross-Origin-Resource-Policy") == ["same-origin"]
        assert answer.set_cookies == []
        assert not [name for name, _ in answer.headers if "access-control" in name.lower()]
        head = status(browser.keeper, cookie, "HEAD")
        assert (head.status, head.headers, head.body) == (200, answer.headers, b"")
        assert b"ann" not in answer.body


def test_other_methods_are_refused(browser: Browser, store: ScriptedStorage) -> None:
    sign_in(browser)
    store.calls.clear()
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = status(browser.keeper, browser.jar.header(), method)
        assert (answer.status, answer.all("Allow")) == (405, ["GET, HEAD"])
    assert not store.calls


SERVED = """
from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware, SessionStatus
from werkzeug.middleware.dispatcher import DispatcherMiddleware


def shop(environ, start_response):
    session = environ["sealedstate.session"]
    if environ["PATH_INFO"] == "/sign-in":
        session.subject = "ann"
    elif environ["PATH_INFO"] == "/sign-out":
        session.invalidate()
    elif environ["PATH_INFO"] == "/mounted-inside":
        return SessionStatus(sessions)(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"shop"]


sessions = SealedSessionMiddleware(shop, Settings(storage="sqlite:served.db", idle_lifetime=600))
application = DispatcherMiddleware(sessions, {"/session": SessionStatus(sessions)})
"""


def test_real_server_answers_until_the_session_ends(tmp_path: Path) -> None:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    with gunicorn(tmp_path, SERVED, environ=environ, workers=2) as server:
        client, thief = Client(server.port), Client(server.port)
        assert client.get("/session").json == NOT_SIGNED_IN | {"reason": "none"}
        client.get("/sign-in")
        for path in ("/session", "/mounted-inside"):
            answer = client.get(path)
            assert answer.json["signed_in"]
            assert answer.json["idle_seconds"] <= 600
            assert answer.set_cookies == []
        assert client.request("HEAD", "/session").body == b""
        thief.jar.receive(
            [f"{pair}; Path=/; Secure; HttpOnly" for pair in client.jar.header().split("; ")]
        )
        client.get("/sign-out")
        assert client.get("/session").json["reason"] == "none"
        assert thief.get("/session").json["reason"] == "signed-out"


# --- the script of the documentation --------------------------------------------------------------

SCRIPT = """
const answers = JSON.parse(process.argv[2]);
const log = [];
globalThis.setTimeout = (resume, milliseconds) => { log.push(milliseconds / 1000); resume(); };
globalThis.fetch = async (url, options) => {
  const answer = answers.shift();
  if (answer === "offline") throw new TypeError("Failed to fetch");
  return { ok: answer !== "down", json: async () => answer };
};
const ended = await watchSession("/session", (text) => log.push(text));
console.log(JSON.stringify([ended, log]));
"""


def signed_in(idle: int, absolute: int = 9999) -> dict[str, object]:
    return {"signed_in": True, "idle_seconds": idle, "absolute_seconds": absolute, "reason": None}


def out(reason: str) -> dict[str, object]:
    return NOT_SIGNED_IN | {"reason": reason}


def test_documented_script_warns_before_the_end_and_returns_the_reason(tmp_path: Path) -> None:
    node_js = program("node")
    (script,) = STATUS.code("js")
    path = tmp_path / "watch.mjs"
    path.write_text(script + SCRIPT)

    def watch(*answers: object) -> Any:
        command = [node_js, str(path), json.dumps(answers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout)

    assert watch(
        signed_in(7200),
        "offline",
        "down",
        out("withheld"),
        out("replaced"),
        signed_in(7200, 90),
        signed_in(60),
        signed_in(7),
        out("expired"),
    ) == [
        "expired",
        [
            *("", 60, 60, 60, 60, 5),
            *("", 30, "Your session ends in 60 s", 5, "Your session ends in 7 s", 5),
            "Your session has ended",
        ],
    ]
    assert watch(out("none")) == ["none", ["You are not signed in"]]


def test_keeper_and_middleware_are_sources_alike(clock: Clock) -> None:
    source = keeper(clock)
    middleware = SealedSessionMiddleware(lambda environ, start_response: [], source)
    session = source.session()
    session.subject = "ann"
    cookie = cookie_header(source.save(session))
    for application in (SessionStatus(source), SessionStatus(middleware)):
        assert ask(application, cookie=cookie).json["signed_in"]
