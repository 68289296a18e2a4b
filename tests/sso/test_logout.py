"""Single logout: no cookie is accepted afterwards, and every service is notified."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest

from sealedstate import Session, SessionWithheld
from sealedstate.devices import SessionRegistry
from sealedstate.errors import (
    ConfigurationError,
    LogoutRequestMismatch,
    NotSignedIn,
    RegistryMissing,
    StorageError,
    UsageError,
)
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import (
    PERSISTENT,
    TRANSIENT,
    LogoutProgress,
    LogoutRequest,
    NameID,
    Notice,
    ServiceLogin,
    SingleLogout,
)
from sealedstate.sso import records as records_module
from sealedstate.sso._codec.columns import decode_logins
from sealedstate.sso.logout.index import UNSPECIFIED
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import (
    CARRIED,
    ENTITY_IDS,
    OTHER_SP,
    PASSWORD,
    SERVED,
    SP,
    USER,
    Provider,
    User,
    a_key,
    a_login,
    as_notice,
    registry,
)
from tests.support.jar import keeper

WIKI, MAIL, SHOP = (a_login(entity_id) for entity_id in (SP, OTHER_SP, ENTITY_IDS[3]))
ROW = "sealedstate.sso.logout"
OTHER_KEYS = StaticKeys(Keyring((a_key(7),), lookup=a_key(8).secret))
EVERYWHERE = pytest.mark.parametrize(
    "part_policies", [SERVED, CARRIED, {}], ids=["store", "cookie", "any"]
)
Policies = dict[str, str]


def entity_ids(progress: LogoutProgress | None) -> set[str]:
    assert progress is not None
    return {notice.entity_id for notice in progress}


def notify_all(progress: LogoutProgress) -> None:
    for notice in progress:
        progress.notified(notice)


def resume(idp: Provider, token: str, node: int = 0) -> LogoutProgress:
    progress = idp.nodes[node].logout.resume(token)
    assert progress is not None
    return progress


# --- front channel --------------------------------------------------------------------------------


@EVERYWHERE
def test_logout_ends_the_session_and_lists_its_services(part_policies: Policies) -> None:
    idp = Provider(part_policies=part_policies)
    user = idp.signed_in(WIKI, MAIL)
    thief = User(user.node, user.jar.copy())
    progress = user.answer(idp.logout.begin)
    assert tuple(progress) == progress.remaining
    assert set(progress) == {as_notice(WIKI), as_notice(MAIL)}
    state = (progress.is_revoked, progress.pending_in_cookie, progress.is_complete)
    assert state == (True, False, False)
    assert (user.subject, user.jar.header(), thief.subject) == (None, "", None)
    notify_all(progress)
    assert (progress.is_complete, progress.is_partial, progress.remaining) == (True, False, ())


@EVERYWHERE
def test_service_that_asked_is_not_notified_of_the_session_it_named(
    part_policies: Policies,
) -> None:
    idp = Provider(part_policies=part_policies)
    other = a_login(SP, index="_2")
    user = idp.signed_in(WIKI, other, MAIL)
    request = LogoutRequest(WIKI.entity_id, WIKI.name_id, ("_1",))
    progress = user.answer(lambda session: idp.logout.begin(session, request))
    assert set(progress) == {as_notice(other), as_notice(MAIL)}


@pytest.mark.parametrize("store", ["memory:", None])
def test_request_about_another_session_does_not_end_this_one(store: str | None) -> None:
    idp = Provider(storage=store, part_policies={}, indexed=False)
    user = idp.signed_in(WIKI)
    for request in (
        LogoutRequest(SP, NameID("somebody else"), ("_1",)),
        LogoutRequest(SP, WIKI.name_id, ("_2",)),
        LogoutRequest(OTHER_SP, WIKI.name_id),
    ):
        with pytest.raises(LogoutRequestMismatch):
            idp.logout.begin(user.session(), request)
    assert user.subject == USER
    assert user.services() == (WIKI,)


def test_begin_without_a_user_or_with_a_withheld_cookie_is_refused() -> None:
    idp = Provider()
    for session in (idp.user().session(), idp.nodes[0].keeper.session("__Host-Http-s=x")):
        with pytest.raises(NotSignedIn):
            idp.logout.begin(session)
    other = idp.node(keys=OTHER_KEYS)
    session = other.keeper.session(idp.signed_in(WIKI).jar.header())
    with pytest.raises(SessionWithheld):
        other.logout.begin(session)
    assert other.logout.pending(session) is None


def test_session_of_a_user_who_signs_in_in_the_same_request_is_ended() -> None:
    idp = Provider()
    user = idp.user()

    def at_once(session: Session) -> LogoutProgress:
        session.subject = USER
        user.login(session).add_service(WIKI)
        return idp.logout.begin(session)

    assert entity_ids(user.answer(at_once)) == {SP}
    assert user.subject is None


def test_logouts_by_id_need_no_cookie_in_a_request_from_another_site() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI)
    node = idp.nodes[0]
    held_back = node.keeper.session("", cross_site=True)
    with pytest.raises(SessionWithheld):
        idp.logout.begin(held_back)
    assert user.subject == USER
    assert len(node.ask(WIKI)) == 1
    assert user.subject is None
    # A session that begins in such a request is ended by its id, too.
    user.sign_in()
    held_back.subject = USER
    user.login(held_back).add_service(MAIL)
    ended = held_back.id
    assert entity_ids(idp.logout.begin(held_back)) == {OTHER_SP}
    assert node.keeper.is_ended(ended)
    assert node.keeper.save(held_back) == []
    assert user.subject == USER


@pytest.mark.parametrize("channel", ["front", "back"])
def test_logout_reaches_the_last_of_many_new_ids(channel: str) -> None:
    idp = Provider(part_policies=CARRIED, indexed=False)
    user = idp.user()
    user.sign_in()
    derived = user.enter(ENTITY_IDS[5])
    leaving = user.session()
    assert leaving.subject == USER
    for _ in range(20):
        user.visit(Session.regenerate)
    if channel == "front":
        idp.logout.begin(leaving)
    else:
        assert len(idp.nodes[0].ask(derived)) == 1
    assert user.subject is None


@pytest.mark.parametrize("store", ["memory:", None])
def test_begin_beside_a_cookie_that_cannot_be_ended_is_refused_before_it_ends_anything(
    store: str | None,
) -> None:
    idp = Provider() if store else without_store()[0]
    other = idp.node(keys=OTHER_KEYS)
    browser = idp.signed_in(WIKI)
    session = other.keeper.session(browser.jar.header())
    session.subject = USER
    other.records.for_session(session).add_service(MAIL)
    session_id = session.id
    with pytest.raises(SessionWithheld):
        other.logout.begin(session)
    assert (session.subject, session.id) == (USER, session_id)
    assert not other.keeper.is_ended(session_id)
    assert browser.subject == USER


def test_leaving_one_service_keeps_the_session_and_the_others() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI, MAIL, a_login(SP, index=None))
    left = user.answer(lambda session: idp.logout.leave_service(session, SP))
    assert {notice.session_index for notice in left} == {"_1", None}
    assert {login.entity_id for login in user.services()} == {OTHER_SP}
    assert user.subject == USER
    assert user.answer(lambda session: idp.logout.leave_service(session, SP)) == ()


# --- progress -------------------------------------------------------------------------------------


def test_progress_survives_a_redirect_another_node_and_a_crash() -> None:
    idp = Provider(nodes=2)
    token = idp.signed_in(WIKI, MAIL, SHOP).answer(idp.logout.begin).token
    assert len(token) == 54
    for count in (3, 2, 1):
        progress = resume(idp, token, node=count % 2)
        assert len(progress.remaining) == count
        progress.notified(progress.remaining[0])
    assert resume(idp, token).is_complete


def test_altered_token_or_other_text_leads_nowhere() -> None:
    idp = Provider()
    token = idp.signed_in(WIKI).answer(idp.logout.begin).token
    for place, letter in enumerate(token):
        altered = token[:place] + ("A" if letter != "A" else "Q") + token[place + 1 :]
        assert idp.logout.resume(altered) is None, place
    for text in (None, "", "A", "A" * 53, "A" * 54, "ü" * 54, "x" * 10_000, "\ud800"):
        assert idp.logout.resume(text) is None


def test_two_nodes_at_once_lose_no_mark_and_a_failure_lasts_until_it_is_notified() -> None:
    idp = Provider(nodes=2)
    first = idp.signed_in(WIKI, MAIL).answer(idp.logout.begin)
    second, mail = resume(idp, first.token, node=1), as_notice(MAIL)
    first.notified(as_notice(WIKI))
    second.failed(mail)
    assert (second.is_complete, second.is_partial, second.failures) == (True, True, (mail,))
    again = resume(idp, first.token)
    assert (again.is_complete, again.failures) == (True, (mail,))
    again.notified(mail)
    again.failed(mail)
    assert (again.is_complete, again.is_partial) == (True, False)


def test_notice_of_another_logout_is_refused() -> None:
    idp = Provider()
    progress = idp.signed_in(WIKI).answer(idp.logout.begin)
    with pytest.raises(UsageError):
        progress.notified(Notice(SP, NameID("somebody else"), None))
    assert set(progress) == {as_notice(WIKI)}


def test_notifying_decodes_the_logins_only_if_another_node_changed_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise notifying n services one by one would decode n * n logins."""
    idp = Provider(nodes=2)
    user = idp.signed_in(*(a_login(entity_id) for entity_id in ENTITY_IDS))
    slow = user.at(idp.nodes[1]).session()
    assert slow.subject == USER
    decoded: list[int] = []

    def count(*given: Any) -> frozenset[ServiceLogin]:
        found = decode_logins(*given)
        decoded.append(len(found))
        return found

    begun = user.answer(idp.logout.begin)
    monkeypatch.setattr(records_module, "decode_logins", count)
    resumed = resume(idp, begun.token, node=1)
    assert decoded == [40]
    for progress in (begun, resumed):
        for notice in progress.remaining[:20]:
            progress.notified(notice)
    assert decoded == [40]
    # A slow request adds a login.
    user.login(slow).add_service(MAIL)
    assert idp.nodes[1].keeper.save(slow) == []
    one, *others = begun.remaining
    decoded.clear()
    begun.failed(one)
    assert decoded == [41]
    assert (begun.failures, set(begun.remaining)) == ((one,), {*others, as_notice(MAIL)})
    notify_all(begun)
    assert decoded == [41]
    assert (begun.is_complete, resume(idp, begun.token).failures) == (True, (one,))


