"""``sealedstate keys check``: what is wrong with a ring, its place, its nodes and their clocks.

Knows in which order things are looked at, and what is told. Does not know what makes a finding.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

from ...errors import OperatorError
from ..output import many, plain, show
from .listing import by_node
from .node_checks import of_ending_keys, of_nodes, of_report_files
from .ring_checks import Finding, of_clocks, of_missing, of_place, of_ring
from .source import Look, RingSource, look_at


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has found. `look` is None where there is no ring to be looked at."""

    look: Look | None
    findings: list[Finding]


def checked(source: RingSource, before: Look | None = None) -> Checked:
    """Look at everything. `before`: an earlier look, by which it shows what still arrives."""
    findings = [*of_place(source)]
    if source.path is not None:
        # First of all, for reading reports removes those that have expired.
        findings += of_report_files(source.path, source.config.skew)
    try:
        look = look_at(source)
    except OperatorError as error:
        return Checked(None, [*findings, of_missing(source, error)])
    findings += of_ring(look, source.config, source.is_configured)
    findings += of_clocks(source, look)
    findings += of_nodes(look, source.config, source.reports_here)
    if before is not None:
        findings += of_ending_keys(before, look)
    return Checked(look, findings)


def check(source: RingSource, given: argparse.Namespace) -> int:
    found = checked(source)
    if given.over and found.look is not None:
        time.sleep(given.over)
        found = checked(source, before=found.look)
    if given.json:
        print(json.dumps(_as_json(source, found)))
    else:
        show("\n".join(_as_text(source, found)))
    return 1 if found.findings else 0


def _as_json(source: RingSource, found: Checked) -> dict[str, object]:
    return {
        "where": source.home.location,
        "sequence": None if found.look is None else found.look.ring.sequence,
        "reports": 0 if found.look is None else len(found.look.reports),
        "findings": [asdict(finding) for finding in found.findings],
        "unchecked": _unchecked(source, found),
    }


def _as_text(source: RingSource, found: Checked) -> list[str]:
    lines = [f"{finding.about}: {finding.sentence}." for finding in found.findings]
    if found.look is not None and not found.findings:
        lines.append(f"{plain(source.home.location)}: {_who_agrees(found.look)}, nothing is wrong.")
    return [*lines, *(f"not checked: {what}." for what in _unchecked(source, found))]


def _who_agrees(look: Look) -> str:
    if not look.reports:
        return f"sequence {look.ring.sequence}, no process reports"
    processes = many(len(look.reports), "process", "processes")
    nodes = many(len(by_node(look.reports)), "node", "nodes")
    return f"sequence {look.ring.sequence}, reports of {processes} on {nodes}"


def _unchecked(source: RingSource, found: Checked) -> list[str]:
    if found.look is None:
        return []
    unchecked = []
    if not source.is_configured:
        unchecked.append(
            "whether the ring keeps what the configuration promises; name that by --config"
        )
    if not (found.look.reports or source.reports_here or found.look.unreported):
        unchecked.append("nodes, for none reports; those with rotate_in_process do")
    return unchecked
