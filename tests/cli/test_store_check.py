"""``sealedstate store check`` tries a write, and judges a split of stores part by part."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sealedstate.cli import main
from sealedstate.errors import StorageUnavailable
from sealedstate.storage import USES, Stored, open_storage
from sealedstate.storage.requirements import PROBE_CONTEXT, probe_writes
from sealedstate.testing import ScriptedStorage
from tests.support import sql_servers
from tests.support.kv_servers import redis_server
from tests.support.server_process import until
from tests.support.sql_servers import PostgreSQLServer

postgresql_server = sql_servers.postgresql_server

Told = pytest.CaptureFixture[str]
PATIENTLY = "sealedstate_timeout=60"  # tests share a machine


def checked(capsys: Told, url: str) -> dict[str, Any]:
    """What `check` finds, as JSON. Its exit code is 1 when anything is wrong."""
    capsys.readouterr()
    code = main(["store", "check", "--json", url])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    fails = [part["fails"] for part in found["stores"]]
    assert code == (1 if any(fails) or any(found["uses"].values()) else 0)
    return found


def failure(capsys: Told, url: str) -> str:
    """What the only store of a URL fails at, as both kinds of output tell it."""
    (part,) = checked(capsys, url)["stores"]
    assert main(["store", "check", url]) == 1
    out = capsys.readouterr().out
    assert f"  takes writes = NO: {part['fails']}\n" in out
    assert "canary" not in out
    return str(part["fails"])


# --- whether it takes writes --------------------------------------------------------------------


def test_a_trial_leaves_nothing_behind(tmp_path: Path, capsys: Told) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    for _ in range(2):
        assert [part["fails"] for part in checked(capsys, url)["stores"]] == [None]
    with closing(open_storage(url, time.time)) as store:
        assert list(store.keys(PROBE_CONTEXT)) == []
        assert store.reap(10) == 0


def test_a_file_that_can_only_be_read_is_told(tmp_path: Path, capsys: Told) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    assert main(["store", "init", url]) == 0
    with closing(open_storage(url, time.time)) as store:
        with only_reading(tmp_path / "store.db"):
            assert failure(capsys, f"{url}?sealedstate_timeout=0.05").startswith("create: ")
        assert probe_writes(store, time.time(), "k") is None


@contextmanager
def only_reading(path: Path) -> Iterator[None]:
    """Somebody holds the file's lock for writing, and lets others read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("operation", ["create", "delete"])
def test_store_that_acknowledges_without_acting_is_found_out(operation: str) -> None:
    store = ScriptedStorage(time.time).answer(operation, value=True)
    problem = probe_writes(store, time.time(), "k")
    assert problem == "read: the store answers, but not with what was written"


def test_store_without_the_indexes_that_it_declares_is_found_out() -> None:
    store = ScriptedStorage(time.time)
    store.fail("add_member", error=StorageUnavailable("no table of members"))
    assert probe_writes(store, time.time(), "k") == "add_member: no table of members"


def test_a_trial_that_breaks_off_leaves_what_expires() -> None:
    now = 1_800_000_000.0
    store = ScriptedStorage(lambda: now).answer("delete", value=True)
    probe_writes(store, now, "k")
    assert store.read(PROBE_CONTEXT, "k") == Stored(b"a trial", 2, 1_800_000_120_000)


