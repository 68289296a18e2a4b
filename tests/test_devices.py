"""The list of live sessions is true, and is written as rarely as it says."""

from __future__ import annotations

import pytest

from sealedstate import Keeper
from sealedstate.devices import EVERY, KIND, SessionRegistry
from sealedstate.errors import StorageUnavailable
from sealedstate.session import id_bytes
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import OTHER_SP, SP, TOLERATED, Provider, a_login
from tests.support.jar import Browser, Clock, keeper

HOUR = 3600


class Site:
    """Two nodes with a list of sessions."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = ScriptedStorage(self.clock)
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
