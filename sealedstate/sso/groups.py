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
from .shapes import USUAL_FORM, Form, Rest, to_cell
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
