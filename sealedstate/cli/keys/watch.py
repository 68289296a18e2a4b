"""``sealedstate keys watch``: list and check, again and again, until somebody has seen enough.

Knows terminals, and which changes are worth a line. Does not know what is listed or checked.

A terminal is drawn anew each time. Elsewhere, as in a log, there is one line for each change.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..output import exact, many, plain, show
from .check import Checked, checked
from .listing import as_text, states
from .source import Look, RingSource

CLEAR = "\x1b[H\x1b[2J\x1b[3J"


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a look is compared with the next."""

    sequence: int | None = None
    states: dict[str, str] = field(default_factory=dict)
    processes: int = 0
    findings: dict[tuple[str, str], str] = field(default_factory=dict)


def watch(source: RingSource, given: argparse.Namespace) -> int:
    try:
        _watch(source, given.every)
    except KeyboardInterrupt:
        return 0  # that is how one ends it
    return 0


def _watch(source: RingSource, every: float) -> None:
    looks: list[Look] = []
    seen = Seen()
    while True:
        found = checked(source, before=looks[0] if looks else None)
        if sys.stdout.isatty():
            show(f"{CLEAR}{_page(source, found)}")
        else:
            now, last, seen = source.now(), seen, _seen(found)
            for line in _changes(last, seen):
                show(f"{exact(now)} {line}")
        looks = _recent([*looks, *([found.look] if found.look else [])], source)
        time.sleep(every)


def _recent(looks: list[Look], source: RingSource) -> list[Look]:
    """Those by which it shows what still arrives: a process reports once in each reload_every."""
    since = source.now() - 2 * source.config.reload_every
    return [look for look in looks if look.now >= since]


def _page(source: RingSource, found: Checked) -> str:
    lines = [f"{finding.about}: {finding.sentence}." for finding in found.findings]
    shown = [] if found.look is None else as_text(source, found.look)
    return "\n".join([*shown, "", *(lines or ["Nothing is wrong."]), "", "Ctrl-C ends this."])


def _seen(found: Checked) -> Seen:
    findings = {finding.name: finding.sentence for finding in found.findings}
    if found.look is None:
        return Seen(findings=findings)
    ring = found.look.ring
    known = {kid: state.value for kid, state in states(ring, found.look.now).items()}
    return Seen(ring.sequence, known, len(found.look.reports), findings)


def _changes(before: Seen, after: Seen) -> Iterator[str]:
    if after.sequence != before.sequence:
        yield f"sequence {before.sequence or 'none'} -> {after.sequence or 'none'}"
    for kid in sorted(before.states.keys() | after.states.keys()):
        old, new = before.states.get(kid, "unknown"), after.states.get(kid, "gone")
        if old != new:
            yield f"{kid} {old} -> {new}"
    if after.processes != before.processes:
        yield f"reports of {many(after.processes, 'process', 'processes')}"
    for name in after.findings.keys() - before.findings.keys():
        yield f"found: {name[0]}: {after.findings[name]}"
    for name in before.findings.keys() - after.findings.keys():
        yield plain(f"settled: {' '.join(name)}".strip())
