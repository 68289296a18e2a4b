"""Stores that each break one rule of the contract, as real ones have done.

`BROKEN` names the tests of the conformance kit that must fail for each of them.
"""

from __future__ import annotations

import bisect
import contextlib
import fnmatch
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from sealedstate.errors import StorageUnavailable, VersionMismatch
from sealedstate.storage import MemoryStorage, SQLiteStorage, Storage, Stored
from sealedstate.storage.contract import ENTRY_BYTES, Changes, Clock, millis

MOMENT = 0.001
YEAR_10000 = 253_402_300_800_000
LOCK = threading.Lock()

Kind = TypeVar("Kind", bound=type[MemoryStorage] | type[SQLiteStorage])
Fold = Callable[[str, str], tuple[str, str]]

# Each broken store, by its name, and the tests that must fail.
BROKEN: dict[str, tuple[type[MemoryStorage] | type[SQLiteStorage], tuple[str, ...]]] = {}


def fails(*tests: str) -> Callable[[Kind], Kind]:
    """Add a store to the broken ones."""

    def add(kind: Kind) -> Kind:
        BROKEN[kind.__name__] = (kind, tests)
        return kind

    return add


def open_broken(name: str, clock: Clock, path: Path) -> Storage:
    kind = BROKEN[name][0]
    return kind(path, clock) if issubclass(kind, SQLiteStorage) else kind(clock)


def now(store: MemoryStorage) -> int:
    return millis(store._clock())


# --- one method or attribute is wrong -----------------------------------------------------------


class FaultyStorage(MemoryStorage):
    """A correct store with outages; `down` and `loses_reply` are set by the suite."""

    down = loses_reply = False

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        self.down = True
        yield
        self.down = False

    @contextlib.contextmanager
    def lost_reply(self) -> Iterator[None]:
        self.loses_reply = True
        yield
        self.loses_reply = False

    def _reading(self) -> AbstractContextManager[object]:
        if self.down:
            raise StorageUnavailable("down")
        return super()._reading()


def slip(test: str, of: type[MemoryStorage] = MemoryStorage, **wrong: Any) -> Any:
    """A store with wrong methods or attributes, and the test that must fail."""
    return type("Slip", (of,), wrong), (test,)


