"""Tiers of tests, and what all tests share.

`make test` runs what is neither `slow` nor `soak`; `make test-all` what that left out, and each
property with all its examples; `make soak` the long walks, kills and histories.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.installed import NOT_INSTALLED, are_required
from tests.support.jar import Clock

# Servers that all tests of a process share, and directories on a disk.
pytest_plugins = [
    "tests.support.disks",
    "tests.support.kv_servers",
    "tests.support.sql_servers",
]

HERE = Path(__file__).parent

# No property is judged by the clock of a busy machine. `examples` scales what a test asks for.
for name, number in (("quick", 20), ("full", 100)):
    settings.register_profile(
        name, max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("quick")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every process
# that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Stores and servers sync their writes, which takes many disks long. Temporary files are in memory,
# unless TMPDIR says where else; those of crash tests are on a disk, see tests/support/disks.py.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # bytes


def has_room(folder: Path) -> bool:
    usable = os.access(folder, os.W_OK | os.X_OK)
    return usable and shutil.disk_usage(folder).free >= ROOM


if "TMPDIR" not in os.environ and has_room(MEMORY):
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# Modules that import a driver, which `make test` does not install.
DRIVERS = {
    "chaos/test_sql_*.py": "psycopg",
    "e2e/test_cross_site.py": "selenium",
    "e2e/test_portal.py": "selenium",
    "e2e/test_saml_*.py": "saml2",
    "storage/test_following.py": "psycopg",
    "storage/test_open_storage.py": "psycopg",
    "storage/test_dynamodb*.py": "botocore",
    "storage/test_memcached*.py": "pymemcache",
    "storage/test_redis*.py": "redis",
    "storage/test_sql_*.py": "psycopg",
    "storage/test_sql.py": "psycopg",
}
ABSENT = sorted({name for name in DRIVERS.values() if find_spec(name) is None})


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Every test of a module that is named after a server needs one; others are marked one by one.
BEHIND_SERVERS = ("sql", "redis", "memcached", "dynamodb")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if are_required() or not collection_path.is_relative_to(HERE):
        return None
    path = str(collection_path.relative_to(HERE))
    left_out = any(fnmatch(path, pattern) and name in ABSENT for pattern, name in DRIVERS.items())
    return left_out or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        subject = item.path.stem.removeprefix("test_").split("_")[0]
        if subject in BEHIND_SERVERS:
            item.add_marker(pytest.mark.server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for all that is not installed, one for each other reason to skip."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    missing = {reason.removeprefix(NOT_INSTALLED) for reason in reasons if NOT_INSTALLED in reason}
    left_out = sum(count for reason, count in reasons.items() if NOT_INSTALLED in reason)
    if missing or ABSENT:
        terminalreporter.write_line(
            f"not installed: {', '.join(sorted({*missing, *ABSENT}))}; {left_out} tests and"
            " modules of drivers were left out. `make servers` installs the servers (apt, as root),"
            " `make test-all` the drivers."
        )
    for reason, count in reasons.items():
        if NOT_INSTALLED not in reason:
            terminalreporter.write_line(f"skipped {count}: {reason}")
