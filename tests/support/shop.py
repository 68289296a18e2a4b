"""A shop: nodes on one scripted store, and browsers at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sealedstate import Keeper, Key, Session
from sealedstate._wire.encoding import from_text
from sealedstate._wire.record import Place, Record
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.storage import Storage
from tests.support.jar import RING, Browser, Clock, keeper, loaded_of
from tests.support.jar import places_of as session_places

__all__ = [
    "ABSOLUTE",
    "BEFORE_ROTATION",
    "HOUR",
    "IDLE",
    "NEXT_KEY",
    "REFRESH",
    "ROTATED",
    "at",
    "kid_of",
    "log_out",
    "node",
    "places_of",
    "record_of",
    "setting",
    "sign_in",
    "signed_in",
    "touch",
]

HOUR = 3600
IDLE, ABSOLUTE, REFRESH = 2 * HOUR, 12 * HOUR, 12 * 60
NEXT_KEY = Key.generate(os.urandom)
ROTATED = Keyring((NEXT_KEY, *RING.keys), lookup=RING.lookup)
BEFORE_ROTATION = Keyring((*RING.keys, NEXT_KEY), lookup=RING.lookup)


def node(clock: Clock, store: Storage | None, ring: Keyring = RING, **given: Any) -> Keeper:
    """One node, with lifetimes that the tests count with. With a store, `vault` lives there."""
    usual: dict[str, Any] = {
        "keys": StaticKeys(ring),
        "storage": store,
        "idle_lifetime": IDLE,
        "absolute_lifetime": ABSOLUTE,
        "refresh_after": REFRESH,
    }
    if store is not None:
        usual["part_policies"] = {"vault": "server"}
    return keeper(clock, **usual | given)


def at(keeper: Keeper, browser: Browser) -> Browser:
    """The same browser, at another node."""
    return Browser(keeper, browser.jar)


# --- what a request does ------------------------------------------------------------------------


def sign_in(browser: Browser, subject: str = "ann", /, **values: object) -> list[str]:
    def change(session: Session) -> None:
        session.subject = subject
        session.update(values)

    return browser.visit(change)


def signed_in(keeper: Keeper, subject: str = "ann", /, **values: object) -> Browser:
    """A browser that has signed in."""
    browser = Browser(keeper)
    sign_in(browser, subject, **values)
    return browser


def setting(**values: object) -> Callable[[Session], object]:
    """A change that assigns these parts."""
    return lambda session: session.update(values)


def touch(session: Session) -> None:
    """A change that only the core has."""
    session["touched"] = not session.get("touched")


def log_out(session: Session) -> None:
    session.invalidate()


# --- what a browser carries ---------------------------------------------------------------------


def record_of(browser: Browser) -> Record:
    record = loaded_of(browser.session()).record
    assert record is not None
    return record


def places_of(browser: Browser) -> dict[str, Place | None]:
    return session_places(browser.session())


def kid_of(browser: Browser, name: str = "__Host-Http-s") -> bytes:
    return from_text(browser.jar.ours()[name][:8])[1:5]
