"""Stores that break one rule about names, contexts, indexes, processes or bad days each.

Knows which test of the kit has to notice. Does not know how the tests are run.
"""

from __future__ import annotations

import contextlib
import fnmatch
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sealedstate.errors import StorageUnavailable
from sealedstate.storage import MemoryStorage, Storage, Stored
from sealedstate.storage.contract import ENTRY_BYTES, Clock
from tests.support.broken_stores import BROKEN, MOMENT, noticed_by

__all__ = ["BROKEN"]

Fold = Callable[[str, str], tuple[str, str]]

# --- names ------------------------------------------------------------------------------------


class Folded(dict[tuple[str, str], Stored]):
    """Records under names that are changed on the way."""

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


class FoldsNames(MemoryStorage):
    def __init__(self, fold: Fold, clock: Clock) -> None:
        super().__init__(clock)
        self._records = Folded(fold)


def folded(fold: Fold, clock: Clock, _: Path) -> Storage:
    return FoldsNames(fold, clock)


ODD_KEYS = "test_odd_keys_are_all_different_and_kept_as_they_are"
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
        "test_odd_contexts_are_all_different",
        lambda context, key: (context.casefold(), key),
    ),
    "JoinsNames": (
        "test_the_border_between_context_and_key_counts",
        lambda context, key: (f"{context}:{key}", ""),
    ),
    "JoinsNamesWithoutABorder": (
        "test_the_border_between_context_and_key_counts",
        lambda context, key: (context + key, ""),
    ),
}
for name, (test, fold) in FOLDS.items():
    BROKEN[name] = (partial(folded, fold), test)


@noticed_by("test_unfit_keys_and_contexts_are_refused")
class TakesEmptyKeys(MemoryStorage):
    def read(self, context: str, key: str) -> Stored | None:
        return super().read(context, key) if key else None


@noticed_by("test_an_over_large_value_is_refused_and_the_old_one_stays")
class TruncatesLargeValues(MemoryStorage):
    def create(self, context: str, key: str, value: bytes, *rest: Any, **named: Any) -> bool:
        return super().create(context, key, value[: 1 << 24], *rest, **named)


