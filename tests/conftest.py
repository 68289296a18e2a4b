"""What all tests share: no property is judged by the clock of a busy machine.

Tests of stores behind servers carry the mark `server`, like all that need more than Python.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "sealedstate", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sealedstate")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every process
# that they start, whatever it makes of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Stores and servers sync whatever they write, for which many a disk takes its time. A process that
# is killed loses nothing in memory either: there it is, unless somebody says where else.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # bytes


def has_room(folder: Path) -> bool:
    usable = os.access(folder, os.W_OK | os.X_OK)
    return usable and shutil.disk_usage(folder).free >= ROOM


if "TMPDIR" not in os.environ and has_room(MEMORY):
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# Of what is named so, every test has a server behind it; others say so one by one.
BEHIND_SERVERS = ("sql", "redis", "memcached")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        subject = Path(str(item.fspath)).stem.removeprefix("test_").split("_")[0]
        if subject in BEHIND_SERVERS:
            item.add_marker(pytest.mark.server)