def test_interrupted_logout_is_found_once_no_node_continues_it() -> None:
    idp = Provider(nodes=2)
    progress = idp.signed_in(WIKI, MAIL).answer(idp.logout.begin)
    progress.notified(as_notice(WIKI))
    assert list(idp.nodes[1].logout.unfinished()) == []
    idp.clock.forward(301)
    (found,) = idp.nodes[1].logout.unfinished()
    assert entity_ids(found) == {OTHER_SP}
    notify_all(found)
    assert list(idp.logout.unfinished(0)) == []


# --- back channel ---------------------------------------------------------------------------------


def test_stored_logins_are_all_known_at_once_also_those_derived_from_the_subject() -> None:
    idp = Provider()
    identifiers = idp.records.identifiers
    assert identifiers is not None
    pairwise = a_login(OTHER_SP, identifiers.pairwise_name_id(USER, OTHER_SP), None)
    user = idp.signed_in(WIKI, pairwise, SHOP)
    entered = user.enter(ENTITY_IDS[5])
    (progress,) = user.node.ask(entered)
    assert set(progress) == {as_notice(WIKI), as_notice(pairwise), as_notice(SHOP)}
    assert not progress.pending_in_cookie
    assert user.subject is None
    notify_all(progress)
    assert progress.is_complete
    assert user.answer(idp.logout.pending) is None