M, CAN = MemoryStorage, MemoryStorage.capabilities
LIFETIME = "test_record_lives_until_its_expiry_and_no_millisecond_longer"
EXACTLY = "test_expiry_is_returned_exactly"
GONE = "test_reaping_removes_expired_records_for_good"
SNAPSHOT = "test_keys_are_a_snapshot"
LOST = "test_write_with_a_lost_reply_reports_neither_success_nor_failure"
# `s` is the store; `c`, `k` and `at` are context, key and expiry.
BROKEN |= {
    "LosesUpdates": slip(
        "test_update_overwrites_value_version_and_expiry",
        update=lambda s, c, k, *_, **__: s.read(c, k) is not None,
    ),
    "IgnoresExpectedOnUpdate": slip(
        "test_unexpected_version_raises_with_the_current_one",
        update=lambda s, c, k, *rest, **_: M.update(s, c, k, *rest[:3]),
    ),
    "IgnoresExpectedOnDelete": slip(
        "test_writer_from_before_a_delete_overwrites_no_later_record",
        delete=lambda s, c, k, expected=None: M.delete(s, c, k),
    ),
    "AcceptsSmallerVersions": slip(
        "test_version_that_is_not_greater_raises",
        update=lambda s, c, k, *rest, **_: s.delete(c, k) and M.create(s, c, k, *rest[:3]),
    ),
    # So versions return after a delete.
    "CountsVersionsFromOne": slip(
        "test_no_version_returns_after_a_delete",
        create=lambda s, c, k, value, at, version: M.create(s, c, k, value, at, 1),
    ),
    "TakesZeroForTheFirstVersion": slip(
        "test_version_out_of_range_is_refused",
        create=lambda s, c, k, value, at, version: M.create(s, c, k, value, at, version or 1),
    ),
    "ExpiresLate": slip(LIFETIME, _is_live=lambda s, at: at is None or now(s) <= at),
    "ExpiresEarly": slip(LIFETIME, _is_live=lambda s, at: at is None or now(s) + 1 < at),
    "TakesZeroForNever": slip(
        "test_expiry_in_the_past_counts",
        _is_live=lambda s, at: not at or now(s) < at,
    ),
    # As memcached does with more than 30 days, unless its client takes care.
    "TakesLongLivesForDates": slip(
        EXACTLY,
        _is_live=lambda s, at: at is None or 0 < at - now(s) <= 30 * 86_400_000,
    ),
    "RoundsToSeconds": slip(
        EXACTLY,
        update_expiration=lambda s, c, k, at: M.update_expiration(
            s, c, k, at and at // 1000 * 1000
        ),
    ),
    "KeepsDatesUntilTheYear9999": slip(
        EXACTLY,
        update_expiration=lambda s, c, k, at: M.update_expiration(
            s, c, k, at and min(at, YEAR_10000)
        ),
    ),
    "TakesMinusOneForNever": slip(
        "test_expiry_out_of_range_is_refused",
        add_member=lambda s, c, k, member, at: M.add_member(
            s, c, k, member, None if at == -1 else at
        ),
    ),
    "NeverReaps": slip(GONE, reap=lambda s, limit: 0),
    "ReapsWithoutBound": slip(
        "test_reaping_is_bounded_and_removes_no_live_record",
        reap=lambda s, limit: M.reap(s, 1_000_000),
    ),
    "TakesEmptyKeys": slip(
        "test_unfit_names_are_refused",
        read=lambda s, c, k: M.read(s, c, k) if k else None,
    ),
    "TruncatesLargeValues": slip(
        "test_large_value_is_refused_and_the_old_one_stays",
        create=lambda s, c, k, value, *rest: M.create(s, c, k, value[: 1 << 24], *rest),
    ),
    "ListsByPattern": slip(
        "test_prefix_of_keys_is_no_pattern",
        keys=lambda s, c, prefix="": iter(fnmatch.filter(M.keys(s, c), prefix + "*")),
    ),
    "LeavesIndexesBehind": slip(
        "test_deleting_a_context_deletes_its_indexes_and_no_others",
        delete_context=lambda s, c: [s.delete(c, k) for k in s.keys(c)],
    ),
    "NeverAsksItsServer": slip(
        "test_ping_of_a_healthy_store_returns_none_and_ends_assumptions",
        capabilities=replace(CAN, assumed=True),
    ),
    "PretendsToBeShared": slip(
        "test_writes_of_one_process_are_visible_to_others",
        capabilities=replace(CAN, shared=True),
    ),
    "DriftsApartAfterAFork": slip(
        "test_fork_leaves_the_parents_store_unharmed",
        _reading=lambda s: s._lock,
    ),
    "EmptiesItselfWhenPrepared": slip(
        "test_preparing_again_and_concurrently_is_harmless",
        prepare=lambda s: s._records.clear(),
    ),
    "ReturnsWhatCanBeChanged": slip(
        "test_read_returns_an_immutable_snapshot",
        read=lambda s, c, k: (
            (found := M.read(s, c, k))
            and Stored(cast(bytes, bytearray(found.value)), found.version, None)
        ),
    ),
    "StripsValues": slip(
        "test_values_are_returned_byte_by_byte",
        read=lambda s, c, k: (
            (found := M.read(s, c, k)) and replace(found, value=found.value.rstrip(b"\0"))
        ),
    ),
    "DeclinesSilently": slip(
        "test_touching_a_context_changes_its_live_records_only",
        capabilities=replace(CAN, contexts=False),
        touch_context=lambda s, c, at: None,
    ),
    "DeclinesSilentlyToList": slip(
        SNAPSHOT,
        capabilities=replace(CAN, enumerable=False),
        keys=lambda s, c, prefix="": iter(()),
    ),
    "TakesAnOutageForAbsence": slip(
        "test_read_during_an_outage_raises",
        FaultyStorage,
        read=lambda s, c, k: None if s.down else FaultyStorage.read(s, c, k),
    ),
    "ForgetsWritesOfAnOutage": slip(
        "test_other_writes_during_an_outage_raise",
        FaultyStorage,
        add_member=lambda s, *rest: None if s.down else M.add_member(s, *rest),
    ),
    "CallsALostReplyAbsence": slip(
        "test_lost_reply_to_a_read_is_not_absence",
        FaultyStorage,
        read=lambda s, c, k: None if s.loses_reply else M.read(s, c, k),
    ),
    "RepeatsBlindly": slip(
        LOST,
        FaultyStorage,
        create=lambda s, *rest: (not s.loses_reply or M.create(s, *rest)) and M.create(s, *rest),
    ),
}


