"""16 racers in 4 processes on one store, round by round."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Barrier
from typing import Any

from sealedstate.errors import OutcomeUnknown, VersionMismatch
from sealedstate.storage import Storage, open_storage
from sealedstate.storage.contract import Clock
from sealedstate.testing._suite import RACERS, Suite, eventually
from tests.support.fault_proxy import FaultProxy

__all__ = ["Answers", "Racing", "losing_replies", "play", "race_in_legs"]

Answers = tuple[bool | None, ...]
"""What each racer of one round was answered; None where its reply was lost."""

LEG = 200  # rounds that racers surely answer in time
BETWEEN_LOSSES = 200  # requests


class Racing(Suite):
    """Racers on the store of one URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def open_store(self, clock: Clock) -> Storage:
        return open_storage(self.url, clock)


def play(barrier: Barrier, attempt: Callable[..., bool], *given: Any) -> bool | None:
    """One round of one racer, which begins when all racers are there."""
    barrier.wait()
    try:
        return eventually(attempt, *given)
    except VersionMismatch:
        return False
    except OutcomeUnknown:
        return None


def race_in_legs(race: Callable[[int], list[list[bool | None]]], rounds: int) -> list[Answers]:
    """The answers of each round. `race` runs so many rounds and returns answers by racer."""
    found: list[Answers] = []
    for begun in range(0, rounds, LEG):
        by_racer = race(min(LEG, rounds - begun))
        assert len(by_racer) == RACERS
        found += zip(*by_racer, strict=True)
    return found


@contextmanager
def losing_replies(proxy: FaultProxy) -> Iterator[None]:
    """Drop all replies for a moment after every 200 requests, so that clients reconnect between."""
    over = threading.Event()

    def lose() -> None:
        seen = 0
        while not over.wait(0.001):
            if proxy.requests - seen > BETWEEN_LOSSES:
                proxy.drop_replies = True
                over.wait(0.01)
                proxy.drop_replies = False
                seen = proxy.requests

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
