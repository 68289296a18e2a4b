"""The benchmark of stores: its contenders, its report, and the work of its bare drivers.

No test looks at times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Iterator
from importlib.util import find_spec
from operator import ne
from pathlib import Path
from typing import Any

import pytest

from benchmarks.store_bare import bare
from benchmarks.store_load import RECORDS, Load
from benchmarks.store_rounds import CAS, CREATE, OPERATIONS, READ, Contender, Times, run
from tests.support.installed import need_driver

ROOT = Path(__file__).parents[2]


def benchmark(*options: str, **environment: str) -> Any:
    """The JSON that the script prints."""
    kept = {name: value for name, value in os.environ.items() if name != "REQUIRE_SERVERS"}
    quick = ("--json", "--seconds", "1", "--rounds", "2")
    done = subprocess.run(
        [sys.executable, "benchmarks/stores.py", *quick, *options],
        cwd=ROOT,
        env=kept | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report() -> Any:
    return benchmark("--only", "memory", "--only", "sqlite", "--value-bytes", "100")


def test_report_has_every_operation_of_the_bare_driver_and_of_our_store(report: Any) -> None:
    for operation in OPERATIONS:
        for backend, driver in (("memory", "a dict and a lock"), ("sqlite", "sqlite3")):
            cells = report["cells"][operation][backend]
            assert list(cells)[:2] == [driver, "sealedstate store"]
            for cell in cells.values():
                assert set(cell) == {"ops_per_second", "p50", "p99", "ratio"}
                assert 0 < cell["p50"] <= cell["p99"]
            assert cells[driver]["ratio"] == 1
            assert ("sealedstate session" in cells) == (operation != CREATE)


def test_goals_are_those_of_reading_and_of_comparing_and_setting(
    report: Any,
) -> None:
    assert report["goal"] == 1.5
    cells = {name: report["cells"][name]["sqlite"]["sealedstate store"] for name in (READ, CAS)}
    assert report["goals"] == {"sqlite": {name: cell["ratio"] for name, cell in cells.items()}}


def test_django_takes_part_or_is_reported_missing(report: Any) -> None:
    there = find_spec("django") is not None
    assert ("Django db session" in report["cells"][READ]["sqlite"]) == there
    assert report["left_out"] == ({} if there else {"Django": "django is not installed"})


@pytest.mark.slow
def test_server_that_is_not_installed_is_left_out_with_the_reason() -> None:
    report = benchmark("--only", "redis", PATH="/nonexistent")
    assert "not installed" in report["left_out"]["redis"]
    assert report["servers"] == {}


@pytest.mark.server
def test_client_that_is_handed_in_is_measured_and_not_judged() -> None:
    need_driver("redis")
    report = benchmark("--only", "redis", "--value-bytes", "100")
    for operation in OPERATIONS:
        assert report["cells"][operation]["redis"]["sealedstate store, redis-py"]["ratio"] > 0
    goals = {name: report["cells"][name]["redis"]["sealedstate store"] for name in (READ, CAS)}
    assert report["goals"] == {"redis": {name: cell["ratio"] for name, cell in goals.items()}}


def test_ratio_is_the_median_of_the_ratios_of_rounds() -> None:
    ours = Times([array("q", [10, 20, 90]), array("q", [30]), array("q", [8000])])
    bare_times = Times([array("q", [10]), array("q", [10]), array("q", [20])])
    assert ours.ratio_to(bare_times) == 3
    assert ours.calls == 5


def test_percentile_is_a_measured_time() -> None:
    times = Times([array("q", range(1000, 51_000, 1000)), array("q", range(51_000, 101_000, 1000))])
    assert (times.percentile(50), times.percentile(99), times.percentile(100)) == (51, 100, 100)


def test_contender_that_does_not_work_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="idle: read did not"):
        run({"memory": [Contender("idle", {READ: lambda _: None})]}, 1, 0.01)


@pytest.fixture(params=["memory", "sqlite"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Contender]:
    contender = bare(request.param, f"{request.param}:{tmp_path / 'store'}", 100)
    yield contender
    contender.close()


def test_bare_driver_compares_sets_reads_and_creates(driver: Contender) -> None:
    read, write, create = (driver.acts[name] for name in (READ, CAS, CREATE))
    before: Any = read(7)
    assert write(7)
    after: Any = read(7)
    assert (after[1], after[2], len(after[0])) == (before[1] + 1, before[2], 100)
    assert [create(1), create(1)] == [True, False]
    driver.clear()
    assert create(1)


def test_record_never_gets_the_value_that_it_has() -> None:
    load = Load(8)
    for place in range(RECORDS):
        written = [load.value(number) for number in range(place, 20 * RECORDS, RECORDS)]
        assert all(map(ne, written, written[1:]))
