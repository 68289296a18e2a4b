"""``sealedstate keys check`` and ``watch``: what is wrong with a ring.

Each finding is one sentence that says what is wrong and what to do. The counts in reports begin
with each process, so only two snapshots show which cookies still come with a key.
"""

from __future__ import annotations

import math
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from ..errors import OperatorError, StorageError, escape_text
from ..keyring import KeyState
from ..rotation.reports import Report
from ..rotation.ring import EXTEND, RingReplaced
from ..rotation.ring_store import CONTEXT
from ..rotation.transitions import obsolete_long_term
from ..storage import USES
from ..storage.requirements import mismatch, store_name
from ..storage.routing import store_of
from ._key_listing import KINDS, by_node, count_cookies, kids_ever, lines_of, states_of
from ._output import duration, echo, emit, format_exact, join_words, plural, relative
from ._source import RingSource, Snapshot, ring_command, take_snapshot

# A process that has missed this many reports has ended.
ROUNDS = 10
# Kids can be invented, so a few cookies with an unknown kid are not a finding.
UNKNOWN_SHARE = 0.01
REPORT_BYTES = 1 << 16
# Times are rounded to whole seconds, up or down, and a write takes a moment.
ROUNDING = 2
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class _Seconds(click.FloatRange):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        # A range accepts it, because it is neither less nor more than the ends.
        if math.isnan(seconds):
            self.fail("expected a number of seconds", param, ctx)
        return seconds


SECONDS = _Seconds(0.1, 86400)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    `about`: one of a fixed set of words. `subject`: a key, file or node. `about` and `subject`
    identify a finding as long as it lasts. The sentence may change with time.
    """

    about: str
    subject: str
    sentence: str

    @property
    def name(self) -> tuple[str, str]:
        return (self.about, self.subject)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The findings of one check. `snapshot` is None without a readable ring."""

    snapshot: Snapshot | None = None
    findings: Sequence[Finding] = ()

    @property
    def sequence(self) -> int | None:
        return None if self.snapshot is None else self.snapshot.ring.sequence

    @property
    def processes(self) -> int:
        return 0 if self.snapshot is None else len(self.snapshot.reports)

    @property
    def states(self) -> dict[str, KeyState]:
        if self.snapshot is None:
            return {}
        return states_of(self.snapshot.ring.keyring(), self.snapshot.now)

    @property
    def lines(self) -> list[str]:
        return [f"{finding.about}: {finding.sentence}." for finding in self.findings]


def _run_checks(source: RingSource, before: Snapshot | None = None) -> CheckResult:
    """Check everything.

    `before`: an earlier snapshot, to see which cookies still come.
    """
    findings = list(_check_place(source))
    if source.path is not None:
        # First, because reading reports removes the expired ones.
        findings += _check_report_files(source.path, source.config.skew + ROUNDING)
    try:
        snapshot = take_snapshot(source)
    except OperatorError as error:
        finding = Finding("ring", escape_text(source.location), _explain_missing(source, error))
        return CheckResult(None, [*findings, finding])
    findings += _check_ring(source, snapshot)
    findings += _check_clocks(source, snapshot)
    findings += _check_nodes(snapshot, source)
    if before is not None:
        findings += check_ending_keys(before, snapshot)
    return CheckResult(snapshot, findings)


@ring_command("check")
@click.option(
    "--over",
    metavar="SECONDS",
    type=SECONDS,
    help="Check twice, this many seconds apart, to see which cookies come with ending keys.",
)
def check(source: RingSource, as_json: bool, over: float | None) -> int:
    """Find what is wrong with the ring and its nodes.

    Prints what to do for each finding; then the exit code is 1.
    """
    result = _run_checks(source)
    if over is not None and result.snapshot is not None:
        time.sleep(over)
        result = _run_checks(source, before=result.snapshot)
    snapshot, lines, unchecked = result.snapshot, result.lines, []
    if snapshot is not None and not source.is_configured:
        unchecked.append(
            "whether the ring keeps the promises of the configuration; name that by --config"
        )
    if snapshot and not (snapshot.reports or source.has_reports or snapshot.report_error):
        unchecked.append("nodes, because none reports; nodes with rotate_in_process do")
    if snapshot is not None and not lines:
        processes = "no process reports"
        if snapshot.reports:
            processes = (
                f"reports of {plural(result.processes, 'process', 'processes')} on"
                f" {plural(len(by_node(snapshot.reports)), 'node', 'nodes')}"
            )
        location = escape_text(source.location)
        lines = [f"{location}: sequence {result.sequence}, {processes}, nothing is wrong."]
    facts = {
        "where": source.location,
        "sequence": result.sequence,
        "reports": result.processes,
        "findings": [asdict(finding) for finding in result.findings],
        "unchecked": unchecked,
    }
    emit(as_json, facts, [*lines, *(f"not checked: {what}." for what in unchecked)])
    return 1 if result.findings else 0


