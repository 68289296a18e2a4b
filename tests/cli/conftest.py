"""Places of a ring, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ring_cli import PLACES, Desk, desk


@pytest.fixture(params=PLACES)
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A place of each kind, empty, which the environment names."""
    with desk(request.param, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A plaintext file."""
    with desk("file", tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A file that is wrapped."""
    with desk("wrapped file", tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A store."""
    with desk("store", tmp_path, monkeypatch) as made:
        yield made
