"""Four gunicorn workers, an SQLite store and HTTP clients: no session is lost or mixed up.

The application answers with the session as it arrived, before the change that the path names, and
with the process id of its worker.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Key
from sealedstate._cookies.header import field_bytes
from sealedstate.profiles import PROFILES
from tests.support.client import Answer, Client, send
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import Server, WebServer, gunicorn, running

APPLICATION = """
import json
import os
import time
from pathlib import Path

from sealedstate import Settings
from sealedstate.storage import SQLiteStorage
from sealedstate_wsgi import SealedSessionMiddleware

SIGNALS = Path(__file__).parent


def slow(session, value):
    (SIGNALS / f"started-{value['race']}").touch()
    while not (SIGNALS / f"release-{value['race']}").exists():
        time.sleep(0.002)
    session["late"] = value["text"]


CHANGES = {
    "/me": lambda session, value: None,
    "/sign-in": lambda session, value: setattr(session, "subject", value),
    "/add": lambda session, value: session.setdefault("services", []).append(value),
    "/shrink": lambda session, value: session["services"].__delitem__(slice(value, None)),
    "/update": lambda session, value: session.update(value),
    "/slow": slow,
    "/sign-out": lambda session, value: session.invalidate(),
}


def app(environ, start_response):
    session = environ["sealedstate.session"]
    change = CHANGES.get(environ["PATH_INFO"])
    found = {"pid": os.getpid()}
    if change is not None:
        found |= {"subject": session.subject, "parts": dict(session)}
        body = json.dumps(found).encode()
        value = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        change(session, json.loads(value or "null"))
    else:
        body = json.dumps(found).encode()
    start_response("200 OK", [
        ("Content-Type", "application/json"), ("Content-Length", str(len(body)))
    ])
    return [body]


# Many write at once on a busy machine: wait for a lock as long as it takes.
STORE = SQLiteStorage(SIGNALS / "sessions.db", time.time, timeout=20)
application = SealedSessionMiddleware(app, Settings.from_env(storage=STORE))
"""

pytestmark = pytest.mark.slow

WORKERS = 4
PORTABLE = PROFILES["portable"]
TORN = (OSError, http.client.HTTPException)
PATIENCE = 60  # seconds; only a broken server or a deadlock needs them


@contextlib.contextmanager
def serving(directory: Path, *options: str) -> Iterator[Server]:
    environ = {"SEALEDSTATE_KEYS": Key.generate(os.urandom).export()}
    with gunicorn(directory, APPLICATION, *options, environ=environ, workers=WORKERS) as server:
        yield server


def service_login(number: int, stamp: int = 0) -> dict[str, Any]:
    """A service login as an identity provider keeps it."""
    return {
        "entity_id": f"https://sp{number}.dept-{number % 7}.university.example/saml2/metadata",
        "method": "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport",
        "name_id": f"_{number * 0x9E3779B97F4A7C15 % 2**128:032x}",
        "session_index": f"_{(number + 1) * 0xC2B2AE3D27D4EB4F % 2**128:032x}",
        "time": 1_800_000_000 + number,
        "stamp": stamp,
    }


def all_of(jobs: list[Future[Any]]) -> list[Any]:
    return [job.result(PATIENCE * 2) for job in jobs]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


# --- one long session ---------------------------------------------------------------------------


def assert_within_portable(client: Client, answer: Answer) -> None:
    header, ours = client.jar.header(), client.jar.ours()
    assert len(ours) <= PORTABLE.cookies
    assert all(len(name) + len(value) <= PORTABLE.cookie_bytes for name, value in ours.items())
    assert len(header) <= PORTABLE.header_bytes
    assert sum(field_bytes(line) for line in answer.set_cookies) <= PORTABLE.response_bytes


def step(client: Client, path: str, value: object) -> None:
    """One change, within the profile."""
    answer = client.post(path, value)
    assert answer.status == 200
    assert_within_portable(client, answer)


def found(client: Client) -> tuple[object, object]:
    """The subject and the service logins, as some worker sees them."""
    answer = client.get("/me")
    assert answer.status == 200
    assert_within_portable(client, answer)
    return answer.json["subject"], answer.json["parts"].get("services")


def pids_that_refuse(server: Server, cookie: str, workers: set[int], times: int) -> set[int]:
    """Replay `cookie` at least `times` times, and until every worker has refused it."""
    seen: set[int] = set()
    for count in itertools.count():
        if count >= times and seen == workers:
            return seen
        assert count < 100 * times, f"some worker never answers: {workers - seen}"
        answer = send(server.port, "GET", "/me", cookie)
        assert (answer.status, answer.json["subject"], answer.json["parts"]) == (200, None, {})
        seen.add(answer.json["pid"])
    raise AssertionError


def test_session_grows_shrinks_and_ends_for_every_worker(tmp_path: Path) -> None:
    """100 service logins are 25 kB: far more than the profile's cookies carry."""
    logins = [service_login(number) for number in range(100)]
    with serving(tmp_path) as server:
        client = Client(server.port)
        step(client, "/sign-in", "alice")
        for number, login in enumerate(logins, 1):
            step(client, "/add", login)
            assert found(client) == ("alice", logins[:number])
        assert len(json.dumps(logins)) > 25_000
        for left in (60, 20, 5, 1):
            step(client, "/shrink", left)
            assert found(client) == ("alice", logins[:left])
        workers = set(server.worker_pids())
        assert len(workers) == WORKERS
        step(client, "/sign-out", None)
        assert client.jar.header() == ""
        assert len(client.captured) > 100
        with ThreadPoolExecutor(8) as pool:
            refused = pool.map(
                lambda cookie: pids_that_refuse(server, cookie, workers, times=10), client.captured
            )
            assert all(pids == workers for pids in refused)


