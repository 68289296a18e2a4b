"""Every way in which a node cannot judge a good cookie, and when that ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sealedstate import Keeper, Session
from sealedstate._cookies.codec import KEEP_UNREADABLE
from sealedstate._stored.revocations import REPLACED_SECONDS, SESSIONS
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.record import encode_record
from sealedstate.keyring import DEFAULT_ANNOUNCE, DEFAULT_SKEW, Keyring
from sealedstate.testing import ScriptedStorage
from tests.support.jar import RING, Browser, Clock
from tests.support.shop import ABSOLUTE, IDLE, NEXT_KEY, node, record_of, signed_in

LAG = DEFAULT_ANNOUNCE + DEFAULT_SKEW


@dataclass(frozen=True)
class Withholding:
    """One reason to withhold a cookie that was sealed at `clock`.

    `arrange(browser, clock, store)`: the node that cannot judge it. `ends_after`: seconds after the
    seal at which the withholding is over; None if no time ends it. `opens`: whether the session
    opens then; otherwise the next write replaces it. `is_known`: whether the node knows the id.
    `can_return`: whether a node of this release opens the cookie meanwhile.
    """

    arrange: Callable[[Browser, Clock, ScriptedStorage], Keeper]
    ends_after: int | None
    opens: bool = False
    is_known: bool = False
    can_return: bool = True


def receive(browser: Browser, text: str, attributes: str = "") -> None:
    browser.jar.receive([f"__Host-Http-s={text}; Path=/; Secure; HttpOnly{attributes}"])


def unknown_kid(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(clock, store, Keyring((NEXT_KEY,), lookup=RING.lookup))


def disabled_key(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    ring = Keyring((NEXT_KEY, replace(RING.keys[0], disabled=True)), lookup=RING.lookup)
    return node(clock, store, ring)


def unknown_format(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    receive(browser, to_text(b"\2" + from_text(browser.jar.ours()["__Host-Http-s"])[1:]))
    return node(clock, store)


def unknown_field(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    return _with_tail(browser, clock, store, b"\x7f\x00")


def no_bound_cookie(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    return _with_tail(browser, clock, store, b"\2\x21\2" + bytes(32))


def malformed_record(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    return _with_tail(browser, clock, store, b"\x00")


def _with_tail(browser: Browser, clock: Clock, store: ScriptedStorage, tail: bytes) -> Keeper:
    codec, now = browser.keeper.deployment.codec, int(clock.now)
    receive(browser, codec.seal_core(encode_record(record_of(browser), now) + tail, now))
    return node(clock, store)


def store_down(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    store.fail(context=SESSIONS)
    return node(clock, store)


def clock_behind(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    return node(Behind(clock, 121), store)


class Behind(Clock):
    """A clock that is some seconds behind another."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def __call__(self) -> float:
        return self._clock.now - self._seconds


def two_sessions(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    other = signed_in(browser.keeper, "eve")
    # Older browsers let a sibling domain set this cookie.
    receive(browser, other.jar.ours()["__Host-Http-s"], "; Partitioned")
    return node(clock, store)


def crowd(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    for number in range(20):
        path = f"/{number}"
        browser.jar.receive([f"__Host-Http-s=junk{number}; Path={path}; Secure; HttpOnly"])
    return node(clock, store)


def new_id(browser: Browser, clock: Clock, store: ScriptedStorage) -> Keeper:
    Browser(browser.keeper, browser.jar.copy()).visit(Session.regenerate)
    return node(clock, store)


WITHHOLDINGS = {
    "kid-unknown": Withholding(unknown_kid, LAG + 1),
    "kid-disabled": Withholding(disabled_key, IDLE, is_known=True),
    "format-unknown": Withholding(unknown_format, LAG + 1, can_return=False),
    "field-unknown": Withholding(unknown_field, ABSOLUTE, is_known=True, can_return=False),
    "unbound": Withholding(no_bound_cookie, IDLE, is_known=True, can_return=False),
    "record": Withholding(malformed_record, KEEP_UNREADABLE, can_return=False),
    "store-down": Withholding(store_down, IDLE, is_known=True),
    "not-yet": Withholding(clock_behind, 1, opens=True, is_known=True),
    "ambiguous": Withholding(two_sessions, IDLE, is_known=True, can_return=False),
    "replaced": Withholding(new_id, REPLACED_SECONDS, can_return=False, is_known=True),
}
