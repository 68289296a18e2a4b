"""docs/events.md names every event that the source notes, its fields and level, and every reason.

Reads the source with ast. Does not know when an event is noted.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from sealedstate import errors
from sealedstate.errors import UnreadableError
from sealedstate.events import MAX_KIDS, OBSERVER_FAILED, OTHER_KIDS, Event, EventLog

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "events.md").read_text("utf-8")


def table(mark: str) -> dict[str, list[str]]:
    """The rows of the table between the marks, without its head: first cell -> the others."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", DOCUMENT, re.DOTALL)
    assert found is not None
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[1].splitlines()[2:]]
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
    return {row[0].strip("`"): row[1:] for row in rows}


def notes() -> Iterator[tuple[str, ast.Call]]:
    """Every call of an `emit` that names an event: (name, call)."""
    for folder in ("sealedstate", "middleware"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and _notes_something(node):
                    yield _name_of(node.args[0]), node


def _notes_something(call: ast.Call) -> bool:
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "emit"):
        return False
    # One `emit` may pass on to another what it was given.
    return not (isinstance(call.args[0], ast.Name) and call.args[0].id == "name")


def _name_of(argument: ast.expr) -> str:
    assert isinstance(argument, ast.Constant), f"line {argument.lineno}: which event is that?"
    assert isinstance(argument.value, str)
    return argument.value


def _fields_of(call: ast.Call) -> set[str]:
    """What is told beside the name, by position or by keyword."""
    parameters = list(inspect.signature(EventLog.emit).parameters)[1:]
    given = [*parameters[: len(call.args)], *(keyword.arg or "" for keyword in call.keywords)]
    return {parameter.removesuffix("_id") for parameter in given} - {"name", "level"}


def _level_of(call: ast.Call) -> str:
    for keyword in call.keywords:
        if keyword.arg == "level":
            assert isinstance(keyword.value, ast.Attribute)
            return keyword.value.attr
    return "INFO"


def reasons(kind: type[UnreadableError] = UnreadableError) -> dict[str, type[UnreadableError]]:
    found: dict[str, type[UnreadableError]] = {}
    for heir in kind.__subclasses__():
        if heir.__module__ == errors.__name__:
            found |= {heir.reason: heir} | reasons(heir)
    return found


def test_every_event_is_in_the_table_and_every_line_of_it_is_an_event() -> None:
    assert set(table("events")) == {name for name, _ in notes()}


def test_every_event_stands_there_with_its_level() -> None:
    documented = {name: row[1] for name, row in table("events").items()}
    assert documented == {name: _level_of(call) for name, call in notes()}


def test_every_event_stands_there_with_its_fields() -> None:
    told: dict[str, set[str]] = {}
    for name, call in notes():
        told.setdefault(name, set()).update(_fields_of(call))
    documented = {
        name: {field.strip() for field in row[0].split(",") if field}
        for name, row in table("events").items()
    }
    assert documented == told


def test_every_field_is_explained() -> None:
    above = DOCUMENT.split("## All events")[0]
    explained = re.findall(r"^\| `(\w+)` \|", above, re.MULTILINE)
    metrics_only = {"counted_kid"}
    renamed = {"name": "event"}
    fields = {field.name for field in dataclasses.fields(Event)} - metrics_only
    assert set(explained) == {renamed.get(name, name) for name in fields}


def test_every_line_says_what_happened_and_who_looks() -> None:
    for mark in ("events", "reasons"):
        for name, row in table(mark).items():
            assert all(row[2:] if mark == "events" else row[1:]), name


def test_every_reason_is_explained_and_whether_the_cookie_is_kept() -> None:
    kept = {name: "kept" if error.keeps_cookie else "" for name, error in reasons().items()}
    assert {name: row[0] for name, row in table("reasons").items()} == kept


def test_what_is_said_of_counters_is_so() -> None:
    assert f"{MAX_KIDS} are told" in DOCUMENT
    assert f"`{OTHER_KIDS}`" in DOCUMENT
    assert f"`{OBSERVER_FAILED}`" in DOCUMENT
