"""How many cookie bytes does a session take, here and elsewhere?

Knows the rows, the medians and how to print them. Does not know how a product makes its cookies or
what is in a workload. Run it as a script; without any peer installed it shows our row alone.

    python benchmarks/sizes.py [--seeds N] [--entity-ids FILE] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cookie_pairs import is_kept_by_browsers, pair_bytes, pairs
from benchmarks.ours import sealedstate_cookie_bytes, sealedstate_set_cookies
from benchmarks.peers import PEERS, Peer
from benchmarks.workloads import (
    ENTITY_IDS,
    LOGINS,
    NAMES,
    Workload,
    make_signed_in,
    make_small,
    make_workload,
    read_entity_ids,
)

OURS = "sealedstate"
OUR_NOTE = (
    "encrypted (XChaCha20-Poly1305), chunked; measured with room for eight cookies, W4 in two parts"
)
BUDGETS = (2900, 4096, 8190)
GOALS = {"small": 220, "W1": 330}
MOST_LOGINS = 4096

SetCookies = Callable[[Workload], list[str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A median. None stands for a product that wrote no cookie."""

    value: int | None
    mark: str = ""

    def __str__(self) -> str:
        return "-" if self.value is None else f"{self.value}{self.mark}"


@dataclass(frozen=True, slots=True)
class Row:
    """One product, ready to be measured."""

    name: str
    note: str
    set_cookies: SetCookies
    versions: dict[str, str]


@dataclass(slots=True)
class Report:
    """What was measured, by row."""

    formats: dict[str, dict[str, Cell]] = field(default_factory=dict)
    logins: dict[str, dict[str, Cell]] = field(default_factory=dict)
    goals: dict[str, int] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    entity_ids = read_entity_ids(options.entity_ids)
    report = measure(range(options.seeds), entity_ids)
    if options.json:
        print(json.dumps(_as_json(report), indent=2))
    else:
        _print_report(report, options.seeds, len(entity_ids))


def measure(seeds: Sequence[int], entity_ids: Sequence[str]) -> Report:
    """Every product that is there. A peer that breaks is left out with its reason."""
    report = Report(goals=_measure_goals(seeds, entity_ids))
    _add(report, _our_row(), seeds, entity_ids)
    for peer in PEERS:
        try:
            _add(report, _peer_row(peer), seeds, entity_ids)
        except (ImportError, PackageNotFoundError):
            report.left_out[peer.row] = "not installed"
        except Exception as error:
            report.left_out[peer.row] = f"failed: {type(error).__name__}: {error}"
    return report


def _our_row() -> Row:
    return Row(OURS, OUR_NOTE, sealedstate_set_cookies, _our_versions())


def _our_versions() -> dict[str, str]:
    """A checkout that was never installed has a version all the same."""
    from sealedstate import __version__

    return {"sealedstate": __version__, "cbor2": version("cbor2"), "pynacl": version("pynacl")}


def _peer_row(peer: Peer) -> Row:
    emit = peer.start()
    return Row(peer.row, peer.note, lambda load: emit(load.plain()), peer.versions())


def _add(report: Report, row: Row, seeds: Sequence[int], entity_ids: Sequence[str]) -> None:
    """A row appears only when all of it could be measured."""
    formats = {name: _measure_size(row, name, seeds, entity_ids) for name in NAMES}
    logins = _measure_logins(row, seeds, entity_ids)
    report.formats[row.name], report.logins[row.name] = formats, logins
    report.versions[row.name], report.notes[row.name] = row.versions, row.note


def _measure_goals(seeds: Sequence[int], entity_ids: Sequence[str]) -> dict[str, int]:
    loads = {
        "small": [make_small(seed) for seed in seeds],
        "W1": [make_workload("W1", seed, entity_ids) for seed in seeds],
    }
    return {name: _median(map(sealedstate_cookie_bytes, loads[name])) for name in GOALS}


