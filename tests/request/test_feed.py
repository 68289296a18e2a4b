"""Requests that go by what their process knows of logouts."""

from __future__ import annotations

from typing import Any

import pytest

from sealedstate import Keeper, Settings
from sealedstate._stored.table import SealedTable
from sealedstate.errors import ConfigurationError, StorageUnavailable
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import REFRESH, at, log_out, node, setting, signed_in


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests ask once a second: what they do is then a matter of the clocks alone."""
    monkeypatch.setattr("sealedstate.deployment.are_threads_frozen", lambda: True)


def feeding(clock: Clock, store: Any, **given: Any) -> Keeper:
    weak = ["revocation", "feed"]
    return node(
        clock,
        store,
        revocation="feed",
        accept_weak_store_for=weak,
        monotonic=lambda: clock() - 1_000_000,
        **given,
    )


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


def test_requests_that_read_ask_nothing(clock: Clock, store: ScriptedStorage) -> None:
    browser = signed_in(feeding(clock, store), cart=[1])
    browser.visit()
    store.calls.clear()
    for _ in range(100):
        assert browser.session().subject == "ann"
        browser.visit(lambda session: session["cart"])
    assert store.calls == []
    clock.forward(1)
    browser.visit()
    assert store.count == {"changes": 1}


def test_request_hashes_no_name_while_nothing_is_logged_out(
    clock: Clock, store: ScriptedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = feeding(clock, store)
    ann, bob = signed_in(shop), signed_in(shop, "bob")
    ann.session().load()
    hashed: list[object] = []
    digest = SealedTable.digest

    def count(table: SealedTable, *given: bytes) -> bytes:
        hashed.append(table)
        return digest(table, *given)

    monkeypatch.setattr(SealedTable, "digest", count)
    ann.session().load()
    assert not hashed
    bob.visit(log_out)
    hashed.clear()
    assert ann.session().subject == "ann"
    assert len(hashed) == 1
    shop.revoke_subject("bob")
    hashed.clear()
    assert ann.session().subject == "ann"
    assert len(hashed) == 2


def test_logout_on_another_node_counts_after_a_second(clock: Clock, store: ScriptedStorage) -> None:
    browser = signed_in(feeding(clock, store))
    other = at(feeding(clock, store), Browser(browser.keeper, browser.jar.copy()))
    assert other.session().subject == "ann"
    browser.visit(log_out)
    assert other.session().subject == "ann"
    clock.forward(1)
    assert other.session().subject is None
    assert other.session().refusal == "signed-out"


def test_logouts_of_the_node_itself_count_at_once(clock: Clock, store: ScriptedStorage) -> None:
    shop = feeding(clock, store)
    for end in ("invalidate", "revoke_session", "revoke_subject"):
        browser = signed_in(shop)
        stolen = Browser(shop, browser.jar.copy())
        session = browser.session()
        if end == "invalidate":
            browser.visit(log_out)
        elif end == "revoke_session":
            shop.revoke_session(session.id)
        else:
            shop.revoke_subject("ann")
        assert stolen.session().subject is None, end
        clock.forward(120)


def test_sign_in_right_after_sign_out_everywhere_counts_on_all_nodes(
    clock: Clock, store: ScriptedStorage
) -> None:
    first, second = feeding(clock, store), feeding(clock, store)
    assert signed_in(second).session().subject == "ann"
    first.revoke_subject("ann")
    browser = signed_in(second)
    assert browser.session().subject == "ann"
    clock.forward(2)
    assert at(first, browser).session().subject == browser.session().subject == "ann"


def test_replaced_id_is_withheld_by_the_feed_too(clock: Clock, store: ScriptedStorage) -> None:
    browser = signed_in(feeding(clock, store))
    other = at(feeding(clock, store), Browser(browser.keeper, browser.jar.copy()))
    other.session().load()
    browser.visit(lambda session: session.regenerate())
    clock.forward(1)
    assert other.session().withheld == "replaced"
    browser.visit(log_out)
    clock.forward(1)
    assert other.session().refusal == "signed-out"


def test_response_that_sets_the_cookie_asks_first(clock: Clock, store: ScriptedStorage) -> None:
    browser = signed_in(feeding(clock, store))
    tab = at(feeding(clock, store), Browser(browser.keeper, browser.jar.copy()))
    tab.visit()
    browser.visit(lambda session: session.regenerate())
    assert tab.session().subject == "ann"  # not known here yet
    assert tab.visit(setting(cart=[1])) == []
    # Nor is it sealed again because it is old.
    clock.forward(REFRESH)
    late = at(feeding(clock, store), tab)
    late.visit()
    store.answer("changes", value=store.changes(None, 100)._replace(records=[]))
    lagging = at(feeding(clock, store), tab)
    assert lagging.session().subject == "ann"
    assert lagging.visit() == []


def test_feed_that_is_lost_asks_and_then_refuses(clock: Clock, store: ScriptedStorage) -> None:
    browser = signed_in(feeding(clock, store))
    browser.visit()
    store.fail("changes")
    clock.forward(3)
    store.calls.clear()
    assert browser.session().subject == "ann"
    assert store.count["read"] == 2
    store.fail()
    session = browser.session()
    assert (session.subject, session.withheld) == (None, "store-down")
    assert browser.keeper.counts["feed-lost"] == 1


def test_last_known_logouts_count_while_the_store_is_down(
    clock: Clock, store: ScriptedStorage
) -> None:
    for revocation in ("each request", "feed"):
        shop = feeding(clock, store, on_store_down=300) if revocation == "feed" else node(
            clock, store, on_store_down=300, monotonic=lambda: clock() - 1_000_000
        )  # fmt: skip
        live, ended = signed_in(shop), signed_in(shop)
        stolen = Browser(shop, ended.jar.copy())
        ended.visit(log_out)
        live.visit()
        store.fail()
        clock.forward(250)
        assert live.session().subject == "ann", revocation
        assert live.visit(setting(cart=[1])), revocation
        assert stolen.session().subject is None, revocation
        with pytest.raises(StorageUnavailable):
            live.visit(log_out)
        clock.forward(60)
        assert live.session().withheld == "store-down", revocation
        assert shop.counts["logouts-assumed"] > 0
        store.recover()
        assert live.session().subject == "ann", revocation


def test_store_that_cannot_be_followed_stops_the_start(clock: Clock) -> None:
    with pytest.raises(ConfigurationError, match="feed needs a store that is seen by every"):
        node(clock, ScriptedStorage(clock), revocation="feed")


@pytest.mark.parametrize(
    "wrong",
    [
        {"revocation": "never"},
        {"revocation": "feed", "storage": None},
        {"feed_staleness": 1},
        {"on_store_down": "allow"},
        {"on_store_down": 0},
    ],
)
def test_wrong_settings_stop_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Settings(**{"storage": "sqlite:x.db", **wrong})


def test_settings_are_read_from_the_environment() -> None:
    found = Settings.from_env(
        {
            "SEALEDSTATE_STORAGE": "sqlite:x.db",
            "SEALEDSTATE_REVOCATION": "feed",
            "SEALEDSTATE_FEED_STALENESS": "5",
            "SEALEDSTATE_ON_STORE_DOWN": "300",
        }
    )
    assert (found.revocation, found.feed_staleness, found.on_store_down) == ("feed", 5, 300)
