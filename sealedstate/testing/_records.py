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
    Stored,
    is_storage,
    next_version,
    read_if_changed,
)
from ._suite import MINUTE, Context, Suite, mismatch_version

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


def assert_absent(context: Context, key: str) -> None:
    """Assert that every operation finds no live record, and makes none."""
    operations: dict[str, tuple[Callable[[], object], object]] = {
        "read": (lambda: context.read(key), None),
        "read_if_changed": (lambda: read_if_changed(context.store, context.name, key, 1), None),
        "update": (lambda: context.update(key, b"new", None, 9), False),
        "update, expected": (lambda: context.update(key, b"new", None, 9, 1), False),
        "update, another expected": (lambda: context.update(key, b"new", None, 9, 3), False),
        "update, smaller version": (lambda: context.update(key, b"new", None, 1), False),
        "delete": (lambda: context.delete(key), False),
        "delete, expected": (lambda: context.delete(key, expected=1), False),
        "delete, another expected": (lambda: context.delete(key, expected=3), False),
    }
    if context.is_managed:
        operations["update_expiration"] = (lambda: context.update_expiration(key, None), False)
    for operation, (act, expected) in operations.items():
        answer = act()
        assert answer is expected, f"{operation} of an absent record returned {answer!r}"
        assert context.read(key) is None, f"{operation} has made or revived a record"


