"""URLs of stores: which store they open, their options, and what is wrong with them."""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sealedstate.storage.memcached
import sealedstate.storage.redis
import sealedstate.storage.sql
import sealedstate.storage.urls
from sealedstate.errors import ConfigurationError, StorageUnavailable
from sealedstate.rotation import reports
from sealedstate.storage import (
    CachedStorage,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
    open_storage,
)
from sealedstate.storage.urls import parse_routes, split_path, split_url
from tests.support.server_process import until
from tests.support.sql_servers import PostgreSQLServer
from tests.support.sql_surroundings import locked_records

# --- what is opened -----------------------------------------------------------------------------

OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "postgresql://u:p@h/d?sealedstate_timeout=0.3&sealedstate_pool_size=20",
        "postgresql://u:p@h/d",
        {"timeout": 0.3, "pool_size": 20},
    ),
    (
        "mariadb://u:p@h/d?ssl_ca=/a%2Fb&sealedstate_pool_size=1&charset=x",
        "mariadb://u:p@h/d?ssl_ca=/a%2Fb&charset=x",
        {"pool_size": 1},
    ),
    ("mysql://h/d?sealedstate_timeout=1", "mysql://h/d", {"timeout": 1.0}),
    ("redis://h?sealedstate_timeout=2", "redis://h", {"timeout": 2.0}),
    (
        "rediss://h/1?sealedstate_timeout=2&ssl_ca_certs=/x",
        "rediss://h/1?ssl_ca_certs=/x",
        {"timeout": 2.0},
    ),
    ("valkey://h?sealedstate_timeout=0.001", "valkey://h", {"timeout": 0.001}),
    ("rediss+sentinel://h1,h2/n?sealedstate_wait=2", "rediss+sentinel://h1,h2/n", {"wait": 2}),
    ("valkey+cluster://h1,h2", "valkey+cluster://h1,h2", {}),
    ("redis+unix:///run/r.sock?db=1", "redis+unix:///run/r.sock?db=1", {}),
    ("memcached+unix:///run/m.sock", "memcached+unix:///run/m.sock", {}),
    ("valkeys://h?sealedstate_timeout=3600", "valkeys://h", {"timeout": 3600.0}),
    ("memcached://h:1?sealedstate_timeout=2", "memcached://h:1", {"timeout": 2.0}),
    ("sqlite:/a/b.db?sealedstate_timeout=5", "/a/b.db", {"timeout": 5.0}),
    ("sqlite:/what?/b.db", "/what?/b.db", {}),
    ("sqlite:/what?.db?sealedstate_timeout=5", "/what?.db", {"timeout": 5.0}),
    ("sqlite:/a?b=c/d.db", "/a?b=c/d.db", {}),
    ("sqlite:why?", "why?", {}),
    ("postgresql://h/d", "postgresql://h/d", {}),
    ("postgresql://h/d?", "postgresql://h/d?", {}),
    ("layered:500:redis://h?sealedstate_timeout=2", "redis://h", {"timeout": 2.0}),
]


def test_options_are_removed_from_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def record(url: str, _: Any, **options: Any) -> object:
        calls.append((url, options))
        return object()

    monkeypatch.setattr(sealedstate.storage.sqlite, "SQLiteStorage", record)
    monkeypatch.setattr(sealedstate.storage.sql, "SQLStorage", record)
    monkeypatch.setattr(sealedstate.storage.redis, "RedisStorage", record)
    monkeypatch.setattr(sealedstate.storage.memcached, "MemcachedStorage", record)
    for url, rest, options in OPTIONS:
        open_storage(url, time.time)
        assert calls.pop() == (rest, options)


def test_urls_open_caches_and_routes(tmp_path: Path) -> None:
    assert isinstance(open_storage("layered:500:memory:", time.time), CachedStorage)
    urls = {"*": f"sqlite:{tmp_path / 'a'}", "sealedstate.revoked": "memory:"}
    routed = open_storage(urls, time.time)
    assert isinstance(routed, RoutedStorage)
    assert isinstance(routed.store_of("sealedstate.revoked"), MemoryStorage)
    assert isinstance(routed.store_of("anything"), SQLiteStorage)


def test_context_of_reports_is_known() -> None:
    open_storage({"*": "memory:", reports.CONTEXT: "memory:", "mine": "memory:"}, time.time)


def test_sqlite_url_names_the_file(tmp_path: Path) -> None:
    with contextlib.closing(open_storage(f"sqlite:{tmp_path / 'x.db'}", time.time)) as store:
        store.create("c", "k", b"v", None, 1)
        assert (tmp_path / "x.db").exists()


# --- options among other parameters -------------------------------------------------------------

PARAMETER = st.from_regex(r"[a-z_%0-9]{1,9}=[^&?\s]{0,9}", fullmatch=True).filter(
    lambda text: "sealedstate_" not in text
)
BOTH = ("timeout", "pool_size")