def test_logins_in_the_cookie_are_notified_at_its_next_request() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(WIKI, MAIL)
    (asked,) = user.node.ask(WIKI)
    assert (asked.remaining, asked.pending_in_cookie, asked.is_complete) == ((), True, False)
    assert user.subject is None
    thief, lost = (User(user.node, user.jar.copy()) for _ in range(2))
    # The response to this request is lost: the browser keeps its cookie.
    assert entity_ids(lost.answer(idp.logout.pending)) == {OTHER_SP}
    progress = user.answer(idp.logout.pending)
    assert set(progress) == {as_notice(MAIL)}
    assert (user.subject, user.jar.header()) == (None, "")
    notify_all(progress)
    # Presented once more, the cookie gives nothing, and never a session.
    assert thief.answer(idp.logout.pending) is None
    assert (thief.subject, thief.read()) == (None, {})


@EVERYWHERE
def test_handles_lead_to_the_session_without_an_index(part_policies: Policies) -> None:
    idp = Provider(part_policies=part_policies, indexed=False)
    user = idp.signed_in()
    login = user.enter(SP)
    user.enter(OTHER_SP)
    assert user.node.ask(login, str(login.session_index))
    assert user.subject is None


def test_request_ends_all_sessions_of_a_name_or_those_of_its_indexes() -> None:
    idp = Provider()
    users = [idp.signed_in(a_login(SP, index=f"_{number}")) for number in range(4)]
    stranger = idp.signed_in(a_login(SP, "somebody else"))
    assert len(users[0].node.ask(WIKI, "_0")) == 1
    assert [user.subject for user in users] == [None, USER, USER, USER]
    assert len(users[0].node.ask(WIKI, "_1", "_2")) == 2
    assert [user.subject for user in users] == [None, None, None, USER]
    assert len(users[0].node.ask(WIKI)) == 1
    assert [user.subject for user in users] == [None] * 4
    assert stranger.subject == USER


