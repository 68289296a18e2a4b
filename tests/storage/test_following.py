"""Followers of a store that writers disturb: late commits, crashes, restored copies."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage import SQLiteStorage, open_storage
from sealedstate.storage.contract import FOLLOWED, FollowedStorage
from sealedstate.storage.sql import _names
from sealedstate.testing import FakeClock
from sealedstate.testing._races import Follower
from sealedstate.testing._suite import PATIENCE, Context, eventually, poll
from tests.support import sql_surroundings
from tests.support.backends import BACKENDS
from tests.support.forks import run_child
from tests.support.kv_servers import redis_server
from tests.support.server_process import until
from tests.support.sql_surroundings import Opener

server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
open_store = sql_surroundings.open_store

CONTEXT = min(FOLLOWED)


def follow(store: Any, prefix: str = "") -> Follower:
    return Follower(Context(store, FakeClock(), CONTEXT), prefix, limit=10)


def hold_back(server: Any, store: Any, schema: str, key: str) -> Any:
    """The connection of a writer that has its number, and has not committed yet."""
    connection = server.connect(schema)
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    if server.name == "mariadb":
        cursor.execute("UPDATE sealedstate_feed SET number = LAST_INSERT_ID(number + 1)")
    params = {
        **store._place(CONTEXT, key),
        **_names(CONTEXT, key),
        **{"value": b"v", "expires_at": None, "version": 1, "changed": True},
    }
    cursor.execute(store._sql.create, params)
    return connection


@pytest.mark.server
@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_write_that_is_committed_late_is_found(
    server: Any, schema: str, url: str, open_store: Opener, seconds: int
) -> None:
    store, acknowledged = open_store(url, timeout=0.5), list[str]()
    store.prepare()
    follower = follow(store)
    follower.catch_up()
    over = threading.Event()

    def write(number: int) -> None:
        while not over.wait(0.01):
            key = f"{number}-{len(acknowledged)}"
            try:
                assert store.create(CONTEXT, key, b"v", None, 1)
            except (StorageUnavailable, OutcomeUnknown):
                # MariaDB: the numbers wait for the writer that holds one back. On a busy machine
                # the server may say too late that it has given up.
                continue
            acknowledged.append(key)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    held = hold_back(server, store, schema, "held")
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = list(acknowledged)
        follower.catch_up()
        assert set(before) <= set(follower.records)
    assert "held" not in follower.records
    held.cursor().execute("COMMIT")
    time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join()
    held.close()
    follower.catch_up()
    assert {*acknowledged, "held"} <= set(follower.records)
    assert len(acknowledged) > 3
    # What a follower reads again ends with the writer that held it back.
    assert follower.catch_up() in ([], ["held"])
    assert follower.catch_up() == []
    assert follower.has_started_over == 1


@pytest.mark.server
def test_follower_starts_over_after_a_crash(
    server: Any, schema: str, url: str, open_store: Opener
) -> None:
    store = open_store(url)
    store.create(CONTEXT, "k", b"v", None, 1)
    follower = follow(store)
    follower.catch_up()
    if server.name == "postgresql":
        os.kill(server.clients()[0], signal.SIGKILL)  # all others end, too, and the log is read
        for _ in poll(PATIENCE):
            try:
                server.ask("SELECT 1")
                break
            except Exception:
                continue
    else:
        # It knows its start to the second only, and rounds that by its age.
        until(lambda: int(server.ask("SHOW STATUS LIKE 'Uptime'")[0][1]) > 2, "it is older")
        server.kill9()
        server.start()
    follower.catch_up()
    assert (follower.has_started_over, list(follower.records)) == (2, ["k"])
    assert follower.catch_up() == []
    assert follower.has_started_over == 2


@pytest.mark.server
@pytest.mark.parametrize("name", ["postgresql", "redis"])
def test_hint_reaches_all_that_listen_also_after_a_fork(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with BACKENDS[name](request, tmp_path) as service:
        store: Any = open_storage(service.url, time.time)
        first, second = store.listen(), store.listen()
        assert not first.wait(0)
        store.notify()
        store.notify()
        assert first.wait(PATIENCE)
        assert second.wait(PATIENCE)
        # Hints that came together are one.
        while first.wait(0.05):
            pass
        assert run_child(lambda: first.close() is None and store.notify() is None)
        assert first.wait(PATIENCE)
        first.close()
        second.close()
        store.close()


@pytest.mark.server
def test_follower_of_redis_starts_over_after_a_restart_and_a_loss() -> None:
    from sealedstate.storage.redis import RedisStorage

    with redis_server("aof always") as redis:
        store = RedisStorage(redis.url, time.time, timeout=10)
        store.create(CONTEXT, "k", b"v", None, 1)
        follower = follow(store)
        follower.catch_up()
        redis.kill9()
        redis.start()
        eventually(store.ping)
        follower.catch_up()
        assert (follower.has_started_over, list(follower.records)) == (2, ["k"])
        store._client.read(b"FLUSHALL")
        store.create(CONTEXT, "other", b"v", None, 1)
        follower.catch_up()
        assert (follower.has_started_over, list(follower.records)) == (3, ["other"])
        # What has expired leaves nothing behind.
        late = Context(store, FakeClock(), CONTEXT)
        for number in range(20):
            store.create(CONTEXT, f"x{number}", b"", 1000 + late.now - 86_400_000, 1)
        store.create(CONTEXT, "last", b"", None, 1)
        store.reap(1000)
        changes = b"sealedstate:*:changes"
        (name,) = store._client.read(b"KEYS", changes)
        assert store._client.read(b"ZCARD", name) == 2
        store.close()


@pytest.mark.parametrize("way", ["renamed", "copied"])
def test_follower_of_sqlite_starts_over_with_a_restored_copy(tmp_path: Path, way: str) -> None:
    path, backup = tmp_path / "store.db", tmp_path / "backup.db"
    store = SQLiteStorage(path, time.time)
    assert isinstance(store, FollowedStorage)
    store.create(CONTEXT, "k", b"v", None, 1)
    store.close()
    shutil.copy(path, backup)
    store.create(CONTEXT, "lost", b"v", None, 1)
    follower = follow(store)
    assert set(follower.catch_up()) == {"k", "lost"}
    store.close()
    if way == "copied":
        shutil.copy(backup, path)
    else:
        backup.rename(path)
    follower.catch_up()
    assert (follower.has_started_over, list(follower.records)) == (2, ["k"])
    store.close()


def test_logouts_of_an_older_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SQLiteStorage(path, time.time)
    for number in range(5):
        store.create(CONTEXT, str(number), b"v", None, 1)
    store.create("other", "k", b"v", None, 1)
    with store._file.writing() as connection:
        connection.execute("DROP INDEX sealedstate_record_changed")
        connection.execute("ALTER TABLE sealedstate_record DROP COLUMN changed")
        connection.execute("DROP TABLE sealedstate_feed")
        connection.execute("PRAGMA user_version = 2")
    store.close()
    follower = Follower(Context(store, FakeClock(), CONTEXT), "", limit=2)
    assert sorted(follower.catch_up()) == list("01234")
    store.create(CONTEXT, "new", b"v", None, 1)
    assert follower.catch_up() == ["new"]
    store.close()
