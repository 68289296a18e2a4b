"""Schedules, clocks, reloads and restarts as they come: no token is lost, and no key comes back.

Each example is a schedule and a walk of nodes through it. The soak has 20,000 of them.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.key_sources.simulation import World

STEPS = 25
SHARES = [0, *(pytest.param(share, marks=pytest.mark.soak) for share in range(1, 11))]


@pytest.mark.parametrize("share", SHARES)
@settings(max_examples=2000)
@given(seed=st.integers(0, 2**48))
def test_every_token_opens_on_every_node_for_its_whole_life(share: int, seed: int) -> None:
    World(seed * len(SHARES) + share).run(STEPS)
