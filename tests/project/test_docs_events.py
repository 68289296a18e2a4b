"""docs/events.md has every event that the source emits with its fields and level, every reason."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections import defaultdict

from sealedstate import errors
from sealedstate.errors import UnreadableError
from sealedstate.events import MAX_KIDS, OBSERVER_FAILED, OTHER_KIDS, Event, EventLog
from tests.support.documents import ROOT, Document

DOCUMENT = Document("events.md")
EVENTS, REASONS = DOCUMENT.table("events"), DOCUMENT.table("reasons")
PARAMETERS = list(inspect.signature(EventLog.emit).parameters)[1:]


def emitted() -> dict[str, list[ast.Call]]:
    """Every call of an `emit` in the source, by the name of its event."""
    found: dict[str, list[ast.Call]] = defaultdict(list)
    for folder in ("sealedstate", "middleware"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and _is_emit(node):
                    name = node.args[0]
                    assert isinstance(name, ast.Constant), f"{path}:{name.lineno}: which event?"
                    found[str(name.value)].append(node)
    return found


def _is_emit(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "emit"


def _levels(calls: list[ast.Call]) -> set[str]:
    given = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "level"]
    return {level.attr for level in given if isinstance(level, ast.Attribute)} or {"INFO"}


def _fields(calls: list[ast.Call]) -> set[str]:
    found = set()
    for call in calls:
        found |= {*PARAMETERS[: len(call.args)], *(keyword.arg or "" for keyword in call.keywords)}
    return {name.removesuffix("_id") for name in found} - {"name", "level", "is_frequent"}


def test_every_event_is_documented_with_its_fields_and_level() -> None:
    source = {name: (_fields(calls), _levels(calls)) for name, calls in emitted().items()}
    documented = {
        name: ({field.strip() for field in row[0].split(",") if field}, {row[1]})
        for name, row in EVENTS.items()
    }
    assert documented == source


def test_every_field_of_an_event_is_explained() -> None:
    above = DOCUMENT.text.split("## All events")[0]
    fields = {field.name for field in dataclasses.fields(Event)} - {"counted_kid"}
    explained = set(re.findall(r"^\| `(\w+)` \|", above, re.MULTILINE))
    assert explained == fields - {"name"} | {"event"}


def test_every_reason_is_documented_with_the_end_of_a_kept_cookie() -> None:
    def reasons(kind: type[UnreadableError] = UnreadableError) -> dict[str, type[UnreadableError]]:
        found: dict[str, type[UnreadableError]] = {}
        for heir in kind.__subclasses__():
            if heir.__module__ == errors.__name__:
                found |= {heir.reason: heir} | reasons(heir)
        return found

    kept = {name: error.keeps_cookie for name, error in reasons().items()}
    assert {name: bool(row[0]) for name, row in REASONS.items()} == kept


def test_no_explanation_is_empty() -> None:
    assert all(all(row[2:]) for row in EVENTS.values())
    assert all(all(row[2:]) for row in REASONS.values())


def test_documented_names_and_bounds_of_counters_are_those_of_the_source() -> None:
    assert str(MAX_KIDS) in DOCUMENT.text
    assert f"`{OTHER_KIDS}`" in DOCUMENT.text
    assert f"`{OBSERVER_FAILED}`" in DOCUMENT.text
