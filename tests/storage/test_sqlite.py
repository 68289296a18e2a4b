"""The SQLite store: forks, full disks, locked databases, and files that it can't use."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Key, Settings, _forks
from sealedstate.deployment import Deployment
from sealedstate.errors import (
    CapacityError,
    ConfigurationError,
    StorageUnavailable,
    StorageUnusable,
)
from sealedstate.storage import SQLiteStorage, Stored
from sealedstate.storage.sqlite import LOOK_SECONDS, SQLiteFile, wal_is_safe
from sealedstate.testing._workers import run_in_fork
from tests.support.forks import run_child
from tests.support.jar import Clock

KEY = Key.generate(os.urandom).export()
JOURNAL = "wal" if wal_is_safe(sqlite3.sqlite_version_info) else "delete"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SQLiteStorage]:
    opened = SQLiteStorage(path, clock, timeout=0.05)
    yield opened
    opened.close()


def sql(path: Path, statement: str) -> list[Any]:
    """The answer to another connection."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def is_intact(path: Path) -> bool:
    return sql(path, "PRAGMA integrity_check") == [("ok",)]


def rows(path: Path) -> int:
    ((count,),) = sql(path, "SELECT count(*) FROM sealedstate_record")
    return int(count)


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except StorageUnavailable:
        return "unavailable"


# --- forks --------------------------------------------------------------------------------------

FORKS = """
import json, os, sys, time
from sealedstate.storage import SQLiteStorage

def connections():
    files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(file) == os.path.realpath(sys.argv[1]) for file in files)

store = SQLiteStorage(sys.argv[1], time.time, timeout=60)
store.create("fork", "before", b"v", None, 1)
own = connections()
children = []
for name in range(6):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in range(20):
                assert store.create("fork", f"{name}-{number}", b"v", None, 1)
            assert store.read("fork", "before").value == b"v"
            assert connections() == own
            status = 0
        finally:
            if name % 2:
                os._exit(status)
            sys.exit(status)  # with all that the interpreter closes at its end
    children.append(child)
for number in range(20):
    assert store.create("fork", f"parent-{number}", b"v", None, 1)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert store.update("fork", "before", b"after", None, 2, expected=1)
print(json.dumps([codes, len(list(store.keys("fork"))), store.read("fork", "before").version]))
"""


def test_forked_children_and_their_parent_share_no_connection(path: Path) -> None:
    command = [sys.executable, "-c", FORKS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[0] * 6, 1 + 7 * 20, 2]
    assert is_intact(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_forked_child_has_no_descriptor_of_the_file(path: Path) -> None:
    def descriptors() -> list[str]:
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the descriptor that lists them
                found.append(str(link.readlink()))
        return [place for place in found if place.startswith(str(path))]

    with closing(SQLiteStorage(path, time.time)) as store:
        store.create("fork", "key", b"v", None, 1)
        assert descriptors()
        assert run_child(descriptors) == []
        assert store.read("fork", "key") == Stored(b"v", 1, None)


def test_fork_waits_for_the_transaction_under_way_and_its_child_can_write(path: Path) -> None:
    is_inside, may_leave = threading.Event(), threading.Event()
    with closing(SQLiteStorage(path, time.time, timeout=60)) as store:

        def write() -> None:
            with store._file as connection, store._file.transaction(connection):
                is_inside.set()
                may_leave.wait()
                connection.execute("UPDATE sealedstate_record SET value = x'77'")

        store.create("fork", "before", b"v", None, 1)
        writer = threading.Thread(target=write)
        writer.start()
        is_inside.wait()
        threading.Timer(0.1, may_leave.set).start()

        def use_in_child() -> list[Any]:
            # Also by a store of its own: SQLite's memory of locks is one for the whole process.
            with closing(SQLiteStorage(path, time.time, timeout=2)) as fresh:
                answers: list[Any] = [
                    store.read("fork", "before"),
                    store.create("fork", "child", b"v", None, 1),
                    fresh.create("fork", "fresh", b"v", None, 1),
                ]
                store.close()
                return [*answers, store.create("fork", "closed", b"v", None, 1)]

        assert run_child(use_in_child) == [Stored(b"w", 1, None), True, True, True]
        writer.join()
        assert sorted(store.keys("fork")) == ["before", "child", "closed", "fresh"]


def test_children_forked_beside_busy_threads_can_write(path: Path) -> None:
    done = threading.Event()
    with closing(SQLiteStorage(path, time.time, timeout=60)) as store:

        def write(name: str) -> None:
            for version in itertools.count(1):
                if done.is_set():
                    return
                store.create("fork", f"{name} {version}", b"v", None, version)

        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for number in range(10):
            assert run_child(partial(store.create, "fork", f"child {number}", b"v", None, 1))
        done.set()
        for thread in threads:
            thread.join()
        assert len(list(store.keys("fork", "child "))) == 10
    assert is_intact(path)


def test_child_forked_in_a_transaction_all_the_same_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_forks, "FORK_SECONDS", 0.01)  # as in a fork without Python's hooks
    is_inside, may_leave = threading.Event(), threading.Event()
    with closing(SQLiteStorage(path, time.time)) as store:

        def write() -> None:
            with store._file as connection, store._file.transaction(connection):
                is_inside.set()
                may_leave.wait()

        writer = threading.Thread(target=write)
        writer.start()
        is_inside.wait()
        problem, _ = run_in_fork(lambda: store.create("fork", "child", b"v", None, 1))
        assert "forked while its parent wrote" in problem
        may_leave.set()
        writer.join()
        assert store.create("fork", "parent", b"v", None, 1)


