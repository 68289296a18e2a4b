"""The documents show what was measured, and the benchmarks count what they claim to count.

Bytes are exact, so this repeats our own sizes. No test looks at times.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median_low
from typing import Any

import pytest

import benchmarks.pictures
from benchmarks import frameworks
from benchmarks.cases import CASES
from benchmarks.cookie_pairs import pair_bytes, pairs
from benchmarks.cpu_rounds import Step, Times, after_each, looped, percentile_20, run
from benchmarks.dress import Progress
from benchmarks.floor import floor_bits, floor_bytes
from benchmarks.framework_apps import (
    ENCRYPTED,
    SIGNED,
    STORED,
    Contender,
    Turns,
    asgi_visit,
    event_loop,
    event_turn,
)
from benchmarks.instructions import compare
from benchmarks.ours import OUR_ROWS, OurRow
from benchmarks.page_work import make_page
from benchmarks.pictures import BENCHMARKS, LOADS, TABLES, pictures, recorded, take, with_tables
from benchmarks.request_apps import KINDS, MODIFIED, READ, UNTOUCHED, set_cookies, start_ours
from benchmarks.sizes import all_rows
from benchmarks.sizing import Cell, most_logins
from benchmarks.store_servers import NotThere
from benchmarks.workloads import ENTITY_IDS as FILE
from benchmarks.workloads import Workload, make_workload, read_entity_ids

ROOT = Path(__file__).parents[2]
ENTITY_IDS = read_entity_ids(FILE)
SEEDS = range(15)
ONE_ROUND = ("--rounds", "1")


# --- documents ------------------------------------------------------------------------------------


def table(mark: str) -> dict[str, list[str]]:
    """A table of docs/benchmarks.md, by the first cell of each row."""
    text = BENCHMARKS.read_text("utf-8")
    found = re.search(rf"<!-- {mark}\b.*?-->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
    assert found is not None
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in rows[2:]}


@pytest.mark.parametrize("row", OUR_ROWS, ids=lambda row: row.name)
def test_documented_sizes_are_those_of_our_cookies(row: OurRow) -> None:
    shown = table("sizes")[row.name]
    for name, size in zip(LOADS, shown, strict=False):
        loads = (make_workload(name, seed, ENTITY_IDS) for seed in SEEDS)
        sizes = (pair_bytes(pairs(row.set_cookies(load, ENTITY_IDS))) for load in loads)
        assert int(size) == median_low(sizes), name


@pytest.mark.parametrize("document", TABLES, ids=lambda document: document.name)
def test_tables_of_documents_show_what_was_recorded(document: Path) -> None:
    assert with_tables(document) == document.read_text("utf-8")


def test_pictures_show_what_was_recorded() -> None:
    for name, drawn in pictures().items():
        assert (ROOT / "docs" / name).read_text("utf-8") == drawn, name


@pytest.mark.parametrize("name", ["sizes", "speed", "request", "scale"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "partial"])
def test_incomplete_run_is_not_taken(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, folder = tmp_path / "recorded", tmp_path / "run"
    shutil.copytree(benchmarks.pictures.RECORDED, kept)
    monkeypatch.setattr(benchmarks.pictures, "RECORDED", kept)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    if text == "partial":
        whole = recorded(name)
        (table,) = {"formats", "open_save", "whole", "curves"} & whole.keys()
        text = json.dumps({**whole, table: dict(list(whole[table].items())[1:])})
    folder.mkdir()
    (folder / f"{name}.json").write_text(text)
    with pytest.raises(SystemExit, match="nothing is taken"):
        take(folder)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_recorded_rows_name_versions_and_explain_the_product() -> None:
    sizes = recorded("sizes")
    assert set(sizes["formats"]) == {row.name for row in all_rows()}
    for name in sizes["formats"]:
        assert sizes["versions"][name]
        assert re.search("encrypted|signed|as the first|the dicts", sizes["notes"][name])
    for script in ("speed", "request"):
        found = recorded(script)
        assert found["versions"]
        assert found["machine"]["date"]


def test_recorded_sizes_say_which_goals_they_meet() -> None:
    for goal in recorded("sizes")["design_goals"]:
        limit = int(re.findall(r"at (?:most|least) (\d+)", goal["goal"])[0])
        kept = goal["value"] <= limit if "at most" in goal["goal"] else goal["value"] >= limit
        assert kept == goal["met"]


# --- sizes.py -------------------------------------------------------------------------------------


def test_number_of_logins_that_fit_is_exact_for_any_first_guess() -> None:
    def size(logins: int) -> int:
        return 150 + 47 * logins + logins % 3

    for budget in (0, 149, 150, 4096, 8190):
        fits = [logins for logins in range(400) if size(logins) <= budget]
        for near in (None, 1, 7, 60, 900):
            assert most_logins(size, budget, near) == (fits[-1] if fits else 0)
    # A product that refuses large cookies holds no more than it writes.
    assert most_logins(lambda logins: 100 + logins if logins < 13 else None, 4096) == 12
    assert (str(Cell(None)), str(Cell(4097, "*"))) == ("-", "4097*")


def test_no_row_undercuts_the_information_floor() -> None:
    for name in LOADS:
        load = make_workload(name, 0, ENTITY_IDS)
        least = floor_bytes(load, len(ENTITY_IDS))
        assert least < pair_bytes(pairs(OUR_ROWS[0].set_cookies(load, ENTITY_IDS)))


def test_floor_counts_the_random_bits_of_identifiers() -> None:
    load = make_workload("W3", 0, ENTITY_IDS)
    bits = floor_bits(load, len(ENTITY_IDS))
    assert bits["SessionIndexes"] == 20 * 128
    assert bits["nonce and tag"] == 320
    assert floor_bits(load, len(ENTITY_IDS), derived=True)["SessionIndexes"] == 0


@pytest.mark.slow
def test_sizes_script_prints_json_without_any_peer() -> None:
    found = script("sizes", "--seeds", "1", "--only", "sealedstate, plain")
    for name in ("sealedstate", "sealedstate, plain mapping"):
        assert set(found["formats"][name]) == set(LOADS)
        assert set(found["logins"][name]) == {"2900", "4096", "8190"}


# --- speed.py and request.py ----------------------------------------------------------------------


@pytest.mark.slow
def test_speed_script_prints_ratios_to_the_bare_composition() -> None:
    found = script("speed", *ONE_ROUND, "--only", "sealedstate")
    assert set(found["open_save"]["bare composition"].values()) == {1.0}
    assert set(found["open_save"]["sealedstate"]) == {"W0", "W1", "W2", "W3"}
    assert found["left_out"] == {}
    for parts in found["breakdown"].values():
        assert {"scan", "text", "AEAD", "CBOR", "policy", "whole"} == set(parts["sealedstate"])


def test_every_case_does_what_it_is_to_do() -> None:
    for name, start in CASES.items():
        step = start()
        assert all(step(number) for number in (301, 302)), name


def test_page_between_calls_is_made_before_each() -> None:
    done = list[str]()

    def call(number: int) -> int:
        done.append("call")
        return number

    after_each(looped(call), lambda: done.append("page"))(3)
    assert done == ["page", "call"] * 3
    make_page()()


def test_fifth_of_the_rounds_is_below_the_quiet_time() -> None:
    assert percentile_20([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]) == 2.0
    assert percentile_20([7.0]) == 7.0


@pytest.mark.soak
def test_scripts_count_instructions() -> None:
    if shutil.which("valgrind") is None or shutil.which("cc") is None:
        pytest.skip("needs valgrind and a C compiler")
    found = script("speed", "--instructions", "--only", "sealedstate, token")["instructions"]
    assert set(found["bare composition"]) == {"W0", "W1", "W2", "W3"}
    assert found["sealedstate, token alone"]["W1"] > found["bare composition"]["W1"] // 2


@pytest.mark.slow
def test_request_script_prints_ratios_to_an_idle_application() -> None:
    found = script("request", *ONE_ROUND, "--only", "sealedstate")
    assert set(found["whole"]["sealedstate"]) == set(KINDS)
    assert set(found["marginal"]["sealedstate"].values()) == {1.0}


@pytest.mark.slow
def test_request_script_compares_sessions_in_a_framework() -> None:
    found = script("request", *ONE_ROUND, "--only", "Starlette: signed")["frameworks"]
    assert set(found["whole"]) == {"Starlette: signed", "Starlette: sealedstate"}
    assert set(found["whole"]["Starlette: sealedstate"].values()) == {1.0}
    assert set(found["microseconds"]["Starlette: signed"]) == {"without", *KINDS}


def test_framework_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Callable[[Workload], Turns]:
        def start(load: Workload) -> Turns:
            raise error

        return start

    contenders = [
        Contender("Absent", "signed", SIGNED, (), fail(ImportError("absent"))),
        Contender("Absent", "on a server", STORED, (), fail(NotThere("no server"))),
        Contender("Absent", "broken", ENCRYPTED, (), fail(ValueError("wrong"))),
    ]
    monkeypatch.setattr(frameworks, "CONTENDERS", contenders)
    report = frameworks.measure(1, 0.1, frameworks.rows())
    assert report.left_out == {
        "Absent: signed": "not installed",
        "Absent: on a server": "no server",
        "Absent: broken": "failed: ValueError: wrong",
    }
    assert not report.whole


def test_requests_of_a_turn_run_in_one_event_loop() -> None:
    loops = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        assert dict(scope["headers"])[b"cookie"] == b"a=b"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    assert event_turn(asgi_visit(application), "a=b")(3) > 0
    assert len(loops) == 3
    assert set(loops) == {event_loop()}


def script(name: str, *options: str) -> Any:
    """The JSON that a benchmark prints."""
    command = [sys.executable, f"benchmarks/{name}.py", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_page_writes_its_session_only_when_it_changed() -> None:
    pages = start_ours(make_workload("W1", 1, ENTITY_IDS))
    written = {kind: bool(set_cookies(pages.by_kind[kind], pages.cookie)) for kind in KINDS}
    assert written == {UNTOUCHED: False, READ: False, MODIFIED: True}


def test_step_that_costs_one_percent_more_is_named() -> None:
    recorded = {"read": 100_000, "changed": 200_000, "gone": 1}
    counted = {"read": 101_000, "changed": 202_001, "new": 1}
    problems = compare(recorded, counted)
    assert sorted(each.partition(":")[0] for each in problems) == ["changed", "gone", "new"]
    assert compare(recorded, recorded) == []


def test_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    assert Times([10, 80, 30]).ratio_to(Times([10, 20, 10])) == 3
    assert Times([10, 80, 30]).less(Times([4, 20, 50])).rounds == [6, 60, 1]


def counting(numbers: Iterator[int]) -> Step:
    return lambda _: next(numbers) + 1


def test_each_contender_runs_in_every_round() -> None:
    calls = {"one": count(), "other": count()}
    turns = {name: looped(counting(mine)) for name, mine in calls.items()}
    found = run(turns, 3, 0.1, Progress("rounds", 3))
    assert [len(times.rounds) for times in found.values()] == [3, 3]


def test_contender_that_does_not_work_is_not_timed() -> None:
    with pytest.raises(RuntimeError, match="did not do"):
        looped(lambda _: [])(1)


@pytest.mark.slow
def test_session_that_fits_into_its_cookie_leaves_no_row_in_the_store() -> None:
    found = script("scale", *ONE_ROUND, "--only", "memory")
    assert found["memory"]["rows"] == 0
