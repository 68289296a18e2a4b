"""A store that can't keep what is put into it stops the start, with one sentence; or is said later.

Real stores, through the front door: `Keeper(Settings(...))`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Keeper
from sealedstate.storage import (
    CachedStorage,
    Capabilities,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
    open_storage,
)
from tests.stored.test_table import signed_in
from tests.support.jar import Browser, Clock, keeper
from tests.support.kv_servers import memcached_server, redis_server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(clock: Clock) -> Callable[..., Keeper]:
    """Makes a keeper that tolerates nothing unless told so."""

    def made(storage: object, *accept_weak_store_for: str) -> Keeper:
        return keeper(clock, storage=storage, accept_weak_store_for=accept_weak_store_for)

    return made


@pytest.fixture
def sqlite(tmp_path: Path, clock: Clock) -> SQLiteStorage:
    return SQLiteStorage(tmp_path / "store.sqlite", clock)


def refusal(made: Callable[..., Keeper], storage: object, *accept_weak_store_for: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        made(storage, *accept_weak_store_for)
    return str(caught.value)


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records if record.levelno >= logging.WARNING]


# --- at the start -------------------------------------------------------------------------------


def test_the_sentence_names_use_need_and_store_and_says_how_to_accept_it(
    made: Callable[..., Keeper],
) -> None:
    assert refusal(made, "memory:") == (
        "storage: revocation needs a store that is seen by every process and does not forget at a"
        " restart; memory is seen by one process only and forgets at a restart."
        ' Take another store, or accept what may happen: accept_weak_store_for=["revocation"]'
    )


def test_a_store_that_meets_all_needs_is_taken_without_a_word(
    made: Callable[..., Keeper], sqlite: SQLiteStorage, caplog: pytest.LogCaptureFixture
) -> None:
    made(sqlite)
    made(sqlite, "revocation", "consent")  # what is not violated may be tolerated
    made(None)
    assert not levels(caplog)


def test_what_is_tolerated_is_a_warning_once_at_the_start(
    made: Callable[..., Keeper], caplog: pytest.LogCaptureFixture
) -> None:
    shop = made("memory:", "revocation")
    browser = signed_in(shop, cart=[1])
    assert browser.read() == {"cart": [1]}
    assert levels(caplog) == [logging.WARNING]
    assert "revocation needs a store that is seen by every process" in caplog.text


def test_another_use_is_not_tolerated_in_its_place(made: Callable[..., Keeper]) -> None:
    assert "revocation needs" in refusal(made, "memory:", "spilling", "consent")


class InTheVisitorsHands(MemoryStorage):
    """A store that the visitor holds."""

    capabilities = replace(MemoryStorage.capabilities, server_side=False, evicts=True)


def test_each_use_gets_a_sentence_of_its_own(made: Callable[..., Keeper], clock: Clock) -> None:
    store = InTheVisitorsHands(clock)
    message = refusal(made, store)
    assert "spilling needs a store that is out of the visitor's hands" in message
    assert "revocation needs a store that is out of the visitor's hands, is seen by" in message
    assert message.endswith('accept_weak_store_for=["spilling", "revocation"]')
    assert refusal(made, store, "spilling").endswith('accept_weak_store_for=["revocation"]')
    made(store, "spilling", "revocation")


# --- stores made of stores ----------------------------------------------------------------------


REVOCATION = ("sealedstate.revoked", "sealedstate.watermark")


def test_each_use_is_judged_by_the_store_that_its_contexts_go_to(
    made: Callable[..., Keeper], clock: Clock, sqlite: SQLiteStorage
) -> None:
    memory = MemoryStorage(clock)
    made(RoutedStorage(sqlite, {"sealedstate.part": memory, "elsewhere": memory}))
    made(RoutedStorage(memory, dict.fromkeys(REVOCATION, sqlite)))
    made(RoutedStorage(memory, dict.fromkeys(REVOCATION, RoutedStorage(sqlite, {}))))
    for context in REVOCATION:
        split = RoutedStorage(sqlite, {context: memory})
        message = refusal(made, split)
        assert "; memory is seen by one process only" in message
        assert message.count("revocation needs") == 1
        made(split, "revocation")


def test_a_table_of_urls_is_judged_by_the_urls_of_the_contexts(
    made: Callable[..., Keeper], tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path / 'store.sqlite'}"
    made({"*": "memory:"} | dict.fromkeys(REVOCATION, url))
    assert "memory is seen" in refusal(made, {"*": url, "sealedstate.watermark": "memory:"})


def test_a_cache_in_front_of_what_must_be_current_is_refused(
    made: Callable[..., Keeper], tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path / 'store.sqlite'}"
    cached = f"layered:500:{url}"
    message = refusal(made, cached)
    for use in ("spilling", "revocation"):
        assert f"{use} needs a store that answers with what was written last" in message
    assert "; sqlite behind a cache may answer with what was there before" in message
    made({"*": cached, "sealedstate.part": url} | dict.fromkeys(REVOCATION, url))
    made(cached, "spilling", "revocation")


def test_a_cache_is_as_stale_as_it_and_what_is_behind_it(clock: Clock) -> None:
    behind = CachedStorage(MemoryStorage(clock), clock, 500)
    cache = CachedStorage(behind, clock, 200)
    assert behind.capabilities.staleness == 500
    assert cache.capabilities.staleness == 700
    assert CachedStorage(MemoryStorage(clock), clock, 0).capabilities.staleness == 0
    assert RoutedStorage(MemoryStorage(clock), {"x": behind}).capabilities.staleness == 500


# --- servers, and when they are known -----------------------------------------------------------


class Late(MemoryStorage):
    """A store whose server is not there yet. `presumed` is what it then says of itself."""

    reached = False

    def __init__(self, clock: Clock, found: Capabilities) -> None:
        super().__init__(clock)
        self.found = found

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.found, presumed=False) if self.reached else PRESUMED


PRESUMED = replace(MemoryStorage.capabilities, evicts=True, presumed=True)
GOOD = replace(MemoryStorage.capabilities, shared=True, survives_restart=True)


def test_a_store_that_cannot_be_opened_now_does_not_stop_the_start(
    made: Callable[..., Keeper], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(f"sqlite:{tmp_path / 'no' / 'such' / 'folder' / 'store'}")
    assert levels(caplog) == [logging.WARNING]
    assert "does not answer at the start" in caplog.text


def test_what_is_only_presumed_refuses_nobody_and_what_is_good_is_never_mentioned(
    made: Callable[..., Keeper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Late(clock, GOOD)
    shop = made(store)
    browser = signed_in(shop)
    store.reached = True
    for _ in range(3):
        assert browser.session().subject == "ann"
    assert not levels(caplog)


@pytest.mark.parametrize(
    "accept_weak_store_for", [(), ("revocation",)], ids=["not tolerated", "tolerated"]
)
def test_a_server_that_turns_out_unfit_is_said_once_and_stays_in_use(
    made: Callable[..., Keeper],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    accept_weak_store_for: Any,
) -> None:
    store = Late(clock, replace(GOOD, evicts=True, because={"evicts": "its policy"}))
    shop = made(store, *accept_weak_store_for)
    browser = Browser(shop)
    assert not levels(caplog)
    store.reached = True
    browser.visit(lambda session: setattr(session, "subject", "ann"))
    for _ in range(3):
        assert browser.session().subject == "ann"
    sentence = "revocation needs a store that does not evict; late evicts (its policy)"
    assert caplog.text.count(sentence) == 1
    assert levels(caplog) == [logging.WARNING if accept_weak_store_for else logging.ERROR]
    assert ("the next start is refused" in caplog.text) is not bool(accept_weak_store_for)


def test_a_server_that_comes_back_weaker_is_said_once(
    made: Callable[..., Keeper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Late(clock, GOOD)
    store.reached = True
    browser = signed_in(made(store))
    assert not levels(caplog)
    store.found = replace(GOOD, evicts=True)
    for _ in range(3):
        assert browser.session().subject == "ann"
    assert levels(caplog) == [logging.ERROR]
    assert "revocation needs a store that does not evict" in caplog.text


def test_signing_out_everywhere_or_spilling_may_be_what_reaches_it_first(
    made: Callable[..., Keeper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    acts: list[Callable[[Keeper], object]] = [
        lambda shop: shop.revoke_subject("ann"),
        lambda shop: signed_in(shop, large="x" * 10_000),
    ]
    for act in acts:
        caplog.clear()
        store = Late(clock, replace(GOOD, evicts=True))
        shop = made(store)
        store.reached = True
        act(shop)
        assert levels(caplog) == [logging.ERROR]


EVICTING = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")


@pytest.mark.server
def test_a_redis_that_evicts_is_refused_with_the_setting_that_makes_it(
    made: Callable[..., Keeper], clock: Clock
) -> None:
    with redis_server("aof always", *EVICTING) as server:
        store = open_storage(server.url, clock)
        message = refusal(made, store)
        assert "revocation needs a store that does not evict; redis evicts (" in message
        assert "allkeys-lru" in message
        made(store, "revocation")
        store.close()
    with redis_server("aof always") as server:
        store = open_storage(server.url, clock)
        made(store)
        store.close()


@pytest.mark.server
def test_a_redis_that_is_down_at_the_start_is_judged_when_it_answers(
    made: Callable[..., Keeper], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server("aof always", *EVICTING) as server:
        server.stop()
        store = open_storage(server.url, clock)
        shop = made(store)
        assert levels(caplog) == [logging.WARNING]
        server.start()
        clock.forward(60)
        browser = signed_in(shop)
        for _ in range(3):
            assert browser.session().subject == "ann"
        store.close()
    assert caplog.text.count("a store that does not evict; redis evicts") == 1
    assert levels(caplog) == [logging.WARNING, logging.ERROR]


@pytest.mark.server
def test_memcached_is_refused_for_what_it_is(
    made: Callable[..., Keeper], clock: Clock, sqlite: SQLiteStorage
) -> None:
    with memcached_server() as server:
        store = open_storage(server.url, clock)
        message = refusal(made, store)
        assert "; memcached evicts and forgets at a restart" in message
        # Parts may go there.
        made(RoutedStorage(sqlite, {"sealedstate.part": store}))
        store.close()
