"""How the texts of one column are written: what is said once, and what each text still takes.

Knows texts that are absent, made, packed or literal. Does not know whose NameIDs or SessionIndexes
they are. The format is specified in `columns`.
"""

from __future__ import annotations

from typing import NamedTuple

from .bits import BitReader, BitWriter
from .logins import KID_BYTES, MARK_BYTES, How, Made, Text
from .packing import USUAL_SHAPES, Shape, pack, unpack
from .texts import put_text, take_text

NONE, LITERAL, FIRST_USUAL = 0, 1, 5
OTHER_SHAPE = FIRST_USUAL + len(USUAL_SHAPES)


class Form(NamedTuple):
    """What the texts of a column have in common: its number, and what has to be told beside it."""

    number: int
    detail: bytes = b""


USUAL_FORM = Form(FIRST_USUAL)


class Cell(NamedTuple):
    """One text: its form, and the letters or packed bytes that it takes."""

    form: Form
    rest: str | bytes = b""


def to_cell(text: Text | None) -> Cell:
    """How `text` is written."""
    if text is None:
        return Cell(Form(NONE))
    if isinstance(text, Made):
        return Cell(Form(text.how, text.kid + text.mark))
    packed = pack(text)
    if packed is None:
        return Cell(Form(LITERAL), text)
    shape, data = packed
    if shape in USUAL_SHAPES:
        return Cell(Form(FIRST_USUAL + USUAL_SHAPES.index(shape)), data)
    return Cell(Form(OTHER_SHAPE, bytes((shape.beginning, shape.alphabet, shape.size))), data)


def put_form(writer: BitWriter, form: Form) -> None:
    """What the texts of a column have in common."""
    writer.put_small(form.number)
    if form.number != OTHER_SHAPE:
        writer.put_bytes(form.detail)
        return
    for number in form.detail:
        writer.put_small(number)


def take_form(reader: BitReader) -> Form:
    """What `put_form` has put. Raises ValueError."""
    number = reader.take_small()
    if number == OTHER_SHAPE:
        return Form(number, bytes(reader.take_small() for _ in range(3)))
    sizes = {How.DERIVED: KID_BYTES + MARK_BYTES, How.PAIRWISE: KID_BYTES}
    return Form(number, reader.take_bytes(sizes.get(How(number), 0) if number in _MADE else 0))


def put_rest(writer: BitWriter, cell: Cell) -> None:
    """What one text takes."""
    if isinstance(cell.rest, str):
        put_text(writer, cell.rest)
    else:
        writer.put_bytes(cell.rest)


def take_cell(reader: BitReader, form: Form) -> Text | None:
    """The text of a form that comes next. Raises ValueError."""
    if form.number == NONE:
        return None
    if form.number == LITERAL:
        return take_text(reader)
    if form.number in _MADE:
        return Made(How(form.number), form.detail[:KID_BYTES], form.detail[KID_BYTES:])
    shape = _shape(form)
    return unpack(shape, reader.take_bytes(shape.size))


_MADE = frozenset(How)


def _shape(form: Form) -> Shape:
    if form.number == OTHER_SHAPE:
        return Shape(*form.detail)
    if form.number > OTHER_SHAPE:
        raise ValueError("no form")
    return USUAL_SHAPES[form.number - FIRST_USUAL]
