"""How long does it take to open and to save a session, beside the bare composition and the peers?

Knows the rows, the goals and how to print them. Does not know how a product works or how calls are
timed. Run it as a script; without any peer installed it shows our rows alone.

    python benchmarks/speed.py [--rounds N] [--only ROW]... [--between | --instructions] [--json]

Times are told hot, one call right after the other. With `--between`, a page of other work comes
before each call, so that it finds cold caches, as a request does. `--instructions` counts by
callgrind in place of timing, which no other process on the machine disturbs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.breakdown import Breakdown, breakdown
from benchmarks.callgrind import add_marks, count_turns, run_turns
from benchmarks.cases import CASES
from benchmarks.cpu_rounds import Times, Turn, looped, run
from benchmarks.dress import (
    Progress,
    chosen,
    listed,
    options_for,
    positive,
    print_notes,
    print_table,
    tell,
    verdict,
    versions,
)
from benchmarks.page_work import make_page
from benchmarks.peers import PEERS
from benchmarks.revisit_ours import (
    start_all_read,
    start_bare,
    start_direct,
    start_login,
    start_ours,
    start_plain,
    start_token,
)
from benchmarks.revisit_peers import NODE, start_peer
from benchmarks.workloads import ENTITY_IDS, Workload, make_workload, read_entity_ids

BARE, OURS = "bare composition", "sealedstate"
LOADS = ("W0", "W1", "W2", "W3")
GOALS = {"W1": 1.27, "W3": 0.42}
BETWEEN_GOALS = {"W1": 1.45, "W3": 0.62}
INSTRUCTION_GOALS = {"W0": 1.9, "W1": 1.25, "W2": 0.75, "W3": 0.38}
"""Times the bare composition, at most: by 20th percentiles of the rounds, or by instructions."""
SEED = 1
MILLISECONDS = 6.0
CASE = "case"

Start = Callable[[Workload], Turn]


@dataclass(frozen=True, slots=True)
class Row:
    """A product, ready to be timed."""

    name: str
    note: str
    start: Start
    versions: Callable[[], dict[str, str]] = lambda: versions(("cbor2", "pynacl"))


OUR_ROWS = (
    Row(
        BARE,
        "cbor2 of the plain dict, PyNaCl's bindings with a random nonce, base64; from one text to"
        " one text: no Cookie header, no expiry, no keyring, no size, no attributes",
        lambda load: looped(start_bare(load)),
    ),
    Row(
        "bare composition, C called directly",
        "the same without PyNaCl's checks of arguments, which are half of its cost",
        lambda load: looped(start_direct(load)),
    ),
    Row(
        OURS,
        "Cookie header to Set-Cookie lines by Keeper: the subject read, a small part changed; login"
        " records ride along",
        lambda load: looped(start_ours(load)),
    ),
    Row(
        "sealedstate, token alone",
        "from one text to one text, like the bare composition: opened and checked by the keyring,"
        " decoded; a part changed, encoded, sealed with a hedged nonce",
        lambda load: looped(start_token(load)),
    ),
    Row(
        "sealedstate, plain mapping",
        "the same with the peers' dicts as parts; nobody looks at the part with the logins",
        lambda load: looped(start_plain(load)),
    ),
    Row(
        "sealedstate, logins read",
        "as the first, and every service login is decoded, as at a logout",
        lambda load: looped(start_all_read(load)),
    ),
    Row(
        "sealedstate, login added",
        "as the first, but a service login is renewed: read, merged, all of them encoded anew",
        lambda load: looped(start_login(load)),
    ),
)


@dataclass(slots=True)
class Report:
    """Ratios to the bare composition and microseconds, by row and workload.

    `quiet_...`: 20th percentiles of the rounds in place of medians. `cases`: ours in the cases of
    `benchmarks.cases`, microseconds, both ways. `counted`: instructions, by row and column.
    """

    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    microseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    quiet_ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    quiet_microseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    cases: dict[str, dict[str, float]] = field(default_factory=dict)
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    is_between: bool = False
    parts: dict[str, Breakdown] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def note(self, load: str, found: dict[str, Times]) -> None:
        bare = found[BARE]
        for name, times in found.items():
            self.ratios.setdefault(name, {})[load] = times.ratio_to(bare)
            self.microseconds.setdefault(name, {})[load] = times.microseconds
            quiet = times.quiet_microseconds
            self.quiet_microseconds.setdefault(name, {})[load] = quiet
            self.quiet_ratios.setdefault(name, {})[load] = quiet / bare.quiet_microseconds


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.marks is not None:
        run_turns(options.marks, _turns_to_count(options.only))
        return
    if options.instructions:
        only = [word for name in options.only or () for word in ("--only", name)]
        report = Report()
        counts = count_turns(__file__, only)
        if isinstance(counts, str):
            raise SystemExit(f"not counted, because {counts}")
        for name, number in counts.items():
            row, _, column = name.partition("/")
            report.counted.setdefault(row, {})[column] = number
        report.rows = [row for row in _rows(options.only) if row.name in report.counted]
    else:
        report = measure(options.rounds, options.only, options.between)
    tell(options, _as_json(report), partial(_print, report))


def measure(rounds: int, only: Sequence[str] | None = None, is_between: bool = False) -> Report:
    """Everybody who is there, workload by workload; with a page between the calls, or without."""
    report, entity_ids = Report(is_between=is_between), read_entity_ids(ENTITY_IDS)
    rows, page = _rows(only), make_page() if is_between else None
    steps = rounds * (len(LOADS) * (1 if is_between else 2) + 1)
    with Progress("speed", steps) as progress:
        for name in LOADS:
            load = make_workload(name, SEED, entity_ids)
            turns = _turns(rows, load, report)
            report.note(name, run(turns, rounds, MILLISECONDS, progress, name, page))
            if is_between:
                continue
            report.parts[name] = breakdown(load, rounds, MILLISECONDS, progress, name)
        cases = {name: looped(start()) for name, start in CASES.items()}
        found = run(cases, rounds, MILLISECONDS, progress, "cases", page)
    report.cases = {
        name: {"median": times.microseconds, "q20": times.quiet_microseconds}
        for name, times in found.items()
    }
    report.rows = [row for row in rows if row.name in report.ratios]
    return report


def _turns_to_count(only: Sequence[str] | None) -> dict[str, Turn]:
    """The turns of all rows but those of other processes, by row and workload; and the cases."""
    report, entity_ids, turns = Report(), read_entity_ids(ENTITY_IDS), dict[str, Turn]()
    rows = [row for row in _rows(only) if row.name not in NODE]
    for name in LOADS:
        load = make_workload(name, SEED, entity_ids)
        for row, turn in _turns(rows, load, report).items():
            turns[f"{row}/{name}"] = turn
    for name, start in CASES.items():
        turns[f"{CASE}: {name}/instructions"] = looped(start())
    return turns


def _rows(only: Sequence[str] | None) -> list[Row]:
    rows = {row.name: row for row in (*OUR_ROWS, *_peers())}
    return [rows[name] for name in chosen(list(rows), only, BARE)]


def _peers() -> Iterable[Row]:
    """Their open and save, from a Cookie header to Set-Cookie lines."""
    for peer in PEERS:
        yield Row(peer.row, peer.note, partial(start_peer, peer.row), peer.versions)


def _turns(rows: Iterable[Row], load: Workload, report: Report) -> dict[str, Turn]:
    """Who is not there, or breaks, is left out with the reason."""
    turns = {}
    for row in rows:
        if row.name in report.left_out:
            continue
        try:
            turn = row.start(load)
            turn(1)
            turns[row.name] = turn
        except (ImportError, PackageNotFoundError):
            report.left_out[row.name] = "not installed"
        except Exception as error:
            reason = f"{load.name}: {type(error).__name__}: {error}"
            report.left_out[row.name] = reason
    return turns


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options_for("Time to open and save a session.")
    parser.add_argument("--rounds", type=positive, default=41, metavar="N", help="default: 41")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--between", action="store_true", help="a page of work before each call")
    ways.add_argument("--instructions", action="store_true", help="count, by callgrind")
    add_marks(parser)
    return parser.parse_args(arguments)


def _as_json(report: Report) -> dict[str, object]:
    return {
        "open_save": report.ratios,
        "microseconds": report.microseconds,
        "open_save_q20": report.quiet_ratios,
        "microseconds_q20": report.quiet_microseconds,
        "cases": report.cases,
        "instructions": report.counted,
        "page_between": report.is_between,
        "breakdown": {name: part.as_dict() for name, part in report.parts.items()},
        "goals": _goals(report),
        "notes": {row.name: row.note for row in report.rows},
        "versions": {row.name: row.versions() for row in report.rows},
        "left_out": report.left_out,
    }


def _goals(report: Report) -> dict[str, float]:
    if report.counted:
        return INSTRUCTION_GOALS
    return BETWEEN_GOALS if report.is_between else GOALS


def _print(report: Report) -> None:
    ratios = report.quiet_ratios
    if report.counted:
        print("Opening and saving a session that arrived, instructions counted by callgrind")
        cases = {row: cells for row, cells in report.counted.items() if row.startswith(CASE)}
        counted = {row: cells for row, cells in report.counted.items() if row not in cases}
        bare = counted[BARE]
        ratios = {
            row: {load: number / bare[load] for load, number in cells.items()}
            for row, cells in counted.items()
        }
        print_table("Times the bare composition", ratios)
        print_table("Instructions", counted)
        print_table("Cases, instructions", cases)
    else:
        where = "after a page of other work" if report.is_between else "hot"
        print(f"Opening and saving a session that arrived, processor time of one thread, {where}")
        print_table("Times the bare composition, medians of the rounds' ratios", report.ratios)
        print_table("Times the bare composition, 20th percentiles of the rounds", ratios)
        print_table("Microseconds, medians", report.microseconds, places=1)
        print_table("Microseconds, 20th percentiles", report.quiet_microseconds, places=1)
        print_table("Cases, microseconds", report.cases, places=1)
    for name, part in report.parts.items():
        part.print(name)
    print("\nGoals: opening and saving, times the bare composition")
    for name, limit in _goals(report).items():
        value = ratios.get(OURS, {}).get(name)
        if value is not None:
            print(f"  {name}: {value:.2f}, at most {limit}: {verdict(value, limit)}")
    print_notes("The rows", {row.name: row.note for row in report.rows})
    print_notes("Left out", report.left_out)
    found = {name: number for row in report.rows for name, number in row.versions().items()}
    print(f"\n{listed(found)}")


if __name__ == "__main__":
    main()
