"""gunicorn --preload with keys and parts in one SQLite file, and workers that are replaced often.

The application is made in the master, which forks each worker. Every worker can write, and the
threads that rotate the keys, and follow the logouts, are the workers'.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from sealedstate import Key
from tests.support.client import Client, send
from tests.support.kv_servers import redis_server
from tests.support.servers import gunicorn, need_server

APPLICATION = """
from pathlib import Path

from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def app(environ, start_response):
    session = environ["sealedstate.session"]
    if environ["PATH_INFO"] == "/write":
        session["big"] = session.get("big", 0) + 1
    body = str(session.get("big", 0) if environ["PATH_INFO"] != "/" else "").encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


store = Path(__file__).with_name("store.db")
settings = Settings.from_env(
    keys="store:",
    storage=f"sqlite:{store}?sealedstate_timeout=20",
    reload_every=1,
    part_policies={"big": "server"},
)
application = SealedSessionMiddleware(app, settings)
"""

pytestmark = pytest.mark.slow


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_every_worker_of_a_preloaded_application_can_write(disk: Path) -> None:
    environ = {"SEALEDSTATE_KEK": Key.generate(os.urandom).export()}
    options = ("--preload", "--max-requests", "6", "--worker-class", "gthread", "--threads", "4")
    with gunicorn(disk, APPLICATION, *options, environ=environ, workers=2) as server:
        seen = set(server.worker_pids())
        client = Client(server.port)
        for number in range(1, 251):
            answer = client.get("/write")
            assert (answer.status, answer.body) == (200, str(number).encode())
            assert threads_of(server.pid) == 1
            seen |= set(server.worker_pids())
        assert len(seen) > 20


def test_thread_that_rotates_keys_begins_with_a_workers_first_request(disk: Path) -> None:
    environ = {"SEALEDSTATE_KEK": Key.generate(os.urandom).export()}
    with gunicorn(disk, APPLICATION, "--preload", environ=environ, workers=1) as server:
        (worker,) = server.worker_pids()
        # The page that the fixture asks for uses no session.
        assert (threads_of(server.pid), threads_of(worker)) == (1, 1)
        assert Client(server.port).get("/write").status == 200
        assert (threads_of(server.pid), threads_of(worker)) == (1, 2)


# --- logouts in the memory of each worker -------------------------------------------------------

FOLLOWING = """
import os

from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def app(environ, start_response):
    session = environ["sealedstate.session"]
    if environ["PATH_INFO"] == "/sign-in":
        session.subject = "ann"
    elif environ["PATH_INFO"] == "/sign-out":
        session.invalidate()
    body = f"{os.getpid()} {session.subject}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


application = SealedSessionMiddleware(app, Settings.from_env(revocation="feed"))
# The master follows, too, and forks while its threads do so.
application.keeper.deployment.feed.look("sealedstate.revoked", "any")
"""
STALENESS = 2.0


@pytest.mark.soak
@pytest.mark.server
@pytest.mark.parametrize("worker", ["gthread", "gevent"])
def test_workers_of_a_preloaded_application_follow_the_logouts(disk: Path, worker: str) -> None:
    need_server(f"gunicorn {worker}")
    options = ("--preload", "--worker-class", worker, "--threads", "4", "--max-requests", "100")
    with redis_server("aof always") as redis:
        environ = {
            "SEALEDSTATE_KEYS": Key.generate(os.urandom).export(),
            "SEALEDSTATE_STORAGE": f"{redis.url}?sealedstate_timeout=10",
        }
        with gunicorn(disk, FOLLOWING, *options, environ=environ, workers=4) as server:
            seen, delays = set(server.worker_pids()), list[float]()
            live = Client(server.port)
            live.get("/sign-in")
            for number in range(80):
                client = Client(server.port)
                assert client.get("/sign-in").body.endswith(b"ann")
                stolen = Client(server.port)
                stolen.jar = client.jar.copy()
                assert client.get("/sign-out").status == 200
                acknowledged = accepted = time.monotonic()
                refusals = 0
                # One worker after another learns of it.
                while time.monotonic() < acknowledged + STALENESS + 1 and refusals < 40:
                    began = time.monotonic()
                    answer = send(server.port, "GET", "/", stolen.jar.header())
                    if answer.body.endswith(b"ann"):
                        accepted, refusals = began, 0
                    else:
                        refusals += 1
                assert accepted <= acknowledged + STALENESS
                delays.append(accepted - acknowledged)
                assert live.get("/").body.endswith(b"ann")
                if number % 10 == 5:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(server.worker_pids()[0], signal.SIGKILL)
                        time.sleep(1)
                seen |= set(server.worker_pids())
            assert len(seen) > 20
    delays.sort()
    print(
        f"{len(seen)} workers; a session was last accepted {delays[40] * 1e3:.0f} ms after its"
        f" logout at the median, {delays[-1] * 1e3:.0f} ms at most"
    )
