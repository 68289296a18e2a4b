"""What a request costs in a framework with the framework's own session, and with ours.

Whole: the request in its framework, times the same request with our session. What a session adds:
the request less the same without any session. Rounds, turns and ratios are those of `cpu_rounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError
from typing import Any

from benchmarks.cpu_rounds import Times, Turn, run
from benchmarks.dress import Progress, print_notes, print_table, verdict
from benchmarks.framework_apps import CONTENDERS, OURS, SIGNED, WITHOUT, Contender
from benchmarks.request_apps import KINDS
from benchmarks.store_servers import NotThere
from benchmarks.workloads import ENTITY_IDS, make_workload, read_entity_ids

LOAD, SEED = "W1", 1
# How many times as long as Starlette's signed session ours may take. Every session of a framework
# that is not signed only must take longer than ours.
SIGNED_ROW, SIGNED_GOAL = "Starlette: signed", 1.3


@dataclass(slots=True)
class Frameworks:
    """By row and kind: microseconds of a request, and what its session adds; times ours."""

    microseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    added: dict[str, dict[str, float]] = field(default_factory=dict)
    whole: dict[str, dict[str, float]] = field(default_factory=dict)
    marginal: dict[str, dict[str, float]] = field(default_factory=dict)
    protection: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rows() -> list[str]:
    """The names of all rows."""
    return [contender.row for contender in CONTENDERS]


def distributions(report: Frameworks) -> list[str]:
    """What the rows are made of that took part."""
    contenders = [contender for contender in CONTENDERS if contender.row in report.protection]
    return [name for contender in contenders for name in contender.distributions]


def measure(
    rounds: int,
    milliseconds: float,
    names: Sequence[str],
    page: Callable[[], object] | None = None,
) -> Frameworks:
    """All chosen rows that are installed, and ours of their frameworks, in the same rounds.

    `page`: other work between each request and the next.
    """
    report, turns = Frameworks(), dict[str, Turn]()
    started = start(names, turns, report)
    if started:
        with Progress("frameworks", rounds) as progress:
            found = run(turns, rounds, milliseconds, progress, page=page)
        for contender in started:
            _note(contender, found, report)
    return report


def start(names: Sequence[str], turns: dict[str, Turn], report: Frameworks) -> list[Contender]:
    """Add the turns of all chosen rows that are installed, and of ours in their frameworks."""
    chosen = {contender.framework for contender in CONTENDERS if contender.row in names}
    started = []
    for contender in CONTENDERS:
        is_ours = contender.session == OURS and contender.framework in chosen
        if (is_ours or contender.row in names) and _start(contender, turns, report):
            started.append(contender)
    return started


def _start(contender: Contender, turns: dict[str, Turn], report: Frameworks) -> bool:
    load = make_workload(LOAD, SEED, read_entity_ids(ENTITY_IDS))
    try:
        started = contender.start(load)
    except (ImportError, PackageNotFoundError):
        report.left_out[contender.row] = "not installed"
    except NotThere as reason:
        report.left_out[contender.row] = str(reason)
    except Exception as error:
        report.left_out[contender.row] = f"failed: {type(error).__name__}: {error}"
    else:
        turns.update({f"{contender.row}/{kind}": turn for kind, turn in started.items()})
        return True
    return False


def _note(contender: Contender, found: dict[str, Times], report: Frameworks) -> None:
    row, ours = contender.row, f"{contender.framework}: {OURS}"
    report.protection[row] = contender.protection
    report.microseconds[row] = {
        kind: found[f"{row}/{kind}"].microseconds for kind in (WITHOUT, *KINDS)
    }
    for kind in KINDS:
        whole = found[f"{row}/{kind}"]
        added = whole.less(found[f"{row}/{WITHOUT}"])
        report.added.setdefault(row, {})[kind] = added.microseconds
        if f"{ours}/{kind}" in found:
            own = found[f"{ours}/{kind}"]
            report.whole.setdefault(row, {})[kind] = whole.ratio_to(own)
            marginal = added.ratio_to(own.less(found[f"{ours}/{WITHOUT}"]))
            report.marginal.setdefault(row, {})[kind] = marginal


def print_report(report: Frameworks) -> None:
    """Tables, goals and what was left out."""
    print_table("In a framework: a whole request, microseconds", report.microseconds)
    print_table("In a framework: a whole request, times the same with ours", report.whole)
    print_table("In a framework: what the session adds, times what ours adds", report.marginal)
    if report.whole:
        print("\nGoals in frameworks")
    for row, ratios in report.whole.items():
        for kind, ratio in ratios.items():
            if row == SIGNED_ROW:
                met = verdict(1 / ratio, SIGNED_GOAL)
                print(f"  {row}, {kind}: ours takes {1 / ratio:.2f} of it, at most 1.3: {met}")
            elif report.protection[row] != SIGNED and not row.endswith(OURS):
                met = verdict(1 / ratio, 1)
                print(f"  {row}, {kind}: ours takes {1 / ratio:.2f} of it, at most 1: {met}")
    print_notes("Sessions in frameworks", report.protection)
    print_notes("Left out of the frameworks", report.left_out)
