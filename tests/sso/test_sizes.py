"""How many cookie bytes login records take: the workloads, through the keeper, as benchmarked."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median_low

from benchmarks.cookie_pairs import BROWSER_LIMIT, pair_bytes, pairs
from benchmarks.ours import DERIVED, STORED, UNREGISTERED, Variant
from benchmarks.workloads import Workload, make_signed_in, make_workload, read_entity_ids

SEEDS = range(15)
ENTITY_IDS = read_entity_ids(Path(__file__).parents[2] / "benchmarks" / "entity_ids.txt")
# What the tables were not made from: other hosts, the same habits; and not even the habits.
OTHER_LETTERS = str.maketrans("aeiorst", "obytuna")
OTHER_HOSTS = [
    re.sub("(?<=://)[^/]+", lambda host: host[0].translate(OTHER_LETTERS), entity_id)
    for entity_id in ENTITY_IDS
]
GIBBERISH = [entity_id.translate(OTHER_LETTERS) for entity_id in ENTITY_IDS]


def median_size(variant: Variant, loads: list[Workload], entity_ids: list[str]) -> int:
    return median_low(pair_bytes(pairs(variant.set_cookies(load, entity_ids))) for load in loads)


def size_of(variant: Variant, workload: str, entity_ids: list[str] = ENTITY_IDS) -> int:
    loads = [make_workload(workload, seed, entity_ids) for seed in SEEDS]
    return median_size(variant, loads, entity_ids)


def test_a_workload_takes_no_more_than_the_documents_say() -> None:
    assert size_of(STORED, "W1") <= 144
    assert size_of(STORED, "W3") <= 1081
    assert size_of(Variant(step=1), "W3") <= 1105
    assert size_of(STORED, "W4") <= 4844
    assert size_of(UNREGISTERED, "W3") <= 1540
    assert size_of(DERIVED, "W4") <= 1273


def test_85_logins_or_382_derived_ones_fit_into_one_cookie() -> None:
    for variant, logins in ((STORED, 85), (DERIVED, 382)):
        loads = [make_signed_in(logins, seed, ENTITY_IDS) for seed in SEEDS]
        assert median_size(variant, loads, ENTITY_IDS) <= BROWSER_LIMIT


def test_services_that_the_tables_do_not_know_take_as_little() -> None:
    for unseen, limit in ((OTHER_HOSTS, 1650), (GIBBERISH, 1950)):
        assert size_of(STORED, "W3", unseen) <= 1100
        assert size_of(UNREGISTERED, "W3", unseen) <= limit
