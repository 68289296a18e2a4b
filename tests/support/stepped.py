"""Threads that take turns at each call of a store, in an order that one number decides.

Real threads meet in few places and by chance; here any two calls of two nodes come in either order.

    turns = Turns(random.Random(7))
    ScriptedStorage(clock).before(act=turns.step, times=None)
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE = 60  # seconds


class Turns:
    """Lets one of several threads run at a time, until its next step."""

    def __init__(self, chance: random.Random) -> None:
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
