"""Logout of a session and of a subject: what is refused from then on, and what a race leaves."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from itsdangerous import TimestampSigner

from sealedstate import (
    ConfigurationError,
    Keeper,
    LegacyReader,
    Session,
    StorageError,
    UnsupportedValue,
)
from sealedstate._stored.parts import CONTEXT as PARTS
from sealedstate._stored.revocations import MARK_SECONDS, SESSIONS, SUBJECTS
from sealedstate.keyring import Keyring
from sealedstate.session import id_bytes
from sealedstate.testing import ScriptedStorage
from tests.support.jar import RING, Browser, Clock
from tests.support.shop import (
    ABSOLUTE,
    HOUR,
    REFRESH,
    at,
    log_out,
    node,
    record_of,
    setting,
    sign_in,
    signed_in,
    touch,
)
from tests.support.stored import PartRow

Store = ScriptedStorage
WRITES = ScriptedStorage.WRITES

# --- logout -------------------------------------------------------------------------------------


def test_logout_refuses_every_cookie_of_the_session_on_every_node(
    browser: Browser, clock: Clock, store: Store
) -> None:
    captured = [browser.jar.copy()]
    for _ in range(5):
        clock.forward(REFRESH)
        browser.visit(touch)
        captured.append(browser.jar.copy())
    browser.visit(log_out)
    assert browser.jar.header() == ""
    assert list(store.keys(PARTS)) == []
    for shop in (browser.keeper, node(clock, store)):
        for jar in captured:
            thief = Browser(shop, jar.copy())
            assert thief.session().subject is None
            assert thief.read() == {}
            thief.visit(setting(new=1))
            assert thief.read() == {"new": 1}
    assert browser.keeper.counts["refused-revoked"] >= len(captured)


def test_logout_is_kept_until_the_session_would_have_expired(clock: Clock, store: Store) -> None:
    shop = node(clock, store, idle_lifetime=ABSOLUTE)
    browser = signed_in(shop)
    captured = browser.jar.copy()
    browser.visit(log_out)
    for _ in range(ABSOLUTE // HOUR + 1):
        assert Browser(shop, captured).session().subject is None
        clock.forward(HOUR)


def test_rows_of_a_session_and_of_its_revocation_expire_with_it(
    browser: Browser, clock: Clock, store: Store
) -> None:
    browser.session().invalidate()
    sign_in(browser, "bob", vault="secret")
    browser.keeper.revoke_subject("bob")
    contexts = (PARTS, SESSIONS, SUBJECTS)
    assert all(list(store.keys(context)) for context in contexts)
    clock.forward(ABSOLUTE + 2 * browser.keeper.settings.skew)
    assert len([key for context in contexts for key in store.keys(context)]) == 1
    clock.forward(MARK_SECONDS)  # the mark of the lookup key
    assert [key for context in contexts for key in store.keys(context)] == []


def test_logout_is_recorded_before_the_response_is_sent(browser: Browser) -> None:
    captured = browser.jar.copy()
    browser.session().invalidate()
    assert Browser(browser.keeper, captured).session().subject is None


def test_logout_leaves_other_sessions_of_the_subject_alone(browser: Browser) -> None:
    other = signed_in(browser.keeper)
    browser.visit(log_out)
    assert other.session().subject == "ann"


@pytest.mark.parametrize("failing", [(), WRITES], ids=["all operations", "writes"])
def test_logout_that_cannot_be_recorded_raises_and_changes_nothing(
    browser: Browser, store: Store, failing: tuple[str, ...]
) -> None:
    session = browser.session()
    before = (session.id, dict(session), session.subject)
    header = browser.jar.header()
    store.fail(*failing)
    with pytest.raises(StorageError):
        session.invalidate()
    assert (session.id, dict(session), session.subject) == before
    assert not session.is_new
    store.recover()
    assert browser.keeper.save(session) == []
    assert browser.jar.header() == header
    browser.visit(log_out)
    assert browser.session().subject is None


def test_logout_succeeds_although_the_parts_cannot_be_deleted(
    browser: Browser, store: Store
) -> None:
    captured = browser.jar.copy()
    store.fail(*WRITES, context=PARTS)
    browser.visit(log_out)
    assert Browser(browser.keeper, captured).session().subject is None


def test_logout_without_a_store_empties_the_browser(clock: Clock) -> None:
    browser = signed_in(node(clock, None, profile="roomy"), large="x" * 6000)
    assert len(browser.jar.ours()) > 2
    browser.visit(log_out)
    assert browser.jar.header() == ""


def test_logout_through_a_legacy_cookie_lasts_as_long_as_the_session_adopted_from_it(
    clock: Clock, store: Store
) -> None:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(clock())

    old = Signer("secret").sign(base64.b64encode(b'{"user": "ann"}')).decode()
    until = datetime.fromtimestamp(clock() + 600, UTC)
    shop = node(clock, store, legacy=LegacyReader("starlette", "secret", until, subject="user"))
    laptop, phone = Browser(shop), Browser(shop)
    for browser in (laptop, phone):
        browser.jar.receive([f"session={old}; Path=/"])
    laptop.visit(touch)
    phone.visit(log_out)
    assert laptop.session().is_new
    clock.forward(HOUR)
    assert laptop.session().is_new


def test_old_cookie_of_a_visitor_is_refused_if_its_request_saves_and_then_logs_out(
    clock: Clock, store: Store
) -> None:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(clock())

    old = Signer("secret").sign(base64.b64encode(b'{"cart": 1}')).decode()
    until = datetime.fromtimestamp(clock() + 600, UTC)
    shop = node(clock, store, legacy=LegacyReader("starlette", "secret", until))
    session = shop.session(f"session={old}")
    assert session["cart"] == 1
    session["cart"] = 2
    shop.save(session)
    session.invalidate()
    assert shop.session(f"session={old}").get("cart") is None


# --- requests that a logout overtakes -----------------------------------------------------------


def test_slow_requests_send_nothing_after_a_logout(
    browser: Browser, clock: Clock, store: Store
) -> None:
    clock.forward(REFRESH)
    slow = [browser.session() for _ in range(4)]
    changes = (len, touch, setting(vault="other"), Session.regenerate)
    for session, change in zip(slow, changes, strict=True):
        change(session)
    browser.visit(log_out)
    for session in slow:
        assert browser.keeper.save(session) == []
    assert browser.keeper.counts["not-sent-revoked"] == len(slow)
    assert list(store.keys(PARTS)) == []


@pytest.mark.parametrize("subject", ["ann", None], ids=["user", "visitor"])
def test_new_id_that_races_with_a_logout_does_not_bring_the_session_back(
    clock: Clock, store: Store, subject: str | None
) -> None:
    browser = Browser(node(clock, store))
    browser.visit(setting(cart=[1], vault="secret"))
    if subject:
        sign_in(browser, subject)
    slow, leaving = browser.session(), browser.session()
    assert slow["cart"] == [1]
    slow.regenerate()
    # The slow request has already asked whether there was a logout.
    store.before("create", context=SESSIONS, act=leaving.invalidate)
    lines = browser.keeper.save(slow)
    arrived = Browser(browser.keeper, browser.jar.copy())
    arrived.jar.receive(lines)
    assert arrived.session().subject is None
    assert arrived.read() == {}
    assert leaving.changes().is_ended


ENDS: dict[str, Callable[[Keeper, Session], object]] = {
    "invalidate": lambda shop, session: session.invalidate(),
    "revoke_session": lambda shop, session: shop.revoke_session(session.id),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("subject", ["ann", "bob"])
def test_sign_in_that_an_end_of_its_session_overtakes_is_refused(
    browser: Browser, store: Store, end: str, subject: str
) -> None:
    slow = browser.session()
    slow.subject = subject
    slow["vault"] = "new"
    ENDS[end](browser.keeper, browser.session())
    assert browser.keeper.save(slow) == []
    assert browser.keeper.counts["not-sent-revoked"] == 1
    written = {key for key in store.keys(PARTS) if key == PartRow(id_bytes(slow), "vault").key}
    assert written == set()
    # The visitor signs in again.
    sign_in(browser, subject)
    assert browser.session().subject == subject


def test_user_who_was_signed_out_everywhere_during_the_next_sign_in_stays_out(
    browser: Browser,
) -> None:
    slow = browser.session()
    slow.subject = "ann"
    browser.keeper.revoke_subject("ann")
    assert browser.keeper.save(slow) == []
    assert browser.keeper.counts["not-sent-revoked"] == 1
    sign_in(browser)
    assert browser.session().subject == "ann"


def test_sign_in_sent_twice_signs_in_with_the_later_answer(clock: Clock, store: Store) -> None:
    """Also if the browser has dropped the first answer, as it does at a double click."""
    shop = node(clock, store)
    browser = Browser(shop)
    browser.visit(setting(cart=[1]))
    double_click = [browser.session(), browser.session()]
    for session in double_click:
        session.regenerate()
        session.subject = "ann"
    first, second = [shop.save(session) for session in double_click]
    for answers in ([first, second], [second]):
        arrived = Browser(shop, browser.jar.copy())
        for answer in answers:
            arrived.jar.receive(answer)
        assert arrived.session().subject == "ann"
    # The first answer alone is withheld for a moment; its visitor can sign in, and out.
    for act in (sign_in, lambda browser: browser.visit(log_out)):
        arrived = Browser(shop, browser.jar.copy())
        arrived.jar.receive(first)
        assert arrived.session().withheld == "replaced"
        act(arrived)
        assert arrived.session().withheld is None


def test_sign_in_that_another_user_overtakes_is_refused(clock: Clock, store: Store) -> None:
    shop = node(clock, store)
    browser = Browser(shop)
    browser.visit(setting(cart=[1]))
    slow = browser.session()
    slow.subject = "ann"
    sign_in(browser, "bob")
    assert shop.save(slow) == []
    assert shop.counts["not-sent-replaced"] == 1
    assert browser.session().subject == "bob"


def test_sign_in_that_a_new_id_overtakes_takes_its_place(clock: Clock, store: Store) -> None:
    shop = node(clock, store)
    browser = Browser(shop)
    browser.visit(setting(cart=[1]))
    slow = browser.session()
    slow.subject = "ann"
    browser.visit(Session.regenerate)
    browser.jar.receive(shop.save(slow))
    assert browser.session().subject == "ann"


def test_new_id_that_another_new_id_overtakes_is_refused(browser: Browser, store: Store) -> None:
    slow = browser.session()
    slow.regenerate()
    slow["vault"] = "slow"
    browser.visit(Session.regenerate)
    assert browser.keeper.save(slow) == []
    assert browser.keeper.counts["not-sent-replaced"] == 1
    assert PartRow(id_bytes(slow), "vault").key not in store.keys(PARTS)
    assert browser.read()["vault"] == "secret"


NEXT_IDS: dict[str, Callable[[Session], object]] = {
    "regenerate": Session.regenerate,
    "the same user": lambda session: setattr(session, "subject", "ann"),
    "another user": lambda session: setattr(session, "subject", "bob"),
}


@pytest.mark.parametrize("change", NEXT_IDS)
def test_logout_follows_the_session_to_its_new_id(browser: Browser, change: str) -> None:
    leaving = browser.session()
    assert leaving.subject == "ann"
    browser.visit(NEXT_IDS[change])
    assert browser.session().subject is not None
    leaving.invalidate()
    assert browser.session().subject is None
    assert browser.session().withheld is None


@pytest.mark.parametrize("change", NEXT_IDS)
def test_end_from_outside_follows_the_session_of_the_same_user(
    browser: Browser, change: str
) -> None:
    old = browser.session().id
    browser.visit(NEXT_IDS[change])
    ended = browser.keeper.revoke_session(old)
    assert browser.keeper.is_ended(old)
    assert ended == (change != "another user")
    assert browser.session().subject == (None if ended else "bob")


def test_logout_with_the_cookie_of_before_ends_the_session_with_the_new_id(
    browser: Browser, clock: Clock, shop: Keeper
) -> None:
    late = Browser(shop, browser.jar.copy())
    browser.visit(Session.regenerate)
    clock.forward(59)
    assert late.session().withheld == "replaced"
    late.visit(log_out)
    assert late.jar.header() == ""
    assert browser.session().subject is None


@pytest.mark.parametrize("change", ["regenerate", "the same user"])
def test_end_reaches_the_last_of_many_new_ids(browser: Browser, clock: Clock, change: str) -> None:
    first = browser.session().id
    for end in ("invalidate", "revoke_session"):
        leaving = browser.session()
        first = leaving.id
        for _ in range(40):
            browser.visit(NEXT_IDS[change])
        assert browser.session().subject == "ann"
        if end == "invalidate":
            leaving.invalidate()
        else:
            assert browser.keeper.revoke_session(first)
        assert browser.session().subject is None
        sign_in(browser)


def test_logout_that_cannot_reach_the_last_new_id_raises_and_names_what_can_end_it(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealedstate._stored.revocations.MAX_SUCCESSORS", 16)
    leaving = browser.session()
    first = leaving.id
    for _ in range(17):
        browser.visit(Session.regenerate)
    for end in (leaving.invalidate, lambda: browser.keeper.revoke_session(first)):
        with pytest.raises(StorageError, match=r"more than 16 new ids.*revoke_subject"):
            end()
    assert leaving.subject == "ann"


def test_logout_with_a_cookie_whose_session_got_a_new_id_long_ago_ends_that_session(
    browser: Browser, clock: Clock, shop: Keeper
) -> None:
    for sign_out in (log_out, lambda session: setattr(session, "subject", None)):
        old = Browser(shop, browser.jar.copy())
        for _ in range(3):
            browser.visit(Session.regenerate)
            clock.forward(100)
        assert old.session().refusal == "signed-out"
        assert browser.session().subject == "ann"
        old.visit(sign_out)
        assert browser.session().subject is None
        assert old.jar.header() == ""
        sign_in(browser)


def test_logout_with_old_cookies_that_is_not_recorded_raises(
    browser: Browser, clock: Clock, shop: Keeper, store: Store
) -> None:
    old = Browser(shop, browser.jar.copy())
    browser.visit(Session.regenerate)
    clock.forward(100)
    session = old.session()
    assert session.refusal == "signed-out"
    store.fail(*WRITES)
    with pytest.raises(StorageError):
        session.invalidate()
    store.recover()
    assert browser.session().subject == "ann"


def test_sign_out_by_no_subject_follows_the_session_to_its_new_id(browser: Browser) -> None:
    leaving = browser.session()
    leaving.subject = None
    leaving["message"] = "bye"
    captured = browser.jar.copy()
    browser.visit(Session.regenerate)
    regenerated = browser.jar.copy()
    browser.jar.receive(browser.keeper.save(leaving))
    assert browser.read() == {"message": "bye"}
    for jar in (captured, regenerated):
        assert Browser(browser.keeper, jar).session().subject is None


def test_user_who_signs_in_again_gets_a_new_id_and_full_lifetimes(
    browser: Browser, clock: Clock
) -> None:
    captured, old = browser.jar.copy(), browser.session().id
    clock.forward(HOUR)
    sign_in(browser)
    session = browser.session()
    assert session.id != old
    assert session.created_at == clock.now
    assert session.expires_at == clock.now + ABSOLUTE
    assert dict(session) == {"cart": [1], "vault": "secret"}
    assert browser.keeper.is_ended(old)
    assert Browser(browser.keeper, captured).session().subject is None


def test_user_assigned_twice_in_one_request_signs_in_once(browser: Browser) -> None:
    session = browser.session()
    session.subject = "ann"
    new = session.id
    session.subject = "ann"
    assert session.id == new


# --- replaced ids -------------------------------------------------------------------------------

NEW_IDS: dict[str, Callable[[Session], object]] = {
    "regenerate": Session.regenerate,
    "another subject": lambda session: setattr(session, "subject", "bob"),
    "no subject": lambda session: setattr(session, "subject", None),
    "no subject, a value": lambda session: leave(session),
    "regenerate, empty": lambda session: renew_empty(session),
}


def leave(session: Session) -> None:
    session.subject = None
    session["message"] = "bye"


def renew_empty(session: Session) -> None:
    session.regenerate()
    session.clear()


@pytest.mark.parametrize("change", NEW_IDS)
def test_replaced_id_is_refused_and_its_rows_are_deleted(
    browser: Browser, store: Store, change: str
) -> None:
    captured, old = browser.jar.copy(), record_of(browser)
    rows = {PartRow(old.id, name).key for name in old.spilled}
    assert rows <= set(store.keys(PARTS))
    browser.visit(NEW_IDS[change])
    thief = Browser(browser.keeper, captured)
    assert thief.session().subject is None
    assert thief.read() == {}
    assert rows.isdisjoint(store.keys(PARTS))


def test_old_id_stays_valid_when_its_revocation_fails(browser: Browser, store: Store) -> None:
    session = browser.session()
    assert session["vault"] == "secret"
    session.regenerate()
    store.fail(*WRITES, context=SESSIONS)
    with pytest.raises(StorageError):
        browser.keeper.save(session)
    store.recover()
    assert browser.session().subject == "ann"
    assert browser.read() == {"cart": [1], "vault": "secret"}


@pytest.mark.parametrize("has_looked", [False, True], ids=["has not looked", "has looked"])
def test_late_request_does_not_replace_the_session_that_overtook_it(
    browser: Browser, shop: Keeper, has_looked: bool
) -> None:
    late = browser.session()
    assert not has_looked or late["cart"] == [1]
    browser.visit(Session.regenerate)
    late["csrf"] = "token of the old page"
    assert shop.save(late) == []
    assert browser.read()["cart"] == [1]
    visitor = Browser(shop)
    visitor.visit(setting(csrf="visitor"))
    late = visitor.session()
    assert not has_looked or late["csrf"] == "visitor"
    sign_in(visitor)
    late["csrf"] = "new"
    assert late.withheld == (None if has_looked else "replaced")
    assert shop.save(late) == []


def test_replaced_id_counts_as_logged_out_after_a_while(
    browser: Browser, clock: Clock, shop: Keeper
) -> None:
    before = browser.jar.header()
    browser.visit(Session.regenerate)
    clock.forward(60)
    old = shop.session(before)
    assert old.is_new
    assert old.withheld is None


def test_replaced_id_counts_as_logged_out_once_its_session_is(
    browser: Browser, shop: Keeper
) -> None:
    late, after = browser.jar.copy(), browser.jar
    browser.visit(Session.regenerate)
    assert Browser(shop, late.copy()).session().withheld == "replaced"
    Browser(shop, after).visit(log_out)
    old = Browser(shop, late)
    assert old.session().withheld is None
    sign_in(old)
    assert old.session().subject == "ann"


# --- revoking a subject -------------------------------------------------------------------------


def test_revoked_subject_is_signed_out_everywhere(
    browser: Browser, clock: Clock, store: Store
) -> None:
    phone, eve = Browser(node(clock, store)), Browser(node(clock, store))
    sign_in(phone)
    sign_in(eve, "eve")
    clock.forward(1)
    node(clock, store).revoke_subject("ann")
    assert browser.session().subject is None
    assert phone.session().subject is None
    assert eve.session().subject == "eve"


def test_revoked_subject_can_sign_in_within_the_same_second(browser: Browser, clock: Clock) -> None:
    for _ in range(3):
        captured = browser.jar.copy()
        browser.keeper.revoke_subject("ann")
        assert browser.session().subject is None
        sign_in(browser)
        assert browser.session().subject == "ann"
        assert Browser(browser.keeper, captured).session().subject is None
    clock.forward(REFRESH)
    assert browser.visit()
    assert browser.session().subject == "ann"


def test_slow_request_does_not_outlive_the_revocation_of_its_subject(browser: Browser) -> None:
    slow = browser.session()
    touch(slow)
    browser.keeper.revoke_subject("ann")
    assert browser.keeper.save(slow) == []
    assert browser.session().subject is None


def test_revoking_a_subject_needs_a_store_and_a_lookup_key(clock: Clock, store: Store) -> None:
    with pytest.raises(ConfigurationError, match="stor"):
        node(clock, None).revoke_subject("ann")
    with pytest.raises(ConfigurationError, match="lookup"):
        node(clock, store, Keyring(RING.keys)).revoke_subject("ann")
    with pytest.raises(UnsupportedValue, match="visitor"):
        node(clock, store).revoke_subject(None)  # type: ignore[arg-type]


def test_subject_that_cannot_be_revoked_stays_signed_in_and_the_call_raises(
    browser: Browser, store: Store
) -> None:
    store.fail(*WRITES, context=SUBJECTS)
    with pytest.raises(StorageError):
        browser.keeper.revoke_subject("ann")
    assert browser.session().subject == "ann"


# --- everything that was sealed before a time ---------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 20, 40, 60])
@pytest.mark.parametrize("revoker_ahead", [0, 20, 40, 60])
def test_revoked_seals_are_refused_and_the_next_sign_in_holds_by_all_clocks_within_the_skew(
    clock: Clock, store: Store, ahead: int, revoker_ahead: int
) -> None:
    skew = 60
    site = node(Clock(clock.now + ahead - 1), store)  # a second before
    captured = signed_in(site).jar
    # As a ring gives it after `revoke --before` at the moment of another node.
    ring = replace(RING, revoked_before=int(clock.now) + revoker_ahead + skew)
    nodes = [node(Clock(clock.now + other), store, ring) for other in range(0, skew + 1, 10)]
    for signing in nodes:
        browser = signed_in(signing)
        for looking in nodes:
            assert Browser(looking, captured).session().subject is None
            assert at(looking, browser).session().subject == "ann"
            assert at(looking, browser).visit(touch)
            assert at(looking, browser).session().subject == "ann"
