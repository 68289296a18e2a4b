"""Temporary PostgreSQL and MariaDB servers on free ports of 127.0.0.1, as durable as by default.

`running(PostgreSQLServer)` starts one. The fixtures `postgresql_server` and `mariadb_server` start
one for all tests of a pytest process. Tests whose server is not installed are skipped; with
REQUIRE_SERVERS=1 they fail.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.installed import need_driver, program
from tests.support.server_process import account_of
from tests.support.sql_server import OTHER_PASSWORD, PASSWORD, USER, SQLServer


class PostgreSQLServer(SQLServer):
    name = "postgresql"
    account = "postgres"
    stop_signal = signal.SIGINT  # SIGTERM would wait for clients

    def install(self) -> None:
        need_driver("psycopg")
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self.run(
            *(program("initdb"), "-D", str(self.directory / "data"), "-U", USER, "--no-sync"),
            *("-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C"),
        )

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": 200,
        }
        return [
            *(program("postgres"), "-D", str(self.directory / "data")),
            *itertools.chain(*(("-c", f"{name}={value}") for name, value in settings.items())),
            *self._options,
        ]

    @staticmethod
    def tls_options(key: Path, certificate: Path) -> Sequence[str]:
        files = {"ssl": "on", "ssl_key_file": key, "ssl_cert_file": certificate}
        return [*itertools.chain(*(("-c", f"{name}={value}") for name, value in files.items()))]

    def connect(self, schema: str = "public") -> Any:
        import psycopg

        parameters: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": USER,
            "password": PASSWORD,
            "dbname": "postgres",
            "options": f"-c search_path={schema}",
            "connect_timeout": 60,
        }
        return psycopg.connect(autocommit=True, **parameters)

    def ask(self, sql: str) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def url(self, schema: str, user: str = USER, password: str = PASSWORD, port: int = 0) -> str:
        where = f"{quote(user)}:{quote(password, safe='')}@127.0.0.1:{port or self.port}/postgres"
        return f"postgresql://{where}?options=-c%20search_path%3D{schema}"

    def fresh_schema(self) -> str:
        schema = f"fresh_{os.getpid()}_{next(self._numbers)}"
        self.ask(f"CREATE SCHEMA {schema}")
        return schema

    def limited_url(self, schema: str) -> str:
        self.ask(f"CREATE ROLE limited_{schema} LOGIN PASSWORD '{OTHER_PASSWORD}'")
        self.ask(f"GRANT USAGE ON SCHEMA {schema} TO limited_{schema}")
        return self.url(schema, f"limited_{schema}", OTHER_PASSWORD)

    def allow(self, schema: str) -> None:
        rights = "SELECT, INSERT, UPDATE, DELETE"
        self.ask(f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO limited_{schema}")

    def clients(self) -> list[int]:
        return self._numbers_where("pid <> pg_backend_pid()")

    def waiters(self) -> list[int]:
        return self._numbers_where("wait_event_type = 'Lock'")

    def _numbers_where(self, what: str) -> list[int]:
        found = self.ask(
            f"SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND {what}"
        )
        return [int(number) for (number,) in found]

    def end_client(self, number: int) -> None:
        self.ask(f"SELECT pg_terminate_backend({number})")


class MariaDBServer(SQLServer):
    name = "mariadb"
    account = "mysql"

    def install(self) -> None:
        need_driver("pymysql")
        self.run(
            *(program("mariadb-install-db"), "--no-defaults", "--skip-test-db"),
            f"--datadir={self.directory / 'data'}",
            "--auth-root-authentication-method=normal",
        )
        # Run at every start, line by line.
        (self.directory / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"
        )

    def command(self) -> Sequence[str]:
        return [
            *(program("mariadbd"), "--no-defaults", f"--datadir={self.directory / 'data'}"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve"),
            f"--socket={self.directory / 'socket'}",
            f"--init-file={self.directory / 'init.sql'}",
            *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"),
            "--max-connections=200",
            *self._options,
        ]

    @staticmethod
    def tls_options(key: Path, certificate: Path) -> Sequence[str]:
        return [f"--ssl-key={key}", f"--ssl-cert={certificate}"]

    def connect(self, schema: str | None = None) -> Any:
        import pymysql  # type: ignore[import-untyped]

        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            database=schema,
            autocommit=True,
            ssl_disabled=True,  # else each connection reads all certificates of the system
            connect_timeout=60,
            read_timeout=60,
        )

    def ask(self, sql: str) -> list[Any]:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def url(self, database: str, user: str = USER, password: str = PASSWORD, port: int = 0) -> str:
        who = f"{quote(user)}:{quote(password, safe='')}"
        return f"mariadb://{who}@127.0.0.1:{port or self.port}/{database}"

    def fresh_schema(self) -> str:
        schema = f"fresh_{os.getpid()}_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {schema}")
        return schema

    def limited_url(self, schema: str) -> str:
        self.ask(f"CREATE USER limited_{schema}@'%' IDENTIFIED BY '{OTHER_PASSWORD}'")
        # Without any right, the user could not even connect to the database.
        self.ask(f"GRANT SHOW VIEW ON {schema}.* TO limited_{schema}@'%'")
        return self.url(schema, f"limited_{schema}", OTHER_PASSWORD)

    def allow(self, schema: str) -> None:
        rights = "SELECT, INSERT, UPDATE, DELETE"
        self.ask(f"GRANT {rights} ON {schema}.* TO limited_{schema}@'%'")

    def clients(self) -> list[int]:
        found = self.ask(
            "SELECT id FROM information_schema.processlist"
            f" WHERE user IN ('{USER}') AND id <> connection_id()"
        )
        return [int(number) for (number,) in found]

    def waiters(self) -> list[int]:
        # InnoDB fills this table again only if nobody has read it for 0.1 s: who asks more often
        # sees for ever what was there at the first question.
        time.sleep(0.15)
        found = self.ask(
            "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx"
            " WHERE trx_state = 'LOCK WAIT'"
        )
        return [int(number) for (number,) in found]

    def end_client(self, number: int) -> None:
        # Without a handler, KILL would fail for a connection that has ended already.
        self.ask(
            f"BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; KILL {number}; END"
        )


@contextlib.contextmanager
def running(kind: type[SQLServer], *options: str, folder: Path | None = None) -> Iterator[Any]:
    """A new server, with its data in `folder`."""
    server = kind(*options, folder=folder)
    try:
        server.install()
        with server.shown_log():
            server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def running_with_tls(kind: type[SQLServer]) -> Iterator[tuple[Any, Path]]:
    """A new server with TLS, and its certificate."""
    folder = Path(tempfile.mkdtemp(prefix="sealedstate-tls-"))
    folder.chmod(0o755)
    key, certificate = folder / "key", folder / "certificate"
    try:
        make_certificate(key, certificate)
        if (who := account_of(kind.account)) is not None:
            os.chown(key, who.pw_uid, who.pw_gid)
        key.chmod(0o600)
        with running(kind, *kind.tls_options(key, certificate)) as server:
            yield server, certificate
    finally:
        shutil.rmtree(folder)


def make_certificate(key: Path, certificate: Path) -> None:
    command = [
        *(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-keyout", str(key), "-out", str(certificate)),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
    ]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    with running(PostgreSQLServer) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    with running(MariaDBServer) as server:
        yield server
