"""What may be wrong with nodes, by what they tell about themselves.

Knows reports, a ring and the time. Does not know where reports hang.

Counts are those since each process started. So what still comes under a key is seen only by who
looks twice.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...keyring import KeyState
from ...rotation.reports import Report
from ...rotation.ring import Ring
from ...rotation.source import RotationConfig
from ..output import duration, listed, plain, relative
from .listing import by_node, counted, states
from .ring_checks import Finding
from .source import Look, kids_ever

# A process misses its report now and then; one that misses so many rounds is gone.
ROUNDS = 10
# Kids can be invented. A few of them are no finding.
STRANGE_SHARE = 0.01
REPORT_BYTES = 1 << 16


def of_nodes(look: Look, config: RotationConfig, reports_here: bool) -> Iterator[Finding]:
    """Everything that one look at the reports shows."""
    if look.unreported is not None:
        yield Finding("reports", "", f"{plain(look.unreported)}: what nodes tell could not be read")
    elif not look.reports and reports_here:
        yield from _of_silence(look, config)
    margin = config.reload_every + look.ring.schedule.skew
    for node, reports in by_node(look.reports).items():
        yield from _of_rings(node, reports, look.ring, margin)
        yield from _of_keys(node, reports, look, margin)
        yield from _of_complaints(node, reports)
        yield from _of_clock(node, reports, look)
    yield from _of_strangers(look)


def _of_silence(look: Look, config: RotationConfig) -> Iterator[Finding]:
    since = ROUNDS * config.reload_every
    if look.now - min(key.created_at for key in look.ring.keys) < since:
        return  # perhaps the nodes are only being started
    yield Finding(
        "reports",
        "",
        f"no process has reported for {duration(since)}, though this configuration lets each one"
        " rotate and report: either none runs with it, or their logs say why they can't write",
    )


# --- rings --------------------------------------------------------------------------------------


def _of_rings(node: str, reports: list[Report], ring: Ring, margin: int) -> Iterator[Finding]:
    """Processes that go by another ring, or by another state of it, when they should not any more.

    A process that has loaded the ring before it was written tells nothing.
    """
    late = [report for report in reports if report.at > ring.updated_at + margin]
    others = [report for report in late if report.ring != ring.ring_id]
    behind = [report for report in late if report not in others and _lag(report, ring) > 0]
    ahead = [report for report in reports if report.ring == ring.ring_id and _lag(report, ring) < 0]
    if others:
        yield Finding(
            "nodes",
            f"{node} ring",
            f"{_name(node, others)} uses another ring, {plain(others[0].ring, 16)} and not"
            f" {plain(ring.ring_id, 16)}: give it the same `keys`, realm and store or volume as"
            " the others, and restart it",
        )
    if behind:
        yield Finding(
            "nodes",
            f"{node} sequence",
            f"{_name(node, behind)} still uses sequence {behind[0].sequence} of the ring and not"
            f" {ring.sequence}: see in its log why it can't load the ring; does it read the same"
            " volume or store?",
        )
    if ahead:
        yield Finding(
            "nodes",
            f"{node} sequence",
            f"{_name(node, ahead)} uses sequence {ahead[0].sequence} of the ring, and here is only"
            f" {ring.sequence}: an older one was put in its place; restore the newer one, or"
            " restart all nodes",
        )


def _lag(report: Report, ring: Ring) -> int:
    return ring.sequence - report.sequence


# --- keys ---------------------------------------------------------------------------------------


def _of_keys(node: str, reports: list[Report], look: Look, margin: int) -> Iterator[Finding]:
    """Keys that a node lacks and visitors have."""
    carried = _carried(look)
    known = {key.kid.hex() for key in look.ring.keys}
    known.update(*(report.known for report in look.reports))
    for kid in sorted(known & carried.keys()):
        lacking = [report for report in reports if _lacks(report, kid, look.ring, margin)]
        if lacking:
            yield Finding(
                "nodes",
                f"{node} {kid}",
                f"{_name(node, lacking)} lacks kid {plain(kid, 8)}, which"
                f" {_share(carried[kid], carried.total())} of cookies carry: it goes by sequence"
                f" {lacking[0].sequence} of ring {plain(lacking[0].ring, 16)}, and here is"
                f" {look.ring.sequence} of {plain(look.ring.ring_id, 16)}",
            )


def _lacks(report: Report, kid: str, ring: Ring, margin: int) -> bool:
    had_time = report.at > ring.updated_at + margin
    is_refusing = report.unknown.get(kid, 0) > 0
    return kid not in report.known and (had_time or is_refusing)


def _carried(look: Look) -> Counter[str]:
    """How many cookies came under each kid, at all processes, opened or not."""
    kinds = ("opened", "unknown", "refused")
    return sum((counted(look.reports, kind) for kind in kinds), Counter[str]())


def _of_strangers(look: Look) -> Iterator[Finding]:
    carried = _carried(look)
    known = kids_ever(look.ring).union(*(report.known for report in look.reports))
    strange = {kid: n for kid, n in carried.items() if len(kid) == 8 and kid not in known}
    for kid, count in strange.items():
        if count >= STRANGE_SHARE * carried.total():
            yield Finding(
                "unknown-kid",
                kid,
                f"no node that reports here knows kid {plain(kid, 8)}, which"
                f" {_share(count, carried.total())} of cookies carry: another node has another"
                " ring (do all name the same volume or store?), a ring was lost, or another"
                " application sets cookies of this name",
            )


def _share(count: int, total: int) -> str:
    percent = 100 * count / total
    return "less than 1 %" if percent < 1 else f"{percent:.0f} %"


def of_ending_keys(before: Look, after: Look) -> Iterator[Finding]:
    """Keys that will soon open nothing any more, and under which cookies came between two looks."""
    ring, now = after.ring, after.now
    soon = now + ring.schedule.opens_after_retirement // 10
    known, opened = states(ring, now), _opened_between(before, after)
    for key in ring.keys:
        kid, expires_at = key.kid.hex(), ring.expires_at(key)
        if known[kid] is KeyState.RETIRED and opened[kid] and expires_at and expires_at <= soon:
            yield Finding(
                "ending-key",
                kid,
                f"{kid} expires {relative(expires_at, now)}, and {opened[kid]} cookies came under"
                f" it in the last {duration(now - before.now)}: those sessions will end; if that"
                " is too early, set a longer absolute_lifetime and run `sealedstate keys rotate`",
            )


def _opened_between(before: Look, after: Look) -> Counter[str]:
    earlier = {(report.node, report.pid): report for report in before.reports}
    total: Counter[str] = Counter()
    for report in after.reports:
        start = earlier.get((report.node, report.pid))
        total.update(report.opened)
        total.subtract({} if start is None else start.opened)
    return total


# --- what they say, and when --------------------------------------------------------------------


def _of_complaints(node: str, reports: list[Report]) -> Iterator[Finding]:
    for complaint in sorted({report.complaint for report in reports if report.complaint}):
        those = [report for report in reports if report.complaint == complaint]
        yield Finding(
            "nodes",
            f"{node} {complaint}",
            f"{_name(node, those)} keeps the last good ring and complains: {plain(complaint, 400)}",
        )
    sealing_nothing = [report for report in reports if report.primary is None]
    if sealing_nothing:
        yield Finding(
            "nodes",
            f"{node} primary",
            f"{_name(node, sealing_nothing)} has no key that may seal: is its clock right?",
        )


def _of_clock(node: str, reports: list[Report], look: Look) -> Iterator[Finding]:
    ahead = [report for report in reports if report.at > look.now + look.ring.schedule.skew]
    if ahead:
        yield Finding(
            "clock",
            f"{node} ahead",
            f"the clock of {_name(node, ahead)} is {duration(ahead[0].at - look.now)} ahead of"
            " the one of this machine: set both by NTP",
        )


def of_report_files(ring_path: Path, skew: int) -> Iterator[Finding]:
    """Nodes whose clock is behind that of the volume: their reports seem to be old at once."""
    behind: dict[str, float] = {}
    for file in sorted(Path(f"{ring_path}.nodes").glob("*.json")):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            with file.open("rb") as opened:
                report = Report.parse(opened.read(REPORT_BYTES).partition(b"\n")[2])
        except (OSError, ValueError):
            continue  # it may be gone by now, or be no report
        if status.st_mtime > report.at + skew:
            behind[report.node] = status.st_mtime - report.at
    for node, seconds in behind.items():
        yield Finding(
            "clock",
            f"{node} behind",
            f"the clock of {plain(node, 40)} is {duration(seconds)} behind that of the volume:"
            " set both by NTP; by other clocks, its reports have expired when they are made",
        )


def _name(node: str, reports: list[Report]) -> str:
    pids = [str(report.pid) for report in reports]
    return f"{plain(node, 40)} (pid {listed(pids)})"
