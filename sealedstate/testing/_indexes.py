"""Tests of indexes: sets of members, each with an expiry."""

from __future__ import annotations

from threading import Barrier

import pytest

from ..errors import CapacityError
from ..storage.contract import LATEST, ManagedStorage, Storage, Stored
from ._names import ODD_NAMES
from ._records import DAY
from ._suite import (
    MINUTE,
    RACERS,
    FakeClock,
    Suite,
    batches,
    eventually,
    fitting_count,
    is_declined,
    must_be_gone_at,
    write,
)


def add_members(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, context: str, count: int
) -> None:
    for number in range(count):
        barrier.wait()
        eventually(store.add_member, context, "k", f"{racer}-{number}", None)


def remove_members(
    store: Storage, clock: FakeClock, racer: int, barrier: Barrier, context: str
) -> list[bool]:
    removed = []
    for name in "abcdef":
        barrier.wait()
        removed.append(eventually(store.remove_member, context, "k", name))
    return removed


class Indexes(Suite):
    def test_members_are_returned_with_their_expiries(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        now = clock.now
        expected = {
            **{"a": now + MINUTE, "b": now + MINUTE + 1, "c": None, "d": now + 400 * DAY},
            **{"last": LATEST, "last but one": LATEST - 1},
        }
        for member, expires_at in expected.items():
            store.add_member(context, "k", member, expires_at)
        assert store.members(context, "k") == expected
        assert store.members(context, "other") == {}
        assert store.members(context + "2", "k") == {}

    def test_each_member_lives_until_its_expiry(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        first = clock.now + MINUTE
        last = must_be_gone_at(store, first) + MINUTE
        for member, expires_at in (("first", first), ("last", last), ("permanent", None)):
            store.add_member(context, "k", member, expires_at)
        clock.stop(first - 1)
        assert store.members(context, "k") == {"first": first, "last": last, "permanent": None}
        clock.stop(must_be_gone_at(store, first))
        assert store.members(context, "k") == {"last": last, "permanent": None}
        assert store.remove_member(context, "k", "first") is False, "it has expired"
        clock.stop(must_be_gone_at(store, last))
        assert store.members(context, "k") == {"permanent": None}

    def test_adding_a_member_again_changes_its_expiry(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        first = clock.now + MINUTE
        for expires_at in (first, first + MINUTE, None, first + 2, first):
            store.add_member(context, "k", "m", expires_at)
            assert store.members(context, "k") == {"m": expires_at}
        clock.stop(must_be_gone_at(store, first))
        assert store.members(context, "k") == {}
        store.add_member(context, "k", "m", None)
        assert store.members(context, "k") == {"m": None}

    def test_member_is_removed_once(self, store: Storage, context: str) -> None:
        if self.declines_indexes(store, context):
            return
        for member in ("a", "b"):
            store.add_member(context, "k", member, None)
        assert store.remove_member(context, "k", "a") is True
        assert store.remove_member(context, "k", "a") is False
        assert store.remove_member(context, "other", "b") is False
        assert store.remove_member(context + "2", "k", "b") is False
        assert store.members(context, "k") == {"b": None}
        assert store.remove_member(context, "k", "b") is True
        assert store.members(context, "k") == {}

    def test_index_and_record_of_one_name_are_independent(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        expires_at = clock.now + MINUTE
        store.add_member(context, "k", "m", None)
        assert store.read(context, "k") is None, "an index looks like a record"
        write(store, context, "k", b"v", expires_at, 1)
        assert store.update(context, "k", b"w", expires_at, 2) is True
        assert store.members(context, "k") == {"m": None}
        assert store.remove_member(context, "k", "m") is True
        assert store.read(context, "k") == Stored(b"w", 2, expires_at)
        store.add_member(context, "k", "m", None)
        assert store.delete(context, "k") is True
        assert store.members(context, "k") == {"m": None}, "deleting a record has hit an index"
        if store.capabilities.enumerable:
            assert list(store.keys(context)) == [], "an index is no record"

    def test_touching_a_context_leaves_its_indexes_alone(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context) or not store.capabilities.contexts:
            return
        if not isinstance(store, ManagedStorage):
            return
        store.add_member(context, "k", "m", None)
        store.touch_context(context, clock.now + MINUTE)
        assert store.members(context, "k") == {"m": None}

    def test_deleting_a_context_deletes_its_indexes_and_no_others(
        self, store: Storage, context: str
    ) -> None:
        if self.declines_indexes(store, context) or not isinstance(store, ManagedStorage):
            return
        for where in (context, context + "2"):
            store.add_member(where, "k", "m", None)
        store.delete_context(context)
        assert store.members(context, "k") == {}
        assert store.members(context + "2", "k") == {"m": None}
        store.add_member(context, "k", "n", None)
        assert store.members(context, "k") == {"n": None}

    def test_odd_members_are_distinct_and_returned_unchanged(
        self, store: Storage, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        limit = min(store.capabilities.key_bytes, store.capabilities.value_bytes)
        members = [name for name in ODD_NAMES if len(name.encode()) <= limit]
        for batch in batches(store, members, context, "k"):
            for member in batch:
                store.add_member(context, "k", member, None)
            assert sorted(store.members(context, "k")) == sorted(batch)
            assert [m for m in batch if store.remove_member(context, "k", m) is not True] == []
            assert store.members(context, "k") == {}

    def test_member_that_is_no_unicode_is_refused(self, store: Storage, context: str) -> None:
        if self.declines_indexes(store, context):
            return
        with pytest.raises(CapacityError):
            store.add_member(context, "k", "\ud800", None)
        with pytest.raises(CapacityError):
            store.remove_member(context, "k", "\ud800")
        assert store.members(context, "k") == {}

    def test_reaping_removes_no_live_member(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        first = clock.now + MINUTE
        expected = {"later": must_be_gone_at(store, first) + MINUTE, "permanent": None}
        for member, expires_at in {"over": first, **expected}.items():
            store.add_member(context, "k", member, expires_at)
        clock.stop(must_be_gone_at(store, first))
        assert 0 <= store.reap(1000) <= 1000
        assert store.members(context, "k") == expected

    def test_concurrently_added_members_are_all_there(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        count = fitting_count(store, RACERS * 5, context, "k", "10-0") // RACERS
        self.race(store, clock, add_members, context, count)
        expected = {f"{racer}-{number}" for racer in range(RACERS) for number in range(count)}
        assert set(store.members(context, "k")) == expected, "members were lost"

    def test_one_of_concurrent_removals_of_a_member_succeeds(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        for member in "abcdef":
            store.add_member(context, "k", member, None)
        removed = self.race(store, clock, remove_members, context)
        winners = [sum(answers) for answers in zip(*removed, strict=True)]
        assert winners == [1] * 6, f"winners by member: {winners}"

    def declines_indexes(self, store: Storage, context: str) -> bool:
        return is_declined(
            store.capabilities.indexes,
            lambda: store.add_member(context, "k", "m", None),
            lambda: store.remove_member(context, "k", "m"),
            lambda: store.members(context, "k"),
        )
