"""``sealedstate keys list``: the keys of a ring, and what its nodes report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..errors import escape_text
from ..keyring import Keyring, KeyState
from ..rotation.reports import Report
from ..rotation.ring import Ring, RingKey, Tombstone
from ._output import (
    duration,
    emit,
    format_exact,
    format_iso,
    format_minute,
    join_words,
    plural,
    relative,
    table,
)
from ._source import RingSource, Snapshot, ring_command, take_snapshot

WIDTH = 100
KID_COLUMN = 10
BAR = WIDTH - KID_COLUMN
LEGEND = ". announced   # seals   - opens only   x disabled"
HEAD = ("kid", "state", "created", "seals from", "seals until", "opens until", "cookies")
# The fields of a report that count cookies.
KINDS = ("opened", "unknown", "refused")
# Further tombstones of expired keys are only in the JSON.
TOMBSTONES_SHOWN = 10


@ring_command("list")
def list_keys(source: RingSource, as_json: bool) -> None:
    """List the keys of the ring, and the processes that use it."""
    snapshot = take_snapshot(source)
    facts = _describe(source, snapshot) if as_json else {}
    emit(as_json, facts, lines_of(source, snapshot), indent=2)


def states_of(keyring: Keyring, now: int) -> dict[str, KeyState]:
    """The state of each key by its kid."""
    return {key.kid.hex(): keyring.state(key, now) for key in keyring.keys}


def kids_ever(ring: Ring) -> set[str]:
    """The kids of the keys and of the tombstones."""
    return {key.kid.hex() for key in ring.keys} | {dead.kid.hex() for dead in ring.tombstones}


def count_cookies(reports: Iterable[Report], *kinds: str) -> Counter[str]:
    """How many cookies of these KINDS came with each kid, at all processes."""
    total: Counter[str] = Counter()
    for report in reports:
        for kind in kinds:
            total.update(getattr(report, kind))
    return total


def _count_unknown(snapshot: Snapshot) -> Counter[str]:
    """How many cookies came with each kid that the ring never had."""
    known, total = kids_ever(snapshot.ring), count_cookies(snapshot.reports, "unknown")
    return Counter({kid: count for kid, count in total.items() if kid not in known})


def by_node(reports: Iterable[Report]) -> dict[str, list[Report]]:
    """The reports of each machine."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        found.setdefault(report.node, []).append(report)
    return found


def _dates_of(ring: Ring, key: RingKey) -> tuple[int, int, int | None, int | None]:
    return (key.created_at, key.activates_at, ring.retires_at(key), ring.expires_at(key))


def lines_of(source: RingSource, snapshot: Snapshot) -> list[str]:
    ring, now, reports = snapshot.ring, snapshot.now, snapshot.reports
    schedule, opened = ring.schedule, count_cookies(reports, "opened")
    head = [
        f"{escape_text(source.location)}: ring {escape_text(ring.ring_id, 16)}, sequence"
        f" {ring.sequence}, written {relative(ring.updated_at, now)}",
        f"Each key seals for {duration(schedule.rotate_every)}, is announced"
        f" {duration(schedule.announce)} before, and opens for"
        f" {duration(schedule.opens_after_retirement)} after.",
    ]
    if ring.revoked_before:
        head.append(f"Cookies sealed before {format_exact(ring.revoked_before)} are refused.")
    long_term_states = _long_term_states(ring, now)
    long_term = [
        (
            key.kid.hex(),
            long_term_states[key.kid.hex()].value,
            f"seals from {format_minute(key.activates_at)}",
            relative(key.activates_at, now),
        )
        for key in ring.long_term
    ]
    unknown = [
        (escape_text(kid, 8), plural(count, "cookie", "cookies"))
        for kid, count in _count_unknown(snapshot).most_common(10)
    ]
    blocks = [
        [*head, f"It is {format_exact(now)}. All times are UTC."],
        table_of_keys(ring, now, opened if reports else None),
        draw(ring, now),
        ["Keys for long-lived values:", *table(long_term)] if long_term else [],
        _list_tombstones(snapshot),
        ["Unknown to this ring:", *table(unknown)] if unknown else [],
        _list_nodes(snapshot),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block).split("\n")


def table_of_keys(ring: Ring, now: int, opened: Mapping[str, int] | None) -> list[str]:
    """Two lines for each key: its dates, and how far away they are."""
    states = states_of(ring.keyring(), now)
    rows: list[tuple[str, ...]] = [HEAD]
    for key in ring.keys:
        kid, dates = key.kid.hex(), _dates_of(ring, key)
        count = "-"
        if opened is not None:
            cookies = opened.get(kid, 0)
            count = str(cookies) if cookies < 10_000_000 else f"{cookies // 1_000_000} M"
        moments = ["-" if at is None else format_minute(at) for at in dates]
        rows.append((kid, states[kid].value, *moments, count))
        rows.append(("", "", *("" if at is None else relative(at, now) for at in dates), ""))
    return table(rows, right=[len(HEAD) - 1])


def _long_term_states(ring: Ring, now: int) -> dict[str, KeyState]:
    return states_of(ring.keyring().long_term, now) if ring.long_term else {}