def test_local_logout_notifies_no_service_and_is_found_by_no_request() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI)
    assert user.node.ask(MAIL) == []
    login, old = user.enter(OTHER_SP), User(user.node, user.jar.copy())
    user.visit(lambda session: session.invalidate())
    assert user.node.ask(WIKI) == user.node.ask(login) == []
    assert (old.subject, old.answer(idp.logout.pending)) == (None, None)
    assert list(idp.logout.unfinished(0)) == []


@EVERYWHERE
def test_service_that_asks_again_finds_the_same_logout(part_policies: Policies) -> None:
    idp = Provider(part_policies=part_policies)
    user = idp.signed_in(WIKI, MAIL, SHOP)
    entered = user.enter(ENTITY_IDS[7])
    answers = [user.node.ask(login) for login in (entered, WIKI, WIKI, MAIL)]
    assert len({progress.token for (progress,) in answers}) == 1
    notify_all(user.answer(idp.logout.pending) or answers[-1][0])
    # The handle leads to it as long as the row is there, the index only until all are notified.
    for login, found in ((entered, 1), (WIKI, 0), (SHOP, 0)):
        assert [progress.is_complete for progress in user.node.ask(login)] == [True] * found


def test_second_service_that_asks_meanwhile_is_not_notified() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in()
    first, second = user.enter(SP), user.enter(OTHER_SP)
    user.go(SHOP)
    user.node.ask(first)
    user.node.ask(second)
    assert entity_ids(user.answer(idp.logout.pending)) == {ENTITY_IDS[3]}


def test_front_channel_logout_after_a_request_notifies_each_service_once() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(WIKI, MAIL)
    session = user.session()
    assert session.subject == USER  # loaded before the service's request came
    user.node.ask(WIKI)
    assert entity_ids(idp.logout.begin(session)) == {OTHER_SP}


@pytest.mark.parametrize("indexed", [True, False])
def test_session_with_a_new_id_is_found_by_older_handles(indexed: bool) -> None:
    idp = Provider(part_policies=CARRIED, indexed=indexed)
    user = idp.signed_in()
    login = user.enter(SP)
    user.visit(lambda session: user.login(session).regenerate())
    idp.clock.forward(3600)
    assert len(user.node.ask(login, str(login.session_index))) == 1
    assert user.subject is None


# --- services that leave out the Format ---------------------------------------------------------