@noticed_by("test_what_does_not_fit_any_more_is_refused_and_nothing_is_lost")
class ForgetsTheOldestWhenItIsFull(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, total_bytes=4096)

    def create(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        while sum(map(_counted, self._records.items())) > 4096:
            del self._records[next(iter(self._records))]
        return super().create(context, key, *rest, **named)


def _counted(entry: tuple[tuple[str, str], Stored]) -> int:
    (context, key), stored = entry
    return ENTRY_BYTES + len(context) + len(key) + len(stored.value)


@noticed_by("test_nothing_is_presumed_of_a_store_that_was_reached")
class NeverAsksItsServer(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, presumed=True)


# --- contexts and indexes -----------------------------------------------------------------------


@noticed_by("test_keys_are_those_with_the_prefix_and_no_pattern")
class ListsByPattern(MemoryStorage):
    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        return iter([key for key in super().keys(context) if fnmatch.fnmatch(key, prefix + "*")])


@noticed_by("test_listed_keys_are_a_snapshot")
class ListsLazily(MemoryStorage):
    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        yield from super().keys(context, prefix)


@noticed_by("test_deleting_a_context_deletes_all_of_it_and_no_other")
class DeletesContextsByPrefix(MemoryStorage):
    def delete_context(self, context: str) -> None:
        for of in {of for of, _ in self._records if of.startswith(context)}:
            super().delete_context(of)


@noticed_by("test_what_lives_when_its_context_is_deleted_is_never_read_again")
class RevivesWhatItTouches(MemoryStorage):
    """Reads a context, and writes it back with another expiry."""

    def touch_context(self, context: str, expires_at: int | None) -> None:
        for key in self.keys(context):
            stored = self.read(context, key)
            time.sleep(MOMENT)
            if stored is not None:
                self._records[context, key] = replace(stored, expires_at=expires_at)


@noticed_by("test_what_lives_when_its_context_is_deleted_is_never_read_again")
class RevivesWhatItUpdates(MemoryStorage):
    """Looks whether there is a record, and then writes one either way."""

    def update(self, context: str, key: str, *rest: Any, **named: Any) -> bool:
        self._expected(context, key, rest[3] if len(rest) > 3 else None)
        time.sleep(MOMENT)
        self.delete(context, key)
        return super().create(context, key, *rest[:3])


@noticed_by("test_deleting_a_context_deletes_its_indexes_and_no_others")
class LeavesIndexesBehind(MemoryStorage):
    def delete_context(self, context: str) -> None:
        for key in self.keys(context):
            self.delete(context, key)


@noticed_by("test_an_index_and_a_record_of_one_name_share_nothing")
class DeletesTheIndexWithTheRecord(MemoryStorage):
    def delete(self, context: str, key: str, expected: int | None = None) -> bool:
        self._indexes.pop((context, key), None)
        return super().delete(context, key, expected)


@noticed_by("test_each_member_lives_until_its_own_expiry")
class ExpiresIndexesAsOne(MemoryStorage):
    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        super().add_member(context, key, member, expires_at)
        for other in self.members(context, key):
            self._indexes[context, key][other] = expires_at


@noticed_by("test_members_that_many_add_at_once_are_all_there")
class RewritesWholeIndexes(MemoryStorage):
    """Reads a list, adds to it, writes it back: members of others get lost."""

    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        members = self.members(context, key)
        time.sleep(MOMENT)
        self._indexes[context, key] = {**members, member: expires_at}


@noticed_by("test_touching_a_context_moves_its_live_records_and_no_others")
class DeclinesSilently(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, contexts=False)

    def touch_context(self, context: str, expires_at: int | None) -> None:
        pass


@noticed_by("test_listed_keys_are_a_snapshot")
class DeclinesSilentlyToList(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, enumerable=False)

    def keys(self, context: str, prefix: str = "") -> Iterator[str]:
        return iter(())


# --- processes and bad days ---------------------------------------------------------------------


@noticed_by("test_what_one_process_writes_every_other_sees")
class PretendsToBeShared(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, shared=True)


@noticed_by("test_a_store_that_was_used_before_a_fork_is_unharmed_by_the_child")
class DriftsApartAfterAFork(MemoryStorage):
    def _locked(self) -> threading.Lock:
        return self._lock


@noticed_by("test_preparing_again_and_by_many_at_once_is_harmless")
class EmptiesItselfWhenPrepared(MemoryStorage):
    def prepare(self) -> None:
        self._records.clear()


class FailsOnABadDay(MemoryStorage):
    """One that does as it should: `down` and `loses_reply` are turned on by the suite."""

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

    def _locked(self) -> threading.Lock:
        if self.down:
            raise StorageUnavailable("down")
        return super()._locked()


@noticed_by("test_a_read_during_an_outage_says_so")
class TakesAnOutageForAbsence(FailsOnABadDay):
    def read(self, context: str, key: str) -> Stored | None:
        return None if self.down else super().read(context, key)


@noticed_by("test_what_does_not_fit_is_refused_without_asking_the_store")
class AsksBeforeItMeasures(FailsOnABadDay):
    def update(self, *rest: Any, **named: Any) -> bool:
        self.ping()
        return super().update(*rest, **named)


@noticed_by("test_no_other_write_is_silently_dropped_during_an_outage")
class ForgetsWritesOfAnOutage(FailsOnABadDay):
    def add_member(self, context: str, key: str, member: str, expires_at: int | None) -> None:
        if not self.down:
            super().add_member(context, key, member, expires_at)


@noticed_by("test_a_write_whose_reply_is_lost_is_no_success_and_no_failure")
class RepeatsBlindly(FailsOnABadDay):
    def create(self, *rest: Any, **named: Any) -> bool:
        if self.loses_reply:
            super().create(*rest, **named)
        return super().create(*rest, **named)


@noticed_by("test_a_write_whose_reply_is_lost_is_no_success_and_no_failure")
class DeniesWhatItHasWritten(FailsOnABadDay):
    def update(self, *rest: Any, **named: Any) -> bool:
        done = super().update(*rest, **named)
        if self.loses_reply:
            raise StorageUnavailable("no reply")
        return done


@noticed_by("test_a_lost_reply_to_a_read_is_no_absence")
class CallsALostReplyAbsence(FailsOnABadDay):
    def read(self, context: str, key: str) -> Stored | None:
        return None if self.loses_reply else super().read(context, key)
