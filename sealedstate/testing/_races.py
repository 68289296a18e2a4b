"""Tests of 16 concurrent callers, in 4 processes if processes share the store, and of forks."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier

from ..errors import StorageError, VersionMismatch
from ..storage.contract import ManagedStorage, Storage, Stored
from ._suite import MINUTE, RACERS, FakeClock, Suite, eventually, is_shared, read, write
from ._workers import run_in_fork, run_in_threads

KEYS = [str(number) for number in range(25)]
INCREMENTS = 4
CONTEXTS = 10
YEAR_2100 = 4_102_444_800_000


def succeeds(act: Callable[..., bool], *arguments: object) -> bool:
    """Return whether `act` wrote."""
    try:
        return eventually(act, *arguments)
    except VersionMismatch:
        return False


def try_all(act: Callable[[str], bool], barrier: Barrier) -> list[bool]:
    """Return by key whether this racer succeeded; all racers try each key at the same moment."""
    results = []
    for key in KEYS:
        barrier.wait()
        results.append(succeeds(act, key))
    return results


def create_all(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, context: str
) -> list[bool]:
    value = str(racer).encode()
    return try_all(lambda key: store.create(context, key, value, None, 1), barrier)


def update_all(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, context: str
) -> list[bool]:
    value = str(racer).encode()
    return try_all(lambda key: store.update(context, key, value, None, 2 + racer, 1), barrier)


def delete_all(
    store: Storage,
    clock: FakeClock,
    racer: int,
    barrier: Barrier,
    context: str,
    expected: int | None,
) -> list[bool]:
    return try_all(lambda key: store.delete(context, key, expected), barrier)


def increment(store: Storage, clock: FakeClock, racer: int, barrier: Barrier, context: str) -> None:
    def increment_once() -> bool:
        stored = read(store, context, "counter")
        value = str(int(stored.value) + 1).encode()
        return store.update(context, "counter", value, None, stored.version + 1, stored.version)

    for _ in range(INCREMENTS):
        barrier.wait()
        while not succeeds(increment_once):
            pass


def write_or_read(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, context: str, size: int
) -> None:
    """Half of the racers overwrite a record, the others look for a mixture of two writes."""
    for version in range(2, 2 + len(KEYS)):
        barrier.wait()
        if racer % 2:
            new = consistent_record(version, size)
            succeeds(store.update, context, "k", new.value, new.expires_at, new.version)
        else:
            stored = eventually(store.read, context, "k")
            assert stored is not None, "the record is absent while it is being overwritten"
            expected = consistent_record(stored.version, size)
            assert stored == expected, "parts of two writes in one record"


def consistent_record(version: int, size: int) -> Stored:
    """Return a record of which each part determines the others."""
    return Stored(bytes([version]) * size, version, YEAR_2100 + version)


def delete_or_disturb(
    store: ManagedStorage, clock: FakeClock, racer: int, barrier: Barrier, context: str
) -> None:
    """One racer deletes contexts, while the others change the records in them."""

    def update_expiration(where: str) -> object:
        return store.update_expiration(where, "k", YEAR_2100)

    def update(where: str) -> object:
        return succeeds(store.update, where, "k", b"w", None, 2 + racer)

    def create(where: str) -> object:
        return store.create(where, "k2", b"new", None, 2 + racer)

    def touch(where: str) -> None:
        if store.capabilities.contexts:
            store.touch_context(where, YEAR_2100)

    acts: list[Callable[[str], object]] = [update_expiration, update, create, touch]
    act = acts[racer % len(acts)] if racer else store.delete_context
    for number in range(CONTEXTS):
        barrier.wait()
        eventually(act, f"{context}-{number}")


def prepare(store: ManagedStorage, clock: FakeClock, racer: int, barrier: Barrier) -> None:
    barrier.wait()
    eventually(store.prepare)


def read_elsewhere(store: Storage, clock: FakeClock, racer: int, context: str) -> Stored | None:
    return store.read(context, "k")


def write_elsewhere(store: Storage, clock: FakeClock, racer: int, context: str) -> None:
    assert store.update(context, "k", b"theirs", clock.now + MINUTE, 2, expected=1) is True
    if store.capabilities.indexes:
        store.add_member(context, "k", "theirs", None)


class Races(Suite):
    def test_one_of_concurrent_creates_succeeds(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        results = self.race(store, clock, create_all, context)
        for key, answers in zip(KEYS, zip(*results, strict=True), strict=True):
            assert sum(answers) == 1, f"create returned True to {sum(answers)} racers"
            assert read(store, context, key).value == str(answers.index(True)).encode()

    def test_one_of_concurrent_checked_updates_succeeds(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        for key in KEYS:
            write(store, context, key)
        results = self.race(store, clock, update_all, context)
        for key, answers in zip(KEYS, zip(*results, strict=True), strict=True):
            assert sum(answers) == 1, f"update returned True to {sum(answers)} racers"
            winner = answers.index(True)
            assert store.read(context, key) == Stored(str(winner).encode(), 2 + winner, None)

    def test_one_of_concurrent_deletes_succeeds(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        for expected in (1, None):
            for key in KEYS:
                write(store, context, key)
            results = self.race(store, clock, delete_all, context, expected)
            winners = [sum(answers) for answers in zip(*results, strict=True)]
            assert winners == [1] * len(KEYS), f"expected={expected}: winners by key: {winners}"

    def test_counter_with_concurrent_checked_updates_loses_no_increment(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        write(store, context, "counter", b"0")
        self.race(store, clock, increment, context)
        total = RACERS * INCREMENTS
        assert store.read(context, "counter") == Stored(str(total).encode(), 1 + total, None)

    def test_reads_return_whole_writes_only(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        size = min(5000, store.capabilities.value_bytes)
        first = consistent_record(1, size)
        write(store, context, "k", first.value, first.expires_at, first.version)
        self.race(store, clock, write_or_read, context, size)
        assert store.read(context, "k") == consistent_record(1 + len(KEYS), size)

    def test_records_of_a_deleted_context_are_never_read_again(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage):
            return
        contexts = [f"{context}-{number}" for number in range(CONTEXTS)]
        for where in contexts:
            write(store, where, "k")
        self.race(store, clock, delete_or_disturb, context)
        assert [store.read(where, "k") for where in contexts] == [None] * CONTEXTS

    def test_preparing_again_and_concurrently_is_harmless(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage):
            return
        write(store, context, "k")
        self.race(store, clock, prepare)
        run_in_threads(8, lambda racer, barrier: prepare(store, clock, racer, barrier))
        assert store.read(context, "k") == Stored(b"v", 1, None)

    def test_writes_of_one_process_are_visible_to_others(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not is_shared(store):
            return
        clock.stop(clock.now)
        write(store, context, "k", b"ours", clock.now + MINUTE, 1)
        expected = Stored(b"ours", 1, clock.now + MINUTE)
        assert self.run_elsewhere(clock, read_elsewhere, context) == expected
        self.run_elsewhere(clock, write_elsewhere, context)
        assert store.read(context, "k") == Stored(b"theirs", 2, clock.now + MINUTE)
        if store.capabilities.indexes:
            assert store.members(context, "k") == {"theirs": None}

    def test_fork_leaves_the_parents_store_unharmed(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"v", None, 1)
        problem, answer = run_in_fork(lambda: _use_in_fork(store, context))
        assert not problem, problem
        if not store.capabilities.server_side:
            assert answer in ("done", "refused")
        else:
            assert answer == ("done" if store.capabilities.shared else "refused")
        if is_shared(store):
            assert store.read(context, "child") == Stored(b"child", 1, None), "not shared"
        assert store.read(context, "k") == Stored(b"v", 1, None)
        assert store.update(context, "k", b"w", None, 2, expected=1) is True


def _use_in_fork(store: Storage, context: str) -> str:
    try:
        found = store.read(context, "k")
        store.create(context, "child", b"child", None, 1)
    except StorageError:
        return "refused"
    assert found == Stored(b"v", 1, None), f"the child of a fork reads {found}"
    store.close()
    return "done"
