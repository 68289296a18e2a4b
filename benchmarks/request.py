"""What does a session cost a whole WSGI request that leaves it alone, reads it, or changes it?

Knows the rows, the goals and how to print them. Does not know how a product works or how calls are
timed. Run it as a script; without any peer installed it shows our row alone.

    python benchmarks/request.py [--rounds N] [--only ROW]... [--between | --instructions]
        [--served [SECONDS]] [--json]

With `--served` the same pages stand behind gunicorn, too, and a load generator visits each for so
many seconds in each of three rounds; and so do pages whose session is on a server.

With `--between`, a page of other work comes before each request, so that ours and that of a large
framework find equally cold caches. `--instructions` counts by callgrind in place of timing.

Whole: the request with its session, times an application that does nothing. Marginal: what the
session adds to the same framework without one, times what ours adds to that application: so a
framework's own cost is not counted against its session.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "middleware"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import frameworks, served
from benchmarks.callgrind import add_marks, count_turns, run_turns
from benchmarks.cpu_rounds import Times, Turn, run
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
from benchmarks.framework_apps import WITHOUT
from benchmarks.frameworks import Frameworks
from benchmarks.page_work import make_page
from benchmarks.request_apps import KINDS, PRODUCTS, Product, no_op, wsgi_turn
from benchmarks.served import Served
from benchmarks.workloads import ENTITY_IDS, make_workload, read_entity_ids

OURS, NO_OP = "sealedstate", "no-op"
WHOLE_GOAL, WHOLE_BETWEEN_GOAL, WHOLE_INSTRUCTION_GOAL = 3.5, 4.0, 2.9
"""How many times the application that does nothing an untouched request takes, at most."""
MARGINAL_GOALS = {"untouched": 1.0, "read": 1.0, "modified": 1.0}
"""How many times ours a peer's marginal cost is, at least, by the clock."""
JUDGED = ("Flask session on Werkzeug", "Django signed_cookies")
INSTRUCTION_GOALS = {
    "Flask session on Werkzeug": {"read": 3.8, "modified": 5.0},
    "Django signed_cookies": {"read": 2.4, "modified": 3.6},
}
"""The same by row and kind, in instructions."""
LOAD, SEED = "W1", 1
MILLISECONDS = 6.0
SERVED_ROUNDS = 3


@dataclass(slots=True)
class Report:
    """By row and kind: times the no-op application, times our marginal cost, microseconds."""

    whole: dict[str, dict[str, float]] = field(default_factory=dict)
    marginal: dict[str, dict[str, float]] = field(default_factory=dict)
    microseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    added: dict[str, dict[str, float]] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    served: Served | None = None
    stored: Served | None = None
    frameworks: Frameworks = field(default_factory=Frameworks)
    left_out: dict[str, str] = field(default_factory=dict)
    quiet: dict[str, dict[str, float]] = field(default_factory=dict)
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    is_between: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    products = [product.row for product in PRODUCTS]
    names = chosen([*products, *frameworks.rows()], options.only, OURS)
    if options.marks is not None:
        report, turns = _started(names)
        frameworks.start(names, turns, report.frameworks)
        run_turns(options.marks, turns)
        return
    if options.instructions:
        report = count(options.only)
        tell(options, _as_json(report), partial(_print_counted, report))
        return
    page = make_page() if options.between else None
    report = measure(options.rounds, names, page)
    report.frameworks = frameworks.measure(options.rounds, MILLISECONDS, names, page)
    if options.served:
        rows = [product.row for product in report.products]
        report.served = served.measure(SERVED_ROUNDS, options.served, rows)
        report.stored = served.measure_stored(SERVED_ROUNDS, options.served)
    tell(options, _as_json(report), partial(_print, report))


def measure(rounds: int, names: Sequence[str], page: Callable[[], object] | None = None) -> Report:
    """All products of these names that are installed, in the same rounds.

    `page`: other work between each request and the next.
    """
    report, turns = _started(names)
    report.is_between = page is not None
    with Progress("request", rounds) as progress:
        found = run(turns, rounds, MILLISECONDS, progress, page=page)
    for product in report.products:
        _note(report, product.row, found)
    return report


