"""The ring as it is kept: keys with their dates, tombstones, and a sequence number.

A key's state is a pure function of (ring, now); `Ring.keyring` is what nodes seal and open with.
Knows no text form, no file and no clock. Times are epoch seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from ..keys import Key, Keyring
from .schedule import Schedule


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
            gone=frozenset(dead.kid for dead in self.tombstones),
            revoked_before=self.revoked_before,
            lasting_keys=tuple(Key(key.kid, key.secret, key.activates_at) for key in self.lasting),
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
