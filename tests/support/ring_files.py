"""Rings in files, and what stands beside them.

Knows their names. Does not know what is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sealedstate.errors import OperatorError
from sealedstate.rotation import Ring
from sealedstate.rotation.ring_file import RingFile
from tests.support.ring_workers import first_ring, next_of, open_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def leftovers(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.*.tmp"))


def founded_at(path: Path, kek: str | None = None) -> tuple[RingFile, Ring]:
    home, ring = open_file(path, kek), first_ring()
    assert home.write(ring, None) is True
    return home, ring


def rotated_at(path: Path) -> tuple[RingFile, Ring, Ring]:
    """A home, its ring, and the one before."""
    home, first = founded_at(path)
    second = next_of(first)
    assert home.write(second, first) is True
    return home, second, first


def problem(act: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(OperatorError) as caught:
        act(*arguments)
    return str(caught.value)
