"""Promises of both key-value stores over a real connection: lost replies, outages, forks.

A test class derives from KeyValuePromises, says how to open the store, and has the fixtures
`server` (an empty one) and `own_server` (one that it may stop).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from sealedstate.errors import OutcomeUnknown, StorageError, StorageUnavailable, VersionMismatch
from sealedstate.storage.contract import Clock, ManagedStorage, Stored
from sealedstate.testing._suite import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.kv_servers import KeyValueServer

RECOVERY = 2.0  # seconds, within which a server that answers again must be used
HANG = 30.0  # seconds; a call that takes longer hangs
# Seconds to wait for an answer: if none will come, and if a busy machine may be late.
SHORT, PATIENT = 0.5, 60.0
PATIENCE = 60  # seconds; a process that takes longer hangs

Act = Callable[[ManagedStorage], object]

# Each on a record "k" of version 1; the record afterwards, and the version in OutcomeUnknown.
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
    """As an application server raises it in a thread that takes too long."""


class KeyValuePromises:
    replies_before: ClassVar[dict[str, int]] = {}
    """By write, how many replies the store reads before that to the write itself."""
    keepalive_idle: ClassVar[int | None] = 15
    """Seconds. It is less than the shortest limit of a usual balancer, HAProxy's of 50 s."""

    def open(self, url: str, clock: Clock = time.time, timeout: float = PATIENT) -> ManagedStorage:
        raise NotImplementedError

    def count_writes(self, server: KeyValueServer) -> int:
        """Return how many writes the server has carried out."""
        raise NotImplementedError

    @contextlib.contextmanager
    def proxied(
        self, server: KeyValueServer, timeout: float = PATIENT
    ) -> Iterator[tuple[FaultProxy, ManagedStorage]]:
        """A store that has been used, with a record "k", behind a proxy."""
        with FaultProxy(server.port) as proxy:
            url = server.url.replace(f":{server.port}", f":{proxy.port}")
            store = self.open(url, timeout=timeout)
            store.delete_context("c")
            assert store.create("c", "k", b"v", None, 1)
            self.warm(store)
            yield proxy, store
            store.close()

    def warm(self, store: ManagedStorage) -> None:
        """Make the server know the store's scripts."""
        for act, *_ in WRITES.values():
            with contextlib.suppress(VersionMismatch):
                act(store)
        store.delete_context("c")
        assert store.create("c", "k", b"v", None, 1)

    # --- lost replies ---

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_with_a_lost_reply_was_done_once_and_raises_outcome_unknown(
        self, server: KeyValueServer, operation: str
    ) -> None:
        act, key, done, version = WRITES[operation]
        with self.proxied(server) as (proxy, store):
            before = self.count_writes(server)
            proxy.passed_replies = self.replies_before.get(operation, 0)
            proxy.drop_replies = True
            with pytest.raises(OutcomeUnknown) as caught:
                act(store)
            proxy.drop_replies = False
            assert caught.value.version == version
            assert self.count_writes(server) == before + 1
            assert store.read("c", key) == done

    def test_read_with_a_lost_reply_is_repeated(self, server: KeyValueServer) -> None:
        with self.proxied(server) as (proxy, store):
            proxy.drop_replies = True
            with pytest.raises(StorageUnavailable):
                store.read("c", "k")
            # Now only the connection in use is broken.
            proxy.drop_replies = False
            assert store.read("c", "k") == Stored(b"v", 1, None)

    def test_reset_connections_are_replaced(self, server: KeyValueServer) -> None:
        with self.proxied(server) as (proxy, store):
            for version in (2, 3, 4):
                proxy.cut()
                assert store.update("c", "k", b"w", None, version)
                proxy.cut()
                assert store.read("c", "k") == Stored(b"w", version, None)

    def test_connections_that_a_balancer_forgot_cost_one_request(
        self, server: KeyValueServer
    ) -> None:
        with self.proxied(server, SHORT) as (proxy, store):
            barrier = threading.Barrier(5)

            def read(_: int) -> None:
                barrier.wait()
                store.read("c", "k")

            with ThreadPoolExecutor(5) as pool:
                while proxy.connections < 4:
                    list(pool.map(read, range(5)))
            proxy.forget()
            lost = 0
            for _ in range(6):
                try:
                    assert store.read("c", "k") == Stored(b"v", 1, None)
                except StorageUnavailable:
                    lost += 1
            assert lost == 1

    def test_connections_have_tcp_keepalive(
        self, server: KeyValueServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept: list[socket.socket] = []
        connect = socket.socket.connect

        def record(sock: socket.socket, address: Any) -> None:
            kept.append(sock)
            connect(sock, address)

        monkeypatch.setattr(socket.socket, "connect", record)
        store = self.open(server.url)
        store.ping()
        if self.keepalive_idle is not None:
            idle = kept[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle == self.keepalive_idle
        assert kept[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        store.close()

    def test_store_works_without_poll(
        self, server: KeyValueServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(select, "poll")
        with self.proxied(server) as (proxy, store):
            for version in (2, 3):
                proxy.cut()
                assert store.update("c", "k", b"w", None, version)

    # --- replies to other calls ---

    @pytest.mark.slow
    def test_swapped_replies_are_noticed(self, server: KeyValueServer) -> None:
        keys = ["k", "other"]
        with self.proxied(server, SHORT) as (proxy, store), ThreadPoolExecutor(2) as pool:
            assert store.create("c", "other", b"other", None, 1)
            expected = [store.read("c", key) for key in keys]
            for _ in range(4):
                proxy.swap_replies = True
                # A call that receives the other's reply reads again.
                found = pool.map(lambda key: eventually(store.read, "c", key), keys)
                assert list(found) == expected

    def test_cancelled_call_leaves_no_reply_for_the_next(self, server: KeyValueServer) -> None:
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

    def test_server_that_is_down_at_the_start_is_used_once_it_is_up(
        self, own_server: KeyValueServer
    ) -> None:
        own_server.stop()
        store = self.open(own_server.url)
        assert not store.capabilities.durable
        assert store.capabilities.assumed
        acts: list[Callable[[], object]] = [store.ping, store.prepare, lambda: store.read("c", "k")]
        for act in acts:
            with pytest.raises(StorageUnavailable, match=str(own_server.port)):
                act()
        own_server.start()
        assert store.create("c", "k", b"v", None, 1)
        assert not store.capabilities.assumed
        store.close()

    def test_killed_server_is_used_again_after_its_restart(
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

    @pytest.mark.slow
    def test_frozen_server_blocks_no_call(self, own_server: KeyValueServer) -> None:
        store = self.open(own_server.url, timeout=SHORT)
        assert store.create("c", "k", b"v", None, 1)
        self.warm(store)
        own_server.pause()
        try:
            began = time.monotonic()
            with pytest.raises((OutcomeUnknown, StorageUnavailable)):
                store.update("c", "k", b"w", None, 8)
            # A new connection gets no handshake, so nothing can have been written over it.
            with pytest.raises(StorageUnavailable):
                store.update("c", "k", b"x", None, 9)
            with pytest.raises(StorageUnavailable):
                store.read("c", "k")
            assert time.monotonic() - began < HANG
        finally:
            own_server.resume()
        own_server.wait_until_it_answers()
        until = time.monotonic() + RECOVERY
        stored = eventually(store.read, "c", "k")
        assert time.monotonic() < until
        assert stored in (Stored(b"v", 1, None), Stored(b"w", 8, None))
        store.close()

    def test_late_reply_answers_no_other_call(self, server: KeyValueServer) -> None:
        old, new = Stored(b"v", 1, None), Stored(b"w", 8, None)
        with self.proxied(server, SHORT) as (proxy, store):
            proxy.stalled = True
            with pytest.raises((OutcomeUnknown, StorageUnavailable)) as caught:
                store.update("c", "k", b"w", None, 8)
            proxy.stalled = False
            # A write that was on its way may still arrive, if its outcome was unknown.
            possible = [old, new] if caught.type is OutcomeUnknown else [old]
            for _ in range(100):
                assert eventually(store.read, "c", "k") in possible
                assert store.read("c", "other") is None

    # --- capabilities ---

    def test_capabilities_are_cached(self, server: KeyValueServer) -> None:
        with self.proxied(server) as (proxy, store):
            known = store.capabilities
            before = proxy.requests
            assert all(store.capabilities is known for _ in range(100))
            assert proxy.requests == before

    def test_capabilities_of_a_stopped_server_are_its_last_ones(
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

    # --- forks ---

    def test_forked_child_opens_a_connection_and_the_parent_keeps_its_own(
        self, server: KeyValueServer
    ) -> None:
        with self.proxied(server) as (proxy, store):
            store.ping()
            before = proxy.connections
            child = multiprocessing.get_context("fork").Process(target=_use, args=(store,))
            child.start()
            child.join(PATIENCE)
            assert child.exitcode == 0
            assert proxy.connections == before + 1, "the child must open one"
            assert store.read("c", "k") == Stored(b"child", 2, None)
            assert proxy.connections == before + 1, "the parent must keep its connection"

    # --- secrets ---

    def test_secrets_are_neither_logged_nor_in_errors(
        self, own_server: KeyValueServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        secrets = ["canary-context", "canary-key", "canary-value", "canary-member"]
        context, key, value, member = secrets
        caplog.set_level(logging.DEBUG)
        store = self.open(own_server.url)
        texts = [repr(store), repr(store.capabilities)]

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
                    texts.append(repr(act()))
                except StorageError as error:
                    texts.extend((repr(error), str(error), repr(error.__cause__)))

        use()
        own_server.stop()
        use()
        texts.append(caplog.text)
        assert [secret for secret in secrets for text in texts if secret in text] == []


def read_until_cancelled(store: ManagedStorage) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    store.read("c", "k")


def _use(store: ManagedStorage) -> None:
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert store.update("c", "k", b"child", None, 2, expected=1)
    store.close()
