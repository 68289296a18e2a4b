"""The registry's file grows and never changes what a number means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.errors import RegistryMissing, RegistryUnreadable, UnsupportedValue
from sealedstate.sso.registry import (
    FORMAT,
    NO_VERSION,
    Registry,
    extend_registry,
    load_registry,
    parse_registry,
)
from sealedstate.sso.registry import __doc__ as documentation

LINES = st.text(st.characters(codec="utf-8", min_codepoint=32), min_size=1, max_size=20)


@given(st.lists(st.lists(LINES, max_size=5), max_size=4), st.lists(LINES, max_size=3))
def test_every_version_of_a_file_is_its_beginning(
    batches: list[list[str]], methods: list[str]
) -> None:
    text, known = "", Registry()
    for batch in batches:
        longer = extend_registry(text, batch, methods)
        assert longer.startswith(text)
        registry = parse_registry(longer)
        assert registry.entities[: len(known.entities)] == known.entities
        assert registry.versions[: len(known.versions)] == known.versions
        assert set(batch) | set(known.entities) == set(registry.entities)
        text, known = longer, registry


def test_numbers_belong_to_a_version() -> None:
    text = extend_registry(extend_registry("", ["a", "b"]), ["c"], ["m"])
    registry = parse_registry(text)
    first, second = registry.versions
    assert (first.number, first.entities, first.methods) == (1, 2, 0)
    assert registry.entity_number("c", first) is None
    assert registry.entity_number("c", second) == 2
    assert registry.method_number("m", first) is None
    assert registry.method_number("m", second) == 0
    assert registry.entity_number("z", second) is None
    assert registry.version(1, first.check) == first
    assert registry.latest == second


def test_a_version_that_is_not_here_or_not_the_same_is_named() -> None:
    registry = parse_registry(extend_registry("", ["a"]))
    for number, check in ((2, b"xx"), (0, b"xx"), (1, b"xx")):
        with pytest.raises(RegistryMissing) as missing:
            registry.version(number, check)
        assert missing.value.version == number


def test_what_is_there_already_makes_no_new_version() -> None:
    text = extend_registry("", ["a", "b", "a"])
    assert extend_registry(text, ["b", "a"]) == text
    assert parse_registry(extend_registry("", [])) == Registry()
    assert Registry().latest == NO_VERSION


def test_the_file_reads_as_documented() -> None:
    shown = re.findall(r"^    (sealed.*|entity .*|method .*|version .*)$", documentation, re.M)
    registry = parse_registry("".join(f"{line}\n" for line in shown))
    assert registry.entities == tuple(
        f"https://{sp}.example.org/shibboleth" for sp in ("sp", "another")
    )
    assert registry.methods == ("https://example.org/methods/passkey",)
    first = extend_registry("", registry.entities[:1], registry.methods)
    assert extend_registry(first, registry.entities).splitlines() == shown


GOOD = extend_registry(extend_registry("", ["a", "b"], ["m"]), ["c"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "sealedstate-registry-2\n",
        GOOD[:-1],
        GOOD[:-5],
        GOOD + "entity d\n",
        GOOD + "version 3 " + "0" * 32 + "\n",
        GOOD + "\n",
        GOOD.replace("entity a", "entity A"),
        GOOD.replace("entity a\nentity b", "entity b\nentity a"),
        GOOD.replace("entity a\n", ""),
        GOOD.replace("entity c", "entity b"),
        GOOD.replace("version 2", "version 3"),
        GOOD.replace("version 1", "version 01"),
        GOOD.replace("method m", "method "),
        GOOD.replace("method m", "something m"),
        GOOD.replace("\n", "\r\n"),
        FORMAT + "\nversion 1 " + "0" * 32 + "\n",
    ],
)
def test_a_file_that_is_cut_or_edited_is_refused(text: str) -> None:
    with pytest.raises(RegistryUnreadable):
        parse_registry(text)


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_a_registry_or_one_kind_of_error(text: str) -> None:
    for whole in (text, f"{FORMAT}\n{text}", GOOD + text):
        try:
            parse_registry(whole)
        except RegistryUnreadable:
            continue


@pytest.mark.parametrize("text", ["", "a\nb", "a\r", "a\tb", "\ud800"])
def test_what_would_break_a_line_is_not_registered(text: str) -> None:
    with pytest.raises(UnsupportedValue):
        extend_registry("", [text])
    with pytest.raises(UnsupportedValue):
        extend_registry("", [], [text])


def test_a_registry_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "registry"
    file.write_bytes(GOOD.encode())
    assert load_registry(file).entities == ("a", "b", "c")
    file.write_bytes(GOOD.encode() + b"\xff")
    with pytest.raises(RegistryUnreadable):
        load_registry(file)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(RegistryUnreadable, match=re.escape(str(path))):
            load_registry(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD.replace("\n", "\r\n"), "line ends are CRLF"),
        (GOOD[:-1] + "\r\n", "line ends are CRLF"),
        ("\ufeff" + GOOD, "begins with a byte order mark"),
    ],
)
def test_what_an_editor_changed_unseen_is_named(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "registry"
    file.write_bytes(text.encode())
    with pytest.raises(RegistryUnreadable, match=why):
        load_registry(file)
    with pytest.raises(RegistryUnreadable, match=why):
        extend_registry(text, ["https://another"])
