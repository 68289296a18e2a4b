"""Texts for links: who can open them, until when, and what becomes of all others."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import (
    ConfigurationError,
    Deployment,
    Keeper,
    Key,
    Protector,
    SealedStateError,
    Settings,
    UnsupportedValue,
)
from sealedstate._wire import cbor
from sealedstate._wire.token import TokenContext, open_token, seal
from sealedstate.errors import NoPrimaryKey, ProtectedTextRefused, ProtectedTextWithheld
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Clock
from tests.support.strategies import VALUES

HOUR, SKEW, ANNOUNCE = 3600, 60, 900
OLD, NEW = Key.generate(os.urandom), Key.generate(os.urandom)


def ring(*keys: Key, **given: object) -> Keyring:
    return replace(Keyring(keys, skew=SKEW, announce=ANNOUNCE), **given)  # type: ignore[arg-type]


class Source:
    """A key source whose ring is replaced by hand, also when it is asked for a key."""

    def __init__(self, now: Keyring, found: Keyring | None = None) -> None:
        self.now, self.found, self.sought = now, found, 0

    def keyring(self) -> Keyring:
        return self.now

    def seek(self, kid: bytes) -> bool:
        self.sought += 1
        self.now = self.found or self.now
        return self.now.find(kid) is not None


def opened(clock: Clock, source: object = None, **given: object) -> Deployment:
    keys = source if isinstance(source, Source) else StaticKeys(source or ring(OLD))  # type: ignore[arg-type]
    return Deployment.open(Settings(keys=keys, clock=clock, skew=SKEW, **given))  # type: ignore[arg-type]


def resets(clock: Clock, source: object = None, max_age: int = HOUR) -> Protector:
    return opened(clock, source).protector("password-reset", max_age=max_age)


def reason(opens: Callable[[], object]) -> str:
    with pytest.raises(ProtectedTextRefused) as caught:
        opens()
    return caught.value.reason


def withheld(opens: Callable[[], object]) -> str:
    with pytest.raises(ProtectedTextWithheld) as caught:
        opens()
    return caught.value.reason


# --- values and texts -----------------------------------------------------------------------------


@given(VALUES, st.none() | st.text(st.characters(exclude_categories=["Cs"])) | st.binary())
def test_value_comes_back_as_what_it_was(value: object, bound_to: str | bytes | None) -> None:
    protector = resets(Clock())
    text = protector.seal(value, bound_to)
    again = protector.open(text, bound_to)
    assert (type(again), cbor.encode(again)) == (type(value), cbor.encode(value))


@given(st.binary(max_size=300))
def test_text_stays_whole_in_links_queries_and_paths(value: bytes) -> None:
    text = resets(Clock()).seal(value)
    assert re.fullmatch(r"[A-Za-z0-9_-]+[A-Za-z0-9]", text)
    assert quote(text, safe="") == text
    assert parse_qs(urlsplit(f"https://shop.example/?t={text}").query) == {"t": [text]}


def test_text_of_n_bytes_takes_a_third_more_and_reveals_nothing(clock: Clock) -> None:
    protector = resets(clock)
    for size in range(40):
        text = protector.seal(bytes(size), "a hash")
        head = len(cbor.encode(bytes(size))) + 51
        assert len(text) - head * 4 / 3 < 3
    decoded = base64.urlsafe_b64decode(protector.seal("ann@shop.example", "a hash") + "==")
    assert b"ann@shop" not in decoded
    assert protector.seal("ann") != protector.seal("ann")


@pytest.mark.parametrize("value", [object(), 1 + 2j, {"when": datetime}, "\ud800"])
def test_value_that_no_session_can_carry_is_refused(clock: Clock, value: object) -> None:
    with pytest.raises(UnsupportedValue, match=r"^value"):
        resets(clock).seal(value)


@pytest.mark.parametrize("bound_to", [1, 7.5, ["a"], "\ud800", datetime.now(UTC)])
def test_text_is_bound_to_text_or_bytes(clock: Clock, bound_to: object) -> None:
    protector = resets(clock)
    for use in (protector.seal, protector.open):
        with pytest.raises(UnsupportedValue, match=r"^bound_to"):
            use("x", bound_to)  # type: ignore[arg-type]


def test_text_is_the_specified_token(clock: Clock) -> None:
    for value, payload in (
        (7, b"\x01\x07"),
        (b"x", b"\x01\x41x"),
        ("ab", b"\0\x01\x62ab"),
    ):
        text = resets(clock).seal(value, "a hash")
        token = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        context = TokenContext("protector/password-reset", "default", ("a hash",))
        assert open_token(token, context, ring(OLD), int(clock())).payload == payload
        assert len(token) % 3


# --- which texts open -----------------------------------------------------------------------------


def test_text_opens_under_its_name_realm_and_binding_only(clock: Clock) -> None:
    deployment = opened(clock)
    protector = deployment.protector("password-reset", max_age=HOUR)
    text = protector.seal("ann", "a hash")
    assert protector.open(text, "a hash") == protector.open(text, b"a hash") == "ann"
    others = (
        lambda: protector.open(text),
        lambda: protector.open(text, ""),
        lambda: protector.open(text, "another hash"),
        lambda: deployment.protector("invitation", max_age=HOUR).open(text, "a hash"),
        lambda: (
            opened(clock, realm="other")
            .protector("password-reset", max_age=HOUR)
            .open(text, "a hash")
        ),
        lambda: protector.open(protector.seal("ann"), "a hash"),
        lambda: protector.open(protector.seal("ann", ""), None),
    )
    assert [reason(each) for each in others] == ["invalid"] * len(others)


def test_session_and_protector_do_not_open_each_others_tokens(clock: Clock) -> None:
    keeper = Keeper(opened(clock))
    session = keeper.session()
    session.subject = "ann"
    cookie = keeper.save(session)[0].partition(";")[0].partition("=")[2]
    protector = keeper.deployment.protector("core", max_age=HOUR)
    context = TokenContext("core", "default", ())
    token = seal(b"\x01\x42abc", context, OLD, int(clock()), bytes(32))
    assert len(token) % 3
    text = base64.urlsafe_b64encode(token).decode().rstrip("=")
    assert reason(lambda: protector.open(text)) == "invalid"
    with pytest.raises(ProtectedTextRefused):
        protector.open(cookie)
    assert keeper.session(f"{keeper.deployment.cookies.name}={protector.seal(1)}").is_new


@given(st.data())
def test_altered_text_is_refused_by_one_error(data: st.DataObject) -> None:
    clock = Clock()
    protector = resets(clock)
    text = protector.seal({"id": 7}, "a hash")
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters())
    altered = data.draw(
        st.sampled_from(
            [
                text[:at],
                text[at:],
                text[:at] + letter + text[at + 1 :],
                text + letter,
                letter + text,
            ]
        )
    )
    if altered == text:
        return
    with pytest.raises((ProtectedTextRefused, ProtectedTextWithheld)):
        protector.open(altered, "a hash")


@pytest.mark.parametrize(
    "text",
    ["", "A", "x" * 5000, "é", "\ud800", "AQ==", "A+/A", None, 7, b"AQEB", ["x"], "\0", "A\n"],
)
def test_junk_is_malformed(clock: Clock, text: object) -> None:
    assert reason(lambda: resets(clock).open(text)) == "malformed"  # type: ignore[arg-type]


def test_each_text_has_one_spelling(clock: Clock) -> None:
    protector = resets(clock)
    text = protector.seal(b"x")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(text[-1])
    for spelling in (f"{text}=", f"{text}\n", f" {text}", text[:-1] + chr(ord(text[-1]) + 1)):
        assert reason(partial(protector.open, spelling)) == "malformed"
    assert last % 4 == 0


# --- until when -----------------------------------------------------------------------------------


def test_text_can_be_opened_again_until_its_max_age(clock: Clock) -> None:
    protector = resets(clock, max_age=600)
    text = protector.seal("ann")
    for _ in range(2):
        clock.forward(299)
        assert protector.open(text) == "ann"
    clock.forward(1)
    assert protector.open(text) == "ann"
    clock.forward(1)
    assert reason(lambda: protector.open(text)) == "expired"
    assert resets(clock, max_age=601).open(text) == "ann"


def test_text_of_a_clock_that_is_ahead_opens_within_twice_the_skew(clock: Clock) -> None:
    now = clock.now
    for ahead, outcome in ((2 * SKEW, "x"), (2 * SKEW + 1, None), (ANNOUNCE + SKEW, None)):
        clock.now = now + ahead
        text = resets(clock).seal("x")
        clock.now = now
        if outcome:
            assert resets(clock).open(text) == outcome
        else:
            assert withheld(partial(resets(clock).open, text)) == "not-yet"
    clock.now = now + ANNOUNCE + SKEW + 1
    text = resets(clock).seal("x")
    clock.now = now
    assert reason(lambda: resets(clock).open(text)) == "not-yet"


def test_text_that_was_sealed_before_a_revocation_is_refused(clock: Clock) -> None:
    text = resets(clock).seal("x")
    moment = int(clock()) + SKEW
    after = ring(OLD, revoked_before=moment)
    assert reason(lambda: resets(clock, after).open(text)) == "revoked"
    # A text from right after it opens, although that moment is ahead.
    fresh = resets(clock, after).seal("x")
    assert resets(clock, after).open(fresh) == "x"
    clock.forward(HOUR + SKEW)
    assert reason(lambda: resets(clock, after).open(fresh)) == "expired"


def test_text_of_a_retired_key_opens_and_of_a_revoked_one_is_refused(clock: Clock) -> None:
    text = resets(clock).seal("x")
    clock.forward(60)
    assert resets(clock, ring(replace(NEW, activates_at=int(clock())), OLD)).open(text) == "x"
    for refusing in (
        ring(NEW, replace(OLD, revoked=True)),
        ring(NEW, replace(OLD, expires_at=int(clock()))),
        ring(NEW, removed_kids=frozenset({OLD.kid})),
    ):
        assert reason(partial(resets(clock, refusing).open, text)) == "revoked"


# --- what this node cannot judge ------------------------------------------------------------------


def test_text_of_a_key_that_is_not_known_here_yet_is_sought_once_and_then_withheld(
    clock: Clock,
) -> None:
    text = resets(clock, ring(NEW)).seal("x")
    late = Source(ring(OLD), ring(NEW, OLD))
    assert resets(clock, late).open(text) == "x"
    lagging = Source(ring(OLD))
    assert withheld(lambda: resets(clock, lagging).open(text)) == "kid-unknown"
    assert (late.sought, lagging.sought) == (1, 1)


def test_text_of_an_unknown_key_is_over_when_every_node_must_know_the_key(clock: Clock) -> None:
    text = resets(clock, ring(NEW)).seal("x")
    clock.forward(ANNOUNCE + SKEW)
    assert withheld(lambda: resets(clock).open(text)) == "kid-unknown"
    clock.forward(1)
    assert reason(lambda: resets(clock).open(text)) == "unknown"
    clock.forward(HOUR)
    assert reason(lambda: resets(clock).open(text)) == "expired"


def test_text_of_an_unknown_key_is_withheld_while_this_node_cannot_read_its_keys(
    clock: Clock,
) -> None:
    class Stuck(Source):
        def read_at(self) -> float:
            return began

    text, began = resets(clock, ring(NEW)).seal("x"), clock.now + ANNOUNCE + SKEW
    clock.forward(HOUR - 1)
    protector = resets(clock, Stuck(ring(OLD)))
    assert withheld(lambda: protector.open(text)) == "kid-unknown"
    began += 1
    assert reason(lambda: protector.open(text)) == "unknown"


def test_unknown_text_that_is_over_anyway_is_expired_and_not_withheld(clock: Clock) -> None:
    text = resets(clock, ring(NEW)).seal("x")
    clock.forward(300)
    assert reason(lambda: resets(clock, max_age=300).open(text)) == "expired"
    assert withheld(lambda: resets(clock, max_age=301).open(text)) == "kid-unknown"


def test_text_of_a_newer_release_is_withheld_for_as_long(clock: Clock) -> None:
    protector = resets(clock)
    token = base64.urlsafe_b64decode(protector.seal(b"x") + "=")
    newer = base64.urlsafe_b64encode(b"\x02" + token[1:]).decode().rstrip("=")
    assert withheld(lambda: protector.open(newer)) == "format-unknown"
    clock.forward(ANNOUNCE + SKEW + 1)
    assert reason(lambda: protector.open(newer)) == "unknown"


def test_authentic_text_that_cannot_be_read_is_withheld_until_its_end(clock: Clock) -> None:
    context = TokenContext("protector/password-reset", "default", ())
    for payload in (b"\x02\x07", b"\x01\xc6\x07", b"\x01", b"", b"\0\0\x01\x07"):
        token = seal(payload, context, OLD, int(clock()), bytes(32))
        text = base64.urlsafe_b64encode(token).decode().rstrip("=")
        assert withheld(partial(resets(clock).open, text)) == "record"
        clock.forward(HOUR)
        assert reason(partial(resets(clock).open, text)) == "expired"


def test_text_of_a_disabled_key_is_withheld_until_its_end(clock: Clock) -> None:
    text = resets(clock).seal("x")
    disabled = ring(NEW, replace(OLD, disabled=True))
    clock.forward(HOUR - 1)
    assert withheld(lambda: resets(clock, disabled).open(text)) == "kid-disabled"
    clock.forward(1)
    assert reason(lambda: resets(clock, disabled).open(text)) == "expired"


# --- its construction -----------------------------------------------------------------------------


@pytest.mark.parametrize("max_age", [0, -1, 12 * HOUR + 1, True, 60.0, "60", None])
def test_max_age_is_named_at_the_start_and_at_most_the_longest_lifetime(
    clock: Clock, max_age: object
) -> None:
    with pytest.raises(ConfigurationError, match=r"protector 'reset': max_age .* longest_lifetime"):
        opened(clock).protector("reset", max_age=max_age)  # type: ignore[arg-type]
    longest = opened(clock, longest_lifetime=400 * 24 * HOUR)
    assert longest.protector("invitation", max_age=400 * 24 * HOUR).max_age == 400 * 24 * HOUR


@pytest.mark.parametrize("name", ["", None, 7, b"reset", "\ud800"])
def test_protector_has_a_name(clock: Clock, name: object) -> None:
    with pytest.raises(ConfigurationError, match="protector: the name"):
        opened(clock).protector(name, max_age=60)  # type: ignore[arg-type]


def test_nothing_is_sealed_without_an_active_key(clock: Clock) -> None:
    pending = Source(ring(OLD))
    protector = resets(clock, pending)
    pending.now = ring(replace(OLD, activates_at=int(clock()) + 60))
    with pytest.raises(NoPrimaryKey):
        protector.seal("x")


def test_protector_works_without_a_store_and_asks_none(clock: Clock) -> None:
    store = ScriptedStorage(clock)
    deployment = opened(clock, storage=store, accept_weak_store_for=["revocation", "spilling"])
    protector = deployment.protector("password-reset", max_age=60)
    asked = len(store.calls)
    assert protector.open(protector.seal("x")) == "x"
    assert len(store.calls) == asked


def test_no_text_of_an_error_or_a_repr_has_a_value_or_a_secret(clock: Clock) -> None:
    protector = resets(clock)
    text = protector.seal("ann@shop.example", "a hash")
    clock.forward(HOUR)
    with pytest.raises(SealedStateError) as caught:
        protector.open(text, "a hash")
    shown = f"{caught.value!r} {protector!r}"
    assert repr(protector) == "Protector(name='password-reset', max_age=3600)"
    assert not any(part in shown for part in (text, "ann", "a hash", OLD.kid.hex()))
