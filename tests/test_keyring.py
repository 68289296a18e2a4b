"""Keys and rings: which key seals and which opens, what is refused, and that no secret is shown."""

from __future__ import annotations

import base64
import copy
import math
import os
import pickle
import string
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Key, Settings
from sealedstate.deployment import open_keys
from sealedstate.errors import KeyDisabled, KeyOutOfUse, NoPrimaryKey, UnknownKey, UnreadableError
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import (
    KEY_LABEL,
    LOOKUP_LABEL,
    Keyring,
    KeyState,
    check_secret,
    export_lookup,
    length_prefixed,
    parse_lookup,
)
from tests.support.tables import check_each

NOW = 1_800_000_000


def key(activates_at: int = 0, **given: Any) -> Key:
    return replace(Key.generate(os.urandom, activates_at), **given)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def key_text(secret: bytes, kid: str = "00c0ffee") -> str:
    return f"{KEY_LABEL}:{kid}:{base64url(secret)}"


def states(ring: Keyring, now: int) -> list[str]:
    return [ring.state(each, now).value for each in ring.keys]


# --- the state of a key is a function of the ring and the time ------------------------------------

RETIRED, PRIMARY, PENDING, EXPIRED = "retired", "primary", "pending", "expired"
STATES: dict[str, tuple[tuple[Key, ...], dict[int, list[str]]]] = {
    "the first of two undated keys seals": ((key(), key()), {NOW: [PRIMARY, RETIRED]}),
    "a key takes over in the second of its activation": (
        (key(), key(NOW)),
        {NOW - 1: [PRIMARY, PENDING], NOW: [RETIRED, PRIMARY]},
    ),
    "when a key expires its predecessor seals again": (
        (key(), key(NOW - 100, expires_at=NOW)),
        {NOW - 1: [RETIRED, PRIMARY], NOW: [PRIMARY, EXPIRED]},
    ),
    "a revoked key never seals": (
        (key(), key(NOW - 100, revoked=True)),
        {NOW: [PRIMARY, "revoked"]},
    ),
    "a disabled key never seals": (
        (key(), key(NOW - 100, disabled=True)),
        {NOW: [PRIMARY, "disabled"]},
    ),
    "revoked outweighs every other state": (
        (key(), key(NOW + 100, expires_at=NOW - 100, revoked=True, disabled=True)),
        {NOW: [PRIMARY, "revoked"]},
    ),
    "expired outweighs disabled and pending": (
        (key(), key(NOW + 100, expires_at=NOW - 100, disabled=True)),
        {NOW: [PRIMARY, EXPIRED]},
    ),
    "a stated retirement is no expiry": (
        (key(NOW, retires_at=NOW + 500), key(NOW + 500)),
        {NOW + 499: [PRIMARY, PENDING], NOW + 10**9: [RETIRED, PRIMARY]},
    ),
}


def test_states_of_keys() -> None:
    def check(case: tuple[tuple[Key, ...], dict[int, list[str]]]) -> None:
        keys, expected = case
        ring = Keyring(keys)
        assert {now: states(ring, now) for now in expected} == expected

    check_each(STATES, check)


def test_ring_without_an_active_key_raises() -> None:
    inactive = (key(NOW + 1), key(expires_at=NOW), key(revoked=True), key(disabled=True))
    for only in inactive:
        with pytest.raises(NoPrimaryKey, match="no key is active"):
            Keyring((only,)).primary(NOW)


SECRETS = [(bytes([number]) * 4, os.urandom(32)) for number in range(6)]
TIMES = st.integers(0, 12)


@st.composite
def rings(draw: st.DrawFn) -> Keyring:
    drawn = [
        Key(
            kid,
            secret,
            draw(TIMES),
            draw(st.none() | TIMES),
            draw(st.sampled_from([False, False, True])),
            draw(st.sampled_from([False, False, True])),
        )
        for kid, secret in SECRETS[: draw(st.integers(1, 6))]
    ]
    return Keyring(tuple(drawn), skew=draw(st.integers(0, 2)), announce=draw(st.integers(0, 2)))


