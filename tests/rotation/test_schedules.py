"""Schedules, clocks, reloads and restarts as they come: no token is lost, and no key comes back.

Each example is a schedule and a walk of nodes through it: 20,000 of them, most in the soak.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ring_simulation import World
from tests.support.shards import shards

STEPS = 25
SHARDS = 20


@pytest.mark.parametrize("shard", shards(SHARDS))
@settings(max_examples=1000)
@given(seed=st.integers(0, 2**48))
def test_every_token_opens_on_every_node_for_its_whole_life(shard: int, seed: int) -> None:
    World(seed * SHARDS + shard).run(STEPS)
