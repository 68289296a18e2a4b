"""A service's logout request leads to the sessions that it is about, to no other, and in secret."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedstate._wire.encoding import from_name
from sealedstate.errors import UnsupportedValue
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.session import id_bytes
from sealedstate.sso import PERSISTENT, LogoutIndex, LogoutRequest, NameID, ServiceLogin
from sealedstate.sso.logout.index import KIND, UNSPECIFIED
from sealedstate.storage import MemoryStorage
from tests.support.identity_providers import (
    CARRIED,
    ENTITY_IDS,
    OTHER_SP,
    SP,
    USER,
    Node,
    Provider,
    a_key,
    a_login,
    identifiers,
)
from tests.support.jar import RING
from tests.support.login_strategies import ANY_TEXT, IDENTIFIERS, TEXTS

IDP = "https://idp.example.org/metadata"
ALIAS = "urn:oasis:names:tc:SAML:1.0:nameid-format:unspecified"


def count_found(node: Node, login: ServiceLogin, *indexes: str) -> int:
    """To how many sessions the index leads."""
    assert node.index is not None
    return len(node.index.find(LogoutRequest(login.entity_id, login.name_id, indexes)))


def entries(idp: Provider) -> dict[tuple[str, str], dict[str, int | None]]:
    """The members of the index by context and key."""
    store: Any = idp.store
    indexes: dict[tuple[str, str], dict[str, int | None]] = store._indexes
    return {place: members for place, members in indexes.items() if members}


# --- which NameIDs are the same -------------------------------------------------------------------


def test_parts_of_a_name_id_that_are_left_out_are_understood() -> None:
    idp = Provider(indexed=False)
    node = idp.nodes[0]
    node.index = LogoutIndex(node.keeper, idp.records, IDP)
    idp.signed_in(a_login(SP, "n"))
    for form in (None, UNSPECIFIED, ALIAS):
        for name_qualifier, sp_name_qualifier in ((None, None), (IDP, None), (None, SP), (IDP, SP)):
            asked = NameID("n", form, name_qualifier, sp_name_qualifier)
            assert node.index.find(LogoutRequest(SP, asked)), asked
            assert not node.index.find(LogoutRequest(OTHER_SP, asked)), asked


def test_another_name_format_or_qualifier_is_another_user() -> None:
    idp = Provider()
    name = NameID("n", PERSISTENT, IDP, SP)
    idp.signed_in(ServiceLogin(SP, "m", name, None, 0))
    for other in (
        replace(name, value="N"),
        replace(name, value="n "),
        replace(name, format=None),
        replace(name, name_qualifier="another"),
        replace(name, sp_name_qualifier="another"),
    ):
        assert idp.logout.begin_for_request(LogoutRequest(SP, other)) == []
    assert len(idp.logout.begin_for_request(LogoutRequest(SP, name))) == 1


@given(
    name=st.one_of(TEXTS, st.just("n" * 10_000)),
    index=st.one_of(st.none(), ANY_TEXT, IDENTIFIERS),
    other=st.one_of(st.none(), ANY_TEXT),
    entity_id=st.one_of(ANY_TEXT, st.just("https://sp/" + "x" * 1013)),
    form=st.one_of(st.none(), ANY_TEXT),
)
@settings(max_examples=60)
def test_session_is_found_by_any_texts_and_only_by_them(
    name: str, index: str | None, other: str | None, entity_id: str, form: str | None
) -> None:
    idp = Provider()
    node, login = idp.nodes[0], a_login(entity_id, name, index, form=form)
    idp.signed_in(login)
    assert count_found(node, login) == 1
    assert count_found(node, login, *(() if index is None else (index,))) == 1
    if other is not None:
        assert count_found(node, login, other) == (other == index)
        elsewhere = replace(login, entity_id=other + "?")
        assert count_found(node, elsewhere) == (other + "?" == entity_id)


def test_empty_session_index_differs_from_none() -> None:
    idp = Provider()
    idp.signed_in(a_login(SP, index=""))
    idp.signed_in(a_login(SP, index=None))
    assert count_found(idp.nodes[0], a_login(SP)) == 2
    assert count_found(idp.nodes[0], a_login(SP), "") == 1


# --- handles --------------------------------------------------------------------------------------


def test_forged_or_foreign_handle_leads_nowhere() -> None:
    idp = Provider(indexed=False)
    user = idp.signed_in()
    login = user.enter(SP)
    name, index = str(login.name_id.value), str(login.session_index)
    stranger = identifiers(5).transient_name_id("A" * 22, SP, 0)
    for forged in ("", "_", name[:-1], index, name.upper(), stranger, f"{name}\n"):
        asked = LogoutRequest(SP, NameID(forged, login.name_id.format))
        assert idp.logout.begin_for_request(asked) == []
    assert idp.logout.begin_for_request(LogoutRequest(SP, NameID(stranger), (index,))) == []
    assert idp.logout.begin_for_request(LogoutRequest(OTHER_SP, login.name_id)) == []
    assert user.subject == USER


def test_handles_of_two_sessions_in_one_request_end_neither() -> None:
    idp = Provider(indexed=False)
    users = [idp.signed_in() for _ in range(2)]
    first, second = (user.enter(SP) for user in users)
    asked = LogoutRequest(SP, first.name_id, (str(second.session_index),))
    assert idp.logout.begin_for_request(asked) == []
    assert [user.subject for user in users] == [USER, USER]


def test_login_whose_handles_lead_to_its_session_takes_no_entry() -> None:
    idp = Provider()
    login = idp.signed_in().enter(SP)
    assert entries(idp) == {}
    assert len(idp.logout.begin_for_request(LogoutRequest(SP, login.name_id))) == 1


# --- the index ------------------------------------------------------------------------------------


def pieces(data: bytes) -> set[bytes]:
    return {data[at : at + 4] for at in range(len(data) - 3)}


def test_index_reveals_no_login_and_no_two_entries_of_one_session() -> None:
    idp = Provider()
    logins = [a_login(entity_id) for entity_id in ENTITY_IDS[:20]]
    users = [idp.signed_in(*logins), idp.signed_in(*logins)]
    sessions = [user.session() for user in users]
    assert all(session.subject for session in sessions)
    kept = entries(idp)
    assert {context for context, _ in kept} == {KIND.context}
    names = [key for _, key in kept]
    members = [member for each in kept.values() for member in each]
    assert (len(names), len(set(members))) == (20, 40)
    text, raw = " ".join([*names, *members]), b"".join(map(from_name, [*names, *members]))
    assert not [login for login in logins if login.entity_id in text]
    assert USER not in text
    for session in sessions:
        assert session.id not in text
        assert id_bytes(session) not in raw
        # Not even four bytes of the session's id can be recognised.
        for member in members:
            assert not pieces(from_name(member)) & pieces(id_bytes(session))


def test_entry_is_made_once_and_lives_as_long_as_its_session_can() -> None:
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


def test_entries_of_an_ended_session_stay_until_all_services_were_notified() -> None:
    idp = Provider()
    logins = [a_login(SP), a_login(OTHER_SP), a_login(ENTITY_IDS[1], index=None)]
    user = idp.signed_in(*logins)
    progress = user.answer(idp.logout.begin)
    # A service that asks again finds the same logout.
    (again,) = user.node.ask(logins[0])
    assert len(again.remaining) == 2
    assert len(entries(idp)) == 3
    progress.notified(*again.remaining)
    user.node.ask(logins[0])
    assert entries(idp) == {}


def test_service_that_was_left_is_still_found() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(a_login(SP), a_login(OTHER_SP))
    user.answer(lambda session: idp.logout.leave_service(session, SP))
    assert count_found(idp.nodes[0], a_login(SP)) == 1  # an older cookie may hold that login


def test_foreign_members_are_ignored_and_counted() -> None:
    idp = Provider()
    node, store = idp.nodes[0], idp.store
    assert isinstance(store, MemoryStorage)
    idp.signed_in(a_login(SP))
    ((context, key),) = entries(idp)
    ((member, until),) = store.members(context, key).items()
    for foreign in ("", "x", "A" * 54, member[:-1], member + "A", "ü" * 54):
        store.add_member(context, key, foreign, until)
    store.add_member(context, "elsewhere", member, until)  # valid only in its own row
    assert count_found(node, a_login(SP)) == 1
    assert node.keeper.counts["row-refused-tag"] == 6


def test_index_survives_rotated_keys_but_no_other_realm_or_lookup_key() -> None:
    idp = Provider()
    idp.signed_in(a_login(SP))
    rotated = StaticKeys(Keyring((a_key(3), *RING.keys), lookup=RING.lookup))
    another = StaticKeys(Keyring(RING.keys, lookup=os.urandom(32)))
    assert count_found(idp.node(keys=rotated), a_login(SP)) == 1
    assert count_found(idp.node(keys=another), a_login(SP)) == 0
    assert count_found(idp.node(realm="other"), a_login(SP)) == 0


def test_each_of_a_thousand_logins_is_found() -> None:
    idp = Provider()
    logins = [a_login(f"https://sp{number}.example.org/saml") for number in range(1000)]
    idp.signed_in().go(*logins)
    node = idp.nodes[0]
    assert all(count_found(node, login, "_1") == 1 for login in logins)
    (progress,) = node.ask(logins[500])
    assert len(progress.remaining) == 999
    progress.notified(*progress.remaining)
    assert progress.is_complete
    node.ask(logins[500])
    assert entries(idp) == {}


# --- what can be asked ----------------------------------------------------------------------------


def test_request_that_could_match_no_login_is_refused() -> None:
    odd: dict[str, list[Any]] = {
        "session_indexes": ["_5f3a", "", None, b"_5f3a", {"_5f3a"}, ("_5f3a", None), ["\ud800"]],
        "name_id": ["joe", None],
        "entity_id": [None, b"https://wiki.example.org", "\ud800"],
    }
    usual: dict[str, Any] = {"entity_id": SP, "name_id": NameID("n")}
    for name, values in odd.items():
        for value in values:
            with pytest.raises(UnsupportedValue):
                LogoutRequest(**usual | {name: value})


def test_session_indexes_may_be_any_sequence_and_do_not_change_later() -> None:
    indexes = ["_a", "_b"]
    request = LogoutRequest(SP, NameID("n"), indexes)
    indexes.clear()
    assert request == LogoutRequest(SP, NameID("n"), ("_a", "_b"))
    assert hash(request) == hash(LogoutRequest(SP, NameID("n"), ("_a", "_b")))
