"""Which sessions a service means: all of those, no other, and nobody else learns of it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate._wire.encoding import from_text, to_text
from sealedstate.errors import ConfigurationError, UnsupportedValue
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import PERSISTENT, LogoutIndex, LogoutRequest, NameID, ServiceLogin
from sealedstate.sso.logout.index import CONTEXT, UNSPECIFIED
from sealedstate.storage import MemoryStorage
from tests.support.identity_providers import CARRIED, TOLERATED, USER, Node, Provider, a_login
from tests.support.jar import RING, Clock, keeper
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP, a_key, identifiers
from tests.support.login_strategies import ANY_TEXT, IDENTIFIERS, TEXTS

IDP = "https://idp.example.org/metadata"


def found(node: Node, login: ServiceLogin, *indexes: str) -> int:
    assert node.index is not None
    return len(node.index.find(LogoutRequest(login.entity_id, login.name_id, indexes)))


# --- what a NameID means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        NameID("n"),
        NameID("n", UNSPECIFIED),
        NameID("n", "urn:oasis:names:tc:SAML:1.0:nameid-format:unspecified"),
        NameID("n", None, IDP),
        NameID("n", None, None, SP),
        NameID("n", UNSPECIFIED, IDP, SP),
    ],
)
def test_what_is_left_out_of_a_name_id_is_understood(asked: NameID) -> None:
    idp = Provider(indexed=False)
    node = idp.nodes[0]
    node.index = LogoutIndex(node.keeper, idp.records, IDP)
    idp.signed_in(a_login(SP, "n"))
    assert node.index.find(LogoutRequest(SP, asked))
    assert not node.index.find(LogoutRequest(OTHER_SP, asked))


@pytest.mark.parametrize(
    "asked",
    [
        NameID("N", PERSISTENT, IDP, SP),
        NameID("n ", PERSISTENT, IDP, SP),
        NameID("n", None, IDP, SP),
        NameID("n", PERSISTENT, "another", SP),
        NameID("n", PERSISTENT, IDP, "another"),
    ],
)
def test_another_name_format_or_qualifier_is_another_user(asked: NameID) -> None:
    idp = Provider()
    idp.signed_in(ServiceLogin(SP, "m", NameID("n", PERSISTENT, IDP, SP), None, 0))
    assert idp.logout.begin_by_request(LogoutRequest(SP, asked)) == []
    exact = LogoutRequest(SP, NameID("n", PERSISTENT, IDP, SP))
    assert len(idp.logout.begin_by_request(exact)) == 1


@given(
    name=st.one_of(TEXTS, st.just("n" * 10_000)),
    index=st.one_of(st.none(), ANY_TEXT, IDENTIFIERS),
    other=st.one_of(st.none(), ANY_TEXT),
    entity_id=st.one_of(ANY_TEXT, st.just("https://sp/" + "x" * 1013)),
    form=st.one_of(st.none(), ANY_TEXT),
)
@settings(max_examples=60)
def test_whatever_the_texts_the_session_is_found_and_only_by_them(
    name: str, index: str | None, other: str | None, entity_id: str, form: str | None
) -> None:
    idp = Provider()
    node, login = idp.nodes[0], a_login(entity_id, name, index, form=form)
    idp.signed_in(login)
    assert found(node, login) == 1
    assert found(node, login, *(() if index is None else (index,))) == 1
    if other is not None:
        assert found(node, login, other) == (other == index)
        assert found(node, replace(login, entity_id=other + "?")) == (other + "?" == entity_id)


def test_an_empty_session_index_is_one_and_none_is_none() -> None:
    idp = Provider()
    node = idp.nodes[0]
    idp.signed_in(a_login(SP, index=""))
    idp.signed_in(a_login(SP, index=None))
    assert found(node, a_login(SP)) == 2
    assert found(node, a_login(SP), "") == 1


def test_what_has_no_utf8_is_no_request() -> None:
    for entity_id, name, index in (("\ud800", "n", "i"), (SP, "\ud800", "i"), (SP, "n", "\ud800")):
        with pytest.raises(UnsupportedValue):
            LogoutRequest(entity_id, NameID(name), (index,))


# --- handles --------------------------------------------------------------------------------------


def test_a_forged_or_foreign_handle_leads_nowhere() -> None:
    idp = Provider(indexed=False)
    user = idp.signed_in()
    login = user.enter(SP)
    name, index = str(login.name_id.value), str(login.session_index)
    stranger = identifiers(5).transient_name_id(bytes(16), SP, 0)
    for forged in ("", "_", name[:-1], index, name.upper(), stranger, f"{name}\n"):
        asked = LogoutRequest(SP, NameID(forged, login.name_id.format))
        assert idp.logout.begin_by_request(asked) == []
    token = from_text(name[1:])
    for bit in range(0, 8 * len(token), 7):
        altered = (int.from_bytes(token, "big") ^ 1 << bit).to_bytes(len(token), "big")
        asked = LogoutRequest(SP, NameID("_" + to_text(altered)), (index,))
        assert idp.logout.begin_by_request(asked) == []
    assert idp.logout.begin_by_request(LogoutRequest(OTHER_SP, login.name_id)) == []
    assert user.subject == USER


def test_a_name_and_an_index_of_two_sessions_end_neither() -> None:
    idp = Provider(indexed=False)
    users = [idp.signed_in() for _ in range(2)]
    first, second = (user.enter(SP) for user in users)
    asked = LogoutRequest(SP, first.name_id, (str(second.session_index),))
    assert idp.logout.begin_by_request(asked) == []
    assert [user.subject for user in users] == [USER, USER]


def test_what_leads_back_by_itself_takes_no_entry() -> None:
    idp = Provider()
    user = idp.signed_in()
    login = user.enter(SP)
    assert found(idp.nodes[0], login) == 0
    assert len(idp.logout.begin_by_request(LogoutRequest(SP, login.name_id))) == 1


# --- the index ------------------------------------------------------------------------------------


def entries(idp: Provider) -> dict[tuple[str, str], dict[str, int | None]]:
    store: Any = idp.store
    found: dict[tuple[str, str], dict[str, int | None]] = store._indexes
    return {place: members for place, members in found.items() if members}


def test_nothing_in_the_index_can_be_read_or_compared() -> None:
    idp = Provider()
    logins = [a_login(entity_id) for entity_id in ENTITY_IDS[:20]]
    users = [idp.signed_in(*logins), idp.signed_in(*logins)]
    sessions = [user.session() for user in users]
    assert all(session.subject for session in sessions)
    kept = entries(idp)
    assert len(kept) == 20
    names = [key for _, key in kept]
    members = [member for each in kept.values() for member in each]
    assert len(set(members)) == 40  # no two tell that they are of one session
    raw = b"".join(from_text(text) for text in [*names, *members])
    text = " ".join([*names, *members])
    for session in sessions:
        assert session.raw_id not in raw
        assert session.id not in text
    for login in logins:
        assert login.entity_id not in text
    assert USER not in text
    # Whoever has the session's id, and not the key, finds nothing of it either.
    assert not {piece for member in members for piece in _pieces(from_text(member))} & {
        piece for session in sessions for piece in _pieces(session.raw_id)
    }


def _pieces(data: bytes) -> set[bytes]:
    return {data[at : at + 4] for at in range(len(data) - 3)}


def test_an_entry_is_made_once_and_lives_as_long_as_its_session_can() -> None:
    idp = Provider()
    user = idp.signed_in(a_login(SP))
    session = user.session()
    expires_at = session.expires_at
    before = entries(idp)
    idp.clock.forward(600)
    user.go(a_login(SP, time=1_800_000_540))
    assert entries(idp) == before
    ((_, until),) = next(iter(before.values())).items()
    assert expires_at is not None
    assert until == (expires_at + 60) * 1000


def test_entries_of_an_ended_session_stay_until_one_asks_again_and_all_are_told() -> None:
    idp = Provider()
    logins = [a_login(SP), a_login(OTHER_SP), a_login(ENTITY_IDS[1], index=None)]
    user = idp.signed_in(*logins)
    progress = user.answer(idp.logout.begin)
    # A service that asks again finds the same logout.
    (again,) = user.node.ask(logins[0])
    assert len(again.remaining) == 2
    assert len(entries(idp)) == 3
    progress.told(*again.remaining)
    user.node.ask(logins[0])
    assert entries(idp) == {}


def test_a_service_that_was_left_is_still_found_for_an_older_cookie_may_tell_of_it() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(a_login(SP), a_login(OTHER_SP))
    user.answer(lambda session: idp.logout.leave(session, SP))
    assert found(idp.nodes[0], a_login(SP)) == 1


def test_foreign_members_are_passed_over_and_counted() -> None:
    idp = Provider()
    node, store = idp.nodes[0], idp.store
    assert isinstance(store, MemoryStorage)
    idp.signed_in(a_login(SP))
    ((context, key),) = entries(idp)
    ((member, until),) = store.members(context, key).items()
    for foreign in ("", "x", "A" * 54, member[:-1], member + "A", "ü" * 54):
        store.add_member(context, key, foreign, until)
    # One of another row is none of this one's.
    store.add_member(context, "elsewhere", member, until)
    assert found(node, a_login(SP)) == 1
    assert node.keeper.counts["row-refused-tag"] == 6


def test_another_realm_finds_nothing() -> None:
    idp = Provider()
    idp.signed_in(a_login(SP))
    other = idp.node(realm="other")
    assert found(idp.nodes[0], a_login(SP)) == 1
    assert found(other, a_login(SP)) == 0


def test_sealing_keys_may_rotate_but_another_lookup_key_finds_nothing() -> None:
    idp = Provider()
    idp.signed_in(a_login(SP))
    rotated = Keyring((a_key(3), *RING.keys), lookup=RING.lookup)
    assert found(idp.node(keys=StaticKeys(rotated)), a_login(SP)) == 1
    another = Keyring(RING.keys, lookup=os.urandom(32))
    assert found(idp.node(keys=StaticKeys(another)), a_login(SP)) == 0


def test_a_thousand_logins_are_all_found() -> None:
    idp = Provider()
    logins = [a_login(f"https://sp{number}.example.org/saml") for number in range(1000)]
    user = idp.signed_in()
    user.go(*logins)
    node = idp.nodes[0]
    assert all(found(node, login, "_1") == 1 for login in logins)
    (progress,) = node.ask(logins[500])
    assert len(progress.remaining) == 999
    progress.told(*progress.remaining)
    assert progress.complete
    node.ask(logins[500])
    assert entries(idp) == {}


def test_it_needs_a_store_and_a_lookup_key() -> None:
    clock, records = Clock(), Provider().records
    with pytest.raises(ConfigurationError):
        LogoutIndex(keeper(clock), records)
    keys = StaticKeys(Keyring((a_key(1),)))
    store = MemoryStorage(clock)
    with pytest.raises(ConfigurationError, match="--lookup"):
        LogoutIndex(
            keeper(clock, storage=store, keys=keys, accept_weak_store_for=TOLERATED), records
        )
    with pytest.raises(ConfigurationError, match="logins needs a store that"):
        LogoutIndex(keeper(clock, storage=store, accept_weak_store_for=["revocation"]), records)


def test_the_index_is_in_its_context() -> None:
    idp = Provider()
    idp.signed_in(a_login(SP))
    assert {context for context, _ in entries(idp)} == {CONTEXT}


# --- what can be asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"session_indexes": "_5f3a"},
        {"session_indexes": ""},
        {"session_indexes": None},
        {"session_indexes": b"_5f3a"},
        {"session_indexes": {"_5f3a"}},
        {"session_indexes": ("_5f3a", None)},
        {"session_indexes": ["\ud800"]},
        {"name_id": "joe"},
        {"name_id": None},
        {"entity_id": None},
        {"entity_id": b"https://wiki.example.org"},
    ],
)
def test_a_request_that_could_find_nobody_is_refused_where_it_is_made(
    fields: dict[str, Any],
) -> None:
    usual: dict[str, Any] = {"entity_id": SP, "name_id": NameID("n")}
    with pytest.raises(UnsupportedValue):
        LogoutRequest(**usual | fields)


def test_session_indexes_may_be_any_sequence_and_do_not_change_later() -> None:
    indexes = ["_a", "_b"]
    request = LogoutRequest(SP, NameID("n"), indexes)
    indexes.clear()
    assert request == LogoutRequest(SP, NameID("n"), ("_a", "_b"))
    assert hash(request) == hash(LogoutRequest(SP, NameID("n"), ("_a", "_b")))
