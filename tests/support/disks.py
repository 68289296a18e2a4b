"""Directories on a disk, for tests that are about what a disk keeps.

Other temporary files of the tests are in memory, see tests/conftest.py. `CRASH_TESTS_IN` names a
directory to be used instead of the first one that is on a disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import ROOT

__all__ = ["disk", "disk_folder", "file_system"]

VARIABLE = "CRASH_TESTS_IN"
IN_MEMORY = {"tmpfs", "ramfs"}


def file_system(path: Path) -> str:
    """The type of the file system that a directory is on, such as ext4; "unknown" if none says."""
    found, longest = "unknown", -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mounted_at, kind, *_ = line.split()
            # Of two at one place, the last one covers the first.
            if len(mounted_at) >= longest and path.resolve().is_relative_to(mounted_at):
                found, longest = kind, len(mounted_at)
    return found


def disk_folder() -> Path:
    """A directory that is not in memory, for files that are removed after a test."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    for path in (Path("/var/tmp"), Path.home(), ROOT):
        if os.access(path, os.W_OK | os.X_OK) and file_system(path) not in IN_MEMORY:
            return path
    raise AssertionError(f"no directory is on a disk; name one in {VARIABLE}")


def pytest_report_header() -> str:
    folder = disk_folder()
    return f"files of crash tests: in {folder} ({file_system(folder)})"


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty directory on a disk, which servers' users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="sealedstate-crashes-", dir=disk_folder()))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
