"""What a durable store owes after each crash: writers, the judge of their notes, and evidence.

A writer notes each call before it makes it and each answer when it has it:

    begin  CALL NUMBER
    done   CALL NUMBER ANSWER
    failed CALL NUMBER ERROR

No number comes twice, so an answer says what the store must have. The judge looks after each crash,
before the writers go on, so that no later write hides a loss.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage import Storage
from sealedstate.testing._suite import eventually
from tests.support.backends import Server, Service, opener
from tests.support.documents import ROOT
from tests.support.innodb_log import LogReader
from tests.support.kv_servers import redis_server
from tests.support.sql_server import SQLServer
from tests.support.sql_servers import MariaDBServer, PostgreSQLServer, running
from tests.support.workers import SideFile

__all__ = [
    "CRASHABLE",
    "QUICK_RECOVERY",
    "Judge",
    "LogHasNoEndError",
    "Witness",
    "next_number",
    "write",
]

EVIDENCE = ROOT / "build" / "crashes"


# --- stores ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[Service]:
    file = folder / "store.db"
    yield Service(f"sqlite:{file}", file=file)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@contextlib.contextmanager
def _sql(
    kind: type[PostgreSQLServer | MariaDBServer], options: Sequence[str], folder: Path
) -> Iterator[Service]:
    with running(kind, *options, folder=folder) as server:
        yield Service(server.fresh_url(), server)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[Service]:
    with redis_server("aof always", place=folder) as server:
        yield Service(server.url, server)


# A recovery is most of what a crash costs. What is shortened here weakens no promise: PostgreSQL
# syncs its file system rather than each of its files, and MariaDB has less to read and to make.
QUICK_RECOVERY = [
    *("--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M"),
    "--innodb-temp-data-file-path=ibtmp1:1M:autoextend",
    *("--innodb-buffer-pool-load-at-startup=OFF", "--performance-schema=OFF"),
    *("--aria-pagecache-buffer-size=8M", "--key-buffer-size=1M"),
]
CRASHABLE: dict[str, Callable[[Path], AbstractContextManager[Service]]] = {
    "sqlite": _sqlite,
    "postgresql": partial(_sql, PostgreSQLServer, ["-c", "recovery_init_sync_method=syncfs"]),
    "mariadb": partial(_sql, MariaDBServer, QUICK_RECOVERY),
    "redis": _redis,
}


# --- writers --------------------------------------------------------------------------------------


def write(url: str, name: str, side_file: SideFile) -> None:
    """Create records, delete every third, and keep the last number of the others in a counter."""
    store, counter = opener(url)(), f"last of {name}"

    def ask(number: int, call: str, act: Callable[..., object], *arguments: Any) -> object:
        side_file.note("begin", call, number)
        try:
            answer = act(*arguments)
        except (StorageUnavailable, OutcomeUnknown) as error:
            side_file.note("failed", call, number, f"{type(error).__name__}: {error}"[:200])
            raise
        side_file.note("done", call, number, answer)
        return answer

    for number in itertools.count(next_number(side_file)):
        key, counted = str(number), ("counters", counter, str(number).encode(), None, number)
        try:
            ask(number, "create", store.create, name, key, record_of(number), None, 1)
            if number % 3 == 0:
                ask(number, "delete", store.delete, name, key)
            elif not ask(number, "update", store.update, *counted):
                ask(number, "count", store.create, *counted)
        except (StorageUnavailable, OutcomeUnknown):
            time.sleep(0.02)  # until the server is back


def next_number(side_file: SideFile) -> int:
    """The first number that no writer of this side file has noted.

    Numbers are not taken from the clock: a fast store takes more than a thousand of them in a
    second, and the next writer would then create again what its predecessor has deleted.
    """
    size = side_file.path.stat().st_size if side_file.path.exists() else 0
    # The last notes have the highest numbers. A line that is cut by the begin is left out.
    notes, _ = side_file.read_from(max(size - 4096, 0))
    return max((note[2] for note in notes if isinstance(note, list)), default=0) + 1


def record_of(number: int) -> bytes:
    return f"record {number}".encode() * 10


# --- the judge ------------------------------------------------------------------------------------


class Judge:
    """Compares what writers noted with what the store has. `losses`: where it differs, in words."""

    def __init__(self, store: Storage, side_files: dict[str, SideFile]) -> None:
        self.losses: list[str] = []
        self.acknowledged = 0
        self._store = store
        self._ledgers = {name: _Ledger(name, file) for name, file in side_files.items()}

    def judge(self, names: Sequence[str]) -> None:
        """Judge what these writers noted since the last time, and some of what they noted before.

        They must not write meanwhile.
        """
        for name in names:
            ledger = self._ledgers[name]
            self.acknowledged += ledger.read()
            self.losses += ledger.losses
            self._compare(ledger, sorted(ledger.recent))
            ledger.recent = {number for number in ledger.recent if number > ledger.last - 30}

    def judge_everything(self) -> None:
        for name, ledger in self._ledgers.items():
            self.judge([name])
            self._compare(ledger, sorted(ledger.expected))
            if self._store.capabilities.enumerable:
                listed = {int(key) for key in eventually(self._store.keys, name)}
                must = {number for number, there in ledger.expected.items() if there}
                must_not = {number for number, there in ledger.expected.items() if there is False}
                self.losses += [f"{name}: {number} is not listed" for number in must - listed]
                self.losses += [f"{name}: {number} is listed" for number in must_not & listed]

    def _compare(self, ledger: _Ledger, numbers: Sequence[int]) -> None:
        name = ledger.name
        for number in numbers:
            expected = ledger.expected[number]
            if expected is None:
                continue
            stored = eventually(self._store.read, name, str(number))
            if (stored is not None and stored.value == record_of(number)) != expected:
                must = "be there" if expected else "be gone"
                self.losses.append(f"{name}: {number} must {must}, got {stored}")
        counter = eventually(self._store.read, "counters", f"last of {name}")
        if ledger.counted and (counter is None or counter.version < ledger.counted):
            self.losses.append(f"{name}: the counter was at {ledger.counted}, got {counter}")


class _Ledger:
    """What one writer's notes say.

    `expected`: by number, whether the record must be there; None if that is not known. `counted`:
    the highest number that the counter surely had. `losses`: answers that cannot be.
    """

    def __init__(self, name: str, side_file: SideFile) -> None:
        self.name = name
        self.expected: dict[int, bool | None] = {}
        self.counted = self.last = 0
        self.recent: set[int] = set()
        self.losses: list[str] = []
        self._side_file = side_file
        self._offset = 0
        self._before: dict[int, bool | None] = {}

    def read(self) -> int:
        """Read what is new; return how many writes were acknowledged."""
        notes, self._offset = self._side_file.read_from(self._offset)
        self.losses = []
        for kind, call, number, *answer in notes:
            if call in ("create", "delete"):
                self._read_record(kind, call, number, answer)
            elif kind == "done" and answer == [True]:
                self.counted = max(self.counted, number)
            elif kind == "done" and call == "count":
                self.losses.append(f"{self.name}: the counter was neither there nor absent")
            self.last = number
        return sum(kind == "done" for kind, *_ in notes)

    def _read_record(self, kind: str, call: str, number: int, answer: list[Any]) -> None:
        if kind == "begin":
            if call == "create" and number in self.expected:
                self.losses.append(f"{self.name}: the number {number} comes twice")
            self._before[number] = self.expected.get(number, False)
            self.expected[number] = None
            self.recent.add(number)
        elif kind == "done":
            self.expected[number] = call == "create"
            if answer != [True]:
                self.losses.append(f"{self.name}: {call} {number} answered {answer}")
        elif answer[0].startswith("StorageUnavailable"):
            # It has certainly written nothing.
            self.expected[number] = self._before[number]


# --- evidence -------------------------------------------------------------------------------------


class LogHasNoEndError(Exception):
    """The recovery of MariaDB will apply old records again, so nothing holds after this crash."""


class Witness:
    """A server whose data is kept after a loss; of MariaDB the log as the last crash left it, too.

    Of SQLite, which has no server, it keeps the file. `kill9` raises LogHasNoEndError after a crash
    that met the fault that MariaDB declares, so that every loss which is found is another one.
    """

    def __init__(self, service: Service) -> None:
        self.port = 0 if service.server is None else service.server.port
        self.crashes = 0
        self._service = service
        self._log: dict[str, bytes] = {}
        self._reader = LogReader()

    def start(self) -> None:
        self._server.start()

    def kill9(self) -> None:
        self._server.kill9()
        self.crashes += 1
        if isinstance(self._server, MariaDBServer):
            logs = self._server.directory.glob("data/ib_logfile*")
            self._log = {path.name: path.read_bytes() for path in logs}
            if tail := self._reader.repeated_tail(self._log["ib_logfile0"]):
                raise LogHasNoEndError(f"{len(tail)} bytes would be applied again")

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    def keep(self, losses: Sequence[str], side_files: dict[str, SideFile]) -> Path:
        """Keep what may explain these losses; return where. The store is not used after that."""
        server, file = self._service.server, self._service.file
        folder = EVIDENCE / f"{self._service.url.partition(':')[0]}-{time.time_ns()}"
        folder.mkdir(parents=True)
        (folder / "losses").write_text("\n".join([f"crash {self.crashes}", *losses, ""]))
        for name, side_file in side_files.items():
            shutil.copy(side_file.path, folder / f"notes-{name}")
        for name, content in self._log.items():
            (folder / f"{name}.before-recovery").write_bytes(content)
        if server is not None:
            server.kill9()
        if isinstance(server, SQLServer):
            sockets = shutil.ignore_patterns("socket")
            shutil.copytree(server.directory, folder / "server", symlinks=True, ignore=sockets)
        if file is not None:
            for path in file.parent.glob(f"{file.name}*"):
                shutil.copy(path, folder)
        return folder

    @property
    def _server(self) -> Server:
        assert self._service.server is not None
        return self._service.server
