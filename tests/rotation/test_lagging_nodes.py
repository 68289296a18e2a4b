"""A node whose keys lag behind signs no visitor out, and every cookie of an unknown key ends."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.lagging_nodes import KEPT, OPENS, OVER, LaggingRings, RollOut


@pytest.mark.parametrize(
    "runs",
    [
        15,
        pytest.param(60, marks=pytest.mark.slow),
        pytest.param(3000, marks=pytest.mark.soak),
    ],
)
def test_copy_of_a_ring_that_arrives_late_ends_no_good_cookie(runs: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(runs):
        world = LaggingRings(seed)
        world.run(60)
        seen.update(world.seen)
    # All three verdicts were reached.
    assert min(seen[each] for each in (OPENS, KEPT, OVER)) > runs


@pytest.mark.parametrize(
    "runs",
    [
        15,
        pytest.param(60, marks=pytest.mark.slow),
        pytest.param(3000, marks=pytest.mark.soak),
    ],
)
def test_list_of_keys_in_a_roll_out_within_announce_ends_no_good_cookie(runs: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(runs):
        world = RollOut(seed)
        world.run(40)
        seen.update(world.seen)
    assert seen[OPENS] > seen[KEPT] > runs
    assert seen[OVER] == 0
