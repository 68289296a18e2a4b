"""What a store owes for one record: create, read, update, delete, and their versions.

Knows the contract's tables. Does not know time, odd names or more than one writer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from ..errors import CapacityError
from ..storage.contract import (
    LAST_VERSION,
    LATEST,
    UNCHANGED,
    Capabilities,
    Storage,
    Stored,
    next_version,
)
from .clock import FakeClock
from .suite import MINUTE, Suite, read, told_by_mismatch, undeclared, write

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
        self, store: Storage, clock: FakeClock, context: str, value: bytes
    ) -> None:
        expires_at, version = clock.now + MINUTE, next_version(clock())
        value = value[: store.capabilities.value_bytes - 1]
        write(store, context, "k", value, expires_at, version)
        assert store.read(context, "k") == Stored(value, version, expires_at)
        assert store.update(context, "k", value + b"!", expires_at, version + 1) is True
        assert store.read(context, "k") == Stored(value + b"!", version + 1, expires_at)

    def test_create_leaves_a_live_record_alone(
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
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
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        old = next_version(clock())
        write(store, context, "k", b"old", None, old)
        assert store.delete(context, "k") is True
        new = next_version(clock(), old)
        write(store, context, "k", b"new", None, new)
        assert told_by_mismatch(store.delete, context, "k", old) == new
        assert told_by_mismatch(store.update, context, "k", b"late", None, new + 1, old) == new
        assert store.read(context, "k") == Stored(b"new", new, None)


# FOLD sealedstate.testing.expiry
# What a store owes about time: alive until its expiry, gone from then on, and told exactly.
#
# Knows that a store may declare, by its resolution, to be late; never that it may be early. Does
# not
# know how a store expires.


SECOND, DAY = 1000, 86_400_000

# Every way by which a record gets its expiry.
Setter = Callable[[Storage, str, str, int | None], object]
WAYS: dict[str, Setter] = {
    "create": lambda store, context, key, at: store.create(context, key, b"v", at, 1),
    "update": lambda store, context, key, at: (
        store.create(context, key, b"u", None, 1) and store.update(context, key, b"v", at, 2)
    ),
    "update_expiration": lambda store, context, key, at: (
        store.create(context, key, b"v", None, 1) and store.update_expiration(context, key, at)
    ),
}

MORE_WAYS: dict[str, Setter] = {
    "touch_context": lambda store, context, key, at: store.touch_context(context, at),
    "add_member": lambda store, context, key, at: store.add_member(context, key, "m", at),
}

# From now on, where it is not None, which is for ever. memcached takes 30 days for a limit.
LIFETIMES = {
    "a minute": MINUTE,
    "a minute and a millisecond": MINUTE + 1,
    "a minute and 999 milliseconds": MINUTE + 999,
    "30 days": 30 * DAY,
    "30 days and a second": 30 * DAY + SECOND,
    "400 days": 400 * DAY,
    "1000 years": 365_250 * DAY,
    "for ever": None,
}


def gone_at(store: Storage, expires_at: int) -> int:
    """When a record that expires at `expires_at` must be gone, by what the store declares."""
    return expires_at + store.capabilities.resolution - 1


class Expiry(Suite):
    @pytest.mark.parametrize("way", WAYS)
    def test_a_record_lives_until_its_expiry_and_no_millisecond_longer(
        self, store: Storage, clock: FakeClock, context: str, way: str
    ) -> None:
        expires_at = clock.now + MINUTE
        assert WAYS[way](store, context, "k", expires_at) is True
        clock.stop(expires_at - 1)
        assert read(store, context, "k").expires_at == expires_at
        clock.stop(gone_at(store, expires_at))
        assert store.read(context, "k") is None, "alive at its expiry"
        clock.stop(gone_at(store, expires_at) + 1)
        assert store.read(context, "k") is None, "alive after its expiry"

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("lifetime", LIFETIMES.values(), ids=LIFETIMES)
    def test_an_expiry_comes_back_exactly(
        self, store: Storage, clock: FakeClock, context: str, lifetime: int | None, way: str
    ) -> None:
        expires_at = None if lifetime is None else clock.now + lifetime
        assert WAYS[way](store, context, "k", expires_at) is True
        assert read(store, context, "k").expires_at == expires_at

    @pytest.mark.parametrize("operation", ["update", "update_expiration"])
    def test_permanent_becomes_finite_and_permanent_again(
        self, store: Storage, clock: FakeClock, context: str, operation: str
    ) -> None:
        first = clock.now + MINUTE
        write(store, context, "k")
        for version, expires_at in ((2, first), (3, None), (4, first + 1), (5, None)):
            if operation == "update":
                assert store.update(context, "k", b"v", expires_at, version) is True
            else:
                assert store.update_expiration(context, "k", expires_at) is True
            assert read(store, context, "k").expires_at == expires_at
        clock.stop(first + MINUTE)
        assert read(store, context, "k").expires_at is None, "permanent, but gone"

    def test_a_permanent_record_is_there_in_1000_years(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        write(store, context, "k")
        clock.stop(clock.now + 365_250 * DAY)
        store.reap(100)
        assert store.read(context, "k") == Stored(b"v", 1, None)

    def test_a_moved_expiry_counts_and_not_the_first_one(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        first = clock.now + MINUTE
        write(store, context, "later", b"v", first)
        write(store, context, "sooner", b"v", first + 2 * MINUTE)
        assert store.update_expiration(context, "later", first + 2 * MINUTE) is True
        assert store.update_expiration(context, "sooner", first) is True
        clock.stop(gone_at(store, first))
        assert store.read(context, "later") == Stored(b"v", 1, first + 2 * MINUTE)
        assert store.read(context, "sooner") is None

    @pytest.mark.parametrize("operation", ABSENT)
    def test_an_expired_record_is_as_absent_as_one_that_never_was(
        self, store: Storage, clock: FakeClock, context: str, operation: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old", expires_at, 7)
        clock.stop(gone_at(store, expires_at))
        absent(store, context, "k", operation)
        assert store.read(context, "k") is None, f"{operation} has revived a record"

    def test_a_record_can_be_created_where_one_has_expired(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old", expires_at, 7)
        clock.stop(gone_at(store, expires_at))
        write(store, context, "k", b"new", None, 2)
        assert store.read(context, "k") == Stored(b"new", 2, None)

    @pytest.mark.parametrize("way", WAYS)
    def test_the_last_expiry_comes_back_exactly(
        self, store: Storage, context: str, way: str
    ) -> None:
        assert WAYS[way](store, context, "k", LATEST) is True
        assert read(store, context, "k").expires_at == LATEST

    @pytest.mark.parametrize("way", [*WAYS, "touch_context", "add_member"])
    @pytest.mark.parametrize("expires_at", [-1, LATEST + 1, 1 << 63, 1 << 64])
    def test_an_expiry_out_of_range_is_refused(
        self, store: Storage, context: str, way: str, expires_at: int
    ) -> None:
        set_expiry = {**WAYS, **MORE_WAYS}[way]
        can = store.capabilities
        declared = {"touch_context": can.contexts, "add_member": can.indexes}.get(way, True)
        if undeclared(declared, lambda: set_expiry(store, context, "k", None)):
            return
        with pytest.raises(CapacityError):
            set_expiry(store, context, "k", expires_at)
        found = store.read(context, "k")
        assert found is None or found.expires_at is None, "a refused write has written"
        assert not can.indexes or store.members(context, "k") == {}

    # 0 is a time like others, and must not be taken for None.
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("past", ["now", "a minute ago", "the epoch"])
    def test_an_expiry_in_the_past_is_kept_to(
        self, store: Storage, clock: FakeClock, context: str, way: str, past: str
    ) -> None:
        now = clock.now
        clock.stop(now)
        times = {"now": now, "a minute ago": now - MINUTE, "the epoch": 0}
        assert WAYS[way](store, context, "k", times[past]) is True
        clock.stop(gone_at(store, now))
        assert store.read(context, "k") is None
        write(store, context, "k", b"new", None, 2)

    def test_reaping_is_bounded_and_takes_no_live_record(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        for number in range(10):
            write(store, context, f"over-{number}", b"v", expires_at)
        write(store, context, "permanent")
        write(store, context, "later", b"v", expires_at + MINUTE)
        clock.stop(gone_at(store, expires_at))
        reaped = [store.reap(4) for _ in range(4)]
        assert all(0 <= count <= 4 for count in reaped), f"reap(4) reaped {reaped}"
        assert store.read(context, "permanent") == Stored(b"v", 1, None)
        assert store.read(context, "later") == Stored(b"v", 1, expires_at + MINUTE)

    def test_reaping_comes_to_an_end(self, store: Storage, clock: FakeClock, context: str) -> None:
        expires_at = clock.now + MINUTE
        for number in range(10):
            write(store, context, str(number), b"v", expires_at)
        clock.stop(gone_at(store, expires_at))
        # Others may have left something, too; but whatever there is, there is ever less of it.
        assert any(store.reap(1000) == 0 for _ in range(1000))
        assert [store.read(context, str(number)) for number in range(10)] == [None] * 10

    def test_what_has_expired_can_be_removed_for_good(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        now, can = clock.now, store.capabilities
        for number in range(3):
            write(store, context, str(number), b"v", now + MINUTE)
            if can.indexes:
                store.add_member(context, "index", str(number), now + MINUTE)
        # Whatever margin for clocks that differ a store may take, a day is beyond it.
        clock.stop(now + DAY)
        for _ in range(1000):
            if store.reap(1000) == 0:
                break
        # Nothing that is there expires at this time, so that what was kept comes to light.
        clock.stop(now)
        kept = [str(number) for number in range(3) if store.read(context, str(number)) is not None]
        members = store.members(context, "index") if can.indexes else {}
        assert can.expires_itself or (kept, members) == ([], {}), "kept after it has been reaped"

    def test_a_clock_that_steps_back_revives_nothing_that_was_reaped(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        now = clock.now
        write(store, context, "k", b"v", now + MINUTE)
        clock.stop(gone_at(store, now + MINUTE))
        reaped = [store.reap(1000)]
        while reaped[-1]:
            reaped.append(store.reap(1000))
        clock.stop(now)
        # What a server removes by its own clock is not reaped: it may well be there again.
        assert store.read(context, "k") is None or not sum(reaped)
