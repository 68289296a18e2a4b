"""What follows sessions is told in time, and can keep a cookie from being sent."""

from __future__ import annotations

from typing import Any

import pytest

from sealedstate import Keeper, Session, StorageUnavailable
from sealedstate._wire.record import Place
from sealedstate.errors import ConfigurationError
from sealedstate.hooks import Save, SessionHooks
from sealedstate.storage import MemoryStorage
from tests.support.jar import Browser, Clock, keeper


class Notes(SessionHooks):
    """Notes what it is told, and raises what it is given."""

    def __init__(self, store: MemoryStorage) -> None:
        self.store = store
        self.told: list[tuple[Any, ...]] = []
        self.errors: dict[str, Exception] = {}

    def before_save(self, save: Save) -> None:
        self._note("before_save", save.has_new_id, save.places.get("big"), self._rows())

    def before_sending(self, save: Save) -> None:
        self._note("before_sending", save.record.subject, save.arrived_id, self._rows())

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        self._note("not_saved", session.subject, arrived_id)

    def after_revoke(self, session_id: bytes, now: float) -> None:
        self._note("after_revoke", session_id, self._rows())

    def after_revoke_subject(self, subject: str, now: float) -> None:
        self._note("after_revoke_subject", subject)

    def _note(self, what: str, *facts: Any) -> None:
        self.told.append((what, *facts))
        if what in self.errors:
            raise self.errors[what]

    def _rows(self) -> int:
        """How many parts are stored at this moment."""
        return len(list(self.store.keys("sealedstate.part")))

    @property
    def names(self) -> list[str]:
        return [note[0] for note in self.told]


class Site:
    def __init__(self) -> None:
        clock = Clock()
        self.store = MemoryStorage(clock)
        self.keeper: Keeper = keeper(clock, storage=self.store, part_policies={"big": "server"})
        self.notes = Notes(self.store)
        self.keeper.attach(self.notes)
        self.browser = Browser(self.keeper)

    def sign_in(self) -> bytes:
        self.browser.visit(lambda session: setattr(session, "subject", "ann"))
        session = self.browser.session()
        assert session.subject == "ann"
        self.notes.told.clear()
        return session.raw_id


def test_a_save_is_told_before_anything_is_written_and_before_it_is_sent() -> None:
    site = Site()
    session_id = site.sign_in()
    site.browser.visit(lambda session: session.update(big="x"))
    assert site.notes.told == [
        ("before_save", False, Place.SPILLED, 0),
        ("before_sending", "ann", session_id, 1),
    ]


def test_a_new_id_is_new_and_the_old_one_is_revoked_in_between() -> None:
    site = Site()
    session_id = site.sign_in()
    site.browser.visit(lambda session: session.regenerate())
    assert site.notes.names == ["before_save", "after_revoke", "before_sending"]
    assert site.notes.told[0][1] is True
    assert site.notes.told[1][1] == session_id


@pytest.mark.parametrize("when", ["before_save", "before_sending"])
def test_what_fails_keeps_the_cookie_from_being_sent(when: str) -> None:
    site = Site()
    site.sign_in()
    before = site.browser.jar.header()
    site.notes.errors[when] = StorageUnavailable("broken")
    with pytest.raises(StorageUnavailable):
        site.browser.visit(lambda session: session.update(n=1))
    assert site.browser.jar.header() == before


def test_a_revocation_is_told_while_the_stored_parts_are_still_there() -> None:
    site = Site()
    session_id = site.sign_in()
    site.browser.visit(lambda session: session.update(big="x"))
    site.notes.told.clear()
    site.browser.visit(lambda session: session.invalidate())
    assert site.notes.told == [("after_revoke", session_id, 1)]
    assert list(site.store.keys("sealedstate.part")) == []


def test_a_follower_that_fails_after_a_revocation_costs_no_logout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    site.sign_in()
    site.notes.errors["after_revoke"] = StorageUnavailable("broken")
    site.browser.visit(lambda session: session.invalidate())
    assert site.browser.session().subject is None
    assert "could not be removed" in caplog.text


def test_a_request_that_a_logout_overtook_is_told_as_not_saved() -> None:
    site = Site()
    session_id = site.sign_in()
    slow = site.browser.session()
    slow["n"] = 1
    assert site.keeper.revoke_session(session_id)
    assert site.keeper.save(slow) == []
    assert site.notes.names == ["after_revoke", "not_saved"]
    # The same where it would have gone on under a new id.
    assert not site.keeper.revoke_session(session_id)


def test_a_session_is_ended_by_its_id_without_its_cookie() -> None:
    site = Site()
    session_id = site.sign_in()
    assert site.keeper.revoke_session(session_id)
    assert site.browser.session().subject is None
    site.keeper.revoke_subject("ann")
    assert site.notes.told[-1] == ("after_revoke_subject", "ann")


def test_reading_tells_nobody() -> None:
    site = Site()
    site.sign_in()
    site.browser.visit()
    assert site.notes.told == []


def test_a_follower_says_what_it_needs_of_a_store() -> None:
    clock = Clock()
    with pytest.raises(ConfigurationError, match="logins needs a store"):
        Site().keeper.attach(SessionHooks(), ("logins",))
    bare = keeper(clock)
    bare.attach(SessionHooks())
    with pytest.raises(ConfigurationError):
        bare.attach(SessionHooks(), ("logins",))
    with pytest.raises(ConfigurationError):
        bare.revoke_session(bytes(16))
