"""A node whose ring is out of date withholds what it cannot judge, and deletes nothing."""

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
    """Ring storage whose changes do not reach one node."""

    def __init__(self, source: MemoryRing) -> None:
        super().__init__(source.ring)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(clock: Clock) -> MemoryRing:
    home = MemoryRing()
    node(home, clock)  # creates the ring
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
    """Announce a key, and wait until it is the primary."""
    home.ring = rotate(ring_of(home), HASTY, int(clock()), os.urandom, force=True)
    clock.forward(HASTY.announce + RELOAD_EVERY)


def test_lagging_node_deletes_no_cookie_of_an_unknown_key(clock: Clock, home: MemoryRing) -> None:
    lagging = node(Delayed(home), clock)
    in_use(home, clock)
    browser = Browser(node(home, clock))
    browser.visit(sign_in)
    cookies = browser.jar.header()
    at_lagging = Browser(lagging, browser.jar)
    for change in (len, lambda session: session.__setitem__("csrf", "x"), Session.clear):
        assert at_lagging.visit(change) == []
        assert at_lagging.session().subject is None
    assert browser.jar.header() == cookies
    assert browser.session().subject == "ann"


def test_node_reloads_for_the_first_cookie_of_a_new_key(clock: Clock, home: MemoryRing) -> None:
    late = node(home, clock)
    home.ring = revoke(ring_of(home), ring_of(home).keys[0].kid, int(clock()), os.urandom)
    browser = Browser(node(home, clock))
    browser.visit(sign_in)
    assert Browser(late, browser.jar).session().subject == "ann"


def test_cookies_sealed_before_the_revoked_moment_are_refused(
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


@pytest.mark.slow
def test_flood_of_unknown_kids_loads_the_ring_once_a_second(clock: Clock, home: MemoryRing) -> None:
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
