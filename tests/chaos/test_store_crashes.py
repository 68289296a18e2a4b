"""kill -9 of the server, or of the writers where there is no server: what was acknowledged stays.

Two writers create, update and delete records, and append to a side file what was acknowledged.
Durable stores lose none of it; those that declare otherwise do lose it, so that the claim is no
mere caution. Knows processes and side files. Does not know how a store writes: a power failure,
which loses what the kernel had not yet written, is not tried.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage import Storage, open_storage
from sealedstate.testing.clock import tries
from sealedstate.testing.suite import insist
from tests.support.backends import BACKENDS, DURABLE, FORGETFUL, Service, opener, started
from tests.support.sql_servers import mariadb_server, postgresql_server

__all__ = ["mariadb_server", "postgresql_server"]

ROUNDS = [20, pytest.param(200, marks=pytest.mark.soak)]
WRITERS = ["1", "2"]
EACH_ROUND = 5  # acknowledged writes of each writer between two crashes
DELETED = 3  # of so many records one is deleted
PATIENCE = 120  # seconds


# --- in the writers' processes ----------------------------------------------------------------


def write_for_ever(url: str, name: str, side_file: Path) -> None:
    """Append a line for each thing that was begun or acknowledged, as `Acknowledged` reads it."""
    store, notes = opener(url)(), os.open(side_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(what: str, number: int) -> None:
        os.write(notes, f"{what} {number}\n".encode())

    for number in itertools.count(next_number(side_file)):
        try:
            if not store.create(name, str(number), record_of(number), None, 1):
                continue
            note("created", number)
            if number % DELETED == 0:
                note("deleting", number)
                store.delete(name, str(number))
                note("deleted", number)
            elif _count(store, name, number):
                note("counted", number)
        except (StorageUnavailable, OutcomeUnknown):
            time.sleep(0.005)  # until it is back


def next_number(side_file: Path) -> int:
    """The first number that no writer of this side file has noted.

    Numbers are not taken from the clock: a fast store takes more than a thousand of them in a
    second, and the next writer would then create again what its predecessor has deleted.
    """
    return max(Acknowledged.read(side_file).numbers, default=0) + 1


def _count(store: Storage, name: str, number: int) -> bool:
    """Keep the number of the last one in a record that is updated."""
    value, counted = str(number).encode(), f"last of {name}"
    if store.update("counters", counted, value, None, number):
        return True
    return store.create("counters", counted, value, None, number)


def record_of(number: int) -> bytes:
    return f"record {number}".encode() * 10


# --- what they were promised --------------------------------------------------------------------


@dataclass
class Acknowledged:
    """What a writer's side file tells."""

    created: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)
    deleting: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)

    @property
    def numbers(self) -> set[int]:
        return self.created | self.counted | self.deleting | self.deleted

    @classmethod
    def read(cls, side_file: Path) -> Acknowledged:
        found = cls()
        # A writer that is killed in the middle leaves half a line, which promises nothing.
        for line in side_file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                what, number = line.split()
                getattr(found, what).add(int(number))
        return found

    def lost(self, store: Storage, name: str) -> list[str]:
        """What was promised and is not so."""
        problems = []
        for number in self.created - self.deleting:
            stored = insist(store.read, name, str(number))
            if stored is None or stored.value != record_of(number):
                problems.append(f"{number} was created: {stored}")
        for number in self.deleted:
            if insist(store.read, name, str(number)) is not None:
                problems.append(f"{number} was deleted")
        last = insist(store.read, "counters", f"last of {name}")
        if self.counted and (last is None or last.version < max(self.counted)):
            problems.append(f"the count stood at {max(self.counted)}: {last}")
        return problems


# --- the tests ----------------------------------------------------------------------------------


class Writers:
    """Two writers to the store of one URL, each of which may be killed and comes back."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self.side_files = {name: folder / f"acknowledged-{name}" for name in WRITERS}
        self._processes = {name: self._start(name) for name in WRITERS}

    def kill9(self, names: Sequence[str]) -> None:
        """End some writers as a crash would, and start them again."""
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes[name].join()
            self._processes[name] = self._start(name)

    def wait_for_progress(self) -> None:
        """Until each has had so many writes acknowledged from now on."""
        goals = {path: self._lines(path) + EACH_ROUND for path in self.side_files.values()}
        for _ in tries(PATIENCE):
            if all(self._lines(path) >= goal for path, goal in goals.items()):
                return
            assert all(process.is_alive() for process in self._processes.values())
        raise AssertionError("the writers do not get on")

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.join()

    def lost(self, store: Storage) -> list[str]:
        return [
            problem
            for name, path in self.side_files.items()
            for problem in Acknowledged.read(path).lost(store, name)
        ]

    def _start(self, name: str) -> ForkServerProcess:
        return started(write_for_ever, self._url, name, self.side_files[name])

    def _lines(self, path: Path) -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0


@contextlib.contextmanager
def crashed(service: Service, folder: Path, rounds: int) -> Iterator[tuple[Storage, list[str]]]:
    """The store after so many crashes, and what was lost of what had been promised."""
    store = open_storage(service.url, time.time)
    store.prepare()
    writers = Writers(service.url, folder)
    try:
        for number in range(rounds):
            writers.wait_for_progress()
            _crash(service, writers, number)
        writers.wait_for_progress()
    finally:
        writers.stop()
    yield store, writers.lost(store)
    store.close()


def _crash(service: Service, writers: Writers, number: int) -> None:
    if service.server is None:
        writers.kill9([WRITERS[:1], WRITERS[1:], WRITERS][number % 3])
    else:
        service.server.kill9()
        service.server.start()


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("backend", DURABLE)
def test_a_durable_store_stays_whole_and_loses_nothing_that_it_has_acknowledged(
    backend: str, rounds: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with (
        BACKENDS[backend](request, tmp_path) as service,
        crashed(service, tmp_path, rounds) as (store, lost),
    ):
        assert store.capabilities.durable
        assert lost == []
        assert service.file is None or whole(service.file)


def test_successor_of_a_killed_writer_repeats_no_number(tmp_path: Path) -> None:
    # Faster than a number a millisecond, so that numbers from the clock would be repeated.
    side_file = tmp_path / "acknowledged"
    side_file.write_text("created 3000000000001\ncreated 3000000000003\ndeleted 3000000000003\n")
    assert next_number(side_file) == 3000000000004
    writer = started(write_for_ever, f"sqlite:{tmp_path / 'store.db'}", "1", side_file)
    for _ in tries(PATIENCE):
        if side_file.read_bytes().count(b"\n") > 20:
            break
    writer.kill()
    writer.join()
    created = [line for line in side_file.read_text().splitlines() if line.startswith("created")]
    assert len(created) == len(set(created))


def whole(file: Path) -> bool:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.server
@pytest.mark.parametrize("backend", FORGETFUL)
def test_a_store_that_declares_that_it_forgets_does_forget(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with (
        FORGETFUL[backend](request, tmp_path) as service,
        crashed(service, tmp_path, 1) as (store, lost),
    ):
        assert not store.capabilities.durable
        assert lost
