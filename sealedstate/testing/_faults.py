"""Tests of outages and lost replies, for suites with the hooks `outage` and `lost_reply`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from ..errors import CapacityError, OutcomeUnknown, StorageUnavailable
from ..storage.contract import LAST_VERSION, LATEST, ManagedStorage, Storage, Stored
from ._names import too_large_value
from ._suite import Suite, eventually, is_declined, read, write

Act = Callable[[Storage, str], object]

# Each on a record "k" of version 1 and value b"v"; and the record that the write leaves.
WRITES: dict[str, tuple[Act, str, Stored | None]] = {
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


class Outages(Suite):
    """Collected if a suite has `outage()`: inside it, the store can't be reached."""

    def outage(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    def test_read_during_an_outage_raises(self, store: Storage, context: str) -> None:
        can = store.capabilities
        reads: list[tuple[Callable[[], object], bool]] = [
            (lambda: store.read(context, "k"), True),
            (lambda: list(store.keys(context)), can.enumerable),
            (lambda: store.members(context, "k"), can.indexes),
            (store.ping, True),
        ]
        for act, is_declared in reads:
            if is_declined(is_declared, act):
                continue
            with self.outage():
                for _ in range(2):
                    with pytest.raises(StorageUnavailable):
                        act()
            eventually(act)

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_during_an_outage_raises_and_writes_nothing(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        write(store, context, "k")
        before = store.read(context, key)
        with self.outage():
            for _ in range(2):
                # If the connection breaks during the call, the outcome is unknown.
                with pytest.raises((StorageUnavailable, OutcomeUnknown)):
                    act(store, context)
        assert eventually(store.read, context, key) == before, "written during an outage"
        assert eventually(act, store, context) is True
        assert store.read(context, key) == done

    def test_other_writes_during_an_outage_raise(self, store: Storage, context: str) -> None:
        can = store.capabilities
        writes: list[tuple[Callable[[], object], bool]] = [
            (lambda: store.add_member(context, "k", "m", None), can.indexes),
            (lambda: store.remove_member(context, "k", "m"), can.indexes),
        ]
        if isinstance(store, ManagedStorage):
            update_expiration, touch_context = store.update_expiration, store.touch_context
            delete_context = store.delete_context
            writes += [
                (lambda: update_expiration(context, "k", None), True),
                (lambda: touch_context(context, None), can.contexts),
                (lambda: delete_context(context), True),
            ]
        for act, is_declared in writes:
            if is_declined(is_declared, act):
                continue
            with self.outage(), pytest.raises((StorageUnavailable, OutcomeUnknown)):
                act()
            eventually(store.ping)
            eventually(act)

    def test_unfit_arguments_are_refused_during_an_outage(
        self, store: Storage, context: str
    ) -> None:
        write(store, context, "k")
        too_large = too_large_value(store.capabilities.value_bytes)
        with self.outage():
            with pytest.raises(CapacityError):
                store.read(context, "k" * (store.capabilities.key_bytes + 1))
            with pytest.raises(CapacityError):
                store.update(context, "k", too_large, None, 2)
            with pytest.raises(CapacityError):
                store.update(context, "k", b"w", None, LAST_VERSION + 1)
            with pytest.raises(CapacityError):
                store.update(context, "k", b"w", LATEST + 1, 2)
        assert eventually(store.read, context, "k") == Stored(b"v", 1, None)

    def test_store_works_again_after_an_outage(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        for version in (2, 3, 4):
            with self.outage(), pytest.raises(StorageUnavailable):
                store.ping()
            eventually(store.ping)
            value = str(version).encode()
            assert eventually(store.update, context, "k", value, None, version)
            assert read(store, context, "k").value == value


class LostReplies(Suite):
    """Collected if a suite has `lost_reply()`: inside it, the next reply does not arrive."""

    def lost_reply(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    @pytest.mark.parametrize("operation", WRITES)
    def test_write_with_a_lost_reply_reports_neither_success_nor_failure(
        self, store: Storage, context: str, operation: str
    ) -> None:
        act, key, done = WRITES[operation]
        write(store, context, "k")
        before, answer = store.read(context, key), None
        with self.lost_reply():
            try:
                answer = act(store, context)
            except (OutcomeUnknown, StorageUnavailable) as error:
                answer = error
        after = eventually(store.read, context, key)
        if isinstance(answer, OutcomeUnknown):
            assert after in (before, done)
            if not operation.endswith("delete"):
                assert answer.version == 7, "OutcomeUnknown must have the proposed version"
        elif isinstance(answer, StorageUnavailable):
            assert after == before, "StorageUnavailable was raised, but the write was made"
        else:
            assert answer is True, f"{operation} returned {answer!r}: was it repeated blindly?"
            assert after == done

    def test_lost_reply_to_a_read_is_not_absence(self, store: Storage, context: str) -> None:
        write(store, context, "k")
        with self.lost_reply():
            try:
                found = store.read(context, "k")
            except StorageUnavailable:
                return
        assert found == Stored(b"v", 1, None)

    def test_late_reply_does_not_answer_another_call(self, store: Storage, context: str) -> None:
        write(store, context, "k", b"1")
        write(store, context, "other", b"2")
        with self.lost_reply(), contextlib.suppress(StorageUnavailable):
            store.read(context, "k")
        for _ in range(3):
            assert eventually(read, store, context, "other").value == b"2"
            assert eventually(read, store, context, "k").value == b"1"
