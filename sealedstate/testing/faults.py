"""What a store owes on bad days: an outage is told as one, and so is a reply that was lost.

Knows the two hooks by which a suite makes a day bad. Does not know how it does that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from ..errors import CapacityError, OutcomeUnknown, StorageUnavailable
from ..storage.contract import LAST_VERSION, LATEST, Storage, Stored
from .names import oversized
from .suite import Suite, insist, read, undeclared, write

Write = Callable[[Storage, str], object]

READS: dict[str, Callable[[Storage, str], object]] = {
    "read": lambda store, context: store.read(context, "k"),
    "read_if_changed": lambda store, context: store.read_if_changed(context, "k", 1),
    "keys": lambda store, context: list(store.keys(context)),
    "members": lambda store, context: store.members(context, "k"),
    "ping": lambda store, context: store.ping(),
}
# Each on a record "k" of version 1 and value b"v"; what the record is when the write has happened.
WRITES: dict[str, tuple[Write, str, Stored | None]] = {
    "create": (
        lambda store, context: store.create(context, "new", b"w", None, 7),
        "new",
        Stored(b"w", 7, None),
    ),
    "update": (
        lambda store, context: store.update(context, "k", b"w", None, 7),
        "k",
        Stored(b"w", 7, None),
    ),
    "checked update": (
        lambda store, context: store.update(context, "k", b"w", None, 7, expected=1),
        "k",
        Stored(b"w", 7, None),
    ),
    "delete": (lambda store, context: store.delete(context, "k"), "k", None),
    "checked delete": (lambda store, context: store.delete(context, "k", expected=1), "k", None),
}
MORE_WRITES: dict[str, Write] = {
    "update_expiration": lambda store, context: store.update_expiration(context, "k", None),
    "touch_context": lambda store, context: store.touch_context(context, None),
    "delete_context": lambda store, context: store.delete_context(context),
    "add_member": lambda store, context: store.add_member(context, "k", "m", None),
    "remove_member": lambda store, context: store.remove_member(context, "k", "m"),
}
# The capability that an operation needs, where it needs one.
NEEDS = {
    "keys": "enumerable",
    "members": "indexes",
    "touch_context": "contexts",
    "add_member": "indexes",
    "remove_member": "indexes",
}


def declines(store: Storage, operation: str, act: Callable[[], object]) -> bool:
    """Whether the store lacks what the operation needs, and says so."""
    needed = NEEDS.get(operation)
    return undeclared(needed is None or getattr(store.capabilities, needed), act)


class Outages(Suite):
    """Collected where a suite has `outage()`: within it, nobody reaches the store."""

    def outage(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    @pytest.mark.parametrize("operation", READS)
    def test_a_read_during_an_outage_says_so(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act = READS[operation]
        if declines(store, operation, lambda: act(store, context)):
            return
        with self.outage():
            for _ in range(2):
                with pytest.raises(StorageUnavailable):
                    act(store, context)
        insist(act, store, context)

    @pytest.mark.parametrize("operation", WRITES)
    def test_a_write_during_an_outage_claims_nothing(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        write(store, context, "k")
        before = store.read(context, key)
        with self.outage():
            for _ in range(2):
                # A connection that breaks in the middle leaves a writer in the dark.
                with pytest.raises((StorageUnavailable, OutcomeUnknown)):
                    act(store, context)
        assert insist(store.read, context, key) == before, "written during an outage"
        assert insist(act, store, context) is True
        assert store.read(context, key) == done

    @pytest.mark.parametrize("operation", MORE_WRITES)
    def test_no_other_write_is_silently_dropped_during_an_outage(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act = MORE_WRITES[operation]
        if declines(store, operation, lambda: act(store, context)):
            return
        with self.outage(), pytest.raises((StorageUnavailable, OutcomeUnknown)):
            act(store, context)
        insist(store.ping)
        insist(act, store, context)

    def test_what_does_not_fit_is_refused_without_asking_the_store(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k")
        too_large = oversized(store.capabilities.value_bytes)
        with self.outage():
            with pytest.raises(CapacityError):
                store.read(context, "k" * (store.capabilities.key_bytes + 1))
            with pytest.raises(CapacityError):
                store.update(context, "k", too_large, None, 2)
            with pytest.raises(CapacityError):
                store.update(context, "k", b"w", None, LAST_VERSION + 1)
            with pytest.raises(CapacityError):
                store.update_expiration(context, "k", LATEST + 1)
        assert insist(store.read, context, "k") == Stored(b"v", 1, None)

    def test_after_an_outage_the_same_store_works_again(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        for version in (2, 3, 4):
            with self.outage(), pytest.raises(StorageUnavailable):
                store.ping()
            insist(store.ping)
            value = str(version).encode()
            assert insist(store.update, context, "k", value, None, version)
            assert read(store, context, "k").value == value


class LostReplies(Suite):
    """Collected where a suite has `lost_reply()`: within it, the next reply never arrives."""

    def lost_reply(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    @pytest.mark.parametrize("operation", WRITES)
    def test_a_write_whose_reply_is_lost_is_no_success_and_no_failure(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        write(store, context, "k")
        before, answer = store.read(context, key), None
        with self.lost_reply():
            try:
                answer = act(store, context)
            except OutcomeUnknown as unknown:
                answer = unknown
            except StorageUnavailable as unavailable:
                answer = unavailable
        after = insist(store.read, context, key)
        if isinstance(answer, OutcomeUnknown):
            assert after in (before, done)
            assert operation.endswith("delete") or answer.version == 7, "it tells what to look for"
        elif isinstance(answer, StorageUnavailable):
            assert after == before, "told that nothing was written, but it was"
        else:
            assert answer is True, f"{operation} returned {answer!r}: was it repeated blindly?"
            assert after == done

    def test_a_lost_reply_to_a_read_is_no_absence(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        with self.lost_reply():
            try:
                found = store.read(context, "k")
            except StorageUnavailable:
                return
        assert found == Stored(b"v", 1, None)

    def test_a_reply_that_comes_late_is_no_answer_to_another_question(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k", b"1")
        write(store, context, "other", b"2")
        with self.lost_reply(), contextlib.suppress(StorageUnavailable):
            store.read(context, "k")
        for _ in range(3):
            assert insist(read, store, context, "other").value == b"2"
            assert insist(read, store, context, "k").value == b"1"
