"""What agents cost the store that keep no cookies, and so begin a session with each request."""

from __future__ import annotations

from typing import Any

import pytest

from sealedstate import Keeper
from sealedstate._stored import parts
from sealedstate._stored.parts import CONTEXT
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import ABSOLUTE, IDLE, node, sign_in

SKEW = 60
BRIEF = IDLE + SKEW


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def shop(clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(clock, store)


def put(value: Any) -> Any:
    return lambda session: session.__setitem__("vault", value)


def ends(store: ScriptedStorage) -> list[int]:
    """When the rows of parts expire, in epoch seconds."""
    rows = (store.read(CONTEXT, key) for key in store.keys(CONTEXT))
    return sorted((row.expires_at or 0) // 1000 for row in rows if row is not None)


def test_rows_of_agents_that_keep_no_cookies_live_for_one_idle_lifetime(
    shop: Keeper, store: ScriptedStorage, clock: Clock
) -> None:
    for _ in range(60):
        Browser(shop).visit(put("x" * 5000))
        clock.forward(300)
        store.reap(1000)
        assert len(ends(store)) <= BRIEF // 300
    clock.forward(BRIEF)
    assert ends(store) == []


def test_process_leaves_a_stated_number_of_rows_of_such_agents(
    shop: Keeper, store: ScriptedStorage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parts.MAX_UNPROVEN == 10_000
    monkeypatch.setattr(parts, "MAX_UNPROVEN", 50)
    back, gone = Browser(shop), Browser(shop)
    for browser in (back, gone):
        browser.visit(put("draft"))
    back.visit(len)
    for _ in range(300):
        Browser(shop).visit(put("x" * 5000))
    assert len(ends(store)) == 51
    # Of those that came back, none is deleted.
    assert back.read() == {"vault": "draft"}
    assert gone.read() == {}
    # A row that cannot be deleted now expires.
    store.fail("delete")
    assert Browser(shop).visit(put("x" * 5000)) != []
    store.recover()
    # Those that have expired since are no longer counted.
    clock.forward(BRIEF)
    store.calls.clear()
    for _ in range(50):
        Browser(shop).visit(put("x" * 5000))
    assert store.count["delete"] == 0


def test_part_of_a_visitor_who_comes_back_lives_as_long_as_the_session(
    shop: Keeper, store: ScriptedStorage, clock: Clock
) -> None:
    browser, began = Browser(shop), int(clock.now)
    browser.visit(put("draft"))
    assert ends(store) == [began + BRIEF]
    clock.forward(IDLE - 1)
    assert browser.visit(lambda session: session.get("cart")) != []  # it only reads
    assert ends(store) == [began + ABSOLUTE + SKEW]
    store.calls.clear()
    for _ in range(3):
        browser.visit(len)
    assert not store.count.keys() & set(store.WRITES)
    for _ in range(4):
        clock.forward(IDLE - 1)
        browser.visit(len)
        assert browser.session()["vault"] == "draft"


def test_whoever_signs_in_has_shown_enough(
    shop: Keeper, store: ScriptedStorage, clock: Clock
) -> None:
    # An assertion that an identity provider posts comes without our cookie.
    sign_in(Browser(shop), vault="draft")
    assert ends(store) == [int(clock.now) + ABSOLUTE + SKEW]


def test_part_that_the_first_return_writes_is_kept_beside_those_that_it_leaves(
    clock: Clock, store: ScriptedStorage
) -> None:
    policies = {"vault": "server", "notes": "server"}
    browser = Browser(node(clock, store, part_policies=policies))
    browser.visit(lambda session: session.update(vault=1, notes=1))
    began = int(clock.now)
    clock.forward(600)
    browser.visit(put(2))
    assert ends(store) == [began + ABSOLUTE + SKEW] * 2
    clock.forward(IDLE - 1)
    assert browser.read() == {"vault": 2, "notes": 1}


def test_first_returns_of_two_tabs_lose_nothing(
    shop: Keeper, store: ScriptedStorage, clock: Clock
) -> None:
    browser = Browser(shop)
    browser.visit(put("draft"))
    reads, writes = browser.session(), browser.session()
    assert len(reads) == len(writes) == 1
    writes["vault"] = "changed"
    late = shop.save(writes)
    browser.jar.receive(shop.save(reads))
    assert browser.read() == {"vault": "changed"}
    browser.jar.receive(late)
    assert browser.read() == {"vault": "changed"}


def test_session_signed_in_at_its_first_return_keeps_its_parts(
    shop: Keeper, store: ScriptedStorage, clock: Clock
) -> None:
    browser = Browser(shop)
    browser.visit(put("draft"))
    clock.forward(600)  # at the identity provider
    browser.visit(lambda session: setattr(session, "subject", "ann"))
    clock.forward(IDLE - 1)
    assert browser.read() == {"vault": "draft"}


def test_store_that_is_down_at_the_first_return_is_asked_again(
    shop: Keeper, store: ScriptedStorage, clock: Clock
) -> None:
    browser, began = Browser(shop), int(clock.now)
    browser.visit(put("draft"))
    store.fail("update", context=CONTEXT, times=1)
    assert browser.visit(len) == []
    assert shop.counts["refresh-skipped"] == 1
    assert ends(store) == [began + BRIEF]
    assert browser.visit(len) != []
    assert ends(store) == [began + ABSOLUTE + SKEW]
