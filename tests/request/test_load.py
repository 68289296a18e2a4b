"""A request's session: lifetimes, cookies that are withheld, forged or several, retired keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cbor2
import pytest

from sealedstate import Keeper, Session, SessionWithheld
from sealedstate._cookies.header import MAX_CANDIDATES
from sealedstate._wire.record import Place
from sealedstate.errors import NoPrimaryKey, UnreadablePart
from sealedstate.keyring import Keyring
from sealedstate.testing import ScriptedStorage
from tests.support.jar import RING, Browser, Clock, loaded_of
from tests.support.shop import (
    ABSOLUTE,
    BEFORE_ROTATION,
    HOUR,
    IDLE,
    NEXT_KEY,
    REFRESH,
    ROTATED,
    at,
    kid_of,
    log_out,
    node,
    places_of,
    record_of,
    setting,
    sign_in,
    signed_in,
    touch,
)
from tests.support.withheld import WITHHOLDINGS

Store = ScriptedStorage

# --- lifetimes ----------------------------------------------------------------------------------


def test_read_refreshes_the_cookie_once_it_is_old_enough(browser: Browser, clock: Clock) -> None:
    clock.forward(REFRESH - 1)
    assert browser.visit() == []
    clock.forward(1)
    assert browser.visit(lambda session: None) == []
    (line,) = browser.visit()
    assert line.startswith("__Host-Http-s=")
    assert browser.visit() == []
    assert browser.read() == {"cart": [1], "vault": "secret"}


def test_session_ends_after_its_idle_lifetime_and_is_replaced(
    browser: Browser, clock: Clock
) -> None:
    clock.forward(IDLE - 1)
    session = browser.session()
    assert session.subject == "ann"
    before = session.id
    clock.forward(1)
    session = browser.session()
    assert (session.subject, dict(session), session.is_new) == (None, {}, True)
    assert browser.keeper.counts["refused-expired"] == 1
    assert browser.visit(setting(new=1))
    session = browser.session()
    assert dict(session) == {"new": 1}
    assert session.id != before


def test_refreshed_session_ends_after_its_absolute_lifetime(browser: Browser, clock: Clock) -> None:
    began = clock.now
    while clock.now < began + ABSOLUTE - HOUR:
        clock.forward(HOUR)
        assert browser.visit()
    clock.now = began + ABSOLUTE - 1
    assert browser.session().subject == "ann"
    clock.now = began + ABSOLUTE
    assert browser.session().subject is None


def test_longer_lifetime_does_not_revive_a_session(
    browser: Browser, clock: Clock, store: Store
) -> None:
    longer = node(clock, store, absolute_lifetime=100 * HOUR, idle_lifetime=100 * HOUR)
    clock.forward(ABSOLUTE - 1)
    assert at(longer, browser).session().subject == "ann"
    clock.forward(1)
    assert at(longer, browser).session().subject is None


def test_shorter_lifetimes_apply_to_existing_sessions(
    browser: Browser, clock: Clock, store: Store
) -> None:
    shorter = node(clock, store, absolute_lifetime=HOUR, idle_lifetime=HOUR)
    clock.forward(HOUR - 600)
    assert browser.visit()  # refreshed, so that only its age counts
    clock.forward(599)
    assert at(shorter, browser).session().subject == "ann"
    clock.forward(1)
    assert at(shorter, browser).session().subject is None
    assert browser.session().subject == "ann"


def test_persistent_cookie_ends_with_its_session(clock: Clock) -> None:
    browser = Browser(node(clock, None, persistent=True))
    (line,) = sign_in(browser)
    assert f"; Max-Age={ABSOLUTE};" in line
    clock.forward(HOUR)
    (line,) = browser.visit(touch)
    assert f"; Max-Age={ABSOLUTE - HOUR};" in line


# --- withheld cookies ---------------------------------------------------------------------------


CASES = {name: case for name, case in WITHHOLDINGS.items() if name not in ("record", "replaced")}


@dataclass
class Withheld:
    """A browser whose cookie a node cannot judge, for `reason`."""

    reason: str
    browser: Browser


@pytest.fixture(params=CASES)
def withheld(
    request: pytest.FixtureRequest, browser: Browser, clock: Clock, store: Store
) -> Withheld:
    return Withheld(request.param, at(CASES[request.param].arrange(browser, clock, store), browser))


def test_withheld_cookie_yields_an_empty_session(withheld: Withheld) -> None:
    session = withheld.browser.session()
    assert (dict(session), session.subject, session.is_new) == ({}, None, True)
    assert session.withheld == withheld.reason
    assert withheld.browser.keeper.counts[f"refused-{withheld.reason}"] == 1


def test_withheld_cookie_is_neither_deleted_nor_overwritten(
    withheld: Withheld, clock: Clock
) -> None:
    other, before = withheld.browser, withheld.browser.jar.header()
    changes: list[Callable[[Session], object]] = [
        len,
        lambda session: session.id,
        setting(csrf="new", cart=[2], vault="other"),
        Session.clear,
        setting(large="x" * 50_000),
    ]
    for change in changes:
        assert other.visit(change) == []
    if withheld.reason != "not-yet":  # that would be over
        clock.forward(REFRESH)
    assert other.visit() == []
    assert other.visit(Session.regenerate) == []
    assert other.jar.header() == before
    assert other.keeper.counts[f"not-sent-{withheld.reason}"] == 2
    assert other.keeper.counts["saved"] == 0


def test_withheld_session_returns_when_it_can_be_judged(
    withheld: Withheld, browser: Browser, store: Store
) -> None:
    withheld.browser.visit(setting(csrf="new"))
    if not CASES[withheld.reason].can_return:
        return
    store.recover()
    assert browser.read() == {"cart": [1], "vault": "secret"}
    assert browser.session().subject == "ann"


@pytest.mark.parametrize("way", ["sign in", "new id with a value"])
def test_explicit_new_session_replaces_a_withheld_cookie(
    withheld: Withheld, store: Store, way: str
) -> None:
    other = withheld.browser

    def renew(session: Session) -> None:
        session.regenerate()
        session["new"] = 1

    assert sign_in(other, "bob", new=1) if way == "sign in" else other.visit(renew)
    store.recover()
    session = other.session()
    if withheld.reason == "ambiguous":
        assert session.withheld == withheld.reason  # the planted cookie is still there
        return
    assert (session.subject, dict(session)) == ("bob" if way == "sign in" else None, {"new": 1})


@pytest.mark.parametrize("reason", [name for name, case in CASES.items() if not case.is_known])
def test_logout_of_a_withheld_session_with_an_unknown_id_raises(
    reason: str, browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(CASES[reason].arrange(browser, clock, store), browser)
    before, session = other.jar.header(), other.session()
    with pytest.raises(SessionWithheld) as caught:
        session.invalidate()
    assert caught.value.reason == session.withheld == reason
    assert other.keeper.save(session) == []
    assert other.jar.header() == before


# --- forged cookies -----------------------------------------------------------------------------


def tampered(text: str) -> list[str]:
    middle = len(text) // 2
    return [
        text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :],
        text[:-4],
        text + "AAAA",
        text[:-1],
        text.swapcase()[:8] + text[8:].swapcase(),
        "",
        "deleted",
        "AQ" + "A" * 90,
    ]


def test_forged_cookie_yields_an_empty_session_and_is_replaced(browser: Browser) -> None:
    for text in tampered(browser.jar.ours()["__Host-Http-s"]):
        forged = Browser(browser.keeper)
        forged.jar.receive([f"__Host-Http-s={text}; Path=/; Secure; HttpOnly"])
        session = forged.session()
        assert (dict(session), session.subject) == ({}, None)
        if session.withheld is not None:
            continue  # another kid or format: some node may know it
        assert forged.visit(setting(new=1))
        assert forged.read() == {"new": 1}
    assert browser.keeper.counts["refused-tag"] >= 1


def test_forged_cookie_is_deleted_by_a_logout(browser: Browser) -> None:
    forged = Browser(browser.keeper)
    forged.jar.receive(["__Host-Http-s=junk; Path=/; Secure; HttpOnly"])
    forged.visit(log_out)
    assert forged.jar.header() == ""


def test_store_is_not_asked_before_a_token_is_authentic(browser: Browser, store: Store) -> None:
    good = browser.jar.ours()["__Host-Http-s"]
    store.calls.clear()
    for text in [*tampered(good), good[::-1], "x" * 4000]:
        for cookie in (
            f"__Host-Http-s={text}",
            f"__Host-Http-s-1={text}",
            f"__Host-Http-s={text}; a=b",
        ):
            session = browser.keeper.session(cookie)
            assert dict(session) == {}
            browser.keeper.save(session)
    assert store.calls == []


@pytest.mark.parametrize("given", [{"realm": "other"}, {"cookie_name": "__Host-t"}])
def test_cookie_of_another_application_with_the_same_keys_does_not_open(
    browser: Browser, clock: Clock, store: Store, given: dict[str, Any]
) -> None:
    other, text = node(clock, store, **given), browser.jar.ours()["__Host-Http-s"]
    session = other.session(f"{given.get('cookie_name', '__Host-Http-s')}={text}")
    assert (dict(session), session.subject) == ({}, None)
    assert other.counts["refused-tag"] == 1


@pytest.mark.parametrize(
    ("name", "size", "place"),
    [("cart", 1, Place.CORE), ("cart", 5000, Place.OVERFLOW), ("vault", 1, Place.SPILLED)],
)
def test_part_of_a_newer_release_raises_and_is_kept(
    clock: Clock,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    size: int,
    place: Place,
) -> None:
    browser = signed_in(node(clock, store, profile="roomy"), cart=[1], vault="secret")
    newer = cbor2.dumps(cbor2.CBORTag(12345, "x" * size))

    def write_as_a_newer_release_does(session: Session) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("sealedstate._wire.cbor.encode", lambda value, path="value": newer)
            session[name] = "from the future"

    def read_and_change(session: Session) -> None:
        with pytest.raises(UnreadablePart):
            session[name]
        session["n"] = 1

    browser.visit(write_as_a_newer_release_does)
    assert places_of(browser)[name] is place
    browser.visit(read_and_change)
    assert browser.keeper.counts["part-unreadable"] == 1
    session = browser.session()
    assert (session.subject, session["n"]) == ("ann", 1)
    assert places_of(browser)[name] is place
    assert loaded_of(session).part_of(record_of(browser), name) == newer


def test_part_of_a_newer_release_is_kept_unread(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, newer = signed_in(node(clock, None)), cbor2.dumps(cbor2.CBORTag(12345, "x"))
    with monkeypatch.context() as patch:
        patch.setattr("sealedstate._wire.cbor.encode", lambda value, path="value": newer)
        browser.visit(setting(later="from the future"))
    browser.visit(touch)
    assert record_of(browser).parts["later"] == newer


# --- several cookies ----------------------------------------------------------------------------


def test_newest_of_two_cookies_of_one_session_counts(browser: Browser) -> None:
    old = browser.jar.header()
    browser.visit(setting(cart=[2]))
    new = browser.jar.header()
    for header in (f"{old}; {new}", f"{new}; {old}"):
        assert browser.keeper.session(header)["cart"] == [2]


def test_two_different_sessions_are_both_withheld(browser: Browser) -> None:
    other = signed_in(browser.keeper, "eve")
    ours, theirs = browser.jar.header(), other.jar.header()
    for header in (f"{ours}; {theirs}", f"{theirs}; {ours}"):
        session = browser.keeper.session(header)
        assert session.subject is None
        assert session.withheld == "ambiguous"


def test_expired_cookie_beside_a_good_one_is_not_ambiguous(
    browser: Browser, clock: Clock, shop: Keeper
) -> None:
    expired = browser.jar.header()
    clock.forward(ABSOLUTE)
    again = signed_in(shop)
    assert shop.session(f"{expired}; {again.jar.header()}").subject == "ann"


def test_junk_beside_a_good_cookie_is_ignored(browser: Browser) -> None:
    good = browser.jar.header()
    junk = f"__Host-Http-s=junk; __Host-Http-s=; {good[:-1]}"
    for header in (f"{junk}; {good}", f"{good}; {junk}"):
        assert browser.keeper.session(header).subject == "ann"


def test_too_much_junk_in_front_of_a_good_cookie_withholds_it(
    browser: Browser, shop: Keeper
) -> None:
    good = browser.jar.header()
    junk = [f"__Host-Http-s=junk{number}" for number in range(MAX_CANDIDATES)]
    assert shop.session("; ".join([*junk[1:], good])).subject == "ann"
    session = shop.session("; ".join([*junk, good]))
    session["csrf"] = "new"
    assert session.withheld == "crowded"
    assert shop.save(session) == []
    with pytest.raises(SessionWithheld):
        session.invalidate()


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [len, touch], ids=["read", "write"])
def test_session_under_a_retired_key_opens_and_moves_to_the_primary(
    browser: Browser, clock: Clock, store: Store, change: Callable[[Session], object]
) -> None:
    rotated = at(node(clock, store, ROTATED), browser)
    assert kid_of(browser) == RING.keys[0].kid
    clock.forward(REFRESH - 1)
    assert rotated.visit(change)
    assert kid_of(browser) == NEXT_KEY.kid
    assert rotated.session().subject == "ann"
    assert rotated.read().items() >= {"cart": [1], "vault": "secret"}.items()
    assert rotated.visit() == []
    # A node that knows the key and does not use it yet reads the session, too.
    assert at(node(clock, store, BEFORE_ROTATION), browser).session().subject == "ann"


def test_sessions_under_a_retired_key_move_at_different_moments(clock: Clock, store: Store) -> None:
    browsers = [Browser(node(clock, store)) for _ in range(60)]
    for browser in browsers:
        sign_in(browser)
    rotated, moved = node(clock, store, ROTATED), []
    for _ in range(4):
        moved.append(sum(bool(at(rotated, browser).visit()) for browser in browsers))
        clock.forward(REFRESH / 4)
    assert moved[0] == 0
    assert all(moved[1:])
    for browser in browsers:
        at(rotated, browser).visit()
    assert {kid_of(browser) for browser in browsers} == {NEXT_KEY.kid}


def test_overflow_moves_to_the_primary_with_its_core(clock: Clock, store: Store) -> None:
    browser = signed_in(node(clock, store, profile="roomy"), large="x" * 5000)
    clock.forward(REFRESH - 1)
    at(node(clock, store, ROTATED, profile="roomy"), browser).visit()
    assert kid_of(browser) == kid_of(browser, "__Host-Http-s-1") == NEXT_KEY.kid
    only_next = node(clock, store, Keyring((NEXT_KEY,), lookup=RING.lookup), profile="roomy")
    assert at(only_next, browser).read() == {"large": "x" * 5000}


def test_session_under_a_revoked_key_is_refused_and_may_be_replaced(
    browser: Browser, clock: Clock, store: Store
) -> None:
    revoked = Keyring((NEXT_KEY, replace(RING.keys[0], revoked=True)))
    other = at(node(clock, store, revoked), browser)
    assert other.session().subject is None
    assert other.visit(setting(new=1))
    assert other.read() == {"new": 1}


def test_node_without_a_primary_key_reads_and_raises_on_a_write(clock: Clock, store: Store) -> None:
    # The only key begins now; the clock of this node is behind by less than the skew.
    ring = Keyring((replace(NEXT_KEY, activates_at=int(clock.now)),), lookup=RING.lookup)
    browser = signed_in(node(clock, store, ring), cart=[1])
    behind = at(node(Clock(clock.now - 30), store, ring), browser)
    session = behind.session()
    assert session.subject == "ann"
    assert behind.keeper.save(session) == []
    session["cart"] = [2]
    with pytest.raises(NoPrimaryKey):
        behind.keeper.save(session)
    assert browser.read() == {"cart": [1]}
