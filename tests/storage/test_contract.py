"""The storage contract: a store that joins STORES owes all of it."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sealedstate.errors import CapacityError, VersionMismatch
from sealedstate.storage import MemoryStorage, SQLiteStorage, Storage, Stored
from sealedstate.storage.contract import UNCHANGED, millis, next_version
from tests.support.jar import Clock

T = TypeVar("T")
Opener = Callable[[Path, Clock], Storage]

STORES: dict[str, Opener] = {
    "memory": lambda folder, clock: MemoryStorage(clock),
    "sqlite": lambda folder, clock: SQLiteStorage(folder / "store.db", clock),
}

NOW = 1_800_000_000_000
SOON = NOW + 60_000
RACERS, ROUNDS = 8, 200

ODD_KEYS = [
    "\0",
    "a\0b",
    "a\r\nset b 0 0 1\r\n1",
    " ",
    "a ",
    "%",
    "_",
    "'; DROP TABLE sealedstate_record; --",
    "../../etc/passwd",
    "Straße",
    "STRASSE",
    "\N{GRINNING FACE}",
    "\u202e",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "k" * 4096,
    "k" * 4095 + "j",
]


class MilliClock(Clock):
    """A clock told in milliseconds, always in the middle of one."""

    def __init__(self, now: int = NOW) -> None:
        super().__init__()
        self.at(now)

    def at(self, now: int) -> None:
        self.now = (now + 0.5) / 1000


@pytest.fixture
def clock() -> MilliClock:
    return MilliClock()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: MilliClock) -> Iterator[Storage]:
    opened = STORES[request.param](tmp_path, clock)
    yield opened
    opened.close()


def mismatch(act: Callable[[], object]) -> int:
    with pytest.raises(VersionMismatch) as caught:
        act()
    return caught.value.current


# --- create and read ------------------------------------------------------------------------------


def test_what_was_created_is_read_back(store: Storage) -> None:
    assert store.create("c", "k", b"\0value\xff", SOON, 7)
    assert store.read("c", "k") == Stored(b"\0value\xff", 7, SOON)


def test_an_empty_value_is_a_value(store: Storage) -> None:
    assert store.create("c", "k", b"", None, 1)
    assert store.read("c", "k") == Stored(b"", 1, None)


def test_create_leaves_a_live_record_alone(store: Storage) -> None:
    store.create("c", "k", b"first", SOON, 1)
    assert not store.create("c", "k", b"second", None, 2)
    assert store.read("c", "k") == Stored(b"first", 1, SOON)


def test_what_was_never_written_is_none(store: Storage) -> None:
    assert store.read("c", "k") is None
    assert store.read_if_changed("c", "k", 1) is None


def test_a_reader_with_the_current_version_is_told_so(store: Storage) -> None:
    store.create("c", "k", b"v", SOON, 5)
    assert store.read_if_changed("c", "k", 5) is UNCHANGED
    assert store.read_if_changed("c", "k", 4) == Stored(b"v", 5, SOON)
    assert store.read_if_changed("c", "k", 6) == Stored(b"v", 5, SOON)


def test_a_record_is_a_snapshot_that_nobody_can_change(store: Storage) -> None:
    store.create("c", "k", b"old", None, 1)
    before = store.read("c", "k")
    assert before is not None
    store.update("c", "k", b"new", SOON, 2)
    assert before == Stored(b"old", 1, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.value = b"mine"  # type: ignore[misc]
    assert store.read("c", "k") == Stored(b"new", 2, SOON)


def test_a_records_repr_hides_its_value(store: Storage) -> None:
    store.create("c", "k", b"canary", None, 1)
    assert "canary" not in repr(store.read("c", "k"))


# --- expiry -----------------------------------------------------------------------------------


def test_a_record_lives_until_its_expiry_and_no_millisecond_longer(
    store: Storage, clock: MilliClock
) -> None:
    store.create("c", "k", b"v", SOON, 1)
    clock.at(SOON - 1)
    assert store.read("c", "k") == Stored(b"v", 1, SOON)
    clock.at(SOON)
    assert store.read("c", "k") is None
    clock.at(SOON + 1)
    assert store.read("c", "k") is None


@pytest.mark.parametrize(
    "expires_at", [None, NOW + 1, NOW + 999, 2**31 * 1000, 2**32 * 1000, 2**53]
)
def test_an_expiry_comes_back_exactly(store: Storage, expires_at: int | None) -> None:
    for key in ("created", "updated", "moved", "touched"):
        store.create("c", key, b"v", expires_at if key == "created" else SOON, 1)
    store.update("c", "updated", b"v", expires_at, 2)
    store.update_expiration("c", "moved", expires_at)
    assert [_expiry(store, key) for key in ("created", "updated", "moved")] == [expires_at] * 3
    store.touch_context("c", expires_at)
    assert _expiry(store, "touched") == expires_at


def _expiry(store: Storage, key: str) -> int | None:
    stored = store.read("c", key)
    assert stored is not None
    return stored.expires_at


def test_a_permanent_record_stays(store: Storage, clock: MilliClock) -> None:
    store.create("c", "k", b"v", None, 1)
    clock.at(NOW + 1000 * 365 * 86_400_000)
    store.reap(100)
    assert store.read("c", "k") == Stored(b"v", 1, None)


ABSENT: dict[str, Callable[[Storage], object]] = {
    "read": lambda store: store.read("c", "k"),
    "read_if_changed": lambda store: store.read_if_changed("c", "k", 1),
    "update": lambda store: store.update("c", "k", b"new", None, 9) or None,
    "update, other version": lambda store: store.update("c", "k", b"new", None, 9, 3) or None,
    "update, smaller version": lambda store: store.update("c", "k", b"new", None, 1) or None,
    "update_expiration": lambda store: store.update_expiration("c", "k", None) or None,
    "delete": lambda store: store.delete("c", "k") or None,
    "delete, other version": lambda store: store.delete("c", "k", 3) or None,
    "touch_context": lambda store: store.touch_context("c", None),
    "keys": lambda store: list(store.keys("c")) or None,
}


@pytest.mark.parametrize("operation", ABSENT)
def test_an_expired_record_is_as_absent_as_one_that_never_was(
    store: Storage, clock: MilliClock, operation: str
) -> None:
    assert ABSENT[operation](store) is None
    store.create("c", "k", b"old", SOON, 1)
    clock.at(SOON)
    assert ABSENT[operation](store) is None
    assert store.read("c", "k") is None
    assert store.create("c", "k", b"again", None, 2)
    assert store.read("c", "k") == Stored(b"again", 2, None)


def test_a_clock_that_jumps_back_revives_nothing_that_was_reaped(
    store: Storage, clock: MilliClock
) -> None:
    store.create("c", "k", b"v", SOON, 1)
    clock.at(SOON)
    assert store.reap(10) == 1
    clock.at(NOW)
    assert store.read("c", "k") is None


# --- update and versions ----------------------------------------------------------------------


def test_update_overwrites_value_version_and_expiry(store: Storage) -> None:
    store.create("c", "k", b"old", None, 1)
    assert store.update("c", "k", b"new", SOON, 2)
    assert store.read("c", "k") == Stored(b"new", 2, SOON)
    assert store.update("c", "k", b"newer", None, 3, expected=2)
    assert store.read("c", "k") == Stored(b"newer", 3, None)


def test_the_second_of_two_writers_is_told_the_current_version(store: Storage) -> None:
    store.create("c", "k", b"base", SOON, 10)
    assert store.update("c", "k", b"first", SOON, 20, expected=10)
    assert mismatch(lambda: store.update("c", "k", b"second", None, 30, expected=10)) == 20
    assert mismatch(lambda: store.delete("c", "k", expected=10)) == 20
    assert store.read("c", "k") == Stored(b"first", 20, SOON)


@pytest.mark.parametrize("version", [1, 9, 10])
def test_versions_only_grow(store: Storage, version: int) -> None:
    store.create("c", "k", b"v", SOON, 10)
    assert mismatch(lambda: store.update("c", "k", b"w", None, version)) == 10
    assert mismatch(lambda: store.update("c", "k", b"w", None, version, expected=10)) == 10
    assert store.read("c", "k") == Stored(b"v", 10, SOON)


def test_a_version_may_be_as_large_as_62_bits(store: Storage) -> None:
    store.create("c", "k", b"v", None, 2**62)
    assert store.update("c", "k", b"w", None, 2**62 + 1, expected=2**62)
    assert store.read("c", "k") == Stored(b"w", 2**62 + 1, None)


def test_129_updates_in_a_row_leave_the_last(store: Storage, clock: MilliClock) -> None:
    version = next_version(clock())
    store.create("c", "k", b"0", None, version)
    for number in range(1, 130):
        proposed = next_version(clock(), version)
        assert store.update("c", "k", str(number).encode(), None, proposed, version)
        version = proposed
    assert store.read("c", "k") == Stored(b"129", version, None)


def test_a_proposed_version_does_not_come_back_after_a_delete(
    store: Storage, clock: MilliClock
) -> None:
    seen = []
    for _ in range(20):
        created = next_version(clock())
        store.create("c", "k", b"v", None, created)
        updated = next_version(clock(), created)
        store.update("c", "k", b"w", None, updated, created)
        seen += [created, updated]
        store.delete("c", "k", updated)
        clock.forward(0.001)
    assert seen == sorted(set(seen))


def test_a_proposed_version_is_larger_even_when_the_clock_steps_back() -> None:
    ahead = next_version(2_000_000_000.0)
    assert next_version(1_900_000_000.0, ahead) == ahead + 1
    assert next_version(2_000_000_000.001, 0) > ahead


def test_moving_the_expiry_changes_neither_value_nor_version(
    store: Storage, clock: MilliClock
) -> None:
    store.create("c", "k", b"v", SOON, 4)
    assert store.update_expiration("c", "k", SOON + 1)
    assert store.read("c", "k") == Stored(b"v", 4, SOON + 1)
    clock.at(SOON)
    assert store.update_expiration("c", "k", None)
    assert store.read("c", "k") == Stored(b"v", 4, None)
    assert store.update_expiration("c", "k", SOON)
    assert store.read("c", "k") is None


# --- delete -----------------------------------------------------------------------------------


def test_delete_is_true_once(store: Storage) -> None:
    store.create("c", "k", b"v", SOON, 1)
    assert store.delete("c", "k")
    assert not store.delete("c", "k")
    assert store.read("c", "k") is None


def test_delete_checks_the_version(store: Storage) -> None:
    store.create("c", "k", b"v", None, 3)
    assert mismatch(lambda: store.delete("c", "k", expected=2)) == 3
    assert store.delete("c", "k", expected=3)
    assert store.read("c", "k") is None


# --- contexts ---------------------------------------------------------------------------------


def test_touching_a_context_moves_its_live_records_and_no_others(
    store: Storage, clock: MilliClock
) -> None:
    store.create("zork", "live", b"1", SOON + 5, 1)
    store.create("zork", "permanent", b"2", None, 2)
    store.create("zork", "over", b"3", SOON, 3)
    store.create("zork2", "sibling", b"4", SOON + 5, 4)
    clock.at(SOON)
    store.touch_context("zork", SOON + 99)
    assert store.read("zork", "live") == Stored(b"1", 1, SOON + 99)
    assert store.read("zork", "permanent") == Stored(b"2", 2, SOON + 99)
    assert store.read("zork", "over") is None
    assert store.read("zork2", "sibling") == Stored(b"4", 4, SOON + 5)


def test_deleting_a_context_deletes_all_of_it_and_no_other(store: Storage) -> None:
    for context in ("zork", "zork2", "Zork"):
        store.create(context, "a", b"v", None, 1)
        store.create(context, "b", b"v", SOON, 1)
    store.delete_context("zork")
    store.delete_context("zork")
    assert list(store.keys("zork")) == []
    assert sorted(store.keys("zork2")) == sorted(store.keys("Zork")) == ["a", "b"]
    assert store.create("zork", "a", b"new", None, 2)


def test_the_keys_of_a_context_are_its_live_ones(store: Storage, clock: MilliClock) -> None:
    for key in ("aa", "ab", "a%", "a_", "b", "A"):
        store.create("zork", key, b"v", SOON if key == "ab" else None, 1)
    store.create("zork2", "ac", b"v", None, 1)
    clock.at(SOON)
    assert sorted(store.keys("zork")) == sorted(["aa", "a%", "a_", "b", "A"])
    assert sorted(store.keys("zork", "a")) == sorted(["aa", "a%", "a_"])
    assert list(store.keys("zork", "a%")) == ["a%"]
    assert list(store.keys("zork", "a_")) == ["a_"]
    assert list(store.keys("nobody")) == []


def test_listing_keys_is_a_snapshot(store: Storage) -> None:
    for number in range(20):
        store.create("c", str(number), b"v", None, 1)
    listed = store.keys("c")
    first = next(listed)
    for number in range(20):
        store.delete("c", str(number))
        store.create("c", f"new-{number}", b"v", None, 1)
    assert sorted([first, *listed]) == sorted(str(number) for number in range(20))


# --- indexes ----------------------------------------------------------------------------------


def test_an_index_holds_what_was_added_until_it_is_removed(store: Storage) -> None:
    assert store.members("c", "k") == {}
    store.add_member("c", "k", "a", SOON)
    store.add_member("c", "k", "b", None)
    store.add_member("c", "other", "c", None)
    assert store.members("c", "k") == {"a": SOON, "b": None}
    assert store.remove_member("c", "k", "a")
    assert not store.remove_member("c", "k", "a")
    assert not store.remove_member("c", "nobody", "a")
    assert store.members("c", "k") == {"b": None}
    assert store.members("c", "other") == {"c": None}


def test_a_member_lives_until_its_own_expiry(store: Storage, clock: MilliClock) -> None:
    store.add_member("c", "k", "a", SOON)
    store.add_member("c", "k", "b", SOON + 1)
    clock.at(SOON - 1)
    assert store.members("c", "k") == {"a": SOON, "b": SOON + 1}
    clock.at(SOON)
    assert store.members("c", "k") == {"b": SOON + 1}
    assert not store.remove_member("c", "k", "a")
    store.add_member("c", "k", "a", SOON + 2)
    assert store.members("c", "k") == {"a": SOON + 2, "b": SOON + 1}


def test_adding_a_member_again_moves_its_expiry(store: Storage) -> None:
    for expires_at in (SOON, None, SOON + 1, SOON - 1):
        store.add_member("c", "k", "a", expires_at)
        assert store.members("c", "k") == {"a": expires_at}


def test_an_index_and_a_record_of_one_name_share_nothing(store: Storage) -> None:
    store.create("c", "k", b"v", SOON, 1)
    store.add_member("c", "k", "m", SOON)
    store.touch_context("c", None)
    assert store.members("c", "k") == {"m": SOON}
    store.remove_member("c", "k", "m")
    assert store.read("c", "k") == Stored(b"v", 1, None)
    store.add_member("c", "only-index", "m", None)
    assert list(store.keys("c")) == ["k"]
    assert store.read("c", "only-index") is None
    store.delete("c", "k")
    store.add_member("c", "k", "m", None)
    assert store.create("c", "k", b"w", None, 2)


def test_deleting_a_context_deletes_its_indexes(store: Storage) -> None:
    store.add_member("zork", "k", "m", None)
    store.add_member("zork2", "k", "m", None)
    store.delete_context("zork")
    assert store.members("zork", "k") == {}
    assert store.members("zork2", "k") == {"m": None}


def test_odd_members_are_all_different(store: Storage) -> None:
    for member in ODD_KEYS:
        store.add_member("c", "k", member, None)
    assert store.members("c", "k") == dict.fromkeys(ODD_KEYS)
    for member in ODD_KEYS:
        assert store.remove_member("c", "k", member)


def test_unfit_names_of_indexes_and_members_are_refused(store: Storage) -> None:
    operations: list[Callable[[str, str, str], object]] = [
        lambda context, key, member: store.add_member(context, key, member, None),
        store.remove_member,
        lambda context, key, _: store.members(context, key),
    ]
    for text in unfit(store):
        for operation in operations:
            with pytest.raises(CapacityError):
                operation(text, "k", "m")
            with pytest.raises(CapacityError):
                operation("c", text, "m")
    with pytest.raises(CapacityError):
        store.add_member("c", "k", "\ud800", None)
    with pytest.raises(CapacityError):
        store.remove_member("c", "k", "\ud800")


def test_reaping_counts_members_too(store: Storage, clock: MilliClock) -> None:
    for number in range(3):
        store.create("c", str(number), b"v", SOON, 1)
        store.add_member("c", "k", str(number), SOON)
    store.add_member("c", "k", "kept", None)
    clock.at(SOON)
    assert [store.reap(4), store.reap(4), store.reap(4)] == [4, 2, 0]
    assert store.members("c", "k") == {"kept": None}


def test_a_prepared_store_answers_a_ping(store: Storage) -> None:
    store.prepare()
    store.prepare()
    store.ping()


# --- reaping ----------------------------------------------------------------------------------


def test_reaping_is_bounded_and_says_how_much(store: Storage, clock: MilliClock) -> None:
    for number in range(10):
        store.create("c", str(number), b"v", SOON, 1)
    store.create("c", "permanent", b"v", None, 1)
    store.create("c", "later", b"v", SOON + 1, 1)
    assert store.reap(100) == 0
    clock.at(SOON)
    assert store.reap(4) == 4
    assert store.reap(4) == 4
    assert store.reap(4) == 2
    assert store.reap(4) == 0
    assert sorted(store.keys("c")) == ["later", "permanent"]


# --- names ------------------------------------------------------------------------------------


def test_odd_keys_are_all_different_and_kept_as_they_are(store: Storage) -> None:
    for number, key in enumerate(ODD_KEYS):
        assert store.create("c", key, str(number).encode(), None, 1), key[:40]
    for number, key in enumerate(ODD_KEYS):
        assert store.read("c", key) == Stored(str(number).encode(), 1, None)
    assert sorted(store.keys("c")) == sorted(ODD_KEYS)
    for key in ODD_KEYS:
        assert store.delete("c", key)


def test_odd_contexts_are_all_different(store: Storage) -> None:
    for number, context in enumerate(ODD_KEYS):
        assert store.create(context, "k", str(number).encode(), None, 1), context[:40]
    for number, context in enumerate(ODD_KEYS):
        assert store.read(context, "k") == Stored(str(number).encode(), 1, None)
        assert list(store.keys(context)) == ["k"]


def test_the_border_between_context_and_key_counts(store: Storage) -> None:
    places = [("a", "bc"), ("ab", "c"), ("a", "b"), ("a\0b", "c"), ("a", "b\0c"), ("A", "bc")]
    for number, (context, key) in enumerate(places):
        assert store.create(context, key, str(number).encode(), None, 1)
    for number, (context, key) in enumerate(places):
        assert store.read(context, key) == Stored(str(number).encode(), 1, None)


OPERATIONS: dict[str, Callable[[Storage, str, str], object]] = {
    "create": lambda store, context, key: store.create(context, key, b"v", None, 1),
    "read": lambda store, context, key: store.read(context, key),
    "read_if_changed": lambda store, context, key: store.read_if_changed(context, key, 1),
    "update": lambda store, context, key: store.update(context, key, b"v", None, 2),
    "update_expiration": lambda store, context, key: store.update_expiration(context, key, None),
    "delete": lambda store, context, key: store.delete(context, key),
}
CONTEXT_OPERATIONS: dict[str, Callable[[Storage, str], object]] = {
    "touch_context": lambda store, context: store.touch_context(context, None),
    "delete_context": lambda store, context: store.delete_context(context),
    "keys": lambda store, context: list(store.keys(context)),
}


def unfit(store: Storage) -> list[str]:
    """Empty, over-large in bytes though not in characters, and no text."""
    most = store.capabilities.key_bytes
    return ["", "k" * (most + 1), "é" * (most // 2 + 1), "\ud800"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unfit_keys_and_contexts_are_refused(store: Storage, operation: str) -> None:
    for text in unfit(store):
        with pytest.raises(CapacityError):
            OPERATIONS[operation](store, "c", text)
        with pytest.raises(CapacityError):
            OPERATIONS[operation](store, text, "k")


@pytest.mark.parametrize("operation", CONTEXT_OPERATIONS)
def test_unfit_contexts_are_refused(store: Storage, operation: str) -> None:
    for text in unfit(store):
        with pytest.raises(CapacityError):
            CONTEXT_OPERATIONS[operation](store, text)


def test_names_and_values_may_be_as_large_as_promised(store: Storage) -> None:
    most = store.capabilities
    for context, key in (("c" * most.context_bytes, "k"), ("c", "é" * (most.key_bytes // 2))):
        assert store.create(context, key, b"v", None, 1)
        assert store.read(context, key) == Stored(b"v", 1, None)
    value = bytes(most.value_bytes)
    assert store.create("c", "large", value, None, 1)
    stored = store.read("c", "large")
    assert stored is not None
    assert stored.value == value


def test_an_over_large_value_is_refused_and_the_old_one_stays(store: Storage) -> None:
    too_large = bytes(store.capabilities.value_bytes + 1)
    store.create("c", "k", b"v", None, 1)
    with pytest.raises(CapacityError):
        store.update("c", "k", too_large, None, 2)
    with pytest.raises(CapacityError):
        store.create("c", "other", too_large, None, 1)
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert store.read("c", "other") is None


def test_a_store_has_the_contracts_shape_and_takes_255_characters(store: Storage) -> None:
    assert isinstance(store, Storage)
    assert store.capabilities.key_bytes >= 255 * 4
    assert store.capabilities.context_bytes >= 255 * 4


def test_a_closed_store_can_be_used_again(store: Storage) -> None:
    store.create("c", "k", b"v", None, 1)
    store.close()
    store.close()
    assert store.read("c", "k") == Stored(b"v", 1, None)


# --- races ------------------------------------------------------------------------------------


def in_threads(act: Callable[[int, int], T]) -> list[list[T]]:
    """The results of `act(round, racer)` by round, all racers starting each round together."""
    line = threading.Barrier(RACERS)

    def run(racer: int) -> list[T]:
        results = []
        try:
            for number in range(ROUNDS):
                line.wait()
                results.append(act(number, racer))
        except BaseException:
            line.abort()
            raise
        return results

    with ThreadPoolExecutor(RACERS) as pool:
        return [list(results) for results in zip(*pool.map(run, range(RACERS)), strict=True)]


def test_of_eight_threads_that_create_one_record_one_wins(store: Storage) -> None:
    rounds = in_threads(
        lambda number, racer: store.create("race", str(number), str(racer).encode(), None, 1)
    )
    for number, won in enumerate(rounds):
        assert won.count(True) == 1
        stored = store.read("race", str(number))
        assert stored is not None
        assert stored.value == str(won.index(True)).encode()


def test_of_eight_threads_that_delete_one_version_one_wins(store: Storage) -> None:
    for number in range(ROUNDS):
        store.create("race", str(number), b"v", None, 1)
    rounds = in_threads(lambda number, racer: store.delete("race", str(number), expected=1))
    assert [won.count(True) for won in rounds] == [1] * ROUNDS
    assert list(store.keys("race")) == []


def test_of_eight_threads_that_update_one_version_one_wins(store: Storage) -> None:
    for number in range(ROUNDS):
        store.create("race", str(number), b"v", None, 1)

    told: list[int] = []

    def update(number: int, racer: int) -> bool:
        value = str(racer).encode()
        try:
            return store.update("race", str(number), value, None, 2 + racer, expected=1)
        except VersionMismatch as error:
            told.append(error.current)
            return False

    for number, won in enumerate(in_threads(update)):
        assert won.count(True) == 1
        winner = won.index(True)
        assert store.read("race", str(number)) == Stored(str(winner).encode(), 2 + winner, None)
    assert len(told) == ROUNDS * (RACERS - 1)
    assert min(told) > 1


def test_eight_threads_that_add_to_one_index_lose_no_member(store: Storage) -> None:
    in_threads(lambda number, racer: store.add_member("race", "k", f"{number}-{racer}", None))
    assert len(store.members("race", "k")) == ROUNDS * RACERS


# --- any sequence of operations, against a dict -----------------------------------------------

CONTEXTS = strategies.sampled_from(["a", "ab", "A"])
KEYS = strategies.sampled_from(["x", "xy", "%", "é"])
EXPIRIES = strategies.none() | strategies.integers(-1, 50)
STEPS = strategies.integers(-2, 3)


class ContractMachine(RuleBasedStateMachine):
    """A store beside a dict that forgets what has expired."""

    store: Storage
    clock: MilliClock

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.clock.at(self.now)
        self.records: dict[tuple[str, str], Stored] = {}
        self.indexed: dict[tuple[str, str, str], int | None] = {}

    def live(self, context: str, key: str) -> Stored | None:
        stored = self.records.get((context, key))
        if stored is None or stored.expires_at is None or self.now < stored.expires_at:
            return stored
        return None

    def expiry(self, delta: int | None) -> int | None:
        return None if delta is None else self.now + delta

    @rule(context=CONTEXTS, key=KEYS, value=strategies.binary(max_size=3), delta=EXPIRIES)
    def create(self, context: str, key: str, value: bytes, delta: int | None) -> None:
        version, expires_at = next_version(self.clock()), self.expiry(delta)
        expected = self.live(context, key) is None
        assert self.store.create(context, key, value, expires_at, version) == expected
        if expected:
            self.records[context, key] = Stored(value, version, expires_at)

    @rule(
        context=CONTEXTS,
        key=KEYS,
        value=strategies.binary(max_size=3),
        delta=EXPIRIES,
        step=STEPS,
        known=strategies.none() | STEPS,
    )
    def update(
        self, context: str, key: str, value: bytes, delta: int | None, step: int, known: int | None
    ) -> None:
        stored, expires_at = self.live(context, key), self.expiry(delta)
        current = 5 if stored is None else stored.version
        expected = None if known is None else current + known
        version = current + step

        def act() -> bool:
            return self.store.update(context, key, value, expires_at, version, expected)

        if stored is None:
            assert not act()
        elif step <= 0 or known not in (None, 0):
            assert mismatch(act) == stored.version
        else:
            assert act()
            self.records[context, key] = Stored(value, version, expires_at)

    @rule(context=CONTEXTS, key=KEYS, delta=EXPIRIES)
    def update_expiration(self, context: str, key: str, delta: int | None) -> None:
        stored, expires_at = self.live(context, key), self.expiry(delta)
        assert self.store.update_expiration(context, key, expires_at) == (stored is not None)
        if stored is not None:
            self.records[context, key] = Stored(stored.value, stored.version, expires_at)

    @rule(context=CONTEXTS, key=KEYS, known=strategies.none() | STEPS)
    def delete(self, context: str, key: str, known: int | None) -> None:
        stored = self.live(context, key)
        current = 5 if stored is None else stored.version
        expected = None if known is None else current + known

        def act() -> bool:
            return self.store.delete(context, key, expected)

        if stored is not None and known not in (None, 0):
            assert mismatch(act) == stored.version
        else:
            assert act() == (stored is not None)
            if stored is not None:
                del self.records[context, key]

    @rule(context=CONTEXTS, delta=EXPIRIES)
    def touch_context(self, context: str, delta: int | None) -> None:
        self.store.touch_context(context, self.expiry(delta))
        for of, key in list(self.records):
            stored = self.live(of, key)
            if of == context and stored is not None:
                self.records[of, key] = Stored(stored.value, stored.version, self.expiry(delta))

    @rule(context=CONTEXTS)
    def delete_context(self, context: str) -> None:
        self.store.delete_context(context)
        self.records = {at: stored for at, stored in self.records.items() if at[0] != context}
        self.indexed = {at: expiry for at, expiry in self.indexed.items() if at[0] != context}

    @rule(context=CONTEXTS, key=KEYS, member=KEYS, delta=EXPIRIES)
    def add_member(self, context: str, key: str, member: str, delta: int | None) -> None:
        expires_at = self.expiry(delta)
        self.store.add_member(context, key, member, expires_at)
        self.indexed[context, key, member] = expires_at

    @rule(context=CONTEXTS, key=KEYS, member=KEYS)
    def remove_member(self, context: str, key: str, member: str) -> None:
        alive = member in self.members(context, key)
        assert self.store.remove_member(context, key, member) == alive
        if alive:
            del self.indexed[context, key, member]

    def members(self, context: str, key: str) -> dict[str, int | None]:
        return {
            member: expires_at
            for (of, name, member), expires_at in self.indexed.items()
            if (of, name) == (context, key) and (expires_at is None or self.now < expires_at)
        }

    @rule(limit=strategies.integers(0, 5))
    def reap(self, limit: int) -> None:
        # Writes reap by themselves, so that there may be less left to do than the model thinks.
        expired = sum(self.live(*at) is None for at in self.records)
        expired += sum(at is not None and at <= self.now for at in self.indexed.values())
        assert self.store.reap(limit) <= min(limit, expired)

    @rule(delta=strategies.integers(1, 60))
    def forward(self, delta: int) -> None:
        # What the clock has passed is gone for the model, so that no step back is asked of it.
        self.now += delta
        self.clock.at(self.now)

    @precondition(lambda self: self.records)
    @rule(step=STEPS)
    def read_if_changed(self, step: int) -> None:
        context, key = next(iter(self.records))
        stored = self.live(context, key)
        version = 5 if stored is None else stored.version + step
        answer = self.store.read_if_changed(context, key, version)
        assert answer == (UNCHANGED if stored is not None and step == 0 else stored)

    @invariant()
    def reads_alike(self) -> None:
        if not hasattr(self, "records"):
            return
        for context, key in self.records:
            assert self.store.read(context, key) == self.live(context, key)
        for context in ("a", "ab", "A"):
            expected = {key for of, key in self.records if of == context and self.live(of, key)}
            assert set(self.store.keys(context)) == expected
        for context, key, _ in self.indexed:
            assert self.store.members(context, key) == self.members(context, key)


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", STORES)
def test_any_sequence_of_operations_answers_as_a_dict_would(name: str, examples: int) -> None:
    opener = STORES[name]

    with tempfile.TemporaryDirectory() as folder:
        clock = MilliClock()
        store = opener(Path(folder), clock)

        class Machine(ContractMachine):
            def __init__(self) -> None:
                super().__init__()
                self.store, self.clock = store, clock

            def teardown(self) -> None:
                for context in ("a", "ab", "A"):
                    store.delete_context(context)

        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(max_examples=examples, stateful_step_count=50, deadline=None),
            )
        finally:
            store.close()


def test_seconds_become_whole_milliseconds() -> None:
    assert [millis(at / 1000) for at in range(NOW, NOW + 2000)] == list(range(NOW, NOW + 2000))
