"""What a store owes for indexes: sets of members, each with an expiry of its own.

Knows that an index and a record may have one name and nothing else in common. Does not know what
members stand for.
"""

from __future__ import annotations

import pytest

from ..errors import CapacityError
from ..storage.contract import LATEST, Storage, Stored
from .clock import FakeClock
from .names import ODD_NAMES
from .records import DAY, gone_at
from .suite import MINUTE, RACERS, Suite, at_once, in_turns, insist, undeclared, write
from .workers import Meet

EACH = 5


def add_members(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str, each: int
) -> None:
    for number in range(each):
        meet()
        insist(store.add_member, context, "k", f"{racer}-{number}", None)


def remove_members(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str
) -> list[bool]:
    removed = []
    for name in "abcdef":
        meet()
        removed.append(insist(store.remove_member, context, "k", name))
    return removed


class Indexes(Suite):
    def test_members_come_back_with_their_expiries(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        now = clock.now
        expected = {"a": now + MINUTE, "b": now + MINUTE + 1, "c": None, "d": now + 400 * DAY}
        for member, expires_at in expected.items():
            store.add_member(context, "k", member, expires_at)
        assert store.members(context, "k") == expected
        assert store.members(context, "other") == {}
        assert store.members(context + "2", "k") == {}

    def test_each_member_lives_until_its_own_expiry(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        first = clock.now + MINUTE
        last = gone_at(store, first) + MINUTE
        for member, expires_at in (("first", first), ("last", last), ("permanent", None)):
            store.add_member(context, "k", member, expires_at)
        clock.stop(first - 1)
        assert store.members(context, "k") == {"first": first, "last": last, "permanent": None}
        clock.stop(gone_at(store, first))
        assert store.members(context, "k") == {"last": last, "permanent": None}
        assert store.remove_member(context, "k", "first") is False, "it has expired"
        clock.stop(gone_at(store, last))
        assert store.members(context, "k") == {"permanent": None}

    def test_adding_a_member_again_changes_when_it_expires(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        first = clock.now + MINUTE
        for expires_at in (first, first + MINUTE, None, first + 2, first):
            store.add_member(context, "k", "m", expires_at)
            assert store.members(context, "k") == {"m": expires_at}
        clock.stop(gone_at(store, first))
        assert store.members(context, "k") == {}
        store.add_member(context, "k", "m", None)
        assert store.members(context, "k") == {"m": None}

    def test_the_last_expiry_of_a_member_comes_back_exactly(
        self, store: Storage, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        expected = {"m": LATEST, "n": LATEST - 1, "permanent": None}
        for member, expires_at in expected.items():
            store.add_member(context, "k", member, expires_at)
        assert store.members(context, "k") == expected

    def test_a_member_is_removed_once(self, store: Storage, context: str) -> None:
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

    def test_an_index_and_a_record_of_one_name_share_nothing(
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
        store.add_member(context, "k", "m", None)
        store.touch_context(context, clock.now + MINUTE)
        assert store.members(context, "k") == {"m": None}

    def test_deleting_a_context_deletes_its_indexes_and_no_others(
        self, store: Storage, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        for where in (context, context + "2"):
            store.add_member(where, "k", "m", None)
        store.delete_context(context)
        assert store.members(context, "k") == {}
        assert store.members(context + "2", "k") == {"m": None}
        store.add_member(context, "k", "n", None)
        assert store.members(context, "k") == {"n": None}

    def test_odd_members_are_all_different_and_kept_as_they_are(
        self, store: Storage, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        limit = min(store.capabilities.key_bytes, store.capabilities.value_bytes)
        members = [name for name in ODD_NAMES if len(name.encode()) <= limit]
        for turn in in_turns(store, members, context, "k"):
            for member in turn:
                store.add_member(context, "k", member, None)
            assert sorted(store.members(context, "k")) == sorted(turn)
            assert [m for m in turn if store.remove_member(context, "k", m) is not True] == []
            assert store.members(context, "k") == {}

    def test_a_member_that_is_no_text_is_refused(self, store: Storage, context: str) -> None:
        if self.declines_indexes(store, context):
            return
        with pytest.raises(CapacityError):
            store.add_member(context, "k", "\ud800", None)
        with pytest.raises(CapacityError):
            store.remove_member(context, "k", "\ud800")
        assert store.members(context, "k") == {}

    def test_reaping_takes_no_live_member(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        first = clock.now + MINUTE
        expected = {"later": gone_at(store, first) + MINUTE, "permanent": None}
        for member, expires_at in {"over": first, **expected}.items():
            store.add_member(context, "k", member, expires_at)
        clock.stop(gone_at(store, first))
        assert 0 <= store.reap(1000) <= 1000
        assert store.members(context, "k") == expected

    def test_members_that_many_add_at_once_are_all_there(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_indexes(store, context):
            return
        each = at_once(store, RACERS * EACH, context, "k", "10-0") // RACERS
        self.race(store, clock, add_members, context, each)
        expected = {f"{racer}-{number}" for racer in range(RACERS) for number in range(each)}
        assert set(store.members(context, "k")) == expected, "members were lost"

    def test_of_many_who_remove_one_member_one_wins(
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
        return undeclared(
            store.capabilities.indexes,
            lambda: store.add_member(context, "k", "m", None),
            lambda: store.remove_member(context, "k", "m"),
            lambda: store.members(context, "k"),
        )
