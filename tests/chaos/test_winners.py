"""Of 16 racers in 4 processes on one key, exactly one wins. A replay cache relies on it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from sealedstate.errors import OutcomeUnknown, VersionMismatch
from sealedstate.storage import ManagedStorage, MemoryStorage, SQLiteStorage, Storage, open_storage
from sealedstate.storage.contract import Clock
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import RACERS, Suite, eventually
from tests.support.backends import BACKENDS, DURABLE, NETWORKED, Service, patient
from tests.support.fault_proxy import FaultProxy
from tests.support.sql_servers import mariadb_server, postgresql_server

__all__ = ["mariadb_server", "postgresql_server"]

pytestmark = pytest.mark.slow

RACES = [
    ("create", 300),
    ("delete", 300),
    *(
        pytest.param(operation, 10_000, marks=pytest.mark.soak)
        for operation in ("create", "update", "delete")
    ),
]
FAULTY_RACES = [
    ("create", 50),
    ("delete", 50),
    *(
        pytest.param(operation, 2000, marks=pytest.mark.soak)
        for operation in ("create", "update", "delete")
    ),
]
BETWEEN_LOSSES = 200  # requests
LEG = 1000  # rounds that a worker pool surely makes within its patience


class Racing(Suite):
    """Racers of one URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def open_store(self, clock: Clock) -> Storage:
        return open_storage(self.url if self.url == "memory:" else patient(self.url), clock)


Attempt = Callable[[Storage, str, str, int], bool]


def create(store: Storage, context: str, key: str, racer: int) -> bool:
    return store.create(context, key, b"v", None, 1 + racer)


def update(store: Storage, context: str, key: str, racer: int) -> bool:
    return store.update(context, key, b"w", None, 2 + racer, expected=1)


def delete(store: Storage, context: str, key: str, racer: int) -> bool:
    return store.delete(context, key, expected=1)


ATTEMPTS: dict[str, Attempt] = {"create": create, "update": update, "delete": delete}


def race_for(
    store: Storage,
    clock: FakeClock,
    racer: int,
    barrier: Barrier,
    context: str,
    operation: str,
    rounds: int,
) -> list[bool | None]:
    """Return by round whether this racer has won; None if the outcome is unknown."""
    results = []
    for number in range(rounds):
        barrier.wait()
        results.append(_wins(ATTEMPTS[operation], store, context, str(number), racer))
    return results


def _wins(attempt: Attempt, store: Storage, context: str, key: str, racer: int) -> bool | None:
    try:
        return eventually(attempt, store, context, key, racer)
    except VersionMismatch:
        return False
    except OutcomeUnknown:
        return None


def outcomes(
    suite: Suite, store: Storage, operation: str, rounds: int
) -> list[tuple[bool | None, ...]]:
    """Return the results of the 16 racers, by round."""
    legs = [min(LEG, rounds - begun) for begun in range(0, rounds, LEG)]
    return [answers for leg in legs for answers in _outcomes(suite, store, operation, leg)]


def _outcomes(
    suite: Suite, store: Storage, operation: str, rounds: int
) -> list[tuple[bool | None, ...]]:
    context = uuid.uuid4().hex
    for number in range(rounds if operation != "create" else 0):
        assert eventually(store.create, context, str(number), b"v", None, 1)
    results = suite.race(store, FakeClock(), race_for, context, operation, rounds)
    assert len(results) == RACERS
    return list(zip(*results, strict=True))


@pytest.fixture(params=DURABLE)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with BACKENDS[request.param](request, tmp_path) as service:
        yield service


@pytest.mark.parametrize(("operation", "rounds"), RACES)
def test_of_16_racers_in_4_processes_exactly_one_wins(
    service: Service, operation: str, rounds: int
) -> None:
    store = open_storage(patient(service.url), FakeClock())
    store.prepare()
    results = outcomes(Racing(service.url), store, operation, rounds)
    assert_one_wins_each(results)
    store.close()


