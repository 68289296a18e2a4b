"""Service logins to columns, and back: all methods, then all services, times, names, indexes.

Knows the columns' format and which numbers a registry gives. Does not know sessions, subjects or
keys: what can be made again is written as such, and whoever reads makes it (see `logins.Made`).

Logins that look alike stand in one group: the same method, NameID format and qualifiers, and
NameIDs and SessionIndexes of the same shape. What they have in common is written once; of each
login remain its service (the distance to the one before, where both are registered), its time (the
distance to the earliest) and the bytes of its random identifiers. Nothing is compressed: no length
depends on how two texts resemble one another.

No login is no bytes. Else bits, as `bits` and `texts` write them:

    format           4 bits, 1
    registered       flag: some entityID or method stands as its number in a registry; then the
                     registry's version (small) and the first 2 bytes of its checksum
    minutes          flag: all times differ by whole minutes; set exactly when they do and differ
    earliest time    sized; largest distance to it: sized, in minutes if so flagged
    groups           small, at least 1; then of each group
        changes      flags: does it differ from the group before (`BEFORE_ALL` for the first) in
                     method, services or qualifiers; in format; in name; in index? Then, of these:
        method       small: 0 and a text, 2m + 1 for position m in `wellknown`, 2n + 2 for number n
        services     flag: they have no number in the registry
        qualifiers   name qualifier, then SP name qualifier: 2 bits: 0 none, 1 and a text,
                     2 the service's own entityID, 3 and a number (small) in the registry
        format       small: 0 none, 1 and a text, 2 + position in `wellknown`
        name, index  the shape of NameIDs and of SessionIndexes, small: 0 none, 1 each a text of its
                     own, 2 the subject, 3 derived and 4 bytes of kid and 4 of mark, 4 pairwise and
                     4 bytes of kid, 5 to 8 a usual shape of `packing`, 9 and small each: beginning,
                     alphabet, size
        count        of its logins, small, at least 1
    services         group by group: rice of the distance to the number before, less 1, or texts
    times            of all groups: digits, below the largest distance + 1
    names, indexes   group by group: all NameIDs, then all SessionIndexes; texts or packed bytes

k of rice is the number of bits of (7 * entities in the version) // (10 * count), less 1, and not
less than 0. In a group services ascend, by number or by code points. Logins at one service with the
same shapes stand in groups of their own, the earlier first; groups ascend as `Group` compares them.
Columns are refused unless encoding what they decode to gives the same bytes again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from ...errors import LoginsUnreadable, UnsupportedValue
from ..logins import KID_BYTES, MARK_BYTES, How, Made, NameID, ServiceLogin, Text
from ..registry import CHECK_BYTES, NO_VERSION, Registry, Version
from .bits import BitReader, BitWriter
from .strings import MAX_BYTES, MIN_BYTES, USUAL_SHAPES, Shape, pack, put_text, take_text, unpack
from .tables import METHODS, NAME_ID_FORMATS, USUAL_METHOD

# FOLD sealedstate.sso.shapes
# How the texts of one column are written: what is said once, and what each text still takes.
#
# Knows texts that are absent, made, packed or literal. Does not know whose NameIDs or
# SessionIndexes
# they are. The format is specified in `columns`.


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


# FOLD sealedstate.sso.groups
# What service logins have in common, and what each has for itself.
#
# Knows logins, and which services and qualifiers have a number in one version of a registry.
# Does not
# know how a group is written. The order of groups and rows is part of the format (see `columns`).


# How a qualifier is written: not at all, as a text, as the service's own entityID, as a number.
OWN, NUMBERED = 2, 3
Qualifier: TypeAlias = tuple[int, str]
Qualifiers: TypeAlias = tuple[Qualifier, Qualifier]


class Services(NamedTuple):
    """What mostly is the same in all groups. `literal`: the services have no number."""

    method: str
    literal: bool
    qualifiers: Qualifiers


class Group(NamedTuple):
    """What the logins of a group have in common. `format`: none, or the one."""

    services: Services
    format: tuple[str, ...]
    name_form: Form
    index_form: Form


class Row(NamedTuple):
    """What a login has for itself: its service (by number and by text), its time and its texts."""

    number: int
    entity_id: str
    time: int
    name_rest: Rest
    index_rest: Rest


Groups: TypeAlias = list[tuple[Group, list[Row]]]

_NO_QUALIFIER: Qualifier = (NONE, "")
BEFORE_ALL = Group(
    Services(USUAL_METHOD, False, (_NO_QUALIFIER, _NO_QUALIFIER)), (), USUAL_FORM, USUAL_FORM
)


def group_logins(logins: Iterable[ServiceLogin], registry: Registry, version: Version) -> Groups:
    """The groups in ascending order, and in each its rows; no service stands in one twice."""
    found: dict[Group, list[Row]] = defaultdict(list)
    for login in logins:
        group, row = _parted(login, registry, version)
        found[group].append(row)
    return [(group, layer) for group in sorted(found) for layer in _layers(sorted(found[group]))]


def to_login(
    group: Group, entity_id: str, name: Text | None, session_index: Text | None, time: int
) -> ServiceLogin:
    """A login of a group. Raises ValueError, or UnsupportedValue."""
    if name is None:
        raise ValueError("a login without a NameID")
    one, other = (_text(qualifier, entity_id) for qualifier in group.services.qualifiers)
    name_id = NameID(name, group.format[0] if group.format else None, one, other)
    return ServiceLogin(entity_id, group.services.method, name_id, session_index, time)


def _parted(login: ServiceLogin, registry: Registry, version: Version) -> tuple[Group, Row]:
    own, name_id = login.entity_id, login.name_id
    number = registry.entity_number(own, version)
    name_form, name = to_cell(name_id.value)
    index_form, index = to_cell(login.session_index)
    one = _qualifier(name_id.name_qualifier, own, registry, version)
    other = _qualifier(name_id.sp_name_qualifier, own, registry, version)
    services = Services(login.method, number is None, (one, other))
    group = Group(services, _as_tuple(name_id.format), name_form, index_form)
    return group, Row(-1 if number is None else number, own, login.time, name, index)


def _qualifier(text: str | None, own: str, registry: Registry, version: Version) -> Qualifier:
    if text is None:
        return _NO_QUALIFIER
    if text == own:
        return OWN, ""
    return (LITERAL if registry.entity_number(text, version) is None else NUMBERED), text


def _layers(rows: list[Row]) -> list[list[Row]]:
    """The rows, so that in each layer no service stands twice."""
    if len({row.entity_id for row in rows}) == len(rows):
        return [rows]
    layers: list[list[Row]] = []
    depth: Counter[str] = Counter()
    for row in rows:
        if depth[row.entity_id] == len(layers):
            layers.append([])
        layers[depth[row.entity_id]].append(row)
        depth[row.entity_id] += 1
    return layers


def _text(qualifier: Qualifier, entity_id: str) -> str | None:
    kind, text = qualifier
    return None if kind == NONE else entity_id if kind == OWN else text


def _as_tuple(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)


FORMAT = 1
MINUTE = 60
# Far beyond what cookies and stores carry; bounds what reading can cost.
MAX_LOGINS = 10_000


def encode_logins(logins: Iterable[ServiceLogin], registry: Registry) -> bytes:
    """The one encoding of a set of service logins, with the numbers that `registry` gives now.

    Raises UnsupportedValue for more than MAX_LOGINS.
    """
    unique = frozenset(logins)
    if len(unique) > MAX_LOGINS:
        raise UnsupportedValue("service logins", f"{len(unique)} are more than {MAX_LOGINS}")
    return _Encoder(registry, registry.latest).encode(unique)


def decode_logins(data: bytes, registry: Registry) -> frozenset[ServiceLogin]:
    """The service logins of columns.

    Raises RegistryMissing, or LoginsUnreadable for what `encode_logins` never makes.
    """
    if not data:
        return frozenset()
    try:
        decoder = _Decoder(data, registry)
        logins = frozenset(decoder.decode())
        again = _Encoder(registry, decoder.version).encode(logins)
    except (ValueError, OverflowError, UnsupportedValue):
        raise LoginsUnreadable("service logins that this release does not read") from None
    if again != data:
        raise LoginsUnreadable("service logins that this release does not read")
    return logins


# --- logins to bytes ----------------------------------------------------------------------------


class _Encoder:
    """Writes with the numbers of one version of a registry."""

    def __init__(self, registry: Registry, version: Version) -> None:
        self._registry = registry
        self._version = version
        self._out = BitWriter()

    def encode(self, logins: frozenset[ServiceLogin]) -> bytes:
        if not logins:
            return b""
        groups = group_logins(logins, self._registry, self._version)
        self._out.put(FORMAT, 4)
        self._put_version(groups)
        times = [row.time for _, rows in groups for row in rows]
        distances = self._put_times(times)
        self._out.put_small(len(groups))
        before = BEFORE_ALL
        for group, rows in groups:
            self._put_group(group, before, len(rows))
            before = group
        for group, rows in groups:
            self._put_services(group, rows)
        self._out.put_digits(distances, max(distances) + 1)
        for _, rows in groups:
            put_rests(self._out, (row.name_rest for row in rows))
            put_rests(self._out, (row.index_rest for row in rows))
        return self._out.finish()

    # --- what is said once ----------------------------------------------------------------------

    def _put_version(self, groups: Groups) -> None:
        registered = any(self._is_registered(group) for group, _ in groups)
        if self._out.put_flag(registered):
            self._out.put_small(self._version.number)
            self._out.put_bytes(self._version.check)

    def _is_registered(self, group: Group) -> bool:
        method, literal, qualifiers = group.services
        if not literal or any(kind == NUMBERED for kind, _ in qualifiers):
            return True
        return method not in METHODS and self._method_number(method) is not None

    def _put_times(self, times: list[int]) -> list[int]:
        """The earliest time and how far the others reach; the distances that remain to be put."""
        earliest = min(times)
        distances = [time - earliest for time in times]
        minutes = any(distances) and not any(distance % MINUTE for distance in distances)
        if minutes:
            distances = [distance // MINUTE for distance in distances]
        self._out.put_flag(minutes)
        self._out.put_sized(earliest)
        self._out.put_sized(max(distances))
        return distances

    def _put_group(self, group: Group, before: Group, count: int) -> None:
        put_flag = self._out.put_flag
        if put_flag(group.services != before.services):
            self._put_method(group.services.method)
            put_flag(group.services.literal)
            self._put_qualifiers(group.services.qualifiers)
        if put_flag(group.format != before.format):
            self._put_format(group.format)
        if put_flag(group.name_form != before.name_form):
            put_form(self._out, group.name_form)
        if put_flag(group.index_form != before.index_form):
            put_form(self._out, group.index_form)
        self._out.put_small(count)

    def _put_method(self, method: str) -> None:
        if method in METHODS:
            self._out.put_small(2 * METHODS.index(method) + 1)
            return
        number = self._method_number(method)
        self._out.put_small(0 if number is None else 2 * number + 2)
        if number is None:
            put_text(self._out, method)

    def _put_format(self, texts: tuple[str, ...]) -> None:
        for text in texts or ("",):
            known = text in NAME_ID_FORMATS
            self._out.put_small(2 + NAME_ID_FORMATS.index(text) if known else len(texts))
            if texts and not known:
                put_text(self._out, text)

    def _put_qualifiers(self, qualifiers: Qualifiers) -> None:
        for kind, text in qualifiers:
            self._out.put(kind, 2)
            if kind == LITERAL:
                put_text(self._out, text)
            elif kind == NUMBERED:
                self._out.put_small(self._registry.entity_number(text, self._version) or 0)

    def _method_number(self, method: str) -> int | None:
        return self._registry.method_number(method, self._version)

    # --- what each login takes ------------------------------------------------------------------

    def _put_services(self, group: Group, rows: list[Row]) -> None:
        if group.services.literal:
            for row in rows:
                put_text(self._out, row.entity_id)
            return
        numbers = [row.number for row in rows]
        gaps = [number - before - 1 for before, number in pairwise([-1, *numbers])]
        self._out.put_rice(gaps, _rice_bits(self._version, len(rows)))


def _rice_bits(version: Version, count: int) -> int:
    return max(0, (7 * version.entities // (10 * count)).bit_length() - 1)


# --- bytes to logins ----------------------------------------------------------------------------


class _Decoder:
    """Reads what an encoder with the same version wrote, or something else that it never writes."""

    def __init__(self, data: bytes, registry: Registry) -> None:
        self._in = BitReader(data)
        self._registry = registry
        self.version = NO_VERSION

    def decode(self) -> Iterator[ServiceLogin]:
        if self._in.take(4) != FORMAT:
            raise ValueError("another format")
        if self._in.take_flag():
            number = self._in.take_small()
            self.version = self._registry.version(number, self._in.take_bytes(CHECK_BYTES))
        unit = MINUTE if self._in.take_flag() else 1
        earliest, reach = self._in.take_sized(), self._in.take_sized()
        groups = self._take_groups()
        services = [self._take_services(group, count) for group, count in groups]
        distances = iter(self._in.take_digits(sum(map(len, services)), reach + 1))
        for (group, count), entity_ids in zip(groups, services, strict=True):
            names = take_texts(self._in, group.name_form, count)
            indexes = take_texts(self._in, group.index_form, count)
            for entity_id, name, index in zip(entity_ids, names, indexes, strict=True):
                time = earliest + unit * next(distances)
                yield to_login(group, entity_id, name, index, time)
        self._in.finish()

    def _take_groups(self) -> list[tuple[Group, int]]:
        groups: list[tuple[Group, int]] = []
        before, total = BEFORE_ALL, 0
        for _ in range(self._count()):
            before = self._take_group(before)
            groups.append((before, self._count()))
            total += groups[-1][1]
            if total > MAX_LOGINS:
                raise ValueError("too many")
        return groups

    def _count(self) -> int:
        count = self._in.take_small()
        if not 0 < count <= MAX_LOGINS:
            raise ValueError("none, or too many")
        return count

    def _take_group(self, before: Group) -> Group:
        services, flag = before.services, self._in.take_flag
        if flag():
            method, literal = self._take_method(), flag()
            services = Services(method, literal, (self._take_qualifier(), self._take_qualifier()))
        format = self._take_format() if flag() else before.format
        name = take_form(self._in) if flag() else before.name_form
        index = take_form(self._in) if flag() else before.index_form
        return Group(services, format, name, index)

    def _take_method(self) -> str:
        number = self._in.take_small()
        if number == 0:
            return take_text(self._in)
        if number % 2:
            return _at(METHODS, number // 2)
        return _at(self._registry.methods[: self.version.methods], number // 2 - 1)

    def _take_format(self) -> tuple[str, ...]:
        number = self._in.take_small()
        if number < 2:
            return (take_text(self._in),) if number else ()
        return (_at(NAME_ID_FORMATS, number - 2),)

    def _take_qualifier(self) -> Qualifier:
        kind = self._in.take(2)
        if kind == LITERAL:
            return kind, take_text(self._in)
        return kind, self._entity_id(self._in.take_small()) if kind == NUMBERED else ""

    def _take_services(self, group: Group, count: int) -> list[str]:
        if group.services.literal:
            return [take_text(self._in) for _ in range(count)]
        number, entity_ids = -1, []
        for gap in self._in.take_rice(count, _rice_bits(self.version, count)):
            number += gap + 1
            entity_ids.append(self._entity_id(number))
        return entity_ids

    def _entity_id(self, number: int) -> str:
        if number >= self.version.entities:
            raise ValueError("no such entity")
        return self._registry.entities[number]


def _at(table: tuple[str, ...], position: int) -> str:
    if position >= len(table):
        raise ValueError("no such entry")
    return table[position]