@given(rings(), TIMES)
def test_ring_has_at_most_one_primary_the_newest_that_may_seal(ring: Keyring, now: int) -> None:
    found = {each: ring.state(each, now) for each in ring.keys}
    may_seal = [each for each in ring.keys if found[each] in (KeyState.PRIMARY, KeyState.RETIRED)]
    for each in may_seal:
        assert not each.revoked
        assert not each.disabled
        assert each.expires_at is None or now < each.expires_at
    try:
        primary = ring.primary(now)
    except NoPrimaryKey:
        assert may_seal == []
    else:
        assert [each for each in ring.keys if found[each] is KeyState.PRIMARY] == [primary]
        assert max(each.activates_at for each in may_seal) == primary.activates_at <= now
        assert ring.may_have_sealed(primary, now)


@given(rings(), st.lists(TIMES, max_size=8), TIMES)
def test_states_depend_on_the_ring_and_the_time_alone(
    ring: Keyring, others: list[int], now: int
) -> None:
    fresh = Keyring(ring.keys, ring.skew, ring.announce)
    expected = states(fresh, now), [fresh.may_have_sealed(each, now) for each in ring.keys]
    for other in others:  # whatever the ring keeps of these
        states(ring, other)
        for each in ring.keys:
            ring.may_have_sealed(each, other)
    assert (states(ring, now), [ring.may_have_sealed(each, now) for each in ring.keys]) == expected


# --- when a key may have sealed, and whether it opens ---------------------------------------------


def test_key_may_have_sealed_from_its_activation_to_its_retirement_plus_lag_and_skew() -> None:
    def check(case: tuple[Keyring, dict[int, bool], int | None]) -> None:
        ring, expected, retires_at = case
        first = ring.keys[0]
        until = math.inf if retires_at is None else retires_at + ring.announce + ring.skew
        assert ring.sealing_window(first, 0)[1] == until
        assert {at: ring.may_have_sealed(first, at) for at in expected} == expected

    window = {NOW - 61: False, NOW - 60: True, NOW + 590: True, NOW + 591: False}
    old, stated = key(NOW), key(NOW, retires_at=NOW + 500)
    others = ((), (key(NOW + 100),), (key(NOW + 500, disabled=True),), (key(NOW + 900),))
    cases = [
        (Keyring((old, key(NOW + 500)), skew=60, announce=30), window, NOW + 500),
        # A stated retirement outweighs the dates of other keys.
        *((Keyring((stated, *more), skew=60, announce=30), window, NOW + 500) for more in others),
        # A key whose successor expired seals again.
        (
            Keyring((key(), key(NOW, expires_at=NOW + 1000)), skew=60, announce=0),
            {NOW + 500: False, NOW + 2000: True},
            NOW,
        ),
        (Keyring((key(NOW), old), skew=60), {NOW - 61: False, NOW + 10**9: True}, None),
        (
            Keyring((key(), key(), key(NOW, revoked=True), key(NOW, disabled=True))),
            {(1 << 40) - 1: True},
            None,
        ),
    ]
    check_each(cases, check)


def test_ring_finds_the_key_of_a_kid_and_refuses_to_open_with_others() -> None:
    usable, revoked, disabled = key(), key(revoked=True), key(disabled=True)
    expired = key(expires_at=NOW)
    ring = Keyring((usable, revoked, disabled, expired), removed_kids=frozenset({b"dead"}))
    assert [ring.find(each.kid) for each in ring.keys] == list(ring.keys)
    assert ring.find_usable(usable.kid, NOW) is usable
    assert ring.find_usable(expired.kid, NOW - 1) is expired
    refused: list[tuple[bytes, type[UnreadableError]]] = [
        (revoked.kid, KeyOutOfUse),
        (expired.kid, KeyOutOfUse),
        (disabled.kid, KeyDisabled),
        (b"dead", KeyOutOfUse),
        (b"none", UnknownKey),
        *((other, UnknownKey) for other in (b"", b"\0" * 3, b"\0" * 5, usable.kid[:3])),
    ]
    for kid, kind in refused:
        assert ring.find(kid) is None or kid in [each.kid for each in ring.keys]
        with pytest.raises(kind) as caught:
            ring.find_usable(kid, NOW)
        assert caught.value.kid == kid


def test_bad_rings_are_refused_and_show_no_secret() -> None:
    first = key()
    for keys, problem in (
        ((), "no key is configured; `sealedstate keys generate` prints one"),
        ((first, Key(first.kid, os.urandom(32))), "same kid"),
        ((first, Key(b"abcd", first.secret)), "same secret"),
    ):
        with pytest.raises(ConfigurationError, match=f"keys: .*{problem}") as caught:
            Keyring(keys, removed_kids=frozenset({b"dead"}))
        for form in (base64url(first.secret), first.secret.hex()):
            assert form not in str(caught.value)


