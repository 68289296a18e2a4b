"""A database server for tests: it can be started, killed, frozen and asked as an administrator."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, account_of

USER, PASSWORD = "sealed", "canary:p@ss/word"
OTHER_PASSWORD = "canary-limited"


class SQLServer(ServerProcess):
    """A server with a data directory in `folder`, which is removed when it is closed."""

    account: ClassVar[str]

    def __init__(self, *options: str, folder: Path | None = None) -> None:
        directory = Path(tempfile.mkdtemp(prefix=f"sealedstate-{self.name}-", dir=folder))
        super().__init__(free_port(), directory, account_of(self.account))
        self._options = options
        # MariaDB removes temporary tables of other servers from a directory that it shares.
        self.environ = {**os.environ, "TMPDIR": str(directory)}
        self._numbers = itertools.count()
        self.directory.chmod(0o755)
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)

    # --- what differs between servers -----------------------------------------------------------

    @abstractmethod
    def install(self) -> None:
        """Make the data directory."""

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

    def is_ready(self) -> bool:
        return bool(self.ask("SELECT 1"))

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop()
        self.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)
