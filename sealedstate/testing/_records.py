"""Tests of one record: create, read, update, delete, its versions and its expiry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import pytest

from ..errors import CapacityError
from ..storage.contract import (
    LAST_VERSION,
    LATEST,
    UNCHANGED,
    Capabilities,
    ManagedStorage,
    Storage,
    Stored,
    next_version,
    read_if_changed,
)
from ._suite import (
    MINUTE,
    FakeClock,
    Suite,
    mismatch_version,
    must_be_gone_at,
    read,
    write,
)

SECOND, DAY = 1000, 86_400_000

VALUES = {
    "none": b"",
    "a zero byte": b"\0",
    "all bytes": bytes(range(256)),
    "line ends": b"\r\nEND\r\nset a 0 0 1\r\n$-1\r\n",
    "text like a number": b"007",
    "bytes that are no UTF-8": b"\xff\xfe\xed\xa0\x80",
    "100 kB": bytes(range(256)) * 400,
}

# From now on; None is permanent. memcached takes more than 30 days for a date.
LIFETIMES = {
    "a minute": MINUTE,
    "a minute and a millisecond": MINUTE + 1,
    "a minute and 999 milliseconds": MINUTE + 999,
    "30 days": 30 * DAY,
    "30 days and a second": 30 * DAY + SECOND,
    "400 days": 400 * DAY,
    "1000 years": 365_250 * DAY,
    "permanent": None,
}


def assert_absent(store: Storage, context: str, key: str) -> None:
    """Assert that every operation finds no live record, and makes none."""
    operations: dict[str, tuple[Callable[[], object], object]] = {
        "read": (lambda: store.read(context, key), None),
        "read_if_changed": (lambda: read_if_changed(store, context, key, 1), None),
        "update": (lambda: store.update(context, key, b"new", None, 9), False),
        "update, expected": (lambda: store.update(context, key, b"new", None, 9, 1), False),
        "update, another expected": (lambda: store.update(context, key, b"new", None, 9, 3), False),
        "update, smaller version": (lambda: store.update(context, key, b"new", None, 1), False),
        "delete": (lambda: store.delete(context, key), False),
        "delete, expected": (lambda: store.delete(context, key, expected=1), False),
        "delete, another expected": (lambda: store.delete(context, key, expected=3), False),
    }
    if isinstance(store, ManagedStorage):
        update_expiration = store.update_expiration
        operations["update_expiration"] = (lambda: update_expiration(context, key, None), False)
    for operation, (act, expected) in operations.items():
        answer = act()
        assert answer is expected, f"{operation} of an absent record returned {answer!r}"
        assert store.read(context, key) is None, f"{operation} has made or revived a record"


class Records(Suite):
    def test_store_has_the_shape_of_the_contract(self, store: Storage) -> None:
        assert isinstance(store, Storage), "an operation of the protocol is missing"
        capabilities = store.capabilities
        assert isinstance(capabilities, Capabilities)
        assert min(capabilities.context_bytes, capabilities.key_bytes) >= 255
        assert capabilities.value_bytes >= 255
        assert capabilities.resolution >= 1
        assert capabilities.total_bytes is None or capabilities.total_bytes >= 2048
        assert capabilities.reasons.keys() <= {known.name for known in fields(Capabilities)}

    def test_ping_of_a_healthy_store_returns_none_and_ends_assumptions(
        self, store: Storage
    ) -> None:
        answer: Any = store.ping()  # type: ignore[func-returns-value]
        assert answer is None
        assert store.capabilities.assumed is False

    def test_closed_store_can_be_used_again(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        store.close()
        store.close()
        assert read(store, context, "k").value == b"v", "close() has lost a record"

    # --- create and read ------------------------------------------------------------------------

    def test_values_are_returned_byte_by_byte(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at, version = clock.now + MINUTE, next_version(clock())
        for name, example in VALUES.items():
            value = example[: store.capabilities.value_bytes - 1]
            write(store, context, "k", value, expires_at, version)
            assert store.read(context, "k") == Stored(value, version, expires_at), name
            assert store.update(context, "k", value + b"!", expires_at, version + 1) is True
            assert store.read(context, "k") == Stored(value + b"!", version + 1, expires_at), name
            assert store.delete(context, "k") is True

    def test_create_leaves_a_live_record_alone(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"first", expires_at, 1)
        assert store.create(context, "k", b"second", None, 2) is False
        assert store.create(context, "k", b"first", expires_at, 1) is False
        assert store.read(context, "k") == Stored(b"first", 1, expires_at)

    def test_record_that_was_never_written_is_absent(self, store: Storage, context: str) -> None:
        assert_absent(store, context, "k")

    def test_deleted_record_is_absent(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        assert store.delete(context, "k") is True
        assert_absent(store, context, "k")

    def test_reader_with_the_current_version_gets_unchanged(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k", b"v", None, 5)
        assert read_if_changed(store, context, "k", 5) is UNCHANGED
        # Newer versions count, too: the reader may know one from before a restore.
        assert read_if_changed(store, context, "k", 4) == Stored(b"v", 5, None)
        assert read_if_changed(store, context, "k", 6) == Stored(b"v", 5, None)

    def test_read_returns_an_immutable_snapshot(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"old")
        before = read(store, context, "k")
        assert type(before.value) is bytes, "a value must be of type bytes, which is immutable"
        assert store.update(context, "k", b"new", None, 2) is True
        assert before == Stored(b"old", 1, None), "a later update has changed what was read"
        with pytest.raises(AttributeError):
            before.value = b"mine"  # type: ignore[misc]
        assert store.read(context, "k") == Stored(b"new", 2, None)

    # --- update and delete ----------------------------------------------------------------------

    def test_update_overwrites_value_version_and_expiry(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old")
        assert store.update(context, "k", b"new", expires_at, 2) is True
        assert store.read(context, "k") == Stored(b"new", 2, expires_at)
        assert store.update(context, "k", b"newer", None, 3, expected=2) is True
        assert store.read(context, "k") == Stored(b"newer", 3, None)

    def test_unexpected_version_raises_with_the_current_one(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k", b"v", None, 10)
        for expected in (9, 11, 1, LAST_VERSION):
            assert mismatch_version(store.update, context, "k", b"w", None, 20, expected) == 10
            assert mismatch_version(store.delete, context, "k", expected) == 10
            assert store.read(context, "k") == Stored(b"v", 10, None), "a refused write has written"

    def test_version_that_is_not_greater_raises(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"v", None, 10)
        for version in (9, 10, 1):
            for expected in (None, 10):
                update = (store.update, context, "k", b"w", None, version, expected)
                assert mismatch_version(*update) == 10
        assert store.read(context, "k") == Stored(b"v", 10, None), "a refused update has written"

    def test_update_expiration_changes_neither_value_nor_version(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage):
            return
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"v", None, 4)
        assert store.update_expiration(context, "k", expires_at) is True
        assert store.read(context, "k") == Stored(b"v", 4, expires_at)
        assert store.update(context, "k", b"w", None, 5, expected=4) is True

    def test_delete_returns_true_once(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"v", None, 3)
        assert store.delete(context, "k", expected=3) is True
        assert store.delete(context, "k", expected=3) is False
        assert store.delete(context, "k") is False

    def test_129_checked_updates_leave_the_last(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        version = next_version(clock())
        write(store, context, "k", b"0", None, version)
        for number in range(1, 130):
            proposed, value = next_version(clock(), version), str(number).encode()
            assert store.update(context, "k", value, None, proposed, version) is True
            version = proposed
        assert store.read(context, "k") == Stored(b"129", version, None)

    # --- versions -------------------------------------------------------------------------------

    def test_version_is_the_one_that_the_writer_proposed(
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

    def test_versions_are_compared_to_the_last_of_63_bits(
        self, store: Storage, context: str
    ) -> None:
        last = LAST_VERSION
        write(store, context, "k", b"v", None, last - 1)
        assert read(store, context, "k").version == last - 1
        for wrong in (last - 2, last):
            assert mismatch_version(store.update, context, "k", b"w", None, last, wrong) == last - 1
            assert mismatch_version(store.delete, context, "k", wrong) == last - 1
        assert store.update(context, "k", b"w", None, last, last - 1) is True
        assert mismatch_version(store.update, context, "k", b"x", None, last) == last
        assert read(store, context, "k") == Stored(b"w", last, None)
        assert store.delete(context, "k", last) is True

    def test_version_out_of_range_is_refused(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"v", None, 10)
        for version in (0, -1, LAST_VERSION + 1, 1 << 64, -1 << 63):
            writes: list[Callable[[int], object]] = [
                lambda version: store.create(context, "new", b"v", None, version),
                lambda version: store.update(context, "k", b"w", None, version),
                lambda expected: store.update(context, "k", b"w", None, 20, expected),
                lambda expected: store.delete(context, "k", expected),
            ]
            for act in writes:
                with pytest.raises(CapacityError):
                    act(version)
            assert store.read(context, "k") == Stored(b"v", 10, None), "a refused write has written"
            assert store.read(context, "new") is None

    def test_no_version_returns_after_a_delete(
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

    def test_writer_from_before_a_delete_overwrites_no_later_record(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        old = next_version(clock())
        write(store, context, "k", b"old", None, old)
        assert store.delete(context, "k") is True
        new = next_version(clock(), old)
        write(store, context, "k", b"new", None, new)
        assert mismatch_version(store.delete, context, "k", old) == new
        assert mismatch_version(store.update, context, "k", b"late", None, new + 1, old) == new
        assert store.read(context, "k") == Stored(b"new", new, None)


Setter = Callable[[str, int | None], bool]


def setters(store: Storage, context: str) -> dict[str, Setter]:
    """Return every way to give a record its expiry, as a function of key and expiry."""

    def create(key: str, expires_at: int | None) -> bool:
        return store.create(context, key, b"v", expires_at, 1)

    def update(key: str, expires_at: int | None) -> bool:
        write(store, context, key, b"u")
        return store.update(context, key, b"v", expires_at, 2)

    ways: dict[str, Setter] = {"create": create, "update": update}
    if isinstance(store, ManagedStorage):
        change = store.update_expiration

        def update_expiration(key: str, expires_at: int | None) -> bool:
            write(store, context, key)
            return change(context, key, expires_at)

        ways["update_expiration"] = update_expiration
    return ways


class Expiry(Suite):
    def test_record_lives_until_its_expiry_and_no_millisecond_longer(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        for way, set_expiry in setters(store, context).items():
            expires_at = clock.now + MINUTE
            assert set_expiry(way, expires_at) is True
            clock.stop(expires_at - 1)
            assert read(store, context, way).expires_at == expires_at
            for moment in (0, 1):
                clock.stop(must_be_gone_at(store, expires_at) + moment)
                assert store.read(context, way) is None, f"{way}: live after its expiry"

    def test_expiry_is_returned_exactly(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        now = clock.now
        expiries = {name: life and now + life for name, life in LIFETIMES.items()}
        for name, expires_at in {**expiries, "the last expiry": LATEST}.items():
            for way, set_expiry in setters(store, context).items():
                assert set_expiry(way, expires_at) is True
                assert read(store, context, way).expires_at == expires_at, f"{way}, {name}"
                assert store.delete(context, way) is True

    def test_permanent_record_becomes_finite_and_permanent_again(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        first = clock.now + MINUTE
        write(store, context, "k")
        for version, expires_at in ((2, first), (3, None), (4, first + 1), (5, None)):
            assert store.update(context, "k", b"v", expires_at, version) is True
            assert read(store, context, "k").expires_at == expires_at
            if isinstance(store, ManagedStorage):
                opposite = None if expires_at else first
                assert store.update_expiration(context, "k", opposite) is True
                assert read(store, context, "k").expires_at == opposite
                assert store.update_expiration(context, "k", expires_at) is True
        clock.stop(first + MINUTE)
        assert read(store, context, "k").expires_at is None

    def test_permanent_record_is_live_in_1000_years(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        write(store, context, "k")
        clock.stop(clock.now + 365_250 * DAY)
        store.reap(100)
        assert store.read(context, "k") == Stored(b"v", 1, None)

    def test_updated_expiration_counts_and_not_the_first(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not isinstance(store, ManagedStorage):
            return
        first = clock.now + MINUTE
        write(store, context, "later", b"v", first)
        write(store, context, "sooner", b"v", first + 2 * MINUTE)
        assert store.update_expiration(context, "later", first + 2 * MINUTE) is True
        assert store.update_expiration(context, "sooner", first) is True
        clock.stop(must_be_gone_at(store, first))
        assert store.read(context, "later") == Stored(b"v", 1, first + 2 * MINUTE)
        assert store.read(context, "sooner") is None

    def test_expired_record_is_absent(self, store: Storage, clock: FakeClock, context: str) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old", expires_at, 7)
        clock.stop(must_be_gone_at(store, expires_at))
        assert_absent(store, context, "k")

    def test_record_can_be_created_where_one_has_expired(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old", expires_at, 7)
        clock.stop(must_be_gone_at(store, expires_at))
        write(store, context, "k", b"new", None, 2)
        assert store.read(context, "k") == Stored(b"new", 2, None)

    def test_expiry_out_of_range_is_refused(self, store: Storage, context: str) -> None:
        can = store.capabilities
        acts: dict[str, Callable[[int | None], object]] = {
            way: partial(set_expiry, way) for way, set_expiry in setters(store, context).items()
        }
        if can.indexes:
            acts["add_member"] = lambda at: store.add_member(context, "k", "m", at)
        if can.contexts and isinstance(store, ManagedStorage):
            touch_context = store.touch_context
            acts["touch_context"] = lambda at: touch_context(context, at)
        for expires_at in (-1, LATEST + 1, 1 << 63, 1 << 64):
            for operation, act in acts.items():
                with pytest.raises(CapacityError):
                    act(expires_at)
                found = store.read(context, operation)
                assert found is None or found.expires_at is None, "a refused write has written"
                store.delete(context, operation)
        assert not can.indexes or store.members(context, "k") == {}

    def test_expiry_in_the_past_counts(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        now = clock.now
        clock.stop(now)
        # 0 is a time like any other, and must not be taken for None.
        pasts = {"now": now, "a minute ago": now - MINUTE, "the epoch": 0}
        for way, set_expiry in setters(store, context).items():
            for name in pasts:
                assert set_expiry(f"{way}, {name}", pasts[name]) is True
        clock.stop(must_be_gone_at(store, now))
        for way in setters(store, context):
            for name in pasts:
                assert store.read(context, f"{way}, {name}") is None, f"{way}, {name}"
                write(store, context, f"{way}, {name}", b"new", None, 2)

    def test_reaping_is_bounded_and_removes_no_live_record(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        expires_at = clock.now + MINUTE
        for number in range(10):
            write(store, context, f"over-{number}", b"v", expires_at)
        write(store, context, "permanent")
        write(store, context, "later", b"v", expires_at + MINUTE)
        clock.stop(must_be_gone_at(store, expires_at))
        counts = [store.reap(4) for _ in range(4)]
        assert all(0 <= count <= 4 for count in counts), f"reap(4) returned {counts}"
        assert store.read(context, "permanent") == Stored(b"v", 1, None)
        assert store.read(context, "later") == Stored(b"v", 1, expires_at + MINUTE)

    def test_repeated_reaping_ends(self, store: Storage, clock: FakeClock, context: str) -> None:
        expires_at = clock.now + MINUTE
        for number in range(10):
            write(store, context, str(number), b"v", expires_at)
        clock.stop(must_be_gone_at(store, expires_at))
        # Other tests may have left expired records, too, but their number does not grow.
        assert any(store.reap(1000) == 0 for _ in range(1000))
        assert [store.read(context, str(number)) for number in range(10)] == [None] * 10

    def test_reaping_removes_expired_records_for_good(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        now, can = clock.now, store.capabilities
        for number in range(3):
            write(store, context, str(number), b"v", now + MINUTE)
            if can.indexes:
                store.add_member(context, "index", str(number), now + MINUTE)
        # A store may allow a margin for clocks that differ; a day is more than any.
        clock.stop(now + DAY)
        for _ in range(1000):
            if store.reap(1000) == 0:
                break
        # At this time nothing has expired, so records that were kept are visible.
        clock.stop(now)
        kept = [str(number) for number in range(3) if store.read(context, str(number)) is not None]
        members = store.members(context, "index") if can.indexes else {}
        assert can.native_expiry or (kept, members) == ([], {}), "kept after reaping"

    def test_clock_that_steps_back_revives_no_reaped_record(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        now = clock.now
        write(store, context, "k", b"v", now + MINUTE)
        clock.stop(must_be_gone_at(store, now + MINUTE))
        counts = [store.reap(1000)]
        while counts[-1]:
            counts.append(store.reap(1000))
        clock.stop(now)
        # A record that a server will remove by its own clock was not reaped, and may be live again.
        assert store.read(context, "k") is None or not sum(counts)
