"""``sealedstate sso registry build``, run by an operator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealedstate.sso import load_registry, parse_registry
from tests.sso.test_registry import entity, metadata
from tests.support.ring_cli import run, usage_error

BUILD = ["sso", "registry", "build"]


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    file = tmp_path / "metadata.xml"
    file.write_bytes(metadata(entity("https://b"), entity("https://a")))
    return file


def test_registry_is_printed(federation: Path) -> None:
    result = run(*BUILD, str(federation), "--method", "urn:m", "--entity", "https://idp")
    registry = parse_registry(result.out)
    assert registry.entities == ("https://idp", "https://a", "https://b")
    assert registry.methods == ("urn:m",)
    assert result.err == "version 1: 3 entities, 3 of them new, and 1 method\n"


def test_existing_registry_is_only_extended(federation: Path, tmp_path: Path) -> None:
    file = tmp_path / "registry"
    build = [*BUILD, str(federation), "-o", str(file)]
    assert run(*build).code == 0
    first = file.read_text()
    federation.write_bytes(metadata(entity("https://c"), entity("https://b")))
    assert run(*build)[:2] == (0, "")
    assert file.read_text().startswith(first)
    assert load_registry(file).entities == ("https://a", "https://b", "https://c")
    before = file.stat().st_mtime_ns
    assert run(*build).code == 0
    assert file.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.xml", "registry"]


def test_metadata_may_come_from_standard_input_and_several_files(federation: Path) -> None:
    result = run(*BUILD, str(federation), "-", stdin=metadata(entity("https://z")))
    assert parse_registry(result.out).entities == ("https://a", "https://b", "https://z")


def test_unreadable_file_changes_nothing_and_is_wrong_usage(
    federation: Path, tmp_path: Path
) -> None:
    file = tmp_path / "registry"
    for content in (b"something else\n", b"\xff\xfe"):
        file.write_bytes(content)
        usage_error(*BUILD, str(federation), "-o", str(file))
        assert file.read_bytes() == content
    federation.write_text("<!DOCTYPE x><x/>")
    usage_error(*BUILD, str(federation))
    assert "none.xml" in usage_error(*BUILD, str(tmp_path / "none.xml"))


def test_registry_that_cannot_be_written_is_left_as_it_was(
    federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "registry"
    assert run(*BUILD, str(federation), "-o", str(file)).code == 0
    before = file.read_bytes()

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    new = ["--entity", "https://new"]
    assert "No space" in usage_error(*BUILD, str(federation), "-o", str(file), *new)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