class Records(Suite):
    def test_store_has_the_shape_of_the_contract(self, context: Context) -> None:
        assert is_storage(context.store), "an operation of the protocol is missing"
        capabilities = context.capabilities
        assert isinstance(capabilities, Capabilities)
        assert min(capabilities.context_bytes, capabilities.key_bytes) >= 255
        assert capabilities.value_bytes >= 255
        assert capabilities.resolution >= 1
        assert capabilities.total_bytes is None or capabilities.total_bytes >= 2048
        assert capabilities.reasons.keys() <= {known.name for known in fields(Capabilities)}

    def test_ping_of_a_healthy_store_returns_none_and_ends_assumptions(
        self, context: Context
    ) -> None:
        answer: Any = context.store.ping()  # type: ignore[func-returns-value]
        assert answer is None
        assert context.capabilities.assumed is False

    def test_closed_store_can_be_used_again(self, context: Context) -> None:
        context.write("k")
        context.store.close()
        context.store.close()
        assert context.read_live("k").value == b"v", "close() has lost a record"

    # --- create and read ------------------------------------------------------------------------

    def test_values_are_returned_byte_by_byte(self, context: Context) -> None:
        expires_at, version = context.now + MINUTE, next_version(context.clock())
        for name, example in VALUES.items():
            value = example[: context.capabilities.value_bytes - 1]
            context.write("k", value, expires_at, version)
            assert context.read("k") == Stored(value, version, expires_at), name
            assert context.update("k", value + b"!", expires_at, version + 1) is True
            assert context.read("k") == Stored(value + b"!", version + 1, expires_at), name
            assert context.delete("k") is True

    def test_create_leaves_a_live_record_alone(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        context.write("k", b"first", expires_at, 1)
        assert context.create("k", b"second", None, 2) is False
        assert context.create("k", b"first", expires_at, 1) is False
        assert context.read("k") == Stored(b"first", 1, expires_at)

    def test_record_that_was_never_written_is_absent(self, context: Context) -> None:
        assert_absent(context, "k")

    def test_deleted_record_is_absent(self, context: Context) -> None:
        context.write("k")
        assert context.delete("k") is True
        assert_absent(context, "k")

    def test_reader_with_the_current_version_gets_unchanged(self, context: Context) -> None:
        context.write("k", b"v", None, 5)
        assert read_if_changed(context.store, context.name, "k", 5) is UNCHANGED
        # Newer versions count, too: the reader may know one from before a restore.
        for known in (4, 6):
            changed = read_if_changed(context.store, context.name, "k", known)
            assert changed == Stored(b"v", 5, None)

    def test_read_returns_an_immutable_snapshot(self, context: Context) -> None:
        context.write("k", b"old")
        before = context.read_live("k")
        assert type(before.value) is bytes, "a value must be of type bytes, which is immutable"
        assert context.update("k", b"new", None, 2) is True
        assert before == Stored(b"old", 1, None), "a later update has changed what was read"
        with pytest.raises(AttributeError):
            before.value = b"mine"  # type: ignore[misc]
        assert context.read("k") == Stored(b"new", 2, None)

    # --- update and delete ----------------------------------------------------------------------

    def test_update_overwrites_value_version_and_expiry(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        context.write("k", b"old")
        assert context.update("k", b"new", expires_at, 2) is True
        assert context.read("k") == Stored(b"new", 2, expires_at)
        assert context.update("k", b"newer", None, 3, expected=2) is True
        assert context.read("k") == Stored(b"newer", 3, None)

    def test_unexpected_version_raises_with_the_current_one(self, context: Context) -> None:
        context.write("k", b"v", None, 10)
        for expected in (9, 11, 1, LAST_VERSION):
            assert mismatch_version(context.update, "k", b"w", None, 20, expected) == 10
            assert mismatch_version(context.delete, "k", expected) == 10
            assert context.read("k") == Stored(b"v", 10, None), "a refused write has written"

    def test_version_that_is_not_greater_raises(self, context: Context) -> None:
        context.write("k", b"v", None, 10)
        for version in (9, 10, 1):
            for expected in (None, 10):
                update = (context.update, "k", b"w", None, version, expected)
                assert mismatch_version(*update) == 10
        assert context.read("k") == Stored(b"v", 10, None), "a refused update has written"

    def test_delete_returns_true_once(self, context: Context) -> None:
        context.write("k", b"v", None, 3)
        assert context.delete("k", expected=3) is True
        assert context.delete("k", expected=3) is False
        assert context.delete("k") is False

    def test_129_checked_updates_leave_the_last(self, context: Context) -> None:
        version = next_version(context.clock())
        context.write("k", b"0", None, version)
        for number in range(1, 130):
            proposed, value = next_version(context.clock(), version), str(number).encode()
            assert context.update("k", value, None, proposed, version) is True
            version = proposed
        assert context.read("k") == Stored(b"129", version, None)

    # --- versions -------------------------------------------------------------------------------

    def test_version_is_the_one_that_the_writer_proposed(self, context: Context) -> None:
        # Microseconds at the end of the century, far more than 32 bits.
        version = next_version(4_102_444_799.0)
        context.write("k", b"v", None, version)
        assert context.read_live("k").version == version
        for step in (1, 2):
            proposed = version + step
            assert context.update("k", b"v", None, proposed, proposed - 1) is True
            assert context.read_live("k").version == proposed

    def test_versions_are_compared_to_the_last_of_63_bits(self, context: Context) -> None:
        last = LAST_VERSION
        context.write("k", b"v", None, last - 1)
        assert context.read_live("k").version == last - 1
        for wrong in (last - 2, last):
            assert mismatch_version(context.update, "k", b"w", None, last, wrong) == last - 1
            assert mismatch_version(context.delete, "k", wrong) == last - 1
        assert context.update("k", b"w", None, last, last - 1) is True
        assert mismatch_version(context.update, "k", b"x", None, last) == last
        assert context.read_live("k") == Stored(b"w", last, None)
        assert context.delete("k", last) is True

    def test_version_out_of_range_is_refused(self, context: Context) -> None:
        context.write("k", b"v", None, 10)
        for version in (0, -1, LAST_VERSION + 1, 1 << 64, -1 << 63):
            writes: list[Callable[[int], object]] = [
                lambda version: context.create("new", b"v", None, version),
                lambda version: context.update("k", b"w", None, version),
                lambda expected: context.update("k", b"w", None, 20, expected),
                lambda expected: context.delete("k", expected),
            ]
            for act in writes:
                with pytest.raises(CapacityError):
                    act(version)
            assert context.read("k") == Stored(b"v", 10, None), "a refused write has written"
            assert context.read("new") is None

    def test_no_version_returns_after_a_delete(self, context: Context) -> None:
        seen = []
        for _ in range(10):
            context.write("k", b"v", None, next_version(context.clock()))
            seen.append(context.read_live("k").version)
            proposed = next_version(context.clock(), seen[-1])
            assert context.update("k", b"w", None, proposed, seen[-1]) is True
            seen.append(context.read_live("k").version)
            assert context.delete("k", seen[-1]) is True
        assert seen == sorted(set(seen)), f"versions that were used before: {seen}"

    def test_writer_from_before_a_delete_overwrites_no_later_record(self, context: Context) -> None:
        old = next_version(context.clock())
        context.write("k", b"old", None, old)
        assert context.delete("k") is True
        new = next_version(context.clock(), old)
        context.write("k", b"new", None, new)
        assert mismatch_version(context.delete, "k", old) == new
        assert mismatch_version(context.update, "k", b"late", None, new + 1, old) == new
        assert context.read("k") == Stored(b"new", new, None)


def setters(context: Context) -> dict[str, Callable[[str, int | None], bool]]:
    """Return every way to give a record its expiry, as a function of key and expiry."""

    def create(key: str, expires_at: int | None) -> bool:
        return context.create(key, b"v", expires_at, 1)

    def update(key: str, expires_at: int | None) -> bool:
        context.write(key, b"u")
        return context.update(key, b"v", expires_at, 2)

    def update_expiration(key: str, expires_at: int | None) -> bool:
        context.write(key)
        return context.update_expiration(key, expires_at)

    ways = [create, update, *([update_expiration] if context.is_managed else [])]
    return {way.__name__: way for way in ways}


class Expiry(Suite):
    def test_record_lives_until_its_expiry_and_no_millisecond_longer(
        self, context: Context
    ) -> None:
        for way, set_expiry in setters(context).items():
            expires_at = context.now + MINUTE
            assert set_expiry(way, expires_at) is True
            context.clock.stop(expires_at - 1)
            assert context.read_live(way).expires_at == expires_at
            for moment in (0, 1):
                context.clock.stop(context.gone_at(expires_at) + moment)
                assert context.read(way) is None, f"{way}: live after its expiry"

    def test_expiry_is_returned_exactly(self, context: Context) -> None:
        now = context.now
        expiries = {name: life and now + life for name, life in LIFETIMES.items()}
        for name, expires_at in {**expiries, "the last expiry": LATEST}.items():
            for way, set_expiry in setters(context).items():
                assert set_expiry(way, expires_at) is True
                assert context.read_live(way).expires_at == expires_at, f"{way}, {name}"
                assert context.delete(way) is True

    def test_permanent_record_becomes_finite_and_permanent_again(self, context: Context) -> None:
        first = context.now + MINUTE
        context.write("k")
        for version, expires_at in ((2, first), (3, None), (4, first + 1), (5, None)):
            assert context.update("k", b"v", expires_at, version) is True
            assert context.read_live("k").expires_at == expires_at
            if context.is_managed:
                opposite = None if expires_at else first
                assert context.update_expiration("k", opposite) is True
                assert context.read_live("k").expires_at == opposite
                assert context.update_expiration("k", expires_at) is True
        context.clock.stop(first + MINUTE)
        assert context.read_live("k").expires_at is None

    def test_permanent_record_is_live_in_1000_years(self, context: Context) -> None:
        context.write("k")
        context.clock.stop(context.now + 365_250 * DAY)
        context.store.reap(100)
        assert context.read("k") == Stored(b"v", 1, None)

    def test_expired_record_is_absent(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        context.write("k", b"old", expires_at, 7)
        context.stop_after(expires_at)
        assert_absent(context, "k")

    def test_record_can_be_created_where_one_has_expired(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        context.write("k", b"old", expires_at, 7)
        context.stop_after(expires_at)
        context.write("k", b"new", None, 2)
        assert context.read("k") == Stored(b"new", 2, None)

    def test_expiry_out_of_range_is_refused(self, context: Context) -> None:
        can = context.capabilities
        acts: dict[str, Callable[[int | None], object]] = {
            way: partial(set_expiry, way) for way, set_expiry in setters(context).items()
        }
        if can.indexes:
            acts["add_member"] = lambda at: context.add_member("k", "m", at)
        if can.contexts and context.is_managed:
            acts["touch_context"] = context.touch_all
        for expires_at in (-1, LATEST + 1, 1 << 63, 1 << 64):
            for operation, act in acts.items():
                with pytest.raises(CapacityError):
                    act(expires_at)
                found = context.read(operation)
                assert found is None or found.expires_at is None, "a refused write has written"
                context.delete(operation)
        assert not can.indexes or context.members("k") == {}

    def test_expiry_in_the_past_counts(self, context: Context) -> None:
        now = context.now
        context.clock.stop(now)
        # 0 is a time like any other, and must not be taken for None.
        pasts = {"now": now, "a minute ago": now - MINUTE, "the epoch": 0}
        for way, set_expiry in setters(context).items():
            for name in pasts:
                assert set_expiry(f"{way}, {name}", pasts[name]) is True
        context.stop_after(now)
        for way in setters(context):
            for name in pasts:
                assert context.read(f"{way}, {name}") is None, f"{way}, {name}"
                context.write(f"{way}, {name}", b"new", None, 2)

    def test_reaping_is_bounded_and_removes_no_live_record(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        for number in range(10):
            context.write(f"over-{number}", b"v", expires_at)
        context.write("permanent")
        context.write("later", b"v", expires_at + MINUTE)
        context.stop_after(expires_at)
        counts = [context.store.reap(4) for _ in range(4)]
        assert all(0 <= count <= 4 for count in counts), f"reap(4) returned {counts}"
        assert context.read("permanent") == Stored(b"v", 1, None)
        assert context.read("later") == Stored(b"v", 1, expires_at + MINUTE)

    def test_repeated_reaping_ends(self, context: Context) -> None:
        expires_at = context.now + MINUTE
        for number in range(10):
            context.write(str(number), b"v", expires_at)
        context.stop_after(expires_at)
        # Other tests may have left expired records, too, but their number does not grow.
        assert any(context.store.reap(1000) == 0 for _ in range(1000))
        assert [context.read(str(number)) for number in range(10)] == [None] * 10

    def test_reaping_removes_expired_records_for_good(self, context: Context) -> None:
        now, can = context.now, context.capabilities
        for number in range(3):
            context.write(str(number), b"v", now + MINUTE)
            if can.indexes:
                context.add_member("index", str(number), now + MINUTE)
        # A store may allow a margin for clocks that differ; a day is more than any.
        context.clock.stop(now + DAY)
        for _ in range(1000):
            if context.store.reap(1000) == 0:
                break
        # At this time nothing has expired, so records that were kept are visible.
        context.clock.stop(now)
        kept = [str(number) for number in range(3) if context.read(str(number)) is not None]
        members = context.members("index") if can.indexes else {}
        assert can.native_expiry or (kept, members) == ([], {}), "kept after reaping"

    def test_clock_that_steps_back_revives_no_reaped_record(self, context: Context) -> None:
        now = context.now
        context.write("k", b"v", now + MINUTE)
        context.clock.stop(now + DAY)
        counts = [context.store.reap(1000)]
        while counts[-1]:
            counts.append(context.store.reap(1000))
        context.clock.stop(now)
        # A record that a server will remove by its own clock was not reaped, and may be live again.
        assert context.read("k") is None or not sum(counts)
