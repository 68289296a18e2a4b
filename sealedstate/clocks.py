"""A clock that does not step back by a little.

Knows another clock. Does not know what its time is used for.
"""

from __future__ import annotations

from collections.abc import Callable


class SteadyClock:
    """The time of `clock` (epoch seconds), but never less than before by at most `skew` seconds.

    A clock that is set back a little would make an older key the primary again. One that is set
    back by more was wrong before, and is followed.
    """

    def __init__(self, clock: Callable[[], float], skew: float) -> None:
        self._clock = clock
        self._skew = skew
        self._latest = clock()

    def __call__(self) -> float:
        now = self._clock()
        if self._latest - self._skew <= now < self._latest:
            return self._latest
        # Of two threads, the one that is late puts back its own moment: less than any step.
        self._latest = now
        return now
