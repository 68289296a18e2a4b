"""A session that is saved several times in a request begins again with what was written."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from sealedstate import Keeper, Key, Outcome, Session
from sealedstate.keyring import Keyring
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import IDLE, node, setting, signed_in


@pytest.fixture(params=["store", "no store"])
def shop(request: pytest.FixtureRequest, clock: Clock) -> Keeper:
    return node(clock, MemoryStorage(clock) if request.param == "store" else None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def save_twice(
    browser: Browser, *changes: Callable[[Session], object]
) -> tuple[list[str], list[Outcome]]:
    """The lines and outcomes of one request that is saved after each change."""
    session, outcomes = browser.session(), []
    lines: list[str] = []
    for change in changes:
        change(session)
        saved = browser.keeper.save(session)
        lines = list(saved)
        outcomes.append(saved.outcome)
    browser.jar.receive(lines)
    return lines, outcomes


CHANGES: dict[str, Callable[[Session], object]] = {
    "part": setting(cart="tea"),
    "large part": setting(cart="t" * 1500),
    "other part": setting(colour="red"),
    "removal": lambda session: session.pop("cart", None),
    "new id": Session.regenerate,
    "sign-in": lambda session: sign_in_as(session, "bob"),
    "sign-out": lambda session: setattr(session, "subject", None),
    "end": Session.invalidate,
    "clear": Session.clear,
    "nothing": lambda session: session.get("cart"),
}


def sign_in_as(session: Session, subject: str) -> None:
    session.subject = subject


@pytest.mark.parametrize("first", CHANGES)
@pytest.mark.parametrize("second", CHANGES)
def test_two_saves_of_one_request_are_as_one(
    shop: Keeper, clock: Clock, first: str, second: str
) -> None:
    at_once, apart = (signed_in(shop, cart="milk", note="x" * 300) for _ in range(2))
    at_once.visit(lambda session: (CHANGES[first](session), CHANGES[second](session)))
    save_twice(apart, CHANGES[first], CHANGES[second])
    assert apart.read() == at_once.read()
    assert apart.session().subject == at_once.session().subject
    # Both browsers have the same cookies, by name, and their next request changes what it wants.
    assert apart.jar.ours().keys() == at_once.jar.ours().keys()
    for browser in (apart, at_once):
        browser.visit(setting(next="page"))
        assert browser.read()["next"] == "page"


def test_old_id_is_refused_after_two_saves_with_new_ids(clock: Clock) -> None:
    shop = node(clock, MemoryStorage(clock))
    browser = signed_in(shop)
    before = browser.jar.copy()
    _, outcomes = save_twice(browser, Session.regenerate, Session.regenerate)
    assert outcomes == [Outcome.SAVED, Outcome.SAVED]
    assert browser.session().subject == "ann"
    assert Browser(shop, before).session().withheld == "replaced"
    browser.visit(Session.invalidate)
    assert Browser(shop, before).session().refusal == "signed-out"


def test_merge_rule_meets_only_values_of_other_requests(clock: Clock) -> None:
    def add(before: object, theirs: object, ours: object) -> object:
        assert isinstance(theirs, int)
        assert isinstance(ours, int)
        return theirs + ours - (before if isinstance(before, int) else 0)

    def add_100(session: Session) -> None:
        vault = session["vault"]
        assert isinstance(vault, int)
        session["vault"] = vault + 100

    shop = node(clock, MemoryStorage(clock), merge={"vault": add})
    browser = signed_in(shop, vault=1)
    save_twice(browser, setting(vault=11), setting(vault=11))
    assert browser.read()["vault"] == 11
    save_twice(browser, setting(vault=21), setting(vault=31))
    assert browser.read()["vault"] == 31
    # Another request adds 100 between the request and its two saves, or between these.
    for moments in ([0], [1]):
        session = browser.session()
        value = session["vault"]
        assert isinstance(value, int)
        for number in range(2):
            if number in moments:
                Browser(shop, browser.jar.copy()).visit(add_100)
            session["vault"] = value + number + 1
            shop.save(session)
        browser.jar.receive(shop.save(session))
        assert browser.read()["vault"] == value + 102


def test_outcome_says_why_nothing_is_sent(clock: Clock) -> None:
    shop = node(clock, MemoryStorage(clock))
    browser = signed_in(shop)
    untouched, read = browser.session(), browser.session()
    assert shop.save(untouched).outcome is Outcome.UNTOUCHED
    assert read.subject == "ann"
    assert shop.save(read).outcome is Outcome.UNCHANGED
    late = browser.session()
    late["cart"] = "tea"
    browser.keeper.revoke_session(late.id)
    saved = shop.save(late)
    assert (saved, saved.outcome) == ([], Outcome.ENDED)
    visitor = Browser(shop)
    assert save_twice(visitor, setting(cart="tea"))[1] == [Outcome.SAVED]
    assert save_twice(visitor, Session.clear)[1] == [Outcome.EMPTIED]
    stranger = node(clock, None, Keyring((Key.generate(os.urandom),)))
    withheld = Browser(stranger, browser.jar).session()
    withheld["cart"] = "tea"
    assert stranger.save(withheld).outcome is Outcome.WITHHELD


def test_forced_save_seals_an_unchanged_session_once(shop: Keeper) -> None:
    browser = signed_in(shop)
    session = browser.session()
    assert shop.save(session, force=True) == []  # it was not used
    assert session.subject == "ann"
    first = shop.save(session, force=True)
    assert (len(first), first.outcome) == (1, Outcome.SAVED)
    again = shop.save(session, force=True)
    assert (again, again.outcome) == (first, Outcome.UNCHANGED)


def test_rows_of_a_visitor_are_bounded_however_often_it_is_saved(clock: Clock) -> None:
    store = MemoryStorage(clock)
    shop = node(clock, store)
    session = shop.session("")
    expiries = set()
    for number in range(3):
        session["vault"] = str(number)
        shop.save(session)
        (key,) = store.keys("sealedstate.part")
        row = store.read("sealedstate.part", key)
        assert row is not None
        expiries.add(row.expires_at)
    assert expiries == {1000 * (int(clock.now) + IDLE + shop.settings.skew)}


def test_empty_session_exists_if_it_is_kept(shop: Keeper) -> None:
    browser = Browser(shop)
    browser.visit(Session.keep)
    kept = browser.session()
    assert not kept.is_new
    assert kept.id == browser.session().id
    assert dict(kept) == {}
    # A session that is not kept leaves with its last part.
    browser.visit(setting(cart="tea"))
    browser.visit(lambda session: session.pop("cart"))
    assert browser.jar.header() == ""