NOT_RANDOM = {
    "zeros": bytes(32),
    "ones": b"\xff" * 32,
    "counting": bytes(range(32)),
    "counting down": bytes(range(200, 168, -1)),
    "counting by three": bytes(range(0, 96, 3)),
    "counting over the edge": bytes((240 + step) % 256 for step in range(32)),
    "one byte and zeros": b"\x01" + bytes(31),
    "two halves": bytes(range(100, 108)) * 4,
    "fifteen values": bytes(range(0, 150, 10)) * 2 + b"\x00\x0a",
    "hexadecimal digits": b"0123456789abcdef" * 2,
    "a passphrase": b"correct horse battery staple 123",
    "letters": string.ascii_letters[:32].encode(),
    "base64 of something": base64.b64encode(os.urandom(24)),
}


def test_secret_that_no_random_source_makes_is_refused_everywhere() -> None:
    def check(secret: bytes) -> None:
        assert len(secret) == 32
        makers: list[Callable[[], object]] = [
            lambda: Key(b"abcd", secret),
            lambda: Key.parse(key_text(secret)),
            lambda: parse_lookup(f"{LOOKUP_LABEL}:{base64url(secret)}"),
            lambda: open_keys(Settings(keys=[key_text(secret)])),
        ]
        for make in makers:
            with pytest.raises(ConfigurationError, match="not random"):
                make()

    check_each(NOT_RANDOM, check)
    for _ in range(5000):
        check_secret(os.urandom(32))


def test_secret_or_kid_of_a_wrong_length_is_refused() -> None:
    for size in (0, 1, 16, 24, 31, 33, 64):
        secret = os.urandom(size)
        with pytest.raises(ConfigurationError, match=f"must be 32 bytes, got {size}"):
            Key(b"abcd", secret)
        with pytest.raises(ConfigurationError, match="key: expected"):
            Key.parse(key_text(secret))
        with pytest.raises(ConfigurationError, match="lookup key: expected"):
            parse_lookup(f"{LOOKUP_LABEL}:{base64url(secret)}")
    for kid in (b"", b"abc", b"abcde", b"abcd" * 2):
        with pytest.raises(ConfigurationError, match="a kid must be 4 bytes"):
            Key(kid, os.urandom(32))


# --- the text of a key ----------------------------------------------------------------------------


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=32, max_size=32))
def test_exported_texts_are_parsed_again(kid: bytes, secret: bytes) -> None:
    try:
        made = Key(kid, secret)
    except ConfigurationError:
        return  # hypothesis likes zeros
    again = Key.parse(f"  {made.export()}\r\n")
    assert (again.kid, again.secret) == (kid, secret)
    assert parse_lookup(export_lookup(secret)) == secret


def test_generated_key_has_kid_and_secret_of_the_random_source() -> None:
    random = os.urandom(32)
    made = Key.generate(lambda size: random[:size], NOW)
    assert (made.kid, made.secret, made.activates_at) == (random[:4], random, NOW)


def spellings() -> dict[str, str]:
    good = Key.generate(os.urandom).export()
    label, kid, secret = good.split(":")
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    twin = secret[:-1] + letters[letters.index(secret[-1]) | 1]
    return {
        "empty": "",
        "blanks": "  ",
        "the secret alone": secret,
        "without a label": f"{kid}:{secret}",
        "another version": f"sealedstate-key-2:{kid}:{secret}",
        "label in capitals": f"{label.upper()}:{kid}:{secret}",
        "a lookup key": f"{LOOKUP_LABEL}:{secret}",
        "kid in capitals": f"{label}:{'ABCDEF00'}:{secret}",
        "kid too short": f"{label}:{kid[:7]}:{secret}",
        "kid too long": f"{label}:{kid}0:{secret}",
        "kid in full-width digits": f"{label}:{'１' * 8}:{secret}",
        "secret cut": good[:-1],
        "secret longer": f"{good}A",
        "secret padded": f"{good}=",
        "secret with bits to spare": f"{label}:{kid}:{twin}",
        "secret in standard base64": f"{label}:{kid}:{'+' + secret[1:]}",
        "secret in hexadecimal": f"{label}:{kid}:{os.urandom(32).hex()}",
        "secret with a blank": f"{label}:{kid}:{secret[:20]} {secret[21:]}",
        "secret with a line break": f"{label}:{kid}:{secret[:20]}\n{secret[21:]}",
        "secret with a letter of another script": f"{label}:{kid}:{secret[:20]}а{secret[21:]}",
        "two keys": f"{good} {good}",
        "quoted": f'"{good}"',
        "with a comment": f"{good} # ours",
    }


