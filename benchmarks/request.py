"""What does a session cost a whole WSGI request that leaves it alone, reads it, or changes it?

Knows the rows, the goals and how to print them. Does not know how a product works or how calls are
timed. Run it as a script; without any peer installed it shows our row alone.

    python benchmarks/request.py [--rounds N] [--only ROW]... [--served [SECONDS]] [--json]

With `--served` the same pages stand behind gunicorn, too, and a load generator visits each for so
many seconds in each of three rounds; and so do pages whose session is on a server.

Whole: the request with its session, times an application that does nothing. Marginal: what the
session adds to the same framework without one, times what ours adds to that application: so a
framework's own cost is not counted against its session.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "middleware"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import frameworks, served
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
from benchmarks.frameworks import Frameworks
from benchmarks.request_apps import KINDS, PRODUCTS, Product, no_op, wsgi_turn
from benchmarks.served import Served
from benchmarks.workloads import ENTITY_IDS, make_workload, read_entity_ids

OURS, NO_OP = "sealedstate", "no-op"
WHOLE_GOAL = 2.5
MARGINAL_GOALS = {"untouched": 15.0, "read": 6.0, "modified": 8.0}
"""How many times ours a peer's marginal cost is, at least."""
JUDGED = ("Flask session on Werkzeug", "Django signed_cookies")
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


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    products = [product.row for product in PRODUCTS]
    names = chosen([*products, *frameworks.rows()], options.only, OURS)
    report = measure(options.rounds, names)
    report.frameworks = frameworks.measure(options.rounds, MILLISECONDS, names)
    if options.served:
        rows = [product.row for product in report.products]
        report.served = served.measure(SERVED_ROUNDS, options.served, rows)
        report.stored = served.measure_stored(SERVED_ROUNDS, options.served)
    tell(options, _as_json(report), partial(_print, report))


def measure(rounds: int, names: Sequence[str]) -> Report:
    """All products of these names that are installed, in the same rounds."""
    report = Report()
    turns = {NO_OP: wsgi_turn(no_op, "theme=dark")}
    for product in PRODUCTS:
        if product.row in names:
            _start(product, turns, report)
    with Progress("request", rounds) as progress:
        found = run(turns, rounds, MILLISECONDS, progress)
    for product in report.products:
        _note(report, product.row, found)
    return report


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


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options_for("What a session costs a whole request.")
    parser.add_argument("--rounds", type=positive, default=41, metavar="N", help="default: 41")
    parser.add_argument(
        "--served", type=positive, nargs="?", const=2, metavar="SECONDS", help="2 when not given"
    )
    return parser.parse_args(arguments)


def _as_json(report: Report) -> dict[str, object]:
    return {
        "whole": report.whole,
        "marginal": report.marginal,
        "microseconds": report.microseconds,
        "marginal_microseconds": report.added,
        "goals": {"whole": WHOLE_GOAL, "marginal": MARGINAL_GOALS},
        "notes": {product.row: product.note for product in report.products},
        "versions": {product.row: versions(product.distributions) for product in report.products},
        "frameworks": report.frameworks.as_dict(),
        "left_out": report.left_out,
        "served": report.served.as_dict() if report.served else None,
        "stored": report.stored.as_dict() if report.stored else None,
        "served_by": _served_by(report.stored) if report.stored else {},
    }


def _served_by(stored: Served) -> dict[str, str]:
    servers = {f"server of {name}:": found for name, found in stored.servers.items()}
    return served.tools() | servers


def _print(report: Report) -> None:
    print(f"A WSGI request with the session {LOAD}, in process, processor time of one thread")
    print_table("Whole request, times an application that does nothing", report.whole)
    print_table("What the session adds, times what ours adds", report.marginal)
    print_table("Whole request, microseconds", report.microseconds)
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
    whole = report.whole[OURS]["untouched"]
    print("\nGoals")
    print(f"  whole, untouched: {whole:.2f}, at most {WHOLE_GOAL}: {verdict(whole, WHOLE_GOAL)}")
    for row in JUDGED:
        for kind, least in MARGINAL_GOALS.items():
            if row in report.marginal:
                value = report.marginal[row][kind]
                met = verdict(-value, -least)
                print(f"  {row}, {kind}: {value:.1f} times ours, at least {least:.0f}: {met}")


if __name__ == "__main__":
    main()
