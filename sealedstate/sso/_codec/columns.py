"""Service logins to columns and back.

Columns instead of rows: all methods, then all services, all times, all identifiers. Logins that
look alike form a group: the same method, NameID format and qualifiers, and NameIDs and
SessionIndexes that are encoded alike. What a group has in common is written once; for each login
remain its service (for registered services the distance to the previous number), its time (the
distance to the earliest) and the bytes of its random identifiers. Nothing is compressed: no length
depends on how two texts resemble one another.

No login is no bytes. Else bits, in the codes of `bits` and the texts of `strings`:

    format           4 bits, 1
    registered       flag: some service, method or qualifier is written as its number in a registry;
                     if set, the registry's version (small) and the first 2 bytes of its checksum
    minutes          flag: all times differ by whole minutes; set exactly when they do and differ
    earliest time    sized, epoch seconds
    largest distance sized, from the earliest time to the latest; in minutes if so flagged
    groups           small, their number, at least 1; then of each group
        traits       flag, set if they differ from the previous group's; if set
            method       small: 2m + 1 for position m in `METHODS`; else 2n + 2 for its number n in
                         the registry; else 0 and a text
            unregistered flag: the services have no number in the registry
            qualifiers   name qualifier, then SP name qualifier: 2 bits, 0 none, 2 the service's own
                         entityID; else 3 and its number (small) in the registry; else 1 and a text
        format       flag, likewise; if set, small: 0 none, 2 + position in `NAME_ID_FORMATS`; else
                     1 and a text
        NameIDs      flag, likewise; if set, their encoding, small: 0 none, 1 any text, 2 the
                     subject, 3 derived, followed by 4 bytes of kid and 4 of mark, 4 pairwise,
                     followed by 4 bytes of kid, 5 to 8 the shapes of `COMMON_SHAPES`, 9 another
                     shape, followed by its prefix, alphabet and size (small each)
        SessionIndexes  the same
        count        of its logins, small, at least 1
    services         group by group: rice of the distances to the previous number, less 1, the first
                     counted from -1; or texts
    times            of all groups: the distances as digits, below the largest distance + 1
    identifiers      group by group: all NameIDs, then all SessionIndexes; texts or packed bytes

The group before the first is `INITIAL`. k of rice is the bit length of (7 * entities in the
version) // (10 * count), less 1, and at least 0.

Groups ascend by method, registered before unregistered, name qualifier and SP name qualifier (code,
then text), format (none first), NameIDs' encoding and SessionIndexes' (code, then the bytes that
follow); texts by code points. In a group the services ascend, by number or by code points, and none
occurs twice: of several logins there that are alike, the k-th by time, then NameID, then
SessionIndex, is in the k-th group of that kind. Columns are valid only if encoding what they decode
to, with the same version of the registry, gives the same bytes again. The decoder checks that while
it reads: each number, text and identifier has its one form, and groups and services ascend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

from ...errors import LoginsUnreadable, UnsupportedValue
from ..logins import KID_BYTES, MARK_BYTES, Derivation, Derived, NameID, ServiceLogin, StoredText
from ..registry import CHECK_BYTES, NO_VERSION, Registry, Version
from .bits import BitReader, BitWriter
from .strings import COMMON_SHAPES, MAX_BYTES, MIN_BYTES, Shape, pack, put_text, take_text, unpack
from .tables import METHODS, NAME_ID_FORMATS, entry

FORMAT = 1
MINUTE = 60
# Far beyond what cookies and stores carry; bounds the cost of reading.
MAX_LOGINS = 10_000

# Codes of encodings and qualifiers.
ABSENT, LITERAL, OWN, NUMBERED = 0, 1, 2, 3
FIRST_COMMON = 5
OTHER_SHAPE = FIRST_COMMON + len(COMMON_SHAPES)


class Encoding(NamedTuple):
    """How all identifiers of one column are encoded: a code and its detail."""

    code: int
    detail: bytes = b""

    def __repr__(self) -> str:
        # The detail may be the beginning that all NameIDs share.
        return f"<Encoding {self.code}>"


# What one identifier takes beside its encoding: a text, or packed bytes.
Payload: TypeAlias = str | bytes
# How a qualifier is written: a code, and its text where it is LITERAL or NUMBERED.
Qualifier: TypeAlias = tuple[int, str]


class Traits(NamedTuple):
    """What most groups share. `unregistered`: the services have no number."""

    method: str
    unregistered: bool
    qualifiers: tuple[Qualifier, Qualifier]


class Group(NamedTuple):
    """What the logins of a group have in common. `format`: none, or one text."""

    traits: Traits
    format: tuple[str, ...]
    name_encoding: Encoding
    index_encoding: Encoding


class LoginRow(NamedTuple):
    """What distinguishes a login in its group. `number`: -1 if unregistered."""

    number: int
    entity_id: str
    time: int
    name_payload: Payload
    index_payload: Payload

    def __repr__(self) -> str:
        return f"<LoginRow of service {self.number}>"


Groups: TypeAlias = list[tuple[Group, list[LoginRow]]]

_NO_QUALIFIER: Qualifier = (ABSENT, "")
_NO_TEXT = (Encoding(ABSENT), b"")
_LITERAL = Encoding(LITERAL)
_COMMON = {shape: Encoding(FIRST_COMMON + at) for at, shape in enumerate(COMMON_SHAPES)}
_DERIVATIONS = frozenset(Derivation)
INITIAL = Group(
    Traits(METHODS[0], False, (_NO_QUALIFIER, _NO_QUALIFIER)),
    (),
    Encoding(FIRST_COMMON),
    Encoding(FIRST_COMMON),
)


def encode_logins(logins: Iterable[ServiceLogin], registry: Registry) -> bytes:
    """Return the canonical encoding of a set of service logins.

    It uses the latest version of `registry`. Raises UnsupportedValue for more than MAX_LOGINS.
    """
    unique = frozenset(logins)
    if len(unique) > MAX_LOGINS:
        raise UnsupportedValue("service logins", f"must be at most {MAX_LOGINS}, got {len(unique)}")
    return _encode(unique, registry, registry.latest)


def decode_logins(
    data: bytes, registry: Registry, entity_id: str | None = None
) -> frozenset[ServiceLogin]:
    """Return the service logins of columns, or only those at one service.

    Raises RegistryMissing, or LoginsUnreadable for bytes that `encode_logins` never writes. Values
    that no login may have are noticed only in logins that are returned.
    """
    if not data:
        return frozenset()
    try:
        logins = frozenset(_Decoder(data, registry).decode(entity_id))
    except (ValueError, OverflowError, UnsupportedValue):
        raise LoginsUnreadable("this release can't read these service logins") from None
    return logins


# --- groups -------------------------------------------------------------------------------------


def group_logins(logins: Iterable[ServiceLogin], registry: Registry, version: Version) -> Groups:
    """Return the groups and their rows in the order of the format."""
    found: dict[Group, list[LoginRow]] = defaultdict(list)
    for login in logins:
        entity_id, name_id = login.entity_id, login.name_id
        number = registry.entity_number(entity_id, version)
        name_encoding, name = encode_identifier(name_id.value)
        index_encoding, index = encode_identifier(login.session_index)
        qualifiers = (
            _to_qualifier(name_id.name_qualifier, entity_id, registry, version),
            _to_qualifier(name_id.sp_name_qualifier, entity_id, registry, version),
        )
        form = () if name_id.format is None else (name_id.format,)
        traits = Traits(login.method, number is None, qualifiers)
        row = LoginRow(-1 if number is None else number, entity_id, login.time, name, index)
        found[Group(traits, form, name_encoding, index_encoding)].append(row)
    groups: Groups = []
    for group in sorted(found):
        # In none of its layers does a service occur twice.
        layers: dict[int, list[LoginRow]] = defaultdict(list)
        depth: dict[str, int] = defaultdict(int)
        for row in sorted(found[group]):
            layers[depth[row.entity_id]].append(row)
            depth[row.entity_id] += 1
        groups += ((group, rows) for rows in layers.values())
    return groups


def _to_qualifier(
    text: str | None, entity_id: str, registry: Registry, version: Version
) -> Qualifier:
    if text is None:
        return _NO_QUALIFIER
    if text == entity_id:
        return OWN, ""
    return (LITERAL if registry.entity_number(text, version) is None else NUMBERED), text


def _from_qualifier(qualifier: Qualifier, entity_id: str) -> str | None:
    code, text = qualifier
    return None if code == ABSENT else entity_id if code == OWN else text


# --- columns of identifiers ---------------------------------------------------------------------


def encode_identifier(text: StoredText | None) -> tuple[Encoding, Payload]:
    """Return how an identifier is encoded, and what it takes beside that."""
    if text is None:
        return _NO_TEXT
    if isinstance(text, Derived):
        return Encoding(text.derivation, text.kid + text.mark), b""
    packed = pack(text)
    if packed is None:
        return _LITERAL, text
    shape, data = packed
    return _COMMON.get(shape) or Encoding(OTHER_SHAPE, bytes(shape)), data


def put_encoding(writer: BitWriter, encoding: Encoding) -> None:
    writer.put_small(encoding.code)
    if encoding.code == OTHER_SHAPE:
        for number in encoding.detail:
            writer.put_small(number)
    else:
        writer.put_bytes(encoding.detail)


def take_encoding(reader: BitReader) -> Encoding:
    code = reader.take_small()
    if code == OTHER_SHAPE:
        return Encoding(code, bytes(reader.take_small() for _ in range(3)))
    if code == Derivation.DERIVED:
        return Encoding(code, reader.take_bytes(KID_BYTES + MARK_BYTES))
    return Encoding(code, reader.take_bytes(KID_BYTES if code == Derivation.PAIRWISE else 0))


def put_payloads(writer: BitWriter, payloads: Iterable[Payload]) -> None:
    """Append a column: only texts, or only bytes, since it has one encoding."""
    data: list[bytes] = []
    for payload in payloads:
        if isinstance(payload, str):
            put_text(writer, payload)
        else:
            data.append(payload)
    writer.put_bytes(b"".join(data))


def take_identifiers(
    reader: BitReader, encoding: Encoding, count: int, wanted: Sequence[bool]
) -> Sequence[StoredText | None]:
    """Read a column of `count` identifiers. Raises ValueError.

    What is not wanted may be an empty text instead.
    """
    code, detail = encoding
    if code == ABSENT:
        return [None] * count
    if code == LITERAL:
        texts = [take_text(reader) for _ in range(count)]
        if any(pack(text) is not None for text in texts):
            raise ValueError("a text that is written as a shape")
        return texts
    if code in _DERIVATIONS:
        return [Derived(Derivation(code), detail[:KID_BYTES], detail[KID_BYTES:])] * count
    is_common = code != OTHER_SHAPE
    shape = entry(COMMON_SHAPES, code - FIRST_COMMON) if is_common else Shape(*detail)
    if shape in _COMMON and not is_common:
        raise ValueError("a common shape that is written as another")
    size = shape.size
    if not MIN_BYTES <= size <= MAX_BYTES:
        raise ValueError("a shape of an impossible size")
    data = reader.take_bytes(count * size)
    pieces = [data[at : at + size] for at in range(0, count * size, size)]
    if is_common:
        # No other shape has texts of these lengths with these letters.
        return [
            unpack(shape, piece) if is_wanted else ""
            for piece, is_wanted in zip(pieces, wanted, strict=True)
        ]
    texts = [unpack(shape, piece) for piece in pieces]
    if any(pack(text) != (shape, piece) for text, piece in zip(texts, pieces, strict=True)):
        raise ValueError("a text of another shape")
    return texts


# --- logins to bytes ----------------------------------------------------------------------------


def _encode(logins: frozenset[ServiceLogin], registry: Registry, version: Version) -> bytes:
    if not logins:
        return b""
    out, groups = BitWriter(), group_logins(logins, registry, version)
    out.put(FORMAT, 4)
    has_number = any(
        not unregistered
        or any(code == NUMBERED for code, _ in qualifiers)
        or (method not in METHODS and registry.method_number(method, version) is not None)
        for ((method, unregistered, qualifiers), *_), _ in groups
    )
    if out.put_flag(has_number):
        out.put_small(version.number)
        out.put_bytes(version.check)

    times = [row.time for _, rows in groups for row in rows]
    earliest = min(times)
    distances = [time - earliest for time in times]
    minutes = any(distances) and not any(distance % MINUTE for distance in distances)
    if out.put_flag(minutes):
        distances = [distance // MINUTE for distance in distances]
    out.put_sized(earliest)
    out.put_sized(max(distances))

    out.put_small(len(groups))
    previous = INITIAL
    for group, rows in groups:
        _put_group(out, group, previous, registry, version)
        out.put_small(len(rows))
        previous = group
    for group, rows in groups:
        if group.traits.unregistered:
            for row in rows:
                put_text(out, row.entity_id)
        else:
            numbers = [row.number for row in rows]
            gaps = [number - before - 1 for before, number in pairwise([-1, *numbers])]
            out.put_rice(gaps, _rice_bits(version, len(rows)))
    out.put_digits(distances, max(distances) + 1)
    for _, rows in groups:
        put_payloads(out, (row.name_payload for row in rows))
        put_payloads(out, (row.index_payload for row in rows))
    return out.finish()


def _put_group(
    out: BitWriter, group: Group, previous: Group, registry: Registry, version: Version
) -> None:
    """Append what differs from the previous group."""
    if out.put_flag(group.traits != previous.traits):
        method, unregistered, qualifiers = group.traits
        if method in METHODS:
            out.put_small(2 * METHODS.index(method) + 1)
        elif (number := registry.method_number(method, version)) is not None:
            out.put_small(2 * number + 2)
        else:
            out.put_small(0)
            put_text(out, method)
        out.put_flag(unregistered)
        for code, text in qualifiers:
            out.put(code, 2)
            if code == LITERAL:
                put_text(out, text)
            elif code == NUMBERED:
                out.put_small(registry.entity_number(text, version) or 0)
    if out.put_flag(group.format != previous.format):
        if not group.format:
            out.put_small(0)
        elif group.format[0] in NAME_ID_FORMATS:
            out.put_small(2 + NAME_ID_FORMATS.index(group.format[0]))
        else:
            out.put_small(1)
            put_text(out, group.format[0])
    if out.put_flag(group.name_encoding != previous.name_encoding):
        put_encoding(out, group.name_encoding)
    if out.put_flag(group.index_encoding != previous.index_encoding):
        put_encoding(out, group.index_encoding)


def _rice_bits(version: Version, count: int) -> int:
    return max(0, (7 * version.entities // (10 * count)).bit_length() - 1)


# --- bytes to logins ----------------------------------------------------------------------------


class _Decoder:
    """Reads what an encoder with the same version wrote, and refuses anything else."""

    def __init__(self, data: bytes, registry: Registry) -> None:
        self._in = BitReader(data)
        self._registry = registry
        self.version = NO_VERSION

    def decode(self, only: str | None = None) -> Iterator[ServiceLogin]:
        """The logins, or those at one service. All is checked once the iterator has ended."""
        reader = self._in
        if reader.take(4) != FORMAT:
            raise ValueError("unknown format")
        if has_number := reader.take_flag():
            number = reader.take_small()
            self.version = self._registry.version(number, reader.take_bytes(CHECK_BYTES))
        in_minutes = reader.take_flag()
        earliest, reach = reader.take_sized(), reader.take_sized()

        groups: list[tuple[Group, int]] = []
        group, total = INITIAL, 0
        for _ in range(self._take_count()):
            before, group = group, self._take_group(group)
            if groups and group < before:
                raise ValueError("groups that do not ascend")
            count = self._take_count()
            groups.append((group, count))
            total += count
            # Bounds what the loops below cost.
            if total > MAX_LOGINS:
                raise ValueError("too many logins")
        if has_number != any(self._has_number(group) for group, _ in groups):
            raise ValueError("a registry that is not used")
        services = [self._take_services(group, count) for group, count in groups]
        distances = reader.take_digits(total, reach + 1)
        if min(distances) != 0 or max(distances) != reach:
            raise ValueError("another earliest or latest time")
        if (
            reach == 0
            if in_minutes
            else reach and not any(distance % MINUTE for distance in distances)
        ):
            raise ValueError("another unit of time")
        unit, start, previous = MINUTE if in_minutes else 1, 0, None
        layer: dict[str, tuple[int, Payload, Payload]] = {}
        for at, ((group, count), entity_ids) in enumerate(zip(groups, services, strict=True)):
            is_next = at + 1 < len(groups) and groups[at + 1][0] == group
            is_layered = is_next or group == previous
            wanted = [only is None or is_layered or only == each for each in entity_ids]
            names = take_identifiers(reader, group.name_encoding, count, wanted)
            indexes = take_identifiers(reader, group.index_encoding, count, wanted)
            times = [earliest + unit * each for each in distances[start : start + count]]
            start += count
            if group.name_encoding.code == ABSENT:
                raise ValueError("a login without a NameID")
            if is_layered:
                # The k-th login of a service is in the k-th of equal groups.
                before_it = layer if group == previous else None
                layer = {
                    entity_id: (time, encode_identifier(name)[1], encode_identifier(index)[1])
                    for entity_id, time, name, index in zip(
                        entity_ids, times, names, indexes, strict=True
                    )
                }
                if before_it is not None and not all(
                    entity_id in before_it and before_it[entity_id] < login
                    for entity_id, login in layer.items()
                ):
                    raise ValueError("logins of a service that do not ascend")
            previous = group
            method, _, (name_qualifier, sp_name_qualifier) = group.traits
            # Its own entityID would be written as such.
            named = {text for code, text in group.traits.qualifiers if code in (LITERAL, NUMBERED)}
            if not named.isdisjoint(entity_ids):
                raise ValueError("another form of a qualifier")
            form = group.format[0] if group.format else None
            for entity_id, time, name, index in zip(entity_ids, times, names, indexes, strict=True):
                if name is None or (only is not None and only != entity_id):
                    continue
                name_id = NameID(
                    name,
                    form,
                    _from_qualifier(name_qualifier, entity_id),
                    _from_qualifier(sp_name_qualifier, entity_id),
                )
                yield ServiceLogin(entity_id, method, name_id, index, time)
        reader.finish()

    def _has_number(self, group: Group) -> bool:
        """Whether it names something by its number in the registry."""
        method, unregistered, qualifiers = group.traits
        return (
            not unregistered
            or any(code == NUMBERED for code, _ in qualifiers)
            or (
                method not in METHODS
                and self._registry.method_number(method, self.version) is not None
            )
        )

    def _take_services(self, group: Group, count: int) -> list[str]:
        if not group.traits.unregistered:
            gaps = self._in.take_rice(count, _rice_bits(self.version, count))
            numbers = accumulate(gap + 1 for gap in gaps)
            return [self._entity_id(number - 1) for number in numbers]
        texts = [take_text(self._in) for _ in range(count)]
        if any(first >= second for first, second in pairwise(texts)):
            raise ValueError("services that do not ascend")
        if any(self._registry.entity_number(text, self.version) is not None for text in texts):
            raise ValueError("a registered service as a text")
        return texts

    def _take_count(self) -> int:
        count = self._in.take_small()
        if not 0 < count <= MAX_LOGINS:
            raise ValueError("a count of 0, or too large")
        return count

    def _take_group(self, previous: Group) -> Group:
        """Read what differs from the previous group."""
        reader = self._in
        traits, form, name_encoding, index_encoding = previous
        if has_traits := reader.take_flag():
            number = reader.take_small()
            if number == 0:
                method = take_text(reader)
                if self._registry.method_number(method, self.version) is not None:
                    raise ValueError("a registered method as a text")
            elif number % 2:
                method = entry(METHODS, number // 2)
            else:
                method = entry(self._registry.methods[: self.version.methods], number // 2 - 1)
            if method in METHODS and not number % 2:
                raise ValueError("another form of a method")
            unregistered = reader.take_flag()
            qualifiers = (self._take_qualifier(), self._take_qualifier())
            traits = Traits(method, unregistered, qualifiers)
        if has_form := reader.take_flag():
            number = reader.take_small()
            text = take_text(reader) if number == 1 else None
            if text in NAME_ID_FORMATS:
                raise ValueError("another form of a format")
            if text is None and number:
                text = entry(NAME_ID_FORMATS, number - 2)
            form = () if text is None else (text,)
        if has_names := reader.take_flag():
            name_encoding = take_encoding(reader)
        if has_indexes := reader.take_flag():
            index_encoding = take_encoding(reader)
        group = Group(traits, form, name_encoding, index_encoding)
        flags = has_traits, has_form, has_names, has_indexes
        if any(
            flag != (mine != its) for flag, mine, its in zip(flags, group, previous, strict=True)
        ):
            raise ValueError("what does not differ, or differs without a flag")
        return group

    def _take_qualifier(self) -> Qualifier:
        code = self._in.take(2)
        if code == LITERAL:
            text = take_text(self._in)
            if self._registry.entity_number(text, self.version) is not None:
                raise ValueError("a registered qualifier as a text")
            return code, text
        return code, self._entity_id(self._in.take_small()) if code == NUMBERED else ""

    def _entity_id(self, number: int) -> str:
        if number >= self.version.entities:
            raise ValueError("an entity beyond the registry's version")
        return self._registry.entities[number]
