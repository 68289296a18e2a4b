"""Keys rotate every second under load, workers are killed, and no session is lost.

One server of four workers has its ring in a file; two others share one in PostgreSQL. All three
run at the same time.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealedstate import Key, Settings
from sealedstate.deployment import open_ring_storage
from sealedstate.rotation.transitions import create_ring, revoke
from tests.support.client import Client, send
from tests.support.server_process import until
from tests.support.servers import Server, gunicorn
from tests.support.sql_server import SQLServer

pytestmark = [pytest.mark.server, pytest.mark.slow]

APPLICATION = """
import json
import os
import time

from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def app(environ, start_response):
    session = environ["sealedstate.session"]
    # The time first: a busy machine may keep a process waiting between the two.
    seen, subject = time.time(), session.subject
    if environ["REQUEST_METHOD"] == "POST":
        if environ["PATH_INFO"] == "/sign-in":
            session.subject = "jdoe"
        session["count"] = session.get("count", 0) + 1
    body = json.dumps(
        {"pid": os.getpid(), "subject": subject, "at": seen, "count": session.get("count")}
    ).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


application = SealedSessionMiddleware(app, Settings.from_env())
"""

SCHEDULE = {"rotate_every": 1, "reload_every": 1, "announce": 4, "skew": 1}
WORKERS, CLIENTS = 4, 5  # of each server
KILL_EVERY, HUP_EVERY = 5.0, 30.0  # seconds
PACE = 0.25  # seconds between two requests of a client
TORN = (OSError, http.client.HTTPException)


def environ_of(**settings: object) -> dict[str, str]:
    usual = {**SCHEDULE, "idle_lifetime": 1200, "absolute_lifetime": 1200, "refresh_after": 60}
    return {f"SEALEDSTATE_{name.upper()}": f"{value}" for name, value in (usual | settings).items()}


def with_file_ring(folder: Path) -> dict[str, str]:
    """The environment of nodes whose ring is in a new file."""
    path = folder / "keys.json"
    settings = Settings.from_env(environ_of(keys=f"file:{path}"))
    ring = create_ring(settings.rotation().schedule, int(time.time()), os.urandom)
    assert open_ring_storage(settings).write(ring, None)
    return environ_of(keys=f"file:{path}")


def with_stored_ring(storage: str) -> dict[str, str]:
    """The environment of nodes that found their ring in a store."""
    return environ_of(keys="store:", storage=storage, kek=Key.generate(os.urandom).export())


class Visitor:
    """Signs in once, and then checks the subject of every answer."""

    def __init__(self, ports: list[int], over: threading.Event) -> None:
        self._client = Client(ports[0])
        self._ports = ports
        self._over = over
        self.seen: Counter[str] = Counter()
        self.kids: set[str] = set()

    def run(self) -> None:
        self._ask("POST", "/sign-in")
        while not self._over.wait(random.uniform(0, 2 * PACE)):
            self._client.port = random.choice(self._ports)
            method = random.choice(["GET", "GET", "POST"])
            answer = self._ask(method, "/me")
            if answer:
                self.seen["kept" if answer == "jdoe" else f"lost: {answer}"] += 1
                self.kids.add(self._client.jar.header()[len("__Host-Http-s=") :][:6])

    def _ask(self, method: str, path: str) -> str | None:
        """The subject of the answer, or "nobody"; None without an answer.

        Killed workers tear connections.
        """
        while True:
            try:
                answer = self._client.request(method, path)
            except TORN:
                self.seen["torn"] += 1
                if self._over.wait(PACE):
                    return None
                continue
            if answer.status != 200:
                self.seen[f"status {answer.status}"] += 1
                return None
            return answer.json["subject"] or "nobody"


def rage(
    servers: list[Server], seconds: float, is_enough: Callable[[], bool], at_most: float
) -> Counter[str]:
    """Kill a worker every few seconds, and reload each server; returns what was done.

    It lasts for `seconds`; a slow machine gets longer: until `is_enough`, or `at_most`.
    """
    done: Counter[str] = Counter()
    start = time.monotonic()
    kill_at, hup_at = start + KILL_EVERY, start + min(HUP_EVERY, seconds / 2)
    while (now := time.monotonic()) < start + (at_most if not is_enough() else seconds):
        if now >= hup_at:
            hup_at += HUP_EVERY
            for server in servers:
                os.kill(master_of(server), signal.SIGHUP)
                done["HUP"] += 1
        elif now >= kill_at:
            kill_at += KILL_EVERY
            for server in servers:
                done["kill"] += kill_one(server)
        time.sleep(0.05)
    return done


def kill_one(server: Server) -> bool:
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(random.choice(server.worker_pids()), signal.SIGKILL)
        return True
    return False


def master_of(server: Server) -> int:
    """The parent of the server's workers."""
    while True:
        for pid in server.worker_pids():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                return int(next(line for line in lines if line.startswith("PPid:")).split()[1])


