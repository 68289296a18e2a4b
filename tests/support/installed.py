"""What a test needs beside Python: programs and drivers.

A test whose program or driver is not installed is skipped; with REQUIRE_SERVERS=1 it fails.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["NOT_INSTALLED", "are_required", "leave_out", "need_driver", "program"]

NOT_INSTALLED = "not installed: "

# Debian keeps servers where PATH of an ordinary user does not lead.
_FOLDERS = os.pathsep.join(
    [
        os.environ.get("PATH", ""),
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
        "/usr/sbin",
        "/usr/local/sbin",
        str(Path(__file__).parents[1] / "node/node_modules/.bin"),
    ]
)


def are_required() -> bool:
    """Whether a missing server is a failure."""
    return os.environ.get("REQUIRE_SERVERS") == "1"


def program(*names: str) -> str:
    """The path of the first of these commands that is installed."""
    found = (shutil.which(name, path=_FOLDERS) for name in names)
    return next(filter(None, found), None) or leave_out(names[0])


def need_driver(*modules: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            leave_out(module)


def leave_out(what: str) -> NoReturn:
    """Skip the test, or fail it if what is not installed is required."""
    if are_required():
        pytest.fail(NOT_INSTALLED + what)
    pytest.skip(NOT_INSTALLED + what)
