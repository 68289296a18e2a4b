"""A ring in a file: markers, permissions and links.

What goes wrong during a write is in `chaos/test_ring_file_bad_days`.
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sealedstate.errors import CapacityError
from sealedstate.keyring import Key
from sealedstate.rotation import document
from sealedstate.rotation.document import RingUnreadable, dump_ring
from sealedstate.rotation.ring import Ring, RingReplaced
from sealedstate.rotation.ring_file import RingFile, is_ring_file
from tests.support.forks import run_child
from tests.support.ring_storages import (
    beside,
    create_at,
    path,
    problem,
    rotate_at,
)
from tests.support.ring_workers import at_start, first_ring, next_of, open_file

__all__ = ["path"]

KEK = Key.generate(os.urandom).export()
NOBODY = 65534  # a user


# --- what is written is read --------------------------------------------------------------------


def test_change_is_seen_though_size_inode_and_time_are_the_same(path: Path) -> None:
    storage, ring = create_at(path)
    assert storage.load() == ring
    before, other = path.stat(), first_ring()
    path.write_text(dump_ring(other, None, os.urandom))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_ino, before.st_mtime_ns) == (
        after.st_size,
        after.st_ino,
        after.st_mtime_ns,
    )
    with pytest.raises(RingReplaced) as found:
        storage.load()
    assert found.value.ring == other


def test_path_is_the_same_after_a_change_of_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    storage = RingFile(path.name, None, os.urandom, at_start)
    monkeypatch.chdir("/")
    assert storage.write(first_ring(), None) is True
    assert path.exists()


def test_ring_that_could_not_be_read_again_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, ring = create_at(path)
    monkeypatch.setattr(document, "MAX_BYTES", path.stat().st_size)
    with pytest.raises(CapacityError, match="longer rotate_every or a shorter keep"):
        storage.write(next_of(ring), ring)
    assert open_file(path).load() == ring


# --- another ring is there ----------------------------------------------------------------------


def test_ring_does_not_replace_an_older_another_or_a_missing_ring(path: Path) -> None:
    storage, second, _ = rotate_at(path)
    third = next_of(second)
    assert storage.write(third, second)
    beside(path, ".prev").rename(path)
    assert storage.write(next_of(third), third) is False
    path.write_text(dump_ring(first_ring(), None, os.urandom))
    assert storage.write(next_of(third), third) is False
    path.unlink()
    assert storage.write(next_of(third), third) is False
    assert not path.exists()


def test_states_with_the_same_sequence_number_differ(path: Path) -> None:
    """A restored file that was rotated elsewhere has keys that this process does not know."""
    storage, second, first = rotate_at(path)
    path.write_bytes(beside(path, ".prev").read_bytes())
    other = next_of(first)
    assert other.sequence == second.sequence
    assert open_file(path).write(other, first) is True
    assert storage.write(next_of(second), second) is False
    assert storage.load() == other


def test_older_copy_is_refused_until_the_newer_ring_is_put_back(path: Path) -> None:
    storage, second, first = rotate_at(path)
    assert open_file(beside(path, ".prev")).load() == first
    beside(path, ".prev").rename(path)
    new = open_file(path)
    with pytest.raises(RingReplaced, match=r"older copy: its sequence is 1, .* was 2") as found:
        new.load()
    assert found.value.ring == first
    # A running process has the newer ring.
    assert storage.write(second, first) is True
    assert new.load() == second


def test_older_copy_is_accepted_once_the_marker_is_removed(path: Path) -> None:
    storage, _, first = rotate_at(path)
    beside(path, ".prev").replace(path)
    beside(path, ".lock").unlink()
    assert storage.load() == first


def test_another_ring_in_the_place_of_the_last_one_is_refused(path: Path) -> None:
    _, last = create_at(path)
    _, other = create_at(beside(path, "2"))
    beside(path, "2").replace(path)
    with pytest.raises(RingReplaced, match=f"the ring {other.ring_id}, .* was {last.ring_id}"):
        open_file(path).load()


@pytest.mark.parametrize("left", [b"", b"{", b"\0" * 100])
def test_damaged_remainder_gives_way_to_its_ring_and_to_no_other(path: Path, left: bytes) -> None:
    storage, ring = create_at(path)
    path.write_bytes(left)
    with pytest.raises(RingUnreadable):
        storage.write(first_ring(), None)
    assert path.read_bytes() == left
    assert storage.write(ring, None)
    assert storage.load() == ring


# --- a file that disappeared --------------------------------------------------------------------


def test_missing_ring_is_not_replaced_by_another_or_an_older_one(path: Path) -> None:
    storage, ring, older = rotate_at(path)
    path.unlink()
    assert open_file(path).load() is None
    message = problem(open_file(path).write, first_ring(), None)
    for remedy in (str(path), ring.ring_id, f"{path}.prev", f"remove {path}.lock"):
        assert remedy in message
    assert "is gone" in problem(storage.write, older, None)
    assert not path.exists()
    assert storage.write(ring, None) is True
    assert open_file(path).load() == ring
    path.unlink()
    beside(path, ".lock").unlink()
    assert open_file(path).write(first_ring(), None) is True


@pytest.mark.parametrize("mark", ["x", "0123456789abcdef ten", "\0" * 30], ids=repr)
def test_unreadable_marker_is_respected(path: Path, mark: str) -> None:
    beside(path, ".lock").write_text(mark)
    assert "is gone" in problem(open_file(path).write, first_ring(), None)


def test_ring_that_an_operator_restored_is_marked_by_the_next_write(path: Path) -> None:
    storage, _ = create_at(path)
    other = first_ring()
    path.write_text(dump_ring(other, None, os.urandom))
    assert storage.write(next_of(other), other)
    assert beside(path, ".lock").read_text().split()[0] == other.ring_id


def test_place_that_is_no_regular_file_is_named(path: Path) -> None:
    path.mkdir()
    assert f"{path} is not a regular file" in problem(open_file(path).load)
    assert f"{path} is a directory" in problem(open_file(path).write, first_ring(), None)
    path.rmdir()
    os.mkfifo(path)
    assert f"{path} is not a regular file" in problem(open_file(path).load)
    path.unlink()
    path.touch()
    assert str(path / "ring") in problem(open_file(path / "ring").load)
    nowhere = path.parent / "nowhere" / "ring"
    assert open_file(nowhere).load() is None
    assert str(nowhere) in problem(open_file(nowhere).write, first_ring(), None)


def test_file_of_another_user_is_named(path: Path) -> None:
    create_at(path)

    def read_as_nobody() -> str:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        return problem(open_file(path).load)

    if os.geteuid() != 0:
        path.chmod(0)
    message = run_child(read_as_nobody)
    assert "Permission denied" in message
    assert str(path) in message


# --- permissions --------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o644, 0o640), (0o660, 0o640)])
def test_only_the_group_of_a_file_can_still_read_it(path: Path, before: int, after: int) -> None:
    old = os.umask(0)
    try:
        storage, ring = create_at(path)
        assert mode_of(path) == mode_of(beside(path, ".lock")) == 0o600
        path.chmod(before)
        assert storage.write(next_of(ring), ring)
    finally:
        os.umask(old)
    assert mode_of(path) == mode_of(beside(path, ".prev")) == after
    assert mode_of(beside(path, ".lock")) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_file_that_root_writes_belongs_to_the_owner_of_the_old_one(path: Path) -> None:
    os.chown(path.parent, NOBODY, NOBODY)
    rotate_at(path)
    for file in path.parent.iterdir():
        assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("mode", "kek", "warnings"),
    [(0o644, None, 1), (0o640, None, 0), (0o600, None, 0), (0o644, KEK, 0)],
    ids=["all", "group", "owner", "wrapped"],
)
def test_plain_file_that_all_may_read_is_used_and_named_in_the_log_once(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, kek: str | None, warnings: int
) -> None:
    _, ring = create_at(path, kek)
    path.chmod(mode)
    with caplog.at_level(logging.DEBUG):
        storage = open_file(path, kek)
        assert storage.load() == storage.load() == ring
    assert len(caplog.records) == warnings
    for record in caplog.records:
        assert record.levelno == logging.WARNING
        assert str(path) in record.getMessage()
        assert "chmod o-r" in record.getMessage()


# --- symbolic links -----------------------------------------------------------------------------


def mount(folder: Path, *rings: Ring) -> Path:
    """A secret as Kubernetes mounts it: a link through a link, and the second is replaced."""
    for number, ring in enumerate(rings):
        (folder / f"..{number}").mkdir()
        (folder / f"..{number}" / "ring.json").write_text(dump_ring(ring, None, os.urandom))
    (folder / "..data").symlink_to("..0")
    (folder / "ring.json").symlink_to("..data/ring.json")
    return folder / "ring.json"


def test_mounted_secret_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    first = first_ring()
    second = next_of(first)
    storage = open_file(mount(tmp_path, first, second))
    assert storage.load() == first
    (tmp_path / "..new").symlink_to("..1")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert storage.load() == second


def test_link_is_not_replaced_and_its_target_is_named(tmp_path: Path) -> None:
    ring = first_ring()
    path = mount(tmp_path, ring)
    message = problem(open_file(path).write, next_of(ring), ring)
    assert "symbolic link" in message
    assert str(tmp_path.resolve() / "..0" / "ring.json") in message
    assert path.is_symlink()
    assert open_file(path).load() == ring


def test_link_to_nothing_is_no_missing_ring(path: Path) -> None:
    path.symlink_to("nowhere")
    assert "symbolic link to nothing" in problem(open_file(path).load)
    assert "symbolic link" in problem(open_file(path).write, first_ring(), None)
    assert path.is_symlink()


# --- mounted files --------------------------------------------------------------------------------


def test_ring_that_is_a_mount_point_is_named_with_the_remedy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    storage = open_file(path)
    monkeypatch.setattr(Path, "rename", busy)
    message = problem(storage.write, first_ring(), None)
    assert f"{path} is a mount point" in message
    assert "mount the directory" in message


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a file")
def test_mounted_ring_is_found_before_anything_is_written(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "ring file.json"
    source.touch()
    target.touch()
    mounted = subprocess.run(["mount", "--bind", source, target], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this system forbids mounts")
    try:
        assert "is a mount point" in problem(open_file(target).write, first_ring(), None)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["ring file.json", "source"]
    finally:
        subprocess.run(["umount", target], check=True)


def test_directory_that_is_missing_or_cannot_be_written_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = path.parent / "no" / "ring.json"
    assert "directory that does not exist" in problem(open_file(missing).write, first_ring(), None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    message = problem(open_file(path).write, first_ring(), None)
    assert f"write into {path.parent}" in message


def test_damaged_ring_without_its_ending_is_still_known_as_a_ring(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    open_file(path).write(first_ring(), None)
    for content in (b"", b"\xff", b"sealed"):
        path.write_bytes(content)
        assert is_ring_file(path)
