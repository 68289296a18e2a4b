"""Rings in files and in memory, and what all storages of rings have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import strategies as st

from sealedstate.errors import OperatorError
from sealedstate.rotation import transitions
from sealedstate.rotation.ring import Ring, RingStorage, Schedule
from sealedstate.rotation.ring_file import RingFile
from sealedstate.rotation.source import RotationConfig
from tests.support.jar import Clock
from tests.support.ring_workers import SCHEDULE, first_ring, next_of, open_file

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


# --- any sequence of changes --------------------------------------------------------------------

Change: TypeAlias = Callable[[Ring], Ring]


def _rotate(seconds: int, force: bool, ring: Ring) -> Ring:
    return transitions.rotate(ring, SCHEDULE, ring.updated_at + seconds, os.urandom, force)


def _revoke(number: int, reason: str, ring: Ring) -> Ring:
    kid = ring.keys[number % len(ring.keys)].kid
    return transitions.revoke(ring, kid, ring.updated_at + 1, os.urandom, reason)


def _disable(number: int, ring: Ring) -> Ring:
    kid = ring.keys[number % len(ring.keys)].kid
    return transitions.disable(ring, kid, ring.updated_at + 1, os.urandom)


def _enable(number: int, ring: Ring) -> Ring:
    return transitions.enable(ring, ring.keys[number % len(ring.keys)].kid, ring.updated_at + 1)


def _revoke_before(seconds: int, ring: Ring) -> Ring:
    return transitions.revoke_before(ring, ring.updated_at - seconds, ring.updated_at + 1)


_numbers = st.integers(0, 5)
CHANGES: st.SearchStrategy[list[Change]] = st.lists(
    st.one_of(
        st.builds(partial, st.just(_rotate), st.integers(0, 200), st.booleans()),
        st.builds(partial, st.just(_revoke), _numbers, st.text(max_size=5)),
        st.builds(partial, st.just(_disable), _numbers),
        st.builds(partial, st.just(_enable), _numbers),
        st.builds(partial, st.just(_revoke_before), st.integers(0, 50)),
    ),
    max_size=10,
)


def assert_reads_what_it_writes(
    storage: RingStorage, other: RingStorage, changes: list[Change]
) -> None:
    """Each state replaces the state before, and both storages read it."""
    before, ring = None, first_ring()
    for change in (lambda ring: ring, *changes):
        ring = change(ring)
        assert storage.write(ring, before) is True
        assert other.load() == storage.load() == ring
        before = ring
