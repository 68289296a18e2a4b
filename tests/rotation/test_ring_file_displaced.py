"""A ring file that is not what it was: older, another, cut short. Nobody goes on unaware."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealedstate.rotation import RingReplaced, RingUnreadable, Schedule, founded, revoked
from sealedstate.rotation.ring_file import RingFile

NOW = 1_800_000_000
SCHEDULE = Schedule(rotate_every=1000, announce=60, keep=3600, skew=5)


def test_an_older_copy_is_not_taken_for_the_ring_and_its_successor_is_put_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.json"
    home = RingFile(path, None, os.urandom, lambda: NOW)
    first = founded(SCHEDULE, NOW, os.urandom)
    assert home.write(first, None)
    second = revoked(first, first.keys[0].kid, NOW, os.urandom)
    assert home.write(second, first)
    Path(f"{path}.prev").replace(path)
    started = RingFile(path, None, os.urandom, lambda: NOW)
    with pytest.raises(RingReplaced, match=r"older copy, of sequence 1, and 2 was there") as found:
        started.load()
    assert found.value.ring == first
    # A process that runs holds the newer one.
    assert home.write(second, first)
    assert started.load() == second


def test_whoever_removes_the_mark_goes_on_with_an_older_copy(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    home = RingFile(path, None, os.urandom, lambda: NOW)
    first = founded(SCHEDULE, NOW, os.urandom)
    assert home.write(first, None)
    assert home.write(revoked(first, first.keys[0].kid, NOW, os.urandom), first)
    Path(f"{path}.prev").replace(path)
    Path(f"{path}.lock").unlink()
    assert home.load() == first


def test_another_ring_in_the_place_of_ours_is_not_taken_over(tmp_path: Path) -> None:
    ours, theirs = (founded(SCHEDULE, NOW, os.urandom) for _ in range(2))
    for name, ring in (("ours", ours), ("theirs", theirs)):
        assert RingFile(tmp_path / name, None, os.urandom, lambda: NOW).write(ring, None)
    (tmp_path / "theirs").replace(tmp_path / "ours")
    with pytest.raises(RingReplaced, match=f"the ring {theirs.ring_id}, and {ours.ring_id} was"):
        RingFile(tmp_path / "ours", None, os.urandom, lambda: NOW).load()


@pytest.mark.parametrize("left", [b"", b"{", b"\0" * 100])
def test_what_is_left_of_a_ring_gives_way_to_the_ring_and_to_no_other(
    tmp_path: Path, left: bytes
) -> None:
    path = tmp_path / "keys.json"
    home = RingFile(path, None, os.urandom, lambda: NOW)
    ring = founded(SCHEDULE, NOW, os.urandom)
    assert home.write(ring, None)
    path.write_bytes(left)
    with pytest.raises(RingUnreadable):
        home.write(founded(SCHEDULE, NOW, os.urandom), None)
    assert path.read_bytes() == left
    assert home.write(ring, None)
    assert home.load() == ring
