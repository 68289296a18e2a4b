"""``sealedstate sso registry build``, run as an operator runs it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from sealedstate.cli import main
from sealedstate.sso import load_registry, parse_registry
from tests.sso.test_registry import entity, metadata

BUILD = ["sso", "registry", "build"]


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    file = tmp_path / "metadata.xml"
    file.write_bytes(metadata(entity("https://b"), entity("https://a")))
    return file


def test_a_registry_is_printed(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUILD, str(federation), "--method", "urn:m", "--entity", "https://idp"]) == 0
    printed = capsys.readouterr()
    registry = parse_registry(printed.out)
    assert registry.entities == ("https://idp", "https://a", "https://b")
    assert registry.methods == ("urn:m",)
    assert "version 1: 3 entities, 3 of them new, and 1 methods" in printed.err


def test_a_registry_that_is_there_is_only_appended_to(
    federation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "registry"
    build = [*BUILD, str(federation), "-o", str(file)]
    assert main(build) == 0
    first = file.read_text()
    federation.write_bytes(metadata(entity("https://c"), entity("https://b")))
    assert main(build) == 0
    assert file.read_text().startswith(first)
    assert load_registry(file).entities == ("https://a", "https://b", "https://c")
    before = file.stat().st_mtime_ns
    assert main(build) == 0
    assert file.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.xml", "registry"]
    assert capsys.readouterr().out == ""


def test_metadata_comes_from_standard_input_and_from_several_files(
    federation: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(metadata(entity("https://z"))))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main([*BUILD, str(federation), "-"]) == 0
    assert parse_registry(capsys.readouterr().out).entities == (
        "https://a",
        "https://b",
        "https://z",
    )


def test_what_can_t_be_read_changes_nothing_and_is_one_clear_line(
    federation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "registry"
    for content in (b"something else\n", b"\xff\xfe"):
        file.write_bytes(content)
        assert main([*BUILD, str(federation), "-o", str(file)]) == 2
        assert file.read_bytes() == content
    federation.write_text("<!DOCTYPE x><x/>")
    assert main([*BUILD, str(federation)]) == 2
    assert main([*BUILD, str(tmp_path / "none.xml")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 4


def test_a_registry_that_can_t_be_written_is_left_as_it_was(
    federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "registry"
    assert main([*BUILD, str(federation), "-o", str(file)]) == 0
    before = file.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([*BUILD, str(federation), "-o", str(file), "--entity", "https://new"]) == 2
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