@pytest.mark.parametrize(("operation", "rounds"), RACES)
def test_of_16_racers_in_threads_exactly_one_wins_in_memory(operation: str, rounds: int) -> None:
    store = MemoryStorage(FakeClock())
    results = outcomes(Racing("memory:"), store, operation, rounds)
    assert_one_wins_each(results)


def assert_one_wins_each(results: list[tuple[bool | None, ...]]) -> None:
    assert_no_two_win(results)
    won = [answers.index(True) for answers in results if True in answers]
    # On a very busy machine a reply may be late, and its winner then does not know.
    assert len(won) > 0.9 * len(results)
    assert len(set(won)) > 1, "the racers have not met"


def assert_no_two_win(results: list[tuple[bool | None, ...]]) -> None:
    """Assert that a single racer won each round, or none, if an outcome is unknown."""
    for answers in results:
        assert answers.count(True) == 1 or (answers.count(True) == 0 and None in answers), answers


@pytest.mark.parametrize(("operation", "rounds"), FAULTY_RACES)
@pytest.mark.parametrize("service", NETWORKED, indirect=True)
def test_lost_replies_let_no_second_racer_win(
    service: Service, operation: str, rounds: int
) -> None:
    store = open_storage(patient(service.url), FakeClock())
    store.prepare()
    with service.behind_proxy() as (url, proxy), losing_replies(proxy):
        results = outcomes(Racing(url), store, operation, rounds)
    assert_no_two_win(results)
    assert any(None in answers for answers in results), "no reply was lost"
    store.close()


@contextmanager
def losing_replies(proxy: FaultProxy) -> Iterator[None]:
    """Lose all replies for a moment, now and then; in between, clients can connect again."""
    over = threading.Event()

    def lose() -> None:
        seen = 0
        while not over.wait(0.001):
            if proxy.requests - seen > BETWEEN_LOSSES:
                proxy.drop_replies = True
                over.wait(0.01)
                proxy.drop_replies = False
                seen = proxy.requests

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- starts -------------------------------------------------------------------------------------


def start(store: ManagedStorage, clock: FakeClock, racer: int, barrier: Barrier) -> bool:
    """Prepare a store and be the first to use it, or not."""
    barrier.wait()
    eventually(store.prepare)
    return eventually(store.create, "start", "k", b"v", None, 1 + racer)


def test_16_racers_can_start_on_an_empty_store(service: Service) -> None:
    with contextlib.closing(open_storage(service.url, FakeClock())) as store:
        results = Racing(service.url).race(store, FakeClock(), start)
        assert len(results) == RACERS
        assert results.count(True) == 1


def open_files(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, folder: Path, files: int
) -> None:
    for number in range(files):
        barrier.wait()
        # With a long timeout, because a busy machine is slow with 16 of them.
        with contextlib.closing(SQLiteStorage(folder / f"{number}.db", clock, timeout=60)) as file:
            file.prepare()


def test_concurrent_starts_on_a_file_do_not_refuse_it_as_foreign(
    tmp_path: Path,
) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    with contextlib.closing(open_storage(url, FakeClock())) as store:
        results = Racing(url).race(store, FakeClock(), open_files, tmp_path, 50)
    assert results == [None] * RACERS
    assert len(list(tmp_path.glob("*.db"))) == 50


def test_store_opens_while_another_process_writes_without_pause(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with contextlib.closing(SQLiteStorage(path, FakeClock())) as store:
        store.prepare()
    with lock_mostly(path) as held:
        for _ in range(5):
            assert held.wait(30)
            with contextlib.closing(SQLiteStorage(path, FakeClock())) as store:
                store.ping()


@contextmanager
def lock_mostly(path: Path) -> Iterator[threading.Event]:
    """Keep a database locked 99 % of the time; the event says whether it is locked now."""
    over, held = threading.Event(), threading.Event()

    def hog() -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        with contextlib.closing(connection):
            while not over.wait(0.0003):
                connection.execute("BEGIN EXCLUSIVE")
                held.set()
                over.wait(0.04)
                held.clear()
                connection.execute("COMMIT")

    thread = threading.Thread(target=hog)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()
