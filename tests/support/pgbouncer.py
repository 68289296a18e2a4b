"""PgBouncer in front of a PostgreSQL server of the tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from tests.support.installed import program
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, account_of
from tests.support.sql_server import PASSWORD, USER
from tests.support.sql_servers import PostgreSQLServer

PoolMode = Literal["session", "transaction", "statement"]


class PgBouncer(ServerProcess):
    """A pooler with few connections to `server`. Not as root, which it refuses."""

    name = "pgbouncer"

    def __init__(self, server: PostgreSQLServer, mode: PoolMode, pool_size: int = 4) -> None:
        directory = Path(tempfile.mkdtemp(prefix="sealedstate-pgbouncer-"))
        super().__init__(free_port(), directory, account_of("postgres"))
        self._server, self._numbers = server, itertools.count()
        (directory / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": directory / "users",
            "pool_mode": mode,
            "default_pool_size": 40 if mode == "session" else pool_size,
            "max_client_conn": 200,
            "server_login_retry": 1,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        databases = f"* = host=127.0.0.1 port={server.port}"
        (directory / "ini").write_text(
            "\n".join(["[databases]", databases, "[pgbouncer]", *lines, ""])
        )
        if self._user is not None:
            for path in (directory, *directory.iterdir()):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def command(self) -> Sequence[str]:
        return [program("pgbouncer"), str(self.directory / "ini")]

    def is_ready(self) -> bool:
        import psycopg

        url = self.url("postgres")
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)

    def url(self, database: str, port: int = 0) -> str:
        where = f"127.0.0.1:{port or self.port}"
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{where}/{database}"

    def fresh_database(self) -> str:
        database = f"pooled_{os.getpid()}_{self.port}_{next(self._numbers)}"
        self._server.ask(f"CREATE DATABASE {database}")
        return database

    def close(self) -> None:
        self.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def pooled(server: PostgreSQLServer, mode: PoolMode) -> Iterator[PgBouncer]:
    """A pooler in front of a server."""
    pooler = PgBouncer(server, mode)
    try:
        with pooler.shown_log():
            pooler.start()
        yield pooler
    finally:
        pooler.close()
