"""Keys: one of the ring seals, a bad one is never taken, and none is ever shown."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import string
import traceback
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Key, Keyring, KeyState, NoPrimaryKey, Settings
from sealedstate.deployment import open_keys
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import (
    KEY_LABEL,
    LOOKUP_LABEL,
    check_secret,
    export_lookup,
    length_prefixed,
    parse_lookup,
)

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


def test_the_first_of_two_undated_keys_seals() -> None:
    first, second = key(), key()
    ring = Keyring((first, second))
    assert ring.primary(NOW) is first
    assert states(ring, NOW) == ["primary", "retired"]


def test_the_newest_key_that_may_seal_already_seals() -> None:
    old, current, next_ = key(NOW - 200), key(NOW - 100), key(NOW + 100)
    for order in ((old, current, next_), (next_, old, current), (current, next_, old)):
        ring = Keyring(order)
        assert ring.primary(NOW) is current
        assert ring.state(old, NOW) is KeyState.RETIRED
        assert ring.state(current, NOW) is KeyState.PRIMARY
        assert ring.state(next_, NOW) is KeyState.PENDING


def test_a_key_takes_over_in_the_second_of_its_activation() -> None:
    old, new = key(), key(NOW)
    ring = Keyring((old, new))
    assert states(ring, NOW - 1) == ["primary", "pending"]
    assert states(ring, NOW) == ["retired", "primary"]


def test_a_key_expires_in_the_second_of_its_expiry_and_its_predecessor_seals_again() -> None:
    old, new = key(), key(NOW - 100, expires_at=NOW)
    ring = Keyring((old, new))
    assert states(ring, NOW - 1) == ["retired", "primary"]
    assert states(ring, NOW) == ["primary", "expired"]


@pytest.mark.parametrize("state", ["revoked", "disabled"])
def test_a_revoked_or_disabled_key_never_seals(state: str) -> None:
    old, new = key(), key(NOW - 100, **{state: True})
    ring = Keyring((old, new))
    assert ring.primary(NOW) is old
    assert states(ring, NOW) == ["primary", state]


def test_revoked_outweighs_every_other_state() -> None:
    gone = key(NOW + 100, expires_at=NOW - 100, revoked=True, disabled=True)
    assert states(Keyring((key(), gone)), NOW) == ["primary", "revoked"]


def test_expired_outweighs_disabled_and_pending() -> None:
    gone = key(NOW + 100, expires_at=NOW - 100, disabled=True)
    assert states(Keyring((key(), gone)), NOW) == ["primary", "expired"]


@pytest.mark.parametrize(
    "only",
    [
        {"activates_at": NOW + 1},
        {"expires_at": NOW},
        {"revoked": True},
        {"disabled": True},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_ring_without_a_usable_key_says_so(only: dict[str, Any]) -> None:
    with pytest.raises(NoPrimaryKey):
        Keyring((key(**only),)).primary(NOW)


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
def test_a_ring_has_exactly_one_primary_or_none_at_all(ring: Keyring, now: int) -> None:
    found = [each for each in ring.keys if ring.state(each, now) is KeyState.PRIMARY]
    try:
        primary = ring.primary(now)
    except NoPrimaryKey:
        assert found == []
        left = {ring.state(each, now) for each in ring.keys}
        assert left.isdisjoint({KeyState.PRIMARY, KeyState.RETIRED})
    else:
        assert found == [primary]


@given(rings(), TIMES)
def test_the_primary_is_the_newest_of_those_that_may_seal(ring: Keyring, now: int) -> None:
    may_seal = [
        each for each in ring.keys if ring.state(each, now) in (KeyState.PRIMARY, KeyState.RETIRED)
    ]
    for each in may_seal:
        assert each.activates_at <= ring.primary(now).activates_at <= now


@given(rings(), TIMES)
def test_states_depend_on_the_ring_and_the_time_alone(ring: Keyring, now: int) -> None:
    before = states(ring, now)
    for other in range(13):
        states(ring, other)  # looking at another time changes nothing
    again = Keyring(ring.keys, ring.skew, ring.announce)
    assert states(ring, now) == states(again, now) == before


@given(rings(), TIMES)
def test_a_revoked_expired_or_pending_key_is_never_primary(ring: Keyring, now: int) -> None:
    for each in ring.keys:
        expired = each.expires_at is not None and now >= each.expires_at
        if each.revoked or each.disabled or expired or each.activates_at > now:
            assert ring.state(each, now) not in (KeyState.PRIMARY, KeyState.RETIRED)


@given(rings(), TIMES)
def test_what_the_primary_seals_now_is_believed_to_be_sealed_by_it(ring: Keyring, now: int) -> None:
    try:
        primary = ring.primary(now)
    except NoPrimaryKey:
        return
    assert ring.may_have_sealed(primary, now)


def test_a_key_may_have_sealed_from_its_activation_to_its_successors_give_or_take() -> None:
    old, new = key(NOW), key(NOW + 1000)
    ring = Keyring((old, new), skew=60, announce=30)
    assert not ring.may_have_sealed(old, NOW - 61)
    assert ring.may_have_sealed(old, NOW - 60)
    assert ring.may_have_sealed(old, NOW + 1090)
    assert not ring.may_have_sealed(old, NOW + 1091)
    assert not ring.may_have_sealed(new, NOW + 939)
    assert ring.may_have_sealed(new, NOW + 10**9)


def test_a_key_whose_successor_expired_seals_again_and_is_believed() -> None:
    old, new = key(), key(NOW, expires_at=NOW + 1000)
    ring = Keyring((old, new), skew=60)
    assert ring.primary(NOW + 2000) is old
    assert not ring.may_have_sealed(old, NOW + 500)
    assert ring.may_have_sealed(old, NOW + 2000)


def test_a_key_without_a_successor_may_have_sealed_for_ever() -> None:
    only = key()
    ring = Keyring((only, key(), key(NOW, revoked=True), key(NOW, disabled=True)))
    assert ring.retires_at(only) is None
    assert ring.may_have_sealed(only, (1 << 40) - 1)


def test_a_stated_retirement_outweighs_what_the_other_keys_say() -> None:
    old = key(NOW, retires_at=NOW + 500)
    for others in ((), (key(NOW + 100),), (key(NOW + 500, disabled=True),), (key(NOW + 900),)):
        ring = Keyring((old, *others), skew=60, announce=30)
        assert ring.retires_at(old) == NOW + 500
        assert ring.may_have_sealed(old, NOW - 60)
        assert ring.may_have_sealed(old, NOW + 590)
        assert not ring.may_have_sealed(old, NOW - 61)
        assert not ring.may_have_sealed(old, NOW + 591)


def test_a_stated_retirement_is_no_date_of_expiry() -> None:
    old, new = key(NOW, retires_at=NOW + 500), key(NOW + 500)
    ring = Keyring((old, new))
    assert states(ring, NOW + 499) == ["primary", "pending"]
    assert states(ring, NOW + 10**9) == ["retired", "primary"]
    assert ring.retires_at(new) is None


# --- rings ----------------------------------------------------------------------------------------


def test_a_ring_finds_the_one_key_of_a_kid() -> None:
    keys = tuple(key() for _ in range(5))
    ring = Keyring(keys)
    assert [ring.find(each.kid) for each in keys] == list(keys)
    for other in (b"", b"\0" * 3, b"\0" * 5, keys[0].kid[:3]):
        assert ring.find(other) is None


def test_a_ring_remembers_the_kids_of_keys_that_are_no_more_and_holds_none_of_them() -> None:
    only = key()
    assert Keyring((only,)).removed_kids == frozenset()
    ring = Keyring((only,), removed_kids=frozenset({b"dead"}))
    assert ring.find(b"dead") is None
    assert ring.primary(NOW) is only
    with pytest.raises(ConfigurationError, match="no key"):
        Keyring((), removed_kids=frozenset({b"dead"}))


def test_a_ring_without_keys_is_refused_and_the_remedy_named() -> None:
    with pytest.raises(ConfigurationError, match="`sealedstate keys generate` prints one"):
        Keyring(())


def test_two_keys_with_one_kid_or_one_secret_are_refused() -> None:
    first = key()
    with pytest.raises(ConfigurationError, match="same kid"):
        Keyring((first, Key(first.kid, os.urandom(32))))
    with pytest.raises(ConfigurationError, match="same secret"):
        Keyring((first, Key(b"abcd", first.secret)))


# --- what is no key -------------------------------------------------------------------------------

PASSPHRASE = b"correct horse battery staple 123"
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
    "a passphrase": PASSPHRASE,
    "letters": string.ascii_letters[:32].encode(),
    "base64 of something": base64.b64encode(os.urandom(24)),
}


@pytest.mark.parametrize("secret", NOT_RANDOM.values(), ids=NOT_RANDOM.keys())
def test_a_secret_that_no_random_source_makes_is_refused_everywhere(secret: bytes) -> None:
    assert len(secret) == 32
    with pytest.raises(ConfigurationError, match="not random"):
        Key(b"abcd", secret)
    with pytest.raises(ConfigurationError, match="not random"):
        Key.parse(key_text(secret))
    with pytest.raises(ConfigurationError, match="not random"):
        parse_lookup(f"{LOOKUP_LABEL}:{base64url(secret)}")
    with pytest.raises(ConfigurationError, match="not random"):
        open_keys(Settings(keys=[key_text(secret)]))


@pytest.mark.parametrize("size", [0, 1, 16, 24, 31, 33, 64])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    secret = os.urandom(size)
    with pytest.raises(ConfigurationError, match=f"32 bytes, got {size}"):
        Key(b"abcd", secret)
    with pytest.raises(ConfigurationError, match="key: expected"):
        Key.parse(key_text(secret))
    with pytest.raises(ConfigurationError, match="lookup key: expected"):
        parse_lookup(f"{LOOKUP_LABEL}:{base64url(secret)}")


@pytest.mark.parametrize("kid", [b"", b"abc", b"abcde", b"abcd" * 2])
def test_a_kid_of_another_length_is_refused(kid: bytes) -> None:
    with pytest.raises(ConfigurationError, match="a kid must be 4 bytes"):
        Key(kid, os.urandom(32))


def test_random_secrets_are_never_refused() -> None:
    for _ in range(5000):
        check_secret(os.urandom(32))


# --- the text of a key ----------------------------------------------------------------------------


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=32, max_size=32))
def test_what_is_exported_is_parsed_again(kid: bytes, secret: bytes) -> None:
    try:
        made = Key(kid, secret)
    except ConfigurationError:
        return  # hypothesis likes zeros
    again = Key.parse(made.export())
    assert (again.kid, again.secret) == (kid, secret)
    assert parse_lookup(export_lookup(secret)) == secret


def test_a_generated_key_is_parsed_again_with_blanks_around_it() -> None:
    made = Key.generate(os.urandom)
    assert Key.parse(f"  {made.export()}\r\n") == made


def test_generate_asks_the_random_source_for_kid_and_secret() -> None:
    given = os.urandom(32)
    made = Key.generate(lambda size: given[:size], NOW)
    assert (made.kid, made.secret, made.activates_at) == (given[:4], given, NOW)


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


SPELLINGS = spellings()


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_other_text_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Key.parse(text)
    assert_unrepeated(caught.value, text)


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_settings_refuse_the_same_texts_and_never_repeat_them(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_keys(Settings(keys=[text]))
    assert_unrepeated(caught.value, text)


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


@pytest.mark.parametrize("text", LOOKUP_SPELLINGS.values(), ids=LOOKUP_SPELLINGS.keys())
def test_a_bad_lookup_key_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_lookup(text)
    assert_unrepeated(caught.value, text)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Key.parse(text)
    with pytest.raises(ConfigurationError):
        parse_lookup(text)


def assert_unrepeated(error: BaseException, text: str) -> None:
    """No 12 characters of what may be a secret stand in the message, its causes or its repr."""
    shown = "".join(traceback.format_exception_only(error)) + repr(error) + repr(error.args)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    secret = text.strip().rpartition(":")[2]
    for start in range(len(secret) - 11):
        assert secret[start : start + 12] not in shown


# --- a secret is never shown ----------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    text: str
    holder: Any


def holders() -> list[Shown]:
    made = Key.generate(os.urandom)
    lookup = os.urandom(32)
    ring = Keyring((made,), lookup=lookup)
    settings = Settings(keys=[made.export(), export_lookup(lookup)])
    return [
        Shown("key", made),
        Shown("ring", ring),
        Shown("source", StaticKeys(ring)),
        Shown("settings", settings),
        Shown("settings' source", open_keys(settings)),
        Shown("derived", (made.subkey("seal", "core", "r"), made)[1]),
    ]


@pytest.mark.parametrize("shown", holders(), ids=lambda shown: shown.text)
def test_no_secret_stands_in_a_repr_or_in_a_formatted_text(shown: Shown) -> None:
    ring = shown.holder if isinstance(shown.holder, Keyring) else None
    made = shown.holder if isinstance(shown.holder, Key) else None
    if made is None:
        ring = (
            ring
            or (
                open_keys(shown.holder) if isinstance(shown.holder, Settings) else shown.holder
            ).keyring()
        )
    secrets = [each.secret for each in ring.keys] if ring else [made.secret] if made else []
    secrets += [ring.lookup] if ring and ring.lookup else []
    secrets += [made.subkeys["core", "r"].seal, *made._derived.values()] if made else []
    assert secrets
    for text in (repr(shown.holder), str(shown.holder), f"{shown.holder}", f"{shown.holder!r}"):
        for secret in secrets:
            for form in (secret.hex(), base64url(secret), repr(secret)[2:-1]):
                assert form[:12] not in text


def test_a_key_is_neither_pickled_nor_copied_into_a_pickle() -> None:
    made = Key.generate(os.urandom)
    ring = Keyring((made,), lookup=os.urandom(32))
    for holder in (made, ring, [made], {"key": made}, StaticKeys(ring)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(holder, protocol)
        with pytest.raises(TypeError, match="not pickled"):
            copy.deepcopy(holder)


def test_a_refused_ring_does_not_show_its_secrets() -> None:
    first = key()
    with pytest.raises(ConfigurationError) as caught:
        Keyring((first, Key(first.kid, os.urandom(32))))
    assert base64url(first.secret) not in str(caught.value)
    assert first.secret.hex() not in str(caught.value)


# --- what is derived from a key -------------------------------------------------------------------


def test_every_use_purpose_and_realm_has_a_subkey_of_its_own() -> None:
    made = Key.generate(os.urandom)
    names = [
        (use, purpose, realm)
        for use in ("seal", "nonce")
        for purpose in ("core", "overflow", "stored", "cor", "")
        for realm in ("", "e", "ecore", "default")
    ]
    subkeys = {made.subkey(*name) for name in names}
    assert len(subkeys) == len(names)
    assert all(len(subkey) == 32 for subkey in subkeys)
    assert made.secret not in subkeys
    assert {made.subkey(*name) for name in names} == subkeys


FIELDS = st.lists(st.text(max_size=5) | st.binary(max_size=5), max_size=5)


@given(FIELDS, FIELDS)
def test_two_different_lists_of_fields_never_encode_alike(
    first: list[str | bytes], second: list[str | bytes]
) -> None:
    as_bytes = [
        [item.encode() if isinstance(item, str) else item for item in fields]
        for fields in (first, second)
    ]
    alike = length_prefixed(*first) == length_prefixed(*second)
    assert alike == (as_bytes[0] == as_bytes[1])


@given(st.lists(st.binary(max_size=6), min_size=2, max_size=4), st.data())
def test_moving_a_byte_over_a_boundary_changes_the_encoding(
    fields: list[bytes], draw: st.DataObject
) -> None:
    at = draw.draw(st.integers(0, len(fields) - 2))
    moved = list(fields)
    if fields[at]:
        moved[at], moved[at + 1] = fields[at][:-1], fields[at][-1:] + fields[at + 1]
        assert b"".join(moved) == b"".join(fields)
        assert length_prefixed(*moved) != length_prefixed(*fields)
    joined = [*fields[:at], fields[at] + fields[at + 1], *fields[at + 2 :]]
    assert length_prefixed(*joined) != length_prefixed(*fields)