@pytest.mark.parametrize("indexed", [True, False])
def test_value_of_a_derived_name_decides_whatever_comes_beside_it(indexed: bool) -> None:
    for form in (None, TRANSIENT, PERSISTENT, UNSPECIFIED):
        for front_channel in (True, False):
            idp = Provider(indexed=indexed)
            user = idp.signed_in(a_login(OTHER_SP))
            entered = user.enter(SP)
            named = NameID(entered.name_id.value, form)
            request = LogoutRequest(SP, named, [str(entered.session_index)])
            if front_channel:
                begun = [user.answer(lambda session: idp.logout.begin(session, request))]  # noqa: B023
            else:
                begun = idp.logout.begin_for_request(request)
            assert [entity_ids(progress) for progress in begun] == [{OTHER_SP}]
            assert user.subject is None


def test_derived_name_with_another_index_is_found_without_its_format() -> None:
    idp = Provider()
    user = idp.signed_in()
    name = user.enter(SP).name_id
    user.go(ServiceLogin(SP, PASSWORD, name, "_own", 1_799_999_940))
    request = LogoutRequest(SP, NameID(name.value), ["_own"])
    (progress,) = idp.logout.begin_for_request(request)
    # The other login there, which has a derived SessionIndex, remains.
    assert [notice.session_index == "_own" for notice in progress] == [False]
    assert user.subject is None


EMAIL = "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress"


@pytest.mark.parametrize("front_channel", [True, False])
def test_name_without_its_format_is_found_by_any_format_only(
    front_channel: bool, caplog: pytest.LogCaptureFixture
) -> None:
    idp = Provider()
    mail = a_login(SP, "ann@example.org", form=EMAIL)
    user = idp.signed_in(mail, a_login(OTHER_SP))

    def ask(request: LogoutRequest) -> list[Any]:
        if not front_channel:
            return idp.logout.begin_for_request(request)
        return [user.answer(lambda session: idp.logout.begin(session, request))]

    bare = LogoutRequest(SP, NameID("ann@example.org"), ["_1"])
    if front_channel:
        with pytest.raises(LogoutRequestMismatch, match="any_format=True"):
            ask(bare)
    else:
        assert ask(bare) == []
        assert "any_format=True" in caplog.text
        assert "ann@" not in caplog.text
    assert user.subject == USER
    for strange in (
        LogoutRequest(SP, NameID("bob@example.org"), ["_1"], any_format=True),
        LogoutRequest(SP, NameID("ann@example.org", PERSISTENT), ["_1"], any_format=True),
        LogoutRequest(OTHER_SP, NameID("ann@example.org"), ["_1"], any_format=True),
    ):
        with contextlib.suppress(LogoutRequestMismatch):
            assert ask(strange) == []
        assert user.subject == USER
    (progress,) = ask(replace(bare, any_format=True))
    assert entity_ids(progress) == {OTHER_SP}
    assert user.subject is None
    # A login that turns up later is of the same service, too.
    (again,) = idp.logout.begin_for_request(replace(bare, any_format=True))
    assert entity_ids(again) == {OTHER_SP}


# --- an administrator -----------------------------------------------------------------------------


@EVERYWHERE
def test_revoking_a_subject_ends_all_its_sessions_and_notifies_their_services_next(
    part_policies: Policies,
) -> None:
    idp = Provider(part_policies=part_policies)
    users = [idp.signed_in(WIKI), idp.signed_in(MAIL)]
    other = idp.signed_in(SHOP, subject="somebody else")
    idp.logout.revoke_subject(USER)
    assert [user.subject for user in users] == [None, None]
    assert other.subject == "somebody else"
    assert [entity_ids(user.answer(idp.logout.pending)) for user in users] == [{SP}, {OTHER_SP}]
    users[0].sign_in()
    assert users[0].subject == USER


