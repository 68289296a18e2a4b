"""A withheld cookie is left alone only as long as another node may be right."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sealedstate import Keeper, Key, Session, SessionWithheld, Settings
from sealedstate._stored.revocations import SESSIONS
from sealedstate.errors import OperatorError, StorageUnavailable
from sealedstate.events import Event, EventLog
from sealedstate.keyring import Keyring
from sealedstate.rotation.source import RotatingKeySource
from sealedstate.rotation.transitions import revoke
from sealedstate.testing import ScriptedStorage
from tests.support.documents import Document
from tests.support.jar import RING, Browser, Clock, keeper
from tests.support.ring_storages import HASTY, RELOAD_EVERY, MemoryRing, rotation_config
from tests.support.shop import (
    ABSOLUTE,
    HOUR,
    IDLE,
    NEXT_KEY,
    REFRESH,
    ROTATED,
    at,
    log_out,
    node,
    record_of,
    setting,
    sign_in,
    signed_in,
    touch,
)
from tests.support.withheld import LAG, WITHHOLDINGS, disabled_key, unknown_kid

Store = ScriptedStorage
STRANGE = Keyring((NEXT_KEY,), lookup=RING.lookup)


class DatedKeys:
    """Keys that were last read when the test says."""

    def __init__(self, ring: Keyring, read_at: float) -> None:
        self.ring, self.moment = ring, read_at

    def keyring(self) -> Keyring:
        return self.ring

    def read_at(self) -> float:
        return self.moment


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The labels of the events that were logged as warnings."""
    records = [each for each in caplog.records if hasattr(each, "sealedstate")]
    return [each.getMessage().split()[0] for each in records if each.levelno == logging.WARNING]


# --- the end of each withholding ----------------------------------------------------------------


def test_each_reason_to_keep_a_cookie_states_its_end_and_has_a_test() -> None:
    rows = Document("events.md").table("reasons")
    assert {reason for reason, row in rows.items() if row[0]} == {
        *WITHHOLDINGS,
        "crowded",
        "cross-site",
    }
    known = {reason for reason, row in rows.items() if row[1]}
    assert known == {reason for reason, case in WITHHOLDINGS.items() if case.is_known}


@pytest.mark.parametrize("reason", WITHHOLDINGS)
def test_withholding_lasts_until_its_end_and_no_longer(
    reason: str, browser: Browser, clock: Clock, store: Store
) -> None:
    case, sealed_at = WITHHOLDINGS[reason], clock.now
    other = at(case.arrange(browser, clock, store), browser)
    assert case.ends_after is not None
    before = other.jar.header()
    clock.now = sealed_at + case.ends_after - 1
    assert other.session().withheld == reason
    assert other.visit(setting(csrf="new")) == []
    assert other.jar.header() == before
    clock.now = sealed_at + case.ends_after
    store.recover()
    session = other.session()
    assert session.withheld is None
    if case.opens:
        assert session.subject == "ann"
        return
    assert (session.subject, dict(session)) == (None, {})
    assert other.visit(setting(csrf="new"))
    assert other.jar.header() != before


