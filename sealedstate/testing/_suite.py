"""The base of the conformance kit: a store, a clock, contexts, and concurrent callers.

Also the functions that its tests share.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ..errors import StorageError, StorageUnavailable, VersionMismatch
from ..storage.contract import ENTRY_BYTES, Clock, ManagedStorage, Storage, Stored, millis
from ._workers import ProcessBarrier, run_in_threads, worker_pool

T = TypeVar("T")

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

    def __init__(self) -> None:
        self._offset = 0.0
        self._stopped_at: float | None = None

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


class Suite:
    """The base of all tests of the kit. The author of a store writes `open_store`."""

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
        if isinstance(store, ManagedStorage):
            store.prepare()
        yield store
        store.close()

    @pytest.fixture
    def context(self) -> str:
        """A context of this test: the store need not be empty, and is not emptied."""
        return f"kit-{uuid.uuid4().hex}"

    def race(
        self, store: Storage, clock: FakeClock, act: Callable[..., T], *arguments: Any
    ) -> list[T]:
        """Return the results of `act(store, clock, number, barrier, *arguments)` from 16 racers.

        They run in 4 processes if processes share the store, else in threads of this process.
        `barrier.wait()` waits for all of them.
        """
        if not is_shared(store):
            return run_in_threads(
                RACERS, lambda racer, barrier: act(store, clock, racer, barrier, *arguments)
            )
        with tempfile.NamedTemporaryFile() as file:
            given = (Path(file.name), act, *arguments)
            results = worker_pool(PROCESSES).run(self, clock, _race_in_threads, *given)
        return list(itertools.chain(*results))

    def run_elsewhere(self, clock: FakeClock, act: Callable[..., T], *arguments: Any) -> T:
        """Return the result of `act(store, clock, 0, *arguments)` in another process."""
        return worker_pool(1).run(self, clock, act, *arguments)[0]


def _race_in_threads(
    store: Storage, clock: FakeClock, process: int, file: Path, act: Callable[..., T], *rest: Any
) -> list[T]:
    first = process * THREADS
    return run_in_threads(
        THREADS,
        lambda thread, barrier: act(store, clock, first + thread, barrier, *rest),
        ProcessBarrier(file, process, PROCESSES),
    )


def is_shared(store: Storage) -> bool:
    """Whether other processes of the server see what this process writes."""
    return store.capabilities.shared and store.capabilities.server_side


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


def is_declined(declared: bool, *acts: Callable[[], object]) -> bool:
    """Whether a capability is not declared. Then each of `acts` must raise StorageError."""
    for act in () if declared else acts:
        with pytest.raises(StorageError):
            act()
    return not declared


def total_size(*parts: str | bytes) -> int:
    """Return what a record or a member with these names and this value adds to `total_bytes`."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return ENTRY_BYTES + sum(map(len, encoded))


def fitting_count(store: Storage, most: int, *parts: str | bytes) -> int:
    """Return how many records of this size surely fit into the store, at most `most`."""
    total = store.capabilities.total_bytes
    return most if total is None else min(most, total // total_size(*parts))


def batches(store: Storage, names: Sequence[str], *rest: str | bytes) -> Iterator[Sequence[str]]:
    """Yield `names` in batches that fit into the store, as records with `rest` beside each name."""
    total = store.capabilities.total_bytes
    if total is None:
        yield names
        return
    batch: list[str] = []
    left = total
    for name in names:
        size = total_size(name, *rest)
        if batch and left < size:
            yield batch
            batch, left = [], total
        batch.append(name)
        left -= size
    yield batch


def must_be_gone_at(store: Storage, expires_at: int) -> int:
    """Return when a record must have expired, by the resolution that the store declares."""
    return expires_at + store.capabilities.resolution - 1


def mismatch_version(act: Callable[..., object], *arguments: object) -> int:
    """Return the version in the VersionMismatch that `act(*arguments)` must raise."""
    with pytest.raises(VersionMismatch) as caught:
        act(*arguments)
    return caught.value.current


def read(store: Storage, context: str, key: str) -> Stored:
    """Return a record that must be live."""
    stored = store.read(context, key)
    assert stored is not None, f"there is no record of the key {key[:60]!r}"
    return stored


def write(
    store: Storage,
    context: str,
    key: str,
    value: bytes = b"v",
    expires_at: int | None = None,
    version: int = 1,
) -> None:
    """Create a record where none may be live."""
    is_created = store.create(context, key, value, expires_at, version)
    place = f"({context[:60]!r}, {key[:60]!r})"
    assert is_created is True, f"create returned {is_created!r}, but nothing is live at {place}"
