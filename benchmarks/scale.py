"""What does a server hold for its sessions, and how does their cost grow?

Knows what is asked, the goal and how to print. Does not know how a store is filled or how calls are
timed. Run it as a script; PostgreSQL takes part where it, its driver and pytest are installed.

    python benchmarks/scale.py [--sessions N] [--rounds N] [--only PART]... [--json] [--save FILE]

The parts: memory, sqlite, postgresql, curves.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import crowded_stores, curves
from benchmarks.cpu_rounds import Times
from benchmarks.crowded_stores import Crowd
from benchmarks.curves import DERIVED_LOGINS, OPEN, POINTS, SAVE, STORED_LOGINS
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
from benchmarks.store_servers import NotThere, started
from sealedstate import Keeper, Key, Settings
from sealedstate.storage import open_storage

MEMORY, STORES, CURVES = "memory", ("sqlite", "postgresql"), "curves"
PARTS = (MEMORY, *STORES, CURVES)
GOAL = 2.0
"""Opening a session with 100 logins and reading its subject, times one with none, at most."""
SIGNED_IN = 2000
Growing = dict[str, dict[str, dict[str, float]]]
"""Microseconds by what grows, how much of it there is, and the act."""


@dataclass(slots=True)
class Memory:
    """What a process and its store hold for sessions that fit into their cookies."""

    sessions: int
    rows: int
    process_bytes: float
    """Of the process, per session, after all of them were signed in and opened again."""


@dataclass(slots=True)
class Report:
    """What was asked for."""

    memory: Memory | None = None
    crowds: dict[str, Crowd] = field(default_factory=dict)
    curves: Growing = field(default_factory=dict)
    goals: dict[str, float] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    report = measure(options)
    tell(options, _as_json(report), partial(_print, report))


def measure(options: Namespace) -> Report:
    """Each part that was asked for."""
    report, parts = Report(), chosen(PARTS, options.only, "")
    if MEMORY in parts:
        report.memory = measure_memory(SIGNED_IN)
    for name in STORES:
        if name in parts:
            _measure_store(name, options.sessions, report)
    if CURVES in parts:
        with Progress(CURVES, options.rounds * len(POINTS)) as progress:
            found = curves.measure(options.rounds, progress)
        report.curves = _microseconds(found)
        report.goals = _goals(found)
    return report


def measure_memory(sessions: int) -> Memory:
    """Sign in so many users, open each again, and look at what is left of them on the server."""
    store = open_storage("memory:", lambda: 1_790_000_000.0)
    keys = [Key.generate(os.urandom).export()]
    settings = Settings(
        keys=keys,
        storage=store,
        accept_weak_store_for=["revocation"],
        clock=lambda: 1_790_000_000.0,
    )
    keeper = Keeper(settings)
    _sign_in(keeper, 0)  # what is made once, is
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(sessions):
        _sign_in(keeper, number)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    contexts = ("sealedstate.part", "sealedstate.revoked", "sealedstate.watermark")
    rows = sum(1 for context in contexts for _ in store.keys(context))
    return Memory(sessions, rows, max(0.0, after - before) / sessions)


def _sign_in(keeper: Keeper, number: int) -> None:
    session = keeper.session()
    session.subject = f"user{number}@example.edu"
    session["cart"] = ["tea", number]
    cookie = keeper.save(session)[0].partition(";")[0]
    if keeper.session(cookie)["cart"] != ["tea", number]:
        raise RuntimeError("the session is not there")


def _measure_store(name: str, sessions: int, report: Report) -> None:
    with ExitStack() as stack:
        try:
            place = stack.enter_context(started(name))
            progress = Progress(name, crowded_stores.steps(sessions))
            report.crowds[name] = crowded_stores.measure(
                place.url, sessions, stack.enter_context(progress)
            )
            report.servers[name] = place.version
        except (NotThere, ImportError) as reason:
            report.left_out[name] = str(reason)


def _microseconds(found: Mapping[str, Mapping[int, Mapping[str, Times]]]) -> Growing:
    return {
        what: {
            str(point): {act: times.microseconds for act, times in acts.items()}
            for point, acts in points.items()
        }
        for what, points in found.items()
    }


def _goals(found: Mapping[str, Mapping[int, Mapping[str, Times]]]) -> dict[str, float]:
    return {
        what: found[what][100][OPEN].ratio_to(found[what][0][OPEN])
        for what in (STORED_LOGINS, DERIVED_LOGINS)
    }


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = options_for("What servers hold for sessions, and how their cost grows.")
    parser.add_argument(
        "--sessions", type=positive, default=20_000, metavar="N", help="in a store; default: 20000"
    )
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="default: 15")
    return parser.parse_args(arguments)


def _as_json(report: Report) -> dict[str, object]:
    found = asdict(report)
    return {**found, "goal": GOAL, "versions": _versions()}


def _versions() -> dict[str, str]:
    return versions(("cbor2", "pynacl", "psycopg", "sqlalchemy"))


# --- what is printed ------------------------------------------------------------------------------


def _print(report: Report) -> None:
    print("What a server holds for its sessions, and how their cost grows")
    if (memory := report.memory) is not None:
        print(
            f"\n{memory.sessions} sessions that fit into their cookies, signed in and opened again"
        )
        print(f"  rows in the store: {memory.rows}")
        print(f"  bytes of the process, a session: {memory.process_bytes:.1f}")
    if report.crowds:
        rows = {_title(report, name): _crowd_cells(crowd) for name, crowd in report.crowds.items()}
        print_table("Sessions with one spilled part each", rows, turned=True)
    for what, points in report.curves.items():
        print_table(f"Microseconds by {what}", points, places=1, turned=True)
    for what, ratio in report.goals.items():
        told = verdict(ratio, GOAL)
        print(f"\nGoal: opened with 100 {what}, times none: {ratio:.2f}, at most {GOAL}: {told}")
    print_notes("Acts", {OPEN: "the subject is read", SAVE: "and a part changed, and saved"})
    print_notes("Left out", report.left_out)
    print(f"\n{listed(_versions())}")


def _title(report: Report, name: str) -> str:
    return report.servers.get(name, name)


def _crowd_cells(crowd: Crowd) -> dict[str, object]:
    return {
        "sessions": crowd.sessions,
        "bytes of a sealed part": crowd.row_bytes,
        "bytes on disk, each": f"{crowd.bytes_each:.0f}",
        "MB on disk": f"{crowd.disk_bytes / 1e6:.0f}",
        "recall, p50, ms": crowd.recall["p50"],
        "recall, p99, ms": crowd.recall["p99"],
        "reaped, all": crowd.reaped,
        "seconds to reap": f"{crowd.reap_seconds:.1f}",
        "MB on disk, reaped": f"{crowd.disk_bytes_after / 1e6:.0f}",
    }


if __name__ == "__main__":
    main()
