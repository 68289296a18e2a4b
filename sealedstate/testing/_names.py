"""Tests of contexts, keys and indexes: odd names, sizes, listings, members and whole contexts."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from threading import Barrier

import pytest

from ..errors import CapacityError, StorageError
from ..storage.contract import LATEST, Stored
from ._records import DAY
from ._suite import (
    MINUTE,
    RACERS,
    Context,
    Suite,
    batches,
    eventually,
    fitting_count,
    is_supported,
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
    def test_odd_keys_are_distinct_and_returned_unchanged(self, context: Context) -> None:
        limit = context.capabilities.key_bytes
        for name in ODD_NAMES:
            if len(name.encode()) > limit:
                with pytest.raises(CapacityError):
                    context.read(name)
        fitting = [name for name in ODD_NAMES if len(name.encode()) <= limit]
        values = {key: str(number).encode() for number, key in enumerate(fitting)}
        for batch in batches(context.store, fitting, context.name, b"10"):
            for key in batch:
                context.write(key, values[key])
            for key, value in values.items():
                expected = Stored(value, 1, None) if key in batch else None
                assert context.read(key) == expected, repr(key[:60])
            if context.capabilities.enumerable:
                assert sorted(context.keys()) == sorted(batch)
            assert [key for key in batch if context.delete(key) is not True] == []

    def test_odd_contexts_are_distinct(self, context: Context) -> None:
        limit = context.capabilities.context_bytes
        own = context.name
        odd = [name + own for name in ODD_NAMES] + [own + name for name in ODD_NAMES]
        fitting = (name for name in odd if len(name.encode()) <= limit)
        values = {name: str(number).encode() for number, name in enumerate(fitting)}
        for batch in batches(context.store, list(values), "k", b"100"):
            for name in batch:
                replace(context, name=name).write("k", values[name])
            for name, value in values.items():
                expected = Stored(value, 1, None) if name in batch else None
                assert context.store.read(name, "k") == expected, repr(name[:60])
            assert [name for name in batch if context.store.delete(name, "k") is not True] == []

    def test_border_between_context_and_key_counts(self, context: Context) -> None:
        for number, (end, key) in enumerate(PLACES):
            context.beside(end).write(key, str(number).encode())
        for number, (end, key) in enumerate(PLACES):
            stored = context.beside(end).read_live(key)
            assert stored.value == str(number).encode(), f"({end!r}, {key!r}) is another place"

    def test_unfit_names_are_refused(self, context: Context) -> None:
        can = context.capabilities
        # A store without indexes may refuse their operations for either reason.
        index_refusal = CapacityError if can.indexes else StorageError
        acts: list[tuple[Callable[[Context, str], object], type[StorageError]]] = [
            (lambda where, key: where.create(key, b"v", None, 1), CapacityError),
            (Context.read, CapacityError),
            (lambda where, key: where.update(key, b"v", None, 2), CapacityError),
            (Context.delete, CapacityError),
            (lambda where, key: where.add_member(key, "m", None), index_refusal),
            (lambda where, key: where.remove_member(key, "m"), index_refusal),
            (Context.members, index_refusal),
        ]
        if context.is_managed:
            acts.append((lambda where, key: where.update_expiration(key, None), CapacityError))
        for act, refusal in acts:
            for key in unfit_names(can.key_bytes):
                with pytest.raises(refusal):
                    act(context, key)
        acts.append(
            (lambda where, _: list(where.keys()), CapacityError if can.enumerable else StorageError)
        )
        for name in unfit_names(can.context_bytes):
            for act, refusal in acts:
                with pytest.raises(refusal):
                    act(replace(context, name=name), "k")

    def test_large_value_is_refused_and_the_old_one_stays(self, context: Context) -> None:
        too_large = too_large_value(context.capabilities.value_bytes)
        context.write("k")
        with pytest.raises(CapacityError):
            context.update("k", too_large, None, 2)
        with pytest.raises(CapacityError):
            context.create("other", too_large, None, 1)
        assert context.read("k") == Stored(b"v", 1, None)
        assert context.read("other") is None

    def test_names_and_values_may_be_as_large_as_declared(self, context: Context) -> None:
        can = context.capabilities
        far = context.beside("c" * (min(can.context_bytes, LARGEST) - len(context.name)))
        long_key = "k" * min(can.key_bytes, LARGEST)
        value = b"\xa5" * min(can.value_bytes, LARGEST)
        for where, key in ((far, "k"), (context, long_key)):
            where.write(key)
            assert where.read_live(key).value == b"v"
            assert where.delete(key) is True
        far.write(long_key, value)
        assert far.read_live(long_key).value == value

    def test_full_store_refuses_more_and_loses_nothing(self, context: Context) -> None:
        total = context.capabilities.total_bytes
        if total is None:
            return
        surely = fitting_count(context.store, total, context.name, "0000", FILLING)
        keys = [f"{number:04}" for number in range(surely)]
        for key in keys:
            context.write(key, FILLING)
        with contextlib.suppress(CapacityError):
            for number in range(surely, 10 * surely):
                context.write(f"{number:04}", FILLING)
                keys.append(f"{number:04}")
        found = [context.read(key) for key in keys]
        assert found == [Stored(FILLING, 1, None)] * len(keys), "a record was lost"
        refused = f"{len(keys):04}"
        assert context.read(refused) is None
        assert context.delete(keys[0]) is True
        context.write(refused, FILLING)

    def test_similar_names_are_independent(self, context: Context) -> None:
        context.write("k", b"1")
        context.write("K", b"2")
        context.beside("2").write("k", b"3")
        assert context.update("K", b"4", None, 2) is True
        assert context.beside("2").delete("k") is True
        assert context.read_live("k") == Stored(b"1", 1, None)


def has_keys(context: Context) -> bool:
    return is_supported(context.capabilities.enumerable, lambda: list(context.keys()))


class Listings(Suite, needs=has_keys):
    def test_keys_are_those_of_live_records(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        for key in ("live", "permanent", "over", "deleted"):
            context.write(key, b"v", expires_at if key == "over" else None)
        context.beside("2").write("sibling")
        assert context.delete("deleted") is True
        assert sorted(context.keys()) == ["live", "over", "permanent"]
        context.stop_after(expires_at)
        assert sorted(context.keys()) == ["live", "permanent"]
        assert list(context.beside("3").keys()) == []

    def test_prefix_of_keys_is_no_pattern(self, context: Context) -> None:
        for key in PREFIXED_KEYS:
            context.write(key)
        for prefix in ("", "a", "A", "a%", "a_", "a*", "a\\", "%", "é", "aa", "x"):
            expected = sorted(key for key in PREFIXED_KEYS if key.startswith(prefix))
            assert sorted(context.keys(prefix)) == expected, prefix

    def test_keys_are_a_snapshot(self, context: Context) -> None:
        for number in range(20):
            context.write(str(number))
        listed = context.keys()
        for number in range(20):
            assert context.delete(str(number)) is True
            context.write(f"new-{number}")
        assert sorted(listed) == sorted(str(number) for number in range(20))

    def test_300_keys_are_each_listed_once(self, context: Context) -> None:
        count = fitting_count(context.store, 300, context.name, "0000")
        expected = [f"{number:04}" for number in range(count)]
        for key in expected:
            context.write(key, b"")
        assert sorted(context.keys()) == expected


class Managed(Suite, needs=lambda context: context.is_managed):
    def test_update_expiration_changes_neither_value_nor_version(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        context.write("k", b"v", None, 4)
        assert context.update_expiration("k", expires_at) is True
        assert context.read("k") == Stored(b"v", 4, expires_at)
        assert context.update("k", b"w", None, 5, expected=4) is True

    def test_updated_expiration_counts_and_not_the_first(self, context: Context) -> None:
        first = context.now + MINUTE
        context.write("later", b"v", first)
        context.write("sooner", b"v", first + 2 * MINUTE)
        assert context.update_expiration("later", first + 2 * MINUTE) is True
        assert context.update_expiration("sooner", first) is True
        context.stop_after(first)
        assert context.read("later") == Stored(b"v", 1, first + 2 * MINUTE)
        assert context.read("sooner") is None

    def test_unfit_contexts_are_refused(self, context: Context) -> None:
        refusal = CapacityError if context.capabilities.contexts else StorageError
        for name in unfit_names(context.capabilities.context_bytes):
            with pytest.raises(refusal):
                replace(context, name=name).touch_all(None)
            with pytest.raises(CapacityError):
                replace(context, name=name).delete_all()

    def test_touching_or_deleting_an_empty_context_is_harmless(self, context: Context) -> None:
        context.delete_all()
        if can_touch(context):
            context.touch_all(None)
        assert context.read("k") is None
        context.write("k")

    def test_deleting_a_context_deletes_all_of_it_and_no_other(self, context: Context) -> None:
        others = [context.beside(end) for end in ("2", "\0", " ")]
        others.append(replace(context, name=context.name.upper()))
        places = [(where, key) for where in (context, *others) for key in "ab"]
        for where, key in places:
            where.write(key, b"v", context.now + MINUTE)
        context.delete_all()
        context.delete_all()
        live = [(where, key) for where, key in places if where.read(key) is not None]
        assert live == places[2:], "other contexts must stay, and only they"

    def test_deleted_context_can_be_filled_again(self, context: Context) -> None:
        context.write("a", b"old", None, 5)
        context.write("b", b"old", None, 5)
        context.delete_all()
        context.write("a", b"new", None, 6)
        assert context.read("a") == Stored(b"new", 6, None)
        assert context.read("b") is None, "a deleted record has returned"
        assert context.update("a", b"newer", None, 7, 6) is True


def can_touch(context: Context) -> bool:
    return context.is_managed and is_supported(
        context.capabilities.contexts, lambda: context.touch_all(None)
    )


class Touching(Suite, needs=can_touch):
    def test_touching_a_context_changes_its_live_records_only(self, context: Context) -> None:
        first, then = context.now + MINUTE, context.now + 3 * MINUTE
        context.write("live", b"1", first + MINUTE, 1)
        context.write("permanent", b"2", None, 2)
        context.write("over", b"3", first, 3)
        context.beside("2").write("sibling", b"4", first + MINUTE, 4)
        context.stop_after(first)
        context.touch_all(then)
        assert context.read("live") == Stored(b"1", 1, then)
        assert context.read("permanent") == Stored(b"2", 2, then)
        assert context.read("over") is None, "a touch has revived an expired record"
        assert context.beside("2").read("sibling") == Stored(b"4", 4, first + MINUTE)
        context.stop_after(then)
        assert context.read("live") is None, "touched, but live at its new expiry"
        assert context.read("permanent") is None

    def test_touched_context_becomes_permanent_and_finite_again(self, context: Context) -> None:
        first = context.now + MINUTE
        context.write("k", b"v", first)
        for expires_at in (None, first + 1, None):
            context.touch_all(expires_at)
            assert context.read("k") == Stored(b"v", 1, expires_at)
        context.clock.stop(first + MINUTE)
        assert context.read("k") == Stored(b"v", 1, None)

    def test_touching_a_context_leaves_its_indexes_alone(self, context: Context) -> None:
        if not has_indexes(context):
            return
        context.add_member("k", "m", None)
        context.touch_all(context.now + MINUTE)
        assert context.members("k") == {"m": None}


def add_members(context: Context, racer: int, barrier: Barrier, count: int) -> None:
    for number in range(count):
        barrier.wait()
        eventually(context.add_member, "k", f"{racer}-{number}", None)


def remove_one(context: Context, racer: int, member: str) -> bool:
    return context.remove_member("k", member)


def has_indexes(context: Context) -> bool:
    return is_supported(
        context.capabilities.indexes,
        lambda: context.add_member("k", "m", None),
        lambda: context.remove_member("k", "m"),
        lambda: context.members("k"),
    )


class Indexes(Suite, needs=has_indexes):
    def test_members_are_returned_with_their_expiries(self, context: Context) -> None:
        now = context.now
        expected = {
            **{"a": now + MINUTE, "b": now + MINUTE + 1, "c": None, "d": now + 400 * DAY},
            **{"last": LATEST, "last but one": LATEST - 1},
        }
        for member, expires_at in expected.items():
            context.add_member("k", member, expires_at)
        assert context.members("k") == expected
        assert context.members("other") == {}
        assert context.beside("2").members("k") == {}

    def test_each_member_lives_until_its_expiry(self, context: Context) -> None:
        first = context.now + MINUTE
        last = context.gone_at(first) + MINUTE
        for member, expires_at in (("first", first), ("last", last), ("permanent", None)):
            context.add_member("k", member, expires_at)
        context.clock.stop(first - 1)
        assert context.members("k") == {"first": first, "last": last, "permanent": None}
        context.stop_after(first)
        assert context.members("k") == {"last": last, "permanent": None}
        assert context.remove_member("k", "first") is False, "it has expired"
        context.stop_after(last)
        assert context.members("k") == {"permanent": None}

    def test_adding_a_member_again_changes_its_expiry(self, context: Context) -> None:
        first = context.now + MINUTE
        for expires_at in (first, first + MINUTE, None, first + 2, first):
            context.add_member("k", "m", expires_at)
            assert context.members("k") == {"m": expires_at}
        context.stop_after(first)
        assert context.members("k") == {}
        context.add_member("k", "m", None)
        assert context.members("k") == {"m": None}

    def test_member_is_removed_once(self, context: Context) -> None:
        for member in ("a", "b"):
            context.add_member("k", member, None)
        assert context.remove_member("k", "a") is True
        assert context.remove_member("k", "a") is False
        assert context.remove_member("other", "b") is False
        assert context.beside("2").remove_member("k", "b") is False
        assert context.members("k") == {"b": None}
        assert context.remove_member("k", "b") is True
        assert context.members("k") == {}

    def test_index_and_record_of_one_name_are_independent(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        context.add_member("k", "m", None)
        assert context.read("k") is None, "an index looks like a record"
        context.write("k", b"v", expires_at, 1)
        assert context.update("k", b"w", expires_at, 2) is True
        assert context.members("k") == {"m": None}
        assert context.remove_member("k", "m") is True
        assert context.read("k") == Stored(b"w", 2, expires_at)
        context.add_member("k", "m", None)
        assert context.delete("k") is True
        assert context.members("k") == {"m": None}, "deleting a record has hit an index"
        if context.capabilities.enumerable:
            assert list(context.keys()) == [], "an index is no record"

    def test_deleting_a_context_deletes_its_indexes_and_no_others(self, context: Context) -> None:
        if not context.is_managed:
            return
        for where in (context, context.beside("2")):
            where.add_member("k", "m", None)
        context.delete_all()
        assert context.members("k") == {}
        assert context.beside("2").members("k") == {"m": None}
        context.add_member("k", "n", None)
        assert context.members("k") == {"n": None}

    def test_odd_members_are_distinct_and_returned_unchanged(self, context: Context) -> None:
        limit = min(context.capabilities.key_bytes, context.capabilities.value_bytes)
        members = [name for name in ODD_NAMES if len(name.encode()) <= limit]
        for batch in batches(context.store, members, context.name, "k"):
            for member in batch:
                context.add_member("k", member, None)
            assert sorted(context.members("k")) == sorted(batch)
            assert [m for m in batch if context.remove_member("k", m) is not True] == []
            assert context.members("k") == {}

    def test_member_that_is_no_unicode_is_refused(self, context: Context) -> None:
        with pytest.raises(CapacityError):
            context.add_member("k", "\ud800", None)
        with pytest.raises(CapacityError):
            context.remove_member("k", "\ud800")
        assert context.members("k") == {}

    def test_reaping_removes_no_live_member(self, context: Context) -> None:
        first = context.now + MINUTE
        expected = {"later": context.gone_at(first) + MINUTE, "permanent": None}
        for member, expires_at in {"over": first, **expected}.items():
            context.add_member("k", member, expires_at)
        context.stop_after(first)
        assert 0 <= context.store.reap(1000) <= 1000
        assert context.members("k") == expected

    def test_concurrently_added_members_are_all_there(self, context: Context) -> None:
        count = fitting_count(context.store, RACERS * 5, context.name, "k", "10-0") // RACERS
        self.race(context, add_members, count)
        expected = {f"{racer}-{number}" for racer in range(RACERS) for number in range(count)}
        assert set(context.members("k")) == expected, "members were lost"

    def test_one_of_concurrent_removals_of_a_member_succeeds(self, context: Context) -> None:
        for member in "abcdef":
            context.add_member("k", member, None)
        self.winners(context, remove_one, "abcdef")
