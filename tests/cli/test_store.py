"""``sealedstate store``, run as an operator runs it: on sqlite, and on real servers."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sealedstate.cli import main
from sealedstate.storage import USES, SQLiteStorage, open_storage
from sealedstate.storage.requirements import DECLARED, as_markdown, unmet_needs
from tests.support import kv_servers, sql_servers
from tests.support.installed import need_driver
from tests.support.kv_servers import KeyValueServer, redis_server
from tests.support.ports import free_port
from tests.support.sql_server import PASSWORD, SQLServer

postgresql_server = sql_servers.postgresql_server
mariadb_server = sql_servers.mariadb_server
plain_redis = kv_servers.plain_redis
plain_memcached = kv_servers.plain_memcached

ACTIONS = ["init", "check", "reap", "stats"]
PATIENTLY = "sealedstate_timeout=60"  # tests share a machine

Told = pytest.CaptureFixture[str]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    found: SQLServer = request.getfixturevalue(f"{request.param}_server")
    yield found
    found.ensure_running()


def patient(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{PATIENTLY}"


def unusable(told: Told, url: str) -> str:
    """What each action says of a store that can't be used: always the same, in one line."""
    told.readouterr()
    found = set()
    for action in ACTIONS:
        assert main(["store", action, url]) == 1
        out, err = told.readouterr()
        assert not out
        assert err.count("\n") == 1
        assert err.startswith("sealedstate: the store can't be used: ")
        assert PASSWORD not in err
        assert "canary" not in err
        assert "Traceback" not in err
        found.add(err)
    assert len(found) == 1
    return found.pop()


# --- a store that answers -----------------------------------------------------------------------


def test_init_makes_a_store_that_answers(url: str, capsys: Told) -> None:
    assert main(["store", "init", url]) == 0
    assert main(["store", "ping", url]) == 0
    assert capsys.readouterr().out == "the store is ready\nup\n"


