"""``sealedstate keys watch``, as a process that Ctrl-C ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sealedstate.cli._key_checks import CLEAR, CheckResult, Finding, list_changes
from sealedstate.cli._source import Snapshot
from tests.support.ring_cli import DAY, HOUR, Desk, run

PATIENCE = 60  # seconds
COMMAND = [sys.executable, "-m", "sealedstate", "keys", "watch", "--every", "0.1"]


@contextmanager
def start_watch(stdout: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(COMMAND, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        # A test that waits for a line that never comes ends with the process.
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line that contains a text."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and the errors after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    errors = process.stderr.read()
    return process.wait(PATIENCE), errors


@pytest.mark.slow
def test_each_change_is_a_line_until_ctrl_c(place: Desk) -> None:
    with start_watch(subprocess.PIPE) as process:
        assert "found: ring: " in line_with(process, "found")
        ring = place.create()
        kid = ring.keys[0].kid.hex()
        assert line_with(process, "sequence").endswith("sequence none -> 1\n")
        assert line_with(process, kid).endswith(f"{kid} unknown -> primary\n")
        assert "settled: ring" in line_with(process, "settled")
        assert run("keys", "rotate", "--now").code == 0
        new = place.ring().keys[0].kid.hex()
        assert line_with(process, "sequence").endswith("sequence 1 -> 2\n")
        assert line_with(process, new).endswith(f"{new} unknown -> pending\n")
        assert run("keys", "revoke", kid).code == 0
        assert line_with(process, kid).endswith(f"{kid} primary -> gone\n")
        place.report(place.ring(), complaint="the disk is full")
        assert line_with(process, "report").endswith("reports of 1 process\n")
        assert line_with(process, "found: nodes: ").endswith("the disk is full\n")
        place.report(place.ring())
        assert "settled: nodes web1 the disk is full" in line_with(process, "settled")
        assert interrupt(process) == (0, "")


@pytest.mark.slow
def test_terminal_is_drawn_again_each_time(file: Desk) -> None:
    kid = file.create().keys[0].kid.hex()
    ours, theirs = pty.openpty()
    with start_watch(theirs) as process:
        shown = ""
        while shown.count("Press Ctrl-C to end.") < 2:
            shown += os.read(ours, 10_000).decode()
        assert shown.startswith(CLEAR)
        assert shown.count(CLEAR) >= 2
        assert f"\n{kid}  primary" in shown
        assert "Nothing is wrong." in shown
        assert interrupt(process) == (0, "")
    os.close(ours)
    os.close(theirs)


# --- changes ------------------------------------------------------------------------------------


def test_finding_is_a_line_once_although_its_sentence_changes(file: Desk) -> None:
    snapshot = Snapshot(int(time.time()), file.create())

    def lines(before: list[Finding], after: list[Finding]) -> list[str]:
        return [*list_changes(CheckResult(snapshot, before), CheckResult(snapshot, after))]

    first, later = (Finding("rotation", "", f"stopped {hours} h ago") for hours in (3, 4))
    assert lines([], [first]) == ["found: rotation: stopped 3 h ago"]
    assert lines([first], [later]) == []
    assert lines([later], []) == ["settled: rotation"]


def test_time_alone_changes_the_state_of_a_key(file: Desk) -> None:
    now, ring = int(time.time()), file.create()
    new = replace(ring.keys[0], kid=b"next", secret=os.urandom(32), activates_at=now + HOUR)
    ring = replace(ring, keys=(new, *ring.keys))
    before, after, last = (
        CheckResult(Snapshot(at, ring)) for at in (now, now + 2 * HOUR, now + 2 * DAY)
    )
    old = ring.keys[1].kid.hex()
    assert set(list_changes(before, after)) == {
        f"{b'next'.hex()} pending -> primary",
        f"{old} primary -> retired",
    }
    assert list(list_changes(after, last)) == [f"{old} retired -> expired"]