@contextlib.contextmanager
def running(folders: list[Path], environ: dict[str, str], *options: str) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        servers = []
        for folder in folders:
            folder.mkdir()
            server = gunicorn(folder, APPLICATION, *options, environ=environ, workers=WORKERS)
            servers.append(stack.enter_context(server))
        yield servers


@pytest.mark.parametrize("seconds", [12, pytest.param(600, marks=pytest.mark.soak)])
def test_keys_that_rotate_every_second_sign_no_visitor_out(
    seconds: int, tmp_path: Path, postgresql_server: SQLServer
) -> None:
    by_file = with_file_ring(tmp_path)
    by_store = with_stored_ring(f"{postgresql_server.fresh_url()}&sealedstate_timeout=10")
    over = threading.Event()
    with (
        running([tmp_path / "a"], by_file) as alone,
        running([tmp_path / "b", tmp_path / "c"], by_store) as pair,
        ThreadPoolExecutor(3 * CLIENTS) as pool,
    ):
        groups = [alone, pair]
        visitors = [
            Visitor([server.port for server in group], over)
            for group in groups
            for _ in range(CLIENTS * len(group))
        ]
        jobs = [pool.submit(visitor.run) for visitor in visitors]
        try:
            # The key of each session changes every few seconds, where it is written often enough.
            done = rage(
                [*alone, *pair],
                seconds,
                lambda: all(len(visitor.kids) > 2 for visitor in visitors),
                at_most=seconds + 60,
            )
        finally:
            over.set()
        for job in jobs:
            job.result(60)
    seen = sum((visitor.seen for visitor in visitors), Counter[str]())
    assert set(seen) <= {"kept", "torn"}, seen
    assert seen["kept"] > len(visitors) * seconds / PACE / 8
    assert done["kill"] >= seconds / KILL_EVERY
    assert done["HUP"] >= 3
    assert all(len(visitor.kids) > 2 for visitor in visitors)


def test_revoked_key_opens_nothing_on_any_worker_one_reload_later(tmp_path: Path) -> None:
    environ = with_file_ring(tmp_path) | environ_of(
        keys=f"file:{tmp_path / 'keys.json'}", rotate_every=3600, rotate_in_process=False
    )
    home = open_ring_storage(Settings.from_env(environ))
    with running([tmp_path / "a"], environ) as (server,), ThreadPoolExecutor(8) as pool:
        client = Client(server.port)
        client.post("/sign-in")
        thieves = [Thief(server.port, client.jar.header()) for _ in range(8)]
        jobs = [pool.submit(thief.run) for thief in thieves]
        try:
            until(lambda: len(all_of(thieves)) == WORKERS, "each worker has accepted the cookie")
            ring = home.load()
            assert ring is not None
            next_ring = revoke(ring, ring.keys[0].kid, int(time.time()), os.urandom, "stolen")
            assert home.write(next_ring, ring)
            revoked_at = time.time()
            time.sleep(SCHEDULE["reload_every"] + 3)
        finally:
            for thief in thieves:
                thief.over.set()
        for job in jobs:
            job.result(60)
    assert max(all_of(thieves).values()) <= revoked_at + SCHEDULE["reload_every"] + 1


class Thief:
    """Sends one cookie repeatedly."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self._cookie = port, cookie
        self.over = threading.Event()
        self.accepted: dict[int, float] = {}
        """The last moment at which each worker accepted it, by process id."""

    def run(self) -> None:
        while not self.over.wait(0.01):
            answer = send(self._port, "GET", "/me", self._cookie)
            assert answer.status == 200
            if answer.json["subject"] == "jdoe":
                self.accepted[answer.json["pid"]] = answer.json["at"]


def all_of(thieves: list[Thief]) -> dict[int, float]:
    """The last moment at which each worker accepted the cookie from any thief."""
    accepted = [pair for thief in thieves for pair in [*thief.accepted.items()]]
    return {pid: max(at for other, at in accepted if other == pid) for pid, _ in accepted}
