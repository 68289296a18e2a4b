"""What the steps of a request share: settings, tokens, the store's services, and the journal.

Knows how they are made from settings. Does not know what a request does with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from ._cookies.codec import CookieCodec
from ._stored.parts import Spiller
from ._stored.revocations import Revocations
from ._stored.table import Rows
from ._wire.encoding import token_bytes
from ._wire.token import OVERHEAD_BYTES
from .errors import ConfigurationError
from .hooks import HookList
from .profiles import budget_for
from .settings import Settings
from .storage.check import StorageCheck

# FOLD sealedstate.clocks
# A clock that does not step back by a little.
#
# Knows another clock. Does not know what its time is used for.


class ClampedClock:
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


log = logging.getLogger("sealedstate")


BUDGETS = 256
# No cookie's Max-Age has more digits.
LONGEST_AGE = 99_999_999
# What sessions keep in a store.
KEPT_HERE = ("spilling", "revocation")


class Deployment:
    """The tools of one application.

    `now`: epoch seconds, as the settings' clock says, but never a little less than before.
    Raises ConfigurationError when a store does not meet the needs of what would be kept in it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cookies = settings.cookies
        self.tokens = CookieCodec(
            settings.cookies.name, settings.realm, settings.key_source, settings.random
        )
        self.spiller: Spiller | None = None
        self.revocations: Revocations | None = None
        self.journal = settings.journal
        self.emit = settings.journal.emit
        self.now = ClampedClock(settings.clock, settings.skew)
        # Foreign cookies and further headers are mostly the same from one request to the next.
        self.budget = lru_cache(BUDGETS)(partial(budget_for, settings.carried))
        self.core_bytes = lru_cache(BUDGETS)(self._core_bytes)
        self.rows = Rows(settings.realm, settings.random, self._row_refused)
        self.followers = HookList()
        self._fitness: list[StorageCheck] = []
        if settings.store is not None:
            self.require(KEPT_HERE)
            self.spiller = Spiller(settings.store, self.rows)
            self.revocations = Revocations(settings.store, self.rows, self.tokens.keyring)

    def store_answered(self) -> None:
        """A store that could not be judged at the start may be known now."""
        for fitness in self._fitness:
            fitness.recheck()

    def require(self, uses: Sequence[str]) -> None:
        """Judge the store by further uses. Raises ConfigurationError, also without a store."""
        if self.settings.store is None:
            raise ConfigurationError(f"storage: {', '.join(uses)} needs a store")
        fitness = StorageCheck(self.settings.store, uses, self.settings.tolerate)
        fitness.check()
        self._fitness.append(fitness)

    def _core_bytes(self, foreign_bytes: int, other_bytes: int) -> int:
        """How large a core may be, its sealing not counted, where it is all that we send.

        `foreign_bytes`: cookies of others in the request; `other_bytes`: other Set-Cookie fields.
        """
        cookies, settings = self.cookies, self.settings
        longest = cookies.chunk_name(1)
        line = cookies.line_overhead(longest, LONGEST_AGE if settings.persistent else None)
        budget = self.budget(foreign_bytes, 0, other_bytes, len(longest) + 1, line)
        return token_bytes(budget.core_chars) - OVERHEAD_BYTES

    def _row_refused(self, context: str, reason: str) -> None:
        self.emit("row-refused", reason=reason)
        log.warning("a stored value is refused: context=%s reason=%s", context, reason)
