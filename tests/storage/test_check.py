"""A store that falls short of its uses stops the start; one that is found later is logged.

Through `Keeper(Settings(...))`, as an application would.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealedstate import ConfigurationError, Keeper
from sealedstate.storage import (
    Capabilities,
    MemoryStorage,
    RoutedStorage,
    SQLiteStorage,
)
from tests.support.jar import Clock, keeper
from tests.support.shop import signed_in

Opener = Callable[..., Keeper]


@pytest.fixture
def open_keeper(clock: Clock) -> Opener:
    """Makes a keeper that accepts a weak store only for the given uses."""

    def open_keeper(storage: object, *accepted: str) -> Keeper:
        return keeper(clock, storage=storage, accept_weak_store_for=accepted)

    return open_keeper


@pytest.fixture
def sqlite(tmp_path: Path, clock: Clock) -> SQLiteStorage:
    return SQLiteStorage(tmp_path / "store.sqlite", clock)


def refusal(open_keeper: Opener, storage: object, *accepted: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_keeper(storage, *accepted)
    return str(caught.value)


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records if record.levelno >= logging.WARNING]


# --- at the start -------------------------------------------------------------------------------


def test_weak_store_is_refused_with_use_need_store_and_setting(
    open_keeper: Opener,
) -> None:
    assert refusal(open_keeper, "memory:") == (
        "storage: revocation needs a store that is seen by every process and does not forget at a"
        " restart; memory is seen by one process only and forgets at a restart."
        ' Use another store, or accept what may happen: accept_weak_store_for=["revocation"]'
    )
    assert "revocation needs" in refusal(open_keeper, "memory:", "spilling", "consent")


def test_store_that_meets_all_needs_logs_nothing(
    open_keeper: Opener, sqlite: SQLiteStorage, caplog: pytest.LogCaptureFixture
) -> None:
    open_keeper(sqlite)
    open_keeper(sqlite, "revocation", "consent")  # a use that is met may be accepted
    open_keeper(None)
    assert not levels(caplog)


def test_accepted_use_is_one_warning_at_the_start(
    open_keeper: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    shop = open_keeper("memory:", "revocation")
    browser = signed_in(shop, cart=[1])
    assert browser.read() == {"cart": [1]}
    assert levels(caplog) == [logging.WARNING]
    assert "revocation needs a store that is seen by every process" in caplog.text


class InTheVisitorsHands(MemoryStorage):
    capabilities = replace(MemoryStorage.capabilities, server_side=False, evicts=True)


def test_refusal_has_one_sentence_per_use(open_keeper: Opener, clock: Clock) -> None:
    store = InTheVisitorsHands(clock)
    message = refusal(open_keeper, store)
    assert "spilling needs a store that is out of the visitor's hands" in message
    assert "revocation needs a store that is out of the visitor's hands, is seen by" in message
    assert message.endswith('accept_weak_store_for=["spilling", "revocation"]')
    assert refusal(open_keeper, store, "spilling").endswith('accept_weak_store_for=["revocation"]')
    open_keeper(store, "spilling", "revocation")


REVOCATION = ("sealedstate.revoked", "sealedstate.watermark")


def test_each_use_is_checked_against_the_stores_of_its_contexts(
    open_keeper: Opener, clock: Clock, sqlite: SQLiteStorage, tmp_path: Path
) -> None:
    memory, url = MemoryStorage(clock), f"sqlite:{tmp_path / 'other.sqlite'}"
    open_keeper({"*": "memory:"} | dict.fromkeys(REVOCATION, url))
    assert "memory is seen" in refusal(open_keeper, {"*": url, "sealedstate.watermark": "memory:"})
    open_keeper(RoutedStorage(sqlite, {"sealedstate.part": memory, "elsewhere": memory}))
    open_keeper(RoutedStorage(memory, dict.fromkeys(REVOCATION, sqlite)))
    open_keeper(RoutedStorage(memory, dict.fromkeys(REVOCATION, RoutedStorage(sqlite, {}))))
    for context in REVOCATION:
        split = RoutedStorage(sqlite, {context: memory})
        message = refusal(open_keeper, split)
        assert "; memory is seen by one process only" in message
        assert message.count("revocation needs") == 1
        open_keeper(split, "revocation")


def test_cache_is_refused_for_uses_that_need_current_answers(
    open_keeper: Opener, tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path / 'store.sqlite'}"
    cached = f"layered:500:{url}"
    message = refusal(open_keeper, cached)
    for use in ("spilling", "revocation"):
        assert f"{use} needs a store that answers with what was written last" in message
    assert "; sqlite behind a cache may answer with what was there before" in message
    open_keeper({"*": cached, "sealedstate.part": url} | dict.fromkeys(REVOCATION, url))
    open_keeper(cached, "spilling", "revocation")


# --- servers, and when they are known -----------------------------------------------------------


class Late(MemoryStorage):
    """A store whose server does not answer until `is_reached`."""

    is_reached = False

    def __init__(self, clock: Clock, server: Capabilities) -> None:
        super().__init__(clock)
        self.server = server

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self.server if self.is_reached else ASSUMED


ASSUMED = replace(MemoryStorage.capabilities, evicts=True, assumed=True)
GOOD = replace(MemoryStorage.capabilities, shared=True, survives_restart=True)


def test_unreachable_store_does_not_stop_the_start(
    open_keeper: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "store"
    SQLiteStorage(file, time.time).ping()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        open_keeper(f"sqlite:{file}?sealedstate_timeout=0.05")
    assert levels(caplog) == [logging.WARNING]
    assert "does not answer at the start" in caplog.text


# The call that reaches the server first.
FIRST: dict[str, Callable[[Keeper], object]] = {
    "sign-in": signed_in,
    "sign-out": lambda shop: shop.revoke_subject("bob"),
    "spilling": lambda shop: signed_in(shop, large="x" * 10_000),
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("accepted", [(), ("revocation",)], ids=["not accepted", "accepted"])
def test_server_found_to_be_weak_is_logged_once_and_stays_in_use(
    open_keeper: Opener, clock: Clock, caplog: pytest.LogCaptureFixture, accepted: Any, first: str
) -> None:
    store = Late(clock, replace(GOOD, evicts=True, reasons={"evicts": "its policy"}))
    shop = open_keeper(store, *accepted)
    assert not levels(caplog)
    store.is_reached = True
    FIRST[first](shop)
    browser = signed_in(shop)
    for _ in range(3):
        assert browser.session().subject == "ann"
    sentence = "revocation needs a store that does not evict; late evicts (its policy)"
    assert caplog.text.count(sentence) == 1
    assert levels(caplog) == [logging.WARNING if accepted else logging.ERROR]
    assert ("the next start is refused" in caplog.text) is not bool(accepted)


def test_good_server_is_not_logged_until_it_returns_weaker(
    open_keeper: Opener, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Late(clock, GOOD)
    browser = signed_in(open_keeper(store))
    store.is_reached = True
    for _ in range(3):
        assert browser.session().subject == "ann"
    assert not levels(caplog)
    store.server = replace(GOOD, evicts=True)
    for _ in range(3):
        assert browser.session().subject == "ann"
    assert levels(caplog) == [logging.ERROR]
    assert "revocation needs a store that does not evict" in caplog.text
