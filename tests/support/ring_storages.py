"""Rings in files and in memory, and what all storages of rings have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealedstate.errors import OperatorError
from sealedstate.rotation.ring import Ring, Schedule
from sealedstate.rotation.ring_file import RingFile
from sealedstate.rotation.source import RotationConfig
from tests.support.jar import Clock
from tests.support.ring_workers import first_ring, next_of, open_file

# --- in memory ----------------------------------------------------------------------------------

RELOAD_EVERY = 10
HASTY = Schedule(rotate_every=1000, announce=60, keep=3600, skew=5)


class MemoryRing:
    """A ring in memory. `error` is raised instead of an answer."""

    location = "the ring in memory"

    def __init__(self, ring: Ring | None = None) -> None:
        self.ring = ring
        self.error: OperatorError | None = None
        self.loads = self.writes = 0

    def load(self) -> Ring | None:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return self.ring

    def write(self, ring: Ring, after: Ring | None) -> bool:
        self.writes += 1
        if self.error is not None:
            raise self.error
        if self.ring != after:
            return False
        self.ring = ring
        return True


def rotation_config(clock: Clock, **given: Any) -> RotationConfig:
    usual: dict[str, Any] = {
        "schedule": HASTY,
        "reload_every": RELOAD_EVERY,
        "lifetime": 3600,
        "skew": 5,
        "rotate_in_process": False,
        "clock": clock,
        "monotonic": clock,
        "random": os.urandom,
    }
    return RotationConfig(**usual | given)


# --- in files -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def leftovers(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.*.tmp"))


def create_at(path: Path, kek: str | None = None) -> tuple[RingFile, Ring]:
    storage, ring = open_file(path, kek), first_ring()
    assert storage.write(ring, None) is True
    return storage, ring


def rotate_at(path: Path, kek: str | None = None) -> tuple[RingFile, Ring, Ring]:
    """A storage, its ring, and the ring before."""
    storage, first = create_at(path, kek)
    second = next_of(first)
    assert storage.write(second, first) is True
    return storage, second, first


def problem(act: Callable[..., object], *arguments: object) -> str:
    """The message of the OperatorError that `act` raises."""
    with pytest.raises(OperatorError) as caught:
        act(*arguments)
    return str(caught.value)
