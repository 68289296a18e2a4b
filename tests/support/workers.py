"""Processes that are killed while they work, and side files that survive it.

A worker notes in its side file what it has begun and what was acknowledged. One that was killed is
replaced by a successor, which appends to the same file.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sealedstate.testing._suite import poll
from tests.support.backends import Server, start_process

__all__ = ["SideFile", "Workers"]

PATIENCE = 120  # seconds


class SideFile:
    """Notes, one JSON array a line, each appended by one write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _descriptor(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *facts: Any) -> None:
        os.write(self._descriptor, json.dumps(facts).encode() + b"\n")

    def read(self) -> list[list[Any]]:
        """All notes, without a line that a kill cut short."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def count(self) -> int:
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0


class Workers:
    """A process of ``work(name, side_file)`` for each name."""

    def __init__(
        self, work: Callable[[str, SideFile], object], folder: Path, names: Iterable[str] = "12"
    ) -> None:
        self._work = work
        self.side_files = {name: SideFile(folder / f"notes-{name}") for name in names}
        self._processes = {name: self._start(name) for name in self.side_files}

    def kill9(self, *names: str) -> None:
        """End some workers as a crash would, and start their successors."""
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes[name].join()
            self._processes[name] = self._start(name)

    def wait_for_notes(self, number: int) -> None:
        """Until each worker has written as many notes from now on."""
        goals = {file: file.count() + number for file in self.side_files.values()}
        for _ in poll(PATIENCE):
            if all(file.count() >= goal for file, goal in goals.items()):
                return
            assert all(process.is_alive() for process in self._processes.values())
        raise AssertionError("the workers make no progress")

    def crash(self, server: Server | None, rounds: int, notes: int) -> None:
        """Crash the server, or workers by turns, with as many notes between; then stop them."""
        victims = itertools.cycle([*self.side_files, "".join(self.side_files)])
        try:
            for _ in range(rounds):
                self.wait_for_notes(notes)
                if server is None:
                    self.kill9(*next(victims))
                else:
                    server.kill9()
                    server.start()
            self.wait_for_notes(notes)
        finally:
            self.stop()

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.join()

    def _start(self, name: str) -> ForkServerProcess:
        return start_process(self._work, name, SideFile(self.side_files[name].path))
