"""A database server for tests: installed, started, killed, frozen and asked by an administrator.

Knows processes, ports and accounts. Does not know any kind of server, or what is stored there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.support.ports import free_port

PATIENCE = 60  # seconds; a server that takes longer to start or to stop is broken
USER, PASSWORD = "sealed", "canary:p@ss/word"
OTHER_PASSWORD = "canary-limited"


def until(reached: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition, with many looks at it."""
    deadline = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < deadline, f"not within {patience} seconds: {what}"
        time.sleep(0.01)


class SQLServer(ABC):
    """A server with a data directory of its own, which vanishes when it is closed."""

    name: ClassVar[str]
    account: ClassVar[str]

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._user = account_of(self.account)
        self.directory = Path(tempfile.mkdtemp(prefix=f"sealedstate-{self.name}-"))
        self.directory.chmod(0o755)
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)

    # --- what differs ---------------------------------------------------------------------------

    @abstractmethod
    def install(self) -> None:
        """Make the data directory."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The server's command line; it stays in the foreground."""

    @staticmethod
    @abstractmethod
    def tls_options(key: Path, certificate: Path) -> Sequence[str]:
        """What makes it speak TLS."""

    @abstractmethod
    def connect(self, schema: str = ...) -> Any:
        """An administrator's connection."""

    @abstractmethod
    def ask(self, sql: str) -> list[Any]:
        """What an administrator is answered."""

    @abstractmethod
    def url(self, schema: str, user: str = ..., password: str = ..., port: int = ...) -> str:
        """The URL of a schema."""

    @abstractmethod
    def fresh_schema(self) -> str:
        """Where nobody else has tables."""

    @abstractmethod
    def limited_url(self, schema: str) -> str:
        """The URL for somebody who may connect, but make no tables, nor use those of others."""

    @abstractmethod
    def allow(self, schema: str) -> None:
        """Now he may use them."""

    @abstractmethod
    def clients(self) -> list[int]:
        """Everybody else's connections."""

    @abstractmethod
    def waiters(self) -> list[int]:
        """The connections that wait for a lock."""

    @abstractmethod
    def end_client(self, number: int) -> None:
        """End a connection, as an administrator can."""

    def fresh_url(self) -> str:
        return self.url(self.fresh_schema())

    def end_clients(self) -> int:
        """End everybody else's connections; how many there were."""
        found = self.clients()
        for number in found:
            self.end_client(number)
        return len(found)

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    # --- life -----------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        log = self.directory / "log"
        with log.open("ab") as out:
            self._process = self._spawn(self.command(), out)
        try:
            until(self._answers, f"{self.name} answers")
        except BaseException:
            print(log.read_text(errors="replace"))
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} has ended by itself"
        try:
            return bool(self.ask("SELECT 1"))
        except Exception:  # of a driver's own; it does not answer yet
            return False

    def stop(self) -> None:
        """An orderly end, as at a restart."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(self.stop_signal)
            self._ended()

    def kill9(self) -> None:
        """kill -9, and all of its children."""
        self.pause()  # so that it has no more of them meanwhile
        family = self._family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._ended()
        # PostgreSQL does not start beside an orphan of its former self.
        until(lambda: not any(map(_is_alive, family)), "all of it is dead")

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stand, and nobody answers."""
        until(self._is_frozen, "all of it is frozen")

    def _is_frozen(self) -> bool:
        # A signal takes its time, each thread takes its own, and the parent may have a child more.
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
        """Undo whatever was done to it."""
        if self._process is None:
            self.start()
        self.resume()

    def close(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.stop()
        if self._process is not None:
            self.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *command: str) -> None:
        with (self.directory / "log").open("ab") as out:
            process = self._spawn(command, out)
            assert process.wait(PATIENCE) == 0, (self.directory / "log").read_text()

    def _spawn(self, command: Sequence[str], out: Any) -> subprocess.Popen[bytes]:
        who = self._user
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=self.directory,
            user=None if who is None else who.pw_uid,
            group=None if who is None else who.pw_gid,
            extra_groups=None if who is None else [],
        )

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None

    def _family(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            # Any of them may end while they are looked at.
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
        return found


def _states(pid: int) -> list[str]:
    """What each thread of a process does, as one letter and a word."""
    found = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):
            found += re.findall(r"^State:\t(.*)$", status.read_text(), re.MULTILINE)
    return found


def _is_alive(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it for its parent."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def account_of(name: str) -> pwd.struct_passwd | None:
    """Whom a server is started as: nobody else unless we are root."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return pwd.getpwnam("nobody")
