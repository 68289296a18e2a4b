"""Old and new nodes behind one balancer, old ones restarting: no visitor is signed out.

The nodes differ in their lists of keys, where the new list has its new key in front at once, or in
their release, where the newer release writes a critical field that the older does not know.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealedstate import Key
from tests.support.client import Client
from tests.support.servers import Server, gunicorn

pytestmark = [pytest.mark.server, pytest.mark.slow]

APPLICATION = """
import json

from sealedstate import Settings
from sealedstate_wsgi import SealedSessionMiddleware


def app(environ, start_response):
    session = environ["sealedstate.session"]
    withheld, subject = session.withheld, session.subject
    if environ["PATH_INFO"] == "/sign-in":
        session.subject = "jdoe"
    elif environ["REQUEST_METHOD"] == "POST":
        session["count"] = session.get("count", 0) + 1
    body = json.dumps({"subject": subject, "withheld": withheld}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


application = SealedSessionMiddleware(app, Settings.from_env())
"""
# A release that writes a critical field, and reads it.
NEWER = """
from sealedstate._cookies import codec

FIELD = b"\\x7f\\x00"
read, write = codec.decode_record, codec.CookieCodec.seal_core
codec.decode_record = lambda payload, at: read(payload.removesuffix(FIELD), at)
codec.CookieCodec.seal_core = lambda self, payload, now: write(self, payload + FIELD, now)
"""
VISITORS, PACE = 8, 0.25  # seconds between two requests of a visitor
RESTART_EVERY = 3.0
TORN = (OSError, http.client.HTTPException)


class Visitor:
    """Signs in once, and then reads and writes at any node that is up."""

    def __init__(self, nodes: list[Server], over: threading.Event) -> None:
        self._nodes, self._over = nodes, over
        self.client = Client(nodes[0].port)
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        self.ask("/sign-in")
        while not self._over.wait(random.uniform(0, 2 * PACE)):
            self.ask("/")

    def ask(self, path: str) -> None:
        self.client.port = random.choice(self._nodes).port
        try:
            answer = self.client.request(random.choice(["GET", "POST"]), path)
        except TORN:
            # The balancer finds that the node is down. A sign-in is repeated.
            self.seen["torn"] += 1
            if path != "/":
                time.sleep(PACE)
                self.ask(path)
            return
        if answer.status != 200:
            self.seen[f"status {answer.status}"] += 1
        elif path == "/":
            found = answer.json
            self.seen[found["withheld"] or found["subject"] or "signed out"] += 1


@pytest.mark.parametrize(
    ("seconds", "announce"),
    [(6, 60), pytest.param(300, 900, marks=pytest.mark.soak)],
    ids=["short", "five minutes"],
)
@pytest.mark.parametrize("difference", ["kid-unknown", "field-unknown"])
def test_old_and_new_nodes_behind_one_balancer_sign_no_visitor_out(
    difference: str, seconds: int, announce: int, tmp_path: Path
) -> None:
    old_key, new_key = (Key.generate(os.urandom).export() for _ in range(2))
    is_list = difference == "kid-unknown"
    kinds = [
        ("old", APPLICATION, old_key),
        ("new", APPLICATION if is_list else NEWER + APPLICATION, f"{new_key} {old_key}"),
    ]
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        nodes: list[Server] = []
        for kind, source, keys in [*kinds, *kinds]:
            folder = tmp_path / f"{kind}{len(nodes)}"
            folder.mkdir()
            environ = {
                "SEALEDSTATE_KEYS": keys if is_list else old_key,
                "SEALEDSTATE_ANNOUNCE": f"{announce}",
                "SEALEDSTATE_SKEW": "1",
                "SEALEDSTATE_REFRESH_AFTER": "1",
            }
            nodes.append(stack.enter_context(gunicorn(folder, source, environ=environ, workers=1)))
        old, new = nodes[::2], nodes[1::2]
        visitors = [Visitor(nodes, over) for _ in range(VISITORS)]
        with ThreadPoolExecutor(VISITORS) as pool:
            jobs = [pool.submit(visitor.run) for visitor in visitors]
            ends_at, restarts = time.monotonic() + seconds, 0
            while time.monotonic() < ends_at:
                time.sleep(RESTART_EVERY)
                old[restarts % 2].restart()
                restarts += 1
            over.set()
            for job in jobs:
                job.result(120)
        seen = sum((visitor.seen for visitor in visitors), Counter[str]())
        assert set(seen) <= {"jdoe", difference, "torn"}, seen
        assert min(seen["jdoe"], seen[difference]) > seconds, seen
        assert restarts >= 2
        # The roll-out ends: at the new nodes, every visitor is signed in.
        for visitor in visitors:
            visitor.seen.clear()
            for node in new:
                visitor.client.port = node.port
                assert visitor.client.get("/").json == {"subject": "jdoe", "withheld": None}
