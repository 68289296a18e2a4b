"""A node whose ring lags behind: it withholds what it can't judge, and takes nothing away."""

from __future__ import annotations

import os

import pytest

from sealedstate import Keeper, Session
from sealedstate._wire import encoding as chunking
from sealedstate.events import EventLog
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import revoke, revoke_before, rotate
from tests.support.jar import Browser, Clock, keeper
from tests.support.ring_storages import HASTY, RELOAD_EVERY, MemoryRing, rotation_config

FLOOD = 100_000


class Delayed(MemoryRing):
    """A place whose news reach one node late."""

    def __init__(self, source: MemoryRing) -> None:
        super().__init__(source.ring)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(clock: Clock) -> MemoryRing:
    home = MemoryRing()
    node(home, clock)  # which creates the ring
    return home


def node(home: MemoryRing, clock: Clock) -> Keeper:
    keys = RotatingKeySource(home, rotation_config(clock), EventLog(), creates_missing=True)
    return keeper(clock, keys=keys)


def ring_of(home: MemoryRing) -> Ring:
    assert home.ring is not None
    return home.ring


def sign_in(session: Session) -> None:
    session.subject = "ann"
    session["cart"] = ["tea"]


def in_use(home: MemoryRing, clock: Clock) -> None:
    """A key is announced, and its turn comes."""
    home.ring = rotate(ring_of(home), HASTY, int(clock()), os.urandom, force=True)
    clock.forward(HASTY.announce + RELOAD_EVERY)


def test_a_node_that_never_hears_of_the_new_key_deletes_no_cookie(
    clock: Clock, home: MemoryRing
) -> None:
    lagging = node(Delayed(home), clock)
    in_use(home, clock)
    browser = Browser(node(home, clock))
    browser.visit(sign_in)
    cookies = browser.jar.header()
    at_the_lagging_one = Browser(lagging, browser.jar)
    for change in (len, lambda session: session.__setitem__("csrf", "x"), Session.clear):
        assert at_the_lagging_one.visit(change) == []
        assert at_the_lagging_one.session().subject is None
    assert browser.jar.header() == cookies
    assert browser.session().subject == "ann"


def test_a_node_that_can_look_takes_the_first_cookie_of_a_new_key(
    clock: Clock, home: MemoryRing
) -> None:
    late = node(home, clock)
    home.ring = revoke(ring_of(home), ring_of(home).keys[0].kid, int(clock()), os.urandom)
    browser = Browser(node(home, clock))
    browser.visit(sign_in)
    assert Browser(late, browser.jar).session().subject == "ann"


def test_cookies_sealed_before_the_moment_that_the_operator_names_are_refused(
    clock: Clock, home: MemoryRing
) -> None:
    browsers = [Browser(node(home, clock)) for _ in range(2)]
    browsers[0].visit(sign_in)
    clock.forward(5)
    home.ring = revoke_before(ring_of(home), int(clock()), int(clock()))
    clock.forward(RELOAD_EVERY)
    browsers[1].visit(sign_in)
    assert [browser.session().subject for browser in browsers] == [None, "ann"]
    assert browsers[0].keeper.counts["refused-sealed-before"] == 1


def test_a_flood_of_unknown_kids_loads_the_ring_once_a_second_and_forgets_nobody(
    clock: Clock, home: MemoryRing
) -> None:
    flooded = node(home, clock)
    browser = Browser(flooded)
    browser.visit(sign_in)
    loads = home.loads
    junk = os.urandom(80)
    for number in range(FLOOD):
        token = b"\x01" + number.to_bytes(4, "big") + junk
        assert flooded.session(f"__Host-s={chunking.to_text(token)}").subject is None
        if number % (FLOOD // 5) == 0:
            clock.forward(1)
            assert browser.session().subject == "ann"
    assert home.loads - loads <= 6  # one at first, and one for each second
    assert flooded.counts["refused-kid-unknown"] == FLOOD
