"""Identifiers that are made: they lead back, only where they belong, and tell nobody anything."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate._wire.encoding import from_text, to_text
from sealedstate.errors import (
    ConfigurationError,
    ForgedToken,
    KeyDisabled,
    KeyOutOfUse,
    MalformedToken,
    NoPrimaryKey,
    UnknownKey,
    UnreadableError,
)
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import Identifiers
from sealedstate.sso.identifiers import HANDLE_BYTES, HANDLE_CHARS, parse_kid
from tests.support.login_makers import (
    ANY_TEXT,
    NOW,
    OTHER_ID,
    OTHER_SP,
    SESSION_ID,
    SP,
    a_key,
    identifiers,
)

MADE = identifiers()
IDS = st.binary(min_size=16, max_size=16)
NCNAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*", re.ASCII)


def ring(*keys: Key, gone: frozenset[bytes] = frozenset()) -> Identifiers:
    return Identifiers(StaticKeys(Keyring(keys, removed_kids=gone)))


@given(IDS, ANY_TEXT)
def test_a_handle_leads_back_to_its_session(session_id: bytes, entity_id: str) -> None:
    name = MADE.transient_name_id(session_id, entity_id, NOW)
    index = MADE.session_index(session_id, entity_id, NOW)
    assert MADE.open_name_id(name, entity_id, NOW) == session_id
    assert MADE.open_session_index(index, entity_id, NOW) == session_id


@given(IDS)
def test_a_handle_is_a_name_that_saml_and_xml_take(session_id: bytes) -> None:
    name = MADE.transient_name_id(session_id, SP, NOW)
    assert NCNAME.fullmatch(name)
    assert len(name) == HANDLE_CHARS == 49
    assert len(from_text(name[1:])) == HANDLE_BYTES == 36


def test_a_handle_altered_by_any_one_bit_is_refused() -> None:
    token = from_text(MADE.transient_name_id(SESSION_ID, SP, NOW)[1:])
    for bit in range(8 * len(token)):
        altered = (int.from_bytes(token, "big") ^ 1 << bit).to_bytes(len(token), "big")
        with pytest.raises((ForgedToken, UnknownKey)):
            MADE.open_name_id("_" + to_text(altered), SP, NOW)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_from_a_service_is_refused_by_one_kind_of_error(text: str) -> None:
    for given_ in (text, "_" + text, "_" + text.ljust(48, "A")):
        with pytest.raises(UnreadableError):
            MADE.open_name_id(given_, SP, NOW)


def test_a_handle_opens_at_its_own_service_alone() -> None:
    name = MADE.transient_name_id(SESSION_ID, SP, NOW)
    for entity_id in (OTHER_SP, SP + "/", SP.upper(), "", "\ud800"):
        with pytest.raises(ForgedToken):
            MADE.open_name_id(name, entity_id, NOW)


def test_a_name_id_is_no_session_index_and_the_other_way_round() -> None:
    with pytest.raises(ForgedToken):
        MADE.open_session_index(MADE.transient_name_id(SESSION_ID, SP, NOW), SP, NOW)
    with pytest.raises(ForgedToken):
        MADE.open_name_id(MADE.session_index(SESSION_ID, SP, NOW), SP, NOW)


def test_another_deployment_with_the_same_keys_opens_nothing() -> None:
    name = MADE.transient_name_id(SESSION_ID, SP, NOW)
    with pytest.raises(ForgedToken):
        identifiers(realm="other").open_name_id(name, SP, NOW)


@given(IDS, IDS)
@settings(max_examples=50)
def test_two_services_have_nothing_in_common_but_the_kid(one: bytes, other: bytes) -> None:
    """Compared bytewise, handles of one session look like handles of two."""
    made = {
        from_text(make(session_id, entity_id, NOW)[1:])
        for make in (MADE.transient_name_id, MADE.session_index)
        for session_id in {one, other}
        for entity_id in (SP, OTHER_SP)
    }
    assert len({token[:4] for token in made}) == 1
    count = 8 if one != other else 4
    assert len({token[4:20] for token in made}) == count
    assert len({token[20:] for token in made}) == count
    assert all(one not in token and other not in token for token in made)


def test_a_service_that_knows_both_ids_of_two_handles_can_t_swap_their_masks() -> None:
    name, other = (
        from_text(MADE.transient_name_id(i, SP, NOW)[1:]) for i in (SESSION_ID, OTHER_ID)
    )
    for mixed in (name[:20] + other[20:], other[:20] + name[20:]):
        with pytest.raises(ForgedToken):
            MADE.open_name_id("_" + to_text(mixed), SP, NOW)


def test_the_same_session_gets_the_same_handle_again() -> None:
    again = MADE.transient_name_id(SESSION_ID, SP, NOW + 999)
    assert again == MADE.transient_name_id(SESSION_ID, SP, NOW)
    assert again != MADE.transient_name_id(OTHER_ID, SP, NOW)


def test_only_a_whole_session_id_is_taken() -> None:
    with pytest.raises(ValueError):
        MADE.transient_name_id(b"short", SP, NOW)


# --- keys ---------------------------------------------------------------------------------------


def test_what_a_retired_key_made_opens_until_the_key_is_gone() -> None:
    name = identifiers(1).transient_name_id(SESSION_ID, SP, NOW)
    assert identifiers(2, 1).open_name_id(name, SP, NOW) == SESSION_ID
    assert identifiers(2, 1).transient_name_id(SESSION_ID, SP, NOW) != name
    with pytest.raises(UnknownKey):
        identifiers(2).open_name_id(name, SP, NOW)
    with pytest.raises(KeyOutOfUse):
        ring(a_key(2), gone=frozenset({a_key(1).kid})).open_name_id(name, SP, NOW)


def test_a_key_out_of_use_opens_nothing() -> None:
    one = a_key(1)
    name = ring(one).transient_name_id(SESSION_ID, SP, NOW)
    states: list[tuple[Key, type[UnreadableError]]] = [
        (Key(one.kid, one.secret, revoked=True), KeyOutOfUse),
        (Key(one.kid, one.secret, expires_at=NOW), KeyOutOfUse),
        (Key(one.kid, one.secret, disabled=True), KeyDisabled),
    ]
    for key, error in states:
        with pytest.raises(error):
            ring(key).open_name_id(name, SP, NOW)
        with pytest.raises(NoPrimaryKey):
            ring(key).transient_name_id(SESSION_ID, SP, NOW)
    assert ring(Key(one.kid, one.secret, expires_at=NOW + 1)).open_name_id(name, SP, NOW)


def test_the_kid_of_a_handle_can_be_read_and_of_nothing_else() -> None:
    assert parse_kid(MADE.session_index(SESSION_ID, SP, NOW)) == a_key(1).kid
    for text in ("", "_", "_" + "A" * 47, "_" + "A" * 47 + "/", "x" + "A" * 48, "Ä" * 49):
        assert parse_kid(text) is None
    with pytest.raises(MalformedToken):
        MADE.open_name_id("x" + "A" * 48, SP, NOW)


def test_no_secret_shows() -> None:
    assert a_key(1).secret.hex() not in repr(MADE)
    assert repr(a_key(1).secret) not in repr(MADE)


# --- pairwise NameIDs ---------------------------------------------------------------------------


def test_a_pairwise_name_id_stays_when_the_other_keys_rotate() -> None:
    name = identifiers(1).pairwise_name_id("jdoe", SP)
    assert identifiers(2).pairwise_name_id("jdoe", SP) == name
    assert identifiers(1, pairwise=8).pairwise_name_id("jdoe", SP) != name
    assert re.fullmatch("[a-z2-7]{32}", name)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_pairwise_name_ids_differ_by_subject_and_by_service(
    subject: str, entity_id: str, other: str, other_entity_id: str
) -> None:
    same = (subject, entity_id) == (other, other_entity_id)
    one, two = (
        MADE.pairwise_name_id(subject, entity_id),
        MADE.pairwise_name_id(other, other_entity_id),
    )
    assert (one == two) is same


def test_without_a_pairwise_key_there_is_no_pairwise_name_id() -> None:
    with pytest.raises(ConfigurationError):
        identifiers(pairwise=None).pairwise_name_id("jdoe", SP)


# --- the specification --------------------------------------------------------------------------


def lp(*fields: bytes) -> bytes:
    return b"".join(len(one).to_bytes(4, "big") + one for one in fields)


def blake2b(key: bytes, size: int, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=key, digest_size=size).digest()


def test_a_handle_is_what_the_specification_says() -> None:
    root, purpose = a_key(1), b"sso.identifier"
    k_tag = blake2b(root.secret, 32, lp(b"sealedstate/1", b"tag", purpose, b"default"))
    k_mask = blake2b(root.secret, 32, lp(b"sealedstate/1", b"mask", purpose, b"default"))
    for label, made in (
        (b"name-id", MADE.transient_name_id(SESSION_ID, SP, NOW)),
        (b"session-index", MADE.session_index(SESSION_ID, SP, NOW)),
    ):
        tag = blake2b(k_tag, 16, lp(label, SP.encode(), SESSION_ID))
        mask = blake2b(k_mask, 16, lp(label, SP.encode(), tag))
        masked = bytes(a ^ b for a, b in zip(SESSION_ID, mask, strict=True))
        assert from_text(made[1:]) == root.kid + tag + masked


@pytest.mark.parametrize("keys", ["file:ident.json", None, [], StaticKeys, a_key(1)])
def test_keys_that_are_no_key_source_stop_the_start_and_it_says_how_to_make_one(
    keys: Any,
) -> None:
    with pytest.raises(ConfigurationError, match="open_keys"):
        Identifiers(keys)


@pytest.mark.parametrize("pairwise", ["secret", b"secret", StaticKeys(Keyring((a_key(1),)))])
def test_a_pairwise_key_that_is_none_stops_the_start_and_shows_nothing_of_itself(
    pairwise: Any,
) -> None:
    with pytest.raises(ConfigurationError, match=r"Key\.parse") as caught:
        Identifiers(StaticKeys(Keyring((a_key(1),))), pairwise)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("realm", ["", None, b"idp", 1])
def test_a_realm_is_a_name(realm: Any) -> None:
    with pytest.raises(ConfigurationError, match="realm"):
        Identifiers(StaticKeys(Keyring((a_key(1),))), realm=realm)
