"""kill -9 of a store's server, or of its writers where there is no server.

Two writers create, update and delete records, and note what each call answered. A durable store
loses none of it, which is judged after each crash; the others, which declare it, do lose some.
MariaDB, which declares a fault of its log (see test_mariadb_log.py), is judged like a durable store
up to the crash that meets the fault.
All of it is on a disk. A power failure, which loses what the kernel has not written yet, is not
tried.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from sealedstate.storage import open_storage
from tests.support.backends import FORGETFUL, patient
from tests.support.crashes import CRASHABLE, Judge, LogHasNoEndError, Witness, next_number, write
from tests.support.disks import disk_folder, file_system
from tests.support.workers import SideFile, Workers

pytestmark = pytest.mark.slow

EACH_ROUND = 9  # answers of each writer between two crashes
KILLS = 12
# How many tests of how many kills `make soak` runs.
SOAKED = {"sqlite": (2, 1000), "postgresql": (2, 1000), "mariadb": (6, 1000), "redis": (1, 1000)}

SOAKS = [
    pytest.param(
        name, kills, id=f"{name}-{kills}-{number}", marks=[pytest.mark.soak, pytest.mark.server]
    )
    for name, (tests, kills) in SOAKED.items()
    for number in range(1, tests + 1)
]
SHORT = [
    pytest.param(name, KILLS, id=name, marks=[] if name == "sqlite" else [pytest.mark.server])
    for name in CRASHABLE
]


def crash(backend: str, folder: Path, kills: int) -> str:
    """Crash a durable store; return what happened in one line. An AssertionError names a loss."""
    with CRASHABLE[backend](folder) as service:
        store = open_storage(patient(service.url), time.time)
        store.prepare()
        assert store.capabilities.durable or backend == "mariadb"
        witness = Witness(service)
        server = None if service.server is None else witness
        workers = Workers(partial(write, service.url), folder, progress="done")
        judge = Judge(store, workers.side_files)

        def assert_no_loss() -> None:
            if judge.losses:
                workers.stop()
                kept = witness.keep(judge.losses, workers.side_files)
                raise AssertionError(f"lost: {judge.losses}; evidence is kept in {kept}")

        def look(names: Sequence[str]) -> None:
            judge.judge(names)
            assert_no_loss()

        try:
            workers.crash(server, kills, EACH_ROUND, look)
            judge.judge_everything()
            assert_no_loss()
            end = "no loss"
        except LogHasNoEndError as error:
            kills, end = witness.crashes - 1, f"no loss until the log had no end: {error}"
        store.close()
        return f"{backend}: {kills} kills, {judge.acknowledged} acknowledged writes, {end}"


@pytest.mark.parametrize(("backend", "kills"), [*SHORT, *SOAKS])
def test_durable_store_loses_nothing_acknowledged_in_crashes(
    backend: str, kills: int, disk: Path
) -> None:
    print(crash(backend, disk, kills))


def test_store_in_memory_files_loses_nothing_acknowledged_in_crashes(tmp_path: Path) -> None:
    # Without a disk to wait for, a writer takes thousands of numbers in a second.
    crash("sqlite", tmp_path, KILLS)


@pytest.mark.server
@pytest.mark.parametrize("backend", FORGETFUL)
def test_store_that_declares_to_forget_does_forget(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with FORGETFUL[backend](request, tmp_path) as service:
        store = open_storage(patient(service.url), time.time)
        store.prepare()
        workers = Workers(partial(write, service.url), tmp_path, progress="done")
        judge = Judge(store, workers.side_files)
        workers.crash(service.server, 1, EACH_ROUND, judge.judge)
        assert not store.capabilities.durable
        assert judge.losses
        store.close()


def test_crash_tests_are_on_a_disk(disk: Path) -> None:
    assert file_system(disk) == file_system(disk_folder()) not in ("tmpfs", "ramfs")


def test_successor_of_a_killed_writer_repeats_no_number(tmp_path: Path) -> None:
    # Far ahead of the clock, as the numbers of a fast writer are by a little.
    ahead = int(time.time() * 1000) << 10
    side_file = SideFile(tmp_path / "notes-1")
    side_file.note("begin", "create", ahead)
    side_file.note("failed", "create", ahead, "an error")
    side_file.note("begin", "create", ahead + 2)
    with side_file.path.open("a") as file:
        file.write('["begin", "crea')  # cut short by a kill
    assert next_number(SideFile(side_file.path)) == ahead + 3
    workers = Workers(partial(write, f"sqlite:{tmp_path / 'store.db'}"), tmp_path, ["1"])
    workers.crash(None, 3, 20)
    created = [note[2] for note in side_file.read() if note[:2] == ["begin", "create"]]
    assert len(created) == len(set(created)) > 20
    assert min(created[2:]) == ahead + 3