@EVERYWHERE
def test_session_that_was_only_revoked_still_notifies_its_services(part_policies: Policies) -> None:
    idp = Provider(part_policies=part_policies)
    sessions = SessionRegistry(idp.nodes[0].keeper)
    returning, asked, listed = (idp.signed_in(a_login(SP, index=i), MAIL) for i in "abc")
    live = {each.session_id: each for each in sessions.list(USER)}[listed_id(listed)]
    for user in (returning, asked):
        assert idp.nodes[0].keeper.revoke_session(listed_id(user))
    assert sessions.revoke(live.id)
    assert [user.subject for user in (returning, asked, listed)] == [None] * 3
    # With the user's cookie, by a service's request, and by an administrator.
    assert entity_ids(returning.answer(idp.logout.pending)) == {SP, OTHER_SP}
    (begun,) = asked.node.ask(a_login(SP, index="b"), "b")
    assert entity_ids(asked.answer(idp.logout.pending) or begun) == {OTHER_SP}
    progress = idp.logout.end(live)
    assert entity_ids(listed.answer(idp.logout.pending) or progress) == {SP, OTHER_SP}
    assert idp.logout.end(live) is None


def listed_id(user: User) -> str:
    session = user.session()
    assert session.subject == USER
    return session.id


# --- bad days -------------------------------------------------------------------------------------


def scripted(part_policies: Policies = SERVED) -> tuple[ScriptedStorage, User]:
    idp = Provider(None, {}, indexed=False)
    idp.store = store = ScriptedStorage(idp.clock)
    user = User(idp.node(part_policies=part_policies))
    user.sign_in()
    user.go(WIKI, MAIL)
    return store, user


@pytest.mark.parametrize("context", [ROW, "sealedstate.revoked"])
def test_logout_that_could_not_be_recorded_is_not_claimed(context: str) -> None:
    store, user = scripted()
    logout = user.node.logout
    store.fail("create", context=context)
    session = user.session()
    with pytest.raises(StorageError):
        logout.begin(session)
    with pytest.raises(StorageError):
        user.node.ask(WIKI)
    assert session.subject == USER
    store.recover()
    assert user.subject == USER
    assert len(user.services()) == 2
    assert entity_ids(user.answer(logout.begin)) == {SP, OTHER_SP}


def test_stored_logins_that_could_not_be_read_stay_pending() -> None:
    store, user = scripted()
    store.fail("read", context="sealedstate.part")
    (progress,) = user.node.ask(WIKI)
    assert (progress.pending_in_cookie, progress.remaining) == (True, ())
    store.recover()
    assert user.subject is None
    (found,) = user.node.logout.unfinished(0)
    assert (entity_ids(found), found.pending_in_cookie) == ({OTHER_SP}, False)


@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_logout_survives_lost_replies(operation: str) -> None:
    store, user = scripted()
    store.lose_reply(operation, context=ROW)
    progress = user.answer(user.node.logout.begin)
    store.lose_reply(operation, context=ROW)
    notify_all(progress)
    assert progress.is_complete
    assert user.subject is None


def test_missing_registry_ends_nothing_in_front_and_leaves_logins_pending_behind() -> None:
    idp = Provider()
    user = idp.signed_in(a_login(ENTITY_IDS[0]), MAIL)
    idp.records = replace(idp.records, registry=registry(ENTITY_IDS[5:]))
    lagging = idp.node(part_policies=SERVED)
    session = lagging.keeper.session(user.jar.header())
    with pytest.raises(RegistryMissing):
        lagging.logout.begin(session)
    assert user.subject == USER
    # A service's request ends the session here too; a node with the registry notifies the rest.
    (progress,) = lagging.ask(MAIL)
    assert (progress.pending_in_cookie, progress.remaining) == (True, ())
    assert user.at(lagging).answer(lagging.logout.pending) is None
    assert entity_ids(user.answer(idp.logout.pending)) == {ENTITY_IDS[0]}


def test_logins_of_a_torn_cookie_stay_pending() -> None:
    idp = Provider(part_policies=CARRIED, profile="roomy")
    user = idp.signed_in(*(a_login(f"https://sp{n}.org/{n:0200}") for n in range(40)), MAIL)
    user.node.ask(MAIL)
    whole = user.jar.header()
    pairs = [pair for pair in whole.split("; ") if not pair.startswith("__Host-Http-s-1=")]
    assert len(pairs) < len(whole.split("; "))
    assert idp.logout.pending(user.keeper.session("; ".join(pairs))) is None
    progress = idp.logout.pending(user.keeper.session(whole))
    assert len(entity_ids(progress)) == 40


