"""What a store owes about time: alive until its expiry, gone from then on, and told exactly.

Knows that a store may declare, by its resolution, to be late; never that it may be early. Does not
know how a store expires.
"""

# ruff: noqa: S101
from __future__ import annotations

from collections.abc import Callable

import pytest

from ..errors import CapacityError
from ..storage.contract import LATEST, Storage, Stored
from .clock import KitClock
from .records import ABSENT, absent
from .suite import MINUTE, Suite, read, undeclared, write

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
        self, store: Storage, clock: KitClock, context: str, way: str
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
        self, store: Storage, clock: KitClock, context: str, lifetime: int | None, way: str
    ) -> None:
        expires_at = None if lifetime is None else clock.now + lifetime
        assert WAYS[way](store, context, "k", expires_at) is True
        assert read(store, context, "k").expires_at == expires_at

    @pytest.mark.parametrize("operation", ["update", "update_expiration"])
    def test_permanent_becomes_finite_and_permanent_again(
        self, store: Storage, clock: KitClock, context: str, operation: str
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
        self, store: Storage, clock: KitClock, context: str
    ) -> None:
        write(store, context, "k")
        clock.stop(clock.now + 365_250 * DAY)
        store.reap(100)
        assert store.read(context, "k") == Stored(b"v", 1, None)

    def test_a_moved_expiry_counts_and_not_the_first_one(
        self, store: Storage, clock: KitClock, context: str
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
        self, store: Storage, clock: KitClock, context: str, operation: str
    ) -> None:
        expires_at = clock.now + MINUTE
        write(store, context, "k", b"old", expires_at, 7)
        clock.stop(gone_at(store, expires_at))
        absent(store, context, "k", operation)
        assert store.read(context, "k") is None, f"{operation} has revived a record"

    def test_a_record_can_be_created_where_one_has_expired(
        self, store: Storage, clock: KitClock, context: str
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
        self, store: Storage, clock: KitClock, context: str, way: str, past: str
    ) -> None:
        now = clock.now
        clock.stop(now)
        times = {"now": now, "a minute ago": now - MINUTE, "the epoch": 0}
        assert WAYS[way](store, context, "k", times[past]) is True
        clock.stop(gone_at(store, now))
        assert store.read(context, "k") is None
        write(store, context, "k", b"new", None, 2)

    def test_reaping_is_bounded_and_takes_no_live_record(
        self, store: Storage, clock: KitClock, context: str
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

    def test_reaping_comes_to_an_end(self, store: Storage, clock: KitClock, context: str) -> None:
        expires_at = clock.now + MINUTE
        for number in range(10):
            write(store, context, str(number), b"v", expires_at)
        clock.stop(gone_at(store, expires_at))
        # Others may have left something, too; but whatever there is, there is ever less of it.
        assert any(store.reap(1000) == 0 for _ in range(1000))
        assert [store.read(context, str(number)) for number in range(10)] == [None] * 10

    def test_what_has_expired_can_be_removed_for_good(
        self, store: Storage, clock: KitClock, context: str
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
        self, store: Storage, clock: KitClock, context: str
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
