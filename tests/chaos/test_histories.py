"""Histories of 8 clients in 4 processes during faults must be linearizable.

An operation that raised StorageUnavailable must not have happened; with OutcomeUnknown it may have.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, cast

import pytest

from sealedstate.errors import VersionMismatch
from sealedstate.storage import ManagedStorage, MemoryStorage, SQLiteStorage, Storage
from sealedstate.testing._suite import poll
from sealedstate.testing._workers import run_in_threads
from tests.support.backends import (
    BACKENDS,
    DURABLE,
    NETWORKED,
    Backend,
    Server,
    Service,
    opener,
    start_process,
)
from tests.support.fault_proxy import FaultProxy
from tests.support.kv_servers import redis_cluster_behind_proxies
from tests.support.linearizability import Operation, anomalies
from tests.support.sql_servers import MariaDBServer, running
from tests.support.store_clients import CLIENTS_PER_PROCESS, Client, histories, use

pytestmark = pytest.mark.slow

PROCESSES = 4
CLIENTS = PROCESSES * CLIENTS_PER_PROCESS
PATIENCE = 120  # seconds
MOMENT = 0.3  # seconds that a process is frozen
NOTED = 20_000  # bytes of notes, some hundred operations, between two faults

# How often each fault is caused, and the seed of their order: about a minute each in the long run.
RUNS = [
    pytest.param((2, 1), id="short"),
    *(pytest.param((40, n), id=f"long{n}", marks=pytest.mark.soak) for n in (2, 3, 4)),
]
LEAST = 100  # operations, for each round of all faults


class Clients:
    """Processes with clients of one store."""

    def __init__(self, opener: Callable[[], Storage], folder: Path) -> None:
        self._opener = opener
        self._folder = folder
        self._numbers = itertools.count()
        self.processes = [self._start() for _ in range(PROCESSES)]

    def replace(self, process: ForkServerProcess) -> None:
        """Start another in the place of a process that has ended."""
        process.join()
        self.processes.remove(process)
        self.processes.append(self._start())

    def wait_for_progress(self) -> None:
        """Wait until they have noted some more."""
        goal = self._notes_size() + NOTED
        for _ in poll(PATIENCE):
            if self._notes_size() >= goal:
                return
            assert all(process.is_alive() for process in self.processes)
        raise AssertionError("the clients make no progress")

    def stop(self) -> None:
        (self._folder / "stop").touch()
        for process in self.processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()

    def _start(self) -> ForkServerProcess:
        return start_process(use, self._opener, f"client{next(self._numbers)}", self._folder)

    def _notes_size(self) -> int:
        return sum(path.stat().st_size for path in self._folder.glob("*.notes"))


class Nemesis:
    """Causes all faults in random order, and lets the clients recover in between."""

    def __init__(
        self, clients: Clients, service: Service, proxy: FaultProxy | None, seed: int
    ) -> None:
        self._clients = clients
        self._random = random.Random(seed)
        self._faults: list[Callable[[], None]] = [self._kill, self._pause_clients]
        if service.server is not None:
            self._faults.append(partial(self._pause_server, service.server))
            self._faults.append(partial(_kill_server, service.server))
        if proxy is not None:
            self._faults += [partial(act, proxy) for act in (_cut, _delay, self._drop_replies)]

    def rage(self, rounds: int) -> None:
        for _ in range(rounds):
            for fault in self._random.sample(self._faults, len(self._faults)):
                self._clients.wait_for_progress()
                fault()
        self._clients.wait_for_progress()

    def _kill(self) -> None:
        victim = self._random.choice(self._clients.processes)
        victim.kill()
        self._clients.replace(victim)

    def _pause_clients(self) -> None:
        """Freeze one client in the middle of its call."""
        victim = self._random.choice(self._clients.processes)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(MOMENT)
        os.kill(victim.pid, signal.SIGCONT)

    def _pause_server(self, server: Server) -> None:
        server.pause()
        time.sleep(self._random.choice([MOMENT, 3 * MOMENT]))  # within and beyond the deadline
        server.resume()

    def _drop_replies(self, proxy: FaultProxy) -> None:
        for _ in range(5):
            before, proxy.drop_replies = proxy.dropped, True
            # A busy machine may take longer for that many replies.
            for _ in poll(PATIENCE):
                if proxy.dropped >= before + CLIENTS:
                    break
            proxy.drop_replies = False
            # Otherwise the next lost replies are those of connections that begin, and of no call.
            self._clients.wait_for_progress()


def _kill_server(server: Server) -> None:
    """Kill and start it, twice if need be: MariaDB may die while it recovers its binary log."""
    server.kill9()
    with contextlib.suppress(AssertionError):
        server.start()
        return
    server.start()


def _cut(proxy: FaultProxy) -> None:
    proxy.cut()


def _delay(proxy: FaultProxy) -> None:
    for latency in (0.01, 0.1, 0.6):  # the last one is beyond the deadline
        proxy.latency = latency
        time.sleep(MOMENT)
    proxy.latency = 0


@contextlib.contextmanager
def _mariadb(_: pytest.FixtureRequest, __: Path) -> Iterator[Service]:
    """With a binary log: without it, other clients see a commit before it has been synced."""
    with running(MariaDBServer, "--log-bin") as server:
        yield Service(server.fresh_url(), server)


LINEARIZABLE: dict[str, Backend] = {**BACKENDS, "mariadb": _mariadb}


@contextlib.contextmanager
def clients(opener: Callable[[], Storage], folder: Path) -> Iterator[Clients]:
    running = Clients(opener, folder)
    try:
        yield running
    finally:
        running.stop()


def assert_linearizable(found: dict[str, list[Operation]], least: int) -> None:
    operations = [operation for history in found.values() for operation in history]
    assert len(operations) >= least
    assert sum(map(_is_contended, found.values())) > len(found) // 4, "no calls overlapped"
    problems = anomalies(found)
    assert not problems, "\n\n".join([f"{len(problems)} anomalies", *problems.values()])


def _is_contended(history: Sequence[Operation]) -> bool:
    """Whether a call began during another."""
    ordered = sorted(history, key=lambda operation: operation.called)
    return any(
        earlier.returned is None or later.called < earlier.returned
        for earlier, later in itertools.pairwise(ordered)
    )


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("backend", DURABLE)
def test_histories_during_faults_are_linearizable(
    backend: str, run: tuple[int, int], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rounds, seed = run
    with LINEARIZABLE[backend](request, tmp_path) as service:
        prepare(service)
        with clients(opener(service.url), tmp_path) as running:
            Nemesis(running, service, None, seed).rage(rounds)
    assert_linearizable(histories(tmp_path), LEAST * rounds)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("backend", NETWORKED)
def test_histories_over_a_bad_network_are_linearizable(
    backend: str, run: tuple[int, int], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rounds, seed = run
    with (
        LINEARIZABLE[backend](request, tmp_path) as service,
        service.behind_proxy() as (url, proxy),
    ):
        prepare(service)
        with clients(opener(url), tmp_path) as running:
            Nemesis(running, service, proxy, seed).rage(rounds)
    found = histories(tmp_path)
    assert_linearizable(found, LEAST * rounds)
    returns = [operation.returned for history in found.values() for operation in history]
    assert returns.count(None) > 10 * rounds, "no reply was lost"


@pytest.mark.soak
@pytest.mark.server
@pytest.mark.parametrize("run", RUNS)
def test_histories_of_a_cluster_over_a_bad_network_are_linearizable(
    run: tuple[int, int], tmp_path: Path
) -> None:
    rounds, seed = run
    with redis_cluster_behind_proxies() as (url, proxies):
        prepare(Service(url))
        with clients(opener(url), tmp_path) as running:
            Nemesis(running, Service(url), cast(FaultProxy, proxies), seed).rage(rounds)
    found = histories(tmp_path)
    assert_linearizable(found, LEAST * rounds)
    returns = [operation.returned for history in found.values() for operation in history]
    assert returns.count(None) > 10 * rounds, "no reply was lost"


def prepare(service: Service) -> None:
    with contextlib.closing(opener(service.url)()) as store:
        store.prepare()


@pytest.mark.parametrize("operations", [4000, pytest.param(400_000, marks=pytest.mark.soak)])
def test_histories_of_threads_in_memory_are_linearizable(operations: int, tmp_path: Path) -> None:
    def clock() -> float:
        time.sleep(0)  # within an operation, lets other threads begin theirs
        return time.time()

    store = MemoryStorage(clock)
    run_in_threads(
        CLIENTS,
        lambda number, _: Client(store, f"{number}", tmp_path).run(operations // CLIENTS),
    )
    assert_linearizable(histories(tmp_path), operations)


class LooksBeforeItUpdates(SQLiteStorage):
    """Compares in one transaction, and writes in another."""

    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        value, expires_at, version, expected = rest
        stored = self.read(context, key)
        if stored is not None and expected not in (None, stored.version):
            raise VersionMismatch(stored.version)
        time.sleep(0.001)
        return super().update(context, key, value, expires_at, version)


def open_broken(path: Path) -> ManagedStorage:
    return LooksBeforeItUpdates(path, time.time)


def test_store_that_compares_before_it_writes_is_noticed(tmp_path: Path) -> None:
    broken = partial(open_broken, tmp_path / "store.db")
    with contextlib.closing(broken()) as store:
        store.prepare()
    with clients(broken, tmp_path) as running:
        for _ in range(5):
            running.wait_for_progress()
    assert anomalies(histories(tmp_path))