def test_rows_that_do_not_open_lead_nowhere_and_stop_nothing() -> None:
    idp = Provider()
    stranger = User(idp.node(keys=OTHER_KEYS, part_policies=SERVED))
    stranger.sign_in()
    stranger.go(WIKI)
    stranger.answer(stranger.node.logout.begin)
    store: Any = idp.store
    (theirs,) = store.keys(ROW)
    altered = idp.signed_in(WIKI).answer(idp.logout.begin)
    for name in {*store.keys(ROW)} - {theirs}:
        stored = store.read(ROW, name)
        value = stored.value[:-1] + bytes([stored.value[-1] ^ 1])
        store.update(ROW, name, value, None, stored.version + 1)
    assert idp.logout.resume(altered.token) is None
    idp.signed_in(MAIL).answer(idp.logout.begin)
    assert [entity_ids(progress) for progress in idp.logout.unfinished(0)] == [{OTHER_SP}]


def test_hostile_names_come_back_exactly() -> None:
    idp = Provider()
    long = a_login("https://sp.example.org/" + "x" * 1001, "n" * 10_000, "")
    odd = a_login("urn:ünïcode:\u202e", "\x00\U0001f600", "\n", form="", name_qualifier="é")
    user = idp.signed_in(long, odd, WIKI)
    (progress,) = user.node.ask(WIKI)
    assert set(progress) == {as_notice(long), as_notice(odd)}
    assert set(resume(idp, progress.token)) == set(progress)


def test_constructor_refuses_missing_merge_rules_and_lookup_key() -> None:
    with pytest.raises(ConfigurationError, match="lookup"):
        Provider(keys=StaticKeys(Keyring((a_key(7),))), indexed=False)
    idp = Provider()
    without_rules = keeper(idp.clock, storage=idp.store, accept_weak_store_for=["revocation"])
    with pytest.raises(ConfigurationError, match="merge"):
        SingleLogout(without_rules, idp.records)


# --- without a store ------------------------------------------------------------------------------


def without_store() -> tuple[Provider, User]:
    idp = Provider(storage=None, part_policies={}, indexed=False)
    return idp, idp.signed_in(WIKI, MAIL)


def test_without_a_store_the_session_holds_the_progress_until_it_is_complete() -> None:
    idp, user = without_store()
    assert not idp.logout.revokes
    captured = User(user.node, user.jar.copy())
    progress = user.answer(idp.logout.begin)
    assert (progress.is_revoked, progress.token) == (False, "")
    assert not user.login(user.session()).is_fresh(PASSWORD)

    def fail_one(session: Session) -> LogoutProgress:
        found = idp.logout.resume("", session)
        assert found is not None
        found.failed(found.remaining[0])
        return found

    assert len(user.answer(fail_one).remaining) == 1
    last = user.answer(fail_one)
    assert (last.is_complete, len(last.failures)) == (True, 2)
    assert (user.subject, user.jar.header()) == (None, "")
    assert captured.subject == USER  # nothing distinguishes this cookie from one in use


def test_without_a_store_the_service_that_asked_is_not_notified() -> None:
    idp, user = without_store()
    request = LogoutRequest(WIKI.entity_id, WIKI.name_id)
    progress = user.answer(lambda session: idp.logout.begin(session, request))
    assert set(progress) == {as_notice(MAIL)}
    only = idp.signed_in(WIKI)
    done = only.answer(lambda session: idp.logout.begin(session, request))
    assert done.is_complete
    assert only.subject is None


def test_without_a_store_everything_else_is_refused_or_empty() -> None:
    idp, user = without_store()
    with pytest.raises(ConfigurationError):
        user.node.ask(WIKI)
    with pytest.raises(ConfigurationError):
        idp.logout.revoke_subject(USER)
    assert idp.logout.pending(user.session()) is None
    assert idp.logout.resume("", user.session()) is None
    assert list(idp.logout.unfinished()) == []