@given(st.text())
@example("postgresql://u:p@h/d?")
@example("redis://h?a=b&")
@example("sqlite:?")
def test_url_without_options_is_unchanged(url: str) -> None:
    if "sealedstate_" not in url:
        assert split_url(url, BOTH) == (url, {})


@given(st.lists(PARAMETER), st.data())
def test_options_may_be_anywhere_among_the_drivers(others: list[str], data: st.DataObject) -> None:
    mixed = list(others)
    for option in ("sealedstate_timeout=0.25", "sealedstate_pool_size=3"):
        mixed.insert(data.draw(st.integers(0, len(mixed))), option)
    rest = "postgresql://u:p@h/d" + (f"?{'&'.join(others)}" if others else "")
    found = split_url(f"postgresql://u:p@h/d?{'&'.join(mixed)}", BOTH)
    assert found == (rest, {"timeout": 0.25, "pool_size": 3})


@given(st.text(min_size=1))
def test_any_path_can_have_an_option(path: str) -> None:
    assert split_path(f"{path}?sealedstate_timeout=1", BOTH) == (path, {"timeout": 1.0})


CONTEXTS = st.sampled_from(["*", "sealedstate.part", "mine", "of-mine.2", "ü"])
# Characters that URLs may contain, `=` and `*` too.
URL_TEXTS = st.text("az:/?&=*@%.1", min_size=1)


@given(st.dictionaries(CONTEXTS, URL_TEXTS, min_size=1), st.sampled_from([" ", "\n", "\t  "]))
def test_one_line_of_routes_is_the_same_as_a_table(urls: dict[str, str], blank: str) -> None:
    assert parse_routes(blank.join(f"{context}={url}" for context, url in urls.items())) == urls


def test_one_url_is_no_line_of_routes() -> None:
    for url in (
        "sqlite:/var/lib/a=b/*=c.db",
        "sqlite:/with a=blank/x.db",
        "postgresql://u:p=q@h/d?options=-c%20search_path%3Dx",
        "memory:",
        "",
    ):
        assert parse_routes(url) == url


