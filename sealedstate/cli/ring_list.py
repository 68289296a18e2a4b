"""``sealedstate keys list``: what is in a ring, and what nodes tell about it.

Knows what an operator and a program want to see of a ring and of reports. Does not know what is
wrong with either: that is `keys check`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..key_sources.reports import Report
from ..rotation import Ring, RingKey, Tombstone
from .ring_source import Look, RingSource, kids_ever, look_at
from .timeline import drawing, states, table
from .wording import duration, exact, iso, listed, many, moment, plain, relative, show

# Further tombstones of expired keys are left to --json.
TOMBSTONES_SHOWN = 10


def list_keys(source: RingSource, given: argparse.Namespace) -> int:
    look = look_at(source)
    if given.json:
        print(json.dumps(as_json(source, look), indent=2))
    else:
        show("\n".join(as_text(source, look)))
    return 0


def counted(reports: Iterable[Report], kind: str) -> Counter[str]:
    """How many cookies came under each kid, at all processes. `kind`: "opened", say."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(getattr(report, kind))
    return total


# --- for people ---------------------------------------------------------------------------------


def as_text(source: RingSource, look: Look) -> list[str]:
    """The lines that are shown."""
    ring, now = look.ring, look.now
    cookies = counted(look.reports, "opened")
    known = {kid: cookies[kid] for kid in states(ring, now)} if look.reports else {}
    blocks = [
        [*_head(source.home.where, ring, now)],
        table(ring, now, known),
        drawing(ring, now),
        _lasting(ring, now),
        _graveyard(look),
        _strangers(look),
        _nodes(look),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block).split("\n")


def _head(where: str, ring: Ring, now: int) -> list[str]:
    schedule = ring.schedule
    lines = [
        f"{plain(where)}: ring {plain(ring.ring_id, 16)}, sequence {ring.sequence},"
        f" written {relative(ring.updated_at, now)}",
        f"A key seals for {duration(schedule.rotate_every)}, is announced"
        f" {duration(schedule.announce)} before, and opens for"
        f" {duration(schedule.held_after_retirement)} after.",
    ]
    if ring.revoked_before:
        lines.append(f"Cookies sealed before {exact(ring.revoked_before)} are refused.")
    return [*lines, f"It is {exact(now)}. All times are UTC."]


def _lasting(ring: Ring, now: int) -> list[str]:
    """The keys of what is stored for years. None of them expires."""
    lines = [
        f"{key.kid.hex()}  {_lasting_state(ring, key, now):8}  seals from"
        f" {moment(key.activates_at)}  {relative(key.activates_at, now)}"
        for key in ring.lasting
    ]
    return ["For what is stored for years:", *lines] if lines else []


def _lasting_state(ring: Ring, key: RingKey, now: int) -> str:
    if key.activates_at > now:
        return "pending"
    sealing = max(one.activates_at for one in ring.lasting if one.activates_at <= now)
    return "primary" if key.activates_at == sealing else "retired"


def _graveyard(look: Look) -> list[str]:
    """Keys that are no more: all that were revoked, and those that expired last."""
    graves = look.ring.tombstones
    revoked = [dead for dead in graves if dead.revoked]
    expired = [dead for dead in graves if not dead.revoked]
    refused, hidden = counted(look.reports, "refused"), len(expired) - TOMBSTONES_SHOWN
    shown = [*revoked, *expired[:TOMBSTONES_SHOWN]]
    lines = [_grave(dead, look.now, refused[dead.kid.hex()]) for dead in shown]
    if hidden > 0:
        lines.append(f"{hidden} more have expired; --json lists them")
    return ["No more:", *lines] if lines else []


def _grave(dead: Tombstone, now: int, refused: int) -> str:
    fate = "revoked" if dead.revoked else "expired"
    line = f"{dead.kid.hex()}  {fate:8}  {moment(dead.at)}  {relative(dead.at, now):16}"
    if refused:
        line += f"  {many(refused, 'cookie', 'cookies')} refused"
    return f"{line}  {plain(dead.reason)}".rstrip()


def _strangers(look: Look) -> list[str]:
    """Kids that cookies carry and this ring has never had."""
    total = unknown_here(look)
    lines = [
        f"{plain(kid, 8):8}  {many(count, 'cookie', 'cookies')}"
        for kid, count in total.most_common(10)
    ]
    return ["Unknown to this ring:", *lines] if lines else []


def unknown_here(look: Look) -> Counter[str]:
    """How many cookies came under each kid that this ring has never had."""
    ours, total = kids_ever(look.ring), counted(look.reports, "unknown")
    return Counter({kid: count for kid, count in total.items() if kid not in ours})


def _nodes(look: Look) -> list[str]:
    if not look.reports:
        return [f"No process reports{': ' + plain(look.unreported) if look.unreported else ''}."]
    return ["Who reports:", *(_node(node, look) for node in sorted(by_node(look.reports)))]


def by_node(reports: Iterable[Report]) -> dict[str, list[Report]]:
    """The reports of each machine."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        found.setdefault(report.node, []).append(report)
    return found


def _node(name: str, look: Look) -> str:
    reports = by_node(look.reports)[name]
    sequences = sorted({str(report.sequence) for report in reports}, key=int)
    processes = many(len(reports), "process", "processes")
    last = relative(max(report.at for report in reports), look.now)
    return f"{plain(name, 40)}: {processes}, sequence {listed(sequences)}, last {last}"


# --- for programs -------------------------------------------------------------------------------


def as_json(source: RingSource, look: Look) -> dict[str, Any]:
    """Everything but secrets. Times are ISO 8601."""
    ring = look.ring
    return {
        "where": source.home.where,
        "ring": ring.ring_id,
        "sequence": ring.sequence,
        "updated_at": iso(ring.updated_at),
        "now": iso(look.now),
        "schedule": asdict(ring.schedule),
        "revoked_before": iso(ring.revoked_before) if ring.revoked_before else None,
        "keys": _keys_as_json(look),
        "lasting": [
            {
                "kid": key.kid.hex(),
                "created_at": iso(key.created_at),
                "activates_at": iso(key.activates_at),
                "state": _lasting_state(ring, key, look.now),
            }
            for key in ring.lasting
        ],
        "tombstones": [_tombstone_as_json(dead) for dead in ring.tombstones],
        "unknown": unknown_here(look),
        "reports": [asdict(report) | {"at": iso(report.at)} for report in look.reports],
    }


def _keys_as_json(look: Look) -> list[dict[str, Any]]:
    known = states(look.ring, look.now)
    counts = {kind: counted(look.reports, kind) for kind in ("opened", "unknown", "refused")}
    return [
        _key_as_json(look.ring, key)
        | {"state": known[key.kid.hex()].value}
        | {kind: count[key.kid.hex()] for kind, count in counts.items()}
        for key in look.ring.keys
    ]


def _key_as_json(ring: Ring, key: RingKey) -> dict[str, Any]:
    dates: Mapping[str, int | None] = {
        "created_at": key.created_at,
        "activates_at": key.activates_at,
        "retires_at": ring.retires_at(key),
        "expires_at": ring.expires_at(key),
        "disabled_at": key.disabled_at,
    }
    return {"kid": key.kid.hex()} | {name: iso(at) for name, at in dates.items()}


def _tombstone_as_json(dead: Tombstone) -> dict[str, Any]:
    return {
        "kid": dead.kid.hex(),
        "activates_at": iso(dead.activates_at),
        "at": iso(dead.at),
        "revoked": dead.revoked,
        "reason": dead.reason,
    }
