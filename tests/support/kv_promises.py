"""What both key-value stores owe over a real connection: on bad days, after a fork, in a race.

Knows a server, a proxy in front of it and a way to open the store. Does not know which store it is:
a test class derives from KeyValuePromises and says so.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from sealedstate.errors import OutcomeUnknown, StorageError, StorageUnavailable, VersionMismatch
from sealedstate.storage.contract import Clock, Storage, Stored
from sealedstate.testing import FakeClock
from sealedstate.testing.suite import Suite, insist
from sealedstate.testing.workers import Meet, in_threads
from tests.support.fault_proxy import FaultProxy
from tests.support.kv_servers import KeyValueServer

ROUNDS = 200
RECOVERY = 2.0  # seconds, by which a server that answers again must be found
HANG = 30.0  # seconds; a call that takes longer hangs
# Seconds to wait for an answer: where none will come, and where a busy machine may be late with it.
SHORT, PATIENT = 0.5, 60.0
PATIENCE = 60  # seconds; a process that takes longer hangs

Act = Callable[[Storage], object]

# Each on a record "k" of version 1; what is there when it was done, and the version it tells of.
WRITES: dict[str, tuple[Act, str, Stored | None, int | None]] = {
    "create": (lambda s: s.create("c", "new", b"w", None, 7), "new", Stored(b"w", 7, None), 7),
    "update": (lambda s: s.update("c", "k", b"w", None, 7), "k", Stored(b"w", 7, None), 7),
    "compare-and-set": (
        lambda s: s.update("c", "k", b"w", None, 7, expected=1),
        "k",
        Stored(b"w", 7, None),
        7,
    ),
    "delete": (lambda s: s.delete("c", "k"), "k", None, None),
    "compare-and-delete": (lambda s: s.delete("c", "k", expected=1), "k", None, None),
    "delete_context": (lambda s: s.delete_context("c"), "k", None, None),
}


class Cancelled(BaseException):
    """As raised into a thread by a server that has waited too long for it."""


class KeyValuePromises(Suite):
    """Promises over a connection. `url` is set before each test, to an empty server's."""

    url: str
    replies_before: ClassVar[dict[str, int]] = {}
    """By write, how many replies the store reads before that to the write itself."""

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> Storage:
        raise NotImplementedError

    def writes_done(self, server: KeyValueServer) -> int:
        """How many writes the server has carried out."""
        raise NotImplementedError

    def open_store(self, clock: Clock) -> Storage:
        return self.open(self.url, clock)

    @contextlib.contextmanager
    def proxied(
        self, server: KeyValueServer, timeout: float = PATIENT
    ) -> Iterator[tuple[FaultProxy, Storage]]:
        """A store that has been used, with a record "k", behind a proxy."""
        with FaultProxy(server.port) as proxy:
            url = server.url.replace(f":{server.port}", f":{proxy.port}")
            store = self.open(url, timeout=timeout)
            store.delete_context("c")
            assert store.create("c", "k", b"v", None, 1)
            self.warm(store)
            yield proxy, store
            store.close()

    def warm(self, store: Storage) -> None:
        """Have the server know the store's scripts."""
        for act, *_ in WRITES.values():
            with contextlib.suppress(VersionMismatch):
                act(store)
        store.delete_context("c")
        assert store.create("c", "k", b"v", None, 1)

    # --- lost replies ---

    @pytest.mark.parametrize("operation", WRITES)
    def test_a_write_whose_reply_is_lost_was_done_once_and_is_told_as_unknown(
        self, server: KeyValueServer, operation: str
    ) -> None:
        act, key, done, version = WRITES[operation]
        with self.proxied(server) as (proxy, store):
            before = self.writes_done(server)
            proxy.passed_replies = self.replies_before.get(operation, 0)
            proxy.drop_replies = True
            with pytest.raises(OutcomeUnknown) as caught:
                act(store)
            proxy.drop_replies = False
            assert caught.value.version == version
            assert self.writes_done(server) == before + 1
            assert store.read("c", key) == done

    def test_a_read_whose_reply_is_lost_is_asked_again(self, server: KeyValueServer) -> None:
        with self.proxied(server) as (proxy, store):
            proxy.drop_replies = True
            with pytest.raises(StorageUnavailable):
                store.read("c", "k")
            # Now only the connection in use breaks.
            proxy.drop_replies = False
            assert store.read("c", "k") == Stored(b"v", 1, None)

    def test_connections_that_were_reset_are_replaced_unnoticed(
        self, server: KeyValueServer
    ) -> None:
        with self.proxied(server) as (proxy, store):
            for version in (2, 3, 4):
                proxy.cut()
                assert store.update("c", "k", b"w", None, version)
                proxy.cut()
                assert store.read("c", "k") == Stored(b"w", version, None)

    # --- whose answer it is ---

    def test_swapped_answers_are_never_taken_for_ones_own(self, server: KeyValueServer) -> None:
        keys = ["k", "other"]
        with self.proxied(server, SHORT) as (proxy, store), ThreadPoolExecutor(2) as pool:
            assert store.create("c", "other", b"other", None, 1)
            expected = [store.read("c", key) for key in keys]
            for _ in range(4):
                proxy.swap_replies = True
                # Either may find that the other's answer is not its own, and asks again.
                found = pool.map(lambda key: insist(store.read, "c", key), keys)
                assert list(found) == expected

    def test_a_cancelled_call_leaves_no_answer_for_the_next(self, server: KeyValueServer) -> None:
        def cancel(*_: Any) -> None:
            raise Cancelled

        with self.proxied(server) as (proxy, store):
            assert store.create("c", "other", b"other", None, 1)
            before = signal.signal(signal.SIGALRM, cancel)
            try:
                proxy.latency = 0.2
                with pytest.raises(Cancelled):
                    read_until_cancelled(store)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            proxy.latency = 0
            for _ in range(3):
                assert store.read("c", "other") == Stored(b"other", 1, None)
                assert store.read("c", "k") == Stored(b"v", 1, None)

    # --- outages ---

    def test_a_server_that_is_down_at_the_start_is_told_and_found_later(
        self, own_server: KeyValueServer
    ) -> None:
        own_server.stop()
        store = self.open(own_server.url)
        assert not store.capabilities.durable
        assert store.capabilities.presumed
        acts: list[Callable[[], object]] = [store.ping, store.prepare, lambda: store.read("c", "k")]
        for act in acts:
            with pytest.raises(StorageUnavailable, match=str(own_server.port)):
                act()
        own_server.start()
        assert store.create("c", "k", b"v", None, 1)
        assert not store.capabilities.presumed
        store.close()

    def test_a_server_that_was_killed_is_told_and_found_again(
        self, own_server: KeyValueServer
    ) -> None:
        store = self.open(own_server.url)
        for version in (1, 2, 3):
            store.delete_context("c")
            assert store.create("c", "k", b"v", None, version)
            own_server.kill9()
            with pytest.raises(StorageUnavailable):
                store.update("c", "k", b"w", None, version + 1)
            own_server.start()
            store.ping()
        store.close()

    def test_a_server_that_stands_still_lets_nobody_hang(self, own_server: KeyValueServer) -> None:
        store = self.open(own_server.url, timeout=SHORT)
        assert store.create("c", "k", b"v", None, 1)
        self.warm(store)
        own_server.pause()
        try:
            began = time.monotonic()
            with pytest.raises((OutcomeUnknown, StorageUnavailable)):
                store.update("c", "k", b"w", None, 8)
            # A new connection gets no greeting, so that nothing can have been written over it.
            with pytest.raises(StorageUnavailable):
                store.update("c", "k", b"x", None, 9)
            with pytest.raises(StorageUnavailable):
                store.read("c", "k")
            assert time.monotonic() - began < HANG
        finally:
            own_server.resume()
        own_server.wait_until_it_serves()
        until = time.monotonic() + RECOVERY
        stored = insist(store.read, "c", "k")
        assert time.monotonic() < until
        assert stored in (Stored(b"v", 1, None), Stored(b"w", 8, None))
        store.close()

    def test_an_answer_that_comes_late_is_nobodys(self, server: KeyValueServer) -> None:
        old, new = Stored(b"v", 1, None), Stored(b"w", 8, None)
        with self.proxied(server, SHORT) as (proxy, store):
            proxy.stalled = True
            with pytest.raises((OutcomeUnknown, StorageUnavailable)) as caught:
                store.update("c", "k", b"w", None, 8)
            proxy.stalled = False
            # What was on its way may still arrive, if that is what was told.
            possible = [old, new] if caught.type is OutcomeUnknown else [old]
            for _ in range(100):
                assert insist(store.read, "c", "k") in possible
                assert store.read("c", "other") is None

    # --- capabilities ---

    def test_capabilities_cost_no_round_trip_each(self, server: KeyValueServer) -> None:
        with self.proxied(server) as (proxy, store):
            known = store.capabilities
            before = proxy.requests
            assert all(store.capabilities is known for _ in range(100))
            assert proxy.requests == before

    def test_capabilities_of_a_server_that_is_gone_are_those_it_had(
        self, own_server: KeyValueServer
    ) -> None:
        store = self.open(own_server.url)
        known = store.capabilities
        own_server.stop()
        with pytest.raises(StorageUnavailable):
            store.ping()
        assert store.capabilities == known
        own_server.start()
        store.ping()
        assert store.capabilities == known
        store.close()

    # --- forks and races ---

    def test_a_child_of_a_fork_has_connections_of_its_own(self, server: KeyValueServer) -> None:
        with self.proxied(server) as (proxy, store):
            store.ping()
            before = proxy.connections
            child = multiprocessing.get_context("fork").Process(target=_use, args=(store,))
            child.start()
            child.join(PATIENCE)
            assert child.exitcode == 0
            assert proxy.connections == before + 1, "the child has opened one"
            assert store.read("c", "k") == Stored(b"child", 2, None)
            assert proxy.connections == before + 1, "the parent has kept its own"

    @pytest.mark.parametrize("operation", ["create", "compare-and-delete"])
    def test_of_eight_threads_one_wins_each_round(self, operation: str, clock: FakeClock) -> None:
        store = self.open_store(clock)
        _set_out(store, operation)

        def race(racer: int, meet: Meet) -> list[bool]:
            return _win_all(store, clock, racer, meet, operation)

        won = in_threads(8, race)
        assert [sum(answers) for answers in zip(*won, strict=True)] == [1] * ROUNDS
        store.close()

    @pytest.mark.parametrize("operation", ["create", "compare-and-delete"])
    def test_of_four_processes_with_four_threads_each_one_wins_each_round(
        self, operation: str, clock: FakeClock
    ) -> None:
        store = self.open_store(clock)
        _set_out(store, operation)
        won = self.race(store, clock, _win_all, operation)
        assert [sum(answers) for answers in zip(*won, strict=True)] == [1] * ROUNDS
        store.close()

    # --- secrets ---

    def test_nothing_that_is_secret_is_logged_or_told(
        self, own_server: KeyValueServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        secrets = ["canary-context", "canary-key", "canary-value", "canary-member"]
        context, key, value, member = secrets
        caplog.set_level(logging.DEBUG)
        store = self.open(own_server.url)
        told = [repr(store), repr(store.capabilities)]

        def use() -> None:
            acts: list[Callable[[], object]] = [
                lambda: store.create(context, key, value.encode(), None, 1),
                lambda: store.update(context, key, value.encode(), None, 2, expected=9),
                lambda: store.add_member(context, key, member, None),
                lambda: store.delete(context, key, expected=9),
                lambda: store.read(context, "k" * 100_000),
                lambda: store.read(context, key),
            ]
            for act in acts:
                try:
                    told.append(repr(act()))
                except StorageError as error:
                    told.extend((repr(error), str(error), repr(error.__cause__)))

        use()
        own_server.stop()
        use()
        told.append(caplog.text)
        assert [secret for secret in secrets for text in told if secret in text] == []


def read_until_cancelled(store: Storage) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    store.read("c", "k")


def _use(store: Storage) -> None:
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert store.update("c", "k", b"child", None, 2, expected=1)
    store.close()


def _set_out(store: Storage, operation: str) -> None:
    store.delete_context("race")
    for number in range(ROUNDS if operation != "create" else 0):
        assert store.create("race", str(number), b"v", None, 1)


def _win_all(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, operation: str
) -> list[bool]:
    won = []
    for number in range(ROUNDS):
        meet()
        won.append(_wins(store, operation, number))
    return won


def _wins(store: Storage, operation: str, number: int) -> bool:
    try:
        if operation == "create":
            return store.create("race", str(number), b"v", None, 1)
        return store.delete("race", str(number), expected=1)
    except VersionMismatch:
        return False
