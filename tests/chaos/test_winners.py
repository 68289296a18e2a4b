"""Of 16 racers in 4 processes on one key, exactly one wins: replay cache and artifacts too."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from sealedstate.sso import ArtifactStore, ReplayCache
from sealedstate.storage import ManagedStorage, MemoryStorage, SQLiteStorage, Storage, open_storage
from sealedstate.testing import FakeClock
from sealedstate.testing._suite import RACERS, Context, eventually
from tests.support.backends import BACKENDS, DURABLE, NETWORKED, Service, patient
from tests.support.identity_providers import SP, deployment
from tests.support.racers import Answers, Racing, losing_replies, play, race_in_legs

pytestmark = pytest.mark.slow

OF_SERVICES = ("admit", "take")
MESSAGE = bytes(range(256)) * 40


def races(usual: int, long: int) -> list[object]:
    kinds = ("create", "update", "delete", *OF_SERVICES)
    soak = [pytest.param(kind, long, marks=pytest.mark.soak) for kind in kinds]
    return [*((kind, usual) for kind in ("create", "delete", *OF_SERVICES)), *soak]


def attempt(store: Storage, kind: str, context: str, key: str, racer: int) -> bool:
    """Whether this racer has won."""
    if kind == "create":
        return store.create(context, key, b"v", None, 1 + racer)
    if kind == "update":
        return store.update(context, key, b"w", None, 2 + racer, expected=1)
    if kind == "delete":
        return store.delete(context, key, expected=1)
    if kind == "admit":
        return bool(ReplayCache(deployment(store)).admit(context, key, time.time() + 600))
    found = ArtifactStore(deployment(store)).take(bytes.fromhex(key), SP)
    assert found in (None, MESSAGE)
    return found is not None


def prepare_key(store: Storage, kind: str, context: str, number: int) -> str:
    """The key of a round, and what is there before it."""
    if kind == "take":
        return ArtifactStore(deployment(store)).put(MESSAGE, SP, 3600).hex()
    if kind in ("update", "delete"):
        assert store.create(context, str(number), b"v", None, 1)
    return str(number)


def race_for(
    context: Context, racer: int, barrier: Barrier, kind: str, keys: list[str]
) -> list[bool | None]:
    store, name = context.store, context.name
    return [play(barrier, attempt, store, kind, name, key, racer) for key in keys]


def outcomes(url: str, store: Storage, kind: str, rounds: int) -> list[Answers]:
    """The answers of 16 racers, in each round."""

    def race(leg: int) -> list[list[bool | None]]:
        context = Context(store, FakeClock())
        keys = [eventually(prepare_key, store, kind, context.name, number) for number in range(leg)]
        return Racing(url).race(context, race_for, kind, keys)

    return race_in_legs(race, rounds)


@pytest.fixture(params=DURABLE)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with BACKENDS[request.param](request, tmp_path) as service:
        yield service


@pytest.mark.parametrize(("kind", "rounds"), races(150, 10_000))
def test_exactly_one_of_16_racers_in_4_processes_wins(
    service: Service, kind: str, rounds: int
) -> None:
    url = patient(service.url)
    with contextlib.closing(open_storage(url, FakeClock())) as store:
        store.prepare()
        assert_one_wins_each(outcomes(url, store, kind, rounds))


@pytest.mark.parametrize(("kind", "rounds"), races(150, 10_000))
def test_exactly_one_of_16_threads_wins_in_memory(kind: str, rounds: int) -> None:
    assert_one_wins_each(outcomes("memory:", MemoryStorage(FakeClock()), kind, rounds))


def assert_one_wins_each(found: list[Answers]) -> None:
    assert_none_wins_twice(found)
    won = [answers.index(True) for answers in found if True in answers]
    # On a very busy machine a winner may hear of it too late, and then does not know.
    assert len(won) > 0.9 * len(found)
    assert len(set(won)) > 1, "the racers have not met"


def assert_none_wins_twice(found: list[Answers]) -> None:
    """One racer is answered that it has won, or none; then one may have won without an answer."""
    for answers in found:
        assert answers.count(True) == 1 or (answers.count(True) == 0 and None in answers), answers


@pytest.mark.parametrize(("kind", "rounds"), races(20, 2000))
@pytest.mark.parametrize("service", NETWORKED, indirect=True)
def test_lost_replies_let_no_second_racer_win(service: Service, kind: str, rounds: int) -> None:
    with contextlib.closing(open_storage(patient(service.url), FakeClock())) as store:
        store.prepare()
        with service.behind_proxy() as (url, proxy), losing_replies(proxy):
            found = outcomes(patient(url), store, kind, rounds)
    if kind in OF_SERVICES:  # a message counts as replayed if its first caller stays unknown
        assert [answers for answers in found if answers.count(True) > 1] == []
        assert sum(answers.count(True) for answers in found) > len(found) / 2
    else:
        assert_none_wins_twice(found)
        assert any(None in answers for answers in found), "no reply was lost"


# --- starts -------------------------------------------------------------------------------------


def start(context: Context, racer: int, barrier: Barrier) -> bool:
    """Whether this racer is the first to use the store, which each prepares."""
    barrier.wait()
    assert isinstance(context.store, ManagedStorage)
    eventually(context.store.prepare)
    return eventually(context.create, "k", b"v", None, 1 + racer)


def test_16_racers_can_prepare_one_empty_store(service: Service) -> None:
    with contextlib.closing(open_storage(service.url, FakeClock())) as store:
        started = Racing(patient(service.url)).race(Context(store, FakeClock()), start)
        assert len(started) == RACERS
        assert started.count(True) == 1


def begin_on_files(
    context: Context, racer: int, barrier: Barrier, folder: Path, files: int
) -> None:
    for number in range(files):
        barrier.wait()
        # Generous, because 16 processes prepare the file: the question is who is refused.
        own = SQLiteStorage(folder / f"{number}.db", context.clock, timeout=60)
        with contextlib.closing(own):
            own.prepare()


def test_racers_that_prepare_one_file_do_not_take_it_for_another_application_s(
    tmp_path: Path,
) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    with contextlib.closing(open_storage(url, FakeClock())) as store:
        begun = Racing(url).race(Context(store, FakeClock()), begin_on_files, tmp_path, 50)
    assert begun == [None] * RACERS
    assert len(list(tmp_path.glob("*.db"))) == 50


def test_sqlite_opens_while_another_process_writes_almost_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with contextlib.closing(SQLiteStorage(path, FakeClock())) as store:
        store.prepare()
    with hogged(path) as held:
        for _ in range(5):
            assert held.wait(30)
            with contextlib.closing(SQLiteStorage(path, FakeClock())) as newcomer:
                newcomer.ping()


@contextmanager
def hogged(path: Path) -> Iterator[threading.Event]:
    """A database that is locked 99 % of the time. The event is set while it is."""
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
