"""URLs of SQL servers as people write them: several hosts, passwords in files, restarts."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sealedstate.errors import ConfigurationError, StorageError
from sealedstate.storage import Stored, open_storage
from sealedstate.storage.sql import SQLStorage
from sealedstate.storage.sql._pool import DEADLINE
from tests.support import sql_surroundings
from tests.support.fault_proxy import FaultProxy
from tests.support.installed import need_driver
from tests.support.ports import free_port
from tests.support.sql_server import OTHER_PASSWORD
from tests.support.sql_servers import MariaDBServer, PostgreSQLServer
from tests.support.sql_surroundings import Opener, after_recovery, unavailable_message

pytestmark = pytest.mark.server
server = sql_surroundings.server
schema, url = sql_surroundings.schema, sql_surroundings.url
open_store, store = sql_surroundings.open_store, sql_surroundings.store


@pytest.fixture
def frozen_port() -> Iterator[int]:
    """A host that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def with_hosts(server: PostgreSQLServer, url: str, *ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return url.replace(f"127.0.0.1:{server.port}", hosts)


# --- several hosts ------------------------------------------------------------------------------


def test_url_of_libpq_is_taken_as_it_is(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    server = postgresql_server
    url = with_hosts(server, server.fresh_url(), free_port(), server.port)
    for spelling in (url, url.replace("postgresql://", "postgres://")):
        for attributes in ("", "&target_session_attrs=read-write", "&target_session_attrs=any"):
            store = open_storage(f"{spelling}{attributes}&sealedstate_timeout=60", time.time)
            store.ping()
            store.close()
    store = open_store(url)
    assert str(server.port) in repr(store)


def test_first_attempt_to_connect_is_kept_and_used_when_the_server_answers() -> None:
    need_driver("psycopg")
    from sealedstate.storage.sql._postgresql import PostgreSQL

    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        driver = PostgreSQL(f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable", 0.05)
        for _ in range(3):
            DEADLINE.start(0.05)
            with pytest.raises(Exception, match="no answer in time"):
                driver.connect(0)
        first, *others = [stack.enter_context(listener.accept()[0]) for _ in range(3)]
        for other in others:
            assert other.recv(1000)
            assert not other.recv(1000), "it was not closed"
        first.sendall(b"R\0\0\0\10\0\0\0\0Z\0\0\0\5I")  # logged in, ready for a query
        DEADLINE.start(60)
        connection = driver.connect(0)
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as used:
            assert used.getsockname() == first.getpeername()
        assert not driver._late
        connection.close()


def test_frozen_host_costs_its_share_and_the_next_is_asked_first(
    postgresql_server: PostgreSQLServer, frozen_port: int, open_store: Opener
) -> None:
    server, url = postgresql_server, postgresql_server.fresh_url()
    open_store(url).create("c", "k", b"v", None, 1)
    # A busy machine must not matter: half of the deadline is enough for the host that works.
    store = open_store(with_hosts(server, url, frozen_port, server.port), timeout=6.0)
    begun = time.monotonic()
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert 2.9 < time.monotonic() - begun < 6.0
    store._pool.invalidate_older()
    begun = time.monotonic()
    assert store.read("c", "k") == Stored(b"v", 1, None)
    assert time.monotonic() - begun < 2.5, "the frozen host was asked again"


def test_hosts_that_all_fail_are_each_named(
    postgresql_server: PostgreSQLServer, open_store: Opener
) -> None:
    first, second = free_port(), free_port()
    url = with_hosts(postgresql_server, postgresql_server.fresh_url(), first, second)
    message = unavailable_message(open_store(url).ping)
    assert message.count("refused") == 2
    assert f"127.0.0.1:{first}: " in message
    assert f"127.0.0.1:{second}: " in message


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql://u:canary@h1,h2:1,h3:2/d?port=1,2", "3 hosts need 3 ports"),
        ("postgresql://u:canary@h1:x/d", "a port must be a number"),
        ("postgresql://u:canary@h1/d?hosts=x", 'invalid URI query parameter: "hosts"'),
        ("postgresql+psycopg://u:canary@h/d", "write postgresql:// here"),
        ("postgres+psycopg2://u:canary@h/d", "write postgresql:// here"),
        ("mysql+pymysql://u:canary@h/d", "write mysql:// here"),
        ("mariadb+mariadbconnector://u:canary@h/d", "write mariadb:// here"),
        (
            "mariadb://u:canary@h/d?ssl_check_hostname=perhaps",
            "parameter of PyMySQL has a wrong value",
        ),
    ],
)
def test_wrong_url_gets_the_right_spelling(url: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url, time.time)
    assert part in str(caught.value)
    assert "canary" not in str(caught.value)


# --- passwords that change ----------------------------------------------------------------------


def test_password_is_rotated_without_a_restart(
    server: Any, schema: str, open_store: Opener, tmp_path: Path
) -> None:
    open_store(server.url(schema)).create("c", "k", b"v", None, 1)
    limited = server.limited_url(schema)
    server.allow(schema)
    file, user = tmp_path / "passwords", f"limited_{schema}"

    def write(password: str) -> None:
        file.write_text(
            f"127.0.0.1:{server.port}:postgres:{user}:{password}\n"
            if isinstance(server, PostgreSQLServer)
            else f"[client]\nuser = {user}\npassword = {password}\n"
        )
        file.chmod(0o600)

    write(OTHER_PASSWORD)
    url = limited.replace(f"{user}:{OTHER_PASSWORD}@", f"{user}@")
    if isinstance(server, PostgreSQLServer):
        store = open_store(f"{url}&passfile={file}")
    else:
        store = open_store(f"{url.replace(f'{user}@', '')}?read_default_file={file}")
    assert store.read("c", "k") == Stored(b"v", 1, None)
    changed = "canary-changed"
    if isinstance(server, PostgreSQLServer):
        server.ask(f"ALTER ROLE {user} PASSWORD '{changed}'")
    else:
        server.ask(f"ALTER USER {user}@'%' IDENTIFIED BY '{changed}'")
    store._pool.invalidate_older()
    assert "password" in unavailable_message(lambda: store.read("c", "k"))
    # The drivers would ignore a file that they cannot use, or repeat its line.
    if isinstance(server, PostgreSQLServer):
        write(changed)
        file.chmod(0o640)
        part = "others may read it; run chmod 600"
    else:
        file.write_text(f"password = {changed}\n")
        part = "PyMySQL refuses the file"
    message = unavailable_message(lambda: store.read("c", "k"))
    assert part in message
    assert "canary" not in message
    file.unlink()
    assert "cannot be read: No such file" in unavailable_message(lambda: store.read("c", "k"))
    write(changed)
    assert store.read("c", "k") == Stored(b"v", 1, None)


# --- connections that end -----------------------------------------------------------------------


def fill_pool(store: SQLStorage, size: int = 8) -> None:
    """Open all connections of the pool, and leave them idle."""
    leases = []
    for _ in range(size):
        store._pool.start()
        leases.append(store._pool._acquire())
    for lease in leases:
        store._pool._release(lease)


def test_restart_under_a_full_pool_costs_no_call(
    server: Any, schema: str, open_store: Opener
) -> None:
    store = open_store(server.url(schema))
    store.create("c", "k", b"v", None, 1)
    fill_pool(store)
    server.restart()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda n: store.create("c", str(n), b"v", None, 1), range(16)))


