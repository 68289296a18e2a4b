"""A port for a server is given out once, and by nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ports

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="how Linux deals out ports")


def test_port_of_a_server_that_is_down_is_given_to_no_other_process() -> None:
    asked = f"from tests.support import ports; print(ports._take({ports.free_port()}))"
    command = [sys.executable, "-c", asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_kernel_gives_the_port_to_no_socket_that_asks_for_any() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports._RANGE) < low
