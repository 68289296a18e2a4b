"""The pictures and tables of docs/benchmarks.md, docs/scale.md and README, from records.

Knows which rows are worth a picture, and where the documents have their tables. Does not measure
anything.

    python benchmarks/pictures.py              draws docs/*.svg and writes the tables
    python benchmarks/pictures.py FOLDER       takes over what is recorded in FOLDER first
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import planning
from benchmarks.drawing import BLUE, GREEN, ORANGE, PINK, SKY, YELLOW, Line, bars, lines
from benchmarks.planning import table

ROOT = Path(__file__).resolve().parents[1]
RECORDED = Path(__file__).with_name("recorded")
DOCS = ROOT / "docs"
BENCHMARKS = DOCS / "benchmarks.md"
SCALE = DOCS / "scale.md"
HERE = Path(__file__).with_name("README.md")

# What a benchmark has to tell, as far as a document shows it.
SHOWN = ("sizes", "speed", "request", "scale", "crowds")
LOADS = ("W0", "W1", "W2", "W3", "W4")
CURVES = {
    "sealedstate derived": GREEN,
    "sealedstate": BLUE,
    "sealedstate unregistered": SKY,
    "Flask": YELLOW,
    "Litestar": ORANGE,
    "Auth.js": PINK,
}
OURS_IN_SHORT = {
    "sealedstate": "encrypted; login records",
    "sealedstate unregistered": "encrypted; entityIDs as text",
    "sealedstate derived": "encrypted; identifiers derived",
    "sealedstate, plain mapping": "encrypted; the dict that the others get",
}
KINDS = {"untouched": SKY, "read": BLUE, "modified": ORANGE}

Recorded = Mapping[str, Any]


def main(arguments: Sequence[str]) -> None:
    for folder in arguments:
        take(Path(folder))
    for name, drawn in pictures().items():
        (DOCS / name).write_text(drawn, encoding="utf-8")
    for document in TABLES:
        document.write_text(with_tables(document), encoding="utf-8")


def take(folder: Path) -> None:
    """Keep what a run of the benchmarks has saved. Ends the program where that is no whole run."""
    found = {name: folder / f"{name}.json" for name in SHOWN if (folder / f"{name}.json").exists()}
    taken = {name: path.read_bytes() for name, path in found.items()}
    for name, path in found.items():
        lost = _rows(recorded(name)) - _rows(_read(path))
        if lost:
            raise SystemExit(f"{path} lacks {', '.join(sorted(lost))}: nothing is taken")
    before = {name: (RECORDED / f"{name}.json").read_bytes() for name in taken}
    _put(taken)
    try:
        pictures()
        for document in TABLES:
            with_tables(document)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        _put(before)
        raise SystemExit(f"{folder} is not shown, nothing is taken: {error!r}") from None


def _put(texts: Mapping[str, bytes]) -> None:
    for name, text in texts.items():
        (RECORDED / f"{name}.json").write_bytes(text)


def _read(path: Path) -> Recorded:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path} is no JSON, nothing is taken: {error}") from None
    if not isinstance(found, dict):
        raise SystemExit(f"{path} is of no benchmark, nothing is taken")
    return found


def _rows(found: Recorded) -> set[str]:
    """The rows that are told of, in the tables that a benchmark has."""
    tables = [found.get(name) or {} for name in ("formats", "open_save", "whole", "curves")]
    tables += [(found.get(name) or {}).get("cells", {}) for name in ("served", "stored")]
    return {row for table in tables for row in table}


def recorded(name: str) -> Recorded:
    """What a benchmark had to tell when it was recorded."""
    found: Recorded = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


# --- pictures -------------------------------------------------------------------------------------


def pictures() -> dict[str, str]:
    """All of them, by the names that they have in docs/."""
    sizes = recorded("sizes")
    return {
        "growth.svg": growth_picture(sizes),
        "request.svg": request_picture(recorded("request")),
    }


def growth_picture(found: Recorded) -> str:
    curves = [
        Line(row, {int(x): y for x, y in found["growth"][row].items()}, colour)
        for row, colour in CURVES.items()
        if row in found["growth"]
    ]
    limits = {f"{limit}: {name}": limit for name, limit in found["limits"].items()}
    axes = ("service logins in the session", "cookie bytes")
    return lines("How a session grows", curves, limits, axes, (200, 12_000))


def request_picture(found: Recorded) -> str:
    title = "What a session adds to a WSGI request, microseconds of a processor"
    return bars(title, found["marginal_microseconds"], KINDS, "µs")


# --- tables ---------------------------------------------------------------------------------------


def with_tables(document: Path) -> str:
    """A document with the tables between its marks written anew."""
    text = document.read_text(encoding="utf-8")
    for mark, written in TABLES[document].items():
        text = _between(mark, text, written())
    return text


def sizes_table() -> str:
    """Cookie bytes, as sizes.py prints them, and whether one may look inside."""
    found = recorded("sizes")
    head = ["", *LOADS, "logins in 4096", ""]
    rows = [
        [
            row,
            *(_size(cells[load], found["marks"]["formats"], row, load) for load in LOADS),
            _size(found["logins"][row]["4096"], found["marks"]["logins"], row, "4096"),
            _short(row, found["notes"][row]),
        ]
        for row, cells in found["formats"].items()
    ]
    return table(head, rows)


def speed_table() -> str:
    """Opening and saving, times the bare composition."""
    found = recorded("speed")
    head = ["", "W0", "W1", "W2", "W3"]
    rows = [
        [row, *(_ratio(ratios.get(load)) for load in head[1:])]
        for row, ratios in found["open_save"].items()
    ]
    return f"{table(head, rows)}\n\n{_when(found)}"


def request_table() -> str:
    """Whole requests and what a session adds."""
    found = recorded("request")
    head = ["", *KINDS, *(f"adds, {kind}" for kind in KINDS)]
    rows = [
        [
            row,
            *(_ratio(found["whole"][row][kind]) for kind in KINDS),
            *(f"{found['marginal_microseconds'][row][kind]:.1f} µs" for kind in KINDS),
        ]
        for row in found["whole"]
    ]
    return f"{table(head, rows)}\n\n{_when(found)}"


TABLES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    BENCHMARKS: {"sizes": sizes_table, "speed": speed_table, "request": request_table},
    HERE: {
        "served": lambda: f"{planning.served(recorded('request'))}\n\n{_when(recorded('request'))}",
        "goals": lambda: planning.goals(
            recorded("sizes"), recorded("speed"), recorded("request"), recorded("scale")
        ),
    },
    SCALE: {
        "processors": lambda: planning.processors(recorded("request")),
        "traffic": lambda: planning.traffic(recorded("sizes")),
        "crowds": lambda: planning.crowds(recorded("crowds")),
        "curves": lambda: planning.curves(recorded("scale")),
        "measured": lambda: _when(recorded("scale"), recorded("crowds")),
    },
}


def _between(mark: str, text: str, written: str) -> str:
    pattern = rf"(<!-- {mark}\b[^>]*-->\n).*?(<!-- /{mark} -->)"
    found = re.search(pattern, text, re.DOTALL)
    if found is None:
        raise ValueError(f"there is no mark {mark!r}")
    return text[: found.start()] + found[1] + written + "\n" + found[2] + text[found.end() :]


def _size(value: int | None, marks: Mapping[str, Mapping[str, str]], row: str, key: str) -> str:
    return "-" if value is None else f"{value}{marks.get(row, {}).get(key, '')}"


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _short(row: str, note: str) -> str:
    """What docs/benchmarks.md says of a row."""
    return OURS_IN_SHORT.get(row) or re.split(r"[;(]", note.removeprefix("in Node; "))[0].strip()


def _when(*found: Recorded) -> str:
    """When and on what it was measured, with the versions of all that took part."""
    machine, named = found[0]["machine"], {}
    for one in found:
        for name, number in one["versions"].items():
            named.update(number if isinstance(number, dict) else {name: number})
        named.update(one.get("served_by", {}) if one.get("stored") else {})
    listed = ", ".join(f"{name} {number}" for name, number in named.items())
    where = f"Python {machine['python']}, {machine['processor']}, load {machine['load']}"
    return f"{machine['date']}, {where}: {listed}."


if __name__ == "__main__":
    main(sys.argv[1:])
