"""What a store owes for one record: create, read, update, delete, and their versions.

Knows the contract's tables. Does not know time, odd names or more than one writer.
"""

# ruff: noqa: S101
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from ..errors import CapacityError
from ..storage.contract import (
    LAST_VERSION,
    UNCHANGED,
    Capabilities,
    Storage,
    Stored,
    next_version,
)
from .clock import KitClock
from .suite import MINUTE, Suite, read, told_by_mismatch, write

# Every operation on a record that is absent, and its answer.
ABSENT: dict[str, tuple[Callable[[Storage, str, str], object], object]] = {
    "read": (lambda store, context, key: store.read(context, key), None),
    "read_if_changed": (lambda store, context, key: store.read_if_changed(context, key, 1), None),
    "update": (lambda store, context, key: store.update(context, key, b"new", None, 9), False),
    "update, expected": (
        lambda store, context, key: store.update(context, key, b"new", None, 9, expected=1),
        False,
    ),
    "update, another expected": (
        lambda store, context, key: store.update(context, key, b"new", None, 9, expected=3),
        False,
    ),
    "update, smaller version": (
        lambda store, context, key: store.update(context, key, b"new", None, 1),
        False,
    ),
    "update_expiration": (
        lambda store, context, key: store.update_expiration(context, key, None),
        False,
    ),
    "delete": (lambda store, context, key: store.delete(context, key), False),
    "delete, expected": (lambda store, context, key: store.delete(context, key, expected=1), False),
    "delete, another expected": (
        lambda store, context, key: store.delete(context, key, expected=3),
        False,
    ),
}

# Every operation that names a version. There is a record "k" of version 10.
VERSIONED: dict[str, Callable[[Storage, str, int], object]] = {
    "create": lambda store, context, version: store.create(context, "new", b"v", None, version),
    "update": lambda store, context, version: store.update(context, "k", b"w", None, version),
    "update, expected": lambda store, context, version: store.update(
        context, "k", b"w", None, 20, version
    ),
    "delete, expected": lambda store, context, version: store.delete(context, "k", version),
}

VALUES = {
    "none": b"",
    "a zero byte": b"\0",
    "all bytes": bytes(range(256)),
    "line ends": b"\r\nEND\r\nset a 0 0 1\r\n$-1\r\n",
    "text that looks like a number": b"007",
    "bytes that are no UTF-8": b"\xff\xfe\xed\xa0\x80",
    "100 kB": bytes(range(256)) * 400,
}


def absent(store: Storage, context: str, key: str, operation: str) -> None:
    """Assert that `operation` finds no record."""
    act, expected = ABSENT[operation]
    answer = act(store, context, key)
    assert answer is expected, f"{operation} of an absent record: {answer!r}, not {expected!r}"


