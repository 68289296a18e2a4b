"""What every test of the kit stands on: a store, a clock, names of its own, other processes.

Knows how a suite opens its store. Does not know any promise of the contract.
"""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ..errors import StorageError, StorageUnavailable, VersionMismatch
from ..storage.contract import ENTRY_BYTES, Clock, Storage, Stored
from .clock import FakeClock, tries
from .workers import Line, crew, in_threads

T = TypeVar("T")

# Expiries lie so far ahead of whatever is asked next: a server's own clock, which goes on while
# the kit's is stopped, must not get there during a test.
MINUTE = 60_000
PROCESSES, THREADS = 4, 4
RACERS = PROCESSES * THREADS
PATIENCE = 30  # seconds, for which a store may be busy or be coming back


class Suite:
    """A base of the kit's tests. `open_store` is the one thing that a store's author writes."""

    def open_store(self, clock: Clock) -> Storage:
        """The store under test; called once per test, and once more in each other process.

        What it needs of `self` must be such that pickle can carry it there, as paths and URLs are.
        """
        raise NotImplementedError("def open_store(self, clock): return MyStore(..., clock)")

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Storage]:
        store = self.open_store(clock)
        store.prepare()
        yield store
        store.close()

    @pytest.fixture
    def context(self) -> str:
        """A context that no other test uses: the store need not be empty, and is not emptied."""
        return f"kit-{uuid.uuid4().hex}"

    def race(
        self, store: Storage, clock: FakeClock, act: Callable[..., T], *arguments: Any
    ) -> list[T]:
        """The results of `act(store, clock, racer, meet, *arguments)` from 16 racers at once.

        They run in 4 processes if the store is shared by processes, and else in this one. Each
        waits in `meet()` for all the others.
        """
        if not is_shared(store):
            return in_threads(
                RACERS, lambda racer, meet: act(store, clock, racer, meet, *arguments)
            )
        with tempfile.NamedTemporaryFile() as line:
            place = (Path(line.name), act, *arguments)
            found = crew(PROCESSES).run(self, clock, _race_in_threads, *place)
        return [result for results in found for result in results]

    def elsewhere(self, clock: FakeClock, act: Callable[..., T], *arguments: Any) -> T:
        """The result of `act(store, clock, 0, *arguments)` in one other process."""
        return crew(1).run(self, clock, act, *arguments)[0]


def is_shared(store: Storage) -> bool:
    """Whether other processes of the server see what this one writes."""
    return store.capabilities.shared and store.capabilities.server_side


def _race_in_threads(
    store: Storage, clock: FakeClock, process: int, line: Path, act: Callable[..., T], *rest: Any
) -> list[T]:
    first = process * THREADS
    return in_threads(
        THREADS,
        lambda thread, meet: act(store, clock, first + thread, meet, *rest),
        Line(line, process, PROCESSES),
    )


def insist(act: Callable[..., T], *arguments: object) -> T:
    """What `act` returns in the end: StorageUnavailable says that nothing was written."""
    for _ in tries(PATIENCE):
        with contextlib.suppress(StorageUnavailable):
            return act(*arguments)
    return act(*arguments)


def undeclared(declared: bool, *acts: Callable[[], object]) -> bool:
    """Whether a capability is not declared; each of `acts` must then raise StorageError."""
    for act in () if declared else acts:
        with pytest.raises(StorageError):
            act()
    return not declared


def counted(*parts: str | bytes) -> int:
    """What a record or a member of these names and this value counts for in `total_bytes`."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return ENTRY_BYTES + sum(map(len, encoded))


def at_once(store: Storage, most: int, *parts: str | bytes) -> int:
    """How many records of these sizes to write: `most`, or as many as surely fit in all."""
    total = store.capabilities.total_bytes
    return most if total is None else min(most, total // counted(*parts))


def in_turns(store: Storage, names: Sequence[str], *rest: str | bytes) -> Iterator[Sequence[str]]:
    """`names` in as few turns as the store's `total_bytes` allows, with `rest` beside each."""
    total = store.capabilities.total_bytes
    if total is None:
        yield names
        return
    turn: list[str] = []
    left = total
    for name in names:
        size = counted(name, *rest)
        if turn and left < size:
            yield turn
            turn, left = [], total
        turn.append(name)
        left -= size
    yield turn


def told_by_mismatch(act: Callable[..., object], *arguments: object) -> int:
    """The current version, which a VersionMismatch of `act(*arguments)` must tell."""
    with pytest.raises(VersionMismatch) as caught:
        act(*arguments)
    return caught.value.current


def read(store: Storage, context: str, key: str) -> Stored:
    """A record that must be there."""
    stored = store.read(context, key)
    assert stored is not None, f"the record of the key {key[:60]!r} is not there"
    return stored


def write(
    store: Storage,
    context: str,
    key: str,
    value: bytes = b"v",
    expires_at: int | None = None,
    version: int = 1,
) -> None:
    """Create a record where there must be none."""
    created = store.create(context, key, value, expires_at, version)
    place = f"({context[:60]!r}, {key[:60]!r})"
    assert created is True, f"create returned {created!r} though nothing lives at {place}"
