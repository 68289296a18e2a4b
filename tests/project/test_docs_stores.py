"""docs/stores.md by situation: what `store check` prints there, on real servers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner

from sealedstate import Settings
from sealedstate.cli import cli, command_for
from sealedstate.storage import open_storage
from tests.support.backends import patient
from tests.support.documents import Document
from tests.support.installed import need_driver
from tests.support.kv_servers import (
    KeyValueServer,
    Persistence,
    redis_cluster,
    redis_server,
    sentinels,
)
from tests.support.server_process import until
from tests.support.sql_servers import PostgreSQLServer

STORES = Document("stores.md")

Given: TypeAlias = str | Settings
Situation: TypeAlias = Callable[
    [pytest.FixtureRequest, pytest.MonkeyPatch, Path], AbstractContextManager[Given]
]


@contextmanager
def one_machine(request: Any, monkeypatch: Any, folder: Path) -> Iterator[Given]:
    yield f"sqlite:{folder}/sessions.db"


@contextmanager
def sql(name: str, request: pytest.FixtureRequest, *_: Any) -> Iterator[Given]:
    yield request.getfixturevalue(f"{name}_server").fresh_url()


@contextmanager
def pgbouncer(request: pytest.FixtureRequest, *_: Any) -> Iterator[Given]:
    from tests.support.pgbouncer import pooled

    with pooled(request.getfixturevalue("postgresql_server"), "transaction") as pooler:
        yield pooler.url(pooler.fresh_database())


@contextmanager
def standby(is_synchronous: bool, *_: Any) -> Iterator[Given]:
    need_driver("psycopg")
    from tests.chaos.test_sql_failover import Pair

    pair = Pair()
    with pair.running():
        if not is_synchronous:
            pair.primary.ask("ALTER SYSTEM RESET synchronous_standby_names")
            pair.primary.ask("SELECT pg_reload_conf()")
            until(lambda: not pair.primary.ask("SHOW synchronous_standby_names")[0][0], "reset")
        yield pair.url() if is_synchronous else pair.primary.url("public")


@contextmanager
def redis(persistence: Persistence, *_: Any) -> Iterator[Given]:
    with redis_server(persistence) as server:
        yield server.url


@contextmanager
def redis_sentinels(options: str, *_: Any) -> Iterator[Given]:
    with redis_server("aof everysec", "--repl-diskless-sync-delay", "0") as primary:
        replica = redis_server("aof everysec", "--replicaof", "127.0.0.1", str(primary.port))
        with replica, sentinels(primary, 1) as (sentinel,):
            wait_for_replicas(primary)
            if options:
                configure(primary, "min-replicas-to-write", "1")
            yield f"redis+sentinel://127.0.0.1:{sentinel.port}/main{options}"


def configure(server: KeyValueServer, name: str, value: str) -> None:
    from redis import Redis

    with Redis(port=server.port) as admin:
        admin.config_set(name, value)


def wait_for_replicas(server: KeyValueServer) -> None:
    from redis import Redis

    with Redis(port=server.port) as admin:
        admin.set("ready", "1")
        until(lambda: admin.wait(1, 1000) == 1, "the replica follows")


@contextmanager
def cluster(*_: Any) -> Iterator[Given]:
    with redis_cluster(3) as servers:
        for server in servers:
            configure(server, "appendonly", "yes")
        yield f"redis+cluster://127.0.0.1:{servers[0].port}"


@contextmanager
def memcached(request: pytest.FixtureRequest, *_: Any) -> Iterator[Given]:
    cache = request.getfixturevalue("plain_memcached").url
    database = request.getfixturevalue("postgresql_server").fresh_url()
    yield f"*={database} sealedstate.part={cache}"


@contextmanager
def two_regions(request: pytest.FixtureRequest, *_: Any) -> Iterator[Given]:
    logouts = request.getfixturevalue("postgresql_server").fresh_url()
    with redis_server("aof everysec") as parts:
        yield f"*={logouts} sealedstate.part={parts.url}"


@contextmanager
def dynamodb(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _: Path
) -> Iterator[Given]:
    need_driver("botocore")
    from sealedstate.storage import dynamodb as module

    described = module.capabilities_by
    # The emulator has no TTL, and is not AWS.
    host = "dynamodb.eu-central-1.amazonaws.com"
    monkeypatch.setattr(module, "capabilities_by", lambda table, *_: described(table, True, host))
    url = request.getfixturevalue("plain_dynamodb").url
    with closing(open_storage(patient(url), time.time)) as store:
        store.prepare()
    yield url


@contextmanager
def engine(request: pytest.FixtureRequest, *_: Any) -> Iterator[Given]:
    need_driver("sqlalchemy", "psycopg")
    from sqlalchemy import create_engine

    from sealedstate.storage.sql import SQLStorage

    server: PostgreSQLServer = request.getfixturevalue("postgresql_server")
    url = server.fresh_url().replace("postgresql:", "postgresql+psycopg:")
    made = create_engine(url)
    yield Settings(storage=SQLStorage(made, time.time))
    made.dispose()


SITUATIONS: dict[str, Situation] = {
    "one machine": one_machine,
    "postgresql": partial(sql, "postgresql"),
    "pgbouncer": pgbouncer,
    "asynchronous standby": partial(standby, False),
    "synchronous standby": partial(standby, True),
    "mariadb": partial(sql, "mariadb"),
    "redis snapshots": partial(redis, "snapshots"),
    "redis everysec": partial(redis, "aof everysec"),
    "sentinels": partial(redis_sentinels, ""),
    "sentinels that wait": partial(redis_sentinels, "?sealedstate_wait=1"),
    "cluster": cluster,
    "memcached": memcached,
    "dynamodb": dynamodb,
    "engine": engine,
    "two regions": two_regions,
}
# What is the same in each situation: uses that are possible, a store that takes writes, and
# settings of the application.
COMMON = re.compile(
    r"\w+ +yes .*|  takes writes = yes: .*|  (?:a logout counts|while the store) .*"
)


def check(given: Given) -> tuple[int, str]:
    if isinstance(given, str):
        command: Any = cli
        words = [" ".join(map(patient, given.split()))]
    else:
        command, words = command_for(given), []
    result = CliRunner().invoke(command, ["store", "check", *words], prog_name="sealedstate")
    return result.exit_code, result.output


@pytest.mark.server
@pytest.mark.parametrize("name", SITUATIONS)
def test_check_prints_in_each_situation_what_is_documented(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with SITUATIONS[name](request, monkeypatch, tmp_path) as given:
        code, output = check(given)
    printed = re.sub(r"MariaDB \d+\.\d+\.\d+", "MariaDB 10.11.19", output).splitlines()
    command, *documented = STORES.block(f"check: {name}").splitlines()
    assert command.startswith("$ ")
    if not any(map(COMMON.fullmatch, documented)):
        printed = [line for line in printed if not COMMON.fullmatch(line)]
    assert documented == printed
    assert printed[-1].startswith("  to do: ")
    assert code == any(re.match(r"\w+ +no ", line) for line in printed)


def test_all_situations_of_the_document_are_checked() -> None:
    sections = re.findall(r"(?ms)^## (I have [^\n]*)\n(.*?)(?=^## )", STORES.text)
    assert len(sections) == 12
    checked = re.findall(r"<!-- check: (.*) -->", STORES.text)
    assert sorted(checked) == sorted(SITUATIONS)
    for title, text in sections:
        assert "<!-- check: " in text, title
        assert f"](#{title.lower().replace(' ', '-').replace(',', '')})" in STORES.text


@pytest.mark.server
def test_role_with_a_statement_timeout_leaves_nothing_to_do_behind_a_pooler(
    postgresql_server: PostgreSQLServer,
) -> None:
    need_driver("psycopg")
    from tests.support.pgbouncer import pooled

    with pooled(postgresql_server, "transaction") as pooler:
        database = pooler.fresh_database()
        postgresql_server.ask(f"ALTER DATABASE {database} SET statement_timeout = '60s'")
        _, output = check(pooler.url(database))
    assert "a pooler is in between" in output
    assert output.endswith("  to do: nothing\n")