@ring_command("watch")
@click.option(
    "--every",
    metavar="SECONDS",
    type=SECONDS,
    default=2.0,
    show_default=True,
    help="Time from one check to the next.",
)
def watch(source: RingSource, as_json: bool, every: float) -> None:
    """List and check the ring again and again, until Ctrl-C.

    A terminal is drawn again each time. Elsewhere, as in a log, each change is a line.
    """
    snapshots: list[Snapshot] = []
    last = CheckResult()
    try:
        while True:
            result = _run_checks(source, before=snapshots[0] if snapshots else None)
            if sys.stdout.isatty():
                listing = lines_of(source, result.snapshot) if result.snapshot else []
                wrong = result.lines or ["Nothing is wrong."]
                lines = [*listing, "", *wrong, "", "Press Ctrl-C to end."]
                sys.stdout.write(CLEAR)
                echo(*lines)
            else:
                for line in list_changes(last, result):
                    echo(f"{format_exact(source.now())} {line}")
            last = result
            # A process reports once in each reload_every.
            since = source.now() - 2 * source.config.reload_every
            snapshots += [result.snapshot] if result.snapshot else []
            snapshots = [snapshot for snapshot in snapshots if snapshot.now >= since]
            time.sleep(every)
    except KeyboardInterrupt:
        return


def list_changes(before: CheckResult, after: CheckResult) -> Iterator[str]:
    """What differs between two checks, one line each."""
    if after.sequence != before.sequence:
        yield f"sequence {before.sequence or 'none'} -> {after.sequence or 'none'}"
    old_states, new_states = before.states, after.states
    for kid in sorted(old_states.keys() | new_states.keys()):
        old = old_states[kid].value if kid in old_states else "unknown"
        new = new_states[kid].value if kid in new_states else "gone"
        if old != new:
            yield f"{kid} {old} -> {new}"
    if after.processes != before.processes:
        yield f"reports of {plural(after.processes, 'process', 'processes')}"
    old_names, new_names = ({each.name for each in result.findings} for result in (before, after))
    for finding in after.findings:
        if finding.name not in old_names:
            yield f"found: {finding.about}: {finding.sentence}"
    for finding in before.findings:
        if finding.name not in new_names:
            yield escape_text(f"settled: {' '.join(finding.name)}".strip())


def _check_place(source: RingSource) -> Iterator[Finding]:
    """Files and stores, whatever they contain."""
    if source.path is not None:
        for path in (source.path, Path(f"{source.path}.prev")):
            mode, name = _mode_of(path, stat.S_ISREG), escape_text(path)
            if mode & (stat.S_IWOTH | stat.S_IWGRP):
                writers = "all users" if mode & stat.S_IWOTH else "its group"
                yield Finding(
                    "permissions",
                    name,
                    f"{name} is writable by {writers}, so they can put in other keys: run chmod 600"
                    " on it, and check with `sealedstate keys list` that these are your keys",
                )
            elif mode & stat.S_IROTH and not source.is_wrapped:
                yield Finding(
                    "permissions",
                    name,
                    f"{name} is readable by all users and contains keys: run chmod o-r on it, and"
                    " revoke its keys if another user may have read it",
                )
        folder = source.path.parent
        if _mode_of(folder, stat.S_ISDIR) & stat.S_IWOTH:
            yield Finding(
                "permissions",
                escape_text(folder),
                f"all users can put files into {escape_text(folder)}, also in the place of the"
                " ring: run chmod o-w on it, or keep the ring in a separate directory",
            )
    if source.store is not None:
        store = store_of(CONTEXT, source.store)
        name, capabilities = store_name(store), store.capabilities
        wrong = mismatch(USES["ring"], name, capabilities)
        # Assumed capabilities count once the store has answered.
        if wrong is not None and not capabilities.assumed:
            yield Finding("store", name, f"{wrong}: keep it in another store, or in a file")


