"""Rings by random walks of rotation, people and time, and what becomes of tokens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from hypothesis import strategies as st

from sealedstate.keyring import Keyring
from sealedstate.rotation import (
    Ring,
    RingKey,
    Schedule,
    disabled,
    enabled,
    founded,
    revoked,
    revoked_before,
    rotated,
)

NOW = 1_800_000_000
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400
DAILY = Schedule(DAY, 900, 30 * DAY, MINUTE)
# From when the first key of a daily ring founded at NOW seals, and when the next is announced.
FIRST = NOW - DAILY.skew
DUE = FIRST + DAY - DAILY.announce

SCHEDULES = st.builds(
    Schedule,
    rotate_every=st.sampled_from([1, 10, 600, HOUR, DAY, 7 * DAY]),
    announce=st.sampled_from([1, 30, 900, 2 * DAY]),
    keep=st.sampled_from([1, 60, HOUR, 30 * DAY]),
    skew=st.sampled_from([0, 1, 60, 600]),
)


def randomness(seed: str = "rings") -> Callable[[int], bytes]:
    """Random bytes, the same in each run."""
    return random.Random(seed).randbytes


def waits(schedule: Schedule) -> st.SearchStrategy[int]:
    """Times to let pass: those at which something happens, give or take a second, and any."""
    turns = [
        schedule.rotate_every,
        schedule.announce,
        schedule.rotate_every - schedule.announce,
        schedule.keep,
        schedule.skew,
        schedule.held_after_retirement,
        schedule.held_after_retirement + schedule.destroyed_after_expiry,
    ]
    edges = sorted({max(0, turn + step) for turn in turns for step in (-1, 0, 1)})
    stopped = st.sampled_from([10 * schedule.rotate_every, YEAR])
    return st.sampled_from(edges) | st.integers(0, 3 * schedule.rotate_every) | stopped


@dataclass(frozen=True)
class Moment:
    """A ring, what was last done to it, and when."""

    now: int
    ring: Ring
    deed: str = "founded"
    kid: bytes = b""

    @cached_property
    def keyring(self) -> Keyring:
        return self.ring.keyring()


def rotations(schedule: Schedule, pauses: list[int]) -> list[Moment]:
    """What a ring goes through when somebody asks for rotation after each pause."""
    chance = randomness()
    past = [Moment(NOW, founded(schedule, NOW, chance))]
    for pause in pauses:
        now = past[-1].now + pause
        past.append(Moment(now, rotated(past[-1].ring, schedule, now, chance), "rotated"))
    return past


@st.composite
def plain(draw: st.DrawFn, steps: int = 12) -> list[Moment]:
    """A ring that nobody but the clock changes."""
    schedule = draw(SCHEDULES)
    return rotations(schedule, draw(st.lists(waits(schedule), max_size=steps)))


DEEDS = ("rotated", "rotated", "forced", "revoked", "disabled", "enabled", "revoked_before")


@st.composite
def walks(draw: st.DrawFn, steps: int = 12, off: int = 0) -> list[Moment]:
    """A ring that people change too. Their clocks are up to `off` thousandths of the skew wrong."""
    schedule, chance = draw(SCHEDULES), randomness()
    past = [Moment(NOW, founded(schedule, NOW, chance))]
    for _ in range(draw(st.integers(0, steps))):
        now = past[-1].now + draw(waits(schedule))
        wrong = draw(st.integers(-off, off)) * schedule.skew // 1000
        deed = draw(st.sampled_from(DEEDS))
        kid = draw(st.sampled_from([key.kid for key in past[-1].ring.keys]))
        past.append(Moment(now, done(past[-1].ring, deed, kid, now + wrong, chance), deed, kid))
    return past


def done(ring: Ring, deed: str, kid: bytes, now: int, chance: Callable[[int], bytes]) -> Ring:
    if deed == "revoked":
        return revoked(ring, kid, now, chance, "lost")
    if deed == "disabled":
        return disabled(ring, kid, now, chance)
    if deed == "enabled":
        return enabled(ring, kid, now)
    if deed == "revoked_before":
        return revoked_before(ring, now - 1, now)
    return rotated(ring, ring.schedule, now, chance, force=deed == "forced")


@dataclass(frozen=True)
class Sealed:
    """A token, as far as keys judge it."""

    kid: bytes
    sealed_at: int


def opens(keyring: Keyring, token: Sealed, now: int) -> bool:
    key = keyring.find(token.kid)
    if key is None or key.revoked or key.disabled:
        return False
    expired = key.expires_at is not None and now >= key.expires_at
    return not expired and keyring.may_have_sealed(key, token.sealed_at)


def sealed(ring: Ring, now: int) -> Sealed:
    return Sealed(ring.keyring().primary(now).kid, now)


def primary(ring: Ring, now: int) -> RingKey:
    found = ring.primary(now)
    assert found is not None
    return found


def lost(past: list[Moment], token: Sealed, born: int, end: int) -> list[Moment]:
    """The moments since `born` in which `token` did not open, though its session lived.

    Whether a key is expired changes once: the last instant of each ring's reign tells.
    """
    over = token.sealed_at + past[-1].ring.schedule.keep
    found = []
    for number in range(born, len(past)):
        until = past[number + 1].now if number + 1 < len(past) else end
        instant = min(until, over) - 1
        if instant >= past[number].now and not opens(past[number].keyring, token, instant):
            found.append(past[number])
    return found
