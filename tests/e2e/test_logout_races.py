"""Two workers of six threads, over HTTP: no cookie is accepted after an acknowledged end.

Browsers share a session. Some of its requests give it a new id, again and again, until one ends it.
All cookies that were ever sent to them are tried afterwards.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealedstate import Key
from sealedstate.keyring import export_lookup
from tests.support.client import Client, send
from tests.support.servers import Server, gunicorn

APPLICATION = """
import json
import time
from pathlib import Path

from sealedstate import Keeper, Settings
from sealedstate.sso import LoginRecords, NameID, ServiceLogin, SingleLogout
from sealedstate.storage import SQLiteStorage
from sealedstate_wsgi import SealedSessionMiddleware

RECORDS = LoginRecords()
STORE = SQLiteStorage(Path(__file__).parent / "sessions.db", time.time, timeout=20)
KEEPER = Keeper(Settings.from_env(storage=STORE, merge=RECORDS.merge_rules))
LOGOUT = SingleLogout(KEEPER, RECORDS)


def sign_in(session, user):
    session.subject = user
    session["vault"] = "secret of " + user


def sign_out_everywhere(session, value):
    if session.subject is not None:
        KEEPER.revoke_subject(session.subject)


ACTS = {
    "/": lambda session, value: None,
    "/first": sign_in,
    "/sign-in": sign_in,
    "/regenerate": lambda session, value: session.regenerate(),
    "/invalidate": lambda session, value: session.invalidate(),
    "/sign-out": lambda session, value: setattr(session, "subject", None),
    "/revoke-session": lambda session, value: KEEPER.revoke_session(session.id),
    "/revoke-subject": sign_out_everywhere,
    "/single-logout": lambda session, value: LOGOUT.begin(session),
}


def app(environ, start_response):
    session = environ["sealedstate.session"]
    sent = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    value = json.loads(sent or "null")
    path, before = environ["PATH_INFO"], session.subject
    # A browser that has not received its new cookie yet can sign in and out all the same.
    if before is None and session.withheld == "replaced" and path in ("/sign-in", "/invalidate"):
        before = "replaced"
    if before is not None or path == "/first":
        ACTS[path](session, value)
    body = json.dumps(before).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


application = SealedSessionMiddleware(app, KEEPER)
"""

NEW_IDS = ("/regenerate", "/sign-in", "/sign-in as another")
ENDS = ("/invalidate", "/sign-out", "/revoke-session", "/revoke-subject", "/single-logout")
WORKERS, THREADS = 2, 6
RENEWERS, TRIES = 3, 20

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    keys = f"{Key.generate(os.urandom).export()} {export_lookup(os.urandom(32))}"
    environ = {"SEALEDSTATE_KEYS": keys, "SEALEDSTATE_PART_POLICIES": "vault=server"}
    options = ("--worker-class", "gthread", "--threads", str(THREADS))
    with gunicorn(tmp_path, APPLICATION, *options, environ=environ, workers=WORKERS) as running:
        yield running


class Race:
    """The browsers of one user, until the end is acknowledged; then what its cookies open."""

    def __init__(self, port: int, number: int) -> None:
        self.port, self.chance = port, random.Random(number)
        self.end, self.user = self.chance.choice(ENDS), f"user {number}"
        self.is_from_outside = self.end.startswith(("/revoke", "/single"))
        self.sent: list[str] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.browser = Client(port)
        assert self.browser.post("/first", self.user).status == 200
        self.sent.append(self.browser.jar.header())

    def renew(self, name: str) -> int:
        """New ids until the end; returns how many cookies were sent."""
        path, _, other = name.partition(" as ")
        user, count = f"{other} of {self.user}" if other else self.user, 0
        while not self._ended.is_set():
            with self._lock:
                jar = self.browser.jar.copy()
            time.sleep(self.chance.random() / 50)
            answer = send(self.port, "POST", path, jar.header(), f'"{user}"'.encode())
            assert answer.status == 200
            if answer.json is None:  # the session had ended when this request came
                continue
            jar.receive(answer.set_cookies)
            with self._lock:
                if answer.set_cookies and jar.header():
                    self.sent.append(jar.header())
                    self.browser.jar, count = jar, count + 1
        return count

    def finish(self) -> bool:
        """End the session, with the newest cookie; whether that was acknowledged."""
        try:
            for _ in range(TRIES):
                time.sleep(self.chance.random() / 20)
                with self._lock:
                    cookie = self.browser.jar.header()
                answer = send(self.port, "POST", self.end, cookie, b"null")
                # Else the cookie had been replaced when the request came, or the end has failed.
                if answer.status == 200 and answer.json is not None:
                    self.ended_user = answer.json
                    return True
            return False
        finally:
            self._ended.set()

    def alive(self) -> list[str]:
        """The users that the cookies still open, of those that the end was about."""
        found = [send(self.port, "GET", "/", cookie).json for cookie in self.sent]
        # An end from outside is about one user; the browser's own request ends whatever it has.
        meant = {self.ended_user} if self.is_from_outside else set(found)
        return [user for user in found if user is not None and user in meant]


def race(port: int, number: int) -> tuple[str, str, int, list[str]]:
    one = Race(port, number)
    names = [one.chance.choice(NEW_IDS) for _ in range(RENEWERS)]
    # After an end from outside, a sign-in over the session of another user, or over none, is a new
    # session of that user. Here only sessions continue that began before.
    if one.end == "/revoke-subject":
        names = ["/regenerate" for _ in names]
    elif one.is_from_outside and "/sign-in as another" in names:
        names = ["/regenerate" if name == "/sign-in" else name for name in names]
    with ThreadPoolExecutor(RENEWERS + 1) as pool:
        renewed = [pool.submit(one.renew, name) for name in names]
        ended = pool.submit(one.finish)
        count = sum(job.result(120) for job in renewed)
        if not ended.result(120):
            return one.end, "not acknowledged", count, []
    return one.end, "acknowledged", count, one.alive()


@pytest.mark.parametrize(
    "seconds", [pytest.param(6, id="6"), pytest.param(60, id="60", marks=pytest.mark.soak)]
)
def test_no_cookie_is_accepted_after_an_acknowledged_end(server: Server, seconds: int) -> None:
    seen, number = Counter[tuple[str, str]](), 0
    deadline, lock = time.monotonic() + seconds, threading.Lock()
    sent: list[int] = []
    alive: list[tuple[str, list[str]]] = []

    def run() -> None:
        nonlocal number
        while time.monotonic() < deadline:
            with lock:
                number += 1
                mine = number
            end, outcome, count, users = race(server.port, mine)
            with lock:
                seen[end, outcome] += 1
                sent.append(count)
                alive.extend([(end, users)] if users else [])

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(run) for _ in range(4)]:
            job.result(seconds + 120)
    assert alive == []
    assert sum(sent) > 20
    for end in ENDS:
        assert seen[end, "acknowledged"], seen
