"""``storage="django:default"`` on PostgreSQL: a logout is not part of the project's transaction."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sql_server import PASSWORD, USER
from tests.support.sql_servers import PostgreSQLServer

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys

from tests.support import django_site

database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "postgres",
    "USER": sys.argv[2],
    "PASSWORD": sys.argv[3],
    "HOST": "127.0.0.1",
    "PORT": int(sys.argv[1]),
    "ATOMIC_REQUESTS": sys.argv[4] == "atomic",
    "OPTIONS": {"connect_timeout": 60},
}
# What asks the replica fails: nothing of the store may.
replica = {**database, "PORT": 1, "ATOMIC_REQUESTS": False}


class Router:
    def db_for_read(self, model, **hints):
        return "default"

    def allow_migrate(self, db, app_label, **hints):
        return db == "default"


settings = {
    "DATABASES": {"default": database, "replica": replica},
    "DATABASE_ROUTERS": [Router()],
    "SEALEDSTATE": {"keys": django_site.KEY, "storage": "django:default?sealedstate_timeout=30"},
}
django_site.PROJECT.update(settings)
django_site.set_up()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection

from sealedstate_django import keeper
from sealedstate_django.test import Client

call_command("migrate", verbosity=0)
assert keeper().deployment.store.name == "postgresql"
with connection.cursor() as cursor:
    cursor.execute("SELECT COUNT(*) FROM sealedstate_record")
User.objects.all().delete()
User.objects.create_superuser("ann", "ann@example.org", "secret")
for path in ("/leave", "/leave?fail", "/leave_in_transaction"):
    client, thief = Client(raise_request_exception=False), Client()
    client.get("/enter")
    thief.cookies.load({name: each.value for name, each in client.cookies.items()})
    assert "_auth_user_id" in thief.get("/read").json()["values"]
    assert client.get(path).status_code == (200 if path == "/leave" else 500)
    assert thief.get("/read").json()["values"] == {}, path
    # A long cart is in the project's database, too.
    thief.get("/write", {"cart": "x" * 9000})
    assert thief.get("/read").json()["values"] == {"cart": "x" * 9000}
with connection.cursor() as cursor:
    cursor.execute("SELECT COUNT(*) FROM sealedstate_record")
    assert cursor.fetchone()[0] >= 6
"""


@pytest.mark.server
@pytest.mark.parametrize("atomic", ["atomic", "each"])
def test_logout_in_a_request_that_is_rolled_back_stays_a_logout(
    postgresql_server: PostgreSQLServer, atomic: str
) -> None:
    port = str(postgresql_server.port)
    command = [sys.executable, "-c", PROGRAM, port, USER, PASSWORD, atomic]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
