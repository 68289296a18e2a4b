"""The benchmark of a loop's lag shows what it is for; no time is compared but with its control."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.documents import ROOT
from tests.support.installed import need_driver, program


@pytest.mark.soak
@pytest.mark.server
def test_slow_store_holds_up_a_loop_inline_only_and_no_logout_is_lost() -> None:
    program("redis-server")
    need_driver("redis", "uvloop")
    script = str(ROOT / "benchmarks" / "loop_lag.py")
    # A process, because it takes priority over the others.
    command = [sys.executable, script, "--runs", "1", "--clients", "500"]
    shown = ""
    for only in ("slow", "disconnects"):
        run = subprocess.run(
            [*command, "--only", only], capture_output=True, text=True, check=False
        )
        shown += run.stdout
    lags = {
        (way, loop): float(lag)
        for way, loop, lag in re.findall(r"^slow, (\w+), (\w+) +([\d.]+)", shown, re.MULTILINE)
    }
    assert len(lags) == 6
    for loop in ("asyncio", "uvloop", "trio"):
        assert lags["inline", loop] > 2000
        assert lags["threads", loop] < lags["inline", loop] / 4
    assert shown.count("'lost': 0, 'connections left': 0") == 3