def _list_tombstones(snapshot: Snapshot) -> list[str]:
    """All revoked keys, and those that expired last."""
    tombstones, now = snapshot.ring.tombstones, snapshot.now
    expired = [dead for dead in tombstones if not dead.revoked]
    refused = count_cookies(snapshot.reports, "refused")
    shown = [*(dead for dead in tombstones if dead.revoked), *expired[:TOMBSTONES_SHOWN]]
    rows = []
    for dead in shown:
        count = refused[dead.kid.hex()]
        cookies = f"{plural(count, 'cookie', 'cookies')} refused" if count else ""
        state = KeyState.REVOKED if dead.revoked else KeyState.EXPIRED
        notes = "  ".join(filter(None, [cookies, escape_text(dead.reason)]))
        rows.append(
            (dead.kid.hex(), state.value, format_minute(dead.at), relative(dead.at, now), notes)
        )
    lines = table(rows) if rows else []
    if len(expired) > TOMBSTONES_SHOWN:
        lines.append(f"{len(expired) - TOMBSTONES_SHOWN} more have expired; --json lists them")
    return ["Destroyed keys:", *lines] if lines else []


def _list_nodes(snapshot: Snapshot) -> list[str]:
    error = snapshot.report_error
    if not snapshot.reports:
        return [f"No process reports{': ' + escape_text(error) if error else ''}."]
    lines = ["Processes:"]
    for node, reports in sorted(by_node(snapshot.reports).items()):
        sequences = sorted({report.sequence for report in reports})
        last = relative(max(report.at for report in reports), snapshot.now)
        lines.append(
            f"{escape_text(node, 40)}: {plural(len(reports), 'process', 'processes')}, sequence"
            f" {join_words([str(sequence) for sequence in sequences])}, last {last}"
        )
    return lines


def draw(ring: Ring, now: int) -> list[str]:
    """A bar for each key, the newest first, on one scale of time."""
    # A key of the far future does not count: it would leave no room for the others.
    near = [key for key in ring.keys if not ring.is_far(key, now)]
    moments = {now, now + ring.schedule.announce}
    moments.update(at for key in near for at in _dates_of(ring, key) if at is not None)
    left, right = min(moments), max(moments)

    def column(at: int) -> int:
        return min(max((at - left) * (BAR - 1) // max(right - left, 1), 0), BAR - 1)

    here = column(now)
    pointer = f"{'':{here}}| now" if here + 5 <= BAR else f"{'now |':>{here + 1}}"
    lines = [f"{format_minute(left)}{format_minute(right):>{BAR - 16}}", pointer]
    for key in ring.keys:
        created_at, activates_at, retires_at, expires_at = _dates_of(ring, key)
        seals_at = max(activates_at, created_at)  # a replacement has an older date
        ends_at = right + 1 if expires_at is None else expires_at
        until = right + 1 if retires_at is None else max(retires_at, seals_at)
        disabled_at = ends_at if key.disabled_at is None else key.disabled_at
        cells = [" "] * BAR
        for letter, since, before in (
            ("-", until, ends_at),
            (".", created_at, seals_at),
            ("#", seals_at, until),
            ("x", disabled_at, ends_at),
        ):
            if since < before:
                first, end = column(since), column(before)
                last = end if before > right else max(first, end - 1)
                cells[first : last + 1] = letter * (last + 1 - first)
        if cells[here] == " ":
            cells[here] = "|"
        lines.append("".join(cells))
    names = ["", "", *(key.kid.hex() for key in ring.keys), ""]
    return [
        f"{name:{KID_COLUMN}}{line}".rstrip()
        for name, line in zip(names, [*lines, LEGEND], strict=True)
    ]


def _describe(source: RingSource, snapshot: Snapshot) -> dict[str, Any]:
    """Everything but secrets. Times are ISO 8601."""
    ring, now, reports = snapshot.ring, snapshot.now, snapshot.reports
    states, long_term_states = states_of(ring.keyring(), now), _long_term_states(ring, now)
    counts = {kind: count_cookies(reports, kind) for kind in KINDS}
    return {
        "where": source.location,
        "ring": ring.ring_id,
        "sequence": ring.sequence,
        "updated_at": format_iso(ring.updated_at),
        "now": format_iso(now),
        "schedule": asdict(ring.schedule),
        "revoked_before": format_iso(ring.revoked_before) if ring.revoked_before else None,
        "keys": [
            {
                **_pick(key, "kid", "created_at", "activates_at"),
                "retires_at": format_iso(ring.retires_at(key)),
                "expires_at": format_iso(ring.expires_at(key)),
                **_pick(key, "disabled_at"),
                "state": states[key.kid.hex()].value,
                **{kind: count[key.kid.hex()] for kind, count in counts.items()},
            }
            for key in ring.keys
        ],
        "lasting": [
            {
                **_pick(key, "kid", "created_at", "activates_at"),
                "state": long_term_states[key.kid.hex()].value,
            }
            for key in ring.long_term
        ],
        "tombstones": [
            _pick(dead, "kid", "activates_at", "at", "revoked", "reason")
            for dead in ring.tombstones
        ],
        "unknown": _count_unknown(snapshot),
        "reports": [asdict(report) | {"at": format_iso(report.at)} for report in reports],
    }


def _pick(item: RingKey | Tombstone, *names: str) -> dict[str, Any]:
    """These fields, with a kid as text and times as ISO 8601."""
    fields = {name: getattr(item, name) for name in names}
    return {
        name: value.hex() if name == "kid" else format_iso(value) if name.endswith("at") else value
        for name, value in fields.items()
    }