# --- kill -9 ------------------------------------------------------------------------------------


class Visitor:
    """A user that remembers what was acknowledged, and asks again when a connection breaks."""

    def __init__(self, server: Server, number: int) -> None:
        self.subject = f"user{number}"
        self.requests = 0
        self.torn = 0
        self._client = Client(server.port)
        self._chance = random.Random(number)
        self._acknowledged = 0
        self._sizes = {0: 0}

    def sign_in(self) -> None:
        self._persist("/sign-in", self.subject, {None, self.subject})
        self._change(0)

    def visit(self) -> None:
        """One request that reads, or reads and writes."""
        if self._chance.random() < 0.3:
            self._check(self._persist("/me", None, {self.subject}), {self._acknowledged})
        else:
            self._change(self._chance.choice([1, 2, 5, 10, 30, 60, 100]))

    def _change(self, size: int) -> None:
        stamp = max(self._sizes) + 1
        self._sizes[stamp] = size
        logins = [service_login(number, stamp) for number in range(size)]
        value = {"stamp": stamp, "services": {"stamp": stamp, "logins": logins}}
        answer = self._persist("/update", value, {self.subject})
        self._check(answer, {self._acknowledged, stamp})
        self._acknowledged = stamp

    def _persist(self, path: str, value: object, subjects: set[str | None]) -> Answer:
        """The first whole answer. Every answer must be of one of `subjects`."""
        for _ in range(200):
            try:
                answer = self._client.post(path, value)
            except TORN:
                self.torn += 1
                continue
            self.requests += 1
            assert answer.status == 200
            assert answer.json["subject"] in subjects, "a lost session, or another's"
            return answer
        raise AssertionError("the server did not come back")

    def _check(self, answer: Answer, stamps: set[int]) -> None:
        """The session holds what was acknowledged, or what the broken request asked for."""
        parts = answer.json["parts"]
        if self._acknowledged == 0:
            return
        assert parts["stamp"] in stamps
        services = parts["services"]
        assert services["stamp"] in stamps
        assert [login["stamp"] for login in services["logins"]] == (
            [services["stamp"]] * self._sizes[services["stamp"]]
        )