def count(only: Sequence[str] | None) -> Report:
    """Instructions of all turns, by row and kind; what a session adds is what `without` lacks."""
    counts = count_turns(__file__, [word for name in only or () for word in ("--only", name)])
    if isinstance(counts, str):
        raise SystemExit(f"not counted, because {counts}")
    report = Report()
    for name, number in counts.items():
        row, _, kind = name.partition("/")
        report.counted.setdefault(row, {})[kind or WITHOUT] = number
    report.products = [product for product in PRODUCTS if product.row in report.counted]
    report.whole = {
        row: {kind: cells[kind] / counts[NO_OP] for kind in KINDS}
        for row, cells in report.counted.items()
        if row != NO_OP
    }
    for row in report.whole:
        framework, colon, _ = row.partition(": ")
        own = f"{framework}: {OURS}" if colon else OURS
        for kind in KINDS if own in report.counted else ():
            added, ours = (
                report.counted[name][kind] - report.counted[name][WITHOUT] for name in (row, own)
            )
            report.added.setdefault(row, {})[kind] = added
            report.marginal.setdefault(row, {})[kind] = added / max(ours, 1)
    return report


def _started(names: Sequence[str]) -> tuple[Report, dict[str, Turn]]:
    report, turns = Report(), {NO_OP: wsgi_turn(no_op, "theme=dark")}
    for product in PRODUCTS:
        if product.row in names:
            _start(product, turns, report)
    return report, turns


def _start(product: Product, turns: dict[str, Turn], report: Report) -> None:
    """Who is not there, or breaks, is left out with the reason."""
    load = make_workload(LOAD, SEED, read_entity_ids(ENTITY_IDS))
    try:
        pages = product.start(load)
        turns[f"{product.row}/without"] = wsgi_turn(pages.without, pages.cookie)
        for kind in KINDS:
            turns[f"{product.row}/{kind}"] = wsgi_turn(pages.by_kind[kind], pages.cookie)
        report.products.append(product)
    except (ImportError, PackageNotFoundError):
        report.left_out[product.row] = "not installed"
    except Exception as error:
        report.left_out[product.row] = f"failed: {type(error).__name__}: {error}"


