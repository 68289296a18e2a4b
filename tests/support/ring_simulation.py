"""Nodes with different clocks that share one ring and rotate it, in simulated time.

A token here is the kid and the time of its seal, which is all that a ring decides by.
"""

from __future__ import annotations

import os
from random import Random

from sealedstate.deployment import ClampedClock
from sealedstate.events import EventLog
from sealedstate.keyring import KeyState
from sealedstate.rotation.ring import Schedule
from sealedstate.rotation.source import RotatingKeySource, RotationConfig
from tests.support.ring_storages import MemoryRing
from tests.support.rings import Sealed, opens


class World:
    """A schedule and its nodes. `now` is the true time, which no node knows."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 1_800_000_000.0 + self.random.random()
        draw = self.random.randrange
        self.reload_every, self.skew = draw(1, 120), draw(121)
        announce = self.reload_every + self.skew + self.random.choice((0, 0, draw(1000)))
        self.schedule = Schedule(draw(4, 3000), announce, draw(1, 4000), self.skew)
        self.storage = MemoryRing()
        self.nodes = [Node(self, creates_missing=True) for _ in range(draw(2, 5))]
        self.tokens: list[Sealed] = []

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
        # All at once: one node wins, and the others adopt its ring.
        for node in self.random.sample(self.nodes, len(self.nodes)):
            node.keys.rotate(force=self.random.random() < 0.1)

    def _restart(self) -> None:
        self.nodes[self.random.randrange(len(self.nodes))] = Node(self, creates_missing=False)

    def _set_a_clock(self) -> None:
        self.random.choice(self.nodes).set_clock()

    def _nothing(self) -> None: ...

    _events = (_rotate, _rotate, _force, _restart, _set_a_clock, _nothing)


class Node:
    """A process with its own clock, at most half the skew from the true time."""

    def __init__(self, world: World, creates_missing: bool) -> None:
        self._world = world
        self.set_clock()
        self._clock = ClampedClock(lambda: world.now + self._offset, world.skew)
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
        self.keys = RotatingKeySource(
            world.storage, config, EventLog(), creates_missing=creates_missing
        )
        self._primaries: list[int] = []

    def set_clock(self) -> None:
        self._offset = self._world.random.uniform(-0.5, 0.5) * self._world.skew

    def seal(self) -> Sealed:
        now, ring = int(self._clock()), self.keys.keyring()
        primary = ring.primary(now)
        assert [key for key in ring.keys if ring.state(key, now) is KeyState.PRIMARY] == [primary]
        self._primaries.append(primary.activates_at)
        assert self._primaries == sorted(self._primaries), "a step back"
        return Sealed(primary.kid, now)

    def check(self, tokens: list[Sealed]) -> None:
        """Every token opens here for as long as what it carries may be used."""
        now, ring = int(self._clock()), self.keys.keyring()
        for token in tokens[-30:]:
            if now < token.sealed_at + self._world.schedule.keep:
                assert opens(ring, token, now), (token, now, ring)
