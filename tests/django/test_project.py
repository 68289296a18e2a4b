"""A project's settings, its checks and commands, its database as the store, and its move to us."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility, call_command
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor

from sealedstate import ConfigurationError, SessionTooLarge
from sealedstate_django import SealedSessionMiddleware, devices, keeper
from sealedstate_django._database import database_url
from sealedstate_django._keeper import read_settings
from sealedstate_django.test import AsyncClient, Client
from tests.django.conftest import Change
from tests.support.django_site import KEY, MIDDLEWARE, plain

STOCK = "django.contrib.sessions.middleware.SessionMiddleware"
NAME = "__Host-Http-s"


# --- settings and checks ------------------------------------------------------------------------


def test_settings_begin_with_those_of_django(change: Change) -> None:
    change(SESSION_COOKIE_AGE=3600, SESSION_COOKIE_DOMAIN="example.org")
    found = read_settings()
    assert (found.idle_lifetime, found.absolute_lifetime) == (3600, 3600)
    assert (found.cookie_domain, found.persistent) == ("example.org", True)
    assert list(found.may_drop) == ["_state_*"]
    assert found.subject_key == "_auth_user_id"
    change(SEALEDSTATE={"keys": KEY, "absolute_lifetime": 60, "subject_key": None})
    assert (read_settings().idle_lifetime, read_settings().subject_key) == (60, None)
    change(SEALEDSTATE={"keys": KEY}, SESSION_SAVE_EVERY_REQUEST=True)
    found = read_settings()
    assert (found.idle_lifetime, found.absolute_lifetime) == (3600, 30 * 86400)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SEALEDSTATE": {"keys": KEY, "realmm": "shop"}}, "did you mean 'realm'"),
        ({"SEALEDSTATE": {"keys": KEY, "same_site": "Sometimes"}}, r"SEALEDSTATE\['same_site'\]"),
        ({"SEALEDSTATE": {"keys": KEY, "storage": "django:other"}}, "no database 'other'"),
        ({"SEALEDSTATE": "file:keys.json"}, "must be a dict"),
        ({"SEALEDSTATE_LEGACY_UNTIL": "soon"}, "SEALEDSTATE_LEGACY_UNTIL: expected a date"),
        ({"SEALEDSTATE_LEGACY_UNTIL": 2027}, "SEALEDSTATE_LEGACY_UNTIL: expected a date"),
        ({"SESSION_COOKIE_HTTPONLY": False}, "always HttpOnly"),
    ],
)
def test_mistake_in_the_settings_is_named(
    change: Change, values: dict[str, Any], message: str
) -> None:
    change(**values)
    with pytest.raises(ConfigurationError, match=message):
        read_settings()
    (found,) = [each.id for each in run_checks() if (each.id or "").startswith("sealedstate")]
    assert found == ("sealedstate.E005" if "always" in message else "sealedstate.E006")


SEALED = MIDDLEWARE[0]


@pytest.mark.parametrize(
    ("values", "id", "message"),
    [
        ({"SEALEDSTATE": {"keys": "x" * 60}}, "E006", "SEALEDSTATE['keys']: "),
        ({"SEALEDSTATE": {"keys": []}}, "E006", "no key is configured"),
        ({"SEALEDSTATE": {"KEYS": KEY}}, "E006", "did you mean 'keys'?"),
        ({"SEALEDSTATE": {"keys": "env:NOPE"}}, "W003", "NOPE, is not set"),
        ({"SEALEDSTATE": {"keys": "file:/nope/keys.json"}}, "W003", "/nope/keys.json"),
        ({"SEALEDSTATE": {"keys": KEY[:1], "storage": "django:default"}}, "W004", "lookup key"),
        (
            {"SEALEDSTATE": {"keys": KEY, "storage": "django:default?timeout=1"}},
            "E006",
            "SEALEDSTATE['storage']: there is no option 'timeout'",
        ),
        ({"SEALEDSTATE": {"keys": KEY, "storage": "default"}}, "E006", "'django:default'"),
        ({"SEALEDSTATE": {"keys": KEY, "storage": "etcd://a"}}, "E006", "['storage']: must be one"),
        ({"SEALEDSTATE": {"keys": KEY, "storage": "memory:"}}, "E006", "accept_weak_store_for"),
        ({"SEALEDSTATE_DEVICES": {"most": "5"}}, "E006", "SEALEDSTATE_DEVICES: most"),
        ({"SEALEDSTATE_DEVICES": {"wher": "a.b"}}, "E006", "SEALEDSTATE_DEVICES: must"),
        ({"SEALEDSTATE_DEVICES": {"where": "nope.a"}}, "E006", "SEALEDSTATE_DEVICES: where"),
        ({"SEALEDSTATE": {"keys": KEY}, "SEALEDSTATE_DEVICES": {}}, "E006", "needs a store"),
        ({"SEALEDSTATE_DEVICE": {"most": 5}}, "W005", "SEALEDSTATE_DEVICES"),
        ({"SEALEDSTATE_LEGACY": "2999-01-01"}, "W005", "SEALEDSTATE_LEGACY_UNTIL"),
        ({"SEALEDSTATE_KEYS": KEY}, "W005", "{'keys': ...}"),
        ({"MIDDLEWARE": [SEALED, *MIDDLEWARE]}, "E007", "more than once"),
        ({"MIDDLEWARE": [*MIDDLEWARE[1:], SEALED]}, "E008", "behind"),
        ({"SESSION_COOKIE_NAME": "a b"}, "E006", "SESSION_COOKIE_NAME: "),
        ({"SEALEDSTATE": {"keys": KEY, "cookie_name": "a b"}}, "E006", "E['cookie_name']: "),
        ({"SESSION_COOKIE_DOMAIN": "http://a"}, "E006", "SESSION_COOKIE_DOMAIN: "),
        ({"SESSION_COOKIE_AGE": timedelta(days=1)}, "E006", "SESSION_COOKIE_AGE: must be a whole"),
        (
            {"SESSION_COOKIE_NAME": "shop", "SEALEDSTATE_LEGACY_UNTIL": "2999-01-01"},
            "E006",
            "set SEALEDSTATE['cookie_name']",
        ),
    ],
)
def test_checks_judge_the_text_of_settings(
    change: Change, values: dict[str, Any], id: str, message: str
) -> None:
    change(**values)
    ours = [each for each in run_checks() if (each.id or "").startswith("sealedstate")]
    assert [each.id for each in ours] == [f"sealedstate.{id}"]
    assert message in f"{ours[0].msg} {ours[0].hint}"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, []),
        ({"MIDDLEWARE": MIDDLEWARE[1:]}, ["sealedstate.E001"]),
        ({"MIDDLEWARE": [STOCK, *MIDDLEWARE[1:]]}, ["sealedstate.E002"]),
        (
            {"SESSION_ENGINE": "django.contrib.sessions.backends.db"},
            ["sealedstate.E003"],
        ),
        ({"SEALEDSTATE": {}}, ["sealedstate.E004"]),
        ({"SEALEDSTATE": {}, "DEBUG": True}, ["sealedstate.W001"]),
        ({"SEALEDSTATE": {"keys": KEY}}, ["sealedstate.W002"]),
    ],
)
def test_checks_say_what_a_project_lacks(
    change: Change, values: dict[str, Any], found: list[str]
) -> None:
    change(**values)
    is_deployed = found == ["sealedstate.W002"]
    checked = run_checks(include_deployment_checks=is_deployed)
    # The admin accepts our middleware for its own check.
    other = [each.id for each in checked if (each.id or "").startswith(("sealedstate", "admin"))]
    assert [
        each for each in other if each != "admin.E410" or found[:1] != ["sealedstate.E001"]
    ] == (found)


def test_environment_gives_what_the_project_does_not(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "django:default?sealedstate_timeout=1")
    monkeypatch.setenv("SEALEDSTATE_LEGACY_UNTIL", "2999-01-01")
    monkeypatch.setenv("SEALEDSTATE_ABSOLUTE_LIFETIME", "7200")
    change(SEALEDSTATE={"keys": KEY})
    found = read_settings()
    assert str(found.storage).endswith("db.sqlite3.sealedstate?sealedstate_timeout=1")
    assert (found.idle_lifetime, found.absolute_lifetime) == (7200, 7200)
    assert found.legacy is not None
    change(SEALEDSTATE_LEGACY_UNTIL="2998-01-01")
    assert read_settings().legacy.until.year == 2998  # type: ignore[union-attr]
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "django:other")
    with pytest.raises(ConfigurationError, match=r"^SEALEDSTATE_STORAGE: there is no database"):
        read_settings()


def test_middleware_needs_our_engine(change: Change) -> None:
    change(SESSION_ENGINE="django.contrib.sessions.backends.db")
    with pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"):
        SealedSessionMiddleware(plain)


def test_command_line_uses_the_settings_of_the_project(
    capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    with pytest.raises(SystemExit) as end:
        ManagementUtility(["manage.py", "sealedstate", "--help"]).execute()
    assert end.value.code == 0
    assert "manage.py sealedstate" in capsys.readouterr().out
    call_command("sealedstate", "keys", "generate")
    assert "sealedstate-key-1" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        ManagementUtility(["manage.py", "sealedstate", "store", "check"]).execute()
    assert end.value.code == 0
    assert "revocation" in capsys.readouterr().out


# --- the database as the store ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database", "url"),
    [
        (
            {"HOST": "db", "PORT": 5433, "USER": "shop", "PASSWORD": "p@ss/word"},
            "postgresql://shop:p%40ss%2Fword@db:5433/shop",
        ),
        ({"HOST": "/run/pg"}, "postgresql:///shop?host=%2Frun%2Fpg"),
        (
            {"HOST": "::1", "OPTIONS": {"sslmode": "require", "pool": True, "assume_role": "x"}},
            "postgresql://[::1]/shop?sslmode=require",
        ),
        (
            {"ENGINE": "mysql", "USER": "shop", "OPTIONS": {"charset": "utf8", "ssl": {"ca": "c"}}},
            "mysql://shop@localhost/shop?ssl_ca=c",
        ),
        ({"ENGINE": "sqlite", "NAME": "/srv/db"}, "sqlite:/srv/db.sealedstate"),
        ({"ENGINE": "sqlite", "NAME": "file:test?mode=memory&cache=shared"}, "memory:"),
    ],
)
def test_url_of_a_database(
    database: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"NAME": "shop", "HOST": "", "PORT": "", "USER": "", "PASSWORD": "", "OPTIONS": {}}
    for name, value in {**names, **database}.items():
        if name != "ENGINE":
            monkeypatch.setitem(connection.settings_dict, name, value)
    vendor = database.get("ENGINE", "postgresql")
    monkeypatch.setattr(type(connections["default"]), "vendor", vendor)
    assert database_url("default") == url
    if not url.startswith("memory"):
        more = database_url("default", "sealedstate_timeout=1")
        assert more.endswith(("?sealedstate_timeout=1", "&sealedstate_timeout=1"))


def test_database_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(connections["default"]), "vendor", "oracle")
    with pytest.raises(ConfigurationError, match="a database of oracle"):
        database_url("default")


@pytest.mark.parametrize("name", ["file:/srv/db.sqlite3?mode=rw", "/srv/what?a=b.sqlite3"])
def test_sqlite_name_that_is_no_plain_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(connection.settings_dict, "NAME", name)
    with pytest.raises(ConfigurationError, match="name a file for the store instead"):
        database_url("default")


def test_database_in_memory_has_a_store_in_memory(
    monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    monkeypatch.setitem(connection.settings_dict, "NAME", ":memory:")
    change(SEALEDSTATE={"keys": KEY, "storage": "django:default"})
    client = Client()
    client.get("/write?cart=tea")
    cookie = client.cookies[NAME].value
    client.get("/leave")
    client.cookies[NAME] = cookie
    assert client.get("/read").json()["values"] == {}


def test_migration_makes_the_tables_of_its_database_only(change: Change) -> None:
    path = Path(f"{connection.settings_dict['NAME']}.sealedstate")
    assert path.exists()
    assert ("sealedstate_django", "0001_initial") in MigrationExecutor(
        connection
    ).loader.graph.nodes
    migration: Any = import_module("sealedstate_django.migrations.0001_initial")
    change(SEALEDSTATE={"keys": KEY, "storage": "sqlite:/no/such/place/store.db"})
    with connection.schema_editor() as editor:
        migration.create_tables(None, editor)


# --- the move -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["signed_cookies", "db", "cached_db"])
@pytest.mark.parametrize("secret", ["the project's secret", "a new one"])
def test_sessions_of_django_are_taken_over(change: Change, backend: str, secret: str) -> None:
    engine = f"django.contrib.sessions.backends.{backend}"
    with_stock = {"SESSION_ENGINE": engine, "MIDDLEWARE": [STOCK, *MIDDLEWARE[1:]]}
    client, user = Client(), User.objects.get(username="ann")
    with settings_of(with_stock):
        client.force_login(user)
        session = client.session
        # Long enough to be compressed; equal cookies of one second would be the same session.
        session["cart"], session["of"] = ["tea"] * 200, secret
        session.save()
        if backend == "signed_cookies":
            client.cookies["sessionid"] = session.session_key
    old = client.cookies["sessionid"].value
    change(
        SEALEDSTATE_LEGACY_UNTIL="2999-01-01",
        SECRET_KEY=secret,
        SECRET_KEY_FALLBACKS=["the project's secret"],
    )
    found = client.get("/read").json()
    assert found["values"]["cart"] == ["tea"] * 200
    assert found["values"]["_auth_user_id"] == str(user.pk)
    assert keeper().counts["adopted"] == 1
    assert list(client.cookies) == [NAME]
    # The old cookie leads to the id that a logout has revoked.
    client.get("/leave")
    thief = Client()
    thief.cookies["sessionid"] = old
    assert thief.get("/read").json()["values"] == {}
    forged = Client()
    forged.cookies["sessionid"] = old[:-2] + ("AA" if old[-2:] != "AA" else "BB")
    assert forged.get("/read").json()["values"] == {}
    change(SEALEDSTATE_LEGACY_UNTIL="2001-01-01")
    assert thief.get("/read").json()["values"] == {}
    assert keeper().counts["adopted"] == 0


@pytest.mark.parametrize("expiry", [timedelta(days=30), 30 * 86400])
def test_expiry_of_a_session_that_is_taken_over_is_kept(change: Change, expiry: Any) -> None:
    from django.contrib.sessions.backends.db import SessionStore

    table = {"keys": KEY, "storage": "django:default", "longest_lifetime": 40 * 86400}
    change(SEALEDSTATE_LEGACY_UNTIL="2999-01-01", SEALEDSTATE=table)
    with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC)) as clock:
        store = SessionStore()
        store["_auth_user_id"] = f"of {expiry}"
        store.set_expiry(expiry)
        store.save()
        clock.shift(20 * 86400)  # longer than SESSION_COOKIE_AGE
        client, late = Client(), Client()
        client.cookies["sessionid"] = late.cookies["sessionid"] = store.session_key or ""
        assert client.get("/read").json()["values"]["_auth_user_id"] == f"of {expiry}"
        clock.shift(11 * 86400)
        # Its seconds begin with its first use here, as with each use; a date stays.
        assert bool(client.get("/read").json()["values"]) == isinstance(expiry, int)
        assert late.get("/read").json()["values"] == {}


@pytest.mark.parametrize("expiry", [None, datetime(2999, 1, 1, tzinfo=UTC)])
def test_sign_out_everywhere_reaches_sessions_of_the_database(
    change: Change, somebody: User, expiry: Any
) -> None:
    from django.contrib.sessions.backends.db import SessionStore

    change(SEALEDSTATE_LEGACY_UNTIL="2999-01-01")
    store = SessionStore()
    store["_auth_user_id"] = str(somebody.pk)
    if expiry is not None:
        store.set_expiry(expiry)
    store.save()
    keeper().revoke_subject(str(somebody.pk))
    client = Client()
    client.cookies["sessionid"] = store.session_key or ""
    assert client.get("/read").json()["values"] == {}


def test_key_in_another_case_is_signed_out_too(change: Change) -> None:
    """As in MySQL, which compares texts without case."""
    from django.contrib.sessions.backends.db import SessionStore

    change(SEALEDSTATE_LEGACY_UNTIL="2999-01-01")
    columns = "session_data text NOT NULL, expire_date datetime NOT NULL"
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_session RENAME TO other_session")
        cursor.execute(
            "CREATE TABLE django_session"
            f" (session_key varchar(40) COLLATE NOCASE PRIMARY KEY, {columns})"
        )
        try:
            store = SessionStore()
            store["cart"] = ["tea"]
            store.save()
            key = store.session_key or ""
            client, thief = Client(), Client()
            client.cookies["sessionid"] = key.swapcase()
            assert client.get("/read").json()["values"] == {"cart": ["tea"]}
            client.get("/leave")
            for text in (key, key.swapcase()):
                thief.cookies["sessionid"] = text
                assert thief.get("/read").json()["values"] == {}
        finally:
            cursor.execute("DROP TABLE django_session")
            cursor.execute("ALTER TABLE other_session RENAME TO django_session")


@pytest.mark.parametrize("secure", [True, False])
def test_session_of_the_database_is_taken_over_in_an_asynchronous_view(
    change: Change, secure: bool
) -> None:
    from django.contrib.sessions.backends.db import SessionStore

    store = SessionStore()
    store["cart"] = ["tea"]
    store.save()
    # Without Secure, the sealed cookie is `s`, which is also in the name of the old one.
    table = {"keys": KEY, "secure": secure}
    change(SEALEDSTATE_LEGACY_UNTIL="2999-01-01", SEALEDSTATE=table)
    client = AsyncClient()
    client.cookies["sessionid"] = store.session_key or ""

    async def visit() -> Any:
        return (await client.get("/read_async")).json()

    assert asyncio.run(visit())["cart"] == ["tea"]


def test_session_of_a_database_that_does_not_answer_stays(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.contrib.sessions.models import Session

    change(SEALEDSTATE_LEGACY_UNTIL="2999-01-01")
    client = Client()
    client.cookies["sessionid"] = "abcdefghijklmnopqrstuvwxyz012345"
    with monkeypatch.context() as patches:
        patches.setattr(Session._meta, "db_table", "no_such_table")
        response = client.get("/write?cart=tea")
    assert (response.status_code, list(response.cookies)) == (200, [])
    assert "sessionid" in client.cookies


def settings_of(values: dict[str, Any]) -> Any:
    from django.test.utils import override_settings

    return override_settings(**values)


# --- test clients -------------------------------------------------------------------------------


def test_client_sets_and_reads_sessions_between_requests() -> None:
    client = Client()
    session = client.session
    session["cart"] = ["tea"]
    session.save()
    session["cart"].append("milk")
    session.save()
    assert client.get("/read").json()["values"] == {"cart": ["tea", "milk"]}
    assert client.login(username="ann", password="secret")
    assert client.session["_auth_user_id"] == str(User.objects.get(username="ann").pk)
    assert client.session["cart"] == ["tea", "milk"]
    client.logout()
    assert client.get("/read").json()["values"] == {}


@pytest.mark.slow
def test_changed_settings_count_without_the_test_module() -> None:
    code = (
        "import sys\n"
        "from tests.support import django_site as site\n"
        "site.set_up()\n"
        "from django.test import override_settings\n"
        "from sealedstate_django import keeper\n"
        "keeper()\n"
        "with override_settings(SEALEDSTATE={'keys': site.KEY, 'realm': 'other'}):\n"
        "    assert keeper().settings.realm == 'other'\n"
        "assert keeper().settings.realm == 'default'\n"
        "assert 'sealedstate_django.test' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    environ = {"PYTHONPATH": f"{root}:{root / 'middleware'}"}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environ, check=True)


def test_client_has_the_sessions_of_other_engines(change: Change) -> None:
    change(
        SESSION_ENGINE="django.contrib.sessions.backends.db",
        MIDDLEWARE=[STOCK, *MIDDLEWARE[1:]],
    )
    client = Client()
    client.force_login(User.objects.get(username="ann"))
    assert client.session["_auth_user_id"]
    assert "sessionid" in client.cookies


def test_too_large_session_names_its_parts(change: Change) -> None:
    change(SEALEDSTATE={"keys": KEY})
    client = Client()
    with pytest.raises(SessionTooLarge, match="cart"):
        client.get("/write", {"cart": "x" * 9000})


@pytest.mark.slow
def test_plugin_gives_a_project_sealed_clients(tmp_path: Path) -> None:
    pytest.importorskip("pytest_django")
    (tmp_path / "conftest.py").write_text(
        "from tests.support import django_site\n"
        "django_site.set_up()\n"
        'pytest_plugins = ["sealedstate_django.pytest"]\n'
    )
    (tmp_path / "test_project.py").write_text(
        "from django.test import TestCase\n"
        "class Test(TestCase):\n"
        "    def test_session(self):\n"
        "        session = self.client.session\n"
        "        session['cart'] = 'tea'\n"
        "        session.save()\n"
        "        assert self.client.get('/read').json()['values'] == {'cart': 'tea'}\n"
        "def test_admin(admin_client):\n"
        "    assert '_auth_user_id' in admin_client.get('/read').json()['values']\n"
        "def test_client(client):\n"
        "    assert client.session.session_key\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "middleware")]
    environ = {"PYTHONPATH": ":".join(paths), "DJANGO_SETTINGS_MODULE": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_registry_of_sessions_is_one_of_the_settings(change: Change) -> None:
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_DEVICES: is not set"):
        devices()
    for given, problem in (
        ({"max": 5}, "must be a dict with some of where, every and most"),
        ({"most": 0}, "most: must be a whole number"),
        ({"where": "nowhere.name_of"}, "where: No module named 'nowhere'"),
    ):
        change(SEALEDSTATE_DEVICES=given)
        with pytest.raises(ConfigurationError, match=f"SEALEDSTATE_DEVICES: {problem}"):
            keeper()
    change(SEALEDSTATE_DEVICES={})
    assert devices() is devices()
