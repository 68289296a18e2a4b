"""Turns that are taken in rounds: how much processor time a call takes, and beside another's.

Knows rounds, processor time and medians of ratios. Does not know what a call does.

In each round everybody runs for about as long, in an order of its own, so that what disturbs the
machine for a while disturbs all of them. A ratio is that of two times of the same round; what is
told is the median of the rounds' ratios. Times are those of this thread on a processor: waiting
for one does not count.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import thread_time_ns

from benchmarks.dress import Progress

Step = Callable[[int], object]
"""One call, told a number that its predecessor was not told; what it gives must be true."""
Turn = Callable[[int], int]
"""Makes so many calls and says how many nanoseconds of a processor they took."""

BEFORE = 300
"""A number that no step is told."""

WARM_UP = 20
FIRST = 8
PAGE_SHARE = 3
"""How many times fewer calls a turn makes if there is a page between them."""


@dataclass(slots=True)
class Times:
    """Nanoseconds a call, by rounds."""

    rounds: list[float] = field(default_factory=list)

    @property
    def microseconds(self) -> float:
        return statistics.median(self.rounds) / 1e3

    @property
    def quiet_microseconds(self) -> float:
        """The 20th percentile of the rounds: what a neighbour on the machine disturbs least."""
        return percentile_20(self.rounds) / 1e3

    def ratio_to(self, other: Times) -> float:
        """How many times as long as another's."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def less(self, other: Times) -> Times:
        """What it takes more than another, round by round; never less than a nanosecond."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Times([max(mine - theirs, 1.0) for mine, theirs in pairs])


def looped(step: Step) -> Turn:
    """A turn of calls in this thread."""
    numbers = _numbers()

    def turn(calls: int) -> int:
        todo, done = [next(numbers) for _ in range(calls)], None
        begun = thread_time_ns()
        for number in todo:
            done = step(number)
        taken = thread_time_ns() - begun
        if not done:
            raise RuntimeError("it did not do what it was to do")
        return taken

    return turn


def percentile_20(values: Sequence[float]) -> float:
    """The value below which a fifth of them are."""
    return sorted(values)[(len(values) - 1) // 5]


def after_each(turn: Turn, page: Callable[[], object]) -> Turn:
    """The same calls, each after a page of other work, which is not timed.

    So a call finds the processor's caches as a request does, and not warm from the call before.
    """

    def spaced(calls: int) -> int:
        taken = 0
        for _ in range(calls):
            page()
            taken += turn(1)
        return taken

    return spaced


def run(
    turns: Mapping[str, Turn],
    rounds: int,
    milliseconds: float,
    progress: Progress,
    what: str = "",
    page: Callable[[], object] | None = None,
) -> dict[str, Times]:
    """So many rounds, in which each turn takes about so many milliseconds.

    `page`: other work between each call and the next, which makes a round longer.
    """
    if page is not None:
        turns = {name: after_each(turn, page) for name, turn in turns.items()}
        milliseconds /= PAGE_SHARE
    calls = {name: _calls(turn, milliseconds * 1e6) for name, turn in turns.items()}
    found = {name: Times() for name in turns}
    gc.collect()
    for _ in range(rounds):
        for name in random.sample(list(turns), len(turns)):
            found[name].rounds.append(turns[name](calls[name]) / calls[name])
        progress.step(what)
    return found


def _calls(turn: Turn, nanoseconds: float) -> int:
    turn(WARM_UP)
    each = min(turn(FIRST), turn(FIRST)) / FIRST
    return max(1, round(nanoseconds / max(each, 1.0)))


def _numbers() -> Iterator[int]:
    """None takes more room than another, in JSON or CBOR, and none is `BEFORE`."""
    return (BEFORE + 1 + number % 600 for number in count())
