"""When keys come and go, and which numbers would break a promise.

Knows durations in seconds. Does not know keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError

DAY = 86400
DEFAULT_ROTATE_EVERY = DAY
DEFAULT_RELOAD_EVERY = 60
LEAST_ANNOUNCE = 15 * 60
# Dates end with the year 9999. Nobody plans for so long.
MAX_SECONDS = 100 * 365 * DAY


@dataclass(frozen=True, slots=True)
class Schedule:
    """All in seconds; what nodes must agree on stands in the ring itself.

    rotate_every: from one key's first use to the next one's.
    announce: how long a key is known before it seals; so long a node may be late, too.
    keep: how long anything that was sealed can still be used.
    skew: how far the clocks of nodes may differ.

    Raises ConfigurationError.
    """

    rotate_every: int
    announce: int
    keep: int
    skew: int

    def __post_init__(self) -> None:
        for name, least in (("rotate_every", 1), ("announce", 1), ("keep", 1), ("skew", 0)):
            seconds = getattr(self, name)
            if not least <= seconds <= MAX_SECONDS:
                raise ConfigurationError(
                    f"rotation: {name} ({seconds} s) is at least {least} s and at most 100 years"
                )

    @property
    def held_after_retirement(self) -> int:
        """So long a key opens once another has taken over: late sealers, lifetime, both clocks."""
        return self.announce + self.keep + 2 * self.skew

    @property
    def destroyed_after_expiry(self) -> int:
        """So long an expired key's secret is kept: whoever destroys it may have a wrong clock."""
        return min(2 * DAY, 100 * self.rotate_every)

    def check(self, reload_every: int, lifetime: int, skew: int) -> None:
        """Raise ConfigurationError, which spells it out, where a node could lose a session.

        `reload_every`, `skew`: the node's own; `lifetime`: how long what it seals can be used.
        """
        if self.announce < reload_every + skew:
            raise ConfigurationError(
                f"rotation: announce ({self.announce} s) >= reload_every ({reload_every} s)"
                f" + skew ({skew} s) does not hold: a key would seal before every node knows it"
            )
        if self.keep < lifetime:
            raise ConfigurationError(
                f"rotation: keep ({self.keep} s) >= absolute_lifetime ({lifetime} s) does not hold:"
                " a key would expire while what it sealed is still in use"
            )

    def widened(self, other: Schedule) -> Schedule:
        """`other`, but never with a shorter promise: what is out was sealed under this one."""
        return Schedule(
            other.rotate_every,
            max(self.announce, other.announce),
            max(self.keep, other.keep),
            max(self.skew, other.skew),
        )


def least_announce(reload_every: int, skew: int) -> int:
    """The announcement that is right where nobody says another: two reloads may fail."""
    return max(LEAST_ANNOUNCE, 2 * reload_every + skew)
