"""A session whose user is named by one of its parts: assigning it signs in, removing it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from sealedstate import ConfigurationError, Keeper, Session, UnsupportedValue
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import HOUR, node, setting

KEY = "_user_id"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shop(clock: Clock) -> Keeper:
    return node(clock, MemoryStorage(clock), subject_key=KEY)


@pytest.mark.parametrize(
    ("value", "subject"),
    [("7", "7"), (7, "7"), (UUID(int=7), str(UUID(int=7))), (None, None), ("", None)],
)
def test_assigned_value_names_the_user(shop: Keeper, value: object, subject: str | None) -> None:
    browser = Browser(shop)
    browser.visit(setting(cart="tea", **{KEY: value}))
    assert browser.session().subject == subject
    assert browser.read() == {"cart": "tea", KEY: value}


@pytest.mark.parametrize("value", [True, 1.5, [1], {"id": 7}])
def test_value_that_names_no_user_is_refused(shop: Keeper, value: object) -> None:
    session = shop.session("")
    session[KEY] = value
    with pytest.raises(UnsupportedValue, match=KEY):
        shop.save(session)


ENDS: dict[str, Callable[[Session], object]] = {
    "pop": lambda session: session.pop(KEY),
    "clear": Session.clear,
    "None": setting(**{KEY: None}),
    "another user": setting(**{KEY: "8"}),
    "the same user": setting(**{KEY: "7"}),
    "clear and sign in": lambda session: clear_and_sign_in(session),
}


def clear_and_sign_in(session: Session) -> None:
    session.clear()
    session[KEY] = "7"


@pytest.mark.parametrize("end", ENDS)
def test_cookie_of_before_is_refused_after_a_sign_in_and_a_logout(shop: Keeper, end: str) -> None:
    browser = Browser(shop)
    browser.visit(setting(cart="tea"))
    visitor = browser.jar.copy()
    browser.visit(setting(**{KEY: "7"}))
    assert Browser(shop, visitor).session().withheld == "replaced"
    before, old_id = browser.jar.copy(), browser.session().id
    browser.visit(ENDS[end])
    assert Browser(shop, before).session().subject is None
    assert browser.session().id != old_id
    # The other parts are left as the application left them.
    assert browser.read().get("cart") == (None if "clear" in end else "tea")


def test_session_that_does_not_touch_the_part_stays_as_it_is(shop: Keeper, clock: Clock) -> None:
    browser = Browser(shop)
    browser.visit(setting(**{KEY: "7"}))
    session_id, created_at = browser.session().id, browser.session().created_at
    clock.forward(HOUR)
    browser.visit(setting(cart="tea"))
    browser.visit(len)
    assert (browser.session().id, browser.session().created_at) == (session_id, created_at)


def test_users_of_the_part_are_signed_out_everywhere(shop: Keeper, clock: Clock) -> None:
    first, second = Browser(shop), Browser(shop)
    for browser in (first, second):
        browser.visit(setting(**{KEY: "7"}))
    shop.revoke_subject("7")
    for browser in (first, second):
        assert browser.session().refusal == "signed-out"
        browser.visit(setting(**{KEY: "7"}))
        assert browser.session().subject == "7"


def test_session_of_before_the_setting_belongs_to_its_user_at_the_next_request(
    clock: Clock,
) -> None:
    store = MemoryStorage(clock)
    browser = Browser(node(clock, store))
    browser.visit(setting(**{KEY: "7"}))
    assert browser.session().subject is None
    browser.keeper = node(clock, store, subject_key=KEY)
    browser.visit(len)
    assert browser.session().subject == "7"


@pytest.mark.parametrize(
    "given",
    [
        {"subject_key": ""},
        {"part_policies": {KEY: "server"}},
        {"may_drop": [KEY]},
        {"may_drop": [f"{KEY[:3]}*"]},
    ],
)
def test_part_that_may_be_missing_cannot_name_the_user(clock: Clock, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="subject_key"):
        node(clock, MemoryStorage(clock), **{"subject_key": KEY} | given)


ASSIGNMENTS: dict[str, tuple[str | None, Callable[[Session], object]]] = {
    "subject": ("8", lambda session: setattr(session, "subject", "8")),
    "part and subject": ("8", lambda session: assign_both(session, "8")),
    "the same user": ("7", lambda session: assign_both(session, "7")),
    "an unusable part": ("8", lambda session: assign_both(session, "8", part=1.5)),
    "None": (None, lambda session: setattr(session, "subject", None)),
    "part and None": (None, lambda session: assign_both(session, None, part="8")),
}


def assign_both(session: Session, subject: str | None, part: object = None) -> None:
    session[KEY] = part or subject
    session.subject = subject


@pytest.mark.parametrize("before", ["visitor", "7"])
@pytest.mark.parametrize("way", ASSIGNMENTS)
def test_assigning_the_subject_assigns_its_part(shop: Keeper, way: str, before: str) -> None:
    subject, assign = ASSIGNMENTS[way]
    browser = Browser(shop)
    browser.visit(setting(cart="tea"))
    if before == "7":
        browser.visit(setting(**{KEY: 7}))
    old, old_id = browser.jar.copy(), browser.session().id
    browser.visit(assign)
    assert browser.session().subject == browser.read().get(KEY) == subject
    if subject or before == "7":
        assert Browser(shop, old).session().subject is None
        assert browser.session().id != old_id
    # No user inherits the cart of another, unless the application leaves it by assigning the part.
    keeps = before == "visitor" and way != "part and None"
    keeps = keeps or (before == "7" and way in ("part and subject", "the same user"))
    assert browser.read().get("cart") == ("tea" if keeps else None)