def _mode_of(path: Path, has_type: Callable[[int], bool]) -> int:
    """The permissions; none for a missing path, or for another type of file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return 0
    return stat.S_IMODE(mode) if has_type(mode) else 0


def _explain_missing(source: RingSource, error: OperatorError) -> str:
    problem = escape_text(error, 500)
    other_kek = "; or SEALEDSTATE_KEK is not the key that wraps it, then set that key"
    if isinstance(error, RingReplaced):
        return problem
    if isinstance(error.__cause__, PermissionError):
        return f"{problem}: give the file to the application's user"
    if isinstance(error, StorageError):
        return f"{problem}: run `sealedstate store check`"
    if source.path is None:
        return f"{problem}{other_kek}"
    prev = Path(f"{source.path}.prev")
    backup = f"from {escape_text(prev)} or a backup" if prev.exists() else "from a backup"
    if source.path.exists() or source.path.is_symlink():
        return f"{problem}: restore it {backup}{other_kek}"
    if Path(f"{source.path}.lock").exists():
        location = escape_text(source.location)
        return f"{location} is gone: a running node puts it back, otherwise restore it {backup}"
    return problem


def _check_ring(source: RingSource, snapshot: Snapshot) -> Iterator[Finding]:
    ring, now, config = snapshot.ring, snapshot.now, source.config
    if ring.primary(now) is None:
        dates = [key.activates_at for key in ring.keys if key.disabled_at is None]
        remedy = "enable a key, or run `sealedstate keys rotate`, which adds one"
        if dates:
            remedy = (
                f"the first key activates {relative(min(dates), now)}: if the clock of this machine"
                " is right, run `sealedstate keys rotate --now`"
            )
        yield Finding(
            "primary", "", f"the ring has no active key, so that no user can sign in; {remedy}"
        )
    newest, schedule = ring.newest(now), ring.schedule
    if newest and now - newest.activates_at > schedule.rotate_every + schedule.announce:
        yield Finding(
            "rotation",
            "",
            f"the newest key, {newest.kid.hex()}, became active"
            f" {relative(newest.activates_at, now)}, although a key is due every"
            f" {duration(schedule.rotate_every)}: nothing rotates the ring; run `sealedstate keys"
            " rotate` from cron, or see the logs of the nodes with rotate_in_process",
        )
    for key in ring.keys:
        if ring.is_far(key, now):
            kid = key.kid.hex()
            yield Finding(
                "far-future",
                kid,
                f"{kid} activates only {relative(key.activates_at, now)}: a node with a wrong clock"
                f" has made it; set all clocks, then run `sealedstate keys revoke {kid}`",
            )
    if not ring.long_term:
        yield Finding(
            "lasting-key",
            "",
            "an earlier release made this ring without a key for long-lived values, such as"
            " consents: run `sealedstate keys rotate --lasting`",
        )
    for key in obsolete_long_term(ring, now):
        kid = key.kid.hex()
        yield Finding(
            "lasting-key",
            kid,
            f"{kid} seals no more values, but long-lived values may still need it: run `sealedstate"
            " keys reseal --destroy`, which checks all of them",
        )
    if not source.is_configured:
        return
    terms = config.reload_every, config.lifetime, config.skew
    of_config, of_ring = config.schedule.shortfalls(*terms), schedule.shortfalls(*terms)
    if problem := of_config.get("announce"):
        of_ring.pop("announce", None)
        yield Finding("coverage", "announce", f"{problem}; set a longer announce, then rotate")
    for field, problem in of_ring.items():
        yield Finding("coverage", field, f"{problem}{EXTEND}")


def _check_clocks(source: RingSource, snapshot: Snapshot) -> Iterator[Finding]:
    """The clocks of the last writer, of this machine and of the volume."""
    written, now = snapshot.ring.updated_at, snapshot.now
    skew = snapshot.ring.schedule.skew + ROUNDING
    if written > now + skew:
        yield Finding(
            "clock",
            "writer",
            f"the ring was last written at {format_exact(written)}, which is"
            f" {relative(written, now)}: the clock of this machine, or of the machine that wrote"
            " it, is wrong; set both by NTP",
        )
    try:
        changed = None if source.path is None else int(source.path.stat().st_mtime)
    except OSError:
        return
    if changed is not None and changed > now + skew:
        yield Finding(
            "clock",
            "volume",
            f"the ring file was changed {relative(changed, now)} by the clock of its volume: that"
            " clock, or the clock of this machine, is wrong; set both by NTP",
        )
    elif changed is not None and written > changed + skew:
        yield Finding(
            "clock",
            "volume",
            f"the ring was written {duration(written - changed)} later by the clock of its writer"
            " than by the clock of its volume: the writer's clock is ahead of the volume's; set"
            " both by NTP",
        )


def _check_report_files(ring_path: Path, skew: int) -> Iterator[Finding]:
    """Nodes whose clock is behind the clock of the volume."""
    behind: dict[str, float] = {}
    for file in sorted(Path(f"{ring_path}.nodes").glob("*.json")):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            with file.open("rb") as content:
                report = Report.parse(content.read(REPORT_BYTES).partition(b"\n")[2])
        except (OSError, ValueError):
            continue  # the file may be gone by now, or may not be a report
        if status.st_mtime > report.at + skew:
            behind[report.node] = status.st_mtime - report.at
    for node, seconds in behind.items():
        yield Finding(
            "clock",
            f"{node} behind",
            f"the clock of {escape_text(node, 40)} is {duration(seconds)} behind the clock of the"
            " volume: set both by NTP; by other clocks, its reports expire before they are written",
        )


def _check_nodes(snapshot: Snapshot, source: RingSource) -> Iterator[Finding]:
    """What a single snapshot of the reports shows."""
    ring, reports, reload_every = snapshot.ring, snapshot.reports, source.config.reload_every
    silence = ROUNDS * reload_every
    if snapshot.report_error is not None:
        error = escape_text(snapshot.report_error)
        yield Finding("reports", "", f"{error}: the reports of the nodes could not be read")
    # Without a key of that age, the nodes may only be starting.
    elif (
        not reports
        and source.has_reports
        and snapshot.now - min(key.created_at for key in ring.keys) >= silence
    ):
        yield Finding(
            "reports",
            "",
            f"no process has reported for {duration(silence)}, although rotate_in_process is on: no"
            " process runs with this configuration, or none can write its report (see their logs)",
        )
    for node, of_node in by_node(reports).items():
        yield from _check_node(node, of_node, snapshot, reload_every + ring.schedule.skew)
    cookies = count_cookies(reports, *KINDS)
    known = kids_ever(ring).union(*(report.known for report in reports))
    for kid, count in cookies.items():
        is_unknown = len(kid) == 8 and kid not in known
        if is_unknown and count >= UNKNOWN_SHARE * cookies.total():
            yield Finding(
                "unknown-kid",
                kid,
                f"no reporting node knows kid {escape_text(kid, 8)}, which"
                f" {_share(count, cookies.total())} of cookies have: another node has another ring"
                " (do all name the same volume or store?), a ring was lost, or another application"
                " sets cookies of this name",
            )


def _check_node(
    node: str, reports: list[Report], snapshot: Snapshot, margin: int
) -> Iterator[Finding]:
    ring = snapshot.ring
    # The report of a process that loaded the ring before it was written is no evidence.
    late = [report for report in reports if report.at > ring.updated_at + margin]
    others = [report for report in late if report.ring != ring.ring_id]
    same = [report for report in reports if report.ring == ring.ring_id]
    behind = [report for report in late if report in same and report.sequence < ring.sequence]
    ahead = [report for report in same if report.sequence > ring.sequence]
    if others:
        yield Finding(
            "nodes",
            f"{node} ring",
            f"{name(node, others)} uses another ring: expected {escape_text(ring.ring_id, 16)},"
            f" got {escape_text(others[0].ring, 16)}; give it the same `keys`, realm and store or"
            " volume as the others, and restart it",
        )
    if behind:
        yield Finding(
            "nodes",
            f"{node} sequence",
            f"{name(node, behind)} still uses sequence {behind[0].sequence} of the ring, and"
            f" {ring.sequence} is the last one: see in its log why it cannot load the ring; does it"
            " read the same volume or store?",
        )
    if ahead:
        yield Finding(
            "nodes",
            f"{node} sequence",
            f"{name(node, ahead)} uses sequence {ahead[0].sequence} of the ring, but here is"
            f" {ring.sequence}: an older ring was put in its place; restore the newer ring, or"
            " restart all nodes",
        )
    yield from _check_keys(node, reports, snapshot, margin)
    for complaint in sorted({report.complaint for report in reports if report.complaint}):
        those = [report for report in reports if report.complaint == complaint]
        yield Finding(
            "nodes",
            f"{node} {complaint}",
            f"{name(node, those)} uses the last good ring, because {escape_text(complaint, 400)}",
        )
    inactive = [report for report in reports if report.primary is None]
    if inactive:
        yield Finding(
            "nodes",
            f"{node} primary",
            f"{name(node, inactive)} has no active key: is its clock right?",
        )
    latest = snapshot.now + ring.schedule.skew + ROUNDING
    fast = [report for report in reports if report.at > latest]
    if fast:
        yield Finding(
            "clock",
            f"{node} ahead",
            f"the clock of {name(node, fast)} is {duration(fast[0].at - snapshot.now)} ahead"
            " of the clock of this machine: set both by NTP",
        )


def _check_keys(
    node: str, reports: list[Report], snapshot: Snapshot, margin: int
) -> Iterator[Finding]:
    """Keys that a node lacks although cookies have them."""
    ring, cookies = snapshot.ring, count_cookies(snapshot.reports, *KINDS)

    def lacks(report: Report, kid: str) -> bool:
        has_had_time = report.at > ring.updated_at + margin
        return kid not in report.known and (has_had_time or report.unknown.get(kid, 0) > 0)

    known = {key.kid.hex() for key in ring.keys}
    known.update(*(report.known for report in snapshot.reports))
    for kid in sorted(known & cookies.keys()):
        lacking = [report for report in reports if lacks(report, kid)]
        if lacking:
            yield Finding(
                "nodes",
                f"{node} {kid}",
                f"{name(node, lacking)} lacks kid {escape_text(kid, 8)}, which"
                f" {_share(cookies[kid], cookies.total())} of cookies have: it uses sequence"
                f" {lacking[0].sequence} of ring {escape_text(lacking[0].ring, 16)}, and here is"
                f" {ring.sequence} of {escape_text(ring.ring_id, 16)}",
            )


def check_ending_keys(before: Snapshot, after: Snapshot) -> Iterator[Finding]:
    """Keys that expire soon, although cookies came with them in between."""
    ring, now = after.ring, after.now
    earlier = {(report.node, report.pid): report.opened for report in before.reports}
    opened: Counter[str] = Counter()
    for report in after.reports:
        opened.update(report.opened)
        opened.subtract(earlier.get((report.node, report.pid), {}))
    soon, states = now + ring.schedule.opens_after_retirement // 10, states_of(ring.keyring(), now)
    for key in ring.keys:
        kid, expires_at = key.kid.hex(), ring.expires_at(key)
        if states[kid] is not KeyState.RETIRED or expires_at is None or expires_at > soon:
            continue
        if opened[kid]:
            yield Finding(
                "ending-key",
                kid,
                f"{kid} expires {relative(expires_at, now)}, and {opened[kid]} cookies came with it"
                f" in the last {duration(now - before.now)}: those sessions will end; if that is"
                " too early, set a longer longest_lifetime and run `sealedstate keys rotate`",
            )


def _share(count: int, total: int) -> str:
    percent = 100 * count / total
    return "less than 1 %" if percent < 1 else f"{percent:.0f} %"


def name(node: str, reports: list[Report]) -> str:
    return f"{escape_text(node, 40)} (pid {join_words([str(report.pid) for report in reports])})"
