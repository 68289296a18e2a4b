"""A node never accepts a session only because it looks for sign-outs under other names."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate._stored.revocations import MARK_SECONDS, SUBJECTS
from sealedstate.errors import ConfigurationError
from sealedstate.keyring import Keyring, export_lookup
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import ABSOLUTE, at, signed_in

KEY = Key.generate(os.urandom).export()
LOOKUP, OTHER_LOOKUP = (export_lookup(os.urandom(32)) for _ in range(2))
OTHERS = pytest.mark.parametrize("lookup", [None, OTHER_LOOKUP], ids=["none", "another"])


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


def node(clock: Clock, store: ScriptedStorage, lookup: str | None = LOOKUP, **given: Any) -> Keeper:
    keys = [KEY] if lookup is None else [KEY, lookup]
    usual: dict[str, Any] = {"keys": keys, "storage": store, "clock": clock, "monotonic": clock}
    tolerated = ["revocation", "spilling"]
    settings = Settings(
        absolute_lifetime=ABSOLUTE, accept_weak_store_for=tolerated, **usual | given
    )
    return Keeper(settings)


def test_many_sign_outs_write_the_mark_once(clock: Clock, store: ScriptedStorage) -> None:
    shop = node(clock, store)
    shop.revoke_subject("user 0")
    before = store.count["create"] + store.count["update"]
    for number in range(1, 60):
        clock.forward(1)
        shop.revoke_subject(f"user {number}")
    assert store.count["create"] + store.count["update"] == before + 59


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


@OTHERS
def test_start_with_another_lookup_key_than_that_of_a_sign_out_everywhere_is_refused(
    clock: Clock, store: ScriptedStorage, lookup: str | None
) -> None:
    shop = node(clock, store)
    node(clock, store, lookup)  # no user was signed out yet
    shop.revoke_subject("ann")
    with pytest.raises(ConfigurationError, match="add the lookup key of the other nodes"):
        node(clock, store, lookup)
    node(clock, store)
    node(clock, store, lookup, realm="other")
    # No session lives that was signed out by the former key.
    clock.forward(ABSOLUTE + 2 * shop.settings.skew + MARK_SECONDS)
    node(clock, store, lookup)


@OTHERS
def test_node_that_runs_with_another_lookup_key_is_an_error_in_the_log_within_a_minute(
    clock: Clock, store: ScriptedStorage, lookup: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    other = node(clock, store, lookup)
    browser = signed_in(other)
    node(clock, store).revoke_subject("bob")
    for _ in range(3):
        clock.forward(60)
        assert browser.session().subject == "ann"
    (error,) = errors(caplog)
    assert "add the lookup key of the other nodes" in error
    assert "the next start is refused" in error


def test_node_that_knows_the_lookup_key_of_the_others_asks_no_more(
    clock: Clock, store: ScriptedStorage
) -> None:
    shop = node(clock, store)
    shop.revoke_subject("bob")
    browser = signed_in(node(clock, store))
    for _ in range(3):
        clock.forward(61)
        before = len(store.calls)
        assert browser.session().subject == "ann"
        assert len(store.calls) == before + 2  # of its end, and of the watermark


def test_sign_out_everywhere_with_another_lookup_key_than_that_of_the_others_is_refused(
    clock: Clock, store: ScriptedStorage
) -> None:
    other, shop = node(clock, store, OTHER_LOOKUP), node(clock, store)
    shop.revoke_subject("ann")
    with pytest.raises(ConfigurationError, match="lookup key"):
        other.revoke_subject("ann")
    shop.revoke_subject("bob")


@OTHERS
def test_lookup_key_is_compared_when_a_store_that_was_down_at_the_start_answers(
    clock: Clock, store: ScriptedStorage, lookup: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    node(clock, store).revoke_subject("bob")
    store.fail()
    before = len(store.calls)
    browser = Browser(node(clock, store, lookup))
    assert len(store.calls) == before + 1  # one wait is enough
    store.recover()
    browser.visit(lambda session: setattr(session, "subject", "ann"))
    browser.visit(len)
    assert len([error for error in errors(caplog) if "lookup key" in error]) == 1


def test_mark_of_the_lookup_key_that_does_not_open_stops_no_start(
    clock: Clock, store: ScriptedStorage
) -> None:
    node(clock, store).revoke_subject("ann")
    other = Key.generate(os.urandom).export()
    shop = node(clock, store, keys=[other, OTHER_LOOKUP])
    shop.revoke_subject("ann")  # by the node that is up to date
    node(clock, store, keys=[other, OTHER_LOOKUP])


def test_mark_of_the_lookup_key_shows_no_lookup_key(clock: Clock, store: ScriptedStorage) -> None:
    node(clock, store).revoke_subject("ann")
    assert len(list(store.keys(SUBJECTS))) == 2
    secret = LOOKUP.partition(":")[2]
    raw = base64.urlsafe_b64decode(secret + "=")
    for key in store.keys(SUBJECTS):
        stored = store.read(SUBJECTS, key)
        assert stored is not None
        assert raw not in stored.value


@OTHERS
def test_file_of_keys_that_loses_its_lookup_key_signs_no_one_in_again(
    clock: Clock, store: ScriptedStorage, tmp_path: Path, lookup: str | None
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{LOOKUP}\n")
    shop = node(clock, store, keys=f"file:{file}")
    browser = signed_in(shop)
    clock.forward(1)
    shop.revoke_subject("ann")
    file.write_text("\n".join([KEY, *([] if lookup is None else [lookup])]))
    clock.forward(61)
    assert browser.session().subject is None
    assert shop.counts["ring-refused"] == 1
    shop.revoke_subject("bob")


@OTHERS
def test_source_of_the_application_that_loses_its_lookup_key_lets_no_user_in(
    clock: Clock, store: ScriptedStorage, lookup: str | None
) -> None:
    class Source:
        def __init__(self) -> None:
            self.ring = Keyring((Key.parse(KEY),), lookup=b"l" * 32)

        def keyring(self) -> Keyring:
            return self.ring

    source = Source()
    shop = node(clock, store, keys=source)
    browser = signed_in(shop)
    clock.forward(1)
    shop.revoke_subject("ann")
    source.ring = Keyring((Key.parse(KEY),), lookup=None if lookup is None else b"m" * 32)
    assert at(shop, browser).session().withheld == "store-down"
    source.ring = Keyring((Key.parse(KEY),), lookup=b"l" * 32)
    assert at(shop, browser).session().refusal == "signed-out"
