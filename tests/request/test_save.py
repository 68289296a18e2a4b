"""What a save writes: parts in cookies and in the store, rows, profiles; and what it raises."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from sealedstate import Profile, Session, SessionTooLarge, StorageError
from sealedstate._stored.parts import CONTEXT as PARTS
from sealedstate._stored.revocations import SESSIONS, SUBJECTS
from sealedstate._wire.record import Place
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import (
    REFRESH,
    at,
    log_out,
    node,
    places_of,
    record_of,
    setting,
    sign_in,
    signed_in,
    touch,
)

Store = ScriptedStorage
WRITES = ScriptedStorage.WRITES

# --- rows of stored parts -----------------------------------------------------------------------


def test_new_id_keeps_spilled_parts_and_overflow(clock: Clock, store: Store) -> None:
    browser = Browser(node(clock, store, profile="roomy"))
    values = {"large": "x" * 5000, "vault": "secret", "cart": [1]}
    sign_in(browser, **values)
    for _ in range(2):
        browser.visit(Session.regenerate)
        assert browser.read() == values
    assert places_of(browser) == {
        "large": Place.OVERFLOW,
        "vault": Place.SPILLED,
        "cart": Place.CORE,
    }


def test_row_of_a_removed_part_is_deleted_once_the_browser_has_the_new_cookie(
    browser: Browser, store: Store
) -> None:
    before = browser.jar.copy()
    (key,) = store.keys(PARTS)
    browser.visit(lambda session: session.pop("vault"))
    assert list(store.keys(PARTS)) == [key]
    # If that response had been lost, the old cookie would still have its part.
    assert Browser(browser.keeper, before).read() == {"cart": [1], "vault": "secret"}
    browser.visit(len)
    assert list(store.keys(PARTS)) == [key]
    browser.visit(touch)
    assert list(store.keys(PARTS)) == []
    assert record_of(browser).orphaned_rows == {}


def test_row_of_a_part_that_moved_into_the_cookie_is_deleted_by_the_next_save(
    clock: Clock, store: Store
) -> None:
    browser = signed_in(node(clock, store), large="x" * 4000)
    browser.visit(setting(large="x"))
    assert list(store.keys(PARTS))
    browser.visit(touch)
    assert not list(store.keys(PARTS))
    assert not record_of(browser).orphaned_rows


def test_removed_part_that_is_written_again_uses_its_row(browser: Browser, store: Store) -> None:
    (key,) = store.keys(PARTS)
    browser.visit(lambda session: session.pop("vault"))
    browser.visit(setting(vault="again"))
    assert list(store.keys(PARTS)) == [key]
    assert browser.read() == {"cart": [1], "vault": "again"}


def test_part_moves_between_cookie_and_store_repeatedly(clock: Clock, store: Store) -> None:
    browser = Browser(node(clock, store))
    values = {"small": "s", "large": ""}
    for size in (5000, 10, 5000, 10, 5000):
        values["large"] = "x" * size
        browser.visit(lambda session: session.update(values))
        assert browser.read() == values
    assert places_of(browser)["large"] is Place.SPILLED
    assert len(list(store.keys(PARTS))) == 1


# --- a store that forgets or fails --------------------------------------------------------------


@pytest.mark.parametrize("loss", ["deleted", "rolled back", "junk"])
def test_part_that_the_store_lost_is_absent_and_the_login_survives(
    browser: Browser, store: Store, loss: str
) -> None:
    (key,) = store.keys(PARTS)
    backup = store.read(PARTS, key)
    assert backup is not None
    browser.visit(setting(vault="newer"))
    store.delete(PARTS, key)
    if loss != "deleted":
        value = backup.value if loss == "rolled back" else b"junk"
        store.create(PARTS, key, value, None, backup.version)
    session = browser.session()
    assert session.subject == "ann"
    assert session.get("vault") is None
    assert "vault" not in session
    assert dict(session) == {"cart": [1]}
    assert browser.keeper.counts["part-missing"] == 1
    browser.visit(setting(vault="new"))
    assert browser.read() == {"cart": [1], "vault": "new"}


@pytest.mark.parametrize("end", ["logout", "regenerate"])
def test_part_of_a_session_that_ended_meanwhile_is_no_loss_of_the_store(
    browser: Browser, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = browser.session()
    assert session.subject == "ann"
    browser.visit(log_out if end == "logout" else lambda session: session.regenerate())
    assert session.get("vault") is None
    assert browser.keeper.counts["part-missing"] == 0
    assert "missing" not in caplog.text


def test_part_that_cannot_be_read_raises_and_the_rest_is_unharmed(
    browser: Browser, store: Store
) -> None:
    store.fail(context=PARTS)
    session = browser.session()
    assert (session.subject, session["cart"]) == ("ann", [1])
    looks: list[Callable[[Session], object]] = [
        lambda session: session["vault"],
        lambda session: session.get("vault"),
        dict,
    ]
    for look in looks:
        with pytest.raises(StorageError):
            look(session)
    session["cart"] = [2]
    browser.jar.receive(browser.keeper.save(session))
    store.recover()
    assert browser.read() == {"cart": [2], "vault": "secret"}
    assert browser.keeper.counts["part-missing"] == 0


def test_save_that_cannot_write_a_part_raises_and_the_browser_keeps_its_cookie(
    browser: Browser, store: Store
) -> None:
    store.fail(*WRITES, context=PARTS)
    session = browser.session()
    session["vault"], session["cart"] = "other", [2]
    with pytest.raises(StorageError):
        browser.keeper.save(session)
    store.recover()
    assert browser.read() == {"cart": [1], "vault": "secret"}


def test_save_that_cannot_check_the_revocation_raises(browser: Browser, store: Store) -> None:
    session = browser.session()
    touch(session)
    store.fail(context=SESSIONS)
    with pytest.raises(StorageError):
        browser.keeper.save(session)
    store.recover()
    assert browser.read() == {"cart": [1], "vault": "secret"}


def test_refresh_is_skipped_while_the_store_is_down(
    browser: Browser, clock: Clock, store: Store
) -> None:
    clock.forward(REFRESH)
    session = browser.session()
    assert session.subject == "ann"
    store.fail()
    assert browser.keeper.save(session) == []
    assert browser.keeper.counts["refresh-skipped"] == 1
    store.recover()
    assert browser.visit()


# --- profiles -----------------------------------------------------------------------------------


def test_change_of_the_profile_loses_nothing(clock: Clock, store: Store) -> None:
    browser = Browser(node(clock, store, profile="roomy"))
    values: dict[str, Any] = {"large": "x" * 5000, "small": [1], "vault": "secret"}
    sign_in(browser, **values)
    assert len(browser.jar.ours()) == 3
    for profile in ("standard", "portable", "tight", "roomy", "portable"):
        moved = at(node(clock, store, profile=profile), browser)
        assert moved.read() == values
        values["small"] = [profile]
        moved.visit(lambda session: session.update(values))
        assert moved.read() == values
        assert len(browser.jar.ours()) <= moved.keeper.deployment.profile.cookies


def test_overflow_is_cut_into_fewer_chunks_for_a_narrower_profile(clock: Clock) -> None:
    many = Profile("many", 8, 600, 4800, 7600, 6500)
    few = Profile("few", 2, 3800, 6000, 7600, 6500)
    browser = signed_in(node(clock, None, profile=many), large="x" * 2752)
    assert len(browser.jar.ours()) > 2
    moved = at(node(clock, None, profile=few), browser)
    moved.visit(touch)
    assert places_of(moved)["large"] is Place.OVERFLOW
    assert len(browser.jar.ours()) <= 2
    assert moved.read() == {"large": "x" * 2752, "touched": True}


def test_what_is_outside_the_core_stays_as_it_came(clock: Clock, store: Store) -> None:
    browser = Browser(node(clock, store, profile="roomy"))
    sign_in(browser, large="x" * 5000, vault="secret", cart=[1])
    before, places = browser.jar.ours(), places_of(browser)
    asked = len(store.calls)
    session = browser.session()
    session["cart"] = [2]
    browser.keeper.save(session)
    session["seen"] = 1
    # The second save of a request begins with what the first has written.
    browser.jar.receive(browser.keeper.save(session))
    assert {call.context for call in store.calls[asked:]} == {SESSIONS, SUBJECTS}
    after = browser.jar.ours()
    core = after.pop("__Host-Http-s")
    assert core != before.pop("__Host-Http-s")
    assert after == before
    assert places_of(browser) == places | {"seen": Place.CORE}
    values = {"large": "x" * 5000, "vault": "secret", "cart": [2], "seen": 1}
    assert browser.read() == values
    browser.visit(setting(large="y" * 5000))
    assert browser.jar.ours().items().isdisjoint(before.items())
    assert browser.read() == values | {"large": "y" * 5000}


@pytest.mark.parametrize("name", ["large", "vault"])
def test_part_outside_that_is_removed_does_not_come_back(
    clock: Clock, store: Store, name: str
) -> None:
    browser = Browser(node(clock, store, profile="roomy"))
    values = {"large": "x" * 5000, "more": "y" * 500, "vault": "secret", "cart": [1]}
    sign_in(browser, **values)
    browser.visit(lambda session: session.pop(name))
    del values[name]
    assert browser.read() == values
    browser.visit(touch)
    assert browser.read() == values | {"touched": True}


def test_too_large_session_is_refused_with_the_sizes_of_its_parts(clock: Clock) -> None:
    browser = signed_in(node(clock, None), cart=[1])
    header = browser.jar.header()
    session = browser.session()
    with pytest.raises(SessionTooLarge) as caught:
        session["large"] = "x" * 3000
    assert browser.keeper.save(session) == []
    assert set(caught.value.parts) == {"cart", "large"}
    assert caught.value.parts["large"] > 3000 > caught.value.room
    assert browser.jar.header() == header
    assert browser.read() == {"cart": [1]}


def test_store_takes_a_part_of_any_size(browser: Browser) -> None:
    browser.visit(setting(large="x" * 1_000_000))
    assert browser.read()["large"] == "x" * 1_000_000
    assert list(browser.jar.ours()) == ["__Host-Http-s"]


def test_length_of_a_cookie_tells_nothing_of_its_content_but_length(
    clock: Clock, store: Store
) -> None:
    contents = ("x" * 1200, "guess" * 240, os.urandom(600).hex())
    browsers = [signed_in(node(clock, store), text=text, csrf="guess") for text in contents]
    assert len({len(browser.jar.header()) for browser in browsers}) == 1


def test_part_spills_beside_foreign_cookies_and_returns_without_them(
    clock: Clock, store: Store
) -> None:
    browser = Browser(node(clock, store))
    values = {"large": "x" * 1500}
    # The foreign cookies are new, so no request has carried ours of this size beside them.
    browser.jar.receive([f"f{number}={'v' * 1000}; Path=/" for number in range(6)])
    sign_in(browser, **values)
    assert places_of(browser)["large"] is Place.SPILLED
    browser.jar.receive([f"f{number}=; Max-Age=0; Path=/" for number in range(6)])
    browser.visit(lambda session: session.update(touched=len(str(session["large"])) > 0))
    assert places_of(browser)["large"] is Place.CORE
    assert browser.read() == values | {"touched": True}
    other = signed_in(browser.keeper, **values)
    assert places_of(other)["large"] is Place.CORE


def test_counters_count_what_happened(browser: Browser) -> None:
    before = browser.keeper.counts
    browser.visit(touch)
    browser.visit(setting(vault="other"))
    browser.visit(log_out)
    after = browser.keeper.counts
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "opened": 3,
        "saved": 2,
        "spilled": 1,
        "revoked": 1,
        "store-call-answered": after["store-call-answered"] - before["store-call-answered"],
    }
