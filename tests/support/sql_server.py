"""A database server for tests: it can be started, killed, frozen and asked as an administrator."""

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
    """Wait until a condition holds."""
    deadline = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < deadline, f"not within {patience} seconds: {what}"
        time.sleep(0.01)


class SQLServer(ABC):
    """A server with a data directory, which is removed when it is closed."""

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

    # --- what differs between servers -----------------------------------------------------------

    @abstractmethod
    def install(self) -> None:
        """Make the data directory."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The server's command line; it stays in the foreground."""

    @staticmethod
    @abstractmethod
    def tls_options(key: Path, certificate: Path) -> Sequence[str]:
        """The options that enable TLS."""

    @abstractmethod
    def connect(self, schema: str = ...) -> Any:
        """An administrator's connection."""

    @abstractmethod
    def ask(self, sql: str) -> list[Any]:
        """The answer to an administrator's statement."""

    @abstractmethod
    def url(self, schema: str, user: str = ..., password: str = ..., port: int = ...) -> str:
        """The URL of a schema."""

    @abstractmethod
    def fresh_schema(self) -> str:
        """A new schema, without tables."""

    @abstractmethod
    def limited_url(self, schema: str) -> str:
        """The URL of a user who may connect, but neither make nor use tables."""

    @abstractmethod
    def allow(self, schema: str) -> None:
        """Allow that user to use the tables."""

    @abstractmethod
    def clients(self) -> list[int]:
        """All other connections."""

    @abstractmethod
    def waiters(self) -> list[int]:
        """The connections that wait for a lock."""

    @abstractmethod
    def end_client(self, number: int) -> None:
        """End a connection, as an administrator can."""

    def fresh_url(self) -> str:
        return self.url(self.fresh_schema())

    def end_clients(self) -> int:
        """End all other connections; return how many there were."""
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
        assert self._process.poll() is None, f"{self.name} has ended"
        try:
            return bool(self.ask("SELECT 1"))
        except Exception:  # a driver's; the server does not answer yet
            return False

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(self.stop_signal)
            self._wait_for_end()

    def kill9(self) -> None:
        """kill -9, and all of its children."""
        self.pause()  # so that it starts no more of them
        family = self._family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_for_end()
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

    def _wait_for_end(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None

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
