"""How a ring becomes the next: founded, rotated, revoked, disabled, enabled.

Pure functions of (ring, now, random bytes). Knows when a key is due. Does not know who calls, nor
where the ring is kept; two who evolve the same ring are told apart by its sequence number.

The rules: a key is announced before it seals; only the first, and one that replaces a key that must
not seal any more, seal at once. Nothing here takes a key away while anything that it has sealed can
be used, unless somebody says so.

Clocks are wrong at times. One that is ahead adds keys that wait for their time, and destroys none
too early, unless it is ahead by more than `destroyed_after_expiry` and nobody else ever writes. One
that is behind by more than `announce` adds nothing as long as others, with right clocks, rotate
when it is time. Were it the only one to rotate, then a date that has passed would cut the turn of
the key before short, and no ring could tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

from ..errors import ConfigurationError
from ..keyring import KID_BYTES, SECRET_BYTES
from .ring import Ring, RingKey, Schedule, Tombstone, next_after

Random: TypeAlias = Callable[[int], bytes]
"""From a number of bytes to that many random ones."""

RING_ID_BYTES = 8
# Tombstones of expired keys tell an old cookie from that of a key unknown here. They need not be
# kept for ever: browsers keep cookies for 400 days.
EXPIRED_KEPT = 1000


def founded(schedule: Schedule, now: int, random: Random) -> Ring:
    """A first ring, whose key seals at once: there is nobody who would not know it."""
    # A node whose clock is behind must be able to seal, too.
    activates_at = now - schedule.skew
    first = RingKey(random(KID_BYTES), random(SECRET_BYTES), now, activates_at)
    ring_id = random(RING_ID_BYTES).hex()
    ring = Ring(ring_id, 1, now, schedule, (first,), lookup=random(SECRET_BYTES))
    return _lasting_added(ring, activates_at, now, random)


def is_due(ring: Ring, now: int) -> bool:
    """Whether `rotated` would change the ring."""
    newest = _newest(ring, now)
    if newest is None:
        # All may be of the far future: then this clock is behind, and it adds nothing unasked.
        return not _able(ring)
    return _follows_at(ring.schedule, newest) <= now and not _is_behind(ring, newest, now)


def rotated(ring: Ring, schedule: Schedule, now: int, random: Random, force: bool = False) -> Ring:
    """The ring with the key that is due by now, and without what has expired long ago.

    The same ring when no key is due. `force`: announce one even so.
    """
    if not (force or is_due(ring, now)):
        return ring
    next_ring = replace(ring, schedule=ring.schedule.widened(schedule))
    next_ring = _added(next_ring, _turn(ring, next_ring.schedule, now, force), now, random)
    if not next_ring.lasting:  # it was made before rings had any
        next_ring = _lasting_added(next_ring, now + next_ring.schedule.announce, now, random)
    return _written(_destroyed(next_ring, now), now)


def revoked(ring: Ring, kid: bytes, now: int, random: Random, reason: str = "") -> Ring:
    """The ring without a key, for good; where it seals by now, another one does in its place.

    Raises ConfigurationError when there is no such key. Revoking it again changes nothing.
    """
    if any(dead.kid == kid and dead.revoked for dead in ring.tombstones):
        return ring
    key = _known(ring, kid)
    dead = Tombstone(kid, key.activates_at, now, _has_sealed(key, now), True, reason)
    left = tuple(other for other in ring.keys if other.kid != kid)
    next_ring = replace(ring, keys=left, tombstones=(dead, *ring.tombstones))
    return _written(_replaced(next_ring, key.activates_at, now, random), now)


def revoked_before(ring: Ring, moment: int, now: int) -> Ring:
    """The ring that refuses every cookie sealed before `moment`, which is not in the future."""
    if moment > now:
        raise ConfigurationError("only what was sealed in the past can be revoked")
    if moment <= ring.revoked_before:
        return ring
    return _written(replace(ring, revoked_before=moment), now)


def disabled(ring: Ring, kid: bytes, now: int, random: Random) -> Ring:
    """The ring in which a key neither seals nor opens until it is enabled again.

    Where it seals by now, another one does in its place.
    """
    key = _known(ring, kid)
    if key.disabled_at is not None:
        return ring
    next_ring = _with(ring, replace(key, disabled_at=now))
    return _written(_replaced(next_ring, key.activates_at, now, random), now)


def enabled(ring: Ring, kid: bytes, now: int) -> Ring:
    """The ring in which a disabled key opens again.

    It seals only if its turn never came, or when what has replaced it is taken away.
    """
    key = _known(ring, kid)
    if key.disabled_at is None:
        return ring
    activates_at = key.activates_at
    if key.disabled_at < activates_at:
        # It was pending: what its predecessor sealed in the meantime must stay good.
        activates_at = max(activates_at, now + ring.schedule.announce)
    return _written(_with(ring, replace(key, disabled_at=None, activates_at=activates_at)), now)


# --- keys of what is stored for years -----------------------------------------------------------


def lasting_rotated(ring: Ring, now: int, random: Random) -> Ring:
    """The ring with another key for what is stored for years, announced as any other.

    The same ring where one waits for its turn. Nothing expires: what its predecessors sealed has to
    be sealed anew first, and then they can be destroyed.
    """
    announce, skew = ring.schedule.announce, ring.schedule.skew
    # One of the far future was made by a node with a wrong clock: it is no reason to wait.
    if any(now < key.activates_at <= now + announce + skew for key in ring.lasting):
        return ring
    return _written(_lasting_added(ring, now + announce, now, random), now)


def lasting_replaced(ring: Ring, now: int) -> list[RingKey]:
    """The lasting keys by which no node seals any more, however late it is.

    Two clocks must say so: this one, and that of the last write.
    """
    late = ring.schedule.announce + 2 * ring.schedule.skew
    sure = min(now, ring.updated_at)
    taken_over = sorted(key.activates_at for key in ring.lasting)
    retired = ((key, next_after(taken_over, key.activates_at)) for key in ring.lasting)
    return [key for key, at in retired if at is not None and at + late <= sure]


def lasting_destroyed(ring: Ring, kids: Collection[bytes], now: int) -> Ring:
    """The ring without lasting keys that nothing needs any more, which the caller has made sure of.

    Those that may still seal stay.
    """
    gone = {key.kid for key in lasting_replaced(ring, now)} & set(kids)
    if not gone:
        return ring
    left = tuple(key for key in ring.lasting if key.kid not in gone)
    return _written(replace(ring, lasting=left), now)


def _lasting_added(ring: Ring, activates_at: int, now: int, random: Random) -> Ring:
    key = RingKey(_new_kid(ring, random), random(SECRET_BYTES), now, activates_at)
    return replace(ring, lasting=_sorted((key, *ring.lasting)))


# --- keys that come -----------------------------------------------------------------------------


def _turn(ring: Ring, schedule: Schedule, now: int, force: bool) -> int:
    """From when on a key that is added now seals."""
    newest = _newest(ring, now)
    if newest is None:
        return now - schedule.skew  # nobody seals
    turn = now if force else newest.activates_at + schedule.rotate_every
    return max(turn, now + schedule.announce)


def _able(ring: Ring) -> list[RingKey]:
    return [key for key in ring.keys if key.disabled_at is None]


def _newest(ring: Ring, now: int) -> RingKey | None:
    """The key by which the next one's turn is counted.

    A key of the far future was made by a node with a wrong clock: it waits, and stops nothing.
    """
    schedule = ring.schedule
    horizon = now + schedule.rotate_every + schedule.announce + schedule.skew
    near = [key for key in _able(ring) if key.activates_at <= horizon]
    return max(near, key=lambda key: key.activates_at, default=None)


def _follows_at(schedule: Schedule, newest: RingKey) -> int:
    """When the key after `newest` is to be announced."""
    return newest.activates_at + schedule.rotate_every - schedule.announce


def _is_behind(ring: Ring, newest: RingKey, now: int) -> bool:
    """Whether this clock looks like one that is behind, to which a turn seems to be missed.

    The last writer's may have been ahead instead. Then rotation must go on, and does if somebody
    asks in time; after that, the two can't be told apart, and a key less is better than one with a
    date that has passed.
    """
    schedule = ring.schedule
    missed = newest.activates_at + 2 * schedule.rotate_every + schedule.announce
    return now > missed and ring.updated_at > now + schedule.skew


def _replaced(ring: Ring, date: int, now: int, random: Random) -> Ring:
    """With another key in the place of one that was taken away, where somebody may need it.

    It gets the same date: a node whose clock is slow must not fall back to the key before, whose
    turn is over. For that reason a key that retired within the skew is replaced as well.
    """
    slow, successions = now - ring.schedule.skew, ring.successions()
    ends_at = next_after(successions, date)
    is_over = ends_at is not None and ends_at <= slow
    if date in successions and not is_over and all(key.activates_at != date for key in _able(ring)):
        return _added(ring, date, now, random)
    return _added(ring, slow, now, random) if ring.primary(now) is None else ring


def _added(ring: Ring, activates_at: int, now: int, random: Random) -> Ring:
    key = RingKey(_new_kid(ring, random), random(SECRET_BYTES), now, activates_at)
    return replace(ring, keys=_sorted((key, *ring.keys)))


def _new_kid(ring: Ring, random: Random) -> bytes:
    taken = {key.kid for key in (*ring.keys, *ring.lasting)}
    taken |= {dead.kid for dead in ring.tombstones}
    kid = random(KID_BYTES)
    while kid in taken:
        kid = random(KID_BYTES)
    return kid


# --- keys that go -------------------------------------------------------------------------------


def _destroyed(ring: Ring, now: int) -> Ring:
    past = _past(ring, now)
    dead = tuple(
        Tombstone(key.kid, key.activates_at, now, _has_sealed(key, now), False)
        for key in ring.keys
        if key.kid in past
    )
    left = tuple(key for key in ring.keys if key.kid not in past)
    expired = (*dead, *(old for old in ring.tombstones if not old.revoked))[:EXPIRED_KEPT]
    lasting = tuple(old for old in ring.tombstones if old.revoked)
    return replace(ring, keys=left, tombstones=(*lasting, *expired))


def _past(ring: Ring, now: int) -> set[bytes]:
    """The kids of keys that expired so long ago that their secrets can go."""
    successions = ring.successions()
    # Two clocks must say so: this one, and that of the last write.
    ages = _ages(successions, min(now, ring.updated_at))
    over = ring.schedule.held_after_retirement + ring.schedule.destroyed_after_expiry
    retired = ((key.kid, next_after(successions, key.activates_at)) for key in ring.keys)
    return {kid for kid, at in retired if at is not None and ages.get(at, 0) >= over}


def _ages(successions: list[int], now: int) -> dict[int, int]:
    """How long ago each was, without the longest stretch since the one before it.

    A clock may have leapt there: who was a year ahead has not seen a key retire a year ago.
    """
    ages, longest = {}, 0
    dates = [date for date in successions if date <= now]
    for before, date in reversed([*pairwise([*dates, now])]):
        longest = max(longest, date - before)
        ages[date] = now - date - longest
    return ages


def _has_sealed(key: RingKey, now: int) -> bool:
    return key.activates_at <= (now if key.disabled_at is None else key.disabled_at)


# --- what they share ----------------------------------------------------------------------------


def _known(ring: Ring, kid: bytes) -> RingKey:
    key = ring.find(kid)
    if key is None:
        raise ConfigurationError(f"there is no key {kid.hex()} in the ring")
    return key


def _with(ring: Ring, changed: RingKey) -> Ring:
    others = tuple(key for key in ring.keys if key.kid != changed.kid)
    return replace(ring, keys=_sorted((*others, changed)))


def _sorted(keys: tuple[RingKey, ...]) -> tuple[RingKey, ...]:
    """The newest first. Of keys with one date the first given seals."""
    return tuple(sorted(keys, key=lambda key: -key.activates_at))


def _written(ring: Ring, now: int) -> Ring:
    return replace(ring, sequence=ring.sequence + 1, updated_at=now)
