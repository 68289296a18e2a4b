"""``sealedstate keys watch``, as a process of its own that somebody ends with Ctrl-C."""

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

from sealedstate.cli import main
from sealedstate.cli.keys.check import Checked
from sealedstate.cli.keys.ring_checks import Finding
from sealedstate.cli.keys.source import Look
from sealedstate.cli.keys.watch import CLEAR, _changes, _seen
from tests.support.ring_cli import DAY, HOUR, Desk

PATIENCE = 60  # seconds
COMMAND = [sys.executable, "-m", "sealedstate", "keys", "watch", "--every", "0.1"]


@contextmanager
def watching(stdout: int) -> Iterator[subprocess.Popen[str]]:
    """A process that watches, and is ended."""
    with subprocess.Popen(COMMAND, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        # Of a line that never comes, the test hears when the process is gone.
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line that holds a text; all before are passed over."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """What Ctrl-C makes of it: its exit code, and what it says."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.read()
    return process.wait(PATIENCE), said


def test_each_change_is_a_line_until_somebody_ends_it(place: Desk) -> None:
    ring = place.found()
    kid = ring.keys[0].kid.hex()
    with watching(subprocess.PIPE) as process:
        assert line_with(process, "sequence").endswith("sequence none -> 1\n")
        assert line_with(process, kid).endswith(f"{kid} unknown -> primary\n")
        assert main(["keys", "rotate", "--now"]) == 0
        new = place.ring().keys[0].kid.hex()
        assert line_with(process, "sequence").endswith("sequence 1 -> 2\n")
        assert line_with(process, new).endswith(f"{new} unknown -> pending\n")
        assert main(["keys", "revoke", kid]) == 0
        assert line_with(process, kid).endswith(f"{kid} primary -> gone\n")
        place.report(place.ring(), complaint="the disk is full")
        assert line_with(process, "report").endswith("reports of 1 process\n")
        assert line_with(process, "found: nodes: ").endswith("the disk is full\n")
        place.report(place.ring())
        assert "settled: nodes web1 the disk is full" in line_with(process, "settled")
        assert end(process) == (0, "")


def test_a_ring_that_is_not_there_yet_is_waited_for(place: Desk) -> None:
    with watching(subprocess.PIPE) as process:
        assert "found: ring: there is no ring at" in line_with(process, "found")
        place.found()
        assert line_with(process, "sequence").endswith("sequence none -> 1\n")
        assert "settled: ring" in line_with(process, "settled")
        assert end(process) == (0, "")


def test_a_terminal_is_drawn_anew(file: Desk) -> None:
    kid = file.found().keys[0].kid.hex()
    ours, theirs = pty.openpty()
    with watching(theirs) as process:
        shown = ""
        while shown.count("Ctrl-C ends this.") < 2:
            shown += os.read(ours, 10_000).decode()
        assert shown.startswith(CLEAR)
        assert shown.count(CLEAR) >= 2
        assert f"\n{kid}  primary" in shown
        assert "Nothing is wrong." in shown
        assert end(process) == (0, "")
    os.close(ours)
    os.close(theirs)


# --- what is worth a line -----------------------------------------------------------------------


def test_a_finding_whose_sentence_changes_with_time_is_told_once(file: Desk) -> None:
    look = Look(int(time.time()), file.found())

    def lines(before: list[Finding], after: list[Finding]) -> list[str]:
        return [*_changes(_seen(Checked(look, before)), _seen(Checked(look, after)))]

    first, later = (Finding("rotation", "", f"stopped {hours} h ago") for hours in (3, 4))
    assert lines([], [first]) == ["found: rotation: stopped 3 h ago"]
    assert lines([first], [later]) == []
    assert lines([later], []) == ["settled: rotation"]


def test_time_alone_changes_the_state_of_a_key(file: Desk) -> None:
    now, ring = int(time.time()), file.found()
    new = replace(ring.keys[0], kid=b"next", secret=os.urandom(32), activates_at=now + HOUR)
    ring = replace(ring, keys=(new, *ring.keys))
    before, after = (_seen(Checked(Look(at, ring), [])) for at in (now, now + 2 * HOUR))
    old = ring.keys[1].kid.hex()
    assert set(_changes(before, after)) == {
        f"{b'next'.hex()} pending -> primary",
        f"{old} primary -> retired",
    }
    expired = _seen(Checked(Look(now + 2 * DAY, ring), []))
    assert list(_changes(after, expired)) == [f"{old} retired -> expired"]
