"""Service logins to columns and back: exact, deterministic, strict, small."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sealedstate.errors import LoginsUnreadable, RegistryMissing, UnsupportedValue
from sealedstate.sso import NameID, ServiceLogin
from sealedstate.sso._codec.columns import MAX_LOGINS, decode_logins, encode_logins
from sealedstate.sso.logins import Derivation, Derived
from sealedstate.sso.registry import Registry
from tests.support.login_makers import ENTITY_IDS, LOGIN_SETS, NOW, OTHER_SP, SP, a_login, registry

NOTHING = Registry()
SOME = registry(ENTITY_IDS, methods=("https://example.org/passkey",))


def random_logins(count: int, seed: int = 1) -> frozenset[ServiceLogin]:
    rnd = random.Random(seed)
    return frozenset(
        a_login(
            f"https://sp{number}.example.org/shibboleth",
            NOW - rnd.randrange(20_000),
            "_" + rnd.randbytes(16).hex(),
            "_" + rnd.randbytes(16).hex(),
        )
        for number in range(count)
    )


@given(LOGIN_SETS, st.booleans())
@settings(max_examples=150)
def test_logins_come_back_exactly(logins: frozenset[ServiceLogin], registered: bool) -> None:
    known = SOME if registered else NOTHING
    data = encode_logins(logins, known)
    assert decode_logins(data, known) == logins


@given(LOGIN_SETS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_a_set_has_one_encoding_in_whatever_order_it_comes(
    logins: frozenset[ServiceLogin], rnd: random.Random
) -> None:
    listed = list(logins)
    rnd.shuffle(listed)
    assert encode_logins(listed + listed[:2], SOME) == encode_logins(logins, SOME)


def test_nothing_of_a_thousand_logins_or_of_ten_thousand_letters_is_cut() -> None:
    logins = random_logins(1000)
    assert decode_logins(encode_logins(logins, SOME), SOME) == logins
    long = frozenset(
        {
            a_login(SP + "x" * 1000, name="n" * 10_000, index="Ä" * 10_000),
            a_login(OTHER_SP, name="ß∑" * 5_000, index=""),
        }
    )
    assert decode_logins(encode_logins(long, SOME), SOME) == long


def test_an_empty_session_index_is_not_a_missing_one() -> None:
    logins = frozenset({a_login(index=""), a_login(index=None)})
    assert decode_logins(encode_logins(logins, SOME), SOME) == logins


def test_several_logins_at_one_service_are_all_kept() -> None:
    logins = frozenset(
        a_login(ENTITY_IDS[number % 3], NOW - number, index=f"_{number:032x}")
        for number in range(10)
    )
    assert decode_logins(encode_logins(logins, SOME), SOME) == logins


def test_more_logins_than_are_read_are_not_written() -> None:
    many = (a_login(time=number) for number in range(MAX_LOGINS + 1))
    with pytest.raises(UnsupportedValue):
        encode_logins(many, SOME)


def test_what_is_made_again_takes_next_to_nothing() -> None:
    made = Derived(Derivation.DERIVED, b"kid1", b"mark")
    logins = frozenset(
        a_login(entity_id, NOW - 60 * number, made, made)
        for number, entity_id in enumerate(ENTITY_IDS)
    )
    assert len(encode_logins(logins, SOME)) < 2 * len(logins)


def test_a_random_identifier_takes_its_bytes_and_a_registered_service_hardly_one() -> None:
    logins = random_logins(40)
    assert len(encode_logins(logins, SOME)) <= 40 * (16 + 16 + 15 / 8 + 2 / 8) + 16


@given(st.integers(1, 500))
def test_whole_minutes_are_kept_as_such_and_come_back_to_the_second(minutes: int) -> None:
    even = frozenset({a_login(SP, NOW), a_login(OTHER_SP, NOW - 60 * minutes)})
    odd = frozenset({a_login(SP, NOW), a_login(OTHER_SP, NOW - 60 * minutes - 1)})
    for logins in (even, odd):
        assert decode_logins(encode_logins(logins, SOME), SOME) == logins
    assert len(encode_logins(even, SOME)) <= len(encode_logins(odd, SOME))


# --- nothing is compressed ----------------------------------------------------------------------


def test_a_text_that_resembles_another_takes_as_much_as_one_that_does_not() -> None:
    """With one field of theirs, an attacker can't guess another by the cookie's length."""
    secret = a_login(SP, name="carol.secret", index=None)

    def size(guess: str) -> int:
        theirs = a_login(OTHER_SP, NOW + 1, name=guess, index=None)
        return len(encode_logins({secret, theirs}, SOME))

    assert size("carol.secret") == size("carol.sxxxxx") == size("qqqqq.qqqqqq")


def test_an_unregistered_service_takes_as_much_beside_one_that_resembles_it() -> None:
    def size(other: str) -> int:
        return len(encode_logins({a_login("https://app.bank.example/q"), a_login(other)}, NOTHING))

    assert size("https://app.bank.example/r") == size("https://xyz.mnop.hamster/w")


# --- versions of the registry -------------------------------------------------------------------


def test_what_an_old_version_wrote_opens_with_every_later_one() -> None:
    old, grown = registry(ENTITY_IDS[:20]), registry(ENTITY_IDS[:20], ENTITY_IDS[20:])
    logins = random_logins(40)
    data = encode_logins(logins, old)
    assert decode_logins(data, grown) == logins
    assert len(encode_logins(logins, grown)) < len(data)


def test_what_a_later_version_wrote_is_reported_by_a_node_that_lags_behind() -> None:
    old, grown = registry(ENTITY_IDS[:20]), registry(ENTITY_IDS[:20], ENTITY_IDS[20:])
    data = encode_logins({a_login(ENTITY_IDS[30])}, grown)
    with pytest.raises(RegistryMissing) as missing:
        decode_logins(data, old)
    assert missing.value.version == 2
    assert isinstance(missing.value, LoginsUnreadable)


def test_a_registry_made_anew_is_not_mistaken_for_the_one_that_was() -> None:
    """Else the NameID of one service would be sent to another."""
    data = encode_logins({a_login(ENTITY_IDS[3])}, registry(ENTITY_IDS))
    with pytest.raises(RegistryMissing):
        decode_logins(data, registry(list(reversed(ENTITY_IDS))))
    with pytest.raises(RegistryMissing):
        decode_logins(data, NOTHING)


def test_logins_without_a_registered_name_need_no_registry() -> None:
    logins = frozenset({a_login(SP), a_login(OTHER_SP)})
    data = encode_logins(logins, SOME)
    assert decode_logins(data, NOTHING) == logins
    assert decode_logins(data, registry(ENTITY_IDS, [SP])) == logins


def test_registered_methods_and_qualifiers_are_numbers_too() -> None:
    name_id = NameID("x", None, ENTITY_IDS[7], SP)
    login = ServiceLogin(SP, "https://example.org/passkey", name_id, None, NOW)
    data = encode_logins({login}, SOME)
    assert decode_logins(data, SOME) == {login}
    with pytest.raises(RegistryMissing):
        decode_logins(data, NOTHING)
    assert len(data) < len(encode_logins({login}, NOTHING)) - 20


# --- hostile bytes ------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=200))
@example(b"\x10" + b"\xff" * 50)
@settings(max_examples=300)
def test_arbitrary_bytes_are_one_kind_of_error(data: bytes) -> None:
    try:
        logins = decode_logins(data, SOME)
    except LoginsUnreadable:
        return
    assert encode_logins(logins, SOME) == data or encode_logins(logins, NOTHING) == data


@given(LOGIN_SETS, st.data())
@settings(max_examples=100)
def test_an_altered_byte_is_an_error_or_another_set(
    logins: frozenset[ServiceLogin], data: st.DataObject
) -> None:
    whole = bytearray(encode_logins(logins, SOME) or b"\x10")
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(LoginsUnreadable):
        assert decode_logins(bytes(whole), SOME) != logins


@pytest.mark.parametrize("cut", [1, 2, 5, 20])
def test_columns_that_are_cut_or_longer_are_refused(cut: int) -> None:
    data = encode_logins(random_logins(10), SOME)
    for altered in (data[:-cut], data + bytes(cut)):
        with pytest.raises(LoginsUnreadable):
            decode_logins(altered, SOME)


def test_a_number_beyond_the_registry_is_refused() -> None:
    grown = registry(ENTITY_IDS[:20], ENTITY_IDS[20:])
    data = encode_logins({a_login(ENTITY_IDS[39])}, grown)
    # The same numbers under the first version, which has only 20 of them.
    entities = replace(grown.versions[1], entities=39)
    lost = replace(grown, versions=(grown.versions[0], entities))
    with pytest.raises(LoginsUnreadable):
        decode_logins(data, lost)
