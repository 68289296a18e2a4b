"""Loading a session before the application runs, and an event loop that must not wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sealedstate import Keeper, SessionNotLoaded, StorageError
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, loaded_of
from tests.support.shop import node, setting, signed_in


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def shop(clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(clock, store, part_policies={"vault": "server", "attic": "server"})


def test_loading_ahead_uses_nothing_and_asks_the_store_once(
    shop: Keeper, store: ScriptedStorage
) -> None:
    browser = signed_in(shop, vault="gold", attic="dust")
    session = browser.session()
    shop.load(session)
    assert not session.accessed
    assert shop.save(session) == []
    asked = len(store.calls)
    assert (session["vault"], session["attic"], session.subject) == ("gold", "dust", "ann")
    assert len(store.calls) == asked
    assert session.accessed
    shop.load(session)
    assert len(store.calls) == asked


def test_only_the_parts_that_are_asked_for_are_recalled_ahead(
    shop: Keeper, store: ScriptedStorage
) -> None:
    session = signed_in(shop, vault="gold", attic="dust").session()
    shop.load(session, ["vault", "no such part"])
    asked = len(store.calls)
    assert session["vault"] == "gold"
    assert len(store.calls) == asked
    assert session["attic"] == "dust"
    assert len(store.calls) > asked


def test_error_of_the_store_waits_for_the_part(shop: Keeper, store: ScriptedStorage) -> None:
    session = signed_in(shop, vault="gold", cart="tea").session()
    shop.load(session, [])
    store.fail(times=None)
    shop.load(session)
    store.recover()
    assert session["cart"] == "tea"
    with pytest.raises(StorageError):
        session["vault"]


def test_nothing_is_asked_where_an_event_loop_would_wait(
    shop: Keeper, store: ScriptedStorage
) -> None:
    session = signed_in(shop, vault="gold", cart="tea").session()
    shop.load(session, [])
    loaded_of(session).may_wait = False
    asked = len(store.calls)
    assert session["cart"] == "tea"
    uses: list[Callable[[], object]] = [
        lambda: session["vault"],
        session.invalidate,
        session.items,
    ]
    for use in uses:
        with pytest.raises(SessionNotLoaded, match="load_session"):
            use()
    assert len(store.calls) == asked


def test_only_requests_with_our_cookie_ask_the_store(shop: Keeper, clock: Clock) -> None:
    browser = Browser(shop)
    browser.visit(setting(cart="tea"))
    assert shop.asks_store(browser.jar.header())
    assert not shop.asks_store("theme=dark")
    assert not node(clock, None).asks_store(browser.jar.header())
