"""How the texts of one column are written: what is said once, and what each text still takes.

Knows texts that are absent, made, packed or literal. Does not know whose NameIDs or SessionIndexes
they are. The format is specified in `columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from .bits import BitReader, BitWriter
from .logins import KID_BYTES, MARK_BYTES, How, Made, Text
from .packing import MAX_BYTES, MIN_BYTES, USUAL_SHAPES, Shape, pack, unpack
from .texts import put_text, take_text

NONE, LITERAL, FIRST_USUAL = 0, 1, 5
OTHER_SHAPE = FIRST_USUAL + len(USUAL_SHAPES)


class Form(NamedTuple):
    """What the texts of a column have in common: its number, and what has to be told beside it."""

    number: int
    detail: bytes = b""


USUAL_FORM = Form(FIRST_USUAL)
_LITERAL_FORM = Form(LITERAL)
_USUAL_FORMS = {shape: Form(FIRST_USUAL + at) for at, shape in enumerate(USUAL_SHAPES)}
_MADE = frozenset(How)


# What one text takes beside its form: letters, or packed bytes.
Rest: TypeAlias = str | bytes
Cell: TypeAlias = tuple[Form, Rest]

_NO_TEXT: Cell = (Form(NONE), b"")


def to_cell(text: Text | None) -> Cell:
    """How `text` is written."""
    if text is None:
        return _NO_TEXT
    if isinstance(text, Made):
        return Form(text.how, text.kid + text.mark), b""
    packed = pack(text)
    if packed is None:
        return _LITERAL_FORM, text
    shape, data = packed
    return _USUAL_FORMS.get(shape) or Form(OTHER_SHAPE, bytes(shape)), data


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


def put_rests(writer: BitWriter, rests: Iterable[Rest]) -> None:
    """What the texts of a column take; they have one form, so all are letters or all are bytes."""
    data: list[bytes] = []
    for rest in rests:
        if isinstance(rest, str):
            put_text(writer, rest)
        else:
            data.append(rest)
    writer.put_bytes(b"".join(data))


def take_texts(reader: BitReader, form: Form, count: int) -> Sequence[Text | None]:
    """The texts of a column, so many of one form. Raises ValueError."""
    number, detail = form
    if number == NONE:
        return [None] * count
    if number == LITERAL:
        return [take_text(reader) for _ in range(count)]
    if number in _MADE:
        return [Made(How(number), detail[:KID_BYTES], detail[KID_BYTES:])] * count
    shape = _shape(form)
    size = shape.size
    data = reader.take_bytes(count * size)
    return [unpack(shape, data[at : at + size]) for at in range(0, count * size, size)]


def _shape(form: Form) -> Shape:
    if form.number == OTHER_SHAPE:
        shape = Shape(*form.detail)
        if not MIN_BYTES <= shape.size <= MAX_BYTES:
            raise ValueError("no shape")
        return shape
    if form.number > OTHER_SHAPE:
        raise ValueError("no form")
    return USUAL_SHAPES[form.number - FIRST_USUAL]
