"""Calls that take turns: how long each takes, and how often a second it can be done.

Knows contenders, rounds and percentiles. Does not know stores, servers or what a call does.

Each round visits everybody in an order of its own, so that what disturbs the machine for a while
disturbs all of them. A ratio is that of two medians of the same round; what is told is the median
of the rounds' ratios.
"""

from __future__ import annotations

import gc
import random
import statistics
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from time import perf_counter_ns
from typing import TypeVar

from benchmarks.dress import Progress

T = TypeVar("T")

READ, CREATE, CAS = "read", "create", "compare-and-set"
OPERATIONS = (READ, CREATE, CAS)
WARM_UP = 16
# Calls in a turn: enough for a median, and no more than the memory of all rounds bears.
LEAST, MOST = 5, 4000

Act = Callable[[int], object]
"""One call, told a number that none was told before; whether it did what it was to do."""


def _nothing() -> None:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured under a name. `begin` comes before each of its turns, `clear` after one that
    has created, and `close` in the end."""

    name: str
    acts: Mapping[str, Act]
    clear: Callable[[], object] = _nothing
    begin: Callable[[], object] = _nothing
    close: Callable[[], object] = _nothing


@dataclass(slots=True)
class Times:
    """How long calls took, by rounds, in nanoseconds."""

    rounds: list[array[int]] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return sum(map(len, self.rounds))

    @property
    def per_second(self) -> float:
        """Calls one after the other."""
        return self.calls / (sum(map(sum, self.rounds)) / 1e9)

    def percentile(self, percent: int) -> float:
        """In microseconds; a value that was really measured."""
        ordered = sorted(nanos for turn in self.rounds for nanos in turn)
        return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] / 1000

    def ratio_to(self, other: Times) -> float:
        """How many times as long as another's, by the medians."""
        return statistics.median(
            statistics.median(ours) / statistics.median(theirs)
            for ours, theirs in zip(self.rounds, other.rounds, strict=True)
        )


Measured = dict[str, dict[str, Times]]
"""By contender and operation."""
Groups = Mapping[str, Sequence[Contender]]
"""By backend, whose contenders take turns in direct succession."""


def run(
    groups: Groups, rounds: int, seconds: float, progress: Progress | None = None
) -> dict[str, Measured]:
    """Measure everybody in so many rounds, which take about so many seconds together."""
    turns = sum(len(one.acts) for group in groups.values() for one in group)
    share = int(seconds * 1e9 / max(rounds * turns, 1))
    found: dict[str, Measured] = {
        backend: {one.name: {name: Times() for name in one.acts} for one in group}
        for backend, group in groups.items()
    }
    numbers = count()
    for group in groups.values():
        for one in group:
            _warm_up(one, numbers)
    # What was made up to here is not looked at again by a collection amid a call.
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for backend in _shuffled(list(groups)):
            _go_round(groups[backend], found[backend], numbers, share)
        if progress is not None:
            progress.step()
    return found


def _warm_up(one: Contender, numbers: Iterator[int]) -> None:
    one.begin()
    for operation, act in one.acts.items():
        for number in islice(numbers, WARM_UP):
            _check(act(number), one, operation)
    one.clear()


def _go_round(
    group: Sequence[Contender], found: Measured, numbers: Iterator[int], nanoseconds: int
) -> None:
    """One turn for each operation of each."""
    for operation in _shuffled(list(OPERATIONS)):
        for one in _shuffled([one for one in group if operation in one.acts]):
            one.begin()
            times, worked = _turn(one.acts[operation], numbers, nanoseconds)
            _check(worked, one, operation)
            found[one.name][operation].rounds.append(times)
            if operation == CREATE:
                one.clear()


def _turn(act: Act, numbers: Iterator[int], nanoseconds: int) -> tuple[array[int], bool]:
    """How long each call took; whether all of them worked."""
    times, worked = array("q"), True
    end = perf_counter_ns() + nanoseconds
    for number in numbers:
        began = perf_counter_ns()
        done = act(number)
        ended = perf_counter_ns()
        worked = worked and bool(done)
        times.append(ended - began)
        if len(times) >= MOST or (len(times) >= LEAST and ended >= end):
            break
    return times, worked


def _check(worked: object, one: Contender, operation: str) -> None:
    if not worked:
        raise RuntimeError(f"{one.name}: {operation} did not do what it was to do")


def _shuffled(things: list[T]) -> list[T]:
    return random.sample(things, len(things))
