"""Threads that take turns at each call of a store, in an order that one number decides.

Real threads meet by chance in a few places only. Here any two calls of two nodes can come in
either order.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sealedstate.storage import MemoryStorage

PATIENCE = 60  # seconds
STEPS = frozenset({"create", "read", "update", "delete", "add_member", "remove_member", "members"})


class Turns:
    """Lets one of several threads run at a time, until its next step."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._gates: dict[int, threading.Semaphore] = {}
        self._arrived = threading.Semaphore(0)
        self._done: set[int] = set()

    def step(self) -> None:
        """Wait for this thread's turn; a thread that takes no part does not wait."""
        gate = self._gates.get(threading.get_ident())
        if gate is not None:
            self._arrived.release()
            assert gate.acquire(timeout=PATIENCE)

    def run(self, acts: Sequence[Callable[[], object]]) -> list[Any]:
        """What each act returned, or the exception that it raised."""
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


class SteppedStorage(MemoryStorage):
    """A store at each call of which the threads of `turns` take turns."""

    turns: Turns | None = None

    def __getattribute__(self, name: str) -> Any:
        if name in STEPS:
            turns = self.turns
            if turns is not None:
                turns.step()
        return super().__getattribute__(name)
