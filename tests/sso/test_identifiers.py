"""Derived identifiers lead back, only where they belong, and reveal nothing."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate._wire.encoding import from_name, to_name
from sealedstate._wire.record import format_id
from sealedstate.errors import (
    ConfigurationError,
    ForgedToken,
    KeyDisabled,
    KeyOutOfUse,
    MalformedToken,
    NoPrimaryKey,
    UnknownKey,
    UnreadableError,
    UnsupportedValue,
)
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import Identifiers
from sealedstate.sso.identifiers import HANDLE_BYTES, HANDLE_CHARS, mask, parse_kid, unmask
from tests.support.identity_providers import (
    NOW,
    OTHER_ID,
    OTHER_SP,
    SESSION_ID,
    SP,
    a_key,
    identifiers,
)
from tests.support.login_strategies import ANY_TEXT, SESSION_IDS

IDS = identifiers()
SESSION = format_id(SESSION_ID)


def ring(*keys: Key, removed: frozenset[bytes] = frozenset()) -> Identifiers:
    return Identifiers(StaticKeys(Keyring(keys, removed_kids=removed)))


def token(text: str) -> bytes:
    return from_name(text[1:])


@given(SESSION_IDS, ANY_TEXT)
def test_a_handle_leads_back_to_its_session(session_id: bytes, entity_id: str) -> None:
    name = IDS.transient_name_id(format_id(session_id), entity_id, NOW)
    index = IDS.session_index(format_id(session_id), entity_id, NOW)
    assert IDS.open_name_id(name, entity_id, NOW) == format_id(session_id)
    assert IDS.open_session_index(index, entity_id, NOW) == format_id(session_id)
    for handle in (name, index):
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9._-]*", handle, re.ASCII)  # an NCName
        assert len(handle) == HANDLE_CHARS == 49
        assert len(token(handle)) == HANDLE_BYTES == 36


def test_a_handle_with_any_altered_bit_is_refused() -> None:
    original = token(IDS.transient_name_id(SESSION, SP, NOW))
    for bit in range(8 * len(original)):
        altered = (int.from_bytes(original, "big") ^ 1 << bit).to_bytes(len(original), "big")
        with pytest.raises((ForgedToken, UnknownKey)):
            IDS.open_name_id("_" + to_name(altered), SP, NOW)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_from_a_service_is_unreadable(text: str) -> None:
    for sent in (text, "_" + text, "_" + text.ljust(48, "A")):
        with pytest.raises(UnreadableError):
            IDS.open_name_id(sent, SP, NOW)


def test_a_handle_opens_only_at_its_service_under_its_label_and_realm() -> None:
    name = IDS.transient_name_id(SESSION, SP, NOW)
    index = IDS.session_index(SESSION, SP, NOW)
    for open_handle, text, entity_id in (
        *((IDS.open_name_id, name, sp) for sp in (OTHER_SP, SP + "/", SP.upper(), "", "\ud800")),
        (IDS.open_session_index, name, SP),
        (IDS.open_name_id, index, SP),
        (identifiers(realm="other").open_name_id, name, SP),
    ):
        with pytest.raises(ForgedToken):
            open_handle(text, entity_id, NOW)


@given(SESSION_IDS, SESSION_IDS)
def test_handles_of_a_session_have_nothing_in_common_but_the_kid(one: bytes, other: bytes) -> None:
    """Compared bytewise, handles of one session look like handles of two."""
    tokens = {
        token(derive(format_id(session_id), entity_id, NOW))
        for derive in (IDS.transient_name_id, IDS.session_index)
        for session_id in {one, other}
        for entity_id in (SP, OTHER_SP)
    }
    count = 8 if one != other else 4
    assert len({each[:4] for each in tokens}) == 1
    assert len({each[4:20] for each in tokens}) == count
    assert len({each[20:] for each in tokens}) == count
    assert all(one not in each and other not in each for each in tokens)


def test_handles_are_deterministic_and_their_masks_can_t_be_swapped() -> None:
    names = [IDS.transient_name_id(format_id(i), SP, NOW) for i in (SESSION_ID, OTHER_ID)]
    assert IDS.transient_name_id(SESSION, SP, NOW + 999) == names[0] != names[1]
    one, other = map(token, names)
    for mixed in (one[:20] + other[20:], other[:20] + one[20:]):
        with pytest.raises(ForgedToken):
            IDS.open_name_id("_" + to_name(mixed), SP, NOW)
    for wrong in (b"short", SESSION_ID, SESSION_ID.hex(), SESSION + "="):
        with pytest.raises(UnsupportedValue, match="session_id"):
            IDS.transient_name_id(wrong, SP, NOW)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4), st.data())
def test_masked_values_come_back_and_altered_ones_do_not(
    values: list[bytes], data: st.DataObject
) -> None:
    keys = (bytes(32), b"k" * 32)
    sizes = [len(value) for value in values]
    masked = mask(keys, ("context",), b"", *values, b"end")
    assert unmask(keys, ("context",), masked, (0, *sizes, 3)) == (b"", *values, b"end")
    assert unmask(keys, ("context",), masked, (*sizes, 4)) is None
    assert unmask(keys, ("other",), masked, (0, *sizes, 3)) is None
    altered = bytearray(masked)
    altered[data.draw(st.integers(0, len(masked) - 1))] ^= data.draw(st.integers(1, 255))
    assert unmask(keys, ("context",), bytes(altered), (0, *sizes, 3)) is None


# --- keys ---------------------------------------------------------------------------------------


def test_a_handle_opens_as_long_as_its_key_is_in_use() -> None:
    kid, secret = a_key(1).kid, a_key(1).secret
    name = identifiers(1).transient_name_id(SESSION, SP, NOW)
    assert identifiers(2, 1).open_name_id(name, SP, NOW) == SESSION
    assert identifiers(2, 1).transient_name_id(SESSION, SP, NOW) != name
    assert ring(Key(kid, secret, expires_at=NOW + 1)).open_name_id(name, SP, NOW) == SESSION
    with pytest.raises(UnknownKey):
        identifiers(2).open_name_id(name, SP, NOW)
    with pytest.raises(KeyOutOfUse):
        ring(a_key(2), removed=frozenset({kid})).open_name_id(name, SP, NOW)
    for key, error in (
        (Key(kid, secret, revoked=True), KeyOutOfUse),
        (Key(kid, secret, expires_at=NOW), KeyOutOfUse),
        (Key(kid, secret, disabled=True), KeyDisabled),
    ):
        with pytest.raises(error):
            ring(key).open_name_id(name, SP, NOW)
        with pytest.raises(NoPrimaryKey):
            ring(key).transient_name_id(SESSION, SP, NOW)


def test_only_a_handle_has_a_kid() -> None:
    assert parse_kid(IDS.session_index(SESSION, SP, NOW)) == a_key(1).kid
    for text in ("", "_", "_" + "A" * 47, "_" + "A" * 47 + "/", "x" + "A" * 48, "Ä" * 49):
        assert parse_kid(text) is None
    with pytest.raises(MalformedToken):
        IDS.open_name_id("x" + "A" * 48, SP, NOW)


# --- pairwise NameIDs ---------------------------------------------------------------------------


def test_a_pairwise_name_id_survives_the_rotation_of_the_other_keys() -> None:
    name = identifiers(1).pairwise_name_id("jdoe", SP)
    assert identifiers(2).pairwise_name_id("jdoe", SP) == name
    assert identifiers(1, pairwise=8).pairwise_name_id("jdoe", SP) != name
    assert re.fullmatch("[a-z2-7]{32}", name)
    with pytest.raises(ConfigurationError, match="pairwise"):
        identifiers(pairwise=None).pairwise_name_id("jdoe", SP)


@given(st.tuples(ANY_TEXT, ANY_TEXT), st.tuples(ANY_TEXT, ANY_TEXT))
def test_pairwise_name_ids_differ_by_subject_and_service(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (IDS.pairwise_name_id(*one) == IDS.pairwise_name_id(*other)) is (one == other)


# --- the specification --------------------------------------------------------------------------


def lp(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def blake2b(key: bytes, size: int, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=key, digest_size=size).digest()


def test_a_handle_is_what_the_specification_says() -> None:
    root, purpose = a_key(1), b"sso.identifier"
    k_tag = blake2b(root.secret, 32, lp(b"sealedstate/1", b"tag", purpose, b"default"))
    k_mask = blake2b(root.secret, 32, lp(b"sealedstate/1", b"mask", purpose, b"default"))
    for label, text in (
        (b"name-id", IDS.transient_name_id(SESSION, SP, NOW)),
        (b"session-index", IDS.session_index(SESSION, SP, NOW)),
    ):
        tag = blake2b(k_tag, 16, lp(label, SP.encode(), SESSION_ID))
        bits = blake2b(k_mask, 16, lp(label, SP.encode(), tag))
        masked = bytes(a ^ b for a, b in zip(SESSION_ID, bits, strict=True))
        assert token(text) == root.kid + tag + masked


# --- configuration ------------------------------------------------------------------------------


def test_a_wrong_configuration_is_named_and_no_secret_shown() -> None:
    source = StaticKeys(Keyring((a_key(1),)))
    cases: list[tuple[str, tuple[Any, ...]]] = [
        ("open_keys", ("file:i.json",)),
        ("open_keys", (None,)),
        ("open_keys", (StaticKeys,)),
        ("open_keys", (a_key(1),)),
        (r"Key\.parse", (source, "secret")),
        (r"Key\.parse", (source, b"secret")),
        (r"Key\.parse", (source, source)),
        ("realm", (source, None, "")),
        ("realm", (source, None, None)),
        ("realm", (source, None, b"idp")),
    ]
    for problem, arguments in cases:
        with pytest.raises(ConfigurationError, match=problem) as caught:
            Identifiers(*arguments)
        assert "secret" not in str(caught.value)
    assert a_key(1).secret.hex() not in repr(IDS)
    assert repr(a_key(1).secret) not in repr(IDS)
