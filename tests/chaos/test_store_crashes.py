"""kill -9 of a store's server, or of its writers where there is no server.

Two writers create, update and delete records, and note what was acknowledged. A durable store
loses none of it; the others, which declare it, do lose some. A power failure, which loses what the
kernel has not written yet, is not tried.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage import Storage, open_storage
from sealedstate.testing._suite import eventually
from tests.support.backends import BACKENDS, DURABLE, FORGETFUL, Service, opener
from tests.support.workers import SideFile, Workers

pytestmark = pytest.mark.slow

ROUNDS = [20, pytest.param(200, marks=pytest.mark.soak)]
EACH_ROUND = 5  # notes of each writer between two crashes


def write(url: str, name: str, side_file: SideFile) -> None:
    """Create records, delete every third, and keep the last number of the others in a counter."""
    store, counter = opener(url)(), f"last of {name}"
    for number in itertools.count(next_number(side_file)):
        value = str(number).encode()
        try:
            if not store.create(name, str(number), record_of(number), None, 1):
                continue
            side_file.note("created", number)
            if number % 3 == 0:
                side_file.note("deleting", number)
                store.delete(name, str(number))
                side_file.note("deleted", number)
            elif store.update("counters", counter, value, None, number) or store.create(
                "counters", counter, value, None, number
            ):
                side_file.note("counted", number)
        except (StorageUnavailable, OutcomeUnknown):
            time.sleep(0.005)  # until the server is back


def next_number(side_file: SideFile) -> int:
    """The first number that no writer of this side file has noted.

    Numbers are not taken from the clock: a fast store takes more than a thousand of them in a
    second, and the next writer would then create again what its predecessor has deleted.
    """
    return max((number for _, number in side_file.read()), default=0) + 1


def record_of(number: int) -> bytes:
    return f"record {number}".encode() * 10


def losses(store: Storage, name: str, side_file: SideFile) -> Iterator[str]:
    """What was acknowledged to a writer and is not in the store."""
    numbers: dict[str, set[int]] = {
        what: set() for what in ("created", "deleting", "deleted", "counted")
    }
    for what, number in side_file.read():
        numbers[what].add(number)
    if store.capabilities.enumerable:
        listed = set(map(int, eventually(store.keys, name)))
        for number in numbers["created"] - numbers["deleting"] - listed:
            yield f"{number} is not listed"
    for number in numbers["created"] - numbers["deleting"]:
        stored = eventually(store.read, name, str(number))
        if stored is None or stored.value != record_of(number):
            yield f"{number} was created: {stored}"
    for number in numbers["deleted"]:
        if eventually(store.read, name, str(number)) is not None:
            yield f"{number} was deleted"
    last, counted = eventually(store.read, "counters", f"last of {name}"), numbers["counted"]
    if counted and (last is None or last.version < max(counted)):
        yield f"the counter was at {max(counted)}: {last}"


@contextlib.contextmanager
def crashed(service: Service, folder: Path, rounds: int) -> Iterator[tuple[Storage, list[str]]]:
    """The store after as many crashes, and what it has lost."""
    store = open_storage(service.url, time.time)
    store.prepare()
    workers = Workers(partial(write, service.url), folder)
    workers.crash(service.server, rounds, EACH_ROUND)
    found: Iterable[str] = itertools.chain.from_iterable(
        losses(store, name, side_file) for name, side_file in workers.side_files.items()
    )
    yield store, list(found)
    store.close()


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("backend", DURABLE)
def test_durable_store_loses_nothing_acknowledged_in_crashes(
    backend: str, rounds: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with (
        BACKENDS[backend](request, tmp_path) as service,
        crashed(service, tmp_path, rounds) as (store, lost),
    ):
        assert store.capabilities.durable
        assert lost == []
        if service.file is not None:
            with contextlib.closing(sqlite3.connect(service.file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.server
@pytest.mark.parametrize("backend", FORGETFUL)
def test_store_that_declares_to_forget_does_forget(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with (
        FORGETFUL[backend](request, tmp_path) as service,
        crashed(service, tmp_path, 1) as (store, lost),
    ):
        assert not store.capabilities.durable
        assert lost


def test_successor_of_a_killed_writer_repeats_no_number(tmp_path: Path) -> None:
    # Far ahead of the clock, as the numbers of a fast writer are by a little.
    ahead = int(time.time() * 1000) << 10
    side_file = SideFile(tmp_path / "notes-1")
    for what, number in (("created", ahead), ("created", ahead + 2), ("deleted", ahead + 2)):
        side_file.note(what, number)
    workers = Workers(partial(write, f"sqlite:{tmp_path / 'store.db'}"), tmp_path, ["1"])
    workers.crash(None, 3, 20)
    created = [number for what, number in side_file.read() if what == "created"]
    assert len(created) == len(set(created)) > 20
