"""Hooks run at fixed points of a save or a revocation, and may stop the cookie of a save."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from sealedstate import Keeper, Session
from sealedstate._stored.parts import CONTEXT as PARTS
from sealedstate._stored.revocations import SESSIONS, SUBJECTS
from sealedstate._wire.record import Place, format_id
from sealedstate.errors import ConfigurationError, NoPrimaryKey, StorageUnavailable
from sealedstate.hooks import SaveEvent, SessionHooks
from sealedstate.session import id_bytes
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock, keeper


class Recorder(SessionHooks):
    """Appends to `events` each call with its facts, and raises the error of its name."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.errors: dict[str, Exception] = {}

    def before_save(self, event: SaveEvent) -> None:
        self._record("before_save", event.has_new_id, event.places.get("big"))

    def before_sending(self, event: SaveEvent) -> None:
        self._record("before_sending", event.record.subject, event.arrived_id)

    def after_save(self, event: SaveEvent) -> None:
        self._record("after_save")

    def after_failed_save(self, event: SaveEvent) -> None:
        self._record("after_failed_save", event.has_new_id)

    def not_saved(self, session: Session, arrived_id: bytes, now: float) -> None:
        self._record("not_saved", session.subject, arrived_id)

    def after_revoke(self, session_id: bytes, now: float) -> None:
        self._record("after_revoke", session_id)

    def after_revoke_subject(self, subject: str, now: float) -> None:
        self._record("after_revoke_subject", subject)

    def _record(self, name: str, *facts: Any) -> None:
        self.events.append((name, *facts))
        if name in self.errors:
            raise self.errors[name]


class Site:
    """A keeper with hooks. `events`: their calls, the nonces drawn, the writes to the store."""

    def __init__(self) -> None:
        clock = Clock()
        self.hooks = Recorder()
        self.events = self.hooks.events
        self.store = ScriptedStorage(clock)
        for operation in self.store.WRITES:
            self.store.before(operation, act=self._record_write, times=None)
        self.keeper: Keeper = keeper(
            clock, storage=self.store, part_policies={"big": "server"}, random=self._random
        )
        self.keeper.add_hooks(self.hooks)
        self.browser = Browser(self.keeper)

    def sign_in(self, **parts: object) -> bytes:
        def change(session: Session) -> None:
            session.subject = "ann"
            session.update(parts)

        self.browser.visit(change)
        session = self.browser.session()
        assert session.subject == "ann"
        self.events.clear()
        return id_bytes(session)

    @property
    def order(self) -> list[str]:
        return [event[0] for event in self.events]

    def _random(self, size: int) -> bytes:
        if size == 32:
            self.events.append(("nonce",))
        return os.urandom(size)

    def _record_write(self) -> None:
        call = self.store.calls[-1]
        self.events.append((f"{call.operation} {call.context}",))


# Sealing a token draws one nonce: a row has its own before it is written, then comes the core,
# and then the row that revokes an old id.
ORDERS: dict[str, tuple[Callable[[Session], object], list[str]]] = {
    "a part in the core": (
        lambda session: session.update(small=1),
        ["before_save", "nonce", "before_sending", "after_save", "cookie"],
    ),
    "a stored part": (
        lambda session: session.update(big="y"),
        [
            "before_save",
            "nonce",
            f"update {PARTS}",
            "nonce",
            "before_sending",
            "after_save",
            "cookie",
        ],
    ),
    "a new id": (
        lambda session: session.regenerate(),
        [
            "before_save",
            "nonce",
            f"create {PARTS}",
            "nonce",
            "nonce",
            f"create {SESSIONS}",
            "after_revoke",
            f"delete {PARTS}",
            "before_sending",
            "after_save",
            "cookie",
        ],
    ),
    "a logout": (
        lambda session: session.invalidate(),
        ["nonce", f"create {SESSIONS}", "after_revoke", f"delete {PARTS}", "cookie"],
    ),
    "no change": (len, ["cookie"]),
}


