"""Nodes whose keys lag behind those of others, and what each makes of a cookie.

In simulated time, with sealed tokens: copies of a ring that arrive late, loads that fail, restarts,
clocks that differ, keys that seal at once, and lists of keys in a roll-out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random

from sealedstate._cookies.codec import CookieCodec, OpenedRecord
from sealedstate._wire.record import Record, encode_record
from sealedstate.deployment import ClampedClock
from sealedstate.errors import OperatorError, UnreadableError
from sealedstate.events import EventLog
from sealedstate.key_sources import KeySource, StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.source import RotatingKeySource, RotationConfig
from sealedstate.rotation.transitions import create_ring, revoke, rotate

START = 1_800_000_000.0
OPENS, KEPT, OVER = "opens", "kept", "over"


@dataclass(frozen=True)
class Cookie:
    kid: bytes
    text: str
    sealed_at: int


def verdict(keys: KeySource, text: str, now: int) -> str:
    """What a node makes of a cookie: it opens, is kept, or is over and replaced."""
    try:
        _codec(keys).open_text(text, now)
    except UnreadableError as error:
        return KEPT if error.keeps_cookie else OVER
    return OPENS


def seal(keys: KeySource, now: int) -> Cookie:
    record = Record(os.urandom(16), "ann", now, now + 3600, 1)
    text = _codec(keys).seal_core(encode_record(record, now), now)
    opened: OpenedRecord = _codec(keys).open_text(text, now)
    return Cookie(opened.key.kid, text, now)


def _codec(keys: KeySource) -> CookieCodec:
    return CookieCodec("__Host-Http-s", "default", keys, os.urandom)


class LaggingRings:
    """Nodes that each read a copy of one ring, which may be `announce` old; some reads fail."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = START + self.random.random()
        draw = self.random.randrange
        self.reload_every, self.skew = draw(1, 60), draw(61)
        announce = self.reload_every + self.skew + draw(1, 900)
        self.schedule = Schedule(draw(4, 2000), announce, draw(600, 4000), self.skew)
        first = create_ring(self.schedule, int(self.now), os.urandom)
        self.states: list[tuple[float, Ring]] = [(self.now, first)]
        self.is_down = False
        self.revoked: set[bytes] = set()
        self.nodes = [RingNode(self) for _ in range(draw(2, 5))]
        self.cookies: list[Cookie] = []
        self.seen = {OPENS: 0, KEPT: 0, OVER: 0}

    @property
    def ring(self) -> Ring:
        return self.states[-1][1]

    def state_at(self, moment: float) -> Ring:
        """The ring as it was then, or its first state."""
        return [ring for at, ring in self.states if at <= moment or at == self.states[0][0]][-1]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += self.random.expovariate(1.0) * self.random.choice(
                (1, self.reload_every, self.schedule.announce / 2)
            )
            self.random.choice(self._events)(self)
            for node in self.nodes:
                if node.may_seal():
                    self.cookies.append(seal(node.keys, node.now()))
            for node in self.nodes:
                self._check(node)

    def _check(self, node: RingNode) -> None:
        for cookie in self.cookies[-20:]:
            if cookie.kid in self.revoked or self.now >= cookie.sealed_at + self.schedule.keep:
                continue
            found = verdict(node.keys, cookie.text, node.now())
            self.seen[found] += 1
            assert found != OVER, (self.now, cookie, node.keys.ring)
        # A cookie of a key that is in no ring is over as soon as that can be known.
        stranger = StaticKeys(Keyring((Key.generate(os.urandom),)))
        age = self.random.randrange(2 * self.schedule.announce + self.skew)
        cookie = seal(stranger, int(self.now) - age)
        found = verdict(node.keys, cookie.text, node.now())
        is_over = node.keys.read_at() > cookie.sealed_at + self.schedule.announce + self.skew
        assert (found == OVER) is is_over, (self.now, cookie)
        self.seen[found] += 1

    def _write(self, ring: Ring) -> None:
        self.states.append((self.now, ring))

    def _rotate(self) -> None:
        self._write(rotate(self.ring, self.schedule, int(self.now), os.urandom, False))

    def _replace(self) -> None:
        """Revoke the primary: another key seals at once."""
        if self.random.random() < 0.5:
            primary = self.ring.primary(int(self.now))
            if primary is not None:
                self.revoked.add(primary.kid)
                self._write(revoke(self.ring, primary.kid, int(self.now), os.urandom))

    def _restart(self) -> None:
        self.is_down = False
        self.nodes[self.random.randrange(len(self.nodes))] = RingNode(self)

    def _break(self) -> None:
        self.is_down = self.random.random() < 0.3

    _events = (_rotate, _rotate, _replace, _restart, _break)


class RingNode:
    """A node with a clock at most half the skew from the true time. It is its ring's storage."""

    location = "a copy"

    def __init__(self, world: LaggingRings) -> None:
        self._world = world
        self._state_of = world.now - world.schedule.announce
        offset = world.random.uniform(-0.5, 0.5) * world.skew
        self._clock = ClampedClock(lambda: world.now + offset, world.skew)
        config = RotationConfig(
            world.schedule,
            world.reload_every,
            world.schedule.keep,
            world.skew,
            rotate_in_process=False,
            clock=self._clock,
            monotonic=lambda: world.now,
            random=os.urandom,
        )
        self.keys = RotatingKeySource(self, config, EventLog())

    def now(self) -> int:
        return int(self._clock())

    def may_seal(self) -> bool:
        """Its keys are not older than `announce`, all in all."""
        self.keys.keyring()
        return self._world.now - self._state_of <= self._world.schedule.announce

    def load(self) -> Ring:
        world = self._world
        if world.is_down:
            raise OperatorError("down")
        lag = world.random.choice((0, 1, world.random.random())) * world.schedule.announce
        self._state_of = max(self._state_of, world.now - lag)
        return world.state_at(self._state_of)

    def write(self, ring: Ring, after: Ring | None) -> bool:
        raise OperatorError("a copy")


class RollOut:
    """A list of keys replaces another on nodes that restart, within `announce`.

    The new key stands first at once, against the advice. Nodes that are still old restart, too.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.announce, self.skew = self.random.randrange(60, 1200), self.random.randrange(61)
        old, new = (Key.generate(os.urandom) for _ in range(2))
        self.old, self.new = (
            StaticKeys(Keyring(keys, self.skew, self.announce)) for keys in ((old,), (new, old))
        )
        self.nodes = [self.old] * self.random.randrange(2, 6)
        self.offsets = [self.random.uniform(-0.5, 0.5) * self.skew for _ in self.nodes]
        self.cookies: list[Cookie] = []
        self.seen = {OPENS: 0, KEPT: 0, OVER: 0}

    def run(self, steps: int) -> None:
        moments = sorted(self.random.uniform(0, self.announce) for _ in self.nodes)
        for step in range(steps):
            # Twice as long as the roll-out takes.
            since = 2 * self.announce * step / steps
            self.nodes = [self.new if since >= moment else self.old for moment in moments]
            for keys, offset in zip(self.nodes, self.offsets, strict=True):
                self.cookies.append(seal(keys, int(START + since + offset)))
            for keys, offset in zip(self.nodes, self.offsets, strict=True):
                for cookie in self.random.sample(self.cookies, min(20, len(self.cookies))):
                    found = verdict(keys, cookie.text, int(START + since + offset))
                    self.seen[found] += 1
                    assert found != OVER, (since, cookie)
