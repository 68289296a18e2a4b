"""The list of live sessions is true, is written as rarely as it says, and never grows too long."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from sealedstate import Keeper, Session
from sealedstate.adapting import SessionFace
from sealedstate.devices import EVERY, KIND, SessionRegistry, make_registry, require_registry
from sealedstate.errors import ConfigurationError, StorageUnavailable, UnsupportedValue
from sealedstate.session import id_bytes
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import OTHER_SP, SP, TOLERATED, Provider, a_login
from tests.support.jar import Browser, Clock, keeper

HOUR = 3600


class Site:
    """Two nodes with a list of sessions, of which a user may have at most `most`."""

    def __init__(self, most: int | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.store = ScriptedStorage(self.clock)
        given = {"storage": self.store, "accept_weak_store_for": TOLERATED, **settings}
        self.keepers: list[Keeper] = [keeper(self.clock, **given) for _ in range(2)]
        self.lists = [
            SessionRegistry(each, f"node-{number}", most=most)
            for number, each in enumerate(self.keepers)
        ]

    def sign_in(self, subject: str, node: int = 0) -> Browser:
        browser = Browser(self.keepers[node])
        browser.visit(lambda session: setattr(session, "subject", subject))
        return browser

    def users(self, *browsers: Browser) -> list[str | None]:
        """Who is signed in where."""
        return [browser.session().subject for browser in browsers]

    def writes(self) -> int:
        """How often the list was written."""
        operations = ScriptedStorage.WRITES
        calls = [call for call in self.store.calls if call.context == KIND.context]
        return sum(call.operation in operations for call in calls)


def test_function_says_of_each_session_where_it_is() -> None:
    site = Site()
    registry = SessionRegistry(
        site.keepers[0], lambda session: str(session.get("device", "")), every=60
    )
    browser = Browser(site.keepers[0])
    browser.visit(lambda session: session.update(device="Firefox"))
    browser.visit(lambda session: setattr(session, "subject", "ann"))
    browser.visit(lambda session: session.update(cart=["tea"]))
    assert browser.read() == {"device": "Firefox", "cart": ["tea"]}
    (live,) = registry.list("ann")
    assert (live.where, live.session_id) == ("Firefox", browser.session().id)


def test_each_node_lists_the_sessions_of_all_nodes_and_no_anonymous_ones() -> None:
    site = Site()
    site.sign_in("ann")
    Browser(site.keepers[0]).visit(lambda session: session.update(cart=["tea"]))
    began = int(site.clock())
    site.clock.forward(10)
    site.sign_in("bob", node=1)
    for each in site.lists:
        bob, ann = each.list()
        assert (bob.subject, bob.where, bob.started) == ("bob", "node-1", began + 10)
        assert (ann.subject, ann.where, ann.last_seen) == ("ann", "node-0", began)
        assert each.list("ann") == [ann]
        assert each.list("nobody") == []
        assert each.find(bob.id) == bob
        assert each.find("A" * 32) is None
        assert each.find("") is None


def test_ended_session_is_no_longer_listed_however_it_ended() -> None:
    site = Site()
    browsers = [site.sign_in("ann") for _ in range(3)]
    stays = site.sign_in("bob")
    browsers[0].visit(lambda session: session.invalidate())
    assert len(site.lists[1].list()) == 3
    assert site.lists[1].revoke(site.lists[1].list("ann")[0].id)
    assert len(site.lists[1].list()) == 2
    site.keepers[0].revoke_subject("ann")
    assert [each.subject for each in site.lists[1].list()] == ["bob"]
    assert [browser.session().subject for browser in browsers] == [None] * 3
    assert stays.session().subject == "bob"
    site.sign_in("ann")
    assert len(site.lists[1].list("ann")) == 1


def test_revoke_ends_one_session_on_every_node_and_revoke_all_every_session() -> None:
    site = Site()
    one, other = site.sign_in("ann"), site.sign_in("ann", node=1)
    listed = {each.where: each for each in site.lists[0].list()}
    assert site.lists[0].revoke(listed["node-1"].id)
    assert not site.lists[0].revoke(listed["node-1"].id)
    assert (one.session().subject, other.session().subject) == ("ann", None)
    browsers = [one, *(site.sign_in(f"user{number}", number % 2) for number in range(6))]
    assert site.lists[0].revoke_all() == 7
    assert [browser.session().subject for browser in browsers] == [None] * 7
    assert site.lists[1].list() == []


def test_session_with_a_new_id_replaces_the_listed_one() -> None:
    site = Site()
    browser = site.sign_in("ann")
    (before,) = site.lists[0].list()
    site.clock.forward(60)
    browser.visit(lambda session: session.regenerate())
    (after,) = site.lists[0].list()
    assert after.id != before.id
    assert after.started == before.started


def test_session_is_listed_for_exactly_as_long_as_it_lives() -> None:
    site = Site()
    browser = site.sign_in("ann")
    for _ in range(10):
        site.clock.forward(HOUR)
        browser.visit(lambda session: session.update(n=1))
        assert browser.session().subject == "ann"
        (listed,) = site.lists[0].list()
        assert listed.last_seen >= site.clock() - EVERY
    site.clock.forward(2 * HOUR + EVERY + 60)
    assert browser.session().subject is None
    assert site.lists[0].list() == []


def test_reads_write_nothing_and_saves_write_once_in_each_period() -> None:
    site = Site()
    browser = site.sign_in("ann")
    assert site.writes() == 2
    for _ in range(100):
        site.clock.forward(1)
        browser.visit()
    assert site.writes() == 2
    for number in range(3 * EVERY):
        site.clock.forward(1)
        browser.visit(lambda session, number=number: session.update(n=number))  # type: ignore[misc]
    assert site.writes() <= 2 + 2 * 4


def test_store_reveals_no_subject_and_no_session_id() -> None:
    site = Site()
    browser = site.sign_in("ann@example.org")
    session = browser.session()
    assert session.subject is not None
    (listed,) = site.lists[0].list()
    assert listed.session_id == session.id
    names = " ".join(site.store.keys(KIND.context))
    assert listed.id in names
    stored = site.store.read(KIND.context, listed.id)
    assert stored is not None
    for secret in (b"ann@example.org", id_bytes(session), session.id.encode()):
        assert secret not in stored.value
        assert secret not in names.encode()


@pytest.mark.parametrize("first", [b"\x01", b"\x07"], ids=["forged", "of a later format"])
def test_row_that_cannot_be_read_hides_no_other(first: bytes) -> None:
    site = Site()
    site.sign_in("ann")
    (ann,) = site.lists[0].list()
    site.sign_in("bob")
    stored = site.store.read(KIND.context, ann.id)
    assert stored is not None
    value = first + stored.value[1:]
    site.store.update(KIND.context, ann.id, value, None, stored.version + 1)
    assert [each.subject for each in site.lists[0].list()] == ["bob"]
    if first == b"\x01":
        assert site.lists[0].revoke_all() == 1
    else:
        with pytest.raises(StorageUnavailable, match="1 sessions can't be read here"):
            site.lists[0].revoke_all()
    assert site.lists[0].list() == []


def test_listed_session_can_be_logged_out_with_its_services() -> None:
    idp = Provider()
    node = idp.nodes[0]
    registry = SessionRegistry(node.keeper)
    user = idp.signed_in(a_login(SP), a_login(OTHER_SP))
    (live,) = registry.list()
    progress = node.logout.end(live)
    assert progress is not None
    assert {notice.entity_id for notice in progress} == {SP, OTHER_SP}
    assert user.subject is None
    assert node.logout.end(live) is None
    assert registry.list() == []


# --- a user's own sessions ------------------------------------------------------------------------


def test_user_sees_own_sessions_with_the_current_marked() -> None:
    site = Site()
    one, other = site.sign_in("ann"), site.sign_in("ann", node=1)
    site.sign_in("bob")
    for browser in (one, other):
        session = browser.session()
        own = site.lists[0].of(session)
        assert len(own) == 2
        assert [each.session_id for each in own if each.is_current] == [session.id]
        assert site.lists[1].of(SessionFace(session)) == own
    assert site.lists[0].of(Browser(site.keepers[0]).session()) == []
    assert not any(each.is_current for each in site.lists[0].list("ann"))
    with pytest.raises(TypeError, match="expected a session of sealedstate"):
        site.lists[0].of({"_user_id": "ann"})


def test_user_ends_own_sessions_only_and_not_the_current() -> None:
    site = Site()
    one, other, bobs = site.sign_in("ann"), site.sign_in("ann", node=1), site.sign_in("bob")
    (bob,) = site.lists[0].list("bob")
    ids = {each.is_current: each.id for each in site.lists[0].of(one.session())}
    for id in (bob.id, ids[True], "A" * 32, "", "\ud800", "x" * 10_000):
        assert site.lists[0].end_one(one.session(), id) is None
    assert site.lists[0].end_one(Browser(site.keepers[0]).session(), ids[False]) is None
    assert site.users(one, other, bobs) == ["ann", "ann", "bob"]
    ended = site.lists[0].end_one(one.session(), ids[False])
    assert ended is not None
    assert ended.where == "node-1"
    assert site.lists[0].end_one(one.session(), ids[False]) is None
    assert site.users(one, other, bobs) == ["ann", None, "bob"]


def test_user_ends_all_other_sessions() -> None:
    site = Site()
    others = [site.sign_in("ann", number % 2) for number in range(3)]
    one, bobs = site.sign_in("ann"), site.sign_in("bob")
    assert site.lists[0].end_others(one.session()) == 3
    assert site.lists[0].end_others(one.session()) == 0
    assert site.lists[0].end_others(Browser(site.keepers[0]).session()) == 0
    assert site.users(one, bobs, *others) == ["ann", "bob", None, None, None]


def test_others_are_ended_in_the_request_that_signs_in_again() -> None:
    site = Site()
    one, other = site.sign_in("ann"), site.sign_in("ann")

    def sign_in_alone(session: Session) -> None:
        session.subject = "ann"
        assert [each.is_current for each in site.lists[0].of(session)].count(True) == 1
        assert site.lists[0].end_others(session) == 1

    one.visit(sign_in_alone)
    assert site.users(one, other) == ["ann", None]


def test_row_that_cannot_be_read_is_reported_after_the_others_are_ended() -> None:
    site = Site()
    hidden, other, one = (site.sign_in("ann") for _ in range(3))
    row = next(each for each in site.lists[0].list() if each.session_id == hidden.session().id)
    stored = site.store.read(KIND.context, row.id)
    assert stored is not None
    value = b"\x07" + stored.value[1:]
    site.store.update(KIND.context, row.id, value, None, stored.version + 1)
    with pytest.raises(StorageUnavailable, match="1 sessions can't be read here"):
        site.lists[0].end_others(one.session())
    assert site.users(hidden, other, one) == ["ann", None, "ann"]


def test_row_in_the_index_of_another_user_is_not_listed() -> None:
    site = Site()
    one, bobs = site.sign_in("ann"), site.sign_in("bob")
    (bob,) = site.lists[0].list("bob")
    index = site.lists[0]._table.guessable_key("ann")
    site.store.add_member(KIND.context, index, bob.id, None)
    assert [each.subject for each in site.lists[0].of(one.session())] == ["ann"]
    assert site.lists[0].end_others(one.session()) == 0
    assert site.users(one, bobs) == ["ann", "bob"]


def test_sign_in_that_was_not_sent_is_no_device() -> None:
    site = Site(part_policies={"vault": "server"})
    browser = Browser(site.keepers[0])
    session = browser.session()
    session.subject, session["vault"] = "ann", "secret"
    site.store.fail("create", context="sealedstate.part")
    with pytest.raises(StorageUnavailable):
        site.keepers[0].save(session)
    assert site.lists[0].list() == []
    assert list(site.store.keys(KIND.context)) == []
    site.store.recover()
    site.keepers[0].save(session)
    assert len(site.lists[0].list("ann")) == 1


# --- at most n ------------------------------------------------------------------------------------


def test_sessions_that_were_last_used_longest_ago_end_after_a_sign_in() -> None:
    site = Site(most=2)
    browsers = []
    for number in range(4):
        browsers.append(site.sign_in("ann", number % 2))
        site.clock.forward(EVERY)
        browsers[0].visit(lambda session, number=number: session.update(n=number))  # type: ignore[misc]
        site.clock.forward(1)
    assert site.users(*browsers) == ["ann", None, None, "ann"]
    assert len(site.lists[0].list()) == 2
    assert site.users(site.sign_in("bob"), *browsers) == ["bob", "ann", None, None, "ann"]
    assert [each.subject for each in site.lists[1].list()].count("ann") == 2


def test_new_id_of_a_session_takes_no_further_place() -> None:
    site = Site(most=2)
    one, other = site.sign_in("ann"), site.sign_in("ann")
    for change in (
        lambda session: session.regenerate(),
        lambda session: setattr(session, "subject", "ann"),
    ):
        site.clock.forward(1)
        one.visit(change)
        other.visit(change)
        assert site.users(one, other) == ["ann", "ann"]
        assert len(site.lists[0].list()) == 2


def test_remembered_session_counts_as_long_as_it_lives() -> None:
    site = Site(most=1, longest_lifetime=30 * 24 * HOUR)
    remembered = Browser(site.keepers[0])

    def remember(session: Session) -> None:
        session.subject = "ann"
        until = site.clock() + 30 * 24 * HOUR
        session.limit(persistent=True, idle=30 * 24 * HOUR, until=until)

    remembered.visit(remember)
    site.clock.forward(29 * 24 * HOUR)
    assert site.users(remembered) == ["ann"]
    assert site.users(site.sign_in("ann"), remembered) == ["ann", None]


@pytest.mark.parametrize("failing", ["update", "read", "members", "create"])
def test_sign_in_does_not_depend_on_the_end_of_others(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(most=1)
    one = site.sign_in("ann")
    site.clock.forward(60)
    other = Browser(site.keepers[0])
    session = other.session()
    session.subject = "ann"
    # From the moment in which its own row was written.
    site.store.before(
        "add_member", act=lambda: site.store.fail(failing, times=None), context=KIND.context
    )
    with caplog.at_level(logging.WARNING, "sealedstate"):
        other.jar.receive(site.keepers[0].save(session))
    site.store.recover()
    if failing != "create":  # the first sign-in has created the order
        assert "what follows a save failed" in caplog.text
    assert site.users(one, other) == ["ann", "ann"]
    # Later rows make up for it, and so would a later sign-in.
    for number in range(2):
        site.clock.forward(EVERY)
        other.visit(lambda session, number=number: session.update(n=number))  # type: ignore[misc]
    assert site.users(one, other) == [None, "ann"]


def test_limit_that_is_new_ends_sessions_from_before_it() -> None:
    site = Site()
    browsers = [site.sign_in("ann") for _ in range(3)]
    site.clock.forward(2 * 60 + 1)  # no longer about to take a place
    registry = SessionRegistry(site.keepers[1], most=2)
    assert len(registry.list("ann")) == 3
    last = site.sign_in("ann", node=1)
    assert site.users(*browsers, last).count("ann") == 2
    assert site.users(last) == ["ann"]


def test_ended_session_gives_its_place_up() -> None:
    site = Site(most=2)
    stays = site.sign_in("ann")
    for _ in range(5):
        site.clock.forward(1)
        site.sign_in("ann").visit(lambda session: session.invalidate())
        assert site.users(stays) == ["ann"]
    site.sign_in("ann")
    assert len(site.lists[0].list()) == 2


# --- configuration --------------------------------------------------------------------------------


def test_limit_is_a_number_of_sessions() -> None:
    node = Site().keepers[0]
    for most in (0, -1, 1001, True, "5", 2.0):
        with pytest.raises(ConfigurationError, match="most: must be a whole number from 1 to 1000"):
            SessionRegistry(node, most=most)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedValue, match="where"):
        SessionRegistry(node, where=None)  # type: ignore[arg-type]


def test_registry_is_made_as_a_configuration_describes_it() -> None:
    node = Site().keepers[0]
    assert make_registry(SessionRegistry, node, None) is None
    made = make_registry(SessionRegistry, node, {"where": "here", "most": 2})
    registry = require_registry(made)
    Browser(node).visit(lambda session: setattr(session, "subject", "ann"))
    assert [each.where for each in registry.list()] == ["here"]
    for config, problem in {
        "text": ("5", "must be a dict with some of where, every and most; got '5'"),
        "name": ({"max": 5}, "must be a dict with some of where, every and most"),
        "value": ({"most": 0}, "most: must be a whole number"),
        "type": ({"where": 5}, "where"),
    }.values():
        with pytest.raises(ConfigurationError, match=r"^SEALEDSTATE_DEVICES: ") as error:
            make_registry(SessionRegistry, node, config)
        assert problem in str(error.value)