# --- writers ----------------------------------------------------------------------------------


@fails("test_create_leaves_a_live_record_alone")
class OverwritesOnCreate(MemoryStorage):
    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        self.delete(context, key)
        return super().create(context, key, *rest, **named)


@fails("test_one_of_concurrent_creates_succeeds")
class LooksBeforeItCreates(MemoryStorage):
    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        if self.read(context, key) is not None:
            return False
        time.sleep(MOMENT)
        self.delete(context, key)
        return super().create(context, key, *rest, **named)


@fails("test_one_of_concurrent_creates_succeeds")
class LocksOutThreadsButNoProcesses(SQLiteStorage):
    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        with LOCK:
            if self.read(context, key) is not None:
                return False
            time.sleep(MOMENT)
            self.delete(context, key)
            return super().create(context, key, *rest, **named)


@fails(
    "test_counter_with_concurrent_checked_updates_loses_no_increment",
    "test_records_of_a_deleted_context_are_never_read_again",
)
class LooksBeforeItUpdates(MemoryStorage):
    """The version is compared in one step and written in another."""

    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        self._find_version(context, key, rest[3] if len(rest) > 3 else None)
        time.sleep(MOMENT)
        self.delete(context, key)
        return super().create(context, key, *rest[:3])


@fails("test_one_of_concurrent_deletes_succeeds")
class LooksBeforeItDeletes(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        stored = self._find_version(context, key, expected)
        time.sleep(MOMENT)
        super().delete(context, key)
        return stored is not None


@fails("test_reads_return_whole_writes_only")
class WritesInTwoSteps(MemoryStorage):
    def update(self, context: str, key: str, value: bytes, *rest: Any, **named: Any) -> bool:
        done = super().update(context, key, value[: len(value) // 2], *rest, **named)
        time.sleep(MOMENT)
        stored = self._records.get((context, key))
        if stored is not None:
            self._records[context, key] = replace(stored, value=value)
        return done


@fails("test_version_that_is_not_greater_raises")
class SwallowsMismatches(MemoryStorage):
    def update(self, *rest: Any, **named: Any) -> bool:
        try:
            return super().update(*rest, **named)
        except VersionMismatch:
            return False


@fails("test_unexpected_version_raises_with_the_current_one")
class ReportsTheProposedVersion(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        try:
            return super().delete(context, key, expected)
        except VersionMismatch:
            raise VersionMismatch(expected or 0) from None


@fails("test_versions_are_compared_to_the_last_of_63_bits")
class CountsVersionsInFloats(MemoryStorage):
    """As Lua does, and JSON in many languages."""

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        stored = self.read(context, key)
        if stored is not None and expected is not None and float(expected) == float(stored.version):
            expected = stored.version
        return super().update(context, key, value, expires_at, version, expected)


@fails("test_expired_record_is_absent")
class UpdatesExpiredRecords(MemoryStorage):
    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        stored = self._records.get((context, key))
        if stored is not None:
            self._records[context, key] = replace(stored, expires_at=expires_at)
        return stored is not None


@fails("test_update_expiration_changes_neither_value_nor_version")
class BumpsTheVersionWithTheExpiry(MemoryStorage):
    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        stored = self.read(context, key)
        return stored is not None and self.update(
            context, key, stored.value, expires_at, stored.version + 1
        )


@fails("test_expired_record_is_absent")
class DeletesExpiredRecords(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        gone = self._records.pop((context, key), None) if expected is None else None
        return gone is not None or super().delete(context, key, expected)


# --- time -------------------------------------------------------------------------------------


@fails("test_touched_context_becomes_permanent_and_finite_again")
class ForgetsPermanenceOnTouch(MemoryStorage):
    def touch_context(self, context: str, expires_at: int | None) -> None:
        for key in self.keys(context):
            stored = self.read(context, key)
            if stored is not None and stored.expires_at is not None:
                self.update_expiration(context, key, expires_at)


@fails(GONE)
class ReapsNoMembers(MemoryStorage):
    def _reap(self, limit: int) -> int:
        indexes, self._indexes = self._indexes, {}
        removed = super()._reap(limit)
        self._indexes = indexes
        return removed


@fails("test_permanent_record_is_live_in_1000_years")
class ReapsThePermanent(MemoryStorage):
    def reap(self, limit: int) -> int:
        for place, stored in list(self._records.items())[:limit]:
            if stored.expires_at is None or stored.expires_at <= millis(self._clock()):
                del self._records[place]
        return 0


# --- names ------------------------------------------------------------------------------------


class FoldedRecords(dict[tuple[str, str], Stored]):
    """Records under changed names."""

    def __init__(self, fold: Fold) -> None:
        super().__init__()
        self._fold = fold

    def __setitem__(self, place: tuple[str, str], stored: Stored) -> None:
        super().__setitem__(self._fold(*place), stored)

    def __getitem__(self, place: tuple[str, str]) -> Stored:
        return super().__getitem__(self._fold(*place))

    def __delitem__(self, place: tuple[str, str]) -> None:
        super().__delitem__(self._fold(*place))

    def get(self, place: tuple[str, str], default: Any = None) -> Any:
        return super().get(self._fold(*place), default)


ODD_KEYS = "test_odd_keys_are_distinct_and_returned_unchanged"
FOLDS: dict[str, tuple[str, Fold]] = {
    "CutsKeys": (ODD_KEYS, lambda context, key: (context, key[:255])),
    "CutsKeysAtAZero": (ODD_KEYS, lambda context, key: (context, key.partition("\0")[0])),
    "FoldsCase": (ODD_KEYS, lambda context, key: (context, key.casefold())),
    "Normalises": (ODD_KEYS, lambda context, key: (context, unicodedata.normalize("NFC", key))),
    "StripsBlanks": (ODD_KEYS, lambda context, key: (context, key.rstrip(" "))),
    "KnowsAsciiOnly": (
        ODD_KEYS,
        lambda context, key: (context, key.encode("ascii", "replace").decode()),
    ),
    "FoldsCaseOfContexts": (
        "test_odd_contexts_are_distinct",
        lambda context, key: (context.casefold(), key),
    ),
    "JoinsNames": (
        "test_border_between_context_and_key_counts",
        lambda context, key: (f"{context}:{key}", ""),
    ),
    "JoinsNamesWithoutABorder": (
        "test_border_between_context_and_key_counts",
        lambda context, key: (context + key, ""),
    ),
}


def folding(fold: Fold) -> type[MemoryStorage]:
    class Folding(MemoryStorage):
        def __init__(self, clock: Clock) -> None:
            super().__init__(clock)
            self._records = FoldedRecords(fold)

    return Folding


for name, (test, fold) in FOLDS.items():
    BROKEN[name] = (folding(fold), (test,))


@fails("test_full_store_refuses_more_and_loses_nothing")
class ForgetsTheOldestWhenItIsFull(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, total_bytes=4096)

    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        while sum(map(_total_size, self._records.items())) > 4096:
            del self._records[next(iter(self._records))]
        return super().create(context, key, *rest, **named)


def _total_size(entry: tuple[tuple[str, str], Stored]) -> int:
    (context, key), stored = entry
    return ENTRY_BYTES + len(context) + len(key) + len(stored.value)


# --- contexts and indexes -----------------------------------------------------------------------


@fails(SNAPSHOT)
class ListsLazily(MemoryStorage):
    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        yield from super().keys(context, prefix)


@fails("test_deleting_a_context_deletes_all_of_it_and_no_other")
class DeletesContextsByPrefix(MemoryStorage):
    def delete_context(self, context: str) -> None:
        for of in {of for of, _ in self._records if of.startswith(context)}:
            super().delete_context(of)


@fails("test_records_of_a_deleted_context_are_never_read_again")
class RevivesWhatItTouches(MemoryStorage):
    """Reads a context, and writes it back with another expiry."""

    def touch_context(self, context: str, expires_at: int | None) -> None:
        for key in self.keys(context):
            stored = self.read(context, key)
            time.sleep(MOMENT)
            if stored is not None:
                self._records[context, key] = replace(stored, expires_at=expires_at)


@fails("test_index_and_record_of_one_name_are_independent")
class DeletesTheIndexWithTheRecord(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        self._indexes.pop((context, key), None)
        return super().delete(context, key, expected)


@fails("test_each_member_lives_until_its_expiry")
class ExpiresIndexesAsOne(MemoryStorage):
    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        super().add_member(context, key, member, expires_at)
        for other in self.members(context, key):
            self._indexes[context, key][other] = expires_at


@fails("test_concurrently_added_members_are_all_there")
class RewritesWholeIndexes(MemoryStorage):
    """Reads a list, adds to it, writes it back: concurrent members are lost."""

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        members = self.members(context, key)
        time.sleep(MOMENT)
        self._indexes[context, key] = {**members, member: expires_at}


# --- followers ----------------------------------------------------------------------------------


@fails("test_changes_are_all_live_records_and_then_what_was_written")
class NumbersNewRecordsOnly(MemoryStorage):
    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        number = self._numbers.get((context, key))
        done = super().update(context, key, *rest, **named)
        if number is not None:
            self._numbers[context, key] = number
        return done


@fails("test_position_of_another_store_starts_over")
class TakesAnyPosition(MemoryStorage):
    def changes(self, after: str | None, limit: int) -> Changes:
        number = (after or "").rpartition(":")[2]
        return super().changes(f"{self._incarnation}:{number}" if number else None, limit)


@fails("test_follower_misses_no_write_of_concurrent_writers")
class NumbersBeforeItWrites(MemoryStorage):
    """As a sequence of a SQL server does: a later number may be there first."""

    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        with self._lock:
            self._last_number += 1
            number = self._last_number
        time.sleep(MOMENT * (number % 3))
        done, place = super().create(context, key, *rest, **named), (context, key)
        if place in self._numbers:
            with self._lock:
                self._order.remove((self._numbers[place], place))
                bisect.insort(self._order, (number, place))
                self._numbers[place] = number
        return done


# --- processes and faults ---------------------------------------------------------------------


@fails("test_unfit_arguments_are_refused_during_an_outage")
class AsksBeforeItMeasures(FaultyStorage):
    def update(self, *rest: Any, **named: Any) -> bool:
        self.ping()
        return super().update(*rest, **named)


@fails(LOST)
class DeniesWhatItHasWritten(FaultyStorage):
    def update(self, *rest: Any, **named: Any) -> bool:
        done = super().update(*rest, **named)
        if self.loses_reply:
            raise StorageUnavailable("no reply")
        return done
