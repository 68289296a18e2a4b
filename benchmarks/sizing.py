"""Cookie bytes by row: of the workloads, of sessions that grow, and how many logins fit.

Knows rows, medians over seeds and how a number of logins is found. Does not know which products
there are, or how anything is printed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError

from benchmarks.cookie_pairs import is_kept_by_browsers, pair_bytes, pairs
from benchmarks.dress import Progress, chosen
from benchmarks.floor import floor_bytes
from benchmarks.workloads import NAMES, Workload, make_signed_in, make_small, make_workload

BUDGETS = (2900, 4096, 8190)
GROWTH = tuple(range(0, 201, 10))
GROWTH_SEEDS = 3
SMALL = "small"
MOST_LOGINS = 4096

SetCookies = Callable[[Workload, Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A median. None stands for a product that wrote no cookie."""

    value: int | None
    mark: str = ""

    def __str__(self) -> str:
        return "-" if self.value is None else f"{self.value}{self.mark}"


Cells = dict[str, dict[str, Cell]]


@dataclass(frozen=True, slots=True)
class Row:
    """One product: `start` imports what it needs."""

    name: str
    note: str
    start: Callable[[], SetCookies]
    versions: Callable[[], dict[str, str]]
    derives: bool = False


@dataclass(slots=True)
class Report:
    """What was measured, by row."""

    formats: Cells = field(default_factory=dict)
    logins: Cells = field(default_factory=dict)
    growth: dict[str, dict[str, int | None]] = field(default_factory=dict)
    small: dict[str, int | None] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)
    to_floor: dict[str, dict[str, float]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def measure(
    rows: Iterable[Row],
    seeds: Sequence[int],
    entity_ids: Sequence[str],
    only: Sequence[str] | None = None,
    always: str = "",
) -> Report:
    """Every product that is there. One that breaks is left out with its reason."""
    report = Report(floors=_floors(seeds, entity_ids))
    by_name = {row.name: row for row in rows}
    names = chosen(list(by_name), only, always)
    with Progress("sizes", len(names) * (len(NAMES) + len(seeds) + 1)) as progress:
        for name in names:
            try:
                _Measuring(by_name[name], seeds, entity_ids, progress).add_to(report)
            except (ImportError, PackageNotFoundError):
                report.left_out[name] = "not installed"
            except Exception as error:
                report.left_out[name] = f"failed: {type(error).__name__}: {error}"
    return report


class _Measuring:
    """All figures of one row; it appears only when all of them could be measured."""

    def __init__(
        self, row: Row, seeds: Sequence[int], entity_ids: Sequence[str], progress: Progress
    ) -> None:
        self._row, self._seeds, self._entity_ids = row, seeds, entity_ids
        self._progress = progress
        self._set_cookies = row.start()

    def add_to(self, report: Report) -> None:
        name = self._row.name
        versions = self._row.versions()
        formats = {load: self._format(load) for load in NAMES}
        logins = self._logins()
        growth = self._growth()
        report.small[name] = _median(self._size(make_small(seed)) for seed in self._seeds)
        report.formats[name], report.logins[name], report.growth[name] = formats, logins, growth
        report.to_floor[name] = self._to_floor(formats, report.floors)
        report.versions[name], report.notes[name] = versions, self._row.note

    def _size(self, load: Workload) -> int | None:
        return pair_bytes(pairs(self._set_cookies(load, self._entity_ids))) or None

    def _format(self, name: str) -> Cell:
        loads = [make_workload(name, seed, self._entity_ids) for seed in self._seeds]
        cookies = [pairs(self._set_cookies(load, self._entity_ids)) for load in loads]
        self._progress.step(f"{self._row.name} {name}")
        if not all(cookies):
            return Cell(None)
        mark = "" if all(map(is_kept_by_browsers, cookies)) else "*"
        return Cell(statistics.median_low(map(pair_bytes, cookies)), mark)

    def _growth(self) -> dict[str, int | None]:
        seeds = self._seeds[:GROWTH_SEEDS]
        sizes = {
            str(logins): _median(
                self._size(make_signed_in(logins, seed, self._entity_ids)) for seed in seeds
            )
            for logins in GROWTH
        }
        self._progress.step(f"{self._row.name} growth")
        return sizes

    def _logins(self) -> dict[str, Cell]:
        """How many service logins fit beside W1, for each number of cookie bytes."""
        counts: dict[int, list[int]] = {budget: [] for budget in BUDGETS}
        near: dict[int, int] = {}
        for seed in self._seeds:

            @cache
            def size_of(logins: int, seed: int = seed) -> int | None:
                return self._size(make_signed_in(logins, seed, self._entity_ids))

            for budget in BUDGETS:
                near[budget] = most_logins(size_of, budget, near.get(budget))
                counts[budget].append(near[budget])
            self._progress.step(f"{self._row.name} logins")
        return {str(budget): self._login_cell(counts[budget]) for budget in BUDGETS}

    def _login_cell(self, counts: list[int]) -> Cell:
        invented = max(counts) > len(self._entity_ids)
        return Cell(statistics.median_low(counts), "+" if invented else "")

    def _to_floor(
        self, formats: Mapping[str, Cell], floors: Mapping[str, Mapping[str, float]]
    ) -> dict[str, float]:
        floor = floors["derived" if self._row.derives else "stored"]
        return {
            name: cell.value / floor[name]
            for name, cell in formats.items()
            if cell.value is not None
        }


def most_logins(size_of: Callable[[int], int | None], budget: int, near: int | None = None) -> int:
    """The largest number of logins that fits; 0 also when not even W1 does. `near`: a guess."""

    def fits(logins: int) -> bool:
        size = size_of(logins)
        return size is not None and size <= budget

    low = 0
    high = (_guess(size_of, budget) if near is None else near) + 1
    while high < MOST_LOGINS and fits(high):
        low, high = high, high + max(1, high // 16)
    step = 1
    while low < high - step and not fits(high - step):
        high, step = high - step, 2 * step
    low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _guess(size_of: Callable[[int], int | None], budget: int) -> int:
    """Sizes grow about evenly."""
    none, some = size_of(0), size_of(16)
    if none is None or some is None or some <= none:
        return 1
    return max(1, (budget - none) * 16 // (some - none))


def _floors(seeds: Sequence[int], entity_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for kind in ("stored", "derived"):
        found[kind] = {
            name: statistics.median_low(
                floor_bytes(
                    make_workload(name, seed, entity_ids),
                    len(entity_ids),
                    derived=kind == "derived",
                )
                for seed in seeds
            )
            for name in NAMES
        }
    return found


def _median(sizes: Iterable[int | None]) -> int | None:
    """A value that was really measured, also when their number is even."""
    found = list(sizes)
    known = [size for size in found if size is not None]
    return statistics.median_low(known) if len(known) == len(found) else None
