"""Sessions in Django behind real servers, with two workers: synchronous and asynchronous."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealedstate import Key
from sealedstate.keyring import export_lookup
from tests.support.client import Client, send
from tests.support.servers import WSGI_SERVERS, WebServer, running, takes_workers

pytestmark = [pytest.mark.server, pytest.mark.slow]

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
SERVERS = ("gunicorn", "gunicorn threads", "uvicorn", "hypercorn", "daphne")


@pytest.fixture(params=SERVERS)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    kind: str = request.param
    environ = {
        "SITE": str(tmp_path),
        "SEALEDSTATE_KEYS": "\n".join(
            [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
        ),
    }
    application = "served:application" if kind in WSGI_SERVERS else "served:asgi"
    options = ("--workers", "2") if takes_workers(kind) else ()
    server = WebServer(kind, tmp_path, options, environ, application)
    (tmp_path / "served.py").write_text(APPLICATION)
    server.run(sys.executable, "-c", SET_UP)
    with running(server, APPLICATION):
        yield server.port


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
