"""The list of live sessions: true, up to what is said of it, and written as rarely as that."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sealedstate import Keeper
from sealedstate.errors import ConfigurationError, StorageUnavailable
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import SessionRegistry
from sealedstate.sso.sessions import CONTEXT, EVERY
from sealedstate.storage import MemoryStorage
from tests.support.identity_providers import SERVED, TOLERATED, Provider, a_login
from tests.support.jar import Browser, Clock, keeper
from tests.support.login_makers import OTHER_SP, SP, a_key

HOUR = 3600


class Counting(MemoryStorage):
    """Counts what is written to our context."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.writes: Counter[str] = Counter()

    def create(self, context: str, *rest: Any, **named: Any) -> bool:
        self.writes[context] += 1
        return super().create(context, *rest, **named)

    def update(self, context: str, *rest: Any, **named: Any) -> bool:
        self.writes[context] += 1
        return super().update(context, *rest, **named)

    def add_member(self, context: str, *rest: Any, **named: Any) -> None:
        self.writes[context] += 1
        super().add_member(context, *rest, **named)


class Site:
    """Two nodes with a list of sessions."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Counting(self.clock)
        self.keepers = [self._keeper() for _ in range(2)]
        self.lists = [
            SessionRegistry(each, f"node-{number}") for number, each in enumerate(self.keepers)
        ]

    def _keeper(self) -> Keeper:
        return keeper(self.clock, storage=self.store, accept_weak_store_for=TOLERATED)

    def sign_in(self, subject: str, node: int = 0) -> Browser:
        browser = Browser(self.keepers[node])
        browser.visit(lambda session: setattr(session, "subject", subject))
        return browser


def test_each_node_lists_the_sessions_of_all() -> None:
    site = Site()
    site.sign_in("ann")
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


def test_visitors_who_are_nobody_are_not_listed() -> None:
    site = Site()
    Browser(site.keepers[0]).visit(lambda session: session.update(cart=["tea"]))
    assert site.lists[0].list() == []


def test_an_ended_session_is_no_longer_listed_whoever_ended_it() -> None:
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


def test_one_session_is_ended_by_its_id_on_every_node() -> None:
    site = Site()
    one, other = site.sign_in("ann"), site.sign_in("ann", node=1)
    listed = {each.where: each for each in site.lists[0].list()}
    assert site.lists[0].revoke(listed["node-1"].id)
    assert not site.lists[0].revoke(listed["node-1"].id)
    assert (one.session().subject, other.session().subject) == ("ann", None)


def test_a_user_who_signs_in_after_being_signed_out_everywhere_is_listed() -> None:
    site = Site()
    site.sign_in("ann")
    site.lists[0].revoke_subject("ann")
    site.sign_in("ann")
    assert len(site.lists[1].list("ann")) == len(site.lists[1].list()) == 1


def test_all_can_be_ended_at_once() -> None:
    site = Site()
    browsers = [site.sign_in(f"user{number}", number % 2) for number in range(6)]
    assert site.lists[0].revoke_all() == 6
    assert [browser.session().subject for browser in browsers] == [None] * 6
    assert site.lists[1].list() == []


def test_a_new_id_takes_the_place_of_the_old_one() -> None:
    site = Site()
    browser = site.sign_in("ann")
    (before,) = site.lists[0].list()
    site.clock.forward(60)
    browser.visit(lambda session: session.regenerate())
    (after,) = site.lists[0].list()
    assert after.id != before.id
    assert after.started == before.started


def test_a_session_is_listed_as_long_as_it_lives_and_no_longer() -> None:
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


def test_reading_writes_nothing_and_saving_seldom() -> None:
    site = Site()
    browser = site.sign_in("ann")
    assert site.store.writes[CONTEXT] == 2
    for _ in range(100):
        site.clock.forward(1)
        browser.visit()
    assert site.store.writes[CONTEXT] == 2
    for number in range(10 * EVERY):
        site.clock.forward(1)
        browser.visit(lambda session, number=number: session.update(n=number))  # type: ignore[misc]
    assert site.store.writes[CONTEXT] <= 2 + 2 * 11


def test_nobody_reads_from_the_store_who_is_there() -> None:
    site = Site()
    browser = site.sign_in("ann@example.org")
    session = browser.session()
    assert session.subject is not None
    (listed,) = site.lists[0].list()
    assert listed.raw_id == session.raw_id
    names = " ".join(site.store.keys(CONTEXT))
    assert listed.id in names
    stored = site.store.read(CONTEXT, listed.id)
    assert stored is not None
    for secret in (b"ann@example.org", session.raw_id, session.id.encode()):
        assert secret not in stored.value
        assert secret not in names.encode()


@pytest.mark.parametrize("first", [b"\x01", b"\x07"], ids=["forged", "of a later format"])
def test_a_row_that_can_not_be_read_hides_no_other(first: bytes) -> None:
    site = Site()
    site.sign_in("ann")
    (ann,) = site.lists[0].list()
    site.sign_in("bob")
    stored = site.store.read(CONTEXT, ann.id)
    assert stored is not None
    value = first + stored.value[1:]
    site.store.update(CONTEXT, ann.id, value, None, stored.version + 1)
    assert [each.subject for each in site.lists[0].list()] == ["bob"]
    if first == b"\x01":
        assert site.lists[0].revoke_all() == 1
    else:
        with pytest.raises(StorageUnavailable, match="1 sessions can't be read here"):
            site.lists[0].revoke_all()
    assert site.lists[0].list() == []


def test_an_administrator_ends_a_session_and_its_services_are_told() -> None:
    idp = Provider(part_policies=SERVED)
    node = idp.nodes[0]
    listing = SessionRegistry(node.keeper)
    user = idp.signed_in(a_login(SP), a_login(OTHER_SP))
    (live,) = listing.list()
    progress = node.logout.end(live)
    assert progress is not None
    assert {notice.entity_id for notice in progress} == {SP, OTHER_SP}
    assert user.subject is None
    assert node.logout.end(live) is None
    assert listing.list() == []


def test_it_needs_a_store_and_a_lookup_key() -> None:
    clock = Clock()
    with pytest.raises(ConfigurationError):
        SessionRegistry(keeper(clock))
    keys = StaticKeys(Keyring((a_key(1),)))
    bare = keeper(clock, storage=MemoryStorage(clock), keys=keys, accept_weak_store_for=TOLERATED)
    with pytest.raises(ConfigurationError, match="--lookup"):
        SessionRegistry(bare)
    with pytest.raises(ConfigurationError, match="sessions needs a store that"):
        SessionRegistry(
            keeper(clock, storage=MemoryStorage(clock), accept_weak_store_for=["revocation"])
        )
