"""One session's own lifetimes and persistence: given at sign-in or later, and kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import (
    ConfigurationError,
    Keeper,
    LateWrite,
    Session,
    SessionTooLarge,
    UnsupportedValue,
)
from sealedstate._cookies.header import field_bytes
from sealedstate._wire.record import NO_TERMS, Terms
from sealedstate.testing import ScriptedStorage
from tests.support.jar import RING, Browser, Clock
from tests.support.shop import (
    ABSOLUTE,
    HOUR,
    IDLE,
    NEXT_KEY,
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

DAY = 24 * HOUR
LONGEST = 30 * DAY
SKEW = 60
Store = ScriptedStorage


@pytest.fixture
def shop(clock: Clock, store: Store) -> Keeper:
    return node(clock, store, longest_lifetime=LONGEST)


def limited(keeper: Keeper, subject: str = "ann", **terms: Any) -> Browser:
    """A browser that signed in with these terms."""
    browser = Browser(keeper)

    def change(session: Session) -> None:
        session.subject = subject
        session.limit(**terms)
        session.update(cart=[1], vault="secret")

    assert browser.visit(change)
    return browser


def limit(**terms: Any) -> Callable[[Session], object]:
    return lambda session: session.limit(**terms)


def is_in(browser: Browser) -> bool:
    return browser.session().subject == "ann"


# --- how long, and how the browser keeps it -------------------------------------------------------


def test_remembered_session_outlives_the_settings_lifetimes_and_the_browser(
    shop: Keeper, clock: Clock
) -> None:
    began = int(clock.now)
    browser = limited(shop, idle=7 * DAY, until=began + LONGEST, persistent=True)
    while clock.now < began + LONGEST - 6 * DAY:
        clock.forward(6 * DAY)
        (line,) = browser.visit()
        assert f"; Max-Age={began + LONGEST - int(clock.now)};" in line
        assert browser.session()["vault"] == "secret"
    clock.now = began + LONGEST - 1
    assert is_in(browser)
    clock.forward(1)
    assert not is_in(browser)
    assert browser.keeper.counts["refused-expired"] == 1


def test_short_visit_ends_at_its_own_times(shop: Keeper, clock: Clock) -> None:
    browser = limited(shop, idle=600, until=int(clock.now) + HOUR)
    for _ in range(6):
        clock.forward(599)
        assert browser.visit()
    clock.forward(5)
    assert is_in(browser)
    clock.forward(1)  # an hour after the sign-in
    assert not is_in(browser)
    browser = limited(shop, idle=600)
    clock.forward(600)
    assert not is_in(browser)


@pytest.mark.parametrize(
    ("settings", "terms"), [(False, None), (False, True), (True, False), (True, None)]
)
def test_persistence_is_the_settings_unless_given(
    clock: Clock, store: Store, settings: bool, terms: bool | None
) -> None:
    browser = limited(node(clock, store, persistent=settings), persistent=terms)
    clock.forward(REFRESH)
    (line,) = browser.visit()
    assert (f"; Max-Age={ABSOLUTE - REFRESH};" in line) == (settings if terms is None else terms)


def test_core_of_a_persistent_session_leaves_room_for_its_max_age(clock: Clock) -> None:
    keeper = node(clock, None, profile="tight")
    allowed = keeper.deployment.profile.response_bytes
    other, sent = allowed - 2000, 0
    session = limited(keeper, persistent=True).session()
    for size in range(1300, 1500):
        session["cart"] = bytes(size)
        try:
            (line,) = keeper.save(session, other)
        except SessionTooLarge:
            break
        sent = field_bytes(line)
        assert "; Max-Age=" in line
        assert sent + other <= allowed
    assert 1900 < sent < 2000


def test_renewal_is_due_after_a_tenth_of_the_own_idle_lifetime(shop: Keeper, clock: Clock) -> None:
    browser = limited(shop, idle=300)
    clock.forward(29)
    assert browser.visit() == []
    clock.forward(1)
    assert browser.visit()


@pytest.mark.parametrize("change", [None, touch, setting(big="x" * 6000), Session.regenerate])
def test_terms_are_kept_over_refreshes_changes_and_new_ids(
    shop: Keeper, clock: Clock, change: Callable[[Session], object] | None
) -> None:
    until = int(clock.now) + LONGEST - 7
    browser = limited(shop, idle=DAY, until=until, persistent=True)
    for _ in range(3):
        clock.forward(20 * HOUR)
        assert browser.visit(change) if change else browser.visit()
        assert record_of(browser).terms == Terms(True, DAY, True)
        assert browser.session().expires_at == until


# --- when they are given --------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [False, True])
def test_terms_may_be_given_before_and_after_the_sign_in_of_their_request(
    shop: Keeper, clock: Clock, is_first: bool
) -> None:
    browser = limited(shop, "bob", idle=DAY, until=int(clock.now) + 2 * DAY)
    clock.forward(HOUR)
    until = int(clock.now) + LONGEST

    def change(session: Session) -> None:
        if is_first:
            session.limit(until=until, persistent=True)
        session.subject = "ann"
        if not is_first:
            session.limit(until=until)
            session.limit(persistent=True)
        assert session.expires_at == until

    browser.visit(change)
    # Nothing is left of bob's terms, such as the idle lifetime.
    assert record_of(browser).terms == Terms(True, None, True)
    assert browser.session().expires_at == until


@pytest.mark.parametrize(
    "ending",
    [
        lambda session: setattr(session, "subject", "bob"),
        lambda session: setattr(session, "subject", None),
        log_out,
    ],
)
def test_next_session_of_a_browser_begins_with_the_settings(
    shop: Keeper, clock: Clock, ending: Callable[[Session], object]
) -> None:
    browser = limited(shop, idle=DAY, until=int(clock.now) + LONGEST, persistent=True)

    def change(session: Session) -> None:
        ending(session)
        session["new"] = 1

    browser.visit(change)
    assert record_of(browser).terms == NO_TERMS
    assert browser.session().expires_at == clock.now + ABSOLUTE


def test_terms_that_were_given_before_a_logout_end_with_it(shop: Keeper, clock: Clock) -> None:
    browser = limited(shop)

    def change(session: Session) -> None:
        session.limit(idle=DAY, persistent=True)
        session.invalidate()
        session["new"] = 1

    browser.visit(change)
    assert record_of(browser).terms == NO_TERMS


def test_visitor_without_a_user_may_have_terms(shop: Keeper, clock: Clock) -> None:
    browser = Browser(shop)
    assert browser.visit(limit(persistent=True)) == []  # there is no session yet
    until = int(clock.now) + LONGEST

    def change(session: Session) -> None:
        session["cart"] = [1]
        session.limit(until=until, idle=LONGEST, persistent=True)

    assert browser.visit(change)
    clock.forward(LONGEST - 1)
    assert dict(browser.session()) == {"cart": [1]}


# --- a session that exists ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms", [{"idle": 600}, {"idle": 3 * DAY}, {"until": HOUR}, {"until": DAY}]
)
def test_other_times_of_a_living_session_take_a_new_id_and_end_the_old_cookie(
    shop: Keeper, clock: Clock, terms: dict[str, int]
) -> None:
    browser = limited(shop)
    before, old = browser.session().id, at(shop, browser)
    old.jar = browser.jar.copy()
    if "until" in terms:
        terms = {"until": int(clock.now) + terms["until"]}
    assert browser.visit(limit(**terms))
    session = browser.session()
    assert (session.subject, session["cart"], session["vault"]) == ("ann", [1], "secret")
    assert session.id != before
    clock.forward(61)
    assert not is_in(old)
    assert is_in(browser)


def test_without_a_store_the_cookie_of_before_keeps_its_terms(clock: Clock) -> None:
    keeper = node(clock, None, longest_lifetime=LONGEST)
    browser = signed_in(keeper)
    old = at(keeper, browser)
    old.jar = browser.jar.copy()
    browser.visit(limit(idle=60))
    clock.forward(60)
    assert not is_in(browser)
    assert is_in(old)


def test_same_terms_again_change_nothing_and_send_nothing(shop: Keeper, clock: Clock) -> None:
    until = int(clock.now) + LONGEST
    browser = limited(shop, idle=DAY, until=until, persistent=True)
    before = browser.session().id
    clock.forward(REFRESH - 1)
    for terms in (
        {"idle": DAY},
        {"until": until},
        {"until": until + REFRESH - 2},
        {"persistent": True},
        {},
    ):
        assert browser.visit(limit(**terms)) == []
    assert browser.session().id == before


def test_other_persistence_of_a_living_session_keeps_its_id(shop: Keeper) -> None:
    browser = limited(shop)
    before = browser.session().id
    (line,) = browser.visit(limit(persistent=True))
    assert "; Max-Age=" in line
    assert browser.session().id == before
    (line,) = browser.visit(limit(persistent=False))
    assert "; Max-Age=" not in line


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idle", 0),
        ("idle", -1),
        ("idle", LONGEST + 1),
        ("idle", 3.5),
        ("idle", True),
        ("idle", "60"),
        ("idle", timedelta(days=1)),
        ("until", True),
        ("until", "2027-01-01T00:00:00Z"),
        ("until", datetime(2100, 1, 1)),
        ("until", math.nan),
        ("until", math.inf),
        ("until", timedelta(days=1)),
        ("until", 1_800_000_000_000),
        ("persistent", 1),
        ("persistent", "yes"),
    ],
)
def test_term_that_is_no_time_is_refused_at_once_by_name(
    shop: Keeper, name: str, value: object
) -> None:
    browser = limited(shop)
    session = browser.session()
    with pytest.raises(UnsupportedValue, match=rf"^{name}: must be "):
        session.limit(**{name: value})  # type: ignore[arg-type]
    assert shop.save(session) == []


def test_term_beyond_longest_lifetime_or_over_is_refused_with_its_name(
    shop: Keeper, clock: Clock
) -> None:
    session = limited(shop).session()
    now = int(clock.now)
    for until in (now, now - 1, now + LONGEST + 2, datetime.fromtimestamp(now - 5, UTC)):
        with pytest.raises(UnsupportedValue, match="longest_lifetime"):
            session.limit(until=until)
    with pytest.raises(UnsupportedValue, match="longest_lifetime"):
        Browser(node(clock, None)).session().limit(idle=ABSOLUTE + 1)


def test_until_is_taken_as_seconds_or_as_a_datetime(shop: Keeper, clock: Clock) -> None:
    until = int(clock.now) + DAY
    for value in (until, until + 0.9, datetime.fromtimestamp(until, UTC)):
        assert limited(shop, until=value).session().expires_at == until


def test_time_that_cannot_be_compared_or_printed_is_an_unsupported_value(shop: Keeper) -> None:
    class NoOffset(tzinfo):
        def utcoffset(self, _: datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    session = limited(shop).session()
    times: list[Any] = [10**5000, -(10**5000), math.inf, datetime(2027, 1, 1, tzinfo=NoOffset())]
    for time in times:
        with pytest.raises(UnsupportedValue, match="until: must be") as caught:
            session.limit(until=time)
        assert len(str(caught.value)) < 300
    times = [10**5000, -(10**5000), "\x1b[31m"]
    for time in times:
        with pytest.raises(UnsupportedValue, match="idle: must be") as caught:
            session.limit(idle=time)
        assert str(caught.value).isprintable()


def test_limit_after_the_headers_raises(shop: Keeper) -> None:
    session = limited(shop).session()
    session.mark_headers_sent()
    with pytest.raises(LateWrite):
        session.limit(idle=60)


@pytest.mark.parametrize("longest", [ABSOLUTE - 1, 401 * DAY])
def test_longest_lifetime_is_between_the_absolute_lifetime_and_400_days(
    clock: Clock, longest: int
) -> None:
    with pytest.raises(ConfigurationError, match="longest_lifetime: must be at least absolute"):
        node(clock, None, longest_lifetime=longest)


# --- the latest end -------------------------------------------------------------------------------


def test_no_session_lives_longer_than_longest_lifetime_after_its_sign_in(
    shop: Keeper, clock: Clock
) -> None:
    began = int(clock.now)
    browser = limited(shop, idle=LONGEST)
    clock.forward(HOUR)
    browser.visit(limit(until=int(clock.now) + LONGEST))
    assert browser.session().expires_at == began + LONGEST
    clock.now = began + LONGEST - 1
    assert is_in(browser)
    clock.forward(1)
    assert not is_in(browser)


def test_session_ends_by_the_longest_lifetime_of_the_node_that_looks(
    shop: Keeper, clock: Clock, store: Store
) -> None:
    began = int(clock.now)
    browser = limited(shop, idle=LONGEST, until=began + LONGEST)
    shorter = node(clock, store, longest_lifetime=2 * DAY)
    clock.now = began + 2 * DAY - 1
    assert is_in(at(shorter, browser))
    assert at(shorter, browser).session().expires_at == began + 2 * DAY
    clock.forward(1)
    assert not is_in(at(shorter, browser))
    assert is_in(browser)


def test_settings_that_were_shortened_end_what_has_no_own_end(
    shop: Keeper, clock: Clock, store: Store
) -> None:
    began = int(clock.now)
    usual = limited(shop, idle=ABSOLUTE, until=began + ABSOLUTE)
    longer = limited(shop, idle=ABSOLUTE, until=began + ABSOLUTE + 1)
    shorter = node(clock, store, absolute_lifetime=IDLE, longest_lifetime=LONGEST)
    clock.forward(IDLE)
    assert not is_in(at(shorter, usual))
    assert is_in(at(shorter, longer))


# --- what is known at once ------------------------------------------------------------------------


def test_end_of_a_session_is_known_in_the_request_that_signs_in(shop: Keeper, clock: Clock) -> None:
    browser = Browser(shop)
    session = browser.session()
    assert session.expires_at is None
    session.subject = "ann"
    known = session.expires_at
    assert known == int(clock.now) + ABSOLUTE
    clock.forward(5)  # a slow request
    browser.jar.receive(shop.save(session))
    assert browser.session().expires_at == known == shop.info(browser.session()).expires_at


def test_end_of_a_session_is_known_where_everywhere_was_signed_out_just_before(
    shop: Keeper, clock: Clock
) -> None:
    sign_in(Browser(shop))
    shop.revoke_subject("ann")
    for terms in ({}, {"until": int(clock.now) + 20}, {"until": int(clock.now) + DAY}):
        browser = Browser(shop)
        session = browser.session()
        session.subject = "ann"
        session.limit(**terms)  # type: ignore[arg-type]
        known = session.expires_at
        browser.jar.receive(shop.save(session))
        assert known is not None
        assert known <= (browser.session().expires_at or 0) <= known + SKEW
        assert is_in(browser)


def test_session_info_shows_the_own_times(shop: Keeper, clock: Clock) -> None:
    until = int(clock.now) + 3 * DAY
    browser = limited(shop, idle=DAY, until=until)
    clock.forward(HOUR)
    info = shop.info(browser.session())
    assert (info.idle_expires_at, info.expires_at) == (clock.now - HOUR + DAY, until)


# --- what others keep as long ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda keeper, session: session.invalidate(),
        lambda keeper, session: keeper.revoke_session(session.id),
        lambda keeper, session: keeper.revoke_subject("ann"),
        lambda keeper, session: session.regenerate(),
    ],
)
def test_ended_session_stays_ended_for_its_whole_own_life(
    shop: Keeper, clock: Clock, store: Store, end: Callable[[Keeper, Session], object]
) -> None:
    began = int(clock.now)
    browser = limited(shop, idle=LONGEST, until=began + LONGEST)
    old = at(shop, browser)
    old.jar = browser.jar.copy()
    browser.visit(lambda session: end(shop, session))
    for moment in (61, ABSOLUTE - 1, ABSOLUTE + SKEW + 1, LONGEST // 2, LONGEST - 1):
        clock.now = began + moment
        assert not is_in(old)


def test_node_that_does_not_know_of_longer_lives_ends_by_what_the_ring_promises(
    clock: Clock, store: Store
) -> None:
    began = int(clock.now)
    ring = replace(RING, keep=LONGEST + SKEW)
    longer = node(clock, store, ring, longest_lifetime=LONGEST)
    former = node(clock, store, ring)
    browsers = [limited(longer, idle=LONGEST, until=began + LONGEST) for _ in range(2)]
    former.revoke_subject("ann")
    clock.forward(2 * SKEW + 1)
    browsers.append(limited(longer, idle=LONGEST, until=began + LONGEST))
    former.revoke_session(browsers[-1].session().id)
    for moment in (ABSOLUTE + SKEW + 1, LONGEST // 2, LONGEST - 1):
        clock.now = began + moment
        assert not any(is_in(at(longer, browser)) for browser in browsers)


def test_withheld_session_is_ended_for_as_long_as_any_node_could_open_it(
    clock: Clock, store: Store
) -> None:
    began = int(clock.now)
    ring = replace(RING, keep=LONGEST + SKEW)
    longer = node(clock, store, ring, longest_lifetime=LONGEST)
    browser = limited(longer, idle=LONGEST, until=began + LONGEST)
    disabled = replace(ring, keys=(NEXT_KEY, replace(RING.keys[0], disabled=True)))
    old = at(longer, browser)
    old.jar = browser.jar.copy()
    at(node(clock, store, disabled), browser).visit(log_out)
    for moment in (ABSOLUTE + SKEW + 1, LONGEST - 1):
        clock.now = began + moment
        assert not is_in(old)


def test_stored_part_of_a_lengthened_session_lives_as_long_as_the_session(
    shop: Keeper, clock: Clock
) -> None:
    browser = limited(shop)
    browser.visit(limit(idle=LONGEST, until=int(clock.now) + LONGEST))
    clock.forward(LONGEST - 1)
    assert browser.session()["vault"] == "secret"


@given(
    idle=st.none() | st.integers(1, LONGEST),
    until=st.none() | st.integers(1, LONGEST),
    pauses=st.lists(st.integers(0, 3 * DAY), max_size=6),
)
def test_session_lives_exactly_as_long_as_its_terms_say(
    idle: int | None, until: int | None, pauses: list[int]
) -> None:
    clock = Clock()
    began = int(clock.now)
    keeper = node(clock, None, longest_lifetime=LONGEST)
    browser = limited(keeper, idle=idle, until=None if until is None else began + until)
    own_idle, end = idle or IDLE, began + (until or ABSOLUTE)
    sealed_at = began
    for pause in pauses:
        clock.forward(pause)
        alive = clock.now < end and clock.now < sealed_at + own_idle
        assert is_in(browser) == alive
        if not alive:
            return
        if browser.visit():
            sealed_at = int(clock.now)
        assert clock.now - sealed_at <= max(own_idle // 10, 0)
