"""The one door to what stood in a session that was logged out: read again, never a session."""

from __future__ import annotations

from typing import Any

import pytest

from sealedstate import Session, StorageUnavailable
from sealedstate._request.load import EndedRecord, read_revoked
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock, Jar, keeper

NAMES = ("small", "big", "absent")
SMALL, BIG = "s" * 100, "b" * 2600


class Site:
    def __init__(self, **given: Any) -> None:
        self.clock = Clock()
        self.store = MemoryStorage(self.clock)
        self.keeper = keeper(self.clock, **{"storage": self.store, "profile": "roomy"} | given)
        self.browser = Browser(self.keeper)
        self.browser.visit(lambda session: setattr(session, "subject", "ann"))
        self.browser.visit(lambda session: session.update(small=SMALL, big=BIG, more=BIG, x=BIG))
        session = self.browser.session()
        assert session.subject == "ann"
        self.id = session.raw_id

    def door(self, jar: Jar | None = None) -> EndedRecord | None:
        header = (jar or self.browser.jar).header()
        return read_revoked(self.keeper.deployment, self.keeper.session(header), NAMES)

    def end(self) -> Jar:
        """A copy of the cookies of before."""
        jar = self.browser.jar.copy()
        self.browser.visit(lambda session: session.invalidate())
        return jar


def test_it_is_shut_as_long_as_the_session_lives() -> None:
    assert Site().door() is None


@pytest.mark.parametrize("parts", [{}, {"big": "cookie"}], ids=["any", "cookie"])
def test_it_opens_what_the_cookies_hold_and_makes_no_session_of_it(parts: dict[str, str]) -> None:
    site = Site(part_policies=parts)
    jar = site.end()
    for _ in range(2):
        found = site.door(jar)
        assert found is not None
        assert (found.id, found.subject, found.from_outside) == (site.id, "ann", False)
        assert found.parts["small"] == SMALL
        assert found.parts["big"] == BIG
        assert "absent" not in found.parts
        assert "ann" not in repr(found)
        assert site.keeper.session(jar.header()).subject is None
        assert dict(site.keeper.session(jar.header())) == {}


def test_parts_in_the_store_are_read_from_there_or_missing() -> None:
    site = Site(part_policies={"big": "server"})
    site.keeper.revoke_session(site.id)  # which deletes none, for it does not know their names
    found = site.door()
    assert found is not None
    assert found.parts["big"] == BIG
    site.store.delete_context("sealedstate.part")
    found = site.door()
    assert found is not None
    assert "big" not in found.parts
    assert found.torn == frozenset()


def test_parts_whose_cookies_did_not_all_come_are_torn() -> None:
    site = Site(part_policies={"small": "cookie", "big": "cookie"}, storage=MemoryStorage(Clock()))
    jar = site.end()
    pairs = [pair for pair in jar.header().split("; ") if not pair.startswith("__Host-s-1=")]
    session = site.keeper.session("; ".join(pairs))
    found = read_revoked(site.keeper.deployment, session, NAMES)
    assert found is not None
    assert found.torn == {"big"} - found.parts.keys()
    assert found.torn


def test_it_says_when_all_sessions_of_a_user_were_ended() -> None:
    site = Site()
    site.keeper.revoke_subject("ann")
    found = site.door()
    assert found is not None
    assert found.from_outside


def test_it_is_shut_for_a_session_that_goes_on_under_a_new_id() -> None:
    site = Site()
    old = site.browser.jar.copy()
    site.browser.visit(lambda session: session.regenerate())
    assert site.door(old) is None
    site.clock.forward(3600)
    assert site.door(old) is None


def test_it_is_shut_for_what_has_expired_or_is_forged_or_is_nothing() -> None:
    site = Site()
    jar = site.end()
    assert site.door(Jar()) is None
    session = site.keeper.session(jar.header()[:-3] + "AAA")
    assert read_revoked(site.keeper.deployment, session, NAMES) is None
    site.clock.forward(2 * 3600)
    assert site.door(jar) is None


def test_it_is_shut_for_what_this_node_can_not_judge_and_without_a_store() -> None:
    site = Site()
    jar = site.end()
    other = keeper(site.clock, keys="sealedstate-key-1:0a0b0c0d:" + KEY, storage=site.store)
    assert read_revoked(other.deployment, other.session(jar.header()), NAMES) is None
    bare = keeper(site.clock)
    assert read_revoked(bare.deployment, bare.session(jar.header()), NAMES) is None


KEY = "3q2-7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs"


def test_it_is_shut_while_the_store_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    jar = site.end()

    def down(*_: Any) -> Any:
        raise StorageUnavailable("down")

    monkeypatch.setattr(site.store, "read", down)
    session: Session = site.keeper.session(jar.header())
    assert read_revoked(site.keeper.deployment, session, NAMES) is None
    assert session.withheld == "store-down"
