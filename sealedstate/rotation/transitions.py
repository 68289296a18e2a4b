"""How one ring becomes the next: functions of ring, time and random bytes.

Each function returns the ring that is to be written, whose `sequence` is greater by one, or the
same object if there is nothing to do. If two nodes make a change at once, the sequence numbers
collide, and the storage accepts one.

Two rules. A key is announced before it seals; only the first key of a ring, and a key that replaces
one that must not seal, seal at once. And no key is destroyed while anything that it sealed can be
used, unless it is revoked.

Clocks can be wrong. A clock that is ahead adds keys that wait for their date. It destroys no key
too early, unless it is ahead by more than `grace_after_expiry` and no other node ever writes. A
clock that is behind by more than `announce` adds nothing, as long as nodes with right clocks rotate
when a key is due. If it were the only one to rotate, a key with a date that has passed would
shorten the time of the key before, and no ring could show that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

from ..errors import ConfigurationError
from ..keyring import KID_BYTES, SECRET_BYTES
from .ring import Ring, RingKey, Schedule, Tombstone, next_after

__all__ = [
    "advance",
    "create_ring",
    "destroy_long_term",
    "disable",
    "enable",
    "is_due",
    "obsolete_long_term",
    "revoke",
    "revoke_before",
    "rotate",
    "rotate_long_term",
]

Random: TypeAlias = Callable[[int], bytes]
"""Takes a number of bytes and returns that many random bytes."""

RING_ID_BYTES = 8
# The tombstone of an expired key distinguishes an old cookie from a cookie with an unknown key.
# Browsers keep cookies for 400 days, so the oldest tombstones can go.
MAX_EXPIRED_TOMBSTONES = 1000


def create_ring(schedule: Schedule, now: int, random: Random) -> Ring:
    """A new ring. Its first key seals at once, because no node has another ring."""
    # A node whose clock is behind must be able to seal, too.
    activates_at = now - schedule.skew
    first = RingKey(random(KID_BYTES), random(SECRET_BYTES), now, activates_at)
    ring_id = random(RING_ID_BYTES).hex()
    ring = Ring(ring_id, 1, now, schedule, (first,), lookup=random(SECRET_BYTES))
    return _add_long_term_key(ring, activates_at, now, random)


def is_due(ring: Ring, now: int) -> bool:
    """Whether `rotate` would change the ring."""
    newest = ring.newest(now)
    if newest is None:
        # If all keys are of the far future, this clock is behind, and should add nothing unasked.
        return all(key.disabled_at is not None for key in ring.keys)
    schedule = ring.schedule
    # A clock that is behind takes the next key for overdue, too. The clock of the last writer may
    # have been ahead instead: then rotation has to continue, and does if a node asks in time. Later
    # the two cannot be distinguished, and a missing key is better than a key with a past date.
    overdue = newest.activates_at + 2 * schedule.rotate_every + schedule.announce
    if now > overdue and ring.updated_at > now + schedule.skew:
        return False
    return newest.activates_at + schedule.rotate_every - schedule.announce <= now


def rotate(ring: Ring, schedule: Schedule, now: int, random: Random, force: bool = False) -> Ring:
    """Announce the key that is due at `now`.

    Also destroys keys that expired long ago. Returns the same ring if no key is due. `force`:
    announce a key anyway. The next ring keeps the longer promises of both schedules.
    """
    if not (force or is_due(ring, now)):
        return ring
    schedule = ring.schedule.merged_with(schedule)
    newest = ring.newest(now)
    if newest is None:
        activates_at = now - schedule.skew  # no key seals, so this key has to seal at once
    else:
        next_date = now if force else newest.activates_at + schedule.rotate_every
        activates_at = max(next_date, now + schedule.announce)
    next_ring = _add_key(replace(ring, schedule=schedule), activates_at, now, random)
    if not next_ring.long_term:  # an earlier release created the ring
        next_ring = _add_long_term_key(next_ring, now + schedule.announce, now, random)
    return advance(_destroy_expired(next_ring, now), now)


def revoke(ring: Ring, kid: bytes, now: int, random: Random, reason: str = "") -> Ring:
    """Remove a key for good.

    If it was the primary, a new key takes its place at once. Raises ConfigurationError if there is
    no such key. Revoking a key again changes nothing.
    """
    if any(dead.kid == kid and dead.revoked for dead in ring.tombstones):
        return ring
    key = _find(ring, kid)
    dead = Tombstone(kid, key.activates_at, now, _has_sealed(key, now), True, reason)
    others = tuple(other for other in ring.keys if other.kid != kid)
    next_ring = replace(ring, keys=others, tombstones=(dead, *ring.tombstones))
    return advance(_fill_gap(next_ring, key.activates_at, now, random), now)


def revoke_before(ring: Ring, moment: int, now: int) -> Ring:
    """Refuse every cookie that was sealed before `moment`.

    Raises ConfigurationError for a moment in the future.
    """
    if moment > now:
        raise ConfigurationError("revoke: the time must be in the past")
    if moment <= ring.revoked_before:
        return ring
    return advance(replace(ring, revoked_before=moment), now)


def disable(ring: Ring, kid: bytes, now: int, random: Random) -> Ring:
    """Let a key neither seal nor open until it is enabled again.

    If it was the primary, a new key takes its place at once. Raises ConfigurationError.
    """
    key = _find(ring, kid)
    if key.disabled_at is not None:
        return ring
    next_ring = _update_key(ring, replace(key, disabled_at=now))
    return advance(_fill_gap(next_ring, key.activates_at, now, random), now)


def enable(ring: Ring, kid: bytes, now: int) -> Ring:
    """Let a disabled key open again. Raises ConfigurationError.

    It seals only if its date is still to come, or if its replacement is taken away.
    """
    key = _find(ring, kid)
    if key.disabled_at is None:
        return ring
    activates_at = key.activates_at
    if key.disabled_at < activates_at:
        # It was pending. What its predecessor sealed meanwhile must stay valid.
        activates_at = max(activates_at, now + ring.schedule.announce)
    return advance(
        _update_key(ring, replace(key, disabled_at=None, activates_at=activates_at)), now
    )


# --- keys for long-lived values -----------------------------------------------------------------


def rotate_long_term(ring: Ring, now: int, random: Random) -> Ring:
    """Announce another key for long-lived values.

    Returns the same ring if such a key is announced already. The keys before it do not expire: what
    they sealed has to be re-encrypted first, and then they can be destroyed.
    """
    announce, skew = ring.schedule.announce, ring.schedule.skew
    # A key of the far future was made by a node with a wrong clock: it is no reason to wait.
    if any(now < key.activates_at <= now + announce + skew for key in ring.long_term):
        return ring
    return advance(_add_long_term_key(ring, now + announce, now, random), now)


def obsolete_long_term(ring: Ring, now: int) -> list[RingKey]:
    """The long-term keys that no node seals with any more.

    A node may lag. Both this clock and the clock of the last write must say so.
    """
    late = ring.schedule.announce + 2 * ring.schedule.skew
    sure = min(now, ring.updated_at)
    dates = sorted(key.activates_at for key in ring.long_term)
    retired = ((key, next_after(dates, key.activates_at)) for key in ring.long_term)
    return [key for key, at in retired if at is not None and at + late <= sure]


def destroy_long_term(ring: Ring, kids: Collection[bytes], now: int) -> Ring:
    """Remove these long-term keys, except those that a node may still seal with.

    The caller has made sure that no stored value needs them.
    """
    gone = {key.kid for key in obsolete_long_term(ring, now)} & set(kids)
    if not gone:
        return ring
    kept = tuple(key for key in ring.long_term if key.kid not in gone)
    return advance(replace(ring, long_term=kept), now)


# --- adding and destroying keys -----------------------------------------------------------------


def _fill_gap(ring: Ring, date: int, now: int, random: Random) -> Ring:
    """Add a key for the key of `date` that was taken away, if one is needed.

    It gets the same date: otherwise a node whose clock is slow would fall back to the key before,
    whose time is over. That is why a key that retired within the skew is replaced as well.
    """
    slow, successions = now - ring.schedule.skew, ring.successions()
    ends_at = next_after(successions, date)
    is_over = ends_at is not None and ends_at <= slow
    if (
        date in successions
        and not is_over
        and all(key.activates_at != date for key in ring.keys if key.disabled_at is None)
    ):
        return _add_key(ring, date, now, random)
    return _add_key(ring, slow, now, random) if ring.primary(now) is None else ring


def _add_key(ring: Ring, activates_at: int, now: int, random: Random) -> Ring:
    key = _new_key(ring, activates_at, now, random)
    return replace(ring, keys=_newest_first((key, *ring.keys)))


def _add_long_term_key(ring: Ring, activates_at: int, now: int, random: Random) -> Ring:
    key = _new_key(ring, activates_at, now, random)
    return replace(ring, long_term=_newest_first((key, *ring.long_term)))


def _new_key(ring: Ring, activates_at: int, now: int, random: Random) -> RingKey:
    used = {key.kid for key in (*ring.keys, *ring.long_term)}
    used |= {dead.kid for dead in ring.tombstones}
    kid = random(KID_BYTES)
    while kid in used:
        kid = random(KID_BYTES)
    return RingKey(kid, random(SECRET_BYTES), now, activates_at)


def _destroy_expired(ring: Ring, now: int) -> Ring:
    """Turn the keys that expired long ago into tombstones."""
    successions = ring.successions()
    # Both this clock and the clock of the last write must say so.
    sure = min(now, ring.updated_at)
    dates = [date for date in successions if date <= sure]
    # How long ago each date was, less the longest gap since the date before it. A clock may have
    # jumped in that gap: a clock that is a year ahead has not seen that a key retired a year ago.
    ages, longest = {}, 0
    for before, date in reversed([*pairwise([*dates, sure])]):
        longest = max(longest, date - before)
        ages[date] = sure - date - longest
    limit = ring.schedule.opens_after_retirement + ring.schedule.grace_after_expiry
    retired = ((key.kid, next_after(successions, key.activates_at)) for key in ring.keys)
    expired = {kid for kid, at in retired if at is not None and ages.get(at, 0) >= limit}
    dead = tuple(
        Tombstone(key.kid, key.activates_at, now, _has_sealed(key, now), False)
        for key in ring.keys
        if key.kid in expired
    )
    revoked = tuple(old for old in ring.tombstones if old.revoked)
    older = tuple(old for old in ring.tombstones if not old.revoked)
    return replace(
        ring,
        keys=tuple(key for key in ring.keys if key.kid not in expired),
        tombstones=(*revoked, *(*dead, *older)[:MAX_EXPIRED_TOMBSTONES]),
    )


def _has_sealed(key: RingKey, now: int) -> bool:
    return key.activates_at <= (now if key.disabled_at is None else key.disabled_at)


def _find(ring: Ring, kid: bytes) -> RingKey:
    key = ring.find(kid)
    if key is None:
        raise ConfigurationError(f"the ring has no key {kid.hex()}")
    return key


def _update_key(ring: Ring, key: RingKey) -> Ring:
    others = tuple(other for other in ring.keys if other.kid != key.kid)
    return replace(ring, keys=_newest_first((*others, key)))


def _newest_first(keys: tuple[RingKey, ...]) -> tuple[RingKey, ...]:
    """The keys by date. Of keys with one date, the first given seals."""
    return tuple(sorted(keys, key=lambda key: -key.activates_at))


def advance(ring: Ring, now: int) -> Ring:
    """The same ring with the next sequence, so that no process puts the former ring back."""
    return replace(ring, sequence=ring.sequence + 1, updated_at=now)
