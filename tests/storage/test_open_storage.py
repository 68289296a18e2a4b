"""Our options in the URL of a store: taken from it, checked, and unseen by the driver.

Knows which class each scheme opens. Does not know what a store does with an option, but for those
that can be seen from outside.
"""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sealedstate.storage
import sealedstate.storage.memcached.store
import sealedstate.storage.redis.store
import sealedstate.storage.sql.store
from sealedstate import storage
from sealedstate.errors import ConfigurationError, StorageUnavailable
from sealedstate.rotation import reports
from sealedstate.storage import open_storage
from sealedstate.storage.urls import split_path, split_url, urls_of
from tests.support import sql_servers
from tests.support.sql_server import until
from tests.support.sql_servers import PostgreSQLServer
from tests.support.sql_surroundings import holding

postgresql_server = sql_servers.postgresql_server


class Recorder:
    """Takes the place of the stores, and notes how they are opened."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, url: str, _: Any, **options: Any) -> object:
        self.calls.append((url, options))
        return object()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(sealedstate.storage, "SQLiteStorage", recorder)
    monkeypatch.setattr(sealedstate.storage.sql, "SQLStorage", recorder)
    monkeypatch.setattr(sealedstate.storage.redis, "RedisStorage", recorder)
    monkeypatch.setattr(sealedstate.storage.memcached, "MemcachedStorage", recorder)
    return recorder


# --- what is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "bare", "options"),
    [
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
        ("valkeys://h?sealedstate_timeout=3600", "valkeys://h", {"timeout": 3600.0}),
        ("memcached://h:1?sealedstate_timeout=2", "memcached://h:1", {"timeout": 2.0}),
        ("sqlite:/a/b.db?sealedstate_timeout=5", "/a/b.db", {"timeout": 5.0}),
        ("sqlite:/what?/b.db", "/what?/b.db", {}),
        ("sqlite:/what?.db?sealedstate_timeout=5", "/what?.db", {"timeout": 5.0}),
        ("sqlite:/a?b=c/d.db", "/a?b=c/d.db", {}),
        ("sqlite:why?", "why?", {}),
        ("postgresql://h/d", "postgresql://h/d", {}),
        ("postgresql://h/d?", "postgresql://h/d?", {}),
    ],
)
def test_options_of_ours_are_taken_out_of_the_url(
    opened: Recorder, url: str, bare: str, options: dict[str, Any]
) -> None:
    open_storage(url, time.time)
    assert opened.calls == [(bare, options)]


def test_the_store_behind_a_cache_takes_its_options(opened: Recorder) -> None:
    open_storage("layered:500:redis://h?sealedstate_timeout=2", time.time)
    assert opened.calls == [("redis://h", {"timeout": 2.0})]


PARAMETER = st.from_regex(r"[a-z_%0-9]{1,9}=[^&?\s]{0,9}", fullmatch=True).filter(
    lambda text: "sealedstate_" not in text
)
OURS = ["sealedstate_timeout=0.25", "sealedstate_pool_size=3"]
BOTH = ("timeout", "pool_size")


@given(st.text())
@example("postgresql://u:p@h/d?")
@example("redis://h?a=b&")
@example("sqlite:?")
def test_a_url_without_options_of_ours_stays_as_it_is(url: str) -> None:
    if "sealedstate_" not in url:
        assert split_url(url, BOTH) == (url, {})


@given(st.lists(PARAMETER), st.data())
def test_options_may_stand_anywhere_among_the_drivers(
    others: list[str], data: st.DataObject
) -> None:
    mixed = list(others)
    for option in OURS:
        mixed.insert(data.draw(st.integers(0, len(mixed))), option)
    bare = "postgresql://u:p@h/d" + (f"?{'&'.join(others)}" if others else "")
    found = split_url(f"postgresql://u:p@h/d?{'&'.join(mixed)}", BOTH)
    assert found == (bare, {"timeout": 0.25, "pool_size": 3})


@given(st.text(min_size=1))
def test_every_path_can_be_named_with_an_option_behind_it(path: str) -> None:
    assert split_path(f"{path}?sealedstate_timeout=1", BOTH) == (path, {"timeout": 1.0})


# --- what is refused ----------------------------------------------------------------------------

SECRET = "canary"


def refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url, time.time)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        *("", "0", "0.0", "-1", "nan", "inf", "1e3", "3601", "0.0001"),
        *("1s", " 1", "٣", "1_0", "9" * 99, "%31", "canary"),
    ],
)
def test_a_wrong_timeout_is_told_by_name(value: str) -> None:
    for url in ("redis://:canary@h", "postgresql://u:canary@h/d", "memcached://h", "sqlite:x.db"):
        said = refusal(f"{url}?sealedstate_timeout={value}")
        assert said == "storage: sealedstate_timeout takes seconds from 0.001 to 3600"


@pytest.mark.parametrize("value", ["", "0", "-1", "0.5", "1001", "ten", "canary"])
def test_a_wrong_pool_size_is_told_by_name(value: str) -> None:
    said = refusal(f"mariadb://u:canary@h/d?sealedstate_pool_size={value}")
    assert said == "storage: sealedstate_pool_size takes a whole number from 1 to 1000"


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("redis://:canary@h?sealedstate_timout=1", "did you mean sealedstate_timeout?"),
        ("postgresql://u:canary@h/d?sealedstate_poolsize=1", "did you mean sealedstate_pool_size?"),
        ("sqlite:x.db?timeout=1", "did you mean sealedstate_timeout?"),
        ("postgresql://u:canary@h/d?sealedstate_x=1", "sealedstate_timeout, sealedstate_pool_size"),
        ("redis://:canary@h?sealedstate_pool_size=1", "it takes sealedstate_timeout"),
        ("sqlite:x.db?mode=ro", "it takes sealedstate_timeout"),
        ("sqlite:x.db?sealedstate_timeout=1&mode=ro", "it takes sealedstate_timeout"),
    ],
)
def test_an_unknown_option_is_answered_with_the_right_one(url: str, right: str) -> None:
    assert right in refusal(url)


def test_an_option_that_is_given_twice_is_refused() -> None:
    url = "redis://:canary@h?sealedstate_timeout=1&sealedstate_timeout=2"
    assert refusal(url) == "storage: sealedstate_timeout is given twice"


def test_a_password_that_looks_like_an_option_is_not_repeated() -> None:
    assert "such option" in refusal("redis://:x?sealedstate_canary@h")
    assert "%3F" in refusal("postgresql://u:x?canary@h/d?sealedstate_timeout=1")


def test_options_without_a_path_are_no_store() -> None:
    assert refusal("sqlite:?sealedstate_timeout=1") == "storage: sqlite:PATH needs a path"


# --- a split in one line -----------------------------------------------------------------------


CONTEXTS = st.sampled_from(["*", "sealedstate.part", "mine", "of-mine.2", "ü"])
# As a URL may have them, `=` and `*` too.
URL_TEXTS = st.text("az:/?&=*@%.1", min_size=1)


@given(st.dictionaries(CONTEXTS, URL_TEXTS, min_size=1), st.sampled_from([" ", "\n", "\t  "]))
def test_a_split_in_one_line_says_what_a_table_says(urls: dict[str, str], blank: str) -> None:
    assert urls_of(blank.join(f"{context}={url}" for context, url in urls.items())) == urls


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:/var/lib/a=b/*=c.db",
        "sqlite:/with a=blank/x.db",
        "postgresql://u:p=q@h/d?options=-c%20search_path%3Dx",
        "memory:",
        "",
    ],
)
def test_one_url_is_no_split_whatever_is_in_it(url: str) -> None:
    assert urls_of(url) == url


# --- what can be seen of it ---------------------------------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Where connections are taken and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_redis_store_waits_for_as_long_as_its_url_says(silent_port: int) -> None:
    store = open_storage(f"redis://127.0.0.1:{silent_port}?sealedstate_timeout=0.025", time.time)
    with pytest.raises(StorageUnavailable, match=r"within 0\.025 s"):
        store.ping()


@pytest.mark.server
def test_a_pool_is_as_large_as_its_url_says(postgresql_server: PostgreSQLServer) -> None:
    schema, threads = postgresql_server.fresh_schema(), 9  # one more than by default
    url = f"{postgresql_server.url(schema)}&sealedstate_timeout=30&sealedstate_pool_size={threads}"
    with contextlib.closing(open_storage(url, time.time)) as store:
        store.create("c", "k", b"v", None, 1)
        with ThreadPoolExecutor(threads) as pool, holding(postgresql_server, schema):
            for _ in range(threads):
                pool.submit(store.update_expiration, "c", "k", None)
            until(lambda: len(postgresql_server.waiters()) == threads, "all wait for the lock")


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:ca@nary@127.0.0.1:7999/app",
        "mariadb://app:p@can/ary@127.0.0.1:7999/app",
        "layered:100:postgresql://app:p@canary/w@127.0.0.1/app",
    ],
)
def test_of_a_password_that_was_not_escaped_no_part_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write @ as %40") as caught:
        open_storage(url, time.time)
    assert "nary" not in str(caught.value)
    assert "can" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sealedstate.revoked=memory:", '"*" for all the others'),
        ("*=memory: redis://:canary@h", "word 2 is not CONTEXT=URL"),
        ("*=memory: sealedstate.part=", "word 2 is not CONTEXT=URL"),
        ("*=sqlite:/can ary/x.db", "word 2 is not CONTEXT=URL"),
        ("*=memory: *=sqlite:canary", r"\* is given twice"),
        ("*=memory: sealedstate.revokd=memory:", "did you mean sealedstate.revoked"),
        ("*=canary", "one of memory:"),
        ("*=*=sqlite:canary", "one of memory:"),
        ("*=memory: mine=redis://:canary@h?sealedstate_timout=1", "sealedstate_timeout?"),
    ],
)
def test_a_split_in_one_line_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        open_storage(text, time.time)
    assert "canary" not in str(caught.value)


def test_a_mistyped_context_of_ours_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean sealedstate\.revoked\?"):
        open_storage({"*": "memory:", "sealedstate.revokd": "memory:"}, time.time)
    open_storage({"*": "memory:", "sealedstate.nodes": "memory:", "mine": "memory:"}, time.time)


def test_the_context_of_reports_is_the_one_that_is_written_to() -> None:
    assert storage.NODES == reports.CONTEXT
