"""How many instructions a session costs, counted by callgrind: a ratchet for `make check`.

    python benchmarks/instructions.py            # fails where a step costs 1 % more than recorded
    python benchmarks/instructions.py --record   # writes the counts into instructions.json

Unlike times, counts are the same on a busy machine, so a change of 1 % shows. They differ between
releases of Python and of the libraries, so nothing is compared with counts of others. Without
valgrind, its header or a C compiler (in Debian: valgrind, gcc, libc6-dev), nothing is counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "middleware"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.callgrind import add_marks, count_turns, run_turns
from benchmarks.cases import CART
from benchmarks.cpu_rounds import BEFORE, Step, Turn, looped
from benchmarks.request_apps import KINDS, Page, make_environ, start_ours
from benchmarks.revisit_ours import SEEN
from benchmarks.revisit_ours import start_ours as start_keeper
from benchmarks.workloads import ENTITY_IDS, make_workload, read_entity_ids

RECORDED = Path(__file__).with_name("instructions.json")
SEED = 1
MOST = 1.01
"""By how much a count may grow."""


# --- what is counted ------------------------------------------------------------------------------


def turns() -> dict[str, Turn]:
    """The turns, by name: a session opened and saved by a keeper, and requests behind WSGI."""
    loads = {name: make_workload(name, SEED, read_entity_ids(ENTITY_IDS)) for name in ("W1", "W3")}
    found = {f"{name} opened, changed, saved": start_keeper(load) for name, load in loads.items()}
    numbers = count()

    def fill(session: Any) -> None:
        session["cart"], session[SEEN] = [dict(item) for item in CART], BEFORE

    def read(session: Any) -> None:
        _ = session["cart"][3]["count"]

    def change(session: Any) -> None:
        session["cart"][3]["count"] = 2 + next(numbers) % 7

    pages: dict[str, tuple[Page, Page, Page] | None] = {"W1": None, "cart": (fill, read, change)}
    for what, page_of in pages.items():
        started = start_ours(loads["W1"], page_of)
        for kind in KINDS:
            if what == "W1" or kind != KINDS[0]:
                name = f"request, {what} {kind}"
                found[name] = request_step(started.by_kind[kind], started.cookie)
    return {name: looped(step) for name, step in found.items()}


def request_step(application: Any, cookie: str) -> Step:
    """A request as a server makes it: with its own environ, and a body that is read and closed."""
    template = make_environ(cookie)

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        return None

    def step(_: int) -> object:
        body = application(template.copy(), start_response)
        sent = b"".join(body)
        getattr(body, "close", str)()
        return sent

    return step


# --- the ratchet ----------------------------------------------------------------------------------


def releases() -> dict[str, str]:
    """What counts depend on, besides the source."""
    names = ("cbor2", "pynacl")
    return {"python": platform.python_version(), "machine": platform.machine()} | {
        name: version(name) for name in names
    }


def compare(recorded: Mapping[str, int], counted: Mapping[str, int]) -> list[str]:
    """The steps that cost too much, or that are missing on one side, in a line each."""
    problems = [f"{name}: not both recorded and counted" for name in recorded.keys() ^ counted]
    for name in recorded.keys() & counted:
        before, now = recorded[name], counted[name]
        if now > before * MOST:
            problems.append(f"{name}: {now:,} instructions, {now / before - 1:+.1%} of {before:,}")
    return problems


def main(arguments: Sequence[str]) -> int:
    """1 if a step costs too much."""
    parser = argparse.ArgumentParser(description="Count the instructions of sessions.")
    parser.add_argument("--record", action="store_true", help="write the counts into the file")
    add_marks(parser)
    options = parser.parse_args(arguments)
    if options.marks is not None:
        run_turns(options.marks, turns())
        return 0
    recorded = json.loads(RECORDED.read_text("utf-8")) if RECORDED.exists() else {}
    here = releases()
    if not options.record and recorded.get("releases") != here:
        print(f"instructions: recorded with {recorded.get('releases')}; not counted with {here}")
        return 0
    counted = count_turns(__file__)
    if isinstance(counted, str):
        print(f"instructions: not counted, because {counted}")
        return 0
    for name, number in counted.items():
        print(f"{number:10,}  {name}")
    if options.record:
        document = {"releases": here, "instructions": counted}
        RECORDED.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        return 0
    problems = compare(recorded["instructions"], counted)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("Make it cheaper, or record it: benchmarks/instructions.py --record", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
