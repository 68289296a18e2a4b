"""Processes that are killed while they work, and side files that survive it.

A worker notes in its side file what it has begun and what was acknowledged. One that was killed is
replaced by a successor, which appends to the same file.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeAlias

from sealedstate.testing._suite import poll
from tests.support.backends import Server, start_process

__all__ = ["SideFile", "Workers"]

PATIENCE = 120  # seconds


class SideFile:
    """Notes, one JSON array a line, each appended by one write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counted = (0, 0)

    @cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")  # the end of a line that a kill cut short
        return descriptor

    def note(self, *facts: Any) -> None:
        os.write(self._descriptor, json.dumps(facts).encode() + b"\n")

    def read(self) -> list[list[Any]]:
        """All notes, without lines that a kill cut short."""
        return self.read_from(0)[0]

    def read_from(self, begin: int) -> tuple[list[list[Any]], int]:
        """The notes after as many bytes, and where the next ones begin."""
        whole = self._bytes_from(begin)
        whole = whole[: whole.rfind(b"\n") + 1]
        notes = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                notes.append(json.loads(line))
        return notes, begin + len(whole)

    def count(self, kind: str = "") -> int:
        """How many notes there are, or how many that begin with `kind`; the same at each call."""
        begin, number = self._counted
        news = self._bytes_from(begin)
        news = news[: news.rfind(b"\n") + 1]
        start = b'["%b"' % kind.encode() if kind else b"["
        number += sum(line.startswith(start) for line in news.splitlines())
        self._counted = begin + len(news), number
        return number

    def _bytes_from(self, begin: int) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read()


Judge: TypeAlias = Callable[[Sequence[str]], object]


class Workers:
    """A process of ``work(name, side_file)`` for each name.

    `progress`: the first word of the notes that count as work that was done; any if it is empty.
    """

    def __init__(
        self,
        work: Callable[[str, SideFile], object],
        folder: Path,
        names: Iterable[str] = "12",
        progress: str = "",
    ) -> None:
        self._work = work
        self._progress = progress
        self.side_files = {name: SideFile(folder / f"notes-{name}") for name in names}
        self._processes = {name: self._start(name) for name in self.side_files}

    def wait_for_notes(self, number: int) -> None:
        """Until each worker has written as many notes from now on."""
        kind = self._progress
        goals = {file: file.count(kind) + number for file in self.side_files.values()}
        for _ in poll(PATIENCE):
            if all(file.count(kind) >= goal for file, goal in goals.items()):
                return
            assert all(process.is_alive() for process in self._processes.values())
        raise AssertionError("the workers make no progress")

    def crash(
        self, server: Server | None, rounds: int, notes: int, judge: Judge = lambda names: None
    ) -> None:
        """Crash the server, or workers by turns, with as many notes between; then stop them.

        `judge` is called after each crash with the names of the workers that write nothing until
        it returns: all of them after the server's crash, and else those that were killed.
        """
        victims = itertools.cycle([*self.side_files, "".join(self.side_files)])
        try:
            for _ in range(rounds):
                self.wait_for_notes(notes)
                if server is None:
                    self._crash_workers(next(victims), judge)
                else:
                    self._crash_server(server, judge)
            self.wait_for_notes(notes)
        finally:
            self.stop()

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.join()

    def _crash_workers(self, names: Iterable[str], judge: Judge) -> None:
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes[name].join()
        judge(list(names))
        for name in names:
            self._processes[name] = self._start(name)

    def _crash_server(self, server: Server, judge: Judge) -> None:
        server.kill9()
        self._signal(signal.SIGSTOP)
        server.start()
        judge(list(self._processes))
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            assert process.pid is not None
            os.kill(process.pid, number)

    def _start(self, name: str) -> ForkServerProcess:
        return start_process(self._work, name, SideFile(self.side_files[name].path))
