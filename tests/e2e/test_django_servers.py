"""Sessions in Django behind real servers, with two workers: synchronous and asynchronous."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sealedstate import Key
from sealedstate.keyring import export_lookup
from tests.support.client import Client, send
from tests.support.installed import need_driver
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.server

APPLICATION = """
import os

from tests.support import django_site

folder = os.environ["SITE"]
django_site.PROJECT["DATABASES"]["default"]["NAME"] = f"{folder}/db.sqlite3"
django_site.PROJECT["SEALEDSTATE"] = {"storage": "django:default?sealedstate_timeout=30"}
django_site.set_up()

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

application, asgi = get_wsgi_application(), get_asgi_application()
"""
SET_UP = """
import served
from django.contrib.auth.models import User
from django.core.management import call_command

call_command("migrate", verbosity=0)
User.objects.create_superuser("ann", "ann@example.org", "secret")
"""
WORKERS = ("--workers", "2")
SERVERS = {
    "gunicorn": (*WORKERS, "--bind", "127.0.0.1:{port}", "served:application"),
    "gunicorn threads": (
        *WORKERS,
        "--threads=4",
        "--bind",
        "127.0.0.1:{port}",
        "served:application",
    ),
    "uvicorn": (*WORKERS, "--port", "{port}", "served:asgi"),
    "hypercorn": (*WORKERS, "--bind", "127.0.0.1:{port}", "served:asgi"),
    "daphne": ("--port", "{port}", "served:asgi"),
}


class DjangoServer(ServerProcess):
    def __init__(self, kind: str, directory: Path) -> None:
        super().__init__(free_port(), directory)
        self.name = kind  # type: ignore[misc]
        self.environ = {
            "PATH": os.environ["PATH"],
            "SITE": str(directory),
            "SEALEDSTATE_KEYS": "\n".join(
                [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
            ),
            "PYTHONPATH": ":".join([str(directory), *sys.path]),
        }

    def command(self) -> Sequence[str]:
        options = [option.replace("{port}", str(self.port)) for option in SERVERS[self.name]]
        return [sys.executable, "-m", self.name.partition(" ")[0], *options]

    def is_ready(self) -> bool:
        return send(self.port, "GET", "/plain").status == 200


@pytest.fixture(params=SERVERS)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    need_driver(request.param.partition(" ")[0])
    (tmp_path / "served.py").write_text(APPLICATION)
    server = DjangoServer(request.param, tmp_path)
    server.run(sys.executable, "-c", SET_UP)
    try:
        with server.shown_log():
            server.start()
            yield server.port
            server.stop()
    finally:
        server.kill9()


def values(client: Client) -> dict[str, object]:
    found: dict[str, object] = json.loads(client.get("/read").body)["values"]
    return found


def test_login_cart_and_logout_hold_on_every_worker(port: int) -> None:
    client = Client(port)
    client.get("/write?cart=tea")
    before = client.jar.header()
    client.get("/enter")
    for _ in range(6):
        assert {"cart", "_auth_user_id"} <= set(values(client))
    assert json.loads(client.get("/told").body) == ["welcome"]
    client.get("/cycle")
    client.get(f"/write?cart={'x' * 3500}")  # in the store
    assert values(client)["cart"] == "x" * 3500
    signed_in = client.jar.header()
    assert client.get("/leave?fail").status == 500
    for header in (before, signed_in):
        for _ in range(4):
            answer = send(port, "GET", "/read", header)
            assert json.loads(answer.body)["values"] == {}


def test_asynchronous_views_share_the_session(port: int) -> None:
    client = Client(port)
    for _ in range(4):
        assert client.get("/write_async").status == 200
    found = json.loads(client.get("/read_async").body)
    assert found["cart"] == ["tea"] * 4
    header = client.jar.header()
    client.get("/leave_async")
    assert json.loads(send(port, "GET", "/read_async", header).body)["cart"] is None
