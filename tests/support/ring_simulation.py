"""Nodes with clocks apart that share one ring and rotate it, in a time of their own.

Knows rings, key sources and what a token is judged by. Does not seal: a token here is the kid and
the moment that a real one would carry, which is all that a ring decides by.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random

from sealedstate.deployment import ClampedClock
from sealedstate.events import EventLog
from sealedstate.keyring import Keyring, KeyState
from sealedstate.rotation import Ring, Schedule
from sealedstate.rotation.source import RotatingKeySource, RotationConfig


class SharedHome:
    """A ring that all nodes see at once. It can be down."""

    where = "the shared home"

    def __init__(self) -> None:
        self.ring: Ring | None = None

    def load(self) -> Ring | None:
        return self.ring

    def write(self, ring: Ring, after: Ring | None) -> bool:
        if self.ring != after:
            return False
        self.ring = ring
        return True


@dataclass(frozen=True)
class Token:
    kid: bytes
    sealed_at: int


class World:
    """One schedule and its nodes; `now` is the true time, which none of them knows."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 1_800_000_000.0 + self.random.random()
        draw = self.random.randrange
        self.reload_every, self.skew = draw(1, 120), draw(121)
        announce = self.reload_every + self.skew + self.random.choice((0, 0, draw(1000)))
        self.schedule = Schedule(draw(1, 3000), announce, draw(1, 4000), self.skew)
        self.home = SharedHome()
        self.nodes = [Node(self, founds=True) for _ in range(draw(2, 5))]
        self.tokens: list[Token] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += self.random.expovariate(1.0) * self.random.choice(
                (1, self.reload_every, self.schedule.rotate_every)
            )
            self.random.choice(self._events)(self)
            node = self.random.choice(self.nodes)
            self.tokens.append(node.seal())
            for other in self.nodes:
                other.check(self.tokens)

    def _rotate(self) -> None:
        self.random.choice(self.nodes).keys.rotate()

    def _force(self) -> None:
        # Everybody at once: one of them wins, and the others take over what it made.
        for node in self.random.sample(self.nodes, len(self.nodes)):
            node.keys.rotate(force=self.random.random() < 0.1)

    def _restart(self) -> None:
        self.nodes[self.random.randrange(len(self.nodes))] = Node(self, founds=False)

    def _set_a_clock(self) -> None:
        self.random.choice(self.nodes).set_clock()

    def _nothing(self) -> None: ...

    _events = (_rotate, _rotate, _force, _restart, _set_a_clock, _nothing)


class Node:
    """A process with its own clock, at most half the skew from the true time."""

    def __init__(self, world: World, founds: bool) -> None:
        self._world = world
        self.set_clock()
        self._clock = ClampedClock(lambda: world.now + self._offset, world.skew)
        tending = RotationConfig(
            world.schedule,
            world.reload_every,
            world.schedule.keep,
            world.skew,
            rotates=False,
            clock=self._clock,
            ticks=lambda: world.now,
            random=os.urandom,
        )
        self.keys = RotatingKeySource(world.home, tending, EventLog(), founds=founds)
        self._primaries: list[int] = []

    def set_clock(self) -> None:
        self._offset = self._world.random.uniform(-0.5, 0.5) * self._world.skew

    def seal(self) -> Token:
        now, ring = int(self._clock()), self.keys.keyring()
        primary = ring.primary(now)
        assert [key for key in ring.keys if ring.state(key, now) is KeyState.PRIMARY] == [primary]
        self._primaries.append(primary.activates_at)
        assert self._primaries == sorted(self._primaries), "a step back"
        return Token(primary.kid, now)

    def check(self, tokens: list[Token]) -> None:
        """Every token opens here for as long as what it carries may be used."""
        now, ring = int(self._clock()), self.keys.keyring()
        for token in tokens[-30:]:
            if now < token.sealed_at + self._world.schedule.keep:
                assert self._opens(ring, token, now), (token, now, ring)

    def _opens(self, ring: Keyring, token: Token, now: int) -> bool:
        key = ring.find(token.kid)
        if key is None or not ring.may_have_sealed(key, token.sealed_at):
            return False
        return key.expires_at is None or now < key.expires_at