class Records(Suite):
    def test_a_store_has_the_contracts_shape(self, store: Storage) -> None:
        assert isinstance(store, Storage), "an operation of the protocol is missing"
        capabilities = store.capabilities
        assert isinstance(capabilities, Capabilities)
        assert min(capabilities.context_bytes, capabilities.key_bytes) >= 255
        assert capabilities.value_bytes >= 255
        assert capabilities.resolution >= 1
        assert capabilities.total_bytes is None or capabilities.total_bytes >= 2048
        assert capabilities.because.keys() <= {known.name for known in fields(Capabilities)}

    def test_nothing_is_presumed_of_a_store_that_was_reached(self, store: Storage) -> None:
        store.ping()
        assert store.capabilities.presumed is False

    def test_a_ping_of_a_healthy_store_says_nothing(self, store: Storage) -> None:
        answer: Any = store.ping()  # type: ignore[func-returns-value]
        assert answer is None

    def test_a_closed_store_can_be_used_again(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        store.close()
        store.close()
        assert read(store, context, "k").value == b"v", "close() has lost a record"

    # --- create and read ---

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    def test_a_value_comes_back_byte_by_byte(
        self, store: Storage, clock: KitClock, context: str, value: bytes
    ) -> None:
        expires_at, version = clock.now + MINUTE, next_version(clock())
        value = value[: store.capabilities.value_bytes - 1]
        write(store, context, "k", value, expires_at, version)
        assert store.read(context, "k") == Stored(value, version, expires_at)
        assert store.update(context, "k", value + b"!", expires_at, version + 1) is True
        assert store.read(context, "k") == Stored(value + b"!", version + 1, expires_at)

    def test_create_leaves_a_live_record_alone(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"first", expires_at, 1)
        assert store.create(context, "k", b"second", None, 2) is False
        assert store.create(context, "k", b"first", expires_at, 1) is False
        assert store.read(context, "k") == Stored(b"first", 1, expires_at)

    @pytest.mark.parametrize("operation", ABSENT)
    def test_what_was_never_written_is_absent(
        self, store: Storage, context: str, operation: str
    ) -> None:
        absent(store, context, "k", operation)
        assert store.read(context, "k") is None, f"{operation} has made a record"

    @pytest.mark.parametrize("operation", ABSENT)
    def test_what_was_deleted_is_absent(self, store: Storage, context: str, operation: str) -> None:
        write(store, context, "k")
        assert store.delete(context, "k") is True
        absent(store, context, "k", operation)
        assert store.read(context, "k") is None, f"{operation} has revived a record"

    def test_a_reader_who_has_the_current_version_is_told_so(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k", b"v", None, 5)
        assert store.read_if_changed(context, "k", 5) is UNCHANGED
        # Another one, not only an older one: the reader may come from before a restore.
        assert store.read_if_changed(context, "k", 4) == Stored(b"v", 5, None)
        assert store.read_if_changed(context, "k", 6) == Stored(b"v", 5, None)

    def test_what_was_read_is_a_snapshot_that_nobody_can_change(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k", b"old")
        before = read(store, context, "k")
        assert type(before.value) is bytes, "a value is bytes, which nobody can change"
        assert store.update(context, "k", b"new", None, 2) is True
        assert before == Stored(b"old", 1, None), "a later update has changed what was read"
        with pytest.raises(AttributeError):
            before.value = b"mine"  # type: ignore[misc]
        assert store.read(context, "k") == Stored(b"new", 2, None)

    # --- update and delete ---

    def test_an_update_overwrites_value_version_and_expiry(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old")
        assert store.update(context, "k", b"new", expires_at, 2) is True
        assert store.read(context, "k") == Stored(b"new", 2, expires_at)
        assert store.update(context, "k", b"newer", None, 3, expected=2) is True
        assert store.read(context, "k") == Stored(b"newer", 3, None)

    @pytest.mark.parametrize("expected", [9, 11, 1, LAST_VERSION])
    def test_a_writer_who_expects_another_version_is_told_the_current_one(
        self, store: Storage, context: str, expected: int
    ) -> None:
        write(store, context, "k", b"v", None, 10)
        assert told_by_mismatch(store.update, context, "k", b"w", None, 20, expected) == 10
        assert told_by_mismatch(store.delete, context, "k", expected) == 10
        assert store.read(context, "k") == Stored(b"v", 10, None), "a refused write has written"

    @pytest.mark.parametrize("version", [9, 10, 1])
    def test_a_version_that_is_not_greater_is_refused(
        self, store: Storage, context: str, version: int
    ) -> None:
        write(store, context, "k", b"v", None, 10)
        for known in (None, 10):
            assert told_by_mismatch(store.update, context, "k", b"w", None, version, known) == 10
        assert store.read(context, "k") == Stored(b"v", 10, None), "a refused update has written"

    def test_moving_the_expiry_changes_neither_value_nor_version(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"v", None, 4)
        assert store.update_expiration(context, "k", expires_at) is True
        assert store.read(context, "k") == Stored(b"v", 4, expires_at)
        assert store.update(context, "k", b"w", None, 5, expected=4) is True

    def test_delete_is_true_once(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"v", None, 3)
        assert store.delete(context, "k", expected=3) is True
        assert store.delete(context, "k", expected=3) is False
        assert store.delete(context, "k") is False

    def test_129_checked_updates_in_a_row_leave_the_last(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        version = next_version(clock())
        write(store, context, "k", b"0", None, version)
        for number in range(1, 130):
            proposed, value = next_version(clock(), version), str(number).encode()
            assert store.update(context, "k", value, None, proposed, version) is True
            version = proposed
        assert store.read(context, "k") == Stored(b"129", version, None)

    # --- versions ---

    def test_a_version_is_the_one_that_the_writer_proposed(
        self, store: Storage, context: str
    ) -> None:
        # Microseconds at the end of the century, far more than 32 bits.
        version = next_version(4_102_444_799.0)
        write(store, context, "k", b"v", None, version)
        assert read(store, context, "k").version == version
        for step in (1, 2):
            proposed = version + step
            assert store.update(context, "k", b"v", None, proposed, proposed - 1) is True
            assert read(store, context, "k").version == proposed

    def test_versions_are_told_apart_to_the_last_of_63_bits(
        self, store: Storage, context: str
    ) -> None:
        last = LAST_VERSION
        write(store, context, "k", b"v", None, last - 1)
        assert read(store, context, "k").version == last - 1
        for wrong in (last - 2, last):
            assert told_by_mismatch(store.update, context, "k", b"w", None, last, wrong) == last - 1
            assert told_by_mismatch(store.delete, context, "k", wrong) == last - 1
        assert store.update(context, "k", b"w", None, last, last - 1) is True
        assert told_by_mismatch(store.update, context, "k", b"x", None, last) == last
        assert store.read_if_changed(context, "k", last) is UNCHANGED
        assert store.read_if_changed(context, "k", last - 1) == Stored(b"w", last, None)
        assert store.delete(context, "k", last) is True

    @pytest.mark.parametrize("operation", VERSIONED)
    @pytest.mark.parametrize("version", [0, -1, LAST_VERSION + 1, 1 << 64, -1 << 63])
    def test_a_version_out_of_range_is_refused(
        self, store: Storage, context: str, operation: str, version: int
    ) -> None:
        write(store, context, "k", b"v", None, 10)
        with pytest.raises(CapacityError):
            VERSIONED[operation](store, context, version)
        assert store.read(context, "k") == Stored(b"v", 10, None), "a refused write has written"
        assert store.read(context, "new") is None

    def test_no_version_comes_back_after_a_delete(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        seen = []
        for _ in range(10):
            write(store, context, "k", b"v", None, next_version(clock()))
            seen.append(read(store, context, "k").version)
            proposed = next_version(clock(), seen[-1])
            assert store.update(context, "k", b"w", None, proposed, seen[-1]) is True
            seen.append(read(store, context, "k").version)
            assert store.delete(context, "k", seen[-1]) is True
        assert seen == sorted(set(seen)), f"versions that were used before: {seen}"

    def test_a_writer_from_before_a_delete_does_not_overwrite_what_came_after(
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        old = next_version(clock())
        write(store, context, "k", b"old", None, old)
        assert store.delete(context, "k") is True
        new = next_version(clock(), old)
        write(store, context, "k", b"new", None, new)
        assert told_by_mismatch(store.delete, context, "k", old) == new
        assert told_by_mismatch(store.update, context, "k", b"late", None, new + 1, old) == new
        assert store.read(context, "k") == Stored(b"new", new, None)