def test_forgotten_connections_cost_one_call(server: Any, schema: str, open_store: Opener) -> None:
    with FaultProxy(server.port) as proxy:
        store = open_store(server.url(schema, port=proxy.port), timeout=2.5)
        after_recovery(lambda: store.create("c", "k", b"v", None, 1))
        fill_pool(store, 5)
        proxy.forget()
        failures = 0
        for _ in range(10):
            try:
                assert store.read("c", "k") == Stored(b"v", 1, None)
            except StorageError:
                failures += 1
        assert failures == 1
        # With an option for their age, none is lost.
        young = SQLStorage(server.url(schema, port=proxy.port), time.time, max_idle=0.05)
        fill_pool(young, 5)
        proxy.forget()
        time.sleep(0.06)
        assert after_recovery(lambda: young.read("c", "k")) == Stored(b"v", 1, None)
        young.close()


def test_settings_of_a_role_do_not_end_calls_early(
    postgresql_server: PostgreSQLServer, mariadb_server: MariaDBServer, open_store: Opener
) -> None:
    """A `statement_timeout` of the role, or `max_statement_time` of the server."""
    schema = postgresql_server.fresh_schema()
    open_store(postgresql_server.url(schema)).prepare()
    limited = postgresql_server.limited_url(schema)
    postgresql_server.allow(schema)
    postgresql_server.ask(f"ALTER ROLE limited_{schema} SET statement_timeout = 250")
    mariadb_server.ask("SET GLOBAL max_statement_time = 0.25")
    try:
        for url, sleep in (
            (limited, "SELECT pg_sleep(0.4)::text AS slept"),
            (mariadb_server.fresh_url(), "SELECT SLEEP(0.4)"),
        ):
            store = open_store(url)
            after_recovery(store.ping)
            store._pool.start()
            assert store._pool.read(lambda lease, sql=sleep: lease.query(sql, {}))  # type: ignore[misc]
    finally:
        mariadb_server.ask("SET GLOBAL max_statement_time = DEFAULT")