OTHER_PROCESS = """
import sys, time
from sealedstate.storage import SQLiteStorage, sqlite

sqlite.wal_is_safe = lambda version: True
store = SQLiteStorage(sys.argv[1], time.time, timeout=60)
for number in range(20):
    assert store.create("other", str(number), b"v" * 500, None, 1)
print("written", flush=True)
sys.stdin.read()
"""


def test_child_loses_no_write_when_its_parent_has_closed_a_write_ahead_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealedstate.storage.sqlite.wal_is_safe", lambda version: True)
    store = SQLiteStorage(path, time.time, timeout=60)
    assert store.create("child", "parent", b"v", None, 1)
    child_is_open, other_has_written = os.pipe(), os.pipe()

    def use_in_child() -> None:
        assert store.create("child", "early", b"v", None, 1)
        os.write(child_is_open[1], b"x")
        os.read(other_has_written[0], 1)
        for number in range(20):
            assert store.create("child", str(number), b"v" * 500, None, 1)
        assert len(list(store.keys("other"))) == 20

    child = threading.Thread(target=run_child, args=(use_in_child,))
    child.start()
    os.read(child_is_open[0], 1)
    store.close()
    command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"written\n"
        os.write(other_has_written[1], b"x")
        child.join()
        other.communicate()
    with closing(store):
        assert len(list(store.keys("child"))) == 22
        assert len(list(store.keys("other"))) == 20


