"""A server process for tests: it can be started, stopped, killed and frozen."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

PATIENCE = 60  # seconds; a server that takes longer to start or to stop is broken


class ServerEnded(Exception):
    """The server process has ended; with its log."""


def until(reached: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < deadline, f"not within {patience} seconds: {what}"
        time.sleep(0.01)


class ServerProcess(ABC):
    """A server, its port and its directory, which stay the same when it is started again."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    environ: Mapping[str, str] | None = None

    def __init__(self, port: int, directory: Path, user: pwd.struct_passwd | None = None) -> None:
        self.port, self.directory = port, directory
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The server's command line; it stays in the foreground."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers. May raise any exception of a driver if it does not."""

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        with (self.directory / "log").open("ab") as out:
            self._process = self._spawn(self.command(), out)
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        until(self._answers, f"{self.name} answers")

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise ServerEnded(self.log())
        try:
            return self.is_ready()
        except Exception:  # a driver's; the server does not answer yet
            return False

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def stop(self) -> None:
        """End it in order."""
        deadline = time.monotonic() + PATIENCE
        while self._process is not None and time.monotonic() < deadline:
            self.resume()
            # Repeated: Redis ignores it while it writes its first append-only file.
            self._process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
                self._process = None
        assert self._process is None, f"{self.name} does not stop"

    def kill9(self) -> None:
        """kill -9, and all of its children."""
        if self._process is None:
            return
        self.pause()  # so that it starts no more of them
        family = self._family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None
        # PostgreSQL does not start while one of its former processes runs.
        until(lambda: not any(map(_is_alive, family)), "all of it is dead")

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, and no request is answered."""
        until(self._is_frozen, "all of it is frozen")

    def _is_frozen(self) -> bool:
        # Signals are not delivered at once, nor to all threads, and there may be another child.
        family = self._family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return all(state[0] in "TZ" for pid in family for state in _states(pid))

    def resume(self) -> None:
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def ensure_running(self) -> None:
        """Start or resume it if a test has not."""
        if self._process is None:
            self.start()
        self.resume()

    @contextlib.contextmanager
    def shown_log(self) -> Iterator[None]:
        """Print the log if the block fails."""
        try:
            yield
        except BaseException:
            print(self.log(), file=sys.stderr)
            raise

    def run(self, *command: str) -> None:
        with (self.directory / "log").open("ab") as out:
            assert self._spawn(command, out).wait(PATIENCE) == 0, self.log()

    def _spawn(self, command: Sequence[str], out: Any) -> subprocess.Popen[bytes]:
        who = self._user
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=self.directory,
            env=self.environ,
            user=None if who is None else who.pw_uid,
            group=None if who is None else who.pw_gid,
            extra_groups=None if who is None else [],
        )

    def _family(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            # Any of them may end in the meantime.
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
        return found


def _states(pid: int) -> list[str]:
    """The state of each thread of a process, as a letter and a word."""
    found = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):
            found += re.findall(r"^State:\t(.*)$", status.read_text(), re.MULTILINE)
    return found


def _is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def account_of(name: str) -> pwd.struct_passwd | None:
    """The user that starts the server; None, which is the current user, unless that is root."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return pwd.getpwnam("nobody")
