"""Rings under random sequences of rotation, commands and time, and what becomes of tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from hypothesis import strategies as st

from sealedstate.keyring import Keyring
from sealedstate.rotation.ring import Ring, RingKey, Schedule
from sealedstate.rotation.transitions import (
    create_ring,
    disable,
    enable,
    revoke,
    revoke_before,
    rotate,
)

NOW = 1_800_000_000
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400
DAILY = Schedule(DAY, 900, 30 * DAY, MINUTE)
# When the first key of a daily ring of NOW activates, and when the next key is announced.
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
    """Pauses: those after which something happens, give or take a second, and any other."""
    turns = [
        schedule.rotate_every,
        schedule.announce,
        schedule.rotate_every - schedule.announce,
        schedule.keep,
        schedule.skew,
        schedule.opens_after_retirement,
        schedule.opens_after_retirement + schedule.grace_after_expiry,
    ]
    edges = sorted({max(0, turn + step) for turn in turns for step in (-1, 0, 1)})
    stopped = st.sampled_from([10 * schedule.rotate_every, YEAR])
    return st.sampled_from(edges) | st.integers(0, 3 * schedule.rotate_every) | stopped


@dataclass(frozen=True)
class Moment:
    """A ring, the change that made it, and when."""

    now: int
    ring: Ring
    change: str = "create"
    kid: bytes = b""

    @cached_property
    def keyring(self) -> Keyring:
        return self.ring.keyring()


def rotations(schedule: Schedule, pauses: list[int]) -> list[Moment]:
    """The states of a ring that is asked to rotate after each pause."""
    random = randomness()
    past = [Moment(NOW, create_ring(schedule, NOW, random))]
    for pause in pauses:
        now = past[-1].now + pause
        past.append(Moment(now, rotate(past[-1].ring, schedule, now, random), "rotate"))
    return past


@st.composite
def plain(draw: st.DrawFn, steps: int = 12) -> list[Moment]:
    """A ring that only rotates."""
    schedule = draw(SCHEDULES)
    return rotations(schedule, draw(st.lists(waits(schedule), max_size=steps)))


WORDS = ("rotate", "rotate", "force", "revoke", "disable", "enable", "revoke before")


@st.composite
def walks(draw: st.DrawFn, steps: int = 12, off: int = 0) -> list[Moment]:
    """A ring that operators change, too. Clocks are off by up to `off` thousandths of the skew."""
    schedule, random = draw(SCHEDULES), randomness()
    past = [Moment(NOW, create_ring(schedule, NOW, random))]
    for _ in range(draw(st.integers(0, steps))):
        now = past[-1].now + draw(waits(schedule))
        wrong = draw(st.integers(-off, off)) * schedule.skew // 1000
        word = draw(st.sampled_from(WORDS))
        kid = draw(st.sampled_from([key.kid for key in past[-1].ring.keys]))
        past.append(Moment(now, _change(past[-1].ring, word, kid, now + wrong, random), word, kid))
    return past


def _change(ring: Ring, word: str, kid: bytes, now: int, random: Callable[[int], bytes]) -> Ring:
    if word == "revoke":
        return revoke(ring, kid, now, random, "lost")
    if word == "disable":
        return disable(ring, kid, now, random)
    if word == "enable":
        return enable(ring, kid, now)
    if word == "revoke before":
        return revoke_before(ring, now - 1, now)
    return rotate(ring, ring.schedule, now, random, force=word == "force")


@dataclass(frozen=True)
class Sealed:
    """What a key needs to know of a token."""

    kid: bytes
    sealed_at: int


def opens(keyring: Keyring, token: Sealed, now: int) -> bool:
    key = keyring.find(token.kid)
    if key is None or key.revoked or key.disabled:
        return False
    expired = key.expires_at is not None and now >= key.expires_at
    return not expired and keyring.may_have_sealed(key, token.sealed_at)


def seal_at(ring: Ring, now: int) -> Sealed:
    return Sealed(ring.keyring().primary(now).kid, now)


def primary(ring: Ring, now: int) -> RingKey:
    found = ring.primary(now)
    assert found is not None
    return found


def losses(past: list[Moment], token: Sealed, born: int, end: int) -> list[Moment]:
    """The moments since `born` in which `token` did not open although its session lived.

    A key expires once, so the last instant at which each ring is in force decides.
    """
    over = token.sealed_at + past[-1].ring.schedule.keep
    found = []
    for number in range(born, len(past)):
        until = past[number + 1].now if number + 1 < len(past) else end
        instant = min(until, over) - 1
        if instant >= past[number].now and not opens(past[number].keyring, token, instant):
            found.append(past[number])
    return found