class Killer:
    """Kills one worker after another, at least `enough` and until a connection was torn."""

    def __init__(self, server: Server, visitors: list[Visitor], enough: int) -> None:
        self.kills = 0
        self._enough = enough
        self._server = server
        self._visitors = visitors
        self._stopped = threading.Event()

    @property
    def has_done_enough(self) -> bool:
        return self.kills >= self._enough and any(visitor.torn for visitor in self._visitors)

    def run(self) -> None:
        while not (self.has_done_enough or self._stopped.wait(0.3)):
            for pid in random.sample(pids := self._server.worker_pids(), min(1, len(pids))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1

    def stop(self) -> None:
        self._stopped.set()


@pytest.mark.parametrize("kills", [8, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["fresh workers", "forked workers"])
def test_killing_workers_loses_no_session(
    options: tuple[str, ...], kills: int, tmp_path: Path
) -> None:
    with serving(tmp_path, *options) as server:
        visitors = [Visitor(server, number) for number in range(20)]
        killer = Killer(server, visitors, kills)

        def use(visitor: Visitor) -> None:
            visitor.sign_in()
            for count in itertools.count(2):
                if count >= 60 and (killer.has_done_enough or count >= 2000):
                    return
                visitor.visit()

        with ThreadPoolExecutor(len(visitors) + 1) as pool:
            killing = pool.submit(killer.run)
            try:
                all_of([pool.submit(use, visitor) for visitor in visitors])
            finally:
                killer.stop()
            killing.result(PATIENCE)
        requests = [visitor.requests for visitor in visitors]
        torn = sum(visitor.torn for visitor in visitors)
        print(f"{sum(requests)} requests, {killer.kills} kills, {torn} torn connections")
        assert min(requests) >= 60
        assert killer.has_done_enough


# --- logout against requests in flight ----------------------------------------------------------


class Race:
    """One user's logout against a slow request that has read the session and will write it."""

    def __init__(self, server: Server, signals: Path, number: int) -> None:
        self._server = server
        self._started = signals / f"started-{number}"
        self._release = signals / f"release-{number}"
        self._number = number
        self._user = Client(server.port)
        # By turns, what was there and what is written fit into the cookie or spill.
        self._text = "x" * (6000 if number & 1 else 10)
        self._before = "y" * (6000 if number & 2 else 10)

    def run(self, pool: ThreadPoolExecutor) -> bool:
        """Whether the slow request was saved before the logout."""
        assert self._user.post("/sign-in", f"user{self._number}").status == 200
        assert self._user.post("/update", {"before": self._before}).status == 200
        slow = pool.submit(self._slow, self._user.jar.header())
        wait_until(self._started.exists)
        if self._number & 4:
            self._sign_out()
            self._release.touch()
        else:
            self._release.touch()
            self._sign_out()
        answer = slow.result(PATIENCE)
        assert answer.status == 200
        assert not (answer.set_cookies and self._number & 4), "a logged out session was saved"
        self._user.receive(answer.set_cookies)
        for cookie in self._user.captured:
            self._assert_refused(cookie)
        return bool(answer.set_cookies)

    def _slow(self, cookie: str) -> Answer:
        body = json.dumps({"race": self._number, "text": self._text}).encode()
        return send(self._server.port, "POST", "/slow", cookie, body)

    def _sign_out(self) -> None:
        answer = self._user.post("/sign-out")
        assert (answer.status, answer.json["subject"]) == (200, f"user{self._number}")

    def _assert_refused(self, cookie: str) -> None:
        answer = send(self._server.port, "GET", "/me", cookie)
        assert (answer.status, answer.json["subject"], answer.json["parts"]) == (200, None, {})


def test_slow_request_does_not_restore_a_logged_out_session(tmp_path: Path) -> None:
    threads = 8
    # Every worker can hold all the slow requests at once and still answer a logout.
    with (
        serving(tmp_path, "--threads", str(4 * threads)) as server,
        ThreadPoolExecutor(threads) as slow_pool,
        ThreadPoolExecutor(threads) as pool,
    ):
        races = [Race(server, tmp_path, number) for number in range(200)]
        overtaken = all_of([pool.submit(race.run, slow_pool) for race in races])
        assert len(overtaken) == 200
        print(f"{sum(overtaken)} of 200 slow requests were saved before their logout")
        assert any(overtaken)  # in some of the races that are open, the write came first


# --- hostile headers ----------------------------------------------------------------------------

FOREIGN_NAMES = (
    b"theme",
    b"_ga",
    b"__Host-t",
    b"__Secure-s",
    b"s",
    b"__host-http-s",
    b"\xa0__Host-Http-s",
)
OUR_NAMES = (
    b"__Host-Http-s",
    b"__Host-Http-s-1",
    b"__Host-Http-s-2",
    b"__Host-Http-s-7",
    b"__Host-Http-s-12",
)
ALPHABETS = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*_",
    b'";=,\\ \t',
    bytes(byte for byte in range(32, 256) if byte != 127),
    "ü€".encode(),
    b"A",
)
CONTROLS = bytes(byte for byte in range(1, 32) if byte not in b"\r\n")  # refused by gunicorn


def hostile_header(chance: random.Random, names: tuple[bytes, ...], most: int) -> bytes:
    """A Cookie header of junk under `names`, at most so many bytes."""
    pairs: list[bytes] = []
    while sum(len(pair) for pair in pairs) < most and (not pairs or chance.random() < 0.9):
        alphabet = CONTROLS if chance.random() < 0.01 else chance.choice(ALPHABETS)
        size = int(most ** chance.random())
        pairs.append(chance.choice(names) + b"=" + bytes(chance.choices(alphabet, k=size)))
    return chance.choice([b"; ", b";", b";;", b" ; \t"]).join(pairs)[:most]


def send_raw(port: int, method: bytes, path: bytes, cookie: bytes) -> Answer:
    """The answer to a Cookie header as it is, byte for byte."""
    body = b'{"seen": 1}' if method == b"POST" else b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: %d\r\nCookie: %s\r\n\r\n%s" % (method, path, len(body), cookie, body)
        )
        response = http.client.HTTPResponse(connection)
        response.begin()
        with response:
            return Answer(response.status, response.getheaders(), response.read())