def test_file_stays_the_same_if_the_process_changes_its_directory(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    store = SQLiteStorage(path.name, clock)
    monkeypatch.chdir("/")
    assert store.create("c", "k", b"v", None, 1)
    store.close()
    assert path.exists()


def use_full_disk(path: Path) -> dict[str, object]:
    store = SQLiteStorage(path, time.time)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def create(key: str, size: int) -> Any:
        return outcome(lambda: store.create("c", key, b"v" * size, None, 1))

    for number in range(50):
        store.create("c", f"old-{number}", b"v" * 2000, None, 1)
    limit(path.stat().st_size)
    answers: dict[str, object] = {"large": create("large", 200_000)}
    answers["read while large"] = store.read("c", "old-7")
    limit(100)  # not even a journal can be written
    answers["create"] = create("new", 1)
    answers["update"] = outcome(lambda: store.update("c", "old-1", b"w", None, 2, expected=1))
    answers["delete"] = outcome(lambda: store.delete("c", "old-2"))
    answers["read"] = {store.read("c", f"old-{number}") for number in (1, 2, 49)}
    limit(resource.RLIM_INFINITY)
    answers["large again"] = create("large", 200_000)
    answers["delete again"] = outcome(lambda: store.delete("c", "old-2"))
    answers["keys"] = len(list(store.keys("c")))
    store.close()
    return answers


def test_full_disk_fails_writes_only_and_recovers(path: Path) -> None:
    old = Stored(b"v" * 2000, 1, None)
    assert run_child(lambda: use_full_disk(path)) == {
        "large": "unavailable",
        "read while large": old,
        "create": "unavailable",
        "update": "unavailable",
        "delete": "unavailable",
        "read": {old},
        "large again": True,
        "delete again": True,
        "keys": 50,
    }
    assert is_intact(path)


class SmallDisk(SQLiteFile):
    """A file with a limited number of pages; beyond it, SQLite reports a full disk."""

    pages = 20

    def open(self) -> sqlite3.Connection:
        connection = super().open()
        connection.execute(f"PRAGMA max_page_count = {self.pages}")
        return connection


def test_full_database_refuses_writes_until_there_is_room(path: Path, clock: Clock) -> None:
    with closing(SQLiteStorage(path, clock)) as store:
        disk = store._file = SmallDisk(path, timeout=2.0)
        store.create("c", "kept", b"v", None, 1)
        with pytest.raises(StorageUnavailable, match="full"):
            store.create("c", "large", b"v" * 500_000, None, 1)
        assert store.read("c", "kept") == Stored(b"v", 1, None)
        assert store.read("c", "large") is None
        with pytest.raises(StorageUnavailable, match="full"):
            store.create("c", "large", b"v" * 500_000, None, 1)
        assert store.create("c", "small", b"v", None, 1)
        disk.pages = 1 << 20
        store.close()
        assert store.create("c", "large", b"v" * 500_000, None, 1)


def lock(path: Path) -> sqlite3.Connection:
    """Another connection, which locks the database until it is closed."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_locked_database_is_unavailable_until_it_is_released(
    path: Path, store: SQLiteStorage
) -> None:
    store.create("c", "k", b"v", None, 1)
    with closing(lock(path)):
        writes: list[Callable[[], object]] = [
            lambda: store.create("c", "new", b"v", None, 1),
            lambda: store.update("c", "k", b"w", None, 2),
            lambda: store.delete("c", "k"),
            lambda: store.add_member("c", "k", "m", None),
        ]
        for write in writes:
            with pytest.raises(StorageUnavailable, match="locked"):
                write()
        if JOURNAL == "delete":
            with pytest.raises(StorageUnavailable, match="locked"):
                store.read("c", "k")
        else:
            assert store.read("c", "k") == Stored(b"v", 1, None)
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert store.read("c", "new") is None
    assert store.update("c", "k", b"w", None, 2, expected=1)


def test_lock_that_is_released_in_time_is_waited_for(path: Path, clock: Clock) -> None:
    with closing(SQLiteStorage(path, clock, timeout=60)) as store:
        store.create("c", "k", b"v", None, 1)
        threading.Timer(0.05, lock(path).close).start()
        assert store.update("c", "k", b"w", None, 2, expected=1)


def test_threads_that_wait_for_a_locked_file_wait_at_the_same_time(path: Path) -> None:
    timeout, threads, answers = 0.5, 16, []
    with closing(SQLiteStorage(path, time.time, timeout=timeout)) as store:
        store.create("c", "k", b"v", None, 1)

        def write() -> None:
            answers.append(outcome(lambda: store.update("c", "k", b"w", None, 2)))

        with closing(lock(path)):
            begun = time.monotonic()
            writers = [threading.Thread(target=write) for _ in range(threads)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            # One after the other they would take 16 times as long.
            assert timeout <= time.monotonic() - begun < 4 * timeout
        assert answers == ["unavailable"] * threads
        assert store.update("c", "k", b"w", None, 2)


@pytest.mark.skipif(JOURNAL == "wal", reason="readers do not delay a commit")
def test_waits_of_one_call_have_one_deadline(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = 0.0
    with closing(SQLiteStorage(path, clock, timeout=2.0)) as store:
        store.create("c", "k", b"v", None, 1)
        other = lock(path)

        def sleep(seconds: float) -> None:
            nonlocal waited
            waited += seconds
            # The other process keeps the call from beginning, and then from committing.
            if waited >= 1.5 and other.in_transaction:
                other.execute("ROLLBACK")
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM sealedstate_record").fetchall()

        monkeypatch.setattr("sealedstate.storage.sqlite.time.sleep", sleep)
        monkeypatch.setattr("sealedstate.storage.sqlite.time.monotonic", lambda: waited)
        with (
            closing(other),
            closing(sqlite3.connect(path, isolation_level=None)) as reader,
            pytest.raises(StorageUnavailable, match="locked"),
        ):
            store.update("c", "k", b"w", None, 2)
        assert waited == pytest.approx(2.0, abs=0.01)
        assert store.update("c", "k", b"w", None, 2)


# --- files --------------------------------------------------------------------------------------


def test_path_that_cannot_be_opened_is_unavailable_until_it_can(
    tmp_path: Path, clock: Clock
) -> None:
    stores = [SQLiteStorage(tmp_path / where, clock) for where in (".", "later/store.db")]
    for store in stores:
        with pytest.raises(StorageUnavailable) as caught:
            store.create("c", "k", b"v", None, 1)
        assert isinstance(caught.value, StorageUnusable)
        with pytest.raises(StorageUnavailable):
            store.read("c", "k")
        with pytest.raises(CapacityError):
            store.read("c", "")  # refused before any I/O
    (tmp_path / "later").mkdir()
    assert store.create("c", "k", b"v", None, 1)
    store.close()


def use_read_only_file(path: Path) -> list[Any]:
    with closing(SQLiteStorage(path, time.time)) as store:
        if os.geteuid() == 0:
            store.read("c", "k")
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            store.close()
        return [
            outcome(lambda: store.read("c", "k")),
            outcome(lambda: store.create("c", "new", b"v", None, 1)),
            outcome(lambda: store.update("c", "k", b"w", None, 2)),
            outcome(lambda: store.delete("c", "k")),
            outcome(lambda: store.read("c", "k")),
        ]


@pytest.fixture
def read_only(clock: Clock) -> Iterator[Path]:
    """A store that all users may read and only root may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(SQLiteStorage(folder / "store.db", clock)) as store:
            store.create("c", "k", b"value", None, 1)
        (folder / "store.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder / "store.db"
        folder.chmod(0o755)


@pytest.mark.skipif(JOURNAL == "wal", reason="SQLite writes beside a write-ahead log to read it")
def test_read_only_file_fails_writes_only(read_only: Path) -> None:
    stored = Stored(b"value", 1, None)
    answers = run_child(lambda: use_read_only_file(read_only))
    assert answers == [stored, *["unavailable"] * 3, stored]


def test_file_or_directory_that_cannot_be_written_is_refused_at_the_first_use(
    read_only: Path,
) -> None:
    def first_use() -> str:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        with pytest.raises(StorageUnusable) as caught:
            SQLiteStorage(read_only, time.time).ping()
        return str(caught.value)

    assert "must be able to read and write it" in run_child(first_use)
    read_only.chmod(0o666)
    assert "must be able to write into the directory" in run_child(first_use)


def test_corrupt_file_is_unavailable_until_it_is_repaired(path: Path, store: SQLiteStorage) -> None:
    store.create("c", "k", b"v", None, 1)
    store.close()
    good = path.read_bytes()
    for bad in (b"not a database" * 1000, good[:16] + b"\xff" * (len(good) - 16)):
        path.write_bytes(bad)
        operations: list[Callable[[], object]] = [
            lambda: store.read("canary-context", "canary-key"),
            lambda: store.create("canary-context", "canary-key", b"canary-value", None, 2),
        ]
        for operation in operations:
            with pytest.raises(StorageUnavailable) as caught:
                operation()
            assert "canary" not in str(caught.value)
    path.write_bytes(good)
    assert store.read("c", "k") == Stored(b"v", 1, None)


def test_file_of_an_older_release_is_migrated_and_of_a_newer_one_left_alone(
    path: Path, store: SQLiteStorage
) -> None:
    store.create("c", "k", b"v", None, 1)
    store.close()
    sql(path, "DROP TABLE sealedstate_member")
    sql(path, "PRAGMA user_version = 1")
    assert store.read("c", "k") == Stored(b"v", 1, None)
    store.add_member("c", "k", "m", None)
    assert store.members("c", "k") == {"m": None}
    store.close()
    sql(path, "PRAGMA user_version = 77")
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match="schema 77"):
        store.read("c", "k")
    assert path.read_bytes() == before


def test_sqlite_store_in_memory_is_refused(clock: Clock) -> None:
    with pytest.raises(ConfigurationError, match="memory:"):
        SQLiteStorage(":memory:", clock)


def test_files_are_readable_by_their_owner_only(path: Path, clock: Clock) -> None:
    before = os.umask(0)
    try:
        with closing(SQLiteStorage(path, clock)) as store:
            store.create("c", "k", b"v", None, 1)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert path.name in modes


def test_write_ahead_log_is_used_only_by_an_sqlite_with_the_fix(
    path: Path, store: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsafe = ["3.7.0", "3.40.1", "3.44.5", "3.45.0", "3.45.3", "3.50.6", "3.51.0", "3.51.2"]
    safe = ["3.44.6", "3.44.9", "3.50.7", "3.50.99", "3.51.3", "3.52.0", "4.0.0"]
    # By turns, as the file must be given up and taken up again.
    for text in itertools.chain(*itertools.zip_longest(safe, unsafe, fillvalue="3.51.3")):
        version = tuple(map(int, text.split(".")))
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        assert wal_is_safe(version) is (text in safe), text
        assert store.create("c", os.urandom(8).hex(), b"v", None, 1)
        mode = ("wal" if text in safe else "delete",)
        assert sql(path, "PRAGMA journal_mode") == [mode], text
        store.close()
        # An acknowledged write has been synced.
        with closing(store._file.open()) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == mode
    assert len(list(store.keys("c"))) == 2 * len(unsafe)


DAY = 86400


def test_writes_remove_expired_rows(path: Path, store: SQLiteStorage, clock: Clock) -> None:
    most = 0
    for number in range(500):
        assert store.create("c", str(number), b"v", int(clock() * 1000) + 3_600_000, 1)
        clock.forward(DAY / 10)  # kept for an hour, and for REAP_AFTER
        if number % 50 == 49:
            most = max(most, rows(path))
    # Ten are live at a time, and 32 writes are made between two sweeps.
    assert most <= 10 + 32
    assert store.create("c", "permanent", b"v", None, 1)
    clock.forward(DAY)
    store.reap(10_000)
    assert rows(path) == 1
    # Many that expire at once are removed by later writes.
    expires_at = int(clock() * 1000) + 1000
    for number in range(400):
        store.create("c", str(number), b"v", expires_at, 1)
    clock.forward(DAY)
    for version in range(2, 200):
        store.update("c", "permanent", b"v", None, version, expected=version - 1)
    assert rows(path) == 1


# --- places where no database can be, and files that are exchanged --------------------------------


def make_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing directory": (lambda path: path / "no" / "s.db", "does not exist; create it first"),
    "directory": (lambda path: path, "it is a directory"),
    "pipe": (lambda path: make_fifo(path / "pipe"), "it is not a regular file"),
    "device": (lambda path: Path("/dev/null"), "it is not a regular file"),
    "file in a file": (lambda path: path / "file" / "s.db", "Not a directory"),
    "text": (lambda path: path / "file", "not a database"),
}


@pytest.mark.parametrize("place", PLACES)
def test_place_where_no_database_can_be_stops_the_start_with_its_path(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no database at all " * 100)
    find, problem = PLACES[place]
    path = find(tmp_path)
    with pytest.raises(StorageUnusable) as caught:
        Keeper(Settings(keys=[KEY], storage=f"sqlite:{path}"))
    assert str(caught.value).startswith(f"sqlite store '{path}': ")
    assert problem in str(caught.value)


def test_relative_path_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageUnusable, match=f"'{tmp_path}/no/s.db'"):
        Keeper(Settings(keys=[KEY], storage="sqlite:no/s.db"))
    with closing(Deployment.open(Settings(keys=[KEY], storage="sqlite:s.db"))):
        assert (tmp_path / "s.db").exists()


def test_database_of_another_application_or_a_newer_release_stops_the_start(path: Path) -> None:
    for statement, problem in (
        ("CREATE TABLE t (x)", "is the database of another application"),
        ("PRAGMA user_version = 99", "has schema 99"),
    ):
        sql(path, statement)
        with pytest.raises(StorageUnusable, match=problem):
            Keeper(Settings(keys=[KEY], storage=f"sqlite:{path}"))


@pytest.mark.parametrize("first", ["read", "write"])
def test_replaced_file_is_followed_and_logged(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    backup = path.with_suffix(".backup")
    with closing(SQLiteStorage(path, clock)) as store, closing(SQLiteStorage(path, clock)) as other:
        store.create("c", "old", b"v", None, 1)
        shutil.copy(path, backup)
        store.create("c", "new", b"v", None, 1)
        assert other.read("c", "new") is not None
        backup.rename(path)
        if first == "read":
            time.sleep(LOOK_SECONDS)
            assert store.read("c", "new") is None
        assert store.create("c", "later", b"v", None, 1)
        assert other.create("c", "latest", b"v", None, 1)  # both use the new file
        for each in (store, other):
            found = [each.read("c", key) is not None for key in ("old", "new", "later", "latest")]
            assert found == [True, False, True, True]
    assert len(caplog.records) == 2
    assert "was replaced while in use" in caplog.text
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_deleted_file_is_not_made_again_in_silence(path: Path, clock: Clock) -> None:
    moved = path.with_suffix(".moved")
    with closing(SQLiteStorage(path, clock)) as store:
        store.create("c", "k", b"v", None, 1)
        path.rename(moved)
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="was deleted while in use"):
                store.create("c", "new", b"v", None, 1)
            with pytest.raises(StorageUnavailable, match="was deleted while in use"):
                store.read("c", "k")
        assert not path.exists()
        moved.rename(path)
        assert store.read("c", "k") is not None
        assert store.create("c", "new", b"v", None, 1)
    path.unlink()
    with closing(SQLiteStorage(path, clock)) as store:  # a new start
        assert store.read("c", "k") is None


@pytest.mark.slow
@pytest.mark.parametrize("first", ["read", "write"])
def test_emptied_file_is_not_made_again_in_silence(path: Path, clock: Clock, first: str) -> None:
    for is_made_again in (False, True):
        backup = path.with_suffix(".backup")
        with closing(SQLiteStorage(path, clock)) as store:
            store.create("c", "k", b"v", None, 1)
            shutil.copyfile(path, backup)
            if is_made_again:
                path.unlink()
            path.write_bytes(b"")
            use: Callable[[], object] = partial(store.read, "c", "k")
            if first == "write":
                use = partial(store.create, "c", "new", b"v", None, 1)
            for _ in range(2):
                time.sleep(LOOK_SECONDS if is_made_again else 0)
                with pytest.raises(StorageUnavailable, match="was emptied while in use"):
                    use()
            assert path.read_bytes() == b""
            shutil.copyfile(backup, path)
            assert store.read("c", "k") is not None
        path.write_bytes(b"")
        with closing(SQLiteStorage(path, clock)) as store:  # a new start
            assert store.read("c", "k") is None
        path.unlink()


@pytest.mark.parametrize("first", ["read", "write"])
def test_file_that_is_overwritten_with_an_older_copy_is_logged(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    backup = path.with_suffix(".backup")
    with closing(SQLiteStorage(path, clock)) as store, closing(SQLiteStorage(path, clock)) as other:
        store.create("c", "old", b"v", None, 1)
        sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(path, backup)
        store.create("c", "new", b"v", None, 1)
        for number in range(1, 4):  # ordinary writes of both are no reason
            assert other.create("c", f"{number}", b"v", None, 1)
            assert store.delete("c", f"{number}")
        store.close()
        other.close()
        shutil.copyfile(backup, path)
        for each in (store, other):
            if first == "read":
                assert each.read("c", "new") is None
            assert each.create("c", f"{id(each)}", b"v", None, 1)
            assert each.read("c", "new") is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert caplog.text.count("was overwritten with an older copy") == 2


def test_overwriting_is_noticed_by_an_open_connection_within_a_second(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(SQLiteStorage(path, clock)) as store:
        store.create("c", "old", b"v", None, 1)
        if JOURNAL == "wal":
            pytest.skip("the log holds what the copy lacks")
        backup = path.with_suffix(".backup")
        shutil.copyfile(path, backup)
        store.create("c", "new", b"v", None, 1)
        shutil.copyfile(backup, path)
        time.sleep(LOOK_SECONDS)
        assert store.read("c", "new") is None
        assert "was overwritten with an older copy" in caplog.text
        assert not store.delete("c", "new")
        assert store.create("c", "later", b"v", None, 1)
    assert len(caplog.records) == 1


def test_number_of_writes_begins_again_without_a_word(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(SQLiteStorage(path, clock)) as store:
        store.create("c", "k", b"v", None, 1)
    for number in (-1, (1 << 31) - 1):
        sql(path, f"PRAGMA application_id = {number}")
        with closing(SQLiteStorage(path, clock)) as store:
            for version in range(1, 5):
                store.create("c", f"{number}, {version}", b"v", None, 1)
        assert sql(path, "PRAGMA application_id") in ([(3,)], [(-(1 << 31) + 3,)])
    assert caplog.records == []


def test_logout_is_never_acknowledged_into_a_deleted_file(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "s.db"
    with closing(Deployment.open(Settings(keys=[KEY], storage=f"sqlite:{path}"))) as deployment:
        keeper = Keeper(deployment)
        session = keeper.session()
        session.subject = "ann"
        cookie = "; ".join(line.partition(";")[0] for line in keeper.save(session))
        session = keeper.session(cookie)
        assert session.subject == "ann"
        path.unlink()
        with pytest.raises(StorageUnavailable):
            session.invalidate()
