"""How many cookie bytes does a session take, here and elsewhere, and how many logins fit?

Knows the rows, the goals and how to print them. Does not know how a product makes its cookies, how
they are counted or what is in a workload. Run it as a script; without any peer installed it shows
our rows alone.

    python benchmarks/sizes.py [--seeds N] [--entity-ids FILE] [--only ROW]... [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.dress import (
    listed,
    options_for,
    positive,
    print_notes,
    print_table,
    readable,
    tell,
    versions,
)
from benchmarks.floor import BITS_PER_CHARACTER, floor_bits
from benchmarks.ours import OUR_ROWS
from benchmarks.peers import PEERS, Emit
from benchmarks.sizing import Report, Row, SetCookies, measure
from benchmarks.workloads import ENTITY_IDS, LOGINS, NAMES, make_workload, read_entity_ids

OURS, UNREGISTERED = "sealedstate", "sealedstate unregistered"
DERIVES, PLAIN = "sealedstate derived", "sealedstate, plain mapping"
SHOWN = ("0", "20", "50", "100", "150", "200")
"""Of the growth curve, in the table."""
LIMITS = {
    "default uWSGI, the whole Cookie header": 3150,
    "every browser, one cookie": 4096,
    "gunicorn, nginx and Apache, a header line": 8190,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """So many bytes of a workload at most, or so many logins in a budget at least."""

    row: str
    what: str
    limit: int
    least: bool = False

    def value(self, report: Report) -> int | None:
        if self.least:
            return report.logins[self.row][self.what].value
        if self.what == "small":
            return report.small[self.row]
        return report.formats[self.row][self.what].value

    def is_met(self, value: int) -> bool:
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        if self.least:
            return f"{self.row}: logins in {self.what} bytes, at least {self.limit}"
        what = "a subject, a CSRF secret, three small values" if self.what == "small" else self.what
        return f"{self.row}: {what}, at most {self.limit} bytes"


GOALS = (
    Goal(OURS, "W1", 145),
    Goal(OURS, "W3", 1105),
    Goal(OURS, "W4", 4865),
    Goal(UNREGISTERED, "W3", 1655),
    Goal(DERIVES, "W4", 1455),
    Goal(OURS, "4096", 84, least=True),
    Goal(DERIVES, "4096", 300, least=True),
    Goal(PLAIN, "W1", 335),
    Goal(PLAIN, "small", 225),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    entity_ids = read_entity_ids(options.entity_ids)
    report = measure(all_rows(), range(options.seeds), entity_ids, options.only, OURS)
    told = as_json(report, entity_ids)
    tell(options, told, partial(_print, report, options.seeds, entity_ids))


def all_rows() -> list[Row]:
    """Ours first. Of a peer nothing is imported before it is measured."""
    ours = [
        Row(one.name, one.note, _ready(one.set_cookies), _our_versions, one.name == DERIVES)
        for one in OUR_ROWS
    ]
    peers = [Row(one.row, one.note, _emitting(one.start), one.versions) for one in PEERS]
    return [*ours, *peers]


def _ready(set_cookies: SetCookies) -> Callable[[], SetCookies]:
    return lambda: set_cookies


def _emitting(start: Callable[[], Emit]) -> Callable[[], SetCookies]:
    def started() -> SetCookies:
        note = start()
        return lambda load, _: note(load.plain())

    return started


def _our_versions() -> dict[str, str]:
    return versions(("cbor2", "pynacl"))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options_for("Cookie bytes of the standard workloads.")
    parser.add_argument("--seeds", type=positive, default=15, metavar="N", help="default: 15")
    parser.add_argument("--entity-ids", type=readable, default=ENTITY_IDS, metavar="FILE")
    return parser.parse_args(arguments)


# --- what is told ---------------------------------------------------------------------------------


def as_json(report: Report, entity_ids: Sequence[str]) -> dict[str, object]:
    """The same figures for a program."""
    return {
        "formats": _values(report.formats),
        "logins": _values(report.logins),
        "marks": {"formats": _marks(report.formats), "logins": _marks(report.logins)},
        "growth": report.growth,
        "floor": report.floors,
        "floor_bits": {name: _floor_terms(name, entity_ids) for name in NAMES},
        "to_floor": report.to_floor,
        "goals": {
            "small": report.small.get(PLAIN),
            "W1": _values(report.formats).get(PLAIN, {}).get("W1"),
        },
        "design_goals": [
            {"goal": str(goal), "value": value, "met": goal.is_met(value)}
            for goal, value in _judged(report)
        ],
        "limits": LIMITS,
        "versions": report.versions,
        "notes": report.notes,
        "left_out": report.left_out,
    }


def _values(table: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, int | None]]:
    return {
        row: {key: getattr(cell, "value", None) for key, cell in cells.items()}
        for row, cells in table.items()
    }


def _marks(table: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """What is printed behind a figure: browsers drop such a cookie, or entityIDs are invented."""
    marks = {
        row: {key: mark for key, cell in cells.items() if (mark := getattr(cell, "mark", ""))}
        for row, cells in table.items()
    }
    return {row: found for row, found in marks.items() if found}


def _judged(report: Report) -> list[tuple[Goal, int]]:
    found = []
    for goal in GOALS:
        value = goal.value(report) if goal.row in report.formats else None
        if value is not None:
            found.append((goal, value))
    return found


def _floor_terms(name: str, entity_ids: Sequence[str]) -> dict[str, float]:
    """Of the first seed: the table shows how the floor comes about, not a median."""
    return floor_bits(make_workload(name, 0, entity_ids), len(entity_ids))


def _print(report: Report, seeds: int, entity_ids: Sequence[str]) -> None:
    print(f"Cookie bytes, name=value of every cookie; median over {seeds} seeds")
    print_table("The standard workloads", report.formats)
    print_table("Service logins beside W1 that fit into so many cookie bytes", report.logins)
    print("\n* at least one single cookie is over 4096 bytes, and browsers drop it")
    print("- the product refuses to write it")
    if any(cell.mark for cells in report.logins.values() for cell in cells.values()):
        print(f"+ more than the {len(entity_ids)} entityIDs of the file; the others are invented")
    if len(entity_ids) < max(LOGINS.values()):
        print(f"The file has {len(entity_ids)} entityIDs: what the workloads lack is invented")
    _print_growth(report)
    _print_floor(report, entity_ids)
    print("\nGoals")
    for goal, value in _judged(report):
        print(f"  {goal}: {value}: {'met' if goal.is_met(value) else 'NOT MET'}")
    print_notes("The products", _products(report))
    print_notes("Left out", report.left_out)


def _products(report: Report) -> dict[str, str]:
    return {row: f"{report.notes[row]} ({listed(found)})" for row, found in report.versions.items()}


def _print_growth(report: Report) -> None:
    shown = {row: {key: cells[key] for key in SHOWN} for row, cells in report.growth.items()}
    print_table("Cookie bytes by the number of service logins", shown)
    print("\n" + "\n".join(f"  {limit} bytes: {name}" for name, limit in LIMITS.items()))


def _print_floor(report: Report, entity_ids: Sequence[str]) -> None:
    print_table(
        f"The floor's bits, seed 0, of {len(entity_ids)} known services; times to the minute",
        {name: _floor_terms(name, entity_ids) for name in NAMES},
        places=0,
        turned=True,
    )
    print_table(
        f"The floor in cookie bytes: 9 for '__Host-s=', {BITS_PER_CHARACTER:.2f} bits a character",
        report.floors,
        places=0,
    )
    print_table("Times the floor (where it derives: the floor of that)", report.to_floor)
    print("\nPeers' rows hold no time of a login, which the floor counts.")


if __name__ == "__main__":
    main()
