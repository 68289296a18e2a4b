"""What a repr, a log line, an error or a terminal shows: no content, and no foreign control."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sealedstate
import sealedstate_wsgi
from sealedstate import ConfigurationError, SessionTooLarge
from sealedstate.cli import _output
from sealedstate.errors import SealedStateError, escape_message, escape_text, quote_text
from sealedstate.events import Event, EventLog

# The fields with texts or bytes that a repr may show: what the configuration, the code or a
# document of the operator says, and public ids. Subjects, values, NameIDs and session ids are
# hidden; so is a new field, until it is decided and listed here.
SHOWN: dict[str, str] = {
    "Authentication": "method",
    "Call": "arguments context operation",
    "Capabilities": "advice reasons",
    "Consent": "attributes document service",
    "Context": "name",
    "CookieCodec": "cookie_name realm variant",
    "CookieFamily": "domain name path same_site",
    "CookieStorageService": "realm",
    "Derived": "kid mark",
    "Diagnosis": "fitting hops profile",
    "EndedRecord": "torn",
    "Event": "counted_kid detail kid name numbers operation reason session",
    "Finding": "about sentence subject",
    "Group": "format",
    "Hop": "fields name page request response",
    "Identifiers": "realm",
    "Instrument": "description labels name unit",
    "Key": "kid",
    "Keyring": "removed_kids",
    "Kind": "context label noun",
    "_Kind": "cookie_name",
    "LegacyReader": "cookie_domain cookie_name cookie_path subject",
    "Limits": "may_drop policies spill_order",
    "LiveSession": "id where",
    "LoginRecords": "columns head",
    "LogoutRequest": "entity_id",
    "LogoutState": "status",
    "NameID": "format name_qualifier sp_name_qualifier",
    "Measure": "labels name",
    "Need": "capability requirement shortfall",
    "Notice": "entity_id",
    "Observation": "failure",
    "Option": "expected",
    "OverflowSet": "digest names set_id",
    "PartInfo": "place policy",
    "PartSize": "name",
    "PathFinding": "code remedy text",
    "PathLimit": "answer hop question setting",
    "PathRequest": "method mount path scheme server",
    "PathResponse": "status",
    "Probe": "query question",
    "Profile": "name",
    "Protector": "name",
    "Refusal": "code host",
    "Registry": "entities methods",
    "Report": "complaint known node opened primary refused ring unknown",
    "Ring": "ring_id",
    "RingKey": "kid",
    "SAMLArtifact": "source_id",
    "SaveEvent": "parts places",
    "Script": "sha text",
    "Server": "place",
    "ServiceLogin": "entity_id method",
    "SessionInfo": "cookie_bytes kid parts",
    "Settings": (
        "accept_weak_store_for cookie_domain cookie_name cookie_path former_cookies may_drop merge"
        " binding_path on_store_down on_unbound origins part_policies profile realm revocation"
        " same_site spill_order subject_key"
    ),
    "Snapshot": "report_error",
    "Statements": (
        "add_member changes create delete delete_members delete_records keys make_schema members "
        "notify ping read remove_member schema_version set_schema_version touch_context try_write "
        "update update_expiration version"
    ),
    "StoreAccess": "realm",
    "StoredAuthentication": "method",
    "SuiteAddress": "file module name state",
    "SweepResult": "needed unreadable",
    "Target": "name places",
    "TokenContext": "name purpose realm",
    "Tombstone": "kid reason",
    "Traits": "method",
    "TypedStorage": "context serializer",
    "Use": "contexts name purpose",
    "Version": "checksum",
    "_Alphabet": "pattern",
    "_ContextNames": "base",
    "_Item": "epoch item_epoch token value",
    "_Line": "context operations",
    "_Names": "epoch item",
    "_Part": "contexts failure",
    "_Place": "entry identity keys",
    "_Planner": "left_out parts",
    "_Refusal": "code",
    "_Target": "authority base host scheme",
}
# The same for a repr that is written by hand, and has no names of fields.
SHOWN_WITHOUT_NAME = {"Secret": "where"}
CONTENT = "canary\ncontent"


def classes() -> Iterator[type]:
    for package in (sealedstate, sealedstate_wsgi):
        # Without `onerror`, a package whose driver is not installed would end the walk.
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", print):
            if info.name.endswith("__main__"):
                continue
            try:
                module = importlib.import_module(info.name)
            except (ImportError, ConfigurationError):  # a driver that is not installed
                continue
            for _, found in inspect.getmembers(module, inspect.isclass):
                if found.__module__ == info.name:
                    yield found


def fields_of(kind: type) -> Mapping[str, str]:
    """The fields of a dataclass or a NamedTuple, with their annotations as text."""
    if dataclasses.is_dataclass(kind):
        return {item.name: str(item.type) for item in dataclasses.fields(kind)}
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        annotations = (str(kind.__annotations__.get(name, "")) for name in kind._fields)
        plain = (text.removeprefix("ForwardRef('").removesuffix("')") for text in annotations)
        return dict(zip(kind._fields, plain, strict=True))
    return {}


def can_hold_content(annotation: str) -> bool:
    """Whether a field holds more than functions and values with a repr that is tested, too."""
    words = set(re.findall(r"\w+", annotation))
    return not annotation.startswith("Callable[") and bool(
        words & {"str", "bytes", "object", "Any", "T", "Mapping", "Counter", "EventName", "Payload"}
    )


def values_of(annotation: str) -> Any:
    """A value with content, for a field that can hold a text or bytes."""
    if "Mapping" in annotation or "dict" in annotation:
        return {CONTENT: CONTENT}
    if any(word in annotation for word in ("tuple", "Sequence", "list", "frozenset")):
        return (CONTENT,)
    return CONTENT


CLASSES = list(classes())
VALUES = [kind for kind in CLASSES if fields_of(kind)]


def test_all_classes_are_found() -> None:
    assert len(CLASSES) > 150
    assert len(VALUES) > 60


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__qualname__)
def test_repr_of_a_value_shows_no_content(kind: type) -> None:
    names = fields_of(kind)
    plain = ("int", "float", "bool", "int | None", "float | None")
    given = {
        name: 1 if annotation in plain else values_of(annotation)
        for name, annotation in names.items()
    }
    shown = show(kind, given)
    leaked = {
        name
        for name, annotation in names.items()
        if given[name] != 1 and can_hold_content(annotation) and f"{name}={given[name]!r}" in shown
    }
    assert leaked == set(SHOWN.get(kind.__name__, "").split())
    # A repr that is written by hand may show a value without its name.
    if shown.startswith("<"):
        public = SHOWN_WITHOUT_NAME.get(kind.__name__, "").split()
        hidden = {name for name in names if can_hold_content(names[name]) and name not in public}
        only = {name: value if name in hidden else type(value)() for name, value in given.items()}
        assert "canary" not in show(kind, only)


def show(kind: type, given: Mapping[str, object]) -> str:
    """The repr of an object with these fields."""
    made: Any
    if dataclasses.is_dataclass(kind):
        made = object.__new__(kind)
        for name, value in given.items():
            object.__setattr__(made, name, value)
    else:
        made = tuple.__new__(kind, given.values())
    return repr(made)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__qualname__)
def test_object_whose_constructor_raised_has_a_repr(kind: type) -> None:
    if "__repr__" in vars(kind) and not issubclass(kind, tuple):
        if dataclasses.is_dataclass(kind) and kind.__repr__.__qualname__ == "__create_fn__":
            return
        try:
            made = kind.__new__(kind)
        except TypeError:
            pytest.skip("needs arguments")
        if not dataclasses.is_dataclass(kind) or kind.__name__ == "Settings":
            assert repr(made)


# --- the one function that prints foreign text ----------------------------------------------------

FOREIGN = "ann\r\n\x1b[2J\x00\u202e\u2028\ud800\x9b é"


@given(st.text(), st.integers(20, 100))
def test_foreign_text_is_one_short_printable_line(text: str, most: int) -> None:
    for shown in (escape_text(text, most), quote_text(text, most), escape_message(text)):
        assert shown.isprintable()
        shown.encode()
    assert len(escape_text(text, most)) <= most


def test_every_error_is_one_printable_line_without_secrets() -> None:
    for kind in CLASSES:
        if issubclass(kind, SealedStateError) and kind.__init__ is SealedStateError.__init__:
            message = str(kind(f"{FOREIGN}: sealedstate-key-1:abcdefgh:x postgresql://u:pw@h/d"))
            assert message.isprintable()
            assert "abcdefgh" not in message
            assert "pw" not in message


def test_names_of_parts_are_escaped_in_an_error_and_limited() -> None:
    parts = {f"{FOREIGN}{number}" * 20: number for number in range(1000)}
    message = str(SessionTooLarge(parts, 10, "no store"))
    assert message.isprintable()
    assert len(message) < 4000
    assert "980 smaller parts" in message


def test_detail_of_an_event_is_escaped_for_the_log_and_for_observers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Event] = []
    EventLog([seen.append]).emit("ring-refused", detail=FOREIGN, level=logging.ERROR)
    assert seen[0].detail is not None
    assert seen[0].detail.isprintable()
    assert caplog.records[0].getMessage().isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminal_of_any_encoding_gets_a_line_for_each_text(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("stdout", "stderr"):
        with (tmp_path / stream).open("w", encoding=encoding, newline="") as terminal:
            monkeypatch.setattr(sys, stream, terminal)
            if stream == "stdout":
                _output.emit(False, {}, _output.table([(FOREIGN, "x"), ("Müller 🔑", FOREIGN)]))
            else:
                _output.echo_error(ConfigurationError(FOREIGN))
                _output.echo_error(FOREIGN)
        lines = (tmp_path / stream).read_text(encoding).split("\n")
        assert len(lines) == 3
        assert all(line.isprintable() for line in lines)
