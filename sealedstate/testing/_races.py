"""Tests of what happens at once: races of writers, outages and lost replies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Barrier

import pytest

from ..errors import (
    CapacityError,
    OutcomeUnknown,
    StorageError,
    StorageUnavailable,
    VersionMismatch,
)
from ..storage.contract import LAST_VERSION, LATEST, ManagedStorage, Storage, Stored
from ._names import too_large_value
from ._suite import (
    MINUTE,
    RACERS,
    FakeClock,
    Suite,
    eventually,
    is_declined,
    is_shared,
    read,
    write,
)
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


Act = Callable[[Storage, str], object]

# Each on a record "k" of version 1 and value b"v"; and the record that the write leaves.
WRITES: dict[str, tuple[Act, str, Stored | None]] = {
    "create": (
        lambda store, context: store.create(context, "new", b"w", None, 7),
        "new",
        Stored(b"w", 7, None),
    ),
    "update": (
        lambda store, context: store.update(context, "k", b"w", None, 7),
        "k",
        Stored(b"w", 7, None),
    ),
    "checked update": (
        lambda store, context: store.update(context, "k", b"w", None, 7, expected=1),
        "k",
        Stored(b"w", 7, None),
    ),
    "delete": (lambda store, context: store.delete(context, "k"), "k", None),
    "checked delete": (lambda store, context: store.delete(context, "k", expected=1), "k", None),
}


class Outages(Suite):
    """Collected if a suite has `outage()`: inside it, the store can't be reached."""

    def outage(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    def test_read_during_an_outage_raises(self, store: Storage, context: str) -> None:
        can = store.capabilities
        reads: list[tuple[Callable[[], object], bool]] = [
            (lambda: store.read(context, "k"), True),
            (lambda: list(store.keys(context)), can.enumerable),
            (lambda: store.members(context, "k"), can.indexes),
            (store.ping, True),
        ]
        for act, is_declared in reads:
            if is_declined(is_declared, act):
                continue
            with self.outage():
                for _ in range(2):
                    with pytest.raises(StorageUnavailable):
                        act()
            eventually(act)

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_during_an_outage_raises_and_writes_nothing(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        write(store, context, "k")
        before = store.read(context, key)
        with self.outage():
            for _ in range(2):
                # If the connection breaks during the call, the outcome is unknown.
                with pytest.raises((StorageUnavailable, OutcomeUnknown)):
                    act(store, context)
        assert eventually(store.read, context, key) == before, "written during an outage"
        assert eventually(act, store, context) is True
        assert store.read(context, key) == done

    def test_other_writes_during_an_outage_raise(self, store: Storage, context: str) -> None:
        can = store.capabilities
        writes: list[tuple[Callable[[], object], bool]] = [
            (lambda: store.add_member(context, "k", "m", None), can.indexes),
            (lambda: store.remove_member(context, "k", "m"), can.indexes),
        ]
        if isinstance(store, ManagedStorage):
            update_expiration, touch_context = store.update_expiration, store.touch_context
            delete_context = store.delete_context
            writes += [
                (lambda: update_expiration(context, "k", None), True),
                (lambda: touch_context(context, None), can.contexts),
                (lambda: delete_context(context), True),
            ]
        for act, is_declared in writes:
            if is_declined(is_declared, act):
                continue
            with self.outage(), pytest.raises((StorageUnavailable, OutcomeUnknown)):
                act()
            eventually(store.ping)
            eventually(act)

    def test_unfit_arguments_are_refused_during_an_outage(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k")
        too_large = too_large_value(store.capabilities.value_bytes)
        with self.outage():
            with pytest.raises(CapacityError):
                store.read(context, "k" * (store.capabilities.key_bytes + 1))
            with pytest.raises(CapacityError):
                store.update(context, "k", too_large, None, 2)
            with pytest.raises(CapacityError):
                store.update(context, "k", b"w", None, LAST_VERSION + 1)
            with pytest.raises(CapacityError):
                store.update(context, "k", b"w", LATEST + 1, 2)
        assert eventually(store.read, context, "k") == Stored(b"v", 1, None)

    def test_store_works_again_after_an_outage(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        for version in (2, 3, 4):
            with self.outage(), pytest.raises(StorageUnavailable):
                store.ping()
            eventually(store.ping)
            value = str(version).encode()
            assert eventually(store.update, context, "k", value, None, version)
            assert read(store, context, "k").value == value


class LostReplies(Suite):
    """Collected if a suite has `lost_reply()`: inside it, the next reply does not arrive."""

    def lost_reply(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_with_a_lost_reply_reports_neither_success_nor_failure(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        write(store, context, "k")
        before, answer = store.read(context, key), None
        with self.lost_reply():
            try:
                answer = act(store, context)
            except (OutcomeUnknown, StorageUnavailable) as error:
                answer = error
        after = eventually(store.read, context, key)
        if isinstance(answer, OutcomeUnknown):
            assert after in (before, done)
            if not operation.endswith("delete"):
                assert answer.version == 7, "OutcomeUnknown must have the proposed version"
        elif isinstance(answer, StorageUnavailable):
            assert after == before, "StorageUnavailable was raised, but the write was made"
        else:
            assert answer is True, f"{operation} returned {answer!r}: was it repeated blindly?"
            assert after == done

    def test_lost_reply_to_a_read_is_not_absence(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        with self.lost_reply():
            try:
                found = store.read(context, "k")
            except StorageUnavailable:
                return
        assert found == Stored(b"v", 1, None)

    def test_late_reply_does_not_answer_another_call(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"1")
        write(store, context, "other", b"2")
        with self.lost_reply(), contextlib.suppress(StorageUnavailable):
            store.read(context, "k")
        for _ in range(3):
            assert eventually(read, store, context, "other").value == b"2"
            assert eventually(read, store, context, "k").value == b"1"