def _measure_size(row: Row, name: str, seeds: Sequence[int], entity_ids: Sequence[str]) -> Cell:
    cookies = [pairs(row.set_cookies(make_workload(name, seed, entity_ids))) for seed in seeds]
    if not all(cookies):
        return Cell(None)
    mark = "" if all(map(is_kept_by_browsers, cookies)) else "*"
    return Cell(_median(map(pair_bytes, cookies)), mark)


def _measure_logins(row: Row, seeds: Sequence[int], entity_ids: Sequence[str]) -> dict[str, Cell]:
    """How many service logins fit beside W1, for each number of cookie bytes."""
    counts: dict[int, list[int]] = {budget: [] for budget in BUDGETS}
    for seed in seeds:

        @cache
        def size_of(logins: int, seed: int = seed) -> int | None:
            load = make_signed_in(logins, seed, entity_ids)
            return pair_bytes(pairs(row.set_cookies(load))) or None

        for budget in BUDGETS:
            counts[budget].append(_bisect(size_of, budget))
    return {str(budget): _login_cell(counts[budget], entity_ids) for budget in BUDGETS}


def _login_cell(counts: list[int], entity_ids: Sequence[str]) -> Cell:
    return Cell(_median(counts), "+" if max(counts) > len(entity_ids) else "")


def _bisect(size_of: Callable[[int], int | None], budget: int) -> int:
    """The largest number of logins that fits; 0 also when not even W1 does."""

    def fits(logins: int) -> bool:
        size = size_of(logins)
        return size is not None and size <= budget

    low, high = 0, 1
    while high < MOST_LOGINS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _median(values: Iterable[int]) -> int:
    """A value that was really measured, also when their number is even."""
    return statistics.median_low(values)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cookie bytes of the standard workloads.")
    parser.add_argument("--seeds", type=_positive, default=15, metavar="N", help="default: 15")
    parser.add_argument("--entity-ids", type=Path, default=ENTITY_IDS, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print numbers for a program")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _as_json(report: Report) -> dict[str, object]:
    return {
        "formats": _values(report.formats),
        "logins": _values(report.logins),
        "goals": report.goals,
        "versions": report.versions,
        "left_out": report.left_out,
    }


def _values(table: dict[str, dict[str, Cell]]) -> dict[str, dict[str, int | None]]:
    return {row: {key: cell.value for key, cell in cells.items()} for row, cells in table.items()}


def _print_report(report: Report, seeds: int, entity_ids: int) -> None:
    print(f"Cookie bytes of the standard workloads, median over {seeds} seeds\n")
    _print_table(report.formats, "")
    print("\nService logins beside W1 that fit into so many cookie bytes\n")
    _print_table(report.logins, " bytes")
    print("\n* at least one single cookie is over 4096 bytes, and browsers drop it")
    if any(cell.mark for cells in report.logins.values() for cell in cells.values()):
        print(f"+ more than the {entity_ids} entityIDs of the file; the others are invented")
    if entity_ids < max(LOGINS.values()):
        print(f"The file has {entity_ids} entityIDs: what the workloads lack is invented")
    _print_goals(report.goals)
    _print_notes(report)


def _print_table(table: dict[str, dict[str, Cell]], unit: str) -> None:
    width = max(map(len, table))
    print(" " * width + "".join(f"{key + unit:>12}" for key in next(iter(table.values()))))
    for row, cells in table.items():
        print(f"{row:<{width}}" + "".join(f"{cell!s:>12}" for cell in cells.values()))


def _print_goals(goals: dict[str, int]) -> None:
    print(f"\nGoals of {OURS}, in cookie bytes")
    titles = {"small": "a subject, a CSRF secret, three small values", "W1": "W1"}
    for name, limit in GOALS.items():
        verdict = "held" if goals[name] < limit else "MISSED"
        print(f"  {titles[name]}: {goals[name]}, goal under {limit}: {verdict}")


def _print_notes(report: Report) -> None:
    print("\nThe products")
    for row, versions in report.versions.items():
        listed = ", ".join(f"{name} {number}" for name, number in versions.items())
        print(f"  {row}: {report.notes[row]} ({listed})")
    for row, reason in report.left_out.items():
        print(f"  {row}: left out, {reason}")


if __name__ == "__main__":
    main()