def _note(report: Report, row: str, found: dict[str, Times]) -> None:
    for kind in KINDS:
        whole, ours = found[f"{row}/{kind}"], found[f"{OURS}/{kind}"]
        added = whole.less(found[f"{row}/without"])
        ours_added = ours.less(found[f"{OURS}/without"])
        report.whole.setdefault(row, {})[kind] = whole.ratio_to(found[NO_OP])
        report.marginal.setdefault(row, {})[kind] = added.ratio_to(ours_added)
        report.added.setdefault(row, {})[kind] = added.microseconds
        times = report.microseconds.setdefault(
            row, {"without": found[f"{row}/without"].microseconds}
        )
        times[kind] = whole.microseconds
        report.quiet.setdefault(row, {})[kind] = whole.quiet_microseconds


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options_for("What a session costs a whole request.")
    parser.add_argument("--rounds", type=positive, default=41, metavar="N", help="default: 41")
    parser.add_argument(
        "--served", type=positive, nargs="?", const=2, metavar="SECONDS", help="2 when not given"
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--between", action="store_true", help="a page of work before each request")
    ways.add_argument("--instructions", action="store_true", help="count, by callgrind")
    add_marks(parser)
    return parser.parse_args(arguments)


def _as_json(report: Report) -> dict[str, object]:
    return {
        "whole": report.whole,
        "marginal": report.marginal,
        "microseconds": report.microseconds,
        "marginal_microseconds": report.added,
        "microseconds_q20": report.quiet,
        "instructions": report.counted,
        "page_between": report.is_between,
        "goals": _goals(report),
        "notes": {product.row: product.note for product in report.products},
        "versions": {product.row: versions(product.distributions) for product in report.products},
        "frameworks": report.frameworks.as_dict(),
        "left_out": report.left_out,
        "served": report.served.as_dict() if report.served else None,
        "stored": report.stored.as_dict() if report.stored else None,
        "served_by": _served_by(report.stored) if report.stored else {},
    }


def _goals(report: Report) -> dict[str, Any]:
    if report.counted:
        return {"whole": WHOLE_INSTRUCTION_GOAL, "marginal": INSTRUCTION_GOALS}
    most = WHOLE_BETWEEN_GOAL if report.is_between else WHOLE_GOAL
    return {"whole": most, "marginal": MARGINAL_GOALS}


def _served_by(stored: Served) -> dict[str, str]:
    servers = {f"server of {name}:": found for name, found in stored.servers.items()}
    return served.tools() | servers


def _print(report: Report) -> None:
    where = ", each after a page of other work" if report.is_between else ""
    print(f"A WSGI request with the session {LOAD}, processor time of one thread{where}")
    print_table("Whole request, times an application that does nothing", report.whole)
    print_table("What the session adds, times what ours adds", report.marginal)
    print_table("Whole request, microseconds", report.microseconds)
    print_table("Whole request, microseconds, 20th percentiles of the rounds", report.quiet)
    print_table("What the session adds, microseconds", report.added)
    _print_goals(report)
    frameworks.print_report(report.frameworks)
    _print_served("Behind gunicorn", report.served)
    _print_served("Behind gunicorn, with sessions on a server", report.stored)
    print_notes("The rows", {product.row: product.note for product in report.products})
    print_notes("Left out", report.left_out)
    distributions = [name for product in report.products for name in product.distributions]
    distributions += frameworks.distributions(report.frameworks)
    print(f"\n{listed(versions(distributions))}")


def _print_served(title: str, found: Served | None) -> None:
    if found is None:
        return
    shares = {
        row: {kind: cell.share for kind, cell in cells.items()}
        for row, cells in found.cells.items()
    }
    rates = {
        row: {
            **{f"{kind}, a second": f"{cell.per_second:.0f}" for kind, cell in cells.items()},
            **{f"{kind}, p99 ms": cell.p99 for kind, cell in cells.items()},
        }
        for row, cells in found.cells.items()
    }
    print_table(f"{title}: share of what the no-op application answers", shares)
    print_table(f"{title}: requests a second", rates)
    print_notes("Servers", found.servers)
    print_notes("Left out", found.left_out)


def _print_goals(report: Report) -> None:
    whole, most = report.whole[OURS]["untouched"], _goals(report)["whole"]
    print("\nGoals")
    print(f"  whole, untouched: {whole:.2f}, at most {most}: {verdict(whole, most)}")
    for row in JUDGED:
        for kind, least in MARGINAL_GOALS.items():
            if row in report.marginal:
                value = report.marginal[row][kind]
                met = verdict(-value, -least)
                print(f"  {row}, {kind}: {value:.1f} times ours, at least {least:.0f}: {met}")


def _print_counted(report: Report) -> None:
    """Instructions and the goals, which are those of instructions."""
    print(f"A WSGI request with the session {LOAD}, instructions counted by callgrind")
    print_table("Whole request", report.counted)
    print_table("What the session adds", report.added)
    print_table("Whole request, times an application that does nothing", report.whole)
    print_table("What the session adds, times what ours adds there", report.marginal)
    print("\nGoals")
    whole = report.whole[OURS]["untouched"]
    met = verdict(whole, WHOLE_INSTRUCTION_GOAL)
    print(f"  whole, untouched: {whole:.2f}, at most {WHOLE_INSTRUCTION_GOAL}: {met}")
    for row, goals in INSTRUCTION_GOALS.items():
        for kind, least in goals.items():
            if row in report.marginal:
                value = report.marginal[row][kind]
                met = verdict(-value, -least)
                print(f"  {row}, {kind}: {value:.2f} times ours, at least {least}: {met}")
    print(f"\n{listed(versions(name for each in report.products for name in each.distributions))}")


if __name__ == "__main__":
    main()