def test_check_answers_for_every_use(url: str, capsys: Told) -> None:
    assert main(["store", "check", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["uses"] == {title: [] for title in USES}
    assert main(["store", "check", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [[title, "yes"] for title in USES]
    assert lines[-1].startswith("  takes writes = yes")


def test_check_says_what_is_missing_for_which_use(capsys: Told) -> None:
    assert main(["store", "check", "memory:"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for title, use in USES.items():
        missing = [need.shortfall for need in unmet_needs(use, DECLARED["memory"])]
        (number,) = [number for number, line in enumerate(lines) if line.split()[0] == title]
        assert lines[number].split()[1] == ("no" if missing else "yes")
        assert not missing or lines[number + 1].strip() == f"not here: {', '.join(missing)}"


def test_reap_and_stats_count(url: str, tmp_path: Path, capsys: Told) -> None:
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    store.create("sealedstate.part", "dead", b"", 1, 1)
    store.create("sealedstate.part", "alive", b"", None, 1)
    store.close()
    assert main(["store", "stats", url]) == 0
    counted = dict(line.split() for line in capsys.readouterr().out.splitlines())
    contexts = [context for use in USES.values() for context in use.contexts]
    assert counted == dict.fromkeys(contexts, "0") | {"sealedstate.part": "1"}
    assert main(["store", "reap", url]) == 0
    assert capsys.readouterr().out == "1 expired records removed\n"


def test_reap_removes_no_more_than_its_limit(url: str, tmp_path: Path, capsys: Told) -> None:
    store = SQLiteStorage(tmp_path / "store.db", time.time)
    for number in range(5):
        store.create("sealedstate.part", str(number), b"", 1, 1)
    store.close()
    assert main(["store", "reap", url, "--limit", "3"]) == 0
    assert capsys.readouterr().out == "3 expired records removed\n"


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "²"])
def test_a_limit_that_limits_nothing_is_wrong_usage(url: str, limit: str, capsys: Told) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["store", "reap", url, f"--limit={limit}"])
    assert caught.value.code == 2
    assert "a number from 1 on" in capsys.readouterr().err


def test_the_matrix_has_a_row_for_each_backend(capsys: Told) -> None:
    assert main(["store", "matrix"]) == 0
    rows = capsys.readouterr().out
    assert all(name in rows for name in DECLARED)
    assert main(["store", "matrix", "--markdown"]) == 0
    assert capsys.readouterr().out == f"{as_markdown(DECLARED)}\n"


def test_a_url_is_read_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    assert main(["store", "ping"]) == 2
    assert "SEALEDSTATE_STORAGE" in capsys.readouterr().err
    monkeypatch.setenv("SEALEDSTATE_STORAGE", url)
    assert main(["store", "ping"]) == 0


@pytest.mark.parametrize("action", [*ACTIONS, "ping"])
def test_a_url_that_names_no_store_is_wrong_usage(action: str, capsys: Told) -> None:
    need_driver("redis")
    for url in ("nonsense", "redis://:canary@h?sealedstate_timeout=x", "sqlite:x?timeout=1"):
        assert main(["store", action, url]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith("sealedstate: storage: ")
        assert "canary" not in err


# --- one that can't be used ---------------------------------------------------------------------


def test_ping_of_a_store_that_is_down_is_a_finding(tmp_path: Path, capsys: Told) -> None:
    assert main(["store", "ping", f"sqlite:{tmp_path / 'no' / 'folder' / 'store.db'}"]) == 1
    assert capsys.readouterr().out.startswith("down: sqlite store 'store.db'")


def test_a_file_that_is_no_store_of_ours_is_told(tmp_path: Path, capsys: Told) -> None:
    missing = tmp_path / "no" / "folder" / "store.db"
    assert "unable to open" in unusable(capsys, f"sqlite:{missing}")
    (tmp_path / "text").write_text("no database at all " * 100)
    assert "not a database" in unusable(capsys, f"sqlite:{tmp_path / 'text'}")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert "of another application" in unusable(capsys, f"sqlite:{tmp_path / 'other.db'}")


def test_tables_of_a_newer_release_are_told(url: str, tmp_path: Path, capsys: Told) -> None:
    assert main(["store", "init", url]) == 0
    newer = sqlite3.connect(tmp_path / "store.db")
    newer.execute("PRAGMA user_version = 1000")
    newer.close()
    assert "has schema 1000; this release supports" in unusable(capsys, url)


SERVERS = {
    "postgresql": "postgresql://u:canary@127.0.0.1:{}/d",
    "mariadb": "mariadb://u:canary@127.0.0.1:{}/d",
    "redis": "redis://:canary@127.0.0.1:{}",
    "memcached": "memcached://127.0.0.1:{}",
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_not_there_is_told(name: str, capsys: Told) -> None:
    need_driver("sqlalchemy", "psycopg", "pymysql", "redis", "pymemcache")
    port = free_port()
    assert f"127.0.0.1:{port}" in unusable(capsys, SERVERS[name].format(port))


def test_as_json_too_it_is_told(capsys: Told) -> None:
    need_driver("redis")
    assert main(["store", "check", "--json", f"redis://:canary@127.0.0.1:{free_port()}"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert list(told) == ["unusable"]
    assert told["unusable"] in err


def test_the_command_as_a_process_shows_no_traceback(tmp_path: Path) -> None:
    need_driver("redis")
    environ = {"SEALEDSTATE_STORAGE": f"redis://:canary@127.0.0.1:{free_port()}"}
    command = [sys.executable, "-m", "sealedstate", "store", "check"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert "canary" not in done.stderr


# --- on real servers ----------------------------------------------------------------------------


@pytest.mark.server
def test_every_action_works_on_a_database_server(server: Any, capsys: Told) -> None:
    url = patient(server.fresh_url())
    assert main(["store", "init", url]) == 0
    store = open_storage(url, time.time)
    store.create("sealedstate.revoked", "dead", b"", 1, 1)
    store.create("sealedstate.revoked", "alive", b"", None, 1)
    store.close()
    capsys.readouterr()
    assert main(["store", "stats", url]) == 0
    assert ["sealedstate.revoked", "1"] in map(str.split, capsys.readouterr().out.splitlines())
    assert main(["store", "reap", url]) == 0
    assert main(["store", "ping", url]) == 0
    assert capsys.readouterr().out == "1 expired records removed\nup\n"
    assert main(["store", "check", url]) == 0
    assert "durable = True" in capsys.readouterr().out


@pytest.mark.server
def test_a_wrong_password_is_told_and_not_repeated(server: Any, capsys: Told) -> None:
    url = patient(server.url(server.fresh_schema(), password="canary-wrong"))
    assert "password" in unusable(capsys, url)


@pytest.mark.server
def test_a_database_that_is_not_there_is_told(server: Any, capsys: Told) -> None:
    url = patient(server.url("nowhere").replace("/postgres?", "/nowhere?"))
    assert "nowhere" in unusable(capsys, url)


@pytest.mark.server
def test_tables_that_a_user_may_not_use_are_told(server: Any, capsys: Told) -> None:
    schema = server.fresh_schema()
    limited = patient(server.limited_url(schema))
    assert "run `sealedstate store init`" in unusable(capsys, limited)
    assert main(["store", "init", patient(server.url(schema))]) == 0
    assert "denied" in unusable(capsys, limited)
    server.allow(schema)
    assert main(["store", "check", limited]) == 0


@pytest.mark.server
def test_tables_of_a_newer_release_on_a_server_are_told(server: Any, capsys: Told) -> None:
    schema = server.fresh_schema()
    url = patient(server.url(schema))
    assert main(["store", "init", url]) == 0
    server.ask(f"INSERT INTO {schema}.sealedstate_schema (version) VALUES (1000)")
    assert "of version 1000; this release supports" in unusable(capsys, url)


@pytest.mark.server
def test_a_redis_that_wants_another_password_is_told(capsys: Told) -> None:
    with redis_server(password="canary") as server:
        for login, why in (("", "NOAUTH"), (f":{quote('canary/wrong', '')}@", "WRONGPASS")):
            assert why in unusable(capsys, patient(server.url.replace(":canary@", login)))


@pytest.mark.server
def test_a_redis_is_judged_by_how_it_is_set(plain_redis: KeyValueServer, capsys: Told) -> None:
    assert main(["store", "check", "--json", patient(plain_redis.url)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["because"]["durable"] == "appendonly no, save ''"
    assert not found["uses"]["spilling"]
    assert found["uses"]["revocation"]


@pytest.mark.server
def test_stats_of_a_store_that_lists_nothing_says_so(
    plain_memcached: KeyValueServer, capsys: Told
) -> None:
    url = patient(plain_memcached.url)
    assert main(["store", "stats", url]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("sealedstate: not counted: memcached can't list")
    assert main(["store", "reap", url]) == 0
    assert capsys.readouterr().out == "0 expired records removed\n"
