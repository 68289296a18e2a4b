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

from collections.abc import Iterable, Iterator
from itertools import pairwise

from ..errors import UnsupportedValue
from .bits import BitReader, BitWriter
from .errors import LoginsUnreadable
from .groups import (
    BEFORE_ALL,
    LITERAL,
    NUMBERED,
    Group,
    Groups,
    Qualifier,
    Qualifiers,
    Row,
    Services,
    group_logins,
    to_login,
)
from .logins import ServiceLogin
from .registry import CHECK_BYTES, NO_VERSION, Registry, Version
from .shapes import put_form, put_rests, take_form, take_texts
from .texts import put_text, take_text
from .wellknown import METHODS, NAME_ID_FORMATS

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
