"""Threads that take turns at each call of a store, in an order that one number decides.

Real threads meet in few places and by chance; here any two calls of two nodes come in either order.

    turns = Turns(random.Random(7))
    ScriptedStorage(clock).before(act=turns.step, times=None)

`schedules()` yields a chooser for every order instead, one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

PATIENCE = 60  # seconds


class Chooser(Protocol):
    """Chooses who is next: a `random.Random`, or a `Schedule`."""

    def choice(self, seq: Sequence[int], /) -> int: ...


class Schedule:
    """One order of the turns. Beyond those that it was given, the first thread is next."""

    def __init__(self, given: Sequence[int] = ()) -> None:
        self._given = given
        # (chosen, of how many) of each turn.
        self.turns: list[tuple[int, int]] = []

    def choice(self, seq: Sequence[int], /) -> int:
        at = len(self.turns)
        chosen = self._given[at] if at < len(self._given) else 0
        self.turns.append((chosen, len(seq)))
        return seq[chosen]


def schedules() -> Iterator[Schedule]:
    """A schedule for each order of the turns. Each must be run before the next is asked for."""
    given: list[int] | None = []
    while given is not None:
        schedule = Schedule(given)
        yield schedule
        # The next in lexicographic order: the last turn that had a further choice.
        taken, given = schedule.turns, None
        for at in range(len(taken) - 1, -1, -1):
            if taken[at][0] + 1 < taken[at][1]:
                given = [chosen for chosen, _ in taken[:at]] + [taken[at][0] + 1]
                break


class Turns:
    """Lets one of several threads run at a time, until its next step."""

    def __init__(self, chance: Chooser) -> None:
        self._chance = chance
        self._gates: dict[int, threading.Semaphore] = {}
        self._arrived = threading.Semaphore(0)
        self._done: set[int] = set()

    def step(self) -> None:
        """Wait for this thread's turn, if it takes part."""
        gate = self._gates.get(threading.get_ident())
        if gate is not None:
            self._arrived.release()
            assert gate.acquire(timeout=PATIENCE)

    def run(self, acts: Sequence[Callable[[], object]]) -> list[Any]:
        """The result of each act, or the exception that it raised."""
        outcomes: list[Any] = [None] * len(acts)
        threads = [
            threading.Thread(target=self._act, args=(number, act, outcomes), daemon=True)
            for number, act in enumerate(acts)
        ]
        waiting = []
        for thread in threads:
            thread.start()
            assert self._arrived.acquire(timeout=PATIENCE)
            assert thread.ident is not None
            waiting.append(thread.ident)
        while waiting:
            chosen = self._chance.choice(waiting)
            self._gates[chosen].release()
            assert self._arrived.acquire(timeout=PATIENCE)
            if chosen in self._done:
                waiting.remove(chosen)
        for thread in threads:
            thread.join(PATIENCE)
        return outcomes

    def _act(self, number: int, act: Callable[[], object], outcomes: list[Any]) -> None:
        me = threading.get_ident()
        self._gates[me] = threading.Semaphore(0)
        try:
            self.step()
            outcomes[number] = act()
        except Exception as error:
            outcomes[number] = error
        finally:
            self._done.add(me)
            self._arrived.release()
