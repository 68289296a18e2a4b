"""A primary of PostgreSQL dies or freezes under writers, and its standby is promoted.

The standby is synchronous, so no acknowledged write may be lost. What an operator or Patroni does
is done here: promote, and make the other server a standby of the new primary.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from sealedstate.errors import OutcomeUnknown, StorageError, StorageUnavailable
from sealedstate.storage.sql import SQLStorage
from tests.support.installed import need_driver, program
from tests.support.jar import Clock
from tests.support.server_process import until
from tests.support.sql_server import PASSWORD, USER
from tests.support.sql_servers import PostgreSQLServer

pytestmark = [pytest.mark.server, pytest.mark.slow]

End = Literal["kill", "freeze"]


class Pair:
    """Two servers, of which `primary` has the other as a synchronous standby."""

    def __init__(self) -> None:
        self.primary, self.standby = PostgreSQLServer(), PostgreSQLServer()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        try:
            self.primary.install()
            with self.primary.shown_log(), self.standby.shown_log():
                self.primary.start()
                self.follow()
                yield
        finally:
            self.primary.close()
            self.standby.close()

    def url(self, parameters: str = "") -> str:
        where = f"127.0.0.1:{self.primary.port}"
        both = f"{where},127.0.0.1:{self.standby.port}"
        return self.primary.url("public").replace(where, both) + parameters

    def follow(self) -> None:
        """Make the other server a standby, and wait for it with every commit from now on."""
        data = self.standby.directory / "data"
        shutil.rmtree(data, ignore_errors=True)
        self.standby.environ = {**os.environ, "PGPASSWORD": PASSWORD}
        self.standby.run(
            *(program("pg_basebackup"), "-D", str(data), "-R", "-X", "stream", "-c", "fast"),
            *("-h", "127.0.0.1", "-p", str(self.primary.port), "-U", USER, "--no-sync"),
        )
        self.standby.start()
        streaming = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        until(lambda: self.primary.ask(streaming), "the standby follows")
        # Not before: the backup must not have the setting, or the new primary would wait, too.
        self.primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.ask("SELECT pg_reload_conf()")
        synced = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: self.primary.ask(synced), "the standby is synchronous")

    def fail_over(self, end: End) -> float:
        """End the primary and promote the standby; return when it was promoted."""
        if end == "kill":
            self.primary.kill9()
        else:
            self.primary.pause()
        assert self.standby.ask("SELECT pg_promote()") == [(True,)]
        promoted_at = time.monotonic()
        self.primary, self.standby = self.standby, self.primary
        return promoted_at


class Writers:
    """Threads that write, and note what was acknowledged and when."""

    def __init__(self, store: SQLStorage) -> None:
        self.acknowledged: set[str] = set()
        self.acknowledged_at = 0.0
        self._store, self._numbers = store, itertools.count()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._write) for _ in range(3)]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(60)

    def wait_for(self, writes: int) -> None:
        """Wait until so many more writes have been acknowledged."""
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) >= before + writes, "they write")

    def _write(self) -> None:
        while not self._ended.is_set():
            key = str(next(self._numbers))
            try:
                if self._store.create("c", key, b"v", None, 1):
                    self.acknowledged.add(key)
                    self.acknowledged_at = time.monotonic()
            except StorageError:
                self._ended.wait(0.01)


def fail_over_under_load(clock: Clock, ends: list[End], back_within: float) -> None:
    need_driver("psycopg")
    pair = Pair()
    with pair.running():
        store = SQLStorage(pair.url(), clock, timeout=0.5)
        with contextlib.closing(store):
            until(lambda: writes(store), "the store works")
            assert "a failover to it loses none" in store.capabilities.reasons["durable"]
            writers = Writers(store)
            with writers.running():
                for end in ends:
                    writers.wait_for(20)
                    promoted_at = pair.fail_over(end)
                    writers.wait_for(1)
                    assert writers.acknowledged_at - promoted_at < back_within
                    if end == "freeze":
                        pair.standby.kill9()  # else both would be primaries
                    pair.follow()
            until(lambda: writes(store), "the store works")
            store.close()
            patient = SQLStorage(pair.url(), clock, timeout=60.0)
            with contextlib.closing(patient):
                lost = writers.acknowledged - set(patient.keys("c"))
            assert not lost


def assert_unconfirmed_commit_is_not_acknowledged(pair: Pair, clock: Clock) -> None:
    """An administrator ends the wait for the standby: a failover would take the write back."""
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    url = pair.primary.url("public")
    with contextlib.closing(SQLStorage(url, clock, timeout=60.0)) as store:
        store.ping()
        pair.standby.pause()
        with ThreadPoolExecutor(1) as pool:
            write = pool.submit(store.create, "c", "unconfirmed", b"v", None, 7)
            until(lambda: pair.primary.ask(f"SELECT pid {waiting}"), "it waits for the standby")
            pair.primary.ask(f"SELECT pg_cancel_backend(pid) {waiting}")
            with pytest.raises(OutcomeUnknown, match="synchronous replication"):
                write.result(60)
        pair.standby.resume()


def writes(store: SQLStorage) -> bool:
    with contextlib.suppress(StorageUnavailable):
        store.ping()
        return True
    return False


def test_failover_to_a_synchronous_standby_loses_no_acknowledged_write(clock: Clock) -> None:
    fail_over_under_load(clock, ["kill", "freeze", "kill"], back_within=10.0)


@pytest.mark.soak
def test_100_failovers_lose_no_acknowledged_write(clock: Clock) -> None:
    ends: list[End] = ["kill", "freeze"]
    fail_over_under_load(clock, ends * 50, back_within=1.0)


def test_standby_alone_stops_the_start_and_an_asynchronous_one_is_reported(clock: Clock) -> None:
    need_driver("psycopg")
    pair = Pair()
    with pair.running():
        # Only the primary takes writes, whichever comes first.
        reversed_url = pair.standby.url("public").replace(
            f":{pair.standby.port}", f":{pair.standby.port},127.0.0.1:{pair.primary.port}"
        )
        with contextlib.closing(SQLStorage(reversed_url, clock, timeout=60.0)) as store:
            store.ping()
            assert store.create("c", "k", b"v", None, 1)
        with contextlib.closing(
            SQLStorage(pair.standby.url("public"), clock, timeout=60.0)
        ) as store:
            with pytest.raises(StorageUnavailable, match="may only read"):
                store.ping()
            until(lambda: store.read("c", "k") is not None, "the standby has replayed it")
        assert_unconfirmed_commit_is_not_acknowledged(pair, clock)
        pair.primary.ask("ALTER SYSTEM RESET synchronous_standby_names")
        pair.primary.ask("SELECT pg_reload_conf()")
        with contextlib.closing(
            SQLStorage(pair.primary.url("public"), clock, timeout=60.0)
        ) as store:
            until(
                lambda: not pair.primary.ask("SHOW synchronous_standby_names")[0][0], "it is reset"
            )
            reason = store.capabilities.reasons["durable"]
        assert "1 standby follows: a failover may lose acknowledged logouts" in reason
