"""What a store owes for contexts: touched, deleted and listed as a whole, and by themselves.

Knows which operations a store may decline by its capabilities, touching and listing: then they must
say so, and not do nothing. Does not know what contexts are for.
"""

# ruff: noqa: S101
from __future__ import annotations

import pytest

from ..storage.contract import Storage, Stored
from .clock import KitClock
from .expiry import gone_at
from .suite import MINUTE, Suite, at_once, read, undeclared, write


class Contexts(Suite):
    def test_touching_a_context_moves_its_live_records_and_no_others(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        if self.declines_touching(store, context):
            return
        first, then = clock.now + MINUTE, clock.now + 3 * MINUTE
        write(store, context, "live", b"1", first + MINUTE, 1)
        write(store, context, "permanent", b"2", None, 2)
        write(store, context, "over", b"3", first, 3)
        write(store, context + "2", "sibling", b"4", first + MINUTE, 4)
        clock.stop(gone_at(store, first))
        store.touch_context(context, then)
        assert store.read(context, "live") == Stored(b"1", 1, then)
        assert store.read(context, "permanent") == Stored(b"2", 2, then)
        assert store.read(context, "over") is None, "a touch has revived an expired record"
        assert store.read(context + "2", "sibling") == Stored(b"4", 4, first + MINUTE)
        clock.stop(gone_at(store, then))
        assert store.read(context, "live") is None, "touched, but alive at its new expiry"
        assert store.read(context, "permanent") is None

    def test_a_touched_context_becomes_permanent_and_finite_again(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        if self.declines_touching(store, context):
            return
        first = clock.now + MINUTE
        write(store, context, "k", b"v", first)
        for expires_at in (None, first + 1, None):
            store.touch_context(context, expires_at)
            assert store.read(context, "k") == Stored(b"v", 1, expires_at)
        clock.stop(first + MINUTE)
        assert store.read(context, "k") == Stored(b"v", 1, None)

    def test_touching_or_deleting_an_empty_context_is_harmless(
        self, store: Storage, context: str
    ) -> None:
        store.delete_context(context)
        if not self.declines_touching(store, context):
            store.touch_context(context, None)
        assert store.read(context, "k") is None
        write(store, context, "k")

    def test_deleting_a_context_deletes_all_of_it_and_no_other(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        places = [(f"{context}{end}", key) for end in ("", "2", "\0", " ") for key in "ab"]
        for where, key in [*places, (context.upper(), "a")]:
            write(store, where, key, b"v", clock.now + MINUTE)
        store.delete_context(context)
        store.delete_context(context)
        there = [(where, key) for where, key in places if store.read(where, key) is not None]
        assert there == places[2:], "those of other contexts stay, and no others"
        assert store.read(context.upper(), "a") is not None

    def test_a_deleted_context_can_be_filled_again(self, store: Storage, context: str) -> None:
        write(store, context, "a", b"old", None, 5)
        write(store, context, "b", b"old", None, 5)
        store.delete_context(context)
        write(store, context, "a", b"new", None, 6)
        assert store.read(context, "a") == Stored(b"new", 6, None)
        assert store.read(context, "b") is None, "an older record has come back"
        assert store.update(context, "a", b"newer", None, 7, 6) is True

    def declines_touching(self, store: Storage, context: str) -> bool:
        return undeclared(store.capabilities.contexts, lambda: store.touch_context(context, None))

    # --- keys ---

    def test_the_keys_of_a_context_are_its_live_ones(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        if self.declines_keys(store, context):
            return
        expires_at = clock.now + MINUTE
        for key in ("live", "permanent", "over", "deleted"):
            write(store, context, key, b"v", expires_at if key == "over" else None)
        write(store, context + "2", "sibling")
        assert store.delete(context, "deleted") is True
        assert sorted(store.keys(context)) == ["live", "over", "permanent"]
        clock.stop(gone_at(store, expires_at))
        assert sorted(store.keys(context)) == ["live", "permanent"]
        assert list(store.keys(context + "3")) == []

    @pytest.mark.parametrize("prefix", ["", "a", "A", "a%", "a_", "a*", "a\\", "%", "é", "aa", "x"])
    def test_keys_are_those_with_the_prefix_and_no_pattern(
        self, store: Storage, context: str, prefix: str
    ) -> None:
        if self.declines_keys(store, context):
            return
        keys = [
            "a",
            "aa",
            "ab",
            "a%",
            "a%b",
            "a_",
            "a*",
            "a\\",
            "A",
            "b",
            "%",
            "é",
            "éa",
            "e\u0301",
        ]
        for key in keys:
            write(store, context, key)
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert sorted(store.keys(context, prefix)) == expected

    def test_listed_keys_are_a_snapshot(self, store: Storage, context: str) -> None:
        if self.declines_keys(store, context):
            return
        for number in range(20):
            write(store, context, str(number))
        listed = store.keys(context)
        for number in range(20):
            assert store.delete(context, str(number)) is True
            write(store, context, f"new-{number}")
        assert sorted(listed) == sorted(str(number) for number in range(20))

    def test_keys_that_are_many_are_all_listed_once(self, store: Storage, context: str) -> None:
        if self.declines_keys(store, context):
            return
        expected = [f"{number:04}" for number in range(at_once(store, 300, context, "0000"))]
        for key in expected:
            write(store, context, key, b"")
        assert sorted(store.keys(context)) == expected

    def test_what_a_record_is_named_says_nothing_about_others(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k", b"1")
        write(store, context, "K", b"2")
        write(store, context + "2", "k", b"3")
        assert store.update(context, "K", b"4", None, 2) is True
        assert store.delete(context + "2", "k") is True
        assert read(store, context, "k") == Stored(b"1", 1, None)

    def declines_keys(self, store: Storage, context: str) -> bool:
        return undeclared(store.capabilities.enumerable, lambda: list(store.keys(context)))