def all_answers(server: Server, method: bytes, path: bytes, cookies: list[bytes]) -> list[Answer]:
    """What came back, without what gunicorn itself has refused: at most a fifth."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda cookie: send_raw(server.port, method, path, cookie), cookies)
        )
    assert max(answer.status for answer in answers) < 500
    passed = [answer for answer in answers if answer.status == 200]
    assert len(passed) > 0.8 * len(answers)
    return passed


def test_no_cookie_header_makes_an_error_or_costs_a_good_cookie(tmp_path: Path) -> None:
    chance = random.Random(1)
    ours = FOREIGN_NAMES + OUR_NAMES
    with serving(tmp_path, "--threads", "4") as server:
        client = Client(server.port)
        client.post("/sign-in", "alice")
        good = client.jar.header().encode()
        junk = [hostile_header(chance, ours, 8000) for _ in range(400)]
        for answer in all_answers(server, b"GET", b"/me", junk):
            assert (answer.json["subject"], answer.set_cookies) == (None, [])
        junk = [hostile_header(chance, ours, 8000) for _ in range(300)]
        for answer in all_answers(server, b"POST", b"/update", junk):
            assert answer.json["subject"] is None
        around = [[hostile_header(chance, FOREIGN_NAMES, 3800) for _ in "12"] for _ in range(300)]
        cookies = [b"%s; %s; %s" % (before, good, after) for before, after in around]
        for answer in all_answers(server, b"GET", b"/me", cookies):
            assert (answer.json["subject"], answer.set_cookies) == ("alice", [])


# --- identity -----------------------------------------------------------------------------------


def test_no_user_sees_the_session_of_another(tmp_path: Path) -> None:
    def use(server: Server, thread: int) -> int:
        chance = random.Random(thread)
        users = {f"user-{thread}-{number}": Client(server.port) for number in range(50)}
        for name, client in users.items():
            assert client.post("/sign-in", name).json["subject"] is None
            assert client.post("/update", {"owner": name}).json["subject"] == name
        for _ in range(150):
            name, client = chance.choice(list(users.items()))
            answer = client.post("/update", {"owner": name, "bulk": name * chance.randrange(400)})
            assert answer.status == 200
            assert answer.json["subject"] == answer.json["parts"]["owner"] == name
            assert set(answer.json["parts"].get("bulk", "").split(name)) == {""}
        return len(users)

    with serving(tmp_path, "--threads", "4") as server, ThreadPoolExecutor(8) as pool:
        assert sum(all_of([pool.submit(use, server, thread) for thread in range(8)])) == 400


# --- gevent -------------------------------------------------------------------------------------

ON_SQL = """
from pathlib import Path

from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def app(environ, start_response):
    session = environ["sealedstate.session"]
    if environ["PATH_INFO"] == "/sign-in":
        session.subject = "ann"
    if environ["PATH_INFO"] == "/who":
        # No other greenlet runs before the store is asked.
        Path(__file__).with_name("asking").touch()
    body = b"free" if environ["PATH_INFO"] == "/" else str(session.subject).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


application = SealedSessionMiddleware(app, Settings.from_env())
"""


@pytest.mark.server
@pytest.mark.parametrize("fixture", ["postgresql_server", "mariadb_server"])
def test_other_greenlets_continue_while_one_waits_for_a_sql_store(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str
) -> None:
    database = request.getfixturevalue(fixture)
    with FaultProxy(database.port) as proxy, ThreadPoolExecutor(1) as pool:
        url = database.url(database.fresh_schema(), port=proxy.port)
        environ = {
            "SEALEDSTATE_KEYS": Key.generate(os.urandom).export(),
            "SEALEDSTATE_STORAGE": f"{url}{'&' if '?' in url else '?'}sealedstate_timeout=20",
        }
        with running(WebServer("gunicorn gevent", tmp_path, (), environ), ON_SQL) as server:
            client = Client(server.port)
            client.post("/sign-in")
            proxy.stalled = True
            try:
                waiting = pool.submit(client.get, "/who")
                wait_until((tmp_path / "asking").exists)
                assert send(server.port, "GET", "/").body == b"free"
                assert not waiting.done()
            finally:
                proxy.stalled = False
            assert waiting.result().body == b"ann"