# By URL, a part of the message. None repeats a "canary", which may be part of a password.
REFUSED: list[tuple[str | dict[str, str], str]] = [
    *((url, "one of memory:") for url in ("", "sqlite", "memory", "nonsense", "canary:knows")),
    *((f"layered:{rest}", "layered:MILLISECONDS:URL") for rest in ("", "x:memory:", "500")),
    ("memory:x", "takes nothing"),
    ("sqlite:", "needs a path"),
    ("sqlite:?sealedstate_timeout=1", "needs a path"),
    # Options.
    ("redis://:canary@h?sealedstate_timout=1", "did you mean sealedstate_timeout?"),
    ("postgresql://u:canary@h/d?sealedstate_poolsize=1", "did you mean sealedstate_pool_size?"),
    ("sqlite:x.db?timeout=1", "did you mean sealedstate_timeout?"),
    ("postgresql://u:canary@h/d?sealedstate_x=1", "sealedstate_timeout, sealedstate_pool_size"),
    ("redis://:canary@h?sealedstate_pool_size=1", "it takes sealedstate_timeout, sealedstate_wait"),
    ("sqlite:x.db?mode=ro", "it takes sealedstate_timeout"),
    ("sqlite:x.db?sealedstate_timeout=1&mode=ro", "it takes sealedstate_timeout"),
    ("redis://:canary@h?sealedstate_timeout=1&sealedstate_timeout=2", "timeout is given twice"),
    # Passwords that look like options, or were not escaped.
    ("redis://:x?sealedstate_canary@h", "such option"),
    ("postgresql://u:x?canary@h/d?sealedstate_timeout=1", "%3F"),
    ("postgresql://app:x@canary@127.0.0.1:7999/app", "write @ as %40"),
    ("mariadb://app:p@canary/x@127.0.0.1:7999/app", "write @ as %40"),
    ("layered:100:postgresql://app:p@canary/w@127.0.0.1/app", "write @ as %40"),
    # Routes.
    ({"sealedstate.revoked": "memory:"}, '"*" for all others'),
    ("sealedstate.revoked=memory:", '"*" for all others'),
    ("*=memory: redis://:canary@h", "word 2 must be CONTEXT=URL"),
    ("*=memory: sealedstate.part=", "word 2 must be CONTEXT=URL"),
    ("*=sqlite:/can ary/x.db", "word 2 must be CONTEXT=URL"),
    ("*=memory: *=sqlite:canary", "* is given twice"),
    ("*=memory: sealedstate.revokd=memory:", "did you mean sealedstate.revoked"),
    ({"*": "memory:", "sealedstate.revokd": "memory:"}, "did you mean sealedstate.revoked"),
    ("*=canary", "one of memory:"),
    ("*=*=sqlite:canary", "one of memory:"),
    ("*=memory: mine=redis://:canary@h?sealedstate_timout=1", "sealedstate_timeout?"),
    # What the stores themselves refuse.
    *((f"memcached:{rest}", "") for rest in ("", "//", "//:11211", "//h:port")),
    *((f"memcached://{rest}", "") for rest in ("u:canary@h", "h/canary", "h?canary=1")),
    ("memcached://a:1,canary:2", "memcached takes one server"),
    ("memcached+unix:", "memcached+unix:///path"),
    ("memcached+unix://h/x", "memcached+unix:///path"),
    ("unix:///run/redis.sock", "redis+unix:///PATH"),
    ("redis://canary,h2:1", "redis+sentinel://"),
    ("redis+unix://:canary@h/x", "redis+unix://"),
    ("rediss+unix:///x", "a socket has no TLS"),
    ("redis+sentinel://:canary@h1,h2", "host[:port],.../name"),
    ("redis+sentinel://:canary@h1,h2/name/0/1", "host[:port],.../name"),
    ("redis+cluster://:canary@h1,,h2", "redis+cluster://"),
    ("redis+cluster://:canary@h1/1", "only the database 0"),
    ("redis+cluster://h1?sentinel_password=canary", "with redis+sentinel"),
    ("redis+socket:///x", "one of memory:"),
    ("redis://:canary@h?sealedstate_wait=0", "a whole number from 1 to 100"),
    *((f"redis:{rest}", "") for rest in ("", "//", "///0", "//:canary@/0", "//canary@h/0")),
    *(
        (f"redis://:canary@h{rest}", "")
        for rest in (":port/0", "/none", "/-1", "/0#x", "/0?ssl_ca_certs=x")
    ),
    ("rediss://:canary@h/0?socket_timeout=100", ""),
    *((url, "") for url in ("postgresql:", "mariadb:nonsense", "postgresql://u:canary@h:port/d")),
    ("oracle://u:canary@h/d", "one of memory:"),
    ("postgresql+psycopg2://u:canary@h/d", "write postgresql:// here"),
    *((f"sqlite:{path}", "write the path as it is") for path in ("///s.db", "~/s.db", "//s.db")),
    ("postgresql://u:canary@h/d?nonsense=1", 'invalid URI query parameter: "nonsense"'),
    ("postgresql://u:canary@h:65536/d", "a port must be a number from 1 to 65535"),
    ("mariadb://u:canary@h1,h2/d", "takes one host"),
    ("mariadb://u:canary@h/d?nonsense=1", "no parameter 'nonsense'"),
    ("mariadb://u@h/d?password=canary", "no parameter 'password'"),
    ("mariadb://u:x@h/d?%40canary=1", "no such parameter"),
    *(
        (f"{url}=/does/not/exist", "the file /does/not/exist cannot be read: No such file")
        for url in (
            *(f"mariadb://u:canary@h/d?{name}" for name in ("ssl_ca", "read_default_file")),
            *(f"rediss://:canary@h?{name}" for name in ("ssl_ca_certs", "ssl_keyfile")),
            "rediss+sentinel://:canary@h/main?ssl_certfile",
            "postgresql://u@h/d?passfile",
        )
    ),
    # Numbers.
    *(
        (f"{url}?sealedstate_timeout={value}", "timeout must be seconds from 0.001 to 3600")
        for url in ("redis://:canary@h", "postgresql://u:canary@h/d", "memcached://h", "sqlite:x")
        for value in (
            *("", "0", "0.0", "-1", "nan", "inf", "1e3", "3601", "0.0001"),
            *("1s", " 1", "٣", "1_0", "9" * 99, "%31", "canary"),
        )
    ),
    *(
        (f"mariadb://u:canary@h/d?sealedstate_pool_size={value}", "a whole number from 1 to 1000")
        for value in ("", "0", "-1", "0.5", "1001", "ten", "canary")
    ),
]


def test_wrong_url_is_refused_and_not_repeated() -> None:
    for url, part in REFUSED:
        with pytest.raises(ConfigurationError) as caught:
            open_storage(url, time.time)
        assert part in str(caught.value), url
        assert str(caught.value).startswith("storage: ")
        assert "canary" not in "".join(traceback.format_exception(caught.value)), url


def test_redis_store_waits_as_long_as_its_url_says() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, but does not answer
        port = listener.getsockname()[1]
        store = open_storage(f"redis://127.0.0.1:{port}?sealedstate_timeout=0.025", time.time)
        with pytest.raises(StorageUnavailable, match=r"within 0\.025 s"):
            store.ping()


@pytest.mark.server
def test_pool_is_as_large_as_its_url_says(postgresql_server: PostgreSQLServer) -> None:
    schema, threads = postgresql_server.fresh_schema(), 9  # one more than by default
    url = f"{postgresql_server.url(schema)}&sealedstate_timeout=30&sealedstate_pool_size={threads}"
    with contextlib.closing(open_storage(url, time.time)) as store:
        store.create("c", "k", b"v", None, 1)
        with ThreadPoolExecutor(threads) as pool, locked_records(postgresql_server, schema):
            for _ in range(threads):
                pool.submit(store.update_expiration, "c", "k", None)
            until(lambda: len(postgresql_server.waiters()) == threads, "all wait for the lock")
