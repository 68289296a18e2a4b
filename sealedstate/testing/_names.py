"""Tests of contexts, keys and indexes: odd names, sizes, listings, members and whole contexts."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable
from threading import Barrier

import pytest

from ..errors import CapacityError, StorageError
from ..storage.contract import LATEST, ManagedStorage, Storage, Stored
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
    read,
    write,
)

# Names with which other stores have had trouble.
ODD_NAMES = [
    *("\0", "a\0b", "a\0c", "a"),
    *("\r\n", "a\r\nset b 0 0 1\r\n1", "a\nb", "\t", "\x7f", "\x1b[0m"),
    *(" ", "  ", "a ", " a", "a  "),
    *("%", "a%", "_", "*", "a*", "?", "[a]", "{a}", "{a}b", "\\", "\\0", "%00", ":", "a:b", "/"),
    *("'; DROP TABLE records; --", '"', "`", "$1", ":context", "../../etc/passwd", "None", "0"),
    *("Straße", "STRASSE", "straße", "ß", "ss", "A", "İ", "i", "ı", "I", "Ａ"),
    *(unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"), "e"),
    *("\N{GRINNING FACE}", "\u202e", "\ufeff", "\ufffd", "\u2028", "\U0010ffff", "\x80", "ÿ"),
    *("k" * 250, "k" * 251, "k" * 255, "k" * 256, "é" * 200),
    *("k" * 4096, "k" * 4095 + "j", "k" * 4095 + "K"),
]

# Contexts and keys that must not be confused.
PLACES = [
    *(("a", "bc"), ("ab", "c"), ("a", "b"), ("a\0b", "c"), ("a", "b\0c"), ("A", "bc")),
    *(("a:b", "c"), ("a", "b:c"), ("a/b", "c"), ("a", "b/c"), ("a|b", "c"), ("a", "b|c")),
]

PREFIXED_KEYS = [
    *("a", "aa", "ab", "a%", "a%b", "a_", "a*", "a\\", "A", "b", "%", "é", "éa", "e\u0301"),
]

# No value is larger than this, whatever limit a store declares.
LARGEST = 1 << 26
FILLING = b"\xa5" * 100


class Oversized(bytes):
    """A value that claims to be larger than any memory."""

    size: int

    def __len__(self) -> int:
        return self.size


def too_large_value(limit: int) -> bytes:
    """Return a value that is one byte over `limit`."""
    if limit < LARGEST:
        return bytes(limit + 1)
    value = Oversized(b"v")
    value.size = limit + 1
    return value


def unfit_names(limit: int) -> list[str]:
    """Return names that are empty, invalid, and too long: one in characters, one only in bytes."""
    return ["", "\ud800", "k" * (limit + 1), "é" * (limit // 2 + 1)]


class Names(Suite):
    def test_odd_keys_are_distinct_and_returned_unchanged(
        self, store: Storage, context: str
    ) -> None:
        limit = store.capabilities.key_bytes
        for name in ODD_NAMES:
            if len(name.encode()) > limit:
                with pytest.raises(CapacityError):
                    store.read("kit", name)
        fitting = [name for name in ODD_NAMES if len(name.encode()) <= limit]
        values = {key: str(number).encode() for number, key in enumerate(fitting)}
        for batch in batches(store, fitting, context, b"10"):
            for key in batch:
                write(store, context, key, values[key])
            for key, value in values.items():
                expected = Stored(value, 1, None) if key in batch else None
                assert store.read(context, key) == expected, repr(key[:60])
            if store.capabilities.enumerable:
                assert sorted(store.keys(context)) == sorted(batch)
            assert [key for key in batch if store.delete(context, key) is not True] == []

    def test_odd_contexts_are_distinct(self, store: Storage, context: str) -> None:
        limit = store.capabilities.context_bytes
        odd = [name + context for name in ODD_NAMES] + [context + name for name in ODD_NAMES]
        fitting = (name for name in odd if len(name.encode()) <= limit)
        values = {name: str(number).encode() for number, name in enumerate(fitting)}
        for batch in batches(store, list(values), "k", b"100"):
            for name in batch:
                write(store, name, "k", values[name])
            for name, value in values.items():
                expected = Stored(value, 1, None) if name in batch else None
                assert store.read(name, "k") == expected, repr(name[:60])
            assert [name for name in batch if store.delete(name, "k") is not True] == []

    def test_border_between_context_and_key_counts(self, store: Storage, context: str) -> None:
        for number, (end, key) in enumerate(PLACES):
            write(store, context + end, key, str(number).encode())
        for number, (end, key) in enumerate(PLACES):
            stored = read(store, context + end, key)
            assert stored.value == str(number).encode(), f"({end!r}, {key!r}) is another place"

    def test_unfit_names_are_refused(self, store: Storage, context: str) -> None:
        can = store.capabilities
        # A store without indexes may refuse their operations for either reason.
        index_refusal = CapacityError if can.indexes else StorageError
        acts: list[tuple[Callable[[str, str], object], type[StorageError]]] = [
            (lambda context, key: store.create(context, key, b"v", None, 1), CapacityError),
            (store.read, CapacityError),
            (lambda context, key: store.update(context, key, b"v", None, 2), CapacityError),
            (store.delete, CapacityError),
            (lambda context, key: store.add_member(context, key, "m", None), index_refusal),
            (lambda context, key: store.remove_member(context, key, "m"), index_refusal),
            (store.members, index_refusal),
        ]
        list_refusal = CapacityError if can.enumerable else StorageError
        if isinstance(store, ManagedStorage):
            change = store.update_expiration
            acts.append((lambda context, key: change(context, key, None), CapacityError))
        for act, refusal in acts:
            for key in unfit_names(can.key_bytes):
                with pytest.raises(refusal):
                    act(context, key)
            for unfit_context in unfit_names(can.context_bytes):
                with pytest.raises(refusal):
                    act(unfit_context, "k")
        for unfit_context in unfit_names(can.context_bytes):
            with pytest.raises(list_refusal):
                list(store.keys(unfit_context))

    def test_large_value_is_refused_and_the_old_one_stays(
        self, store: Storage, context: str
    ) -> None:
        too_large = too_large_value(store.capabilities.value_bytes)
        write(store, context, "k")
        with pytest.raises(CapacityError):
            store.update(context, "k", too_large, None, 2)
        with pytest.raises(CapacityError):
            store.create(context, "other", too_large, None, 1)
        assert store.read(context, "k") == Stored(b"v", 1, None)
        assert store.read(context, "other") is None

    def test_names_and_values_may_be_as_large_as_declared(
        self, store: Storage, context: str
    ) -> None:
        can = store.capabilities
        long_context = context + "c" * (min(can.context_bytes, LARGEST) - len(context))
        long_key = "k" * min(can.key_bytes, LARGEST)
        value = b"\xa5" * min(can.value_bytes, LARGEST)
        write(store, long_context, "k")
        write(store, context, long_key)
        assert read(store, long_context, "k").value == read(store, context, long_key).value == b"v"
        for where, key in ((long_context, "k"), (context, long_key)):
            assert store.delete(where, key) is True
        write(store, long_context, long_key, value)
        assert read(store, long_context, long_key).value == value

    def test_full_store_refuses_more_and_loses_nothing(self, store: Storage, context: str) -> None:
        total = store.capabilities.total_bytes
        if total is None:
            return
        surely = fitting_count(store, total, context, "0000", FILLING)
        keys = [f"{number:04}" for number in range(surely)]
        for key in keys:
            write(store, context, key, FILLING)
        with contextlib.suppress(CapacityError):
            for number in range(surely, 10 * surely):
                write(store, context, f"{number:04}", FILLING)
                keys.append(f"{number:04}")
        found = [store.read(context, key) for key in keys]
        assert found == [Stored(FILLING, 1, None)] * len(keys), "a record was lost"
        refused = f"{len(keys):04}"
        assert store.read(context, refused) is None
        assert store.delete(context, keys[0]) is True
        write(store, context, refused, FILLING)

    def test_similar_names_are_independent(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"1")
        write(store, context, "K", b"2")
        write(store, context + "2", "k", b"3")
        assert store.update(context, "K", b"4", None, 2) is True
        assert store.delete(context + "2", "k") is True
        assert read(store, context, "k") == Stored(b"1", 1, None)

    # --- listings -------------------------------------------------------------------------------

    def test_keys_are_those_of_live_records(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if self.declines_keys(store, context):
            return
        expires_at = clock.now + MINUTE
        for key in ("live", "permanent", "over", "deleted"):
            write(store, context, key, b"v", expires_at if key == "over" else None)
        write(store, context + "2", "sibling")
        assert store.delete(context, "deleted") is True
        assert sorted(store.keys(context)) == ["live", "over", "permanent"]
        clock.stop(must_be_gone_at(store, expires_at))
        assert sorted(store.keys(context)) == ["live", "permanent"]
        assert list(store.keys(context + "3")) == []

    def test_prefix_of_keys_is_no_pattern(self, store: Storage, context: str) -> None:
        if self.declines_keys(store, context):
            return
        for key in PREFIXED_KEYS:
            write(store, context, key)
        for prefix in ("", "a", "A", "a%", "a_", "a*", "a\\", "%", "é", "aa", "x"):
            expected = sorted(key for key in PREFIXED_KEYS if key.startswith(prefix))
            assert sorted(store.keys(context, prefix)) == expected, prefix

    def test_keys_are_a_snapshot(self, store: Storage, context: str) -> None:
        if self.declines_keys(store, context):
            return
        for number in range(20):
            write(store, context, str(number))
        listed = store.keys(context)
        for number in range(20):
            assert store.delete(context, str(number)) is True
            write(store, context, f"new-{number}")
        assert sorted(listed) == sorted(str(number) for number in range(20))

    def test_300_keys_are_each_listed_once(self, store: Storage, context: str) -> None:
        if self.declines_keys(store, context):
            return
        count = fitting_count(store, 300, context, "0000")
        expected = [f"{number:04}" for number in range(count)]
        for key in expected:
            write(store, context, key, b"")
        assert sorted(store.keys(context)) == expected

    def declines_keys(self, store: Storage, context: str) -> bool:
        return is_declined(store.capabilities.enumerable, lambda: list(store.keys(context)))


class Contexts(Suite):
    """For stores with the operations of ManagedStorage; without them there is nothing to test."""

    def test_unfit_contexts_are_refused(self, store: Storage) -> None:
        if not isinstance(store, ManagedStorage):
            return
        refusal = CapacityError if store.capabilities.contexts else StorageError
        for context in unfit_names(store.capabilities.context_bytes):
            with pytest.raises(refusal):
                store.touch_context(context, None)
            with pytest.raises(CapacityError):
                store.delete_context(context)

    def test_touching_a_context_changes_its_live_records_only(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage) or self.declines_touching(store, context):
            return
        first, then = clock.now + MINUTE, clock.now + 3 * MINUTE
        write(store, context, "live", b"1", first + MINUTE, 1)
        write(store, context, "permanent", b"2", None, 2)
        write(store, context, "over", b"3", first, 3)
        write(store, context + "2", "sibling", b"4", first + MINUTE, 4)
        clock.stop(must_be_gone_at(store, first))
        store.touch_context(context, then)
        assert store.read(context, "live") == Stored(b"1", 1, then)
        assert store.read(context, "permanent") == Stored(b"2", 2, then)
        assert store.read(context, "over") is None, "a touch has revived an expired record"
        assert store.read(context + "2", "sibling") == Stored(b"4", 4, first + MINUTE)
        clock.stop(must_be_gone_at(store, then))
        assert store.read(context, "live") is None, "touched, but live at its new expiry"
        assert store.read(context, "permanent") is None

    def test_touched_context_becomes_permanent_and_finite_again(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage) or self.declines_touching(store, context):
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
        if not isinstance(store, ManagedStorage):
            return
        store.delete_context(context)
        if not self.declines_touching(store, context):
            store.touch_context(context, None)
        assert store.read(context, "k") is None
        write(store, context, "k")

    def test_deleting_a_context_deletes_all_of_it_and_no_other(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage):
            return
        places = [(f"{context}{end}", key) for end in ("", "2", "\0", " ") for key in "ab"]
        for where, key in [*places, (context.upper(), "a")]:
            write(store, where, key, b"v", clock.now + MINUTE)
        store.delete_context(context)
        store.delete_context(context)
        live = [(where, key) for where, key in places if store.read(where, key) is not None]
        assert live == places[2:], "other contexts must stay, and only they"
        assert store.read(context.upper(), "a") is not None

    def test_deleted_context_can_be_filled_again(self, store: Storage, context: str) -> None:
        if not isinstance(store, ManagedStorage):
            return
        write(store, context, "a", b"old", None, 5)
        write(store, context, "b", b"old", None, 5)
        store.delete_context(context)
        write(store, context, "a", b"new", None, 6)
        assert store.read(context, "a") == Stored(b"new", 6, None)
        assert store.read(context, "b") is None, "a deleted record has returned"
        assert store.update(context, "a", b"newer", None, 7, 6) is True

    def declines_touching(self, store: ManagedStorage, context: str) -> bool:
        return is_declined(store.capabilities.contexts, lambda: store.touch_context(context, None))


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
