"""What a store owes about names and sizes: nothing is truncated, folded, normalised or escaped.

Knows characters that other stores stumbled over. Does not know what names mean.
"""

# ruff: noqa: S101
from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest

from ..errors import CapacityError
from ..storage.contract import Storage, Stored
from .suite import Suite, read, write

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
        keys = self.fitting(store)
        for number, key in enumerate(keys):
            write(store, context, key, str(number).encode())
        for number, key in enumerate(keys):
            assert store.read(context, key) == Stored(str(number).encode(), 1, None), repr(key[:60])
        if store.capabilities.enumerable:
            assert sorted(store.keys(context)) == sorted(keys)
        assert [key for key in keys if store.delete(context, key) is not True] == []

    def test_odd_contexts_are_all_different(self, store: Storage, context: str) -> None:
        limit = store.capabilities.context_bytes
        odd = [name + context for name in ODD_NAMES] + [context + name for name in ODD_NAMES]
        contexts = [name for name in odd if len(name.encode()) <= limit]
        for number, name in enumerate(contexts):
            write(store, name, "k", str(number).encode())
        for number, name in enumerate(contexts):
            assert store.read(name, "k") == Stored(str(number).encode(), 1, None), repr(name[:60])

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
        self.assert_refused(store, context, MEMBER_OPERATIONS[operation])

    def assert_refused(
        self, store: Storage, context: str, act: Callable[[Storage, str, str], object]
    ) -> None:
        for key in unfit(store.capabilities.key_bytes):
            with pytest.raises(CapacityError):
                act(store, context, key)
        for unfit_context in unfit(store.capabilities.context_bytes):
            with pytest.raises(CapacityError):
                act(store, unfit_context, "k")

    @pytest.mark.parametrize("operation", CONTEXT_OPERATIONS)
    def test_unfit_contexts_are_refused(self, store: Storage, operation: str) -> None:
        for context in unfit(store.capabilities.context_bytes):
            with pytest.raises(CapacityError):
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
        for where, key in ((long_context, "k"), (context, "k" * min(most.key_bytes, MOST_SENT))):
            write(store, where, key)
            assert read(store, where, key).value == b"v"
        value = b"\xa5" * min(most.value_bytes, MOST_SENT)
        write(store, context, "large", value)
        assert read(store, context, "large").value == value
