"""How many cookie bytes login records take: the workloads, through the keeper, as benchmarked."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median_low

import pytest

from benchmarks.cookie_pairs import BROWSER_LIMIT, pair_bytes, pairs
from benchmarks.ours import DERIVED, STORED, UNREGISTERED, Variant
from benchmarks.workloads import Workload, make_signed_in, make_workload, read_entity_ids

SEEDS = range(15)
ENTITY_IDS = read_entity_ids(Path(__file__).parents[2] / "benchmarks" / "entity_ids.txt")
# What the code has never seen: other hosts, the same habits; and not even the habits.
OTHER_LETTERS = str.maketrans("aeiorst", "obytuna")
OTHER_HOSTS = [
    re.sub("(?<=://)[^/]+", lambda host: host[0].translate(OTHER_LETTERS), entity_id)
    for entity_id in ENTITY_IDS
]
GIBBERISH = [entity_id.translate(OTHER_LETTERS) for entity_id in ENTITY_IDS]


def size(variant: Variant, load: Workload, entity_ids: list[str]) -> int:
    return pair_bytes(pairs(variant.set_cookies(load, entity_ids)))


@pytest.mark.parametrize(
    ("variant", "workload", "goal"),
    [
        (STORED, "W3", 1100),
        (Variant(step=1), "W3", 1100),
        (STORED, "W4", 4850),
        (UNREGISTERED, "W3", 1650),
        (DERIVED, "W4", 1450),
    ],
)
def test_a_workload_takes_no_more_than_its_goal(variant: Variant, workload: str, goal: int) -> None:
    loads = (make_workload(workload, seed, ENTITY_IDS) for seed in SEEDS)
    assert median_low(size(variant, load, ENTITY_IDS) for load in loads) <= goal


@pytest.mark.parametrize(("variant", "logins"), [(STORED, 84), (DERIVED, 300)])
def test_so_many_service_logins_fit_into_one_cookie(variant: Variant, logins: int) -> None:
    loads = (make_signed_in(logins, seed, ENTITY_IDS) for seed in SEEDS)
    assert median_low(size(variant, load, ENTITY_IDS) for load in loads) <= BROWSER_LIMIT


@pytest.mark.parametrize(("unseen", "goal"), [(OTHER_HOSTS, 1650), (GIBBERISH, 1950)])
def test_services_that_the_code_has_never_seen_take_as_little(unseen: list[str], goal: int) -> None:
    loads = [make_workload("W3", seed, unseen) for seed in SEEDS]
    assert median_low(size(STORED, load, unseen) for load in loads) <= 1100
    assert median_low(size(UNREGISTERED, load, unseen) for load in loads) <= goal
