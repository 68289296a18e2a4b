"""The contents of a revoked session can be read for its logout, and never make a session."""

from __future__ import annotations

from typing import Any

import pytest

from sealedstate import Session, UnsupportedValue
from sealedstate._request.load import EndedRecord, read_revoked
from sealedstate.session import id_bytes
from sealedstate.storage import MemoryStorage
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, Jar, keeper

NAMES = ("small", "big", "absent")
SMALL, BIG = "s" * 100, "b" * 2600


class Site:
    def __init__(self, **given: Any) -> None:
        self.clock = Clock()
        self.store = ScriptedStorage(self.clock)
        self.keeper = keeper(self.clock, **{"storage": self.store, "profile": "roomy"} | given)
        self.browser = Browser(self.keeper)
        self.browser.visit(lambda session: setattr(session, "subject", "ann"))
        self.browser.visit(lambda session: session.update(small=SMALL, big=BIG, more=BIG, x=BIG))
        session = self.browser.session()
        assert session.subject == "ann"
        self.id, self.text_id = id_bytes(session), session.id

    def read(self, jar: Jar | None = None) -> EndedRecord | None:
        header = (jar or self.browser.jar).header()
        return read_revoked(self.keeper.deployment, self.keeper.session(header), NAMES)

    def end(self) -> Jar:
        """A copy of the cookies of before."""
        jar = self.browser.jar.copy()
        self.browser.visit(lambda session: session.invalidate())
        return jar


def test_only_the_22_characters_of_an_id_are_revoked_or_looked_up() -> None:
    site = Site()
    id_ = site.text_id
    near = (id_[:-1], id_ + "=", id_ + "==", f" {id_}", f"{id_}\n", id_[:-1] + "B", "é" * 22)
    for wrong in (b"", site.id, site.id.hex(), id_.encode(), None, 5, "", *near):
        for ask in (site.keeper.revoke_session, site.keeper.is_ended):
            with pytest.raises(UnsupportedValue, match=r"22 characters of a Session\.id") as caught:
                ask(wrong)  # type: ignore[arg-type]
            assert id_[:8] not in str(caught.value)
    assert site.browser.session().subject == "ann"
    assert not site.keeper.is_ended(id_)
    assert site.keeper.revoke_session(id_)
    assert site.keeper.is_ended(id_)
    assert not site.keeper.revoke_session(id_)
    assert site.browser.session().subject is None


def test_read_revoked_returns_nothing_for_a_live_session() -> None:
    assert Site().read() is None


@pytest.mark.parametrize("parts", [{}, {"big": "cookie"}], ids=["any", "cookie"])
def test_read_revoked_returns_what_the_cookies_hold_and_makes_no_session(
    parts: dict[str, str],
) -> None:
    site = Site(part_policies=parts)
    jar = site.end()
    for _ in range(2):
        found = site.read(jar)
        assert found is not None
        assert (found.id, found.subject, found.from_outside) == (site.id, "ann", False)
        assert found.parts["small"] == SMALL
        assert found.parts["big"] == BIG
        assert "absent" not in found.parts
        assert "ann" not in repr(found)
        assert site.keeper.session(jar.header()).subject is None
        assert dict(site.keeper.session(jar.header())) == {}


def test_read_revoked_reads_stored_parts_or_leaves_them_out() -> None:
    site = Site(part_policies={"big": "server"})
    site.keeper.revoke_session(site.text_id)  # deletes no rows: it does not know their names
    found = site.read()
    assert found is not None
    assert found.parts["big"] == BIG
    site.store.delete_context("sealedstate.part")
    found = site.read()
    assert found is not None
    assert "big" not in found.parts
    assert found.torn == frozenset()


def test_read_revoked_reports_parts_whose_cookies_did_not_all_arrive() -> None:
    site = Site(part_policies={"small": "cookie", "big": "cookie"}, storage=MemoryStorage(Clock()))
    jar = site.end()
    pairs = [pair for pair in jar.header().split("; ") if not pair.startswith("__Host-Http-s-1=")]
    session = site.keeper.session("; ".join(pairs))
    found = read_revoked(site.keeper.deployment, session, NAMES)
    assert found is not None
    assert found.torn == {"big"} - found.parts.keys()
    assert found.torn


def test_read_revoked_reports_the_revocation_of_the_subject() -> None:
    site = Site()
    site.keeper.revoke_subject("ann")
    found = site.read()
    assert found is not None
    assert found.from_outside


def test_read_revoked_returns_nothing_for_a_replaced_id() -> None:
    site = Site()
    old = site.browser.jar.copy()
    site.browser.visit(lambda session: session.regenerate())
    assert site.read(old) is None
    site.clock.forward(3600)
    assert site.read(old) is None


def test_read_revoked_returns_nothing_for_expired_forged_or_no_cookies() -> None:
    site = Site()
    jar = site.end()
    assert site.read(Jar()) is None
    session = site.keeper.session(jar.header()[:-3] + "AAA")
    assert read_revoked(site.keeper.deployment, session, NAMES) is None
    site.clock.forward(2 * 3600)
    assert site.read(jar) is None


def test_read_revoked_returns_nothing_for_an_unknown_key_or_without_a_store() -> None:
    site = Site()
    jar = site.end()
    other = keeper(site.clock, keys="sealedstate-key-1:0a0b0c0d:" + KEY, storage=site.store)
    assert read_revoked(other.deployment, other.session(jar.header()), NAMES) is None
    bare = keeper(site.clock)
    assert read_revoked(bare.deployment, bare.session(jar.header()), NAMES) is None


KEY = "3q2-7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs"


def test_read_revoked_returns_nothing_while_the_store_is_down() -> None:
    site = Site()
    jar = site.end()
    site.store.fail("read")
    session: Session = site.keeper.session(jar.header())
    assert read_revoked(site.keeper.deployment, session, NAMES) is None
    assert session.withheld == "store-down"
