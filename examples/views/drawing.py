"""Bars: bytes of a budget as an SVG picture, without script and without inline styles.

Knows shapes and numbers. Does not know sessions. Colours stand in the stylesheet, by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Html, fill, joined


@dataclass(frozen=True, slots=True)
class Piece:
    """One coloured piece of a bar: `kind` is its class in the stylesheet."""

    kind: str
    label: str
    size: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A limit drawn across the bar, with what stands below it."""

    at: int
    label: str


def bar(
    pieces: Sequence[Piece], marks: Sequence[Mark], scale: int, title: str, blocked: int = 0
) -> Html:
    """The pieces side by side on a track of `scale` bytes, the last `blocked` of them greyed out.

    A thin one when no mark has a label.
    """
    thick = any(mark.label for mark in marks)
    return fill(
        '<svg class="bar" role="img" aria-label="$title" width="100%" height="$height">'
        '<svg class="track" width="100%" height="$thickness">$shapes</svg>$marks</svg>',
        title=f"{title}: {_told(pieces)}",
        height=46 if thick else 12,
        thickness=28 if thick else 12,
        shapes=_shapes(pieces, scale, blocked),
        marks=joined(_mark(mark, scale) for mark in marks),
    )


def _shapes(pieces: Sequence[Piece], scale: int, blocked: int) -> Html:
    shapes, start = [_rectangle("free", "free", 0, scale, scale)], 0
    for piece in pieces:
        told = f"{piece.label}: {piece.size:,} bytes"
        shapes.append(_rectangle(piece.kind, told, start, piece.size, scale))
        start += piece.size
    if blocked:
        told = f"taken by other cookies: {blocked:,} bytes"
        shapes.append(_rectangle("blocked", told, scale - blocked, blocked, scale))
    return joined(shapes)


def _rectangle(kind: str, label: str, start: int, size: int, scale: int) -> Html:
    return fill(
        '<rect class="$kind" x="$x%" width="$width%" height="100%"><title>$label</title></rect>',
        kind=kind,
        x=_percent(start, scale),
        width=_percent(size, scale),
        label=label,
    )


def _mark(mark: Mark, scale: int) -> Html:
    x = _percent(mark.at, scale)
    anchor = "start" if mark.at == 0 else "end" if mark.at >= scale else "middle"
    return fill(
        '<line class="mark" x1="$x%" x2="$x%" y1="0" y2="$reach"/>'
        '<text class="tick" x="$x%" y="43" text-anchor="$anchor">$label</text>',
        x=x,
        reach=31 if mark.label else 12,
        anchor=anchor,
        label=mark.label,
    )


def _percent(size: int, scale: int) -> str:
    return f"{100 * size / scale:.2f}"


def _told(pieces: Sequence[Piece]) -> str:
    return ", ".join(f"{piece.label} {piece.size} bytes" for piece in pieces)