LOOKUP_SPELLINGS = {
    "empty": "",
    "the secret alone": base64url(os.urandom(32)),
    "the label alone": f"{LOOKUP_LABEL}:",
    "too short": f"{LOOKUP_LABEL}:{base64url(os.urandom(31))}",
    "too long": f"{LOOKUP_LABEL}:{base64url(os.urandom(33))}",
    "padded": f"{LOOKUP_LABEL}:{base64url(os.urandom(32))}=",
    "foreign letters": f"{LOOKUP_LABEL}:{'!' * 43}",
    "a sealing key": Key.generate(os.urandom).export(),
}


def assert_refused(parse: Callable[[str], object], text: str) -> None:
    """`parse` refuses the text, and shows no 12 characters of what may be a secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    error = caught.value
    shown = "".join(traceback.format_exception_only(error)) + repr(error) + repr(error.args)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    secret = text.strip().rpartition(":")[2]
    for start in range(len(secret) - 11):
        assert secret[start : start + 12] not in shown


def test_other_texts_are_refused_and_never_repeated() -> None:
    def check_key(text: str) -> None:
        assert_refused(Key.parse, text)
        assert_refused(lambda text: open_keys(Settings(keys=[text])), text)

    check_each(spellings(), check_key)
    check_each(LOOKUP_SPELLINGS, lambda text: assert_refused(parse_lookup, text))


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_a_configuration_error(text: str) -> None:
    for parse in (Key.parse, parse_lookup):
        with pytest.raises(ConfigurationError):
            parse(text)


def test_no_secret_is_in_a_repr_or_in_a_formatted_text() -> None:
    made, lookup = Key.generate(os.urandom), os.urandom(32)
    derived = [made.subkey("mask", "identifiers", "r"), made.subkeys["core", "r"].seal]
    ring = Keyring((made,), lookup=lookup)
    settings = Settings(keys=[made.export(), export_lookup(lookup)])
    source = open_keys(settings)
    subkeys = (made.subkeys, made.subkeys["core", "r"])
    for holder in (made, ring, settings, StaticKeys(ring), source, *subkeys):
        for text in (repr(holder), str(holder), f"{holder}", f"{holder!r}"):
            for secret in (made.secret, lookup, *derived):
                for form in (secret.hex(), base64url(secret), repr(secret)[2:-1]):
                    assert form[:12] not in text


def test_key_is_neither_pickled_nor_copied() -> None:
    made = Key.generate(os.urandom)
    ring = Keyring((made,), lookup=os.urandom(32))
    for holder in (made, ring, [made], {"key": made}, StaticKeys(ring)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(holder, protocol)
        with pytest.raises(TypeError, match="not pickled"):
            copy.deepcopy(holder)


def test_every_use_purpose_and_realm_has_another_subkey() -> None:
    made = Key.generate(os.urandom)
    names = [
        (use, purpose, realm)
        for use in ("seal", "nonce")
        for purpose in ("core", "overflow", "stored", "cor", "")
        for realm in ("", "e", "ecore", "default")
    ]
    derived = {made.subkey(*name) for name in names}
    assert len(derived) == len(names)
    assert all(len(subkey) == 32 for subkey in derived)
    assert made.secret not in derived
    assert {Key(made.kid, made.secret).subkey(*name) for name in names} == derived
    assert made.subkeys["core", "e"].seal == made.subkey("seal", "core", "e")


FIELDS = st.lists(st.text(max_size=5) | st.binary(max_size=5), max_size=5)


@given(FIELDS, FIELDS)
def test_different_lists_of_fields_never_encode_alike(
    first: list[str | bytes], second: list[str | bytes]
) -> None:
    as_bytes = [
        [item.encode() if isinstance(item, str) else item for item in fields]
        for fields in (first, second)
    ]
    is_equal = length_prefixed(*first) == length_prefixed(*second)
    assert is_equal == (as_bytes[0] == as_bytes[1])
