"""gunicorn --preload with keys and parts in one SQLite file, and workers that are replaced often.

The application is made in the master, which forks each worker. Every worker can write, and the
threads that rotate the keys are the workers'.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealedstate import Key
from tests.support.client import Client
from tests.support.servers import gunicorn

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
