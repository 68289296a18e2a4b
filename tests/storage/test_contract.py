"""The contract's functions, and any sequence of operations compared with a dict.

The conformance kit tests the single promises, for these stores in `tests/testing/test_kit.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

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

from sealedstate.storage import ManagedStorage, MemoryStorage, SQLiteStorage, Stored, TypedStorage
from sealedstate.storage.contract import (
    REAP_AFTER,
    UNCHANGED,
    millis,
    next_version,
    read_if_changed,
)
from sealedstate.testing._suite import mismatch_version
from tests.support.jar import Clock

STORES: dict[str, Callable[[Path, Clock], ManagedStorage]] = {
    "memory": lambda folder, clock: MemoryStorage(clock),
    "sqlite": lambda folder, clock: SQLiteStorage(folder / "store.db", clock),
}

NOW = 1_800_000_000_000


class MilliClock(Clock):
    """A clock that is set in milliseconds, and always in the middle of one."""

    def __init__(self, now: int = NOW) -> None:
        super().__init__()
        self.at(now)

    def at(self, now: int) -> None:
        self.now = (now + 0.5) / 1000


def test_seconds_become_whole_milliseconds() -> None:
    assert [millis(at / 1000) for at in range(NOW, NOW + 2000)] == list(range(NOW, NOW + 2000))


def test_proposed_version_increases_even_if_the_clock_steps_back() -> None:
    ahead = next_version(2_000_000_000.0)
    assert next_version(1_900_000_000.0, ahead) == ahead + 1
    assert next_version(2_000_000_000.001) > ahead


def test_repr_of_a_record_hides_its_value() -> None:
    assert "canary" not in repr(Stored(b"canary", 1, None))


@pytest.mark.parametrize("name", STORES)
def test_reaping_counts_records_and_members(name: str, tmp_path: Path) -> None:
    clock = MilliClock()
    store = STORES[name](tmp_path, clock)
    for number in range(3):
        store.create("c", str(number), b"v", NOW + 1, 1)
        store.add_member("c", "k", str(number), NOW + 1)
    store.create("c", "later", b"v", NOW + 2 + REAP_AFTER, 1)
    store.add_member("c", "k", "permanent", None)
    assert store.reap(100) == 0
    clock.at(NOW + 1 + REAP_AFTER)
    assert [store.reap(4), store.reap(4), store.reap(4)] == [4, 2, 0]
    assert list(store.keys("c")) == ["later"]
    assert store.members("c", "k") == {"permanent": None}
    store.close()


class JSONNumbers:
    def serialize(self, value: list[int]) -> bytes:
        return json.dumps(value).encode()

    def deserialize(self, data: bytes) -> list[int]:
        found: list[int] = json.loads(data)
        return found


def test_typed_objects_are_written_read_and_deleted_by_version() -> None:
    def clock() -> float:
        return 1_800_000_000.0

    view = TypedStorage(MemoryStorage(clock), "numbers", JSONNumbers(), clock)
    assert view.read("k") is None
    assert view.update("k", [1], None, 1) is None
    assert view.delete("k") is False
    first = view.create("k", [1, 2], None)
    assert first is not None
    assert view.read("k") == ([1, 2], first, None)
    assert view.create("k", [2], None) is None
    second = view.update("k", [3], None, first)
    assert second is not None
    assert second > first
    assert mismatch_version(view.update, "k", [4], None, first) == second
    assert mismatch_version(view.delete, "k", first) == second
    assert view.delete("k", second) is True


CONTEXTS = strategies.sampled_from(["a", "ab", "A"])
KEYS = strategies.sampled_from(["x", "xy", "%", "é"])
EXPIRIES = strategies.none() | strategies.integers(-1, 50)
STEPS = strategies.integers(-2, 3)


class ContractMachine(RuleBasedStateMachine):
    """A store beside a dict, which must return the same."""

    store: ManagedStorage
    clock: MilliClock

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.clock.at(self.now)
        self.records: dict[tuple[str, str], Stored] = {}
        self.indexed: dict[tuple[str, str, str], int | None] = {}

    def find(self, context: str, key: str) -> Stored | None:
        stored = self.records.get((context, key))
        if stored is None or stored.expires_at is None or self.now < stored.expires_at:
            return stored
        return None

    def expiry(self, delta: int | None) -> int | None:
        return None if delta is None else self.now + delta

    @rule(context=CONTEXTS, key=KEYS, value=strategies.binary(max_size=3), delta=EXPIRIES)
    def create(self, context: str, key: str, value: bytes, delta: int | None) -> None:
        version, expires_at = next_version(self.clock()), self.expiry(delta)
        expected = self.find(context, key) is None
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
        stored, expires_at = self.find(context, key), self.expiry(delta)
        current = 5 if stored is None else stored.version
        expected = None if known is None else current + known
        version = current + step

        def act() -> bool:
            return self.store.update(context, key, value, expires_at, version, expected)

        if stored is None:
            assert not act()
        elif step <= 0 or known not in (None, 0):
            assert mismatch_version(act) == stored.version
        else:
            assert act()
            self.records[context, key] = Stored(value, version, expires_at)

    @rule(context=CONTEXTS, key=KEYS, delta=EXPIRIES)
    def update_expiration(self, context: str, key: str, delta: int | None) -> None:
        stored, expires_at = self.find(context, key), self.expiry(delta)
        assert self.store.update_expiration(context, key, expires_at) == (stored is not None)
        if stored is not None:
            self.records[context, key] = Stored(stored.value, stored.version, expires_at)

    @rule(context=CONTEXTS, key=KEYS, known=strategies.none() | STEPS)
    def delete(self, context: str, key: str, known: int | None) -> None:
        stored = self.find(context, key)
        current = 5 if stored is None else stored.version
        expected = None if known is None else current + known

        def act() -> bool:
            return self.store.delete(context, key, expected)

        if stored is not None and known not in (None, 0):
            assert mismatch_version(act) == stored.version
        else:
            assert act() == (stored is not None)
            if stored is not None:
                del self.records[context, key]

    @rule(context=CONTEXTS, delta=EXPIRIES)
    def touch_context(self, context: str, delta: int | None) -> None:
        self.store.touch_context(context, self.expiry(delta))
        for of, key in list(self.records):
            stored = self.find(of, key)
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
        is_live = member in self.members(context, key)
        assert self.store.remove_member(context, key, member) == is_live
        if is_live:
            del self.indexed[context, key, member]

    def members(self, context: str, key: str) -> dict[str, int | None]:
        return {
            member: expires_at
            for (of, name, member), expires_at in self.indexed.items()
            if (of, name) == (context, key) and (expires_at is None or self.now < expires_at)
        }

    @rule(limit=strategies.integers(0, 5))
    def reap(self, limit: int) -> None:
        # Writes reap, too, so fewer records may be left than in the model.
        expired = sum(self.find(*at) is None for at in self.records)
        expired += sum(at is not None and at <= self.now for at in self.indexed.values())
        assert self.store.reap(limit) <= min(limit, expired)

    @rule(delta=strategies.integers(1, 60))
    def forward(self, delta: int) -> None:
        self.now += delta
        self.clock.at(self.now)

    @precondition(lambda self: self.records)
    @rule(step=STEPS)
    def read_version(self, step: int) -> None:
        context, key = next(iter(self.records))
        stored = self.find(context, key)
        version = 5 if stored is None else stored.version + step
        answer = read_if_changed(self.store, context, key, version)
        assert answer == (UNCHANGED if stored is not None and step == 0 else stored)

    @invariant()
    def reads_the_same(self) -> None:
        if not hasattr(self, "records"):
            return
        for context, key in self.records:
            assert self.store.read(context, key) == self.find(context, key)
        for context in ("a", "ab", "A"):
            expected = {key for of, key in self.records if of == context and self.find(of, key)}
            assert set(self.store.keys(context)) == expected
        for context, key, _ in self.indexed:
            assert self.store.members(context, key) == self.members(context, key)


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", STORES)
def test_any_sequence_of_operations_returns_what_a_dict_would(name: str, examples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = MilliClock()
        store = STORES[name](Path(folder), clock)

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
