"""A node learns of new and of revoked keys from the ring that it shares with others."""

from __future__ import annotations

import os

import pytest

from sealedstate import Keeper, Session
from sealedstate.events import EventLog
from sealedstate.rotation.ring import Ring
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import revoke, revoke_before
from tests.support.jar import Browser, Clock, keeper
from tests.support.ring_storages import RELOAD_EVERY, MemoryRing, rotation_config


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
