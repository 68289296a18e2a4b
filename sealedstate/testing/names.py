"""What a store owes about names and sizes: nothing is truncated, folded, normalised or escaped.

Knows characters that other stores stumbled over. Does not know what names mean.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable

import pytest

from ..errors import CapacityError, StorageError
from ..storage.contract import Storage, Stored
from .clock import FakeClock
from .records import gone_at
from .suite import MINUTE, Suite, at_once, in_turns, read, undeclared, write

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

PLACES = [
    *(("a", "bc"), ("ab", "c"), ("a", "b"), ("a\0b", "c"), ("a", "b\0c"), ("A", "bc")),
    *(("a:b", "c"), ("a", "b:c"), ("a/b", "c"), ("a", "b/c"), ("a|b", "c"), ("a", "b|c")),
]

KEY_OPERATIONS: dict[str, Callable[[Storage, str, str], object]] = {
    "create": lambda store, context, key: store.create(context, key, b"v", None, 1),
    "read": lambda store, context, key: store.read(context, key),
    "read_if_changed": lambda store, context, key: store.read_if_changed(context, key, 1),
    "update": lambda store, context, key: store.update(context, key, b"v", None, 2),
    "update_expiration": lambda store, context, key: store.update_expiration(context, key, None),
    "delete": lambda store, context, key: store.delete(context, key),
}
MEMBER_OPERATIONS: dict[str, Callable[[Storage, str, str], object]] = {
    "add_member": lambda store, context, key: store.add_member(context, key, "m", None),
    "remove_member": lambda store, context, key: store.remove_member(context, key, "m"),
    "members": lambda store, context, key: store.members(context, key),
}
CONTEXT_OPERATIONS: dict[str, Callable[[Storage, str], object]] = {
    "touch_context": lambda store, context: store.touch_context(context, None),
    "delete_context": lambda store, context: store.delete_context(context),
}

FILLING = b"\xa5" * 100

# No more than so much is really sent, whatever a store says that it takes.
MOST_SENT = 1 << 26


class Oversized(bytes):
    """A value that says to be larger than any memory."""

    size: int

    def __len__(self) -> int:
        return self.size


def oversized(limit: int) -> bytes:
    """A value that is one byte over `limit`."""
    if limit < MOST_SENT:
        return bytes(limit + 1)
    value = Oversized(b"v")
    value.size = limit + 1
    return value


def unfit(limit: int) -> list[str]:
    """Empty, no text, and over-large: once in characters, once only in bytes."""
    return ["", "\ud800", "k" * (limit + 1), "é" * (limit // 2 + 1)]


class Names(Suite):
    def fitting(self, store: Storage) -> list[str]:
        """Of the odd names those that the store takes; it has to refuse the others."""
        limit = store.capabilities.key_bytes
        for name in ODD_NAMES:
            if len(name.encode()) > limit:
                with pytest.raises(CapacityError):
                    store.read("kit", name)
        return [name for name in ODD_NAMES if len(name.encode()) <= limit]

    def test_odd_keys_are_all_different_and_kept_as_they_are(
        self, store: Storage, context: str
    ) -> None:
        values = {key: str(number).encode() for number, key in enumerate(self.fitting(store))}
        for turn in in_turns(store, list(values), context, b"10"):
            for key in turn:
                write(store, context, key, values[key])
            for key, value in values.items():
                expected = Stored(value, 1, None) if key in turn else None
                assert store.read(context, key) == expected, repr(key[:60])
            if store.capabilities.enumerable:
                assert sorted(store.keys(context)) == sorted(turn)
            assert [key for key in turn if store.delete(context, key) is not True] == []

    def test_odd_contexts_are_all_different(self, store: Storage, context: str) -> None:
        limit = store.capabilities.context_bytes
        odd = [name + context for name in ODD_NAMES] + [context + name for name in ODD_NAMES]
        fitting = (name for name in odd if len(name.encode()) <= limit)
        values = {name: str(number).encode() for number, name in enumerate(fitting)}
        for turn in in_turns(store, list(values), "k", b"100"):
            for name in turn:
                write(store, name, "k", values[name])
            for name, value in values.items():
                expected = Stored(value, 1, None) if name in turn else None
                assert store.read(name, "k") == expected, repr(name[:60])
            assert [name for name in turn if store.delete(name, "k") is not True] == []

    def test_the_border_between_context_and_key_counts(self, store: Storage, context: str) -> None:
        for number, (end, key) in enumerate(PLACES):
            write(store, context + end, key, str(number).encode())
        for number, (end, key) in enumerate(PLACES):
            stored = read(store, context + end, key)
            assert stored.value == str(number).encode(), f"({end!r}, {key!r}) meets another place"

    @pytest.mark.parametrize("operation", KEY_OPERATIONS)
    def test_unfit_keys_and_contexts_are_refused(
        self, store: Storage, context: str, operation: str
    ) -> None:
        self.assert_refused(store, context, KEY_OPERATIONS[operation])

    @pytest.mark.parametrize("operation", MEMBER_OPERATIONS)
    def test_unfit_names_of_indexes_are_refused(
        self, store: Storage, context: str, operation: str
    ) -> None:
        # A store without indexes refuses all of them, for whichever reason.
        refusal = CapacityError if store.capabilities.indexes else StorageError
        self.assert_refused(store, context, MEMBER_OPERATIONS[operation], refusal)

    def assert_refused(
        self,
        store: Storage,
        context: str,
        act: Callable[[Storage, str, str], object],
        refusal: type[StorageError] = CapacityError,
    ) -> None:
        for key in unfit(store.capabilities.key_bytes):
            with pytest.raises(refusal):
                act(store, context, key)
        for unfit_context in unfit(store.capabilities.context_bytes):
            with pytest.raises(refusal):
                act(store, unfit_context, "k")

    @pytest.mark.parametrize("operation", CONTEXT_OPERATIONS)
    def test_unfit_contexts_are_refused(self, store: Storage, operation: str) -> None:
        declined = operation == "touch_context" and not store.capabilities.contexts
        for context in unfit(store.capabilities.context_bytes):
            with pytest.raises(StorageError if declined else CapacityError):
                CONTEXT_OPERATIONS[operation](store, context)

    def test_an_over_large_value_is_refused_and_the_old_one_stays(
        self, store: Storage, context: str
    ) -> None:
        too_large = oversized(store.capabilities.value_bytes)
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
        most = store.capabilities
        long_context = context + "c" * (min(most.context_bytes, MOST_SENT) - len(context))
        long_key = "k" * min(most.key_bytes, MOST_SENT)
        value = b"\xa5" * min(most.value_bytes, MOST_SENT)
        write(store, long_context, "k")
        write(store, context, long_key)
        assert read(store, long_context, "k").value == read(store, context, long_key).value == b"v"
        for where, key in ((long_context, "k"), (context, long_key)):
            assert store.delete(where, key) is True
        write(store, long_context, long_key, value)
        assert read(store, long_context, long_key).value == value

    def test_what_does_not_fit_any_more_is_refused_and_nothing_is_lost(
        self, store: Storage, context: str
    ) -> None:
        total = store.capabilities.total_bytes
        if total is None:
            return
        surely = at_once(store, total, context, "0000", FILLING)
        written = [f"{number:04}" for number in range(surely)]
        for key in written:
            write(store, context, key, FILLING)
        with contextlib.suppress(CapacityError):
            for number in range(surely, 10 * surely):
                write(store, context, f"{number:04}", FILLING)
                written.append(f"{number:04}")
        found = [store.read(context, key) for key in written]
        assert found == [Stored(FILLING, 1, None)] * len(written), "a record was lost"
        refused = f"{len(written):04}"
        assert store.read(context, refused) is None
        assert store.delete(context, written[0]) is True
        write(store, context, refused, FILLING)


# FOLD sealedstate.testing.contexts
# What a store owes for contexts: touched, deleted and listed as a whole, and by themselves.
#
# Knows which operations a store may decline by its capabilities, touching and listing: then they
# must
# say so, and not do nothing. Does not know what contexts are for.


class Contexts(Suite):
    def test_touching_a_context_moves_its_live_records_and_no_others(
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
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
