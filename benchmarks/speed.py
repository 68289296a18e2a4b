"""How long does it take to open and to save a session, beside the bare composition and the peers?

Knows the rows, the goals and how to print them. Does not know how a product works or how calls are
timed. Run it as a script; without any peer installed it shows our rows alone.

    python benchmarks/speed.py [--rounds N] [--only ROW]... [--json]
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
from benchmarks.peers import PEERS
from benchmarks.revisit_ours import (
    start_all_read,
    start_bare,
    start_login,
    start_ours,
    start_plain,
    start_token,
)
from benchmarks.revisit_peers import start_peer
from benchmarks.workloads import ENTITY_IDS, Workload, make_workload, read_entity_ids

BARE, OURS = "bare composition", "sealedstate"
LOADS = ("W0", "W1", "W2", "W3")
GOALS = {"W1": 0.5, "W3": 0.2}
"""Times the bare composition, at most."""
SEED = 1
MILLISECONDS = 6.0

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
    """Ratios to the bare composition and microseconds, by row and workload."""

    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    microseconds: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: dict[str, Breakdown] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def note(self, load: str, found: dict[str, Times]) -> None:
        bare = found[BARE]
        for name, times in found.items():
            self.ratios.setdefault(name, {})[load] = times.ratio_to(bare)
            self.microseconds.setdefault(name, {})[load] = times.microseconds


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    report = measure(options.rounds, options.only)
    tell(options, _as_json(report), partial(_print, report))


def measure(rounds: int, only: Sequence[str] | None = None) -> Report:
    """Everybody who is there, workload by workload."""
    report, entity_ids = Report(), read_entity_ids(ENTITY_IDS)
    rows = _rows(only)
    with Progress("speed", 2 * rounds * len(LOADS)) as progress:
        for name in LOADS:
            load = make_workload(name, SEED, entity_ids)
            turns = _turns(rows, load, report)
            report.note(name, run(turns, rounds, MILLISECONDS, progress, name))
            report.parts[name] = breakdown(load, rounds, MILLISECONDS, progress, name)
    report.rows = [row for row in rows if row.name in report.ratios]
    return report


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
    return parser.parse_args(arguments)


def _as_json(report: Report) -> dict[str, object]:
    return {
        "open_save": report.ratios,
        "microseconds": report.microseconds,
        "breakdown": {name: part.as_dict() for name, part in report.parts.items()},
        "goals": GOALS,
        "notes": {row.name: row.note for row in report.rows},
        "versions": {row.name: row.versions() for row in report.rows},
        "left_out": report.left_out,
    }


def _print(report: Report) -> None:
    print("Opening and saving a session that arrived, processor time of one thread")
    print_table("Times the bare composition, medians of the rounds' ratios", report.ratios)
    print_table("Microseconds", report.microseconds, places=1)
    for name, part in report.parts.items():
        part.print(name)
    print("\nGoals: opening and saving, times the bare composition")
    for name, limit in GOALS.items():
        value = report.ratios.get(OURS, {}).get(name)
        if value is not None:
            print(f"  {name}: {value:.2f}, at most {limit}: {verdict(value, limit)}")
    print_notes("The rows", {row.name: row.note for row in report.rows})
    print_notes("Left out", report.left_out)
    found = {name: number for row in report.rows for name, number in row.versions().items()}
    print(f"\n{listed(found)}")


if __name__ == "__main__":
    main()
