"""The ring as it is kept: keys with their dates, tombstones, and a sequence number.

A key's state is a pure function of (ring, now); `Ring.keyring` is what nodes seal and open with.
Knows no text form, no file and no clock. Times are epoch seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ..errors import ConfigurationError, OperatorError
from ..keyring import Key, Keyring

# FOLD sealedstate.rotation.schedule
# When keys come and go, and which numbers would break a promise.
#
# Knows durations in seconds. Does not know keys.


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


def minimum_announce(reload_every: int, skew: int) -> int:
    """The announcement that is right where nobody says another: two reloads may fail."""
    return max(LEAST_ANNOUNCE, 2 * reload_every + skew)


@dataclass(frozen=True, slots=True)
class RingKey:
    """One key: when it was made, from when it seals, and since when it is disabled, if it is.

    One that replaces a key seals from the other's date, which is before it was made.
    """

    kid: bytes
    secret: bytes = field(repr=False)
    created_at: int
    activates_at: int
    disabled_at: int | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A key whose secret was destroyed `at` a time.

    `sealed`: its turn had come. `revoked`: by somebody; otherwise it had expired.
    """

    kid: bytes
    activates_at: int
    at: int
    sealed: bool
    revoked: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ring:
    """One state of a ring. Each write makes the next, with `sequence` greater by one.

    `keys`: the newest first. `lookup`: the secret behind names in the store, never rotated here.
    `revoked_before`: cookies sealed before it are refused. `lasting`: the keys of what is stored
    for years, the newest first; each seals until the next one's date, and none of them expires.
    """

    ring_id: str
    sequence: int
    updated_at: int
    schedule: Schedule
    keys: tuple[RingKey, ...]
    tombstones: tuple[Tombstone, ...] = ()
    lookup: bytes | None = field(default=None, repr=False)
    revoked_before: int = 0
    lasting: tuple[RingKey, ...] = ()

    def find(self, kid: bytes) -> RingKey | None:
        """The key with this id that is still there."""
        return next((key for key in self.keys if key.kid == kid), None)

    def primary(self, now: int) -> RingKey | None:
        """The key that seals at `now`, if any may."""
        able = [key for key in self.keys if key.disabled_at is None and key.activates_at <= now]
        return max(able, key=lambda key: key.activates_at, default=None)

    def retires_at(self, key: RingKey) -> int | None:
        """When another takes over, or took over; None where none is announced."""
        return next_after(self.successions(), key.activates_at)

    def expires_at(self, key: RingKey) -> int | None:
        """From when on a key opens nothing any more."""
        return self._expiry(self.retires_at(key))

    def successions(self) -> list[int]:
        """The dates at which one key took over from another, or will: in order, each once."""
        dates = {key.activates_at for key in self.keys if _ever_seals(key)}
        dates.update(dead.activates_at for dead in self.tombstones if dead.sealed)
        return sorted(dates)

    def keyring(self) -> Keyring:
        """What a node seals and opens with. Raises ConfigurationError for keys that are none."""
        successions = self.successions()
        return Keyring(
            tuple(self._key(key, next_after(successions, key.activates_at)) for key in self.keys),
            skew=self.schedule.skew,
            announce=self.schedule.announce,
            lookup=self.lookup,
            removed_kids=frozenset(dead.kid for dead in self.tombstones),
            revoked_before=self.revoked_before,
            long_term_keys=tuple(
                Key(key.kid, key.secret, key.activates_at) for key in self.lasting
            ),
        )

    def _key(self, key: RingKey, retires_at: int | None) -> Key:
        return Key(
            key.kid,
            key.secret,
            key.activates_at,
            self._expiry(retires_at),
            disabled=key.disabled_at is not None,
            retires_at=retires_at,
        )

    def _expiry(self, retires_at: int | None) -> int | None:
        return None if retires_at is None else retires_at + self.schedule.held_after_retirement


def next_after(successions: list[int], date: int) -> int | None:
    """The first of these dates that is later."""
    at = bisect_right(successions, date)
    return successions[at] if at < len(successions) else None


def _ever_seals(key: RingKey) -> bool:
    """Whether a key was, is or will be primary: one that was disabled before its time is not."""
    return key.disabled_at is None or key.disabled_at >= key.activates_at


# FOLD sealedstate.rotation.home
# Where a ring is kept: what a file and a store have in common.
#
# Knows the shape, and nothing of either.


class RingReplaced(OperatorError):
    """What is there is not the ring that was there last, but `ring`: an older copy, or another."""

    def __init__(self, message: str, ring: Ring) -> None:
        super().__init__(message)
        self.ring = ring


@runtime_checkable
class RingStorage(Protocol):
    """One place that holds at most one ring.

    Every method may raise OperatorError: the place can't be reached, or what is there is no ring of
    ours (RingUnreadable), or not the one that the place remembers (RingReplaced). Nothing that it
    raises or says holds a secret.
    """

    @property
    def where(self) -> str:
        """What an operator calls this place."""
        ...

    def load(self) -> Ring | None:
        """The ring that is there; None where there is none."""
        ...

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """Put `ring` in the place of `after`, or (None) where there is none, as one step. A place
        that remembers which ring was there puts it over what has become of it, too.

        False when another ring is there by now. Once True is returned, no crash loses it.
        """
        ...
