"""Places of a ring, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ring_cli import PLACES, Desk, desk


def fixture_of(*kinds: str) -> Any:
    """A fixture of an empty place of each kind, which the environment names."""

    @pytest.fixture(params=kinds)
    def place(
        request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Desk]:
        with desk(request.param, tmp_path, monkeypatch) as made:
            yield made

    return place


place = fixture_of(*PLACES)
file = fixture_of("file")
wrapped = fixture_of("wrapped file")
stored = fixture_of("store")
