"""What service logins have in common, and what each has for itself.

Knows logins, and which services and qualifiers have a number in one version of a registry. Does not
know how a group is written. The order of groups and rows is part of the format (see `columns`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from .logins import NameID, ServiceLogin, Text
from .registry import Registry, Version
from .shapes import USUAL_FORM, Cell, Form, to_cell
from .wellknown import USUAL_METHOD

# How a qualifier is written: not at all, as a text, as the service's own entityID, as a number.
NONE, LITERAL, OWN, NUMBERED = range(4)
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
    name_cell: Cell
    index_cell: Cell


Groups: TypeAlias = list[tuple[Group, list[Row]]]

_NO_QUALIFIER, _OWN_QUALIFIER = (NONE, ""), (OWN, "")
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
    number = registry.entity_number(login.entity_id, version)
    name_id, own = login.name_id, login.entity_id
    name, index = to_cell(name_id.value), to_cell(login.session_index)

    def qualifier(text: str | None) -> Qualifier:
        if text is None or text == own:
            return _NO_QUALIFIER if text is None else _OWN_QUALIFIER
        known = registry.entity_number(text, version) is not None
        return (NUMBERED if known else LITERAL), text

    qualifiers = (qualifier(name_id.name_qualifier), qualifier(name_id.sp_name_qualifier))
    services = Services(login.method, number is None, qualifiers)
    group = Group(services, _as_tuple(name_id.format), name.form, index.form)
    return group, Row(-1 if number is None else number, own, login.time, name, index)


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
