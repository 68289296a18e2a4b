"""A ring of keys with their dates, and the schedule by which it rotates.

The state of a key is a pure function of the ring and the time. All times are epoch seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ..errors import ConfigurationError, OperatorError, show_value
from ..keyring import DEFAULT_ANNOUNCE, Key, Keyring

__all__ = [
    "DEFAULT_RELOAD_EVERY",
    "DEFAULT_ROTATE_EVERY",
    "Ring",
    "RingKey",
    "RingReplaced",
    "RingStorage",
    "Schedule",
    "Tombstone",
    "minimum_announce",
]

DAY = 86400
DEFAULT_ROTATE_EVERY = DAY
DEFAULT_RELOAD_EVERY = 60
# Dates end with the year 9999, so a schedule must not reach far beyond the present.
MAX_SECONDS = 100 * 365 * DAY
# A ring is one document, which every process reads as a whole.
MAX_KEYS = 2000
# What to do about a ring that promises less than a node wants.
EXTEND = "; run `sealedstate keys rotate` with this configuration, which extends the ring's"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When keys come and go, in seconds. The ring contains it, for all nodes.

    rotate_every: from the activation of one key to that of the next.
    announce: how long a key is published before it seals, and so the longest a node may lag.
    keep: how long anything that was sealed can be used.
    skew: tolerated clock difference between nodes.

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
                    f"rotation: {name} must be at least {least} s and at most 100 years,"
                    f" got {show_value(seconds)} s"
                )

    @property
    def opens_after_retirement(self) -> int:
        """How many seconds a retired key opens.

        That covers nodes that sealed late, the lifetime, and the skew of both clocks.
        """
        return self.announce + self.keep + 2 * self.skew

    @property
    def grace_after_expiry(self) -> int:
        """How many seconds the secret of an expired key is kept.

        The clock that destroys it may be wrong.
        """
        return min(2 * DAY, 100 * self.rotate_every)

    def shortfalls(self, reload_every: int, lifetime: int, skew: int) -> dict[str, str]:
        """Which field is too small for a node with this, and why.

        `lifetime`: how long what the node seals can be used.
        """
        found = {}
        if self.announce < reload_every + skew:
            found["announce"] = (
                f"rotation: announce ({self.announce} s) must be at least reload_every"
                f" ({reload_every} s) + skew ({skew} s); otherwise a key seals before every node"
                " knows it"
            )
        if self.keep < lifetime:
            found["keep"] = (
                f"rotation: keep ({self.keep} s) must be at least longest_lifetime + skew"
                f" ({lifetime} s); otherwise a key expires while what it sealed is in use"
            )
        return found

    def check(self, reload_every: int, lifetime: int, skew: int) -> None:
        """Raise ConfigurationError if a node with this could lose a session."""
        for problem in self.shortfalls(reload_every, lifetime, skew).values():
            raise ConfigurationError(problem)
        self.check_size()

    def check_size(self) -> None:
        """Raise ConfigurationError if a ring would get more than MAX_KEYS keys."""
        # From the announcement of a key until its secret is destroyed.
        life = self.announce + self.opens_after_retirement + self.grace_after_expiry
        if (keys := -(-life // self.rotate_every) + 4) > MAX_KEYS:
            raise ConfigurationError(
                f"rotation: with rotate_every ({self.rotate_every} s) and keep ({self.keep} s) a"
                f" ring would have {keys} keys, but at most {MAX_KEYS} are allowed; set a longer"
                " rotate_every"
            )

    def merged_with(self, other: Schedule) -> Schedule:
        """`other`, but without a shorter promise for what is already sealed."""
        return Schedule(
            other.rotate_every,
            max(self.announce, other.announce),
            max(self.keep, other.keep),
            max(self.skew, other.skew),
        )


def minimum_announce(reload_every: int, skew: int) -> int:
    """The default of `announce`, which is enough if one reload of a node fails."""
    return max(DEFAULT_ANNOUNCE, 2 * reload_every + skew)


@dataclass(frozen=True, slots=True)
class RingKey:
    """One key with its dates.

    A key that replaces another seals from the other's date, which is before its own creation.
    """

    kid: bytes
    secret: bytes = field(repr=False)
    created_at: int
    activates_at: int
    disabled_at: int | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A key whose secret was destroyed, `at` that time.

    `sealed`: whether it had become the primary. `revoked`: whether it was revoked; otherwise it
    expired.
    """

    kid: bytes
    activates_at: int
    at: int
    sealed: bool
    revoked: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ring:
    """One state of a ring. The next state has a `sequence` greater by one.

    `keys`: the newest first. `lookup`: the secret that names in the store are hashed with; it does
    not rotate. `revoked_before`: cookies sealed before this time are refused. `long_term`: the keys
    for long-lived values, the newest first; each seals until the next key's date, and none expires.
    """

    ring_id: str
    sequence: int
    updated_at: int
    schedule: Schedule
    keys: tuple[RingKey, ...]
    tombstones: tuple[Tombstone, ...] = ()
    lookup: bytes | None = field(default=None, repr=False)
    revoked_before: int = 0
    long_term: tuple[RingKey, ...] = ()

    def find(self, kid: bytes) -> RingKey | None:
        """The key with this id, unless it was destroyed."""
        return next((key for key in self.keys if key.kid == kid), None)

    def primary(self, now: int) -> RingKey | None:
        """The key that seals at `now`, if there is one."""
        active = [key for key in self.keys if key.disabled_at is None and key.activates_at <= now]
        return max(active, key=lambda key: key.activates_at, default=None)

    def newest(self, now: int) -> RingKey | None:
        """The key from which the date of the next key is counted, if there is one.

        A key of the far future waits, and delays nothing.
        """
        near = [key for key in self.keys if key.disabled_at is None and not self.is_far(key, now)]
        return max(near, key=lambda key: key.activates_at, default=None)

    def is_far(self, key: RingKey, now: int) -> bool:
        """Whether a key is so far in the future that only a wrong clock can have made it."""
        schedule = self.schedule
        return key.activates_at > now + schedule.rotate_every + schedule.announce + schedule.skew

    def retires_at(self, key: RingKey) -> int | None:
        """When the next key takes over or took over; None if none is announced."""
        return next_after(self.successions(), key.activates_at)

    def expires_at(self, key: RingKey) -> int | None:
        """When the key stops opening; None if no next key is announced."""
        return self._expiry(self.retires_at(key))

    def successions(self) -> list[int]:
        """The dates of all changes of the primary, past and future, in order."""
        # A key that was disabled before its date never became the primary.
        dates = {
            key.activates_at
            for key in self.keys
            if key.disabled_at is None or key.disabled_at >= key.activates_at
        }
        dates.update(dead.activates_at for dead in self.tombstones if dead.sealed)
        return sorted(dates)

    def keyring(self) -> Keyring:
        """What a node seals and opens with.

        Raises ConfigurationError for unusable keys.
        """
        successions, keys = self.successions(), []
        for key in self.keys:
            retires_at = next_after(successions, key.activates_at)
            keys.append(
                Key(
                    key.kid,
                    key.secret,
                    key.activates_at,
                    self._expiry(retires_at),
                    disabled=key.disabled_at is not None,
                    retires_at=retires_at,
                )
            )
        return Keyring(
            tuple(keys),
            skew=self.schedule.skew,
            announce=self.schedule.announce,
            lookup=self.lookup,
            removed_kids=frozenset(dead.kid for dead in self.tombstones),
            # A node whose clock is ahead may have dated an earlier seal up to the skew later.
            revoked_before=self.revoked_before and self.revoked_before + self.schedule.skew,
            keep=self.schedule.keep,
            long_term_keys=tuple(
                Key(key.kid, key.secret, key.activates_at) for key in self.long_term
            ),
        )

    def _expiry(self, retires_at: int | None) -> int | None:
        return None if retires_at is None else retires_at + self.schedule.opens_after_retirement


def next_after(dates: list[int], date: int) -> int | None:
    """The first of these sorted dates that is later than `date`."""
    at = bisect_right(dates, date)
    return dates[at] if at < len(dates) else None


class RingReplaced(OperatorError):
    """The storage has another ring, or an older copy, than it had last: `ring`."""

    def __init__(self, message: str, ring: Ring) -> None:
        super().__init__(message)
        self.ring = ring


@runtime_checkable
class RingStorage(Protocol):
    """A place that holds at most one ring.

    Every method may raise OperatorError: the storage cannot be reached, or it holds something that
    is not a readable ring (RingUnreadable) or not the ring that it remembers (RingReplaced). No
    message contains a secret.
    """

    @property
    def location(self) -> str:
        """The name of this place in messages for operators."""
        ...

    def load(self) -> Ring | None:
        """The ring; None if there is none."""
        ...

    def write(self, ring: Ring, after: Ring | None) -> bool:
        """Replace `after` (None: no ring) by `ring`, as one step.

        A storage that remembers its last ring also replaces a damaged remainder of that ring.
        Returns False if another ring is there. Once it has returned True, no crash loses `ring`.
        """
        ...
