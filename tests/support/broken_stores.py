"""Stores that break one rule about records or time each, as real ones have done.

Knows which test of the kit has to notice. Does not know how the tests are run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from sealedstate.errors import VersionMismatch
from sealedstate.storage import MemoryStorage, SQLiteStorage, Storage, Stored
from sealedstate.storage.contract import Clock, Unchanged, millis

MOMENT = 0.001
YEAR_10000 = 253_402_300_800_000
LOCK = threading.Lock()

Opener = Callable[[Clock, Path], Storage]
Kind = TypeVar("Kind", bound=type[MemoryStorage] | type[SQLiteStorage])

# How each broken store is opened, and the test that has to notice.
BROKEN: dict[str, tuple[Opener, str]] = {}


def noticed_by(test: str) -> Callable[[Kind], Kind]:
    """Put a store among the broken ones."""

    def put(kind: Kind) -> Kind:
        BROKEN[kind.__name__] = (partial(_open, kind), test)
        return kind

    return put


def _open(kind: type[MemoryStorage] | type[SQLiteStorage], clock: Clock, path: Path) -> Storage:
    return kind(path, clock) if issubclass(kind, SQLiteStorage) else kind(clock)


# --- writers ----------------------------------------------------------------------------------


@noticed_by("test_create_leaves_a_live_record_alone")
class OverwritesOnCreate(MemoryStorage):
    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        self.delete(context, key)
        return super().create(context, key, *rest, **named)


@noticed_by("test_of_many_who_create_one_record_one_wins")
class LooksBeforeItCreates(MemoryStorage):
    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        if self.read(context, key) is not None:
            return False
        time.sleep(MOMENT)
        self.delete(context, key)
        return super().create(context, key, *rest, **named)


@noticed_by("test_of_many_who_create_one_record_one_wins")
class LocksOutThreadsButNoProcesses(SQLiteStorage):
    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        with LOCK:
            if self.read(context, key) is not None:
                return False
            time.sleep(MOMENT)
            self.delete(context, key)
            return super().create(context, key, *rest, **named)


@noticed_by("test_a_counter_that_many_raise_by_checked_updates_loses_none")
class LooksBeforeItUpdates(MemoryStorage):
    """The version is compared in one step and written in another."""

    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        self._expected(context, key, rest[3] if len(rest) > 3 else None)
        time.sleep(MOMENT)
        self.delete(context, key)
        return super().create(context, key, *rest[:3])


@noticed_by("test_of_many_who_delete_one_version_one_wins")
class LooksBeforeItDeletes(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        stored = self._expected(context, key, expected)
        time.sleep(MOMENT)
        super().delete(context, key)
        return stored is not None


@noticed_by("test_readers_see_whole_writes_only")
class WritesInTwoSteps(MemoryStorage):
    def update(
        self, context: str, key: str, value: bytes, expires_at: int | None, *rest: Any, **named: Any
    ) -> bool:
        done = super().update(context, key, value[: len(value) // 2], expires_at, *rest, **named)
        time.sleep(MOMENT)
        stored = self._records.get((context, key))
        if stored is not None:
            self._records[context, key] = replace(stored, value=value)
        return done


@noticed_by("test_an_update_overwrites_value_version_and_expiry")
class LosesUpdates(MemoryStorage):
    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        return self.read(context, key) is not None


@noticed_by("test_a_writer_who_expects_another_version_is_told_the_current_one")
class IgnoresExpectedOnUpdate(MemoryStorage):
    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        return super().update(context, key, *rest[:3])


@noticed_by("test_a_writer_from_before_a_delete_does_not_overwrite_what_came_after")
class IgnoresExpectedOnDelete(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        return super().delete(context, key)


@noticed_by("test_a_version_that_is_not_greater_is_refused")
class SwallowsMismatches(MemoryStorage):
    def update(self, *rest: Any, **named: Any) -> bool:
        try:
            return super().update(*rest, **named)
        except VersionMismatch:
            return False


@noticed_by("test_a_writer_who_expects_another_version_is_told_the_current_one")
class TellsTheProposedVersion(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        try:
            return super().delete(context, key, expected)
        except VersionMismatch:
            raise VersionMismatch(expected or 0) from None


@noticed_by("test_a_version_that_is_not_greater_is_refused")
class TakesSmallerVersions(MemoryStorage):
    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        return self.delete(context, key) and super().create(context, key, *rest[:3])


@noticed_by("test_no_version_comes_back_after_a_delete")
class CountsVersionsFromOne(MemoryStorage):
    """Each record begins at 1, so that versions come back after a delete."""

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        return super().create(context, key, value, expires_at, 1)


@noticed_by("test_versions_are_told_apart_to_the_last_of_63_bits")
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


@noticed_by("test_a_version_out_of_range_is_refused")
class TakesZeroForTheFirstVersion(MemoryStorage):
    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        return super().create(context, key, value, expires_at, version or 1)


@noticed_by("test_an_expired_record_is_as_absent_as_one_that_never_was")
class UpdatesExpiredRecords(MemoryStorage):
    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        stored = self._records.get((context, key))
        if stored is not None:
            self._records[context, key] = replace(stored, expires_at=expires_at)
        return stored is not None


@noticed_by("test_moving_the_expiry_changes_neither_value_nor_version")
class BumpsTheVersionWithTheExpiry(MemoryStorage):
    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        stored = self.read(context, key)
        return stored is not None and self.update(
            context, key, stored.value, expires_at, stored.version + 1
        )


@noticed_by("test_an_expired_record_is_as_absent_as_one_that_never_was")
class DeletesExpiredRecords(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        gone = self._records.pop((context, key), None) if expected is None else None
        return gone is not None or super().delete(context, key, expected)


# --- readers ----------------------------------------------------------------------------------


@noticed_by("test_what_was_read_is_a_snapshot_that_nobody_can_change")
class ReturnsWhatCanBeChanged(MemoryStorage):
    def read(self, context: str, key: str) -> Stored | None:
        stored = super().read(context, key)
        return stored and Stored(cast(bytes, bytearray(stored.value)), stored.version, None)


@noticed_by("test_a_reader_who_has_the_current_version_is_told_so")
class ReturnsNewerOnly(MemoryStorage):
    def read_if_changed(
        self, context: str, key: str, version: int
    ) -> Stored | Literal[Unchanged.UNCHANGED] | None:
        stored = self.read(context, key)
        newer = stored is None or stored.version > version
        return stored if newer else Unchanged.UNCHANGED


@noticed_by("test_a_value_comes_back_byte_by_byte")
class StripsValues(MemoryStorage):
    def read(self, context: str, key: str) -> Stored | None:
        stored = super().read(context, key)
        return stored and replace(stored, value=stored.value.rstrip(b"\0"))


# --- time -------------------------------------------------------------------------------------


@noticed_by("test_a_record_lives_until_its_expiry_and_no_millisecond_longer")
class ExpiresLate(MemoryStorage):
    def _alive(self, expires_at: int | None) -> bool:
        return expires_at is None or self._now() <= expires_at


@noticed_by("test_a_record_lives_until_its_expiry_and_no_millisecond_longer")
class ExpiresEarly(MemoryStorage):
    def _alive(self, expires_at: int | None) -> bool:
        return expires_at is None or self._now() + 1 < expires_at


@noticed_by("test_an_expiry_in_the_past_is_kept_to")
class TakesZeroForNever(MemoryStorage):
    def _alive(self, expires_at: int | None) -> bool:
        return not expires_at or self._now() < expires_at


@noticed_by("test_an_expiry_comes_back_exactly")
class RoundsToSeconds(MemoryStorage):
    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        return super().update_expiration(context, key, expires_at and expires_at // 1000 * 1000)


@noticed_by("test_an_expiry_comes_back_exactly")
class TakesLongLivesForDates(MemoryStorage):
    """As memcached does with more than 30 days, unless its client knows."""

    def _alive(self, expires_at: int | None) -> bool:
        return expires_at is None or 0 < expires_at - self._now() <= 30 * 86_400_000


@noticed_by("test_the_last_expiry_comes_back_exactly")
class KeepsDatesUntilTheYear9999(MemoryStorage):
    def update_expiration(self, context: str, key: str, expires_at: int | None) -> bool:
        return super().update_expiration(context, key, expires_at and min(expires_at, YEAR_10000))


@noticed_by("test_an_expiry_out_of_range_is_refused")
class TakesMinusOneForNever(MemoryStorage):
    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        super().add_member(context, key, member, None if expires_at == -1 else expires_at)


@noticed_by("test_a_touched_context_becomes_permanent_and_finite_again")
class ForgetsPermanenceOnTouch(MemoryStorage):
    def touch_context(self, context: str, expires_at: int | None) -> None:
        for key in self.keys(context):
            stored = self.read(context, key)
            if stored is not None and stored.expires_at is not None:
                self.update_expiration(context, key, expires_at)


@noticed_by("test_reaping_is_bounded_and_takes_no_live_record")
class ReapsWithoutBound(MemoryStorage):
    def reap(self, limit: int) -> int:
        return super().reap(1_000_000)


@noticed_by("test_what_has_expired_can_be_removed_for_good")
class NeverReaps(MemoryStorage):
    def reap(self, limit: int) -> int:
        return 0


@noticed_by("test_what_has_expired_can_be_removed_for_good")
class ReapsNoMembers(MemoryStorage):
    def _reap_members(self, limit: int) -> int:
        return 0


@noticed_by("test_a_permanent_record_is_there_in_1000_years")
class ReapsThePermanent(MemoryStorage):
    def reap(self, limit: int) -> int:
        for place, stored in list(self._records.items())[:limit]:
            if stored.expires_at is None or stored.expires_at <= millis(self._clock()):
                del self._records[place]
        return 0
