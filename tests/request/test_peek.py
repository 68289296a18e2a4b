"""A request that peeks reads its session and leaves it as old as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sealedstate import Keeper, LateRead, Session
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import IDLE, REFRESH, node, sign_in
from tests.support.tables import check_each

POLL = 60


@pytest.fixture
def shop(clock: Clock) -> Keeper:
    return node(clock, ScriptedStorage(clock))


@pytest.fixture
def browser(shop: Keeper) -> Browser:
    return Browser(shop)


def test_page_that_polls_by_peeking_does_not_defeat_the_idle_lifetime(
    browser: Browser, clock: Clock
) -> None:
    sign_in(browser, cart=[1], vault="secret")
    for _ in range(IDLE // POLL - 1):
        clock.forward(POLL)
        assert browser.visit(lambda session: session.peek()["vault"]) == []
    assert browser.session().subject is not None
    clock.forward(POLL)
    session = browser.session().peek()
    assert (session.subject, session.refusal) == (None, "expired")


READS: dict[str, Callable[[Session], object]] = {
    "before": lambda session: (session.peek(), dict(session)),
    "after": lambda session: (dict(session), session.peek()),
    "twice": lambda session: (session.peek().peek().subject, session.copy()),
}


def test_reading_before_or_after_a_peek_renews_nothing(browser: Browser, clock: Clock) -> None:
    sign_in(browser, cart=[1])
    clock.forward(REFRESH)

    def check(read: Callable[[Session], object]) -> None:
        assert browser.visit(read) == []

    check_each(READS, check)
    assert browser.visit(len) != []


def test_write_of_a_request_that_peeks_is_saved_and_renews(browser: Browser, clock: Clock) -> None:
    sign_in(browser, cart=[1])
    clock.forward(IDLE - 1)
    assert browser.visit(lambda session: session.peek()["cart"].append(2))  # type: ignore[attr-defined]
    clock.forward(IDLE - 1)
    assert browser.read() == {"cart": [1, 2]}


def test_peek_is_a_use_of_the_session(browser: Browser) -> None:
    session = browser.session()
    session.peek()
    assert session.accessed  # so the response depends on the cookie
    late = browser.session()
    late.mark_headers_sent()
    with pytest.raises(LateRead):
        late.peek()
