"""Tests of what happens at once: races of writers, their followers, outages and lost replies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from threading import Barrier

import pytest

from ..errors import CapacityError, OutcomeUnknown, StorageError, StorageUnavailable
from ..storage.contract import (
    FOLLOWED,
    LAST_VERSION,
    LATEST,
    FollowedStorage,
    Storage,
    Stored,
    is_managed,
)
from ._names import too_large_value
from ._suite import (
    MINUTE,
    PATIENCE,
    RACERS,
    Context,
    FakeClock,
    Suite,
    eventually,
    fitting_count,
    is_supported,
    poll,
    succeeds,
)
from ._workers import run_in_fork, run_in_threads, worker_pool

KEYS = [str(number) for number in range(25)]
INCREMENTS = 4
CONTEXTS = 10
YEAR_2100 = 4_102_444_800_000


def create_one(context: Context, racer: int, key: str) -> bool:
    return context.create(key, str(racer).encode(), None, 1)


def update_one(context: Context, racer: int, key: str) -> bool:
    return context.update(key, str(racer).encode(), None, 2 + racer, 1)


def delete_one(context: Context, racer: int, key: str, expected: int | None) -> bool:
    return context.delete(key, expected)


def increment(context: Context, racer: int, barrier: Barrier) -> None:
    def increment_once() -> bool:
        stored = context.read_live("counter")
        value = str(int(stored.value) + 1).encode()
        return context.update("counter", value, None, stored.version + 1, stored.version)

    for _ in range(INCREMENTS):
        barrier.wait()
        while not succeeds(increment_once):
            pass


def write_or_read(context: Context, racer: int, barrier: Barrier, size: int) -> None:
    """Half of the racers overwrite a record, the others look for a mixture of two writes."""
    for version in range(2, 2 + len(KEYS)):
        barrier.wait()
        if racer % 2:
            new = consistent_record(version, size)
            succeeds(context.update, "k", new.value, new.expires_at, new.version)
        else:
            stored = eventually(context.read, "k")
            assert stored is not None, "the record is absent while it is being overwritten"
            expected = consistent_record(stored.version, size)
            assert stored == expected, "parts of two writes in one record"


def consistent_record(version: int, size: int) -> Stored:
    """Return a record of which each part determines the others."""
    return Stored(bytes([version]) * size, version, YEAR_2100 + version)


def delete_or_disturb(context: Context, racer: int, barrier: Barrier) -> None:
    """One racer deletes contexts, while the others change the records in them."""

    acts: list[Callable[[Context], object]] = [
        lambda where: where.update_expiration("k", YEAR_2100),
        lambda where: succeeds(where.update, "k", b"w", None, 2 + racer),
        lambda where: where.create("k2", b"new", None, 2 + racer),
        lambda where: where.capabilities.contexts and where.touch_all(YEAR_2100),
    ]
    act = acts[racer % len(acts)] if racer else Context.delete_all
    for number in range(CONTEXTS):
        barrier.wait()
        eventually(act, context.beside(f"-{number}"))


def prepare(context: Context, racer: int, barrier: Barrier) -> None:
    barrier.wait()
    if is_managed(context.store):
        eventually(context.store.prepare)


def read_and_write(store: Storage, clock: FakeClock, process: int, name: str) -> Stored | None:
    """Return the record, then update it and add a member to the index of its name."""
    context = Context(store, clock, name)
    found = context.read("k")
    assert context.update("k", b"theirs", context.now + MINUTE, 2, expected=1) is True
    if context.capabilities.indexes:
        context.add_member("k", "theirs", None)
    return found


class Races(Suite):
    def test_one_of_concurrent_creates_succeeds(self, context: Context) -> None:
        for key, winner in self.winners(context, create_one, KEYS).items():
            assert context.read_live(key).value == str(winner).encode()

    def test_one_of_concurrent_checked_updates_succeeds(self, context: Context) -> None:
        for key in KEYS:
            context.write(key)
        for key, winner in self.winners(context, update_one, KEYS).items():
            assert context.read(key) == Stored(str(winner).encode(), 2 + winner, None)

    def test_one_of_concurrent_deletes_succeeds(self, context: Context) -> None:
        for expected in (1, None):
            for key in KEYS:
                context.write(key)
            self.winners(context, partial(delete_one, expected=expected), KEYS)

    def test_counter_with_concurrent_checked_updates_loses_no_increment(
        self, context: Context
    ) -> None:
        context.write("counter", b"0")
        self.race(context, increment)
        total = RACERS * INCREMENTS
        assert context.read("counter") == Stored(str(total).encode(), 1 + total, None)

    def test_reads_return_whole_writes_only(self, context: Context) -> None:
        size = min(5000, context.capabilities.value_bytes)
        first = consistent_record(1, size)
        context.write("k", first.value, first.expires_at, first.version)
        self.race(context, write_or_read, size)
        assert context.read("k") == consistent_record(1 + len(KEYS), size)

    def test_records_of_a_deleted_context_are_never_read_again(self, context: Context) -> None:
        if not context.is_managed:
            return
        contexts = [context.beside(f"-{number}") for number in range(CONTEXTS)]
        for where in contexts:
            where.write("k")
        self.race(context, delete_or_disturb)
        assert [where.read("k") for where in contexts] == [None] * CONTEXTS

    def test_preparing_again_and_concurrently_is_harmless(self, context: Context) -> None:
        context.write("k")
        self.race(context, prepare)
        run_in_threads(8, lambda racer, barrier: prepare(context, racer, barrier))
        assert context.read("k") == Stored(b"v", 1, None)

    def test_writes_of_one_process_are_visible_to_others(self, context: Context) -> None:
        if not context.is_shared:
            return
        context.clock.stop(context.now)
        context.write("k", b"ours", context.now + MINUTE, 1)
        expected = Stored(b"ours", 1, context.now + MINUTE)
        found = worker_pool(1).run(self, context.clock, read_and_write, context.name)
        assert found == [expected]
        assert context.read("k") == Stored(b"theirs", 2, context.now + MINUTE)
        if context.capabilities.indexes:
            assert context.members("k") == {"theirs": None}

    def test_fork_leaves_the_parents_store_unharmed(self, context: Context) -> None:
        context.write("k", b"v", None, 1)

        def use_and_close() -> str:
            try:
                found = context.read("k")
                context.create("child", b"child", None, 1)
            except StorageError:
                return "refused"
            assert found == Stored(b"v", 1, None), f"the child of a fork reads {found}"
            context.store.close()
            return "done"

        problem, answer = run_in_fork(use_and_close)
        assert not problem, problem
        if not context.capabilities.server_side:
            assert answer in ("done", "refused")
        else:
            assert answer == ("done" if context.capabilities.shared else "refused")
        if context.is_shared:
            assert context.read("child") == Stored(b"child", 1, None), "not shared"
        assert context.read("k") == Stored(b"v", 1, None)
        assert context.update("k", b"w", None, 2, expected=1) is True


# Each on a record "k" of version 1 and value b"v"; and the record that the write leaves.
WRITTEN = Stored(b"w", 7, None)
WRITES: dict[str, tuple[Callable[[Context], object], str, Stored | None]] = {
    "create": (lambda context: context.create("new", b"w", None, 7), "new", WRITTEN),
    "update": (lambda context: context.update("k", b"w", None, 7), "k", WRITTEN),
    "checked update": (lambda context: context.update("k", b"w", None, 7, 1), "k", WRITTEN),
    "delete": (lambda context: context.delete("k"), "k", None),
    "checked delete": (lambda context: context.delete("k", 1), "k", None),
}


class Outages(Suite):
    """Collected if a suite has `outage()`: inside it, the store can't be reached."""

    def outage(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    def test_read_during_an_outage_raises(self, context: Context) -> None:
        can = context.capabilities
        reads: list[tuple[Callable[[], object], bool]] = [
            (lambda: context.read("k"), True),
            (lambda: list(context.keys()), can.enumerable),
            (lambda: context.members("k"), can.indexes),
            (context.store.ping, True),
        ]
        for act, is_declared in reads:
            if not is_supported(is_declared, act):
                continue
            with self.outage():
                for _ in range(2):
                    with pytest.raises(StorageUnavailable):
                        act()
            eventually(act)

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_during_an_outage_raises_and_writes_nothing(
        self, context: Context, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        context.write("k")
        before = context.read(key)
        with self.outage():
            for _ in range(2):
                # If the connection breaks during the call, the outcome is unknown.
                with pytest.raises((StorageUnavailable, OutcomeUnknown)):
                    act(context)
        assert eventually(context.read, key) == before, "written during an outage"
        assert eventually(act, context) is True
        assert context.read(key) == done

    def test_other_writes_during_an_outage_raise(self, context: Context) -> None:
        can = context.capabilities
        writes: list[tuple[Callable[[], object], bool]] = [
            (lambda: context.add_member("k", "m", None), can.indexes),
            (lambda: context.remove_member("k", "m"), can.indexes),
        ]
        if context.is_managed:
            writes += [
                (lambda: context.update_expiration("k", None), True),
                (lambda: context.touch_all(None), can.contexts),
                (context.delete_all, True),
            ]
        for act, is_declared in writes:
            if not is_supported(is_declared, act):
                continue
            with self.outage(), pytest.raises((StorageUnavailable, OutcomeUnknown)):
                act()
            eventually(context.store.ping)
            eventually(act)

    def test_unfit_arguments_are_refused_during_an_outage(self, context: Context) -> None:
        context.write("k")
        too_large = too_large_value(context.capabilities.value_bytes)
        acts: list[Callable[[], object]] = [
            lambda: context.read("k" * (context.capabilities.key_bytes + 1)),
            lambda: context.update("k", too_large, None, 2),
            lambda: context.update("k", b"w", None, LAST_VERSION + 1),
            lambda: context.update("k", b"w", LATEST + 1, 2),
        ]
        with self.outage():
            for act in acts:
                with pytest.raises(CapacityError):
                    act()
        assert eventually(context.read, "k") == Stored(b"v", 1, None)

    def test_store_works_again_after_an_outage(self, context: Context) -> None:
        context.write("k")
        for version in (2, 3, 4):
            with self.outage(), pytest.raises(StorageUnavailable):
                context.store.ping()
            eventually(context.store.ping)
            value = str(version).encode()
            assert eventually(context.update, "k", value, None, version)
            assert context.read_live("k").value == value


class Follower:
    """The records of one followed context, kept as a process of an application keeps them."""

    def __init__(self, context: Context, prefix: str, limit: int = 3) -> None:
        assert isinstance(context.store, FollowedStorage), "there is no method `changes`"
        self._store, self._place, self._limit = context.store, (context.name, prefix), limit
        self._position: str | None = None
        self.records: dict[str, Stored] = {}
        self.has_started_over = 0

    def catch_up(self) -> list[str]:
        """Read all pages; return the keys in them, in order."""
        keys: list[str] = []
        name, prefix = self._place
        while True:
            page = eventually(self._store.changes, self._position, self._limit)
            assert len(page.records) <= self._limit, "a page has more records than asked for"
            if page.starts_over:
                self.records, keys = {}, []
                self.has_started_over += 1
            self._position = page.position
            for context, key, stored in page.records:
                assert context in FOLLOWED, f"a record of {context!r}"
                if context == name and key.startswith(prefix):
                    self.records[key] = stored
                    keys.append(key)
            if page.is_last:
                return keys


def write_or_follow(context: Context, racer: int, barrier: Barrier, count: int) -> list[str]:
    """One racer follows the others, which each write `count` records: the keys of either."""
    followed, keys = replace(context, name=min(FOLLOWED)), list[str]()
    barrier.wait()
    if racer:
        for number in range(count):
            keys.append(f"{context.name}-{racer}-{number}")
            assert eventually(followed.create, keys[-1], b"v", context.now + MINUTE, 1)
        assert eventually(context.create, str(racer), b"", context.now + MINUTE, 1)
        return keys
    follower, writing = Follower(followed, context.name, limit=100), set(range(1, RACERS))
    for _ in poll(PATIENCE):
        writing = {each for each in writing if eventually(context.read, str(each)) is None}
        follower.catch_up()
        if not writing:
            break
    assert follower.has_started_over == 1
    return list(follower.records)


class Following(Suite, needs=lambda context: context.capabilities.changes):
    def test_changes_are_all_live_records_and_then_what_was_written(self, context: Context) -> None:
        for name in FOLLOWED:
            followed = replace(context, name=name)
            context.write("k")  # of another context
            follower = Follower(followed, context.name)
            keys = [f"{context.name}-{number}" for number in range(7)]
            for key in keys:
                followed.write(key, expires_at=followed.now + MINUTE)
            assert sorted(follower.catch_up()) == keys
            assert follower.catch_up() == []
            assert followed.update(keys[2], b"w", followed.now + 2 * MINUTE, 2) is True
            followed.write(f"{context.name}-new", expires_at=None)
            assert set(follower.catch_up()) == {keys[2], f"{context.name}-new"}
            assert follower.records == {
                key: followed.read_live(key) for key in [*keys, f"{context.name}-new"]
            }
            assert follower.has_started_over == 1
            followed.delete(f"{context.name}-new")
            context.delete("k")

    def test_changes_are_only_live_records(self, context: Context) -> None:
        followed = replace(context, name=min(FOLLOWED))
        key = f"{context.name}-k"
        expires_at = context.now + MINUTE
        followed.write(key, expires_at=expires_at)
        followed.write(f"{context.name}-deleted", expires_at=expires_at)
        followed.delete(f"{context.name}-deleted")
        assert Follower(followed, context.name).catch_up() == [key]
        context.stop_after(expires_at)
        assert Follower(followed, context.name).catch_up() == []
        # In place of what has expired.
        followed.write(key, expires_at=expires_at + 2 * MINUTE)
        assert Follower(followed, context.name).catch_up() == [key]

    def test_changed_expiry_is_a_change(self, context: Context) -> None:
        if not (context.is_managed and context.capabilities.contexts):
            return
        followed = replace(context, name=min(FOLLOWED))
        key, later = f"{context.name}-k", context.now + 2 * MINUTE
        followed.write(key, expires_at=context.now + MINUTE)
        follower = Follower(followed, context.name)
        follower.catch_up()
        assert followed.update_expiration(key, later) is True
        assert follower.catch_up() == [key]
        assert follower.records[key].expires_at == later

    def test_position_of_another_store_starts_over(self, context: Context) -> None:
        store = context.store
        assert isinstance(store, FollowedStorage)
        followed, key = replace(context, name=min(FOLLOWED)), f"{context.name}-k"
        followed.write(key, expires_at=context.now + MINUTE)
        position = store.changes(None, 1).position
        # With another incarnation, and as if fewer writes were numbered.
        other = position.translate(str.maketrans("0123456789abcdef", "9" * 16))
        assert store.changes(position, 100).starts_over is False
        page = store.changes(other, 10_000)
        assert page.starts_over is True
        assert key in [name for _, name, _ in page.records]

    def test_follower_misses_no_write_of_concurrent_writers(self, context: Context) -> None:
        size = fitting_count(context.store, 8 * RACERS, min(FOLLOWED), context.name + "-99-99")
        follower, *writers = self.race(context, write_or_follow, size // RACERS - 1)
        written = sorted(key for keys in writers for key in keys)
        assert sorted(follower) == written, "a follower has missed acknowledged writes"


class LostReplies(Suite):
    """Collected if a suite has `lost_reply()`: inside it, the next reply does not arrive."""

    def lost_reply(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_with_a_lost_reply_reports_neither_success_nor_failure(
        self, context: Context, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        context.write("k")
        before, answer = context.read(key), None
        with self.lost_reply():
            try:
                answer = act(context)
            except (OutcomeUnknown, StorageUnavailable) as error:
                answer = error
        after = eventually(context.read, key)
        if isinstance(answer, OutcomeUnknown):
            assert after in (before, done)
            if not operation.endswith("delete"):
                assert answer.version == 7, "OutcomeUnknown must have the proposed version"
        elif isinstance(answer, StorageUnavailable):
            assert after == before, "StorageUnavailable was raised, but the write was made"
        else:
            assert answer is True, f"{operation} returned {answer!r}: was it repeated blindly?"
            assert after == done

    def test_lost_reply_to_a_read_is_not_absence(self, context: Context) -> None:
        context.write("k")
        with self.lost_reply():
            try:
                found = context.read("k")
            except StorageUnavailable:
                return
        assert found == Stored(b"v", 1, None)

    def test_late_reply_does_not_answer_another_call(self, context: Context) -> None:
        context.write("k", b"1")
        context.write("other", b"2")
        with self.lost_reply(), contextlib.suppress(StorageUnavailable):
            context.read("k")
        for _ in range(3):
            assert eventually(context.read_live, "other").value == b"2"
            assert eventually(context.read_live, "k").value == b"1"
