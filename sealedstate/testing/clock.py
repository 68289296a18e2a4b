"""The kit's clock: the real time, moved on by as much as a test asks for, or stopped.

Knows that servers expire by clocks of their own, which nobody can move: a store may be late with
its server's help, never early, so that this clock only ever runs ahead. Does not know any store.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from ..storage.contract import millis


def tries(seconds: float) -> Iterator[int]:
    """Numbers, a moment apart, for so many real seconds: to ask again until something holds."""
    until = time.monotonic() + seconds
    for number in itertools.count():
        yield number
        if time.monotonic() > until:
            return
        time.sleep(0.005)


class FakeClock:
    """Seconds since the epoch. It can be carried into another process."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        return time.time() + self._offset if self._stopped_at is None else self._stopped_at

    def __repr__(self) -> str:
        return f"<FakeClock at {self.now} ms>"

    @property
    def now(self) -> int:
        """The current millisecond."""
        return millis(self())

    def move(self, milliseconds: int) -> None:
        """Run on from so much later."""
        self.stop(self.now + milliseconds)
        self.go_on()

    def stop(self, at: int) -> None:
        """Stay in the middle of the millisecond `at`, where no rounding leads into another."""
        self._stopped_at = (at + 0.5) / 1000

    def go_on(self) -> None:
        """Run again, from where the clock stands."""
        self._offset, self._stopped_at = self() - time.time(), None
