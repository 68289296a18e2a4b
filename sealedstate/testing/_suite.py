"""The base of the conformance kit: a store, a clock, contexts, and concurrent callers.

Also the functions that its tests share.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pytest

from ..errors import StorageError, StorageUnavailable, VersionMismatch
from ..storage.contract import (
    ENTRY_BYTES,
    Capabilities,
    Clock,
    ManagedStorage,
    Storage,
    Stored,
    is_managed,
    millis,
)
from ._workers import ProcessBarrier, run_in_threads, worker_pool

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

# Expiries are this far in the future, because a server's clock, which runs on while the kit's is
# stopped, must not reach them during a test.
MINUTE = 60_000
PROCESSES, THREADS = 4, 4
RACERS = PROCESSES * THREADS
PATIENCE = 30  # seconds; a store may be busy, or recovering, for this long


class FakeClock:
    """The real time, moved ahead by as much as a test asks for, or stopped.

    Returns seconds since the epoch. Servers expire records by their own clocks, which a test can't
    move; they may be late but never early, so this clock only runs ahead. Can be pickled.
    """

    _offset = 0.0
    _stopped_at: float | None = None

    def __call__(self) -> float:
        return time.time() + self._offset if self._stopped_at is None else self._stopped_at

    def __repr__(self) -> str:
        return f"<FakeClock at {self.now} ms>"

    @property
    def now(self) -> int:
        """The current epoch millisecond."""
        return millis(self())

    def advance(self, milliseconds: int) -> None:
        """Move ahead and run."""
        self.stop(self.now + milliseconds)
        self.resume()

    def stop(self, at: int) -> None:
        """Stop in the middle of the epoch millisecond `at`, where rounding does not leave it."""
        self._stopped_at = (at + 0.5) / 1000

    def resume(self) -> None:
        """Run again, from the time at which the clock was stopped."""
        self._offset, self._stopped_at = self() - time.time(), None


def _in_context(method: Callable[Concatenate[Any, str, P], R]) -> Callable[Concatenate[Any, P], R]:
    name = method.__name__

    @functools.wraps(method)
    def operation(self: Context, *arguments: P.args, **named: P.kwargs) -> R:
        answer: R = getattr(self.store, name)(self.name, *arguments, **named)
        return answer

    return cast("Callable[Concatenate[Any, P], R]", operation)


@dataclass(frozen=True)
class Context:
    """A context of the store under test, with its operations, and the clock of the test.

    By default a new one: the store need not be empty, and is not emptied.
    """

    store: Storage
    clock: FakeClock
    name: str = field(default_factory=lambda: f"kit-{uuid.uuid4().hex}")

    create = _in_context(Storage.create)
    read = _in_context(Storage.read)
    update = _in_context(Storage.update)
    delete = _in_context(Storage.delete)
    keys = _in_context(Storage.keys)
    add_member = _in_context(Storage.add_member)
    remove_member = _in_context(Storage.remove_member)
    members = _in_context(Storage.members)
    update_expiration = _in_context(ManagedStorage.update_expiration)
    touch_all = _in_context(ManagedStorage.touch_context)
    delete_all = _in_context(ManagedStorage.delete_context)

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities

    @property
    def is_managed(self) -> bool:
        """Whether the store has the operations of `ManagedStorage`."""
        return is_managed(self.store)

    @property
    def is_shared(self) -> bool:
        """Whether other processes of the server see what this process writes."""
        return self.capabilities.shared and self.capabilities.server_side

    @property
    def now(self) -> int:
        """The current epoch millisecond."""
        return self.clock.now

    def beside(self, suffix: str) -> Context:
        """Return the context whose name has this at its end."""
        return replace(self, name=self.name + suffix)

    def write(
        self, key: str, value: bytes = b"v", expires_at: int | None = None, version: int = 1
    ) -> None:
        """Create a record where none may be live."""
        is_created = self.create(key, value, expires_at, version)
        place = f"({self.name[:60]!r}, {key[:60]!r})"
        assert is_created is True, f"create returned {is_created!r}, but nothing is live at {place}"

    def read_live(self, key: str) -> Stored:
        """Return a record that must be live."""
        stored = self.read(key)
        assert stored is not None, f"there is no record of the key {key[:60]!r}"
        return stored

    def gone_at(self, expires_at: int) -> int:
        """Return when a record must have expired, by the resolution that the store declares."""
        return expires_at + self.capabilities.resolution - 1

    def stop_after(self, expires_at: int) -> None:
        """Stop the clock when a record must have expired."""
        self.clock.stop(self.gone_at(expires_at))


class Suite:
    """The base of all tests of the kit. The author of a store writes `open_store`."""

    def __init_subclass__(cls, needs: Callable[[Context], bool] | None = None) -> None:
        """`needs`: whether a store has what the tests of this class need; if not, they pass."""
        super().__init_subclass__()
        for name, test in list(vars(cls).items()):
            if needs is not None and name.startswith("test_"):
                setattr(cls, name, _if_met(needs, test))

    def open_store(self, clock: Clock) -> Storage:
        """Return the store under test. Called once per test, and once in each other process.

        What it reads from `self` is pickled for other processes, such as paths and URLs.
        """
        raise NotImplementedError("def open_store(self, clock): return MyStore(..., clock)")

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Storage]:
        store = self.open_store(clock)
        if is_managed(store):
            store.prepare()
        yield store
        store.close()

    @pytest.fixture
    def context(self, store: Storage, clock: FakeClock) -> Context:
        return Context(store, clock)

    def race(self, context: Context, act: Callable[..., T], *arguments: Any) -> list[T]:
        """Return the results of `act(context, number, barrier, *arguments)` from 16 racers.

        They run in 4 processes if processes share the store, else in threads of this process.
        `barrier.wait()` waits for all of them.
        """
        if not context.is_shared:
            return run_in_threads(
                RACERS, lambda racer, barrier: act(context, racer, barrier, *arguments)
            )
        with tempfile.NamedTemporaryFile() as file:
            given = (context.name, Path(file.name), act, *arguments)
            results = worker_pool(PROCESSES).run(self, context.clock, _race_in_threads, *given)
        return list(itertools.chain(*results))

    def winners(
        self, context: Context, attempt: Callable[..., bool], names: Sequence[str]
    ) -> dict[str, int]:
        """Return by name which racer succeeded with `attempt(context, racer, name)`: exactly one.

        All racers try each name at the same moment.
        """
        results = self.race(context, _try_each, attempt, names)
        answers = dict(zip(names, zip(*results, strict=True), strict=True))
        counts = {name: sum(given) for name, given in answers.items()}
        assert set(counts.values()) == {1}, f"racers that succeeded: {counts}"
        return {name: given.index(True) for name, given in answers.items()}


def _if_met(needs: Callable[[Context], bool], test: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(test)
    def test_if_met(self: Suite, context: Context) -> None:
        if needs(context):
            test(self, context)

    return test_if_met


def _try_each(
    context: Context, racer: int, barrier: Barrier, attempt: Callable[..., bool], names: list[str]
) -> list[bool]:
    results = []
    for name in names:
        barrier.wait()
        results.append(succeeds(attempt, context, racer, name))
    return results


def _race_in_threads(
    store: Storage, clock: FakeClock, process: int, name: str, file: Path, act: Any, *rest: Any
) -> list[Any]:
    context, first = Context(store, clock, name), process * THREADS
    return run_in_threads(
        THREADS,
        lambda thread, barrier: act(context, first + thread, barrier, *rest),
        ProcessBarrier(file, process, PROCESSES),
    )


def poll(seconds: float) -> Iterator[int]:
    """Yield numbers, 5 ms apart, for this many real seconds: for loops that wait for something."""
    until = time.monotonic() + seconds
    for number in itertools.count():
        yield number
        if time.monotonic() > until:
            return
        time.sleep(0.005)


def eventually(act: Callable[..., T], *arguments: object) -> T:
    """Return the result of `act`, repeated while it raises StorageUnavailable (nothing written)."""
    for _ in poll(PATIENCE):
        with contextlib.suppress(StorageUnavailable):
            return act(*arguments)
    return act(*arguments)


def succeeds(act: Callable[..., bool], *arguments: object) -> bool:
    """Return whether `act` wrote."""
    try:
        return eventually(act, *arguments)
    except VersionMismatch:
        return False


def is_supported(declared: bool, *acts: Callable[[], object]) -> bool:
    """Whether a capability is declared. If it is not, each of `acts` must raise StorageError."""
    for act in () if declared else acts:
        with pytest.raises(StorageError):
            act()
    return declared


def total_size(*parts: str | bytes) -> int:
    """Return what a record or a member with these names and this value adds to `total_bytes`."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return ENTRY_BYTES + sum(map(len, encoded))


def fitting_count(store: Storage, most: int, *parts: str | bytes) -> int:
    """Return how many records of this size surely fit into the store, at most `most`."""
    total = store.capabilities.total_bytes or sys.maxsize
    return min(most, total // total_size(*parts))


def batches(store: Storage, names: Sequence[str], *rest: str | bytes) -> Iterator[Sequence[str]]:
    """Yield `names` in batches that fit into the store, as records with `rest` beside each name."""
    batch: list[str] = []
    left = total = store.capabilities.total_bytes or sys.maxsize
    for name in names:
        size = total_size(name, *rest)
        if batch and left < size:
            yield batch
            batch, left = [], total
        batch.append(name)
        left -= size
    yield batch


def mismatch_version(act: Callable[..., object], *arguments: object) -> int:
    """Return the version in the VersionMismatch that `act(*arguments)` must raise."""
    with pytest.raises(VersionMismatch) as caught:
        act(*arguments)
    return caught.value.current