@pytest.mark.server
def test_a_user_who_may_only_read_is_told(
    postgresql_server: PostgreSQLServer, capsys: Told
) -> None:
    schema = postgresql_server.fresh_schema()
    assert main(["store", "init", f"{postgresql_server.url(schema)}&{PATIENTLY}"]) == 0
    url = f"{postgresql_server.limited_url(schema)}&{PATIENTLY}"
    postgresql_server.ask(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO limited_{schema}")
    assert main(["store", "ping", url]) == 0
    told = failure(capsys, url)
    assert told.startswith("create: postgresql at ")
    assert "permission denied for table sealedstate_record" in told
    postgresql_server.ask(
        "GRANT INSERT, UPDATE, DELETE"
        f" ON {schema}.sealedstate_record, {schema}.sealedstate_schema TO limited_{schema}"
    )
    told = failure(capsys, url)
    assert told.startswith("add_member: ")
    assert "permission denied for table sealedstate_member" in told
    postgresql_server.allow(schema)
    assert checked(capsys, url)["stores"][0]["fails"] is None


@pytest.mark.server
def test_a_database_that_only_reads_is_told(
    postgresql_server: PostgreSQLServer, capsys: Told
) -> None:
    url = f"{postgresql_server.fresh_url()}&{PATIENTLY}"
    assert main(["store", "init", url]) == 0
    reading = url.replace("options=", "options=-c%20default_transaction_read_only%3Don%20")
    assert "read-only transaction" in failure(capsys, reading)


@pytest.mark.server
def test_a_replica_is_told(capsys: Told) -> None:
    with redis_server() as primary:
        replicating = ("--replicaof", f"127.0.0.1 {primary.port}")
        with redis_server("none", *replicating) as replica:
            url = f"{replica.url}?{PATIENTLY}"
            until(lambda: main(["store", "ping", url]) == 0, "the replica answers")
            assert "it is a replica and takes no writes" in failure(capsys, url)
            assert checked(capsys, f"{primary.url}?{PATIENTLY}")["stores"][0]["fails"] is None


@pytest.mark.server
def test_a_full_memory_is_told(capsys: Told) -> None:
    with redis_server("none", "--maxmemory", "1kb") as server:
        url = f"{server.url}?{PATIENTLY}"
        assert main(["store", "ping", url]) == 0
        assert "maxmemory" in failure(capsys, url)


# --- a split ------------------------------------------------------------------------------------


def test_a_split_is_judged_by_where_each_use_goes(
    tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"sqlite:{tmp_path / 'kept.db'}"
    contexts = ["sealedstate.revoked", "sealedstate.watermark", "mine"]
    words = ["*=memory:", *(f"{context}={kept}" for context in contexts)]
    found = checked(capsys, " ".join(words))
    assert [title for title in ("spilling", "revocation") if found["uses"][title]] == []
    assert "forgets at a restart" in found["uses"]["ring"]
    assert "forgets at a restart" in found["uses"]["replay"]
    used = [context for use in USES.values() for context in use.contexts]
    others = [context for context in used if context not in contexts]
    assert [(part["store"], part["contexts"]) for part in found["stores"]] == [
        ("memory", [*others, "*"]),
        ("sqlite", contexts),
    ]
    monkeypatch.setenv("SEALEDSTATE_STORAGE", "\n".join(words))
    assert main(["store", "check"]) == 1
    out = capsys.readouterr().out
    assert "\nsqlite, for sealedstate.revoked, sealedstate.watermark, mine\n" in out


def test_of_a_split_each_store_is_tried(tmp_path: Path, capsys: Told) -> None:
    good, held = (f"sqlite:{tmp_path / name}.db" for name in ("good", "held"))
    split = f"*={good} sealedstate.revoked={held}?sealedstate_timeout=0.05"
    assert main(["store", "init", split]) == 0
    with only_reading(tmp_path / "held.db"):
        found = checked(capsys, split)
    assert [bool(part["fails"]) for part in found["stores"]] == [False, True]
    assert found["stores"][1]["contexts"] == ["sealedstate.revoked"]


def test_a_split_with_a_store_that_is_down_names_it(tmp_path: Path, capsys: Told) -> None:
    down = f"sqlite:{tmp_path / 'no' / 'folder' / 'store.db'}"
    assert main(["store", "check", f"*=memory: sealedstate.part={down}"]) == 1
    assert "can't be used: sqlite store 'store.db'" in capsys.readouterr().err
