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

from ...keyring import KeyState
from ...rotation.reports import Report
from ...rotation.ring import Ring, RingKey, Tombstone
from ..output import duration, exact, iso, listed, many, moment, plain, relative, show
from .source import Look, RingSource, is_far, kids_ever, look_at

# FOLD sealedstate.cli.timeline
# The life of a ring's keys as lines of text, 100 columns wide.
#
# Knows rings, states and columns. Does not know where a ring is kept, nor who uses it: how many
# cookies came under each key, it is told.


WIDTH = 100
KID_COLUMN = 10
BAR = WIDTH - KID_COLUMN
LEGEND = ". announced   # seals   - opens only   x disabled"
HEAD = ("kid", "state", "created", "seals from", "seals until", "opens until")


def states(ring: Ring, now: int) -> dict[str, KeyState]:
    """The state of each key that is there, by kid."""
    keyring = ring.keyring()
    return {key.kid.hex(): keyring.state(key, now) for key in keyring.keys}


# --- the table ----------------------------------------------------------------------------------


def table(ring: Ring, now: int, cookies: Mapping[str, int]) -> list[str]:
    """Two lines for each key: its dates, and how far away they are."""
    known = states(ring, now)
    lines = [f"{_row(*HEAD)} {'cookies':>7}"]
    for key in ring.keys:
        kid, dates = key.kid.hex(), _dates(ring, key)
        count = _short(cookies[kid]) if kid in cookies else "-"
        lines.append(f"{_row(kid, known[kid].value, *map(_moment, dates))} {count:>7}")
        lines.append(_row("", "", *(_relative(date, now) for date in dates)).rstrip())
    return lines


def _dates(ring: Ring, key: RingKey) -> tuple[int | None, ...]:
    return (key.created_at, key.activates_at, ring.retires_at(key), ring.expires_at(key))


def _row(kid: str, state: str, *dates: str) -> str:
    return "  ".join([f"{kid:8}", f"{state:8}", *(f"{date:16}" for date in dates)])


def _moment(at: int | None) -> str:
    return "-" if at is None else moment(at)


def _relative(at: int | None, now: int) -> str:
    return "" if at is None else relative(at, now)


def _short(count: int) -> str:
    return str(count) if count < 10_000_000 else f"{count // 1_000_000} M"


# --- the drawing --------------------------------------------------------------------------------


def drawing(ring: Ring, now: int) -> list[str]:
    """A bar for each key, the newest first, on one scale of time; above them, where now is."""
    left, right = _span(ring, now)
    here = _column(now, left, right)
    lines = [f"{moment(left)}{moment(right):>{BAR - 16}}", _pointer(here)]
    for key in ring.keys:
        cells = _bar(ring, key, left, right)
        if cells[here] == " ":
            cells[here] = "|"
        lines.append("".join(cells))
    names = ["", "", *(key.kid.hex() for key in ring.keys), ""]
    return [
        f"{name:{KID_COLUMN}}{line}".rstrip()
        for name, line in zip(names, [*lines, LEGEND], strict=True)
    ]


def _pointer(here: int) -> str:
    return f"{'':{here}}| now" if here + 5 <= BAR else f"{'now |':>{here + 1}}"


def _span(ring: Ring, now: int) -> tuple[int, int]:
    """From the first to the last moment at which something happens.

    A key of the far future stays outside: it would leave no room for the others.
    """
    near = [key for key in ring.keys if not is_far(ring, key, now)]
    dates = {now, now + ring.schedule.announce}
    dates.update(at for key in near for at in _dates(ring, key) if at is not None)
    return min(dates), max(dates)


def _bar(ring: Ring, key: RingKey, left: int, right: int) -> list[str]:
    cells = [" "] * BAR
    retires_at, expires_at = ring.retires_at(key), ring.expires_at(key)
    seals_at = max(key.activates_at, key.created_at)  # a replacement has its predecessor's date
    ends_at = right + 1 if expires_at is None else expires_at
    until = right + 1 if retires_at is None else max(retires_at, seals_at)

    def paint(letter: str, since: int, before: int) -> None:
        if since < before:
            first, end = _column(since, left, right), _column(before, left, right)
            last = end if before > right else max(first, end - 1)
            cells[first : last + 1] = letter * (last + 1 - first)

    paint("-", until, ends_at)
    paint(".", key.created_at, seals_at)
    paint("#", seals_at, until)
    if key.disabled_at is not None:
        paint("x", key.disabled_at, ends_at)
    return cells


def _column(at: int, left: int, right: int) -> int:
    return min(max((at - left) * (BAR - 1) // max(right - left, 1), 0), BAR - 1)


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
        [*_head(source.home.location, ring, now)],
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
        f" {duration(schedule.opens_after_retirement)} after.",
    ]
    if ring.revoked_before:
        lines.append(f"Cookies sealed before {exact(ring.revoked_before)} are refused.")
    return [*lines, f"It is {exact(now)}. All times are UTC."]


def _lasting(ring: Ring, now: int) -> list[str]:
    """The keys of what is stored for years. None of them expires."""
    lines = [
        f"{key.kid.hex()}  {_lasting_state(ring, key, now):8}  seals from"
        f" {moment(key.activates_at)}  {relative(key.activates_at, now)}"
        for key in ring.long_term
    ]
    return ["For what is stored for years:", *lines] if lines else []


def _lasting_state(ring: Ring, key: RingKey, now: int) -> str:
    if key.activates_at > now:
        return "pending"
    sealing = max(one.activates_at for one in ring.long_term if one.activates_at <= now)
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
        "where": source.home.location,
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
            for key in ring.long_term
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
