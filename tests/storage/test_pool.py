"""The connections of the SQL stores: whose turn it is, and what errors of a driver mean."""

from __future__ import annotations

import threading
import time
from typing import Any, ClassVar

import pytest

from sealedstate.errors import OutcomeUnknown, StorageUnavailable
from sealedstate.storage.sql import _pool
from sealedstate.storage.sql._pool import (
    DEADLINE,
    Driver,
    Fault,
    Lease,
    Misdirected,
    SQLPool,
    Statements,
    _Places,
)
from tests.support.server_process import until


class Silent:
    """A connection that never breaks."""

    opened_at = 0.0

    def __init__(self) -> None:
        self.opened_at, self.is_closed = time.monotonic(), False

    def cursor(self) -> Any:
        return self

    def close(self) -> None:
        self.is_closed = True

    def is_stale(self) -> bool:
        return False


class ScriptedDriver(Driver):
    """Hosts of which those in `down` refuse connections, and those in `frozen` never answer."""

    address = "scripted at a,b,c/d"
    hosts = ("a", "b", "c")
    migrations: ClassVar = {1: ()}

    def __init__(self) -> None:
        super().__init__(Statements(create="", add_member="", changes=""))
        self.down: set[int] = set()
        self.frozen: set[int] = set()
        self.reading: set[int] = set()
        self.asked: list[tuple[int, float]] = []
        self.host = 0

    def connect(self, host: int) -> Silent:
        self.asked.append((host, DEADLINE.remaining()))
        self.host = host
        if host in self.down:
            raise OSError("refused")
        if host in self.frozen:
            time.sleep(DEADLINE.remaining())
            raise OSError("no answer in time")
        return Silent()

    def handshake(self, cursor: Any) -> Any:
        return self.assumed

    def fault(self, error: Exception) -> Fault:
        return Fault.READ_ONLY if isinstance(error, PermissionError) else Fault.LOST

    def message(self, error: Exception) -> str:
        return str(error)

    def query(self, cursor: Any, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return [(_pool.SCHEMA_VERSION,)]

    def change(self, cursor: Any, sql: str, params: Any) -> int:
        if self.host in self.reading:
            raise PermissionError("it is a standby")
        return 1

    nothing: Any = staticmethod(lambda *_: None)
    change_numbered = changes = nothing
    begin = commit = reap = lock_schema = convert_tables = unlock_schema = nothing


def pool_of(driver: Driver, pool_size: int = 2, timeout: float = 60.0) -> SQLPool:
    pool = SQLPool(driver, "", timeout, pool_size, 60.0)
    pool.start()
    return pool


# --- first come, first served -------------------------------------------------------------------


class Turns:
    """Threads that want the only place, one after the other."""

    def __init__(self, size: int = 1) -> None:
        self.places, self.order = _Places(size), list[int]()
        self.threads: list[threading.Thread] = []

    def come(self, number: int, seconds: float = 60.0) -> None:
        def work() -> None:
            DEADLINE.start(seconds)
            try:
                lease = self.places.acquire()
            except TimeoutError:
                self.order.append(-number)
                return
            self.order.append(number)
            self.places.release(lease)

        before = len(self.places._waiting)
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        until(lambda: len(self.places._waiting) == before + 1, "it waits")

    def end(self) -> None:
        for thread in self.threads:
            thread.join(60)


def test_threads_get_connections_in_the_order_in_which_they_came() -> None:
    turns = Turns()
    DEADLINE.start(60)
    assert turns.places.acquire() is None
    for number in range(10):
        turns.come(number)
    turns.places.release(None)
    turns.end()
    assert turns.order == list(range(10))


def test_newcomer_does_not_overtake_those_who_wait() -> None:
    turns = Turns()
    DEADLINE.start(60)
    assert turns.places.acquire() is None
    turns.come(1)
    # The thread that gives its place up comes again at once, before the other has woken.
    turns.places.release(None)
    assert turns.places.acquire() is None
    turns.end()
    assert turns.order == [1]


def test_thread_whose_time_is_over_leaves_the_queue() -> None:
    turns = Turns()
    DEADLINE.start(60)
    turns.places.acquire()
    turns.come(1, seconds=0.01)
    until(lambda: not turns.places._waiting, "the first has given up")
    turns.come(2)
    turns.places.release(None)
    turns.end()
    assert turns.order == [-1, 2]
    DEADLINE.start(60)
    assert turns.places.acquire() is None, "no place was lost"


def test_interrupted_thread_gives_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    places = _Places(1)
    DEADLINE.start(60)
    places.acquire()

    class Interrupted(_pool._Waiter):
        def __init__(self) -> None:
            super().__init__()
            self.wakes: Any = self

        def acquire(self, timeout: float) -> None:
            places.release(None)  # this thread gets the place at the moment
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(_pool, "_Waiter", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            places.acquire()
    assert places.acquire() is None


def test_connection_that_is_in_use_while_the_pool_is_closed_is_not_kept(
    driver: ScriptedDriver,
) -> None:
    pool = pool_of(driver)
    lease = pool._acquire()
    pool.close()
    pool._release(lease)
    assert lease.connection.is_closed  # type: ignore[attr-defined]
    assert pool.read(lambda lease: lease.connection) is not lease.connection


# --- several hosts ------------------------------------------------------------------------------


@pytest.fixture
def driver() -> ScriptedDriver:
    return ScriptedDriver()


def hosts_asked(driver: ScriptedDriver) -> list[int]:
    hosts = [host for host, _ in driver.asked]
    driver.asked.clear()
    return hosts


def test_host_that_answered_last_is_asked_first(driver: ScriptedDriver) -> None:
    pool = pool_of(driver)
    driver.down = {0, 1}
    assert pool.read(lambda lease: lease.host) == 2
    assert hosts_asked(driver) == [0, 1, 2]
    driver.down = set()
    pool.invalidate_older()
    assert pool.read(lambda lease: lease.host) == 2
    assert hosts_asked(driver) == [2]


def test_frozen_host_costs_its_share_of_the_deadline(driver: ScriptedDriver) -> None:
    pool = pool_of(driver, timeout=0.3)
    driver.frozen = {0}
    assert pool.read(lambda lease: lease.host) == 1
    (first, second) = (seconds for _, seconds in driver.asked)
    assert first <= 0.1
    assert second <= 0.11


def test_hosts_that_only_read_are_passed_over(driver: ScriptedDriver) -> None:
    pool = pool_of(driver)
    driver.reading = {0, 2}
    assert pool.write(lambda lease: lease.host) == 1
    driver.reading = {0, 1, 2}
    pool.invalidate_older()
    with pytest.raises(StorageUnavailable, match=r"b: .*standby.*; c: .*; a: .*may only read"):
        pool.write(lambda lease: lease.host)


def test_write_that_a_former_primary_refused_goes_to_the_new_one(driver: ScriptedDriver) -> None:
    pool = pool_of(driver)
    assert pool.write(lambda lease: lease.host) == 0
    driver.reading = {0}

    def write(lease: Lease) -> int:
        driver.host = lease.host
        return lease.change("", {}) and lease.host

    assert pool.write(write) == 1


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Misdirected, TypeError, AssertionError, IndexError, OSError])
def test_every_error_of_a_driver_is_a_storage_error(
    driver: ScriptedDriver, kind: type[Exception]
) -> None:
    pool, leases = pool_of(driver), list[Lease]()

    def fail(lease: Lease) -> None:
        leases.append(lease)
        raise kind()

    with pytest.raises(StorageUnavailable):
        pool.read(fail)
    with pytest.raises(OutcomeUnknown) as caught:
        pool.write(fail, 7)
    assert caught.value.version == 7
    assert len(leases) == 3, "a read is repeated once, a write is not"
    assert all(lease.connection.is_closed for lease in leases)  # type: ignore[attr-defined]


def test_connection_that_was_idle_for_long_is_not_used_again(driver: ScriptedDriver) -> None:
    pool = SQLPool(driver, "", 60.0, 2, 0.05)
    pool.start()
    first = pool.read(lambda lease: lease.connection)
    assert pool.read(lambda lease: lease.connection) is first
    time.sleep(0.06)
    assert pool.read(lambda lease: lease.connection) is not first
