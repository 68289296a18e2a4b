"""Fields behind a record: the terms of one session, and what a newer release wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from sealedstate import Session
from sealedstate._wire.record import NO_TERMS, Terms, encode_record
from sealedstate.errors import UnknownField
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import (
    ABSOLUTE,
    HOUR,
    IDLE,
    REFRESH,
    log_out,
    node,
    record_of,
    setting,
    sign_in,
    signed_in,
    touch,
)

Store = ScriptedStorage


def carry(
    browser: Browser,
    clock: Clock,
    terms: Terms = NO_TERMS,
    fields: Mapping[int, bytes] | None = None,
    tail: bytes = b"",
) -> None:
    """Give the browser's session terms and fields, as another release would."""
    record = replace(record_of(browser), terms=terms, fields=fields or {})
    codec = browser.keeper.deployment.codec
    text = codec.seal_core(encode_record(record, int(clock.now)) + tail, int(clock.now))
    browser.jar.receive([f"__Host-Http-s={text}; Path=/; Secure; HttpOnly"])


# --- terms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [600, IDLE + 600])
def test_idle_lifetime_of_a_session_counts_instead_of_the_settings(
    browser: Browser, clock: Clock, idle: int
) -> None:
    carry(browser, clock, Terms(idle=idle))
    info = browser.keeper.info(browser.session())
    assert info.idle_expires_at == clock.now + idle
    clock.forward(idle - 1)
    assert browser.session().subject == "ann"
    clock.forward(1)
    assert browser.session().subject is None
    assert browser.keeper.counts["refused-expired"] == 1


def test_session_with_a_short_idle_lifetime_is_renewed_in_time(
    browser: Browser, clock: Clock
) -> None:
    carry(browser, clock, Terms(idle=REFRESH))
    clock.forward(REFRESH // 10 - 1)
    assert browser.visit() == []
    for _ in range(30):
        clock.forward(REFRESH // 10)
        assert browser.visit()
    assert browser.session().subject == "ann"


@pytest.mark.parametrize("persistent", [False, True])
def test_persistence_of_a_session_counts_instead_of_the_settings(
    clock: Clock, store: Store, persistent: bool
) -> None:
    browser = signed_in(node(clock, store, persistent=not persistent, profile="roomy"))
    carry(browser, clock, Terms(persistent=persistent))
    clock.forward(REFRESH)
    for lines in (browser.visit(), browser.visit(touch), browser.visit(setting(big="x" * 6000))):
        assert lines
        assert [f"; Max-Age={ABSOLUTE - REFRESH}" in line for line in lines] == (
            [persistent] * len(lines)
        )


@pytest.mark.parametrize("change", [touch, setting(big="x" * 6000), Session.regenerate])
def test_terms_last_as_long_as_the_sign_in(
    browser: Browser, clock: Clock, change: Callable[[Session], object]
) -> None:
    terms = Terms(True, 2 * HOUR, True)
    carry(browser, clock, terms)
    clock.forward(REFRESH)
    for _ in range(2):
        assert browser.visit(change)
        assert record_of(browser).terms == terms
    sign_in(browser, "bob")
    assert record_of(browser).terms == NO_TERMS
    carry(browser, clock, terms)
    browser.visit(log_out)
    browser.visit(touch)
    assert record_of(browser).terms == NO_TERMS


# --- fields of a newer release --------------------------------------------------------------------


@pytest.mark.parametrize("change", [None, touch, setting(big="x" * 6000), log_out])
def test_field_of_a_newer_release_is_kept_while_the_session_has_its_id(
    browser: Browser, clock: Clock, change: Callable[[Session], object] | None
) -> None:
    fields = {128: b"when and how", 200: b"", 254: bytes(255)}
    carry(browser, clock, fields=fields)
    clock.forward(REFRESH)
    if change is log_out:
        browser.visit(log_out)
        assert browser.visit(touch)
        assert record_of(browser).fields == {}
        return
    for _ in range(2):
        assert browser.visit(change) if change is not None else browser.visit()
        clock.forward(REFRESH)
        assert record_of(browser).fields == fields
    browser.visit(Session.regenerate)
    assert record_of(browser).fields == {}
    assert browser.session().subject == "ann"


def test_padding_is_not_carried_along(browser: Browser, clock: Clock) -> None:
    carry(browser, clock, tail=b"\xfd\x10" + bytes(16))
    assert browser.session().subject == "ann"
    clock.forward(REFRESH)
    assert browser.visit()
    assert record_of(browser).fields == {}


def test_critical_field_of_a_newer_release_withholds_the_session_and_names_it(
    browser: Browser, clock: Clock
) -> None:
    record, now = record_of(browser), int(clock.now)
    carry(browser, clock, tail=b"\x7f\x01\x00")
    assert browser.session().withheld == "field-unknown"
    with pytest.raises(UnknownField) as caught:
        browser.keeper.deployment.codec.open_text(browser.jar.ours()["__Host-Http-s"], now)
    error = caught.value
    assert (error.session_id, error.subject) == (record.id, "ann")
    assert (error.created_at, error.expires_at) == (record.created_at, record.expires_at)
    assert error.sealed_at == now
