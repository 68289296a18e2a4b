"""Single logout on four gunicorn workers: each refuses every captured cookie.

As soon as a logout was answered, no cookie of the session is accepted.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealedstate import Key
from sealedstate.keyring import export_lookup
from tests.support.client import Client, send
from tests.support.servers import Server, gunicorn

APPLICATION = """
import json
import os
import time
from pathlib import Path

from sealedstate import Settings
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import Identifiers, LoginRecords, LogoutIndex, LogoutRequest, NameID
from sealedstate.sso import ServiceLogin, SingleLogout
from sealedstate.storage import SQLiteStorage
from sealedstate_wsgi import SealedSessionMiddleware

METHOD = "urn:oasis:names:tc:SAML:2.0:ac:classes:Password"
STORE = SQLiteStorage(Path(__file__).parent / "sessions.db", time.time)
identifier_keys = StaticKeys(Keyring((Key.parse(os.environ["IDENTIFIER_KEY"]),)))
records = LoginRecords(identifiers=Identifiers(identifier_keys))


def sign_in(session, value):
    session.subject = value
    login(session).authenticate(METHOD, 3600)


def enter(session, value):
    made = login(session).add_derived_login(value, METHOD)
    return [made.name_id.value, made.session_index]


def add(session, value):
    now = int(time.time())
    login(session).add_service(ServiceLogin(value[0], METHOD, NameID(value[1]), None, now))


def asked(session, value):
    request = LogoutRequest(value[0], NameID(value[1]), tuple(value[2:]))
    progresses = logout.begin_for_request(request)
    return [[notice.entity_id for notice in progress] for progress in progresses]


def login(session):
    return records.for_session(session)


CHANGES = {
    "/me": lambda session, value: None,
    "/sign-in": sign_in,
    "/enter": enter,
    "/add": add,
    "/log-out": lambda session, value: [notice.entity_id for notice in logout.begin(session)],
    "/asked": asked,
    "/poison": lambda session, value: logout.revoke_subject(value),
    "/owed": lambda session, value: logout.pending(session) is not None,
}


def app(environ, start_response):
    session = environ["sealedstate.session"]
    found = {"pid": os.getpid(), "subject": session.subject}
    value = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    found["gave"] = CHANGES[environ["PATH_INFO"]](session, json.loads(value or "null"))
    body = json.dumps(found).encode()
    start_response("200 OK", [
        ("Content-Type", "application/json"), ("Content-Length", str(len(body)))
    ])
    return [body]


application = SealedSessionMiddleware(app, Settings.from_env(
    storage=STORE, merge=records.merge_rules,
    part_policies={"l": "cookie"},
))
logout = SingleLogout(application.keeper, records, LogoutIndex(application.keeper, records))
"""

WORKERS = 4
USERS = 100
REPLAYS = 3  # of each cookie
WIKI, MAIL, SHOP = (f"https://{name}.example.org/saml" for name in ("wiki", "mail", "shop"))


class User:
    """Somebody who signs in, goes to three services and is logged out in one of four ways."""

    def __init__(self, server: Server, number: int) -> None:
        self.client, self.number = Client(server.port), number
        self.subject = f"user{number}"
        self.seen: set[int] = set()

    def log_in(self) -> None:
        self._do("/sign-in", self.subject)
        self.made = self._do("/enter", WIKI)
        self._do("/enter", MAIL)
        self._do("/add", [SHOP, self.subject])
        assert self.client.get("/me").json["subject"] == self.subject

    def log_out(self) -> None:
        way = self.number % 4
        if way == 0:
            assert set(self._do("/log-out", None)) == {WIKI, MAIL, SHOP}
        elif way == 1:
            assert len(self._ask("/asked", [WIKI, *self.made])) == 1
        elif way == 2:
            assert len(self._ask("/asked", [SHOP, self.subject])) == 1
        else:
            self._ask("/poison", self.subject)

    def accepted(self) -> int:
        """How many replays of the cookies that were ever issued to this user are accepted."""
        count = 0
        for cookie in self.client.captured * REPLAYS:
            answer = send(self.client.port, "GET", "/me", cookie)
            assert answer.status == 200
            self.seen.add(answer.json["pid"])
            count += answer.json["subject"] is not None
        return count

    def is_owed(self) -> bool:
        return bool(self._ask("/owed", None, self.client.captured[-1]))

    def _do(self, path: str, value: object) -> list[str]:
        answer = self.client.post(path, value)
        assert answer.status == 200
        gave: list[str] = answer.json["gave"]
        return gave

    def _ask(self, path: str, value: object, cookie: str = "") -> list[object]:
        """A request that does not come from the user's browser."""
        answer = send(self.client.port, "POST", path, cookie, json.dumps(value).encode())
        assert answer.status == 200
        gave: list[object] = answer.json["gave"]
        return gave


@pytest.mark.slow
def test_no_cookie_of_a_hundred_users_is_accepted_after_their_logout(tmp_path: Path) -> None:
    environ = {
        "SEALEDSTATE_KEYS": f"{Key.generate(os.urandom).export()} {export_lookup(os.urandom(32))}",
        "IDENTIFIER_KEY": Key.generate(os.urandom).export(),
    }
    with (
        gunicorn(tmp_path, APPLICATION, environ=environ, workers=WORKERS) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        users = [User(server, number) for number in range(USERS)]
        list(pool.map(User.log_in, users))
        list(pool.map(User.log_out, users))
        cookies = sum(len(user.client.captured) for user in users)
        assert cookies >= 4 * USERS
        assert sum(pool.map(User.accepted, users)) == 0
        assert set.union(*(user.seen for user in users)) == set(server.worker_pids())
        # No user came back, and the services of each can still be notified.
        assert all(pool.map(User.is_owed, users))
        assert sum(pool.map(User.accepted, users)) == 0
