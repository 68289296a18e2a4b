"""The tables of docs/scale.md and of pages that are served, from what was recorded.

Knows the arithmetic: requests a second times what each takes. Does not measure anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MIX = {"untouched": 0.70, "read": 0.25, "modified": 0.05}
"""Which share of requests leaves the session alone, reads it, changes it."""
RATES = (10_000, 1_000_000)
ROWS = ("sealedstate", "Django signed_cookies", "Flask session on Werkzeug")
# "Set-Cookie: ", "; Path=/; Secure; HttpOnly; SameSite=Lax" and the line's end.
LINE_BYTES = len("Set-Cookie: ; Path=/; Secure; HttpOnly; SameSite=Lax\r\n")

Recorded = Mapping[str, Any]


def processors(request: Recorded) -> str:
    """How many processors do nothing but sessions, at each rate."""
    head = ["", "µs, mean", *(f"{rate:,} a second" for rate in RATES)]
    rows = []
    for row in ROWS:
        if row in request["marginal_microseconds"]:
            mean = sum(MIX[kind] * request["marginal_microseconds"][row][kind] for kind in MIX)
            needed = (f"{rate * mean / 1e6:.1f}" for rate in RATES)
            rows.append([row, f"{mean:.1f}", *needed])
    return table(head, rows)


def traffic(sizes: Recorded) -> str:
    """What travels, in megabytes a second."""
    pair = sizes["formats"]["sealedstate"]["W1"]
    looked = MIX["read"] + MIX["modified"]
    rows = [
        ["Cookie header, in", *(_megabytes(rate * pair) for rate in RATES)],
        [
            "Set-Cookie, out",
            *(_megabytes(rate * MIX["modified"] * (pair + LINE_BYTES)) for rate in RATES),
        ],
        ["questions to a store, where there is none", *("0" for _ in RATES)],
        [
            "questions to a store: was this session logged out?",
            *(f"{rate * looked:,.0f} a second" for rate in RATES),
        ],
    ]
    return table(["", *(f"{rate:,} requests a second" for rate in RATES)], rows)


def crowds(scale: Recorded) -> str:
    """A store with very many sessions."""
    found = scale["crowds"]
    head = ["", *(scale["servers"].get(name, name) for name in found)]
    cells: dict[str, Any] = {
        "sessions with a spilled part": lambda one: f"{one['sessions']:,}",
        "bytes of a sealed part": lambda one: one["row_bytes"],
        "bytes on disk, a session": lambda one: f"{one['disk_bytes'] / one['sessions']:.0f}",
        "on disk in all": lambda one: _megabytes(one["disk_bytes"]),
        "recall, p50": lambda one: f"{one['recall']['p50']:.2f} ms",
        "recall, p99": lambda one: f"{one['recall']['p99']:.2f} ms",
        "to reap all of them": lambda one: f"{one['reap_seconds']:.0f} s",
    }
    rows = [[title, *(str(tell(one)) for one in found.values())] for title, tell in cells.items()]
    return table(head, rows)


def served(found: Recorded) -> str:
    """Requests a second behind gunicorn, of pages in cookies and of those on a server."""
    kinds = list(MIX)
    cells = {**found["served"]["cells"], **found["stored"]["cells"]}
    rows = [[row, *(f"{cells[row][kind]['per_second']:.0f}" for kind in kinds)] for row in cells]
    return table(["requests a second", *kinds], rows)


def goals(sizes: Recorded, speed: Recorded, request: Recorded, scale: Recorded) -> str:
    """Every goal, the figure that was recorded for it, and whether that meets it."""
    rows = [[one["goal"], str(one["value"]), _met(one["met"])] for one in sizes["design_goals"]]
    for load, most in speed["goals"].items():
        value = speed["open_save"]["sealedstate"][load]
        rows.append(_goal(f"open and save {load}, times the bare composition", value, most=most))
    whole = request["whole"]["sealedstate"]["untouched"]
    most = request["goals"]["whole"]
    rows.append(_goal("a whole request, untouched, times a no-op", whole, most=most))
    for row in ROWS[1:]:
        for kind, least in request["goals"]["marginal"].items():
            value = request["marginal"][row][kind]
            rows.append(_goal(f"{row} adds, {kind}, times ours", value, least=least))
    for what, value in scale["goals"].items():
        title = f"opened with 100 {what}, times with none"
        rows.append(_goal(title, value, most=scale["goal"]))
    return table(["goal", "recorded", ""], rows)


def _goal(what: str, value: float, most: float = math.inf, least: float = 0.0) -> list[str]:
    limit = f"at least {least:g}" if least else f"at most {most:g}"
    return [f"{what}: {limit}", f"{value:.2f}", _met(least <= value <= most)]


def _met(met: bool) -> str:
    return "met" if met else "not met"


def curves(scale: Recorded) -> str:
    """Microseconds to open, and to open, change and save."""
    rows = []
    for what, points in scale["curves"].items():
        for act, title in (("open", "open"), ("save", "open, change, save")):
            shown = ", ".join(f"{point}: {cells[act]:.0f}" for point, cells in points.items())
            rows.append([what if act == "open" else "", title, shown])
    return table(["by the number of", "", "how many: µs"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
