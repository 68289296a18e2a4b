"""``sealedstate store``: on SQLite, on a mapping of stores, and on real servers."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sealedstate.storage import USES, SQLiteStorage, Stored, open_storage
from sealedstate.storage.requirements import (
    CAVEATS,
    DECLARED,
    PROBE_CONTEXT,
    as_markdown,
    probe_writes,
    unmet_needs,
)
from sealedstate.testing import ScriptedStorage
from tests.support.backends import patient
from tests.support.installed import need_driver
from tests.support.kv_servers import KeyValueServer, redis_server
from tests.support.ports import free_port
from tests.support.ring_cli import finding, output, run, usage_error
from tests.support.sql_server import PASSWORD, SQLServer
from tests.support.sql_servers import PostgreSQLServer

ACTIONS = ("init", "check", "reap", "stats")
CONTEXTS = list(dict.fromkeys(context for use in USES.values() for context in use.contexts))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    found: SQLServer = request.getfixturevalue(f"{request.param}_server")
    yield found
    found.ensure_running()


def unusable(url: str) -> str:
    """The one line that each command prints about a store that cannot be used."""
    found = {finding("store", action, url) for action in ACTIONS}
    assert len(found) == 1
    (message,) = found
    assert message.startswith("sealedstate: the store cannot be used: ")
    assert PASSWORD not in message
    assert "canary" not in message
    return message


def check(url: str) -> dict[str, Any]:
    """What `check` finds. Its exit code is 1 if anything is missing."""
    result = run("store", "check", "--json", url)
    found: dict[str, Any] = result.json
    fails = [part["fails"] for part in found["stores"]]
    assert result.code == (1 if any(fails) or any(found["uses"].values()) else 0)
    return found


def failure(url: str) -> str:
    """Why the only store of a URL takes no writes, by both forms of the output."""
    (part,) = check(url)["stores"]
    code, out, _ = run("store", "check", url)
    assert code == 1
    assert f"  takes writes = NO: {part['fails']}\n" in out
    assert "canary" not in out
    return str(part["fails"])


# --- a store that answers -----------------------------------------------------------------------


def test_store_is_prepared_and_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output("store", "init", url) == "the store is ready\n"
    assert output("store", "ping", url) == "up\n"
    assert "SEALEDSTATE_STORAGE" in usage_error("store", "ping")
    monkeypatch.setenv("SEALEDSTATE_STORAGE", url)
    assert run("store", "ping").code == 0


def test_check_answers_for_each_use(url: str) -> None:
    assert check(url)["uses"] == {title: [] for title in USES}
    lines = output("store", "check", url).splitlines()
    *uses, shared, writes, logouts, down, todo = lines
    assert [line.split()[:2] for line in uses] == [[title, "yes"] for title in USES]
    assert writes.startswith("  takes writes = yes")
    assert "from the moment" in logouts
    assert "no session opens" in down
    assert shared.startswith("  shared = True: a file that the processes of one machine share")
    assert todo == "  to do: nothing"
    missing = {
        title: [need.shortfall for need in unmet_needs(use, DECLARED["memory"])]
        for title, use in USES.items()
    }
    assert check("memory:")["uses"] == missing
    lines = run("store", "check", "memory:").out.splitlines()
    assert lines[-1].startswith("  to do: if the application needs revocation, ring, replay")
    assert lines[-1].endswith("or accept the risk: accept_weak_store_for")
    for title, found in missing.items():
        (number,) = [number for number, line in enumerate(lines) if line.split()[0] == title]
        assert lines[number].split()[1] == ("no" if found else "yes")
        assert not found or lines[number + 1].strip() == f"this store {', '.join(found)}"


def test_check_says_what_a_logout_promises(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALEDSTATE_REVOCATION", "feed")
    monkeypatch.setenv("SEALEDSTATE_FEED_STALENESS", "5")
    monkeypatch.setenv("SEALEDSTATE_ON_STORE_DOWN", "300")
    logouts, down = check(url)["logouts"]
    assert "at most 5 s after" in logouts
    assert "counts for 300 s" in down
    monkeypatch.setenv("SEALEDSTATE_REVOCATION", "fed")
    (unknown,) = check(url)["logouts"]
    assert unknown.startswith("what a logout promises is not known: SEALEDSTATE_REVOCATION")


def test_records_are_counted_and_reaped_up_to_a_limit(url: str, tmp_path: Path) -> None:
    with closing(SQLiteStorage(tmp_path / "store.db", time.time)) as store:
        for number in range(4):
            store.create("sealedstate.part", str(number), b"", 1, 1)
        store.create("sealedstate.part", "alive", b"", None, 1)
    counts = dict(line.split() for line in output("store", "stats", url).splitlines())
    assert counts == dict.fromkeys(CONTEXTS, "0") | {"sealedstate.part": "1"}
    assert output("store", "reap", url, "--limit", "3") == "3 expired records removed\n"
    assert output("store", "reap", url) == "1 expired record removed\n"


def test_matrix_has_a_row_for_each_store() -> None:
    rows = output("store", "matrix").splitlines()
    assert {name for name in DECLARED if any(row.startswith(name) for row in rows)} == {*DECLARED}
    assert output("store", "matrix", "--markdown") == f"{as_markdown(DECLARED)}\n"
    # What yes and no do not say is said below.
    assert CAVEATS.keys() <= DECLARED.keys()
    assert [row.partition(":")[0] for row in rows if "see docs" in row] == [*CAVEATS]


# --- a store that cannot be used ----------------------------------------------------------------


@pytest.mark.parametrize("action", [*ACTIONS, "ping"])
def test_url_without_a_store_is_wrong_usage(action: str) -> None:
    need_driver("redis")
    for url in ("nonsense", "redis://:canary@h?sealedstate_timeout=x", "sqlite:x?timeout=1"):
        message = usage_error("store", action, url)
        assert message.startswith("sealedstate: storage: ")
        assert "canary" not in message


def test_file_that_is_no_store_of_this_release_is_named(url: str, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "folder" / "store.db"
    code, out, _ = run("store", "ping", f"sqlite:{missing}")
    assert (code, out.startswith(f"down: sqlite store '{missing}'")) == (1, True)
    assert "does not exist; create it" in unusable(f"sqlite:{missing}")
    (tmp_path / "text").write_text("no database at all " * 100)
    assert "not a database" in unusable(f"sqlite:{tmp_path / 'text'}")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    assert "of another application" in unusable(f"sqlite:{tmp_path / 'other.db'}")
    assert run("store", "init", url).code == 0
    with closing(sqlite3.connect(tmp_path / "store.db")) as newer:
        newer.execute("PRAGMA user_version = 1000")
    assert "has schema 1000; this release supports" in unusable(url)


SERVERS = {
    "postgresql": "postgresql://u:canary@127.0.0.1:{}/d",
    "mariadb": "mariadb://u:canary@127.0.0.1:{}/d",
    "redis": "redis://:canary@127.0.0.1:{}",
    "memcached": "memcached://127.0.0.1:{}",
}


@pytest.mark.parametrize("name", SERVERS)
def test_server_that_does_not_answer_is_named(name: str) -> None:
    need_driver("psycopg", "pymysql", "redis", "pymemcache")
    port = free_port()
    url = SERVERS[name].format(port)
    assert f"127.0.0.1:{port}" in unusable(url)
    code, out, err = run("store", "check", "--json", url)
    assert code == 1
    assert list(json.loads(out)) == ["unusable"]
    assert json.loads(out)["unusable"] in err


# --- whether it takes writes --------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file is locked for writing, and can be read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def test_test_record_leaves_nothing_behind(url: str) -> None:
    for _ in range(2):
        assert [part["fails"] for part in check(url)["stores"]] == [None]
    with closing(open_storage(url, time.time)) as store:
        assert list(store.keys(PROBE_CONTEXT)) == []
        assert store.reap(10) == 0


def test_file_that_can_only_be_read_is_found(url: str, tmp_path: Path) -> None:
    assert run("store", "init", url).code == 0
    with closing(open_storage(url, time.time)) as store:
        with locked(tmp_path / "store.db"):
            assert failure(f"{url}?sealedstate_timeout=0.05").startswith("create: ")
        assert probe_writes(store, time.time(), "k") is None


def test_store_that_only_acknowledges_is_found() -> None:
    now = 1_800_000_000.0
    different = "read: the store answers, but not with what was written"
    for operation, outcome in (("create", different), ("delete", different)):
        store = ScriptedStorage(lambda: now).answer(operation, value=True)
        assert probe_writes(store, now, "k") == outcome
    # A test record that could not be deleted expires.
    assert store.storage.read(PROBE_CONTEXT, "k") == Stored(b"a trial", 2, 1_800_000_120_000)
    store = ScriptedStorage(lambda: now).fail("add_member")
    assert probe_writes(store, now, "k") == "add_member: the store is down"


def test_each_use_is_checked_with_the_store_of_its_contexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"sqlite:{tmp_path / 'kept.db'}"
    contexts = ["sealedstate.revoked", "sealedstate.watermark", "mine"]
    words = ["*=memory:", *(f"{context}={kept}" for context in contexts)]
    found = check(" ".join(words))
    assert [title for title in ("spilling", "revocation") if found["uses"][title]] == []
    assert "forgets at a restart" in found["uses"]["ring"]
    assert "forgets at a restart" in found["uses"]["replay"]
    others = [context for context in CONTEXTS if context not in contexts]
    assert [(part["store"], part["contexts"]) for part in found["stores"]] == [
        ("memory", [*others, "*"]),
        ("sqlite", contexts),
    ]
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "\n".join(words))
    out = run("store", "check").out
    assert "\nsqlite, for sealedstate.revoked, sealedstate.watermark, mine\n" in out


def test_each_store_of_a_mapping_is_tested(tmp_path: Path) -> None:
    good, held = (f"sqlite:{tmp_path / name}.db" for name in ("good", "held"))
    mapping = f"*={good} sealedstate.revoked={held}?sealedstate_timeout=0.05"
    assert run("store", "init", mapping).code == 0
    with locked(tmp_path / "held.db"):
        found = check(mapping)
    assert [bool(part["fails"]) for part in found["stores"]] == [False, True]
    assert found["stores"][1]["contexts"] == ["sealedstate.revoked"]
    down = f"sqlite:{tmp_path / 'no' / 'folder' / 'store.db'}"
    message = finding("store", "check", f"*=memory: sealedstate.part={down}")
    assert f"cannot be used: sqlite store '{tmp_path}/no/folder/store.db'" in message


# --- on real servers ----------------------------------------------------------------------------


@pytest.mark.server
def test_every_command_works_on_a_database_server(server: Any) -> None:
    url = patient(server.fresh_url())
    assert run("store", "init", url).code == 0
    with closing(open_storage(url, time.time)) as store:
        store.create("sealedstate.revoked", "dead", b"", 1, 1)
        store.create("sealedstate.revoked", "alive", b"", None, 1)
    counts = dict(line.split() for line in output("store", "stats", url).splitlines())
    assert counts["sealedstate.revoked"] == "1"
    assert output("store", "reap", url) == "1 expired record removed\n"
    assert output("store", "ping", url) == "up\n"
    checked = run("store", "check", url)
    # MariaDB has a fault that no setting prevents.
    is_durable = server.name == "postgresql"
    assert checked.code == (0 if is_durable else 1)
    assert f"durable = {is_durable}: " in checked.out
    assert ("keep what must survive that in PostgreSQL" in checked.out) != is_durable


@pytest.mark.server
def test_database_that_only_reads_is_found(postgresql_server: PostgreSQLServer) -> None:
    url = patient(postgresql_server.fresh_url())
    assert run("store", "init", url).code == 0
    reading = url.replace("options=", "options=-c%20default_transaction_read_only%3Don%20")
    assert "read-only transaction: the server or this user may only read" in unusable(reading)
    schema = postgresql_server.fresh_schema()
    assert run("store", "init", patient(postgresql_server.url(schema))).code == 0
    url = patient(postgresql_server.limited_url(schema))
    postgresql_server.ask(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO limited_{schema}")
    assert run("store", "ping", url).code == 0
    reason = failure(url)
    assert reason.startswith("create: postgresql at ")
    assert "permission denied for table sealedstate_record" in reason
    postgresql_server.ask(
        "GRANT INSERT, UPDATE, DELETE"
        f" ON {schema}.sealedstate_record, {schema}.sealedstate_schema TO limited_{schema}"
    )
    reason = failure(url)
    assert reason.startswith("add_member: ")
    assert "permission denied for table sealedstate_member" in reason
    postgresql_server.allow(schema)
    assert check(url)["stores"][0]["fails"] is None


@pytest.mark.server
def test_redis_is_checked_by_its_configuration(plain_redis: KeyValueServer) -> None:
    found = check(patient(plain_redis.url))
    assert found["because"]["durable"] == "appendonly no, save ''"
    assert not found["uses"]["spilling"]
    assert found["uses"]["revocation"]
    with redis_server(password="canary") as server:
        for login, why in (("", "NOAUTH"), (f":{quote('canary/wrong', '')}@", "WRONGPASS")):
            assert why in unusable(patient(server.url.replace(":canary@", login)))
    with redis_server("none", "--maxmemory", "1kb") as server:
        url = patient(server.url)
        assert run("store", "ping", url).code == 0
        assert "maxmemory" in failure(url)


@pytest.mark.server
def test_records_of_memcached_cannot_be_counted(plain_memcached: KeyValueServer) -> None:
    url = patient(plain_memcached.url)
    message = finding("store", "stats", url)
    assert message.startswith("sealedstate: the records cannot be counted: memcached can't list")
    assert output("store", "reap", url) == "0 expired records removed\n"