@pytest.mark.parametrize("reason", ["kid-unknown", "kid-disabled", "record", "replaced"])
def test_cookie_whose_withholding_is_over_is_replaced_for_good(
    reason: str, browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(WITHHOLDINGS[reason].arrange(browser, clock, store), browser)
    clock.forward(WITHHOLDINGS[reason].ends_after or 0)
    other.visit(setting(state="of a sign-in under way"))
    assert other.read() == {"state": "of a sign-in under way"}


@pytest.mark.parametrize("ahead", [LAG, LAG + 1])
@pytest.mark.parametrize("reason", ["kid-unknown", "format-unknown", "not-yet"])
def test_time_further_ahead_than_any_node_may_be_ends_a_withholding_at_once(
    reason: str, ahead: int, browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(WITHHOLDINGS[reason].arrange(browser, clock, store), browser)
    behind = Clock(clock.now - ahead)
    other = at(node(behind, store, other.keeper.deployment.keyring()), other)
    assert other.session().withheld == (reason if ahead == LAG else None)
    assert bool(other.visit(setting(csrf="new"))) is (ahead > LAG)


def test_unknown_kid_is_over_only_when_the_keys_were_read_late_enough(
    browser: Browser, clock: Clock, store: Store
) -> None:
    sealed_at = clock.now
    keys = DatedKeys(STRANGE, sealed_at)
    other = at(node(clock, store, keys=keys), browser)
    # However late it is: this node has not read its keys since.
    for age in (LAG + 1, IDLE, 300 * 24 * HOUR):
        clock.now = sealed_at + age
        assert other.session().withheld == "kid-unknown"
        assert other.visit(setting(csrf="new")) == []
    keys.moment = sealed_at + LAG
    assert other.session().withheld == "kid-unknown"
    keys.moment = sealed_at + LAG + 1
    assert other.session().withheld is None
    assert other.keeper.counts["refused-kid-removed"] == 1
    assert other.visit(setting(csrf="new"))


def test_key_that_arrives_while_a_cookie_is_judged_opens_it(
    browser: Browser, clock: Clock, store: Store
) -> None:
    class Overtaken(DatedKeys):
        """Another thread loads the key between the look-up and the question for the moment."""

        def read_at(self) -> float:
            self.ring = RING
            return clock.now

    other = at(node(clock, store, keys=Overtaken(STRANGE, 0)), browser)
    clock.forward(LAG + 1)
    assert other.session().subject == "ann"


@pytest.mark.parametrize("given", [{}, {"announce": 300}])
def test_announce_of_the_settings_holds_for_lists(given: dict[str, Any], clock: Clock) -> None:
    key, other = (Key.generate(os.urandom) for _ in range(2))
    announce = given.get("announce", 900)
    browser = signed_in(keeper(clock, keys=key.export()))
    late = at(keeper(clock, keys=[other.export()], **given), browser)
    clock.forward(announce + 60)
    assert late.session().withheld == "kid-unknown"
    clock.forward(1)
    assert late.session().withheld is None


def test_key_of_a_dated_list_seals_for_announce_after_its_successor_begins(clock: Clock) -> None:
    old, new = (Key.generate(os.urandom) for _ in range(2))
    date = "2027-01-15T08:00:00Z"  # when the clock starts
    texts = [f"{new.export()}@{date}", old.export()]
    behind = signed_in(keeper(clock, keys=old.export()))
    for seconds, reads in ((900 + 60, "ann"), (901 + 60, None)):
        clock.now = 1_800_000_000.0 + seconds
        behind.visit(touch)
        assert at(keeper(clock, keys=texts), behind).session().subject == reads


def test_disabled_key_ends_with_its_session_and_with_a_logout(
    browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(disabled_key(browser, clock, store), browser)
    Browser(node(clock, store, ROTATED), browser.jar.copy()).visit(log_out)
    assert other.session().withheld is None
    assert other.keeper.counts["refused-revoked"] == 1


def test_cookie_behind_too_many_others_opens_when_the_browser_sends_fewer(
    browser: Browser, clock: Clock, store: Store
) -> None:
    good = browser.jar.header()
    junk = [f"__Host-Http-s=junk{number}" for number in range(16)]
    shop, heard = heard_by(clock, store, RING)
    session = shop.session("; ".join([*junk, good]))
    session["csrf"] = "new"
    assert session.withheld == "crowded"
    assert shop.save(session) == []
    assert "withheld-long" in [event.name for event in heard]
    assert shop.session("; ".join([*junk[:15], good])).subject == "ann"


def test_forged_token_of_a_disabled_key_is_not_kept(
    browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(disabled_key(browser, clock, store), Browser(browser.keeper))
    text = browser.jar.ours()["__Host-Http-s"]
    other.jar.receive([f"__Host-Http-s={text[:-8]}AAAAAAAA; Path=/; Secure; HttpOnly"])
    assert other.session().withheld is None
    assert other.keeper.counts["refused-tag"] == 1


def test_cookie_that_another_node_may_open_outweighs_one_that_is_over(
    browser: Browser, clock: Clock, store: Store
) -> None:
    over = browser.jar.header()
    clock.forward(IDLE)
    kept = signed_in(node(clock, store, STRANGE)).jar.header()
    for header in (f"{over}; {kept}", f"{kept}; {over}"):
        assert browser.keeper.session(header).withheld == "kid-unknown"


# --- ending a session that cannot be judged -----------------------------------------------------

KNOWN = [name for name, case in WITHHOLDINGS.items() if case.is_known]


def no_subject(session: Session) -> None:
    session.subject = None


SIGN_OUTS = pytest.mark.parametrize("sign_out", [Session.invalidate, no_subject])


@SIGN_OUTS
@pytest.mark.parametrize("reason", [name for name in WITHHOLDINGS if name not in KNOWN])
def test_sign_out_of_a_withheld_session_with_an_unknown_id_raises(
    reason: str,
    sign_out: Callable[[Session], object],
    browser: Browser,
    clock: Clock,
    store: Store,
) -> None:
    before = browser.jar.header()
    other = at(WITHHOLDINGS[reason].arrange(browser, clock, store), browser)
    kept = other.jar.header()
    with pytest.raises(SessionWithheld, match=reason):
        other.visit(sign_out)
    assert other.jar.header() == kept
    assert browser.keeper.session(before).subject == "ann"


@SIGN_OUTS
@pytest.mark.parametrize("reason", KNOWN)
def test_withheld_session_with_a_known_id_can_be_ended(
    reason: str,
    sign_out: Callable[[Session], object],
    browser: Browser,
    clock: Clock,
    store: Store,
) -> None:
    case, captured = WITHHOLDINGS[reason], browser.jar.header()
    other = at(case.arrange(browser, clock, store), browser)
    if reason == "store-down":
        with pytest.raises(StorageUnavailable):
            sign_out(other.session())
    session = other.session()
    assert session.withheld == reason
    store.recover()
    sign_out(session)
    assert session.withheld is None
    other.jar.receive(other.keeper.save(session))
    assert "__Host-Http-s" not in other.jar.ours() or reason == "ambiguous"
    assert node(clock, store).session(captured).subject is None


def test_end_of_a_withheld_session_outlives_every_field_that_is_unknown_here(
    browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(WITHHOLDINGS["field-unknown"].arrange(browser, clock, store), browser)
    created_at = int(clock.now)
    other.visit(log_out)
    (end,) = [
        call for call in store.calls if call.context == SESSIONS and "create" in call.operation
    ]
    assert end.arguments["expires_at"] >= (created_at + ABSOLUTE + 60) * 1000


def test_logout_without_a_store_makes_the_browser_forget_a_withheld_cookie(clock: Clock) -> None:
    browser = signed_in(node(clock, None))
    ring = Keyring((NEXT_KEY, replace(RING.keys[0], disabled=True)))
    other = at(node(clock, None, ring), browser)
    other.visit(log_out)
    assert other.jar.header() == ""


def test_one_unknown_cookie_beside_a_known_one_leaves_both_alone(
    browser: Browser, clock: Clock, store: Store
) -> None:
    unknown = signed_in(
        node(clock, store, Keyring((Key.generate(os.urandom),), lookup=RING.lookup))
    )
    other = disabled_key(browser, clock, store)
    session = other.session(f"{browser.jar.header()}; {unknown.jar.header()}")
    with pytest.raises(SessionWithheld):
        session.invalidate()
    assert browser.session().subject == "ann"


# --- a node whose keys are old --------------------------------------------------------------------


def test_node_whose_keys_are_stale_opens_and_renews_nothing(
    browser: Browser, clock: Clock, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    keys = DatedKeys(RING, clock.now)
    other = at(node(clock, store, keys=keys), browser)
    clock.forward(900)
    assert other.visit()  # still young enough
    clock.forward(REFRESH)
    for _ in range(3):
        assert other.visit() == []
        assert other.session().subject == "ann"
    assert other.keeper.counts["refresh-skipped"] == other.keeper.counts["keys-stale"] == 3
    assert warned(caplog) == ["keys-stale"]
    assert other.visit(setting(cart=[2]))  # a change is sent
    clock.forward(REFRESH)
    keys.moment = clock.now
    assert other.visit()


# --- warnings -----------------------------------------------------------------------------------


def heard_by(clock: Clock, store: Store | None, ring: Keyring) -> tuple[Keeper, list[Event]]:
    heard: list[Event] = []
    return node(clock, store, ring, observers=[heard.append], monotonic=clock), heard


def test_write_that_is_withheld_for_long_is_an_event_and_at_most_one_warning_a_minute(
    browser: Browser, clock: Clock, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    shop, heard = heard_by(clock, store, STRANGE)
    other = at(shop, browser)
    clock.forward(120)
    other.visit(setting(csrf="new"))
    assert [event.name for event in heard if event.operation is None] == ["refused", "not-sent"]
    for _ in range(90):
        clock.forward(1)
        other.visit(setting(csrf="new"))
        other.visit()  # a read is no loss
    long = [event for event in heard if event.name == "withheld-long"]
    assert len(long) == shop.counts["withheld-long-kid-unknown"] == 90
    assert long[0].kid == RING.keys[0].kid.hex()
    assert "__Host-Http-s" in (long[0].detail or "")
    assert "cookie_name" in (long[0].detail or "")
    assert warned(caplog) == ["withheld-long-kid-unknown"] * 2


@pytest.mark.parametrize(
    "reason", [name for name in WITHHOLDINGS if name not in ("replaced", "unbound")]
)
def test_each_reason_that_lasts_has_a_sentence_for_the_operator(
    reason: str, browser: Browser, clock: Clock, store: Store
) -> None:
    case = WITHHOLDINGS[reason]
    other = at(case.arrange(browser, clock, store), browser)
    if case.ends_after == 1:
        other = at(node(Clock(clock.now - LAG), store), browser)
    else:
        clock.forward(121)
    other.visit(setting(csrf="new"))
    counts = other.keeper.counts
    # A store that is down is an error in the log at each request already.
    assert counts[f"withheld-long-{reason}"] == (0 if reason in ("store-down", "not-yet") else 1)


def test_cookie_of_a_missing_key_is_a_warning_while_its_session_may_live(
    browser: Browser, clock: Clock, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    shop, heard = heard_by(clock, store, STRANGE)
    clock.forward(LAG + 1)
    for _ in range(2):
        at(shop, browser).session().get("cart")
    missing = [event for event in heard if event.name == "key-missing"]
    assert len(missing) == 2
    assert missing[0].kid == RING.keys[0].kid.hex()
    assert "__Host-Http-s" in (missing[0].detail or "")
    assert warned(caplog) == ["key-missing"]
    # A visitor who comes back after months: the session is over anyway.
    clock.forward(ABSOLUTE)
    at(shop, browser).session().get("cart")
    assert shop.counts["key-missing"] == 2
    assert shop.counts["refused-kid-removed"] == 3


@pytest.mark.parametrize("reason", ["not-yet", "format-unknown", "field-unknown", "record"])
def test_authentic_cookie_that_is_given_up_is_expired_and_a_warning_while_it_may_live(
    reason: str,
    browser: Browser,
    clock: Clock,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    longest = 3 * 24 * HOUR
    browser = signed_in(node(clock, store, absolute_lifetime=longest, idle_lifetime=longest))
    case, sealed_at = WITHHOLDINGS[reason], clock.now
    case.arrange(browser, clock, store)
    now = Clock(sealed_at - LAG - 1 if reason == "not-yet" else sealed_at + 24 * HOUR)
    heard: list[Event] = []
    given: dict[str, Any] = {"observers": [heard.append], "monotonic": now}
    shop = node(now, store, absolute_lifetime=longest, idle_lifetime=longest, **given)
    for _ in range(2):
        session = at(shop, browser).session()
        assert (session.refusal, session.withheld, session.subject) == ("expired", None, None)
    given_up = [event for event in heard if event.name == "given-up"]
    assert [event.reason for event in given_up] == [reason] * 2
    assert ("clocks" if reason == "not-yet" else "newer release") in (given_up[0].detail or "")
    assert warned(caplog) == [f"given-up-{reason}"]
    if reason != "not-yet":
        now.now = sealed_at + longest
        assert at(shop, browser).session().refusal == "expired"
        assert shop.counts[f"given-up-{reason}"] == 2


@pytest.mark.parametrize("given", [{"realm": "other"}, {"same_site": "None", "partitioned": True}])
def test_cookie_of_these_keys_that_does_not_open_is_a_warning_that_names_the_cookie(
    given: dict[str, Any],
    browser: Browser,
    clock: Clock,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = node(clock, store, monotonic=clock, **given)
    for _ in range(3):
        assert at(shop, browser).session().refusal is None
    assert shop.counts["given-up-tag"] == 3
    assert warned(caplog) == ["given-up-tag"]
    message = next(each.getMessage() for each in caplog.records if "given-up" in each.getMessage())
    for word in (RING.keys[0].kid.hex(), "__Host-Http-s", "realm", "partitioning", "cookie_name"):
        assert word in message
    clock.forward(ABSOLUTE)
    at(shop, browser).session().get("cart")
    assert shop.counts["given-up-tag"] == 3


# --- rotating sources -----------------------------------------------------------------------------


@pytest.fixture
def home(clock: Clock) -> MemoryRing:
    home = MemoryRing()
    RotatingKeySource(home, rotation_config(clock), EventLog(), creates_missing=True)
    return home


def rotating(home: MemoryRing, clock: Clock, **given: Any) -> Keeper:
    source = RotatingKeySource(home, rotation_config(clock), EventLog())
    return keeper(clock, keys=source, **given)


def replace_key(home: MemoryRing, clock: Clock) -> None:
    """Another node has the ring written with a key that seals at once."""
    assert home.ring is not None
    home.ring = revoke(home.ring, home.ring.keys[0].kid, int(clock()), os.urandom)


def test_cookie_of_a_key_that_this_node_cannot_load_yet_is_kept(
    clock: Clock, home: MemoryRing
) -> None:
    late = rotating(home, clock)
    before = home.ring
    replace_key(home, clock)
    after = home.ring
    browser = signed_in(rotating(home, clock))
    clock.forward(1)
    home.ring = before  # a copy that lags behind
    other, header = at(late, browser), browser.jar.header()
    for _ in range(HASTY.announce + HASTY.skew - 1):
        assert other.session().withheld == "kid-unknown"
        assert other.visit(setting(csrf="new")) == []
        clock.forward(1)
    home.ring = after
    clock.forward(RELOAD_EVERY)
    assert other.session().subject == "ann"
    assert other.jar.header() == header


def test_cookie_of_a_removed_key_is_replaced_once_the_ring_was_read(
    clock: Clock, home: MemoryRing
) -> None:
    browser = signed_in(keeper(clock))  # of another application
    other = at(rotating(home, clock), browser)
    clock.forward(HASTY.announce + HASTY.skew)
    assert other.session().withheld == "kid-unknown"
    home.error = OperatorError("the store is down")
    clock.forward(HOUR)
    assert other.session().withheld == "kid-unknown"
    assert other.visit(setting(csrf="new")) == []
    home.error = None
    clock.forward(1)
    assert other.session().withheld is None
    assert other.visit(setting(csrf="new"))


def test_flood_of_unknown_kids_neither_loads_the_ring_nor_hides_a_good_cookie(
    clock: Clock, home: MemoryRing
) -> None:
    shop = rotating(home, clock)
    browser = signed_in(shop)
    flood = signed_in(keeper(clock)).jar.ours()["__Host-Http-s"]
    text, loads = browser.jar.ours()["__Host-Http-s"], home.loads
    for number in range(3000):
        clock.forward(0.001)
        invented = f"AQ{number:04}{flood[6:]}"
        session = shop.session(f"__Host-Http-s={invented}")
        session["csrf"] = "new"
        assert session.withheld == "kid-unknown"
        assert shop.save(session) == []
        if number % 100 == 0:
            assert browser.session().subject == "ann"
            assert shop.session(f"__Host-Http-s={invented}; __Host-Http-s={text}").subject == "ann"
    assert home.loads <= loads + 1 + 3


def test_settings_know_a_clock_that_continues_while_the_machine_sleeps() -> None:
    running = Settings(keys=Key.generate(os.urandom).export()).monotonic
    assert abs(running() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60


def test_sign_in_replaces_what_is_withheld(browser: Browser, clock: Clock, store: Store) -> None:
    other = at(unknown_kid(browser, clock, store), browser)
    sign_in(other, "bob")
    assert record_of(other).subject == "bob"


def test_new_id_for_a_withheld_visitor_without_parts_deletes_nothing(
    browser: Browser, clock: Clock, store: Store
) -> None:
    other = at(unknown_kid(browser, clock, store), browser)
    assert other.visit(Session.regenerate) == []
