"""Two kinds of pictures, as SVG: bars beside one another, and lines over a number.

Knows coordinates and colours. Does not know what the numbers are. The same numbers make the same
bytes. Colours are told apart by those who don't see red and green alike, too (Okabe and Ito's), and
each stands on white, so that a dark page shows the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c8c8c"
SKY, YELLOW, BLACK = "#56b4e9", "#e69f00", "#333333"
FONT = "font-family='Helvetica, Arial, sans-serif'"
At = Callable[[float, float], tuple[float, float]]
"""Where a point of a graph is in the picture."""
WIDTH = 860
ROW, GAP = 18, 8


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: y by x; a None ends it."""

    name: str
    points: Mapping[int, float | None]
    colour: str
    dashed: bool = False


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    unit: str,
    *,
    most: float | None = None,
    mark: float | None = None,
) -> str:
    """Horizontal bars: a group for each row, a bar for each of its values, its number beside it.

    `most`: what is longer is cut there. `mark`: a line at this value.
    """
    longest = max(value for values in groups.values() for value in values.values())
    scale = (WIDTH - 360) / min(longest, most or longest)
    out: list[str] = []
    y = 58 + (ROW if len(colours) > 1 else 0)
    top = y
    for row, values in groups.items():
        height = ROW * len(values)
        out.append(_text(210, y + height / 2 + 4, row, anchor="end"))
        for name, value in values.items():
            length = min(value, most or value) * scale
            out.append(_bar(220, y + 2, length, ROW - 4, colours[name]))
            out.append(_text(226 + length, y + ROW / 2 + 4, f"{_number(value)} {unit}", size=11))
            y += ROW
        y += GAP
    if mark is not None:
        x = 220 + mark * scale
        out.append(_stroke([(x, top - 4), (x, y - GAP + 4)], BLACK, dashed=True))
    return _svg(title, y + 6, [*_legend(colours, 44), *out])


def lines(
    title: str,
    curves: Sequence[Line],
    limits: Mapping[str, float],
    axes: tuple[str, str],
    size: tuple[int, float],
) -> str:
    """Curves from 0 to `size`; `limits` are drawn across. What leaves the top is named there."""
    left, top, right, bottom = 70, 60, WIDTH - 190, 470
    most_x, most_y = size

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / most_x * (right - left), bottom - y / most_y * (bottom - top)

    out = [*_frame(at, size, axes)]
    for limit in limits.values():
        out.append(_stroke([at(0, limit), at(most_x, limit)], GREY, dashed=True))
    taken: list[float] = []
    for curve in curves:
        path = [at(x, y) for x, y in _clipped(curve, most_y)]
        out.append(_stroke(path, curve.colour, dashed=curve.dashed, width=2.5))
        x, y = path[-1]
        y = _free(y + 4, taken)
        out.append(
            _text(right + 8 if x > right - 40 else x + 6, y, curve.name, colour=curve.colour)
        )
    for name, limit in limits.items():
        x, y = at(0, limit)
        out.append(_text(x + 6, y - 5, name, size=11, colour="#555555", halo=True))
    return _svg(title, 520, out)


def _frame(at: At, size: tuple[int, float], axes: tuple[str, str]) -> list[str]:
    most_x, most_y = size
    out = [_stroke([at(0, most_y), at(0, 0), at(most_x, 0)], BLACK)]
    for x in range(0, most_x + 1, most_x // 4):
        out.append(_text(at(x, 0)[0], at(x, 0)[1] + 18, str(x), anchor="middle", size=11))
    for y in range(0, int(most_y) + 1, int(most_y) // 6):
        out.append(_text(at(0, y)[0] - 6, at(0, y)[1] + 4, str(y), anchor="end", size=11))
    out.append(_text(at(most_x / 2, 0)[0], at(0, 0)[1] + 38, axes[0], anchor="middle"))
    out.append(_text(at(0, 0)[0] - 60, at(0, most_y)[1] - 12, axes[1]))
    return out


def _clipped(curve: Line, most: float) -> list[tuple[float, float]]:
    """The points of a curve up to where it leaves the top."""
    found: list[tuple[float, float]] = []
    for x, y in curve.points.items():
        if y is None:
            break
        if y > most:
            if found:
                x0, y0 = found[-1]
                found.append((x0 + (x - x0) * (most - y0) / (y - y0), most))
            break
        found.append((x, y))
    return found


def _free(y: float, taken: list[float]) -> float:
    """A height at which no other name stands."""
    while any(abs(y - other) < 14 for other in taken):
        y += 14
    taken.append(y)
    return y


def _legend(colours: Mapping[str, str], y: float) -> list[str]:
    if len(colours) < 2:
        return []
    out, x = [], 220.0
    for name, colour in colours.items():
        out += [_bar(x, y - 9, 10, 10, colour), _text(x + 15, y, name, size=12)]
        x += 34 + 6.6 * len(name)
    return out


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}'"
        f" width='{WIDTH}' height='{height:.0f}' role='img'>"
    )
    name = f"<title>{escape(title)}</title>"
    ground = f"<rect width='{WIDTH}' height='{height:.0f}' fill='white'/>"
    shown = _text(16, 24, title, size=15, weight="bold")
    return "\n".join([head, name, ground, shown, *parts, "</svg>", ""])


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 1):.1f}' height='{height:.1f}'"
        f" fill='{colour}'/>"
    )


def _stroke(
    path: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False, width: float = 1
) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
    dashes = " stroke-dasharray='5 4'" if dashed else ""
    pen = f"stroke='{colour}' stroke-width='{width}'{dashes}"
    return f"<polyline points='{points}' fill='none' {pen}/>"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    colour: str = BLACK,
    weight: str = "normal",
    halo: bool = False,
) -> str:
    pen = " paint-order='stroke' stroke='white' stroke-width='4'" if halo else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' font-weight='{weight}'"
        f" fill='{colour}' text-anchor='{anchor}'{pen}>{escape(text)}</text>"
    )