@pytest.mark.parametrize("change", ORDERS)
def test_save_runs_hooks_and_writes_in_a_fixed_order(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """before_save, rows, the core, the old id revoked, before_sending, after_save, the cookie."""
    # A cookie that holds a word of firewalls by chance would be sealed again.
    monkeypatch.setattr("sealedstate._wire.token.has_refused_word", lambda text: False)
    site = Site()
    site.sign_in(big="x")
    act, expected = ORDERS[change]
    site.browser.visit(act)
    assert [*site.order, "cookie"] == expected


def test_row_of_a_removed_part_is_deleted_by_the_save_after_next() -> None:
    site = Site()
    site.sign_in(big="x")
    site.browser.visit(lambda session: session.pop("big"))
    assert f"delete {PARTS}" not in site.order
    site.events.clear()
    site.browser.visit(lambda session: session.update(small=1))
    assert site.order == ["before_save", "nonce", "before_sending", f"delete {PARTS}", "after_save"]


def test_revocation_of_a_subject_is_recorded_before_its_hook_runs() -> None:
    site = Site()
    site.sign_in()
    site.keeper.revoke_subject("ann")
    # The mark of the lookup key, and the watermark.
    assert site.order == [*["nonce", f"create {SUBJECTS}"] * 2, "after_revoke_subject"]


def test_new_id_that_a_logout_overtakes_is_not_saved() -> None:
    site = Site()
    session_id = site.sign_in(big="x")

    def log_out() -> None:
        site.events.clear()
        assert site.keeper.revoke_session(format_id(session_id))

    site.store.before("create", context=SESSIONS, act=log_out)
    assert site.browser.visit(lambda session: session.regenerate()) == []
    assert site.order[-1] == "not_saved"
    assert "before_sending" not in site.order


def test_hooks_get_the_facts_of_a_save() -> None:
    site = Site()
    session_id = site.sign_in()
    site.browser.visit(lambda session: session.update(big="x"))
    site.browser.visit(lambda session: session.regenerate())
    assert [event for event in site.events if "_" in event[0]] == [
        ("before_save", False, Place.SPILLED),
        ("before_sending", "ann", session_id),
        ("after_save",),
        ("before_save", True, Place.SPILLED),
        ("after_revoke", session_id),
        ("before_sending", "ann", session_id),
        ("after_save",),
    ]


@pytest.mark.parametrize("hook", ["before_save", "before_sending"])
def test_failing_hook_of_a_save_stops_the_cookie(hook: str) -> None:
    site = Site()
    site.sign_in()
    before = site.browser.jar.header()
    site.hooks.errors[hook] = StorageUnavailable("broken")
    with pytest.raises(StorageUnavailable):
        site.browser.visit(lambda session: session.update(big="x"))
    assert site.browser.jar.header() == before
    assert (f"create {PARTS}" in site.order) == (hook == "before_sending")
    assert site.events[-1] == ("after_failed_save", False)
    assert "after_save" not in site.order


@pytest.mark.parametrize("error", [StorageUnavailable("broken"), NoPrimaryKey("broken")])
def test_cookie_does_not_depend_on_what_follows_a_save(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    site.sign_in()
    site.hooks.errors["after_save"] = error
    site.browser.visit(lambda session: session.update(small=1))
    assert site.browser.session()["small"] == 1
    assert "what follows a save failed: broken" in caplog.text
    site.hooks.errors |= {"before_save": KeyError("hook"), "after_failed_save": error}
    with pytest.raises(KeyError, match="hook"):
        site.browser.visit(lambda session: session.update(small=2))
    assert "a clean-up after a failed save failed: broken" in caplog.text


def test_failing_hook_of_a_revocation_does_not_stop_the_logout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    site.sign_in(big="x")
    site.hooks.errors["after_revoke"] = StorageUnavailable("broken")
    site.browser.visit(lambda session: session.invalidate())
    assert site.browser.session().subject is None
    assert list(site.store.keys(PARTS)) == []
    assert "broken" in caplog.text


def test_request_that_a_logout_overtakes_is_reported_as_not_saved() -> None:
    site = Site()
    session_id = site.sign_in()
    slow = site.browser.session()
    slow["n"] = 1
    assert site.keeper.revoke_session(format_id(session_id))
    assert site.browser.session().subject is None
    assert site.keeper.save(slow) == []
    assert [event for event in site.events if "_" in event[0]] == [
        ("after_revoke", session_id),
        ("not_saved", "ann", session_id),
    ]
    assert not site.keeper.revoke_session(format_id(session_id))


def test_attached_hooks_require_what_their_uses_need_of_the_store() -> None:
    clock = Clock()
    with pytest.raises(ConfigurationError, match="logins needs a store"):
        Site().keeper.add_hooks(SessionHooks(), ("logins",))
    bare = keeper(clock)
    bare.add_hooks(SessionHooks())
    with pytest.raises(ConfigurationError):
        bare.add_hooks(SessionHooks(), ("logins",))
    with pytest.raises(ConfigurationError):
        bare.revoke_session("A" * 22)
