"""Service logins to columns and back: exact, deterministic, strict, small."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealedstate.errors import LoginsUnreadable, RegistryMissing, UnsupportedValue
from sealedstate.sso import NameID, ServiceLogin
from sealedstate.sso._codec import columns
from sealedstate.sso._codec.columns import MAX_LOGINS, decode_logins, encode_logins
from sealedstate.sso._codec.tables import METHODS
from sealedstate.sso.logins import Derivation, Derived
from sealedstate.sso.registry import Registry
from tests.support.examples import examples
from tests.support.identity_providers import ENTITY_IDS, NOW, OTHER_SP, SP, a_login, registry
from tests.support.login_strategies import LOGIN_SETS

EMPTY = Registry()
SOME = registry(ENTITY_IDS, methods=("https://example.org/passkey",))
OLD, GROWN = registry(ENTITY_IDS[:20]), registry(ENTITY_IDS[:20], ENTITY_IDS[20:])


def random_logins(count: int, seed: int = 1) -> frozenset[ServiceLogin]:
    rnd = random.Random(seed)
    return frozenset(
        a_login(
            f"https://sp{number}.example.org/shibboleth",
            "_" + rnd.randbytes(16).hex(),
            "_" + rnd.randbytes(16).hex(),
            NOW - rnd.randrange(20_000),
        )
        for number in range(count)
    )


@given(LOGIN_SETS, st.booleans())
@examples(150)
def test_logins_come_back_exactly(logins: frozenset[ServiceLogin], registered: bool) -> None:
    known = SOME if registered else EMPTY
    assert decode_logins(encode_logins(logins, known), known) == logins


def test_special_logins_come_back_exactly() -> None:
    long = {
        a_login(SP + "x" * 1000, "n" * 10_000, "Ä" * 10_000),
        a_login(OTHER_SP, "ß∑" * 5_000, ""),
    }
    empty_and_missing_index = {a_login(index=""), a_login(index=None)}
    several_at_one_service = {
        a_login(ENTITY_IDS[n % 3], index=f"_{n:032x}", time=NOW - n) for n in range(10)
    }
    for logins in (random_logins(1000), long, empty_and_missing_index, several_at_one_service):
        assert decode_logins(encode_logins(logins, SOME), SOME) == logins


@given(LOGIN_SETS, st.randoms(use_true_random=False))
@examples(30)
def test_the_order_of_logins_does_not_change_their_encoding(
    logins: frozenset[ServiceLogin], rnd: random.Random
) -> None:
    listed = list(logins)
    rnd.shuffle(listed)
    assert encode_logins(listed + listed[:2], SOME) == encode_logins(logins, SOME)


def test_more_logins_than_can_be_read_are_not_written() -> None:
    with pytest.raises(UnsupportedValue):
        encode_logins((a_login(time=number) for number in range(MAX_LOGINS + 1)), SOME)


# --- sizes --------------------------------------------------------------------------------------


def test_derived_identifiers_take_next_to_nothing() -> None:
    derived = Derived(Derivation.DERIVED, b"kid1", b"mark")
    logins = {a_login(sp, derived, derived, NOW - 60 * n) for n, sp in enumerate(ENTITY_IDS)}
    assert len(encode_logins(logins, SOME)) < 2 * len(logins)


def test_random_identifiers_take_their_bytes_and_registered_services_hardly_one() -> None:
    logins = random_logins(40)
    assert len(encode_logins(logins, SOME)) <= 40 * (16 + 16 + 15 / 8 + 2 / 8) + 16


@given(st.integers(1, 500))
def test_whole_minutes_take_less_and_come_back_to_the_second(minutes: int) -> None:
    even = frozenset({a_login(SP, time=NOW), a_login(OTHER_SP, time=NOW - 60 * minutes)})
    odd = frozenset({a_login(SP, time=NOW), a_login(OTHER_SP, time=NOW - 60 * minutes - 1)})
    for logins in (even, odd):
        assert decode_logins(encode_logins(logins, SOME), SOME) == logins
    assert len(encode_logins(even, SOME)) <= len(encode_logins(odd, SOME))


def test_no_size_depends_on_how_two_texts_resemble_one_another() -> None:
    """An attacker who fills one field can't guess another one by the cookie's length."""
    secret = a_login(SP, "carol.secret", None)

    def size_by_name(guess: str) -> int:
        return len(encode_logins({secret, a_login(OTHER_SP, guess, None)}, SOME))

    def size_by_service(other: str) -> int:
        return len(encode_logins({a_login("https://app.bank.example/q"), a_login(other)}, EMPTY))

    assert size_by_name("carol.secret") == size_by_name("carol.sxxxxx")
    assert size_by_name("carol.secret") == size_by_name("qqqqq.qqqqqq")
    assert size_by_service("https://app.bank.example/r") == size_by_service(
        "https://xyz.mnop.hamster/w"
    )


# --- versions of the registry -------------------------------------------------------------------


def test_later_versions_open_what_an_earlier_version_wrote() -> None:
    logins = random_logins(40)
    data = encode_logins(logins, OLD)
    assert decode_logins(data, GROWN) == logins
    assert len(encode_logins(logins, GROWN)) < len(data)


def test_a_node_whose_registry_lags_behind_names_the_version_it_needs() -> None:
    data = encode_logins({a_login(ENTITY_IDS[30])}, GROWN)
    with pytest.raises(RegistryMissing) as missing:
        decode_logins(data, OLD)
    assert missing.value.version == 2
    assert isinstance(missing.value, LoginsUnreadable)


def test_another_registry_is_not_mistaken_for_the_original() -> None:
    """Otherwise the NameID of one service would be sent to another."""
    data = encode_logins({a_login(ENTITY_IDS[3])}, registry(ENTITY_IDS))
    for other in (registry(list(reversed(ENTITY_IDS))), EMPTY):
        with pytest.raises(RegistryMissing):
            decode_logins(data, other)


def test_logins_without_a_registered_name_need_no_registry() -> None:
    logins = frozenset({a_login(SP), a_login(OTHER_SP)})
    data = encode_logins(logins, SOME)
    assert decode_logins(data, EMPTY) == logins
    assert decode_logins(data, registry(ENTITY_IDS, [SP])) == logins


def test_registered_methods_and_qualifiers_are_written_as_numbers() -> None:
    name_id = NameID("x", None, ENTITY_IDS[7], SP)
    login = ServiceLogin(SP, "https://example.org/passkey", name_id, None, NOW)
    data = encode_logins({login}, SOME)
    assert decode_logins(data, SOME) == {login}
    with pytest.raises(RegistryMissing):
        decode_logins(data, EMPTY)
    assert len(data) < len(encode_logins({login}, EMPTY)) - 20


# --- hostile bytes ------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=200))
@example(b"\x10" + b"\xff" * 50)
@examples(300)
def test_arbitrary_bytes_are_columns_or_unreadable(data: bytes) -> None:
    try:
        logins = decode_logins(data, SOME)
    except LoginsUnreadable:
        return
    assert encode_logins(logins, SOME) == data or encode_logins(logins, EMPTY) == data


@given(LOGIN_SETS, st.data())
@examples(100)
def test_an_altered_byte_is_noticed(logins: frozenset[ServiceLogin], data: st.DataObject) -> None:
    whole = bytearray(encode_logins(logins, SOME) or b"\x10")
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(LoginsUnreadable):
        assert decode_logins(bytes(whole), SOME) != logins


def test_columns_that_are_cut_or_longer_are_refused() -> None:
    data = encode_logins(random_logins(10), SOME)
    for altered in (data[:-1], data[:-2], data[:-5], data[:-20], data + bytes(1), data + bytes(20)):
        with pytest.raises(LoginsUnreadable):
            decode_logins(altered, SOME)


def test_a_number_beyond_the_version_is_refused() -> None:
    data = encode_logins({a_login(ENTITY_IDS[39])}, GROWN)
    # The same version and checksum, with one entity less.
    first, second = GROWN.versions
    cut = replace(GROWN, versions=(first, replace(second, entities=39)))
    with pytest.raises(LoginsUnreadable):
        decode_logins(data, cut)


@pytest.mark.parametrize(
    ("name", "other"),
    [("pack", lambda _: None), ("METHODS", ()), ("NAME_ID_FORMATS", ()), ("MINUTE", 1 << 40)],
)
def test_another_form_of_the_same_logins_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    form = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
    logins = {
        ServiceLogin(SP, METHODS[0], NameID("_" + "0a" * 16, form), None, NOW + 60 * number)
        for number in range(2)
    }
    expected = encode_logins(logins, SOME)
    assert decode_logins(expected, SOME) == logins
    with monkeypatch.context() as patched:
        patched.setattr(columns, name, other)
        written = encode_logins(logins, SOME)
    assert written != expected
    with pytest.raises(LoginsUnreadable):
        decode_logins(written, SOME)


@given(LOGIN_SETS, st.booleans())
@examples(30)
def test_logins_at_one_service_are_those_of_all(
    logins: frozenset[ServiceLogin], registered: bool
) -> None:
    known = SOME if registered else EMPTY
    data = encode_logins(logins, known)
    for entity_id in {login.entity_id for login in logins} | {"https://none.example"}:
        expected = {login for login in logins if login.entity_id == entity_id}
        assert decode_logins(data, known, entity_id) == expected
