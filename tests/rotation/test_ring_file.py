"""A ring in a file: what is written is read, and what is no ring is never taken for none.

Knows files, their owners and links. What goes wrong while one is written, `test_ring_file_bad_days`
tells.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from sealedstate.errors import CapacityError
from sealedstate.keyring import Key
from sealedstate.rotation import Ring, RingReplaced, RingStorage, RingUnreadable, dump_ring
from sealedstate.rotation import document as ring_text
from sealedstate.rotation.ring_file import RingFile
from sealedstate.testing._workers import run_in_fork
from tests.support.ring_changes import CHANGES, Change, assert_written_and_read_alike
from tests.support.ring_files import beside, founded_at, path, problem, rotated_at
from tests.support.ring_workers import at_start, first_ring, next_of, open_file

__all__ = ["path"]

KEK = Key.generate(os.urandom).export()
NOBODY = 65534


# --- what is written is read --------------------------------------------------------------------


def test_a_file_is_a_home_of_a_ring(path: Path) -> None:
    home = open_file(path)
    assert isinstance(home, RingStorage)
    assert str(path) in home.where
    assert home.load() is None


@pytest.mark.parametrize("kek", [None, KEK], ids=["in clear", "wrapped"])
@given(changes=CHANGES)
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_becomes_of_a_ring_is_written_and_read_alike(
    tmp_path_factory: pytest.TempPathFactory, kek: str | None, changes: list[Change]
) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring.json"
    home, other = open_file(path, kek), open_file(path, kek)
    assert_written_and_read_alike(home, other, changes)


def test_a_ring_that_did_not_change_is_the_same_object(path: Path) -> None:
    home, ring = founded_at(path)
    first = home.load()
    assert home.load() is first
    path.write_bytes(path.read_bytes())
    assert home.load() is first
    second = next_of(ring)
    assert open_file(path).write(second, ring)
    assert home.load() == second


def test_a_change_is_seen_though_size_inode_and_time_are_the_same(path: Path) -> None:
    home, ring = founded_at(path)
    assert home.load() == ring
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
        home.load()
    assert found.value.ring == other


def test_the_file_is_the_same_wherever_the_process_goes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    home = RingFile(path.name, None, os.urandom, at_start)
    monkeypatch.chdir("/")
    assert home.write(first_ring(), None) is True
    assert path.exists()


def test_a_wrapped_ring_holds_no_secret_in_clear(path: Path) -> None:
    _, ring = founded_at(path, KEK)
    assert '"secret"' not in path.read_text()
    assert open_file(path, KEK).load() == ring
    assert "wrapped by the key-encryption key" in problem(open_file(path).load)


def test_the_document_before_is_kept_and_can_be_restored(path: Path) -> None:
    home, second, first = rotated_at(path)
    assert open_file(beside(path, ".prev")).load() == first
    beside(path, ".prev").rename(path)
    with pytest.raises(RingReplaced) as found:
        home.load()
    assert found.value.ring == first
    assert home.write(second, first) is True


def test_a_ring_that_could_not_be_read_again_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, ring = founded_at(path)
    monkeypatch.setattr(ring_text, "MAX_BYTES", path.stat().st_size)
    with pytest.raises(CapacityError, match="longer rotate_every or a shorter keep"):
        home.write(next_of(ring), ring)
    assert open_file(path).load() == ring


# --- who else was there -------------------------------------------------------------------------


def test_a_ring_is_not_founded_where_there_is_one(path: Path) -> None:
    home, ring = founded_at(path)
    assert home.write(first_ring(), None) is False
    assert home.load() == ring


def test_who_comes_second_is_told(path: Path) -> None:
    home, second, first = rotated_at(path)
    assert home.write(next_of(first), first) is False
    assert home.load() == second


def test_a_ring_is_not_written_over_an_older_state_another_ring_or_none(path: Path) -> None:
    home, second, _ = rotated_at(path)
    third = next_of(second)
    assert home.write(third, second)
    beside(path, ".prev").rename(path)
    assert home.write(next_of(third), third) is False
    path.write_text(dump_ring(first_ring(), None, os.urandom))
    assert home.write(next_of(third), third) is False
    path.unlink()
    assert home.write(next_of(third), third) is False
    assert not path.exists()


def test_two_states_with_one_sequence_number_are_not_the_same(path: Path) -> None:
    """A restored file that was rotated by others has keys that this process does not know."""
    home, second, first = rotated_at(path)
    path.write_bytes(beside(path, ".prev").read_bytes())
    other = next_of(first)
    assert other.sequence == second.sequence
    assert open_file(path).write(other, first) is True
    assert home.write(next_of(second), second) is False
    assert home.load() == other


# --- a file that vanished -----------------------------------------------------------------------


def test_where_a_ring_has_vanished_no_other_is_begun_in_silence(path: Path) -> None:
    _, ring, _ = rotated_at(path)
    path.unlink()
    home = open_file(path)
    assert home.load() is None
    message = problem(home.write, first_ring(), None)
    for remedy in (str(path), ring.ring_id, f"{path}.prev", f"remove {path}.lock"):
        assert remedy in message
    assert not path.exists()
    beside(path, ".lock").unlink()
    assert home.write(first_ring(), None) is True


def test_where_a_ring_has_vanished_who_holds_it_can_put_it_back(path: Path) -> None:
    home, ring, _ = rotated_at(path)
    path.unlink()
    assert home.write(ring, None) is True
    assert open_file(path).load() == ring


def test_where_a_ring_has_vanished_an_older_state_is_not_put_back(path: Path) -> None:
    home, ring, older = rotated_at(path)
    path.unlink()
    assert "is gone" in problem(home.write, older, None)
    assert home.write(ring, None) is True


@pytest.mark.parametrize("mark", ["x", "0123456789abcdef ten", "\0" * 30], ids=repr)
def test_a_mark_that_nobody_understands_is_respected(path: Path, mark: str) -> None:
    beside(path, ".lock").write_text(mark)
    assert "is gone" in problem(open_file(path).write, first_ring(), None)


def test_a_ring_that_was_restored_by_hand_is_marked_by_the_next_write(path: Path) -> None:
    home, _ = founded_at(path)
    other = first_ring()
    path.write_text(dump_ring(other, None, os.urandom))
    assert home.write(next_of(other), other)
    assert beside(path, ".lock").read_text().split()[0] == other.ring_id


# --- what is no ring ----------------------------------------------------------------------------


@pytest.mark.parametrize("kek", [None, KEK], ids=["in clear", "wrapped"])
def test_a_file_cut_anywhere_is_unreadable_and_never_replaced(path: Path, kek: str | None) -> None:
    home, ring = founded_at(path, kek)
    assert home.write(next_of(ring), ring)
    whole = path.read_bytes()
    for size in range(len(whole.rstrip())):
        path.write_bytes(whole[:size])
        with pytest.raises(RingUnreadable) as caught:
            home.load()
        assert str(path) in str(caught.value)
    for size in range(0, len(whole.rstrip()), 100):
        path.write_bytes(whole[:size])
        with pytest.raises(RingUnreadable):
            home.write(first_ring(), None)
        assert path.read_bytes() == whole[:size]


@pytest.mark.parametrize("place", range(0, 1000, 7))
def test_an_altered_byte_is_noticed(path: Path, place: int) -> None:
    founded_at(path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 0x04
    path.write_bytes(content)
    with pytest.raises(RingUnreadable):
        open_file(path).load()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"\xff\xfe", b"{}", b"[]", b"null", b" " * (5 << 20)]
)
def test_what_is_no_ring_is_unreadable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RingUnreadable):
        open_file(path).load()


def test_a_folder_or_a_pipe_in_its_place_is_named(path: Path) -> None:
    path.mkdir()
    assert f"{path} is no regular file" in problem(open_file(path).load)
    assert f"{path} is no regular file" in problem(open_file(path).write, first_ring(), None)
    path.rmdir()
    os.mkfifo(path)
    assert f"{path} is no regular file" in problem(open_file(path).load)


def test_a_path_through_a_file_or_no_folder_is_named(path: Path) -> None:
    path.touch()
    assert str(path / "ring") in problem(open_file(path / "ring").load)
    nowhere = path.parent / "nowhere" / "ring"
    assert open_file(nowhere).load() is None
    assert str(nowhere) in problem(open_file(nowhere).write, first_ring(), None)


def test_a_file_of_somebody_else_is_named(path: Path) -> None:
    founded_at(path)

    def read_as_nobody() -> str:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        return problem(open_file(path).load)

    if os.geteuid() != 0:
        path.chmod(0)
    failed, message = run_in_fork(read_as_nobody)
    assert not failed, failed
    assert "Permission denied" in message
    assert str(path) in message


# --- who may read -------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o644, 0o640), (0o660, 0o640)])
def test_its_group_can_go_on_reading_and_nobody_else(path: Path, before: int, after: int) -> None:
    home, ring = founded_at(path)
    assert mode_of(path) == mode_of(beside(path, ".lock")) == 0o600
    path.chmod(before)
    assert home.write(next_of(ring), ring)
    assert mode_of(path) == mode_of(beside(path, ".prev")) == after


def test_the_umask_opens_nothing(path: Path) -> None:
    old = os.umask(0)
    try:
        rotated_at(path)
    finally:
        os.umask(old)
    assert {mode_of(file) for file in path.parent.iterdir()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("owned", ["", "folder", "ring"])
def test_what_root_writes_belongs_to_the_owner_of_what_was_there(path: Path, owned: str) -> None:
    os.chown(path.parent, NOBODY, NOBODY)
    home, ring = founded_at(path)
    assert home.write(next_of(ring), ring)
    for file in path.parent.iterdir():
        assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, NOBODY)


def test_a_file_that_everybody_may_read_is_used_and_named_in_the_log_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, ring = founded_at(path)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "sealedstate.keys"):
        home = open_file(path)
        assert home.load() == home.load() == ring
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "chmod o-r" in record.getMessage()


@pytest.mark.parametrize(
    ("mode", "kek"),
    [(0o640, None), (0o600, None), (0o644, KEK)],
    ids=["of a group", "of its owner", "wrapped"],
)
def test_a_file_whose_secrets_are_kept_is_used_silently(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, kek: str | None
) -> None:
    founded_at(path, kek)
    path.chmod(mode)
    with caplog.at_level(logging.DEBUG):
        assert open_file(path, kek).load() is not None
    assert caplog.records == []


# --- symbolic links -----------------------------------------------------------------------------


def mounted(folder: Path, *rings: Ring) -> Path:
    """A secret as Kubernetes mounts it: a link through a link, of which the second is swapped."""
    for number, ring in enumerate(rings):
        (folder / f"..{number}").mkdir()
        (folder / f"..{number}" / "ring.json").write_text(dump_ring(ring, None, os.urandom))
    (folder / "..data").symlink_to("..0")
    (folder / "ring.json").symlink_to("..data/ring.json")
    return folder / "ring.json"


def test_a_mounted_secret_is_read_and_its_swap_is_seen(tmp_path: Path) -> None:
    first = first_ring()
    second = next_of(first)
    home = open_file(mounted(tmp_path, first, second))
    assert home.load() == first
    (tmp_path / "..new").symlink_to("..1")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert home.load() == second


def test_a_link_is_not_replaced_and_where_to_write_is_named(tmp_path: Path) -> None:
    ring = first_ring()
    path = mounted(tmp_path, ring)
    message = problem(open_file(path).write, next_of(ring), ring)
    assert "symbolic link" in message
    assert str(tmp_path.resolve() / "..0" / "ring.json") in message
    assert path.is_symlink()
    assert open_file(path).load() == ring


def test_a_link_to_nothing_is_no_missing_ring(path: Path) -> None:
    path.symlink_to("nowhere")
    assert "symbolic link to nothing" in problem(open_file(path).load)
    assert "symbolic link" in problem(open_file(path).write, first_ring(), None)
    assert path.is_symlink()
