"""Schedules, clocks, reloads and restarts as they come: no token is lost, and no key comes back.

Each example is a schedule and a walk of nodes through it. 20,000 of them run in four tests.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.key_sources.simulation import World

STEPS = 25


@pytest.mark.parametrize("share", range(4))
@settings(max_examples=5000)
@given(seed=st.integers(0, 2**48))
def test_every_token_opens_on_every_node_for_its_whole_life(share: int, seed: int) -> None:
    World(seed * 4 + share).run(STEPS)
