"""Single logout: nothing is accepted afterwards, and everybody who has to be told is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sealedstate import Session, SessionWithheld, StorageUnavailable
from sealedstate.errors import ConfigurationError, StorageError, UsageError
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import (
    LogoutProgress,
    LogoutRequest,
    NameID,
    NobodySignedIn,
    Notice,
    RegistryMissing,
    RequestOfAnother,
    SessionRegistry,
    SingleLogout,
)
from sealedstate.storage import MemoryStorage
from tests.support.identity_providers import (
    CARRIED,
    PASSWORD,
    SERVED,
    USER,
    Provider,
    User,
    a_login,
    as_notice,
)
from tests.support.jar import keeper
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP, a_key, registry

WIKI, MAIL, SHOP = (a_login(entity_id) for entity_id in (SP, OTHER_SP, ENTITY_IDS[3]))
EVERYWHERE = pytest.mark.parametrize("parts", [SERVED, CARRIED, {}], ids=["store", "cookie", "any"])


def entity_ids(progress: LogoutProgress | None) -> set[str]:
    assert progress is not None
    return {notice.entity_id for notice in progress}


def tell_all(progress: LogoutProgress) -> None:
    for notice in progress:
        progress.told(notice)


# --- the user is there --------------------------------------------------------------------------


@EVERYWHERE
def test_a_logout_ends_the_session_and_lists_whom_to_tell(parts: dict[str, str]) -> None:
    idp = Provider(part_policies=parts)
    user = idp.signed_in(WIKI, MAIL)
    thief = User(user.node, user.jar.copy())
    progress = user.answer(idp.logout.begin)
    assert tuple(progress) == progress.remaining
    assert set(progress) == {as_notice(WIKI), as_notice(MAIL)}
    assert (progress.revoked, progress.owed, progress.complete) == (True, False, False)
    assert (user.subject, user.jar.header(), thief.subject) == (None, "", None)
    tell_all(progress)
    assert (progress.complete, progress.partial, progress.remaining) == (True, False, ())


@EVERYWHERE
def test_the_service_that_asked_for_it_is_not_told(parts: dict[str, str]) -> None:
    idp = Provider(part_policies=parts)
    user = idp.signed_in(WIKI, MAIL)
    request = LogoutRequest(WIKI.entity_id, WIKI.name_id, ("_1",))
    progress = user.answer(lambda session: idp.logout.begin(session, request))
    assert set(progress) == {as_notice(MAIL)}


def test_another_session_of_the_service_that_asked_is_told() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI, a_login(SP, index="_2"))
    request = LogoutRequest(WIKI.entity_id, WIKI.name_id, ("_1",))
    progress = user.answer(lambda session: idp.logout.begin(session, request))
    assert [notice.session_index for notice in progress] == ["_2"]


@pytest.mark.parametrize("store", ["memory:", None])
@pytest.mark.parametrize(
    "asked",
    [
        LogoutRequest(SP, NameID("somebody else"), ("_1",)),
        LogoutRequest(SP, WIKI.name_id, ("_2",)),
        LogoutRequest(OTHER_SP, WIKI.name_id),
    ],
    ids=["name", "index", "service"],
)
def test_a_request_that_means_another_session_does_not_end_this_one(
    asked: LogoutRequest, store: str | None
) -> None:
    idp = Provider(storage=store, part_policies={}, indexed=False)
    user = idp.signed_in(WIKI)
    with pytest.raises(RequestOfAnother):
        idp.logout.begin(user.session(), asked)
    assert user.subject == USER
    assert user.services() == (WIKI,)


def test_progress_survives_a_redirect_another_node_and_a_crash() -> None:
    idp = Provider(nodes=2)
    user = idp.signed_in(WIKI, MAIL, SHOP)
    token = user.answer(idp.logout.begin).token
    assert len(token) == 54
    for count in (3, 2, 1):
        progress = idp.nodes[count % 2].logout.resume(token)
        assert progress is not None
        assert len(progress.remaining) == count
        progress.told(progress.remaining[0])
    last = idp.logout.resume(token)
    assert last is not None
    assert last.complete


@pytest.mark.parametrize("place", range(54))
def test_a_token_altered_by_one_letter_leads_nowhere(place: int) -> None:
    idp = Provider()
    token = idp.signed_in(WIKI).answer(idp.logout.begin).token
    letter = "A" if token[place] != "A" else "Q"
    assert idp.logout.resume(token[:place] + letter + token[place + 1 :]) is None


@pytest.mark.parametrize(
    "token", [None, "", "A", "A" * 53, "A" * 54, "ü" * 54, "x" * 10_000, "\ud800"]
)
def test_what_is_no_token_leads_nowhere(token: str | None) -> None:
    assert Provider().logout.resume(token) is None


def test_a_logout_that_could_not_tell_a_service_is_partial_until_it_is_told() -> None:
    idp = Provider(nodes=2)
    progress = idp.signed_in(WIKI, MAIL).answer(idp.logout.begin)
    wiki, mail = (as_notice(login) for login in (WIKI, MAIL))
    progress.failed(mail)
    progress.told(wiki)
    assert (progress.complete, progress.partial, progress.failures) == (True, True, (mail,))
    again = idp.nodes[1].logout.resume(progress.token)
    assert again is not None
    assert (again.complete, again.failures) == (True, (mail,))
    again.told(mail)
    again.failed(mail)
    assert (again.complete, again.partial) == (True, False)


def test_two_nodes_that_tell_at_once_lose_nothing() -> None:
    idp = Provider(nodes=2)
    token = idp.signed_in(WIKI, MAIL).answer(idp.logout.begin).token
    first, second = (node.logout.resume(token) for node in idp.nodes)
    assert first is not None
    assert second is not None
    first.told(as_notice(WIKI))
    second.told(as_notice(MAIL))
    assert second.complete


def test_a_notice_of_another_logout_is_refused() -> None:
    idp = Provider()
    progress = idp.signed_in(WIKI).answer(idp.logout.begin)
    with pytest.raises(UsageError):
        progress.told(Notice(SP, NameID("somebody else"), None))
    assert set(progress) == {as_notice(WIKI)}


def test_nobody_can_be_logged_out_who_is_not_signed_in() -> None:
    idp = Provider()
    with pytest.raises(NobodySignedIn):
        idp.user().visit(idp.logout.begin)
    session = idp.nodes[0].keeper.session("__Host-s=x")
    with pytest.raises(NobodySignedIn):
        idp.logout.begin(session)


def test_a_session_of_somebody_who_only_now_signs_in_is_ended_too() -> None:
    idp = Provider()
    user = idp.user()

    def at_once(session: Session) -> LogoutProgress:
        session.subject = USER
        user.login(session).add_service(WIKI)
        return idp.logout.begin(session)

    assert entity_ids(user.answer(at_once)) == {SP}
    assert user.subject is None


def test_leaving_one_service_leaves_the_others() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI, MAIL, a_login(SP, index=None))
    left = user.answer(lambda session: idp.logout.leave(session, SP))
    assert {notice.session_index for notice in left} == {"_1", None}
    assert {login.entity_id for login in user.services()} == {OTHER_SP}
    assert user.subject == USER
    assert user.answer(lambda session: idp.logout.leave(session, SP)) == ()


def test_a_local_logout_tells_nobody_and_nobody_is_owed() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI)
    old = User(user.node, user.jar.copy())
    user.visit(lambda session: session.invalidate())
    assert old.subject is None
    assert old.answer(idp.logout.owed) is None
    assert list(idp.logout.unfinished(0)) == []


# --- a service asks, without the user -------------------------------------------------------------


def test_where_login_records_live_in_the_store_everybody_is_told_at_once() -> None:
    idp = Provider(part_policies=SERVED)
    user = idp.signed_in(WIKI, MAIL, SHOP)
    (progress,) = user.node.ask(WIKI)
    assert entity_ids(progress) == {OTHER_SP, ENTITY_IDS[3]}
    assert not progress.owed
    assert user.subject is None
    tell_all(progress)
    assert progress.complete
    assert user.answer(idp.logout.owed) is None


def test_names_that_are_the_subject_or_made_of_it_are_told_at_once_too() -> None:
    idp = Provider(part_policies=SERVED)
    made = idp.records.identifiers
    assert made is not None
    pairwise = a_login(OTHER_SP, made.pairwise_name_id(USER, OTHER_SP), None)
    user = idp.signed_in(WIKI, pairwise)
    entered = user.enter(ENTITY_IDS[5])
    (progress,) = user.node.ask(entered)
    assert set(progress) == {as_notice(WIKI), as_notice(pairwise)}


def test_where_they_live_in_the_cookie_its_next_request_tells_the_others() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(WIKI, MAIL)
    (asked,) = user.node.ask(WIKI)
    assert (asked.remaining, asked.owed, asked.complete) == ((), True, False)
    assert user.subject is None
    thief = User(user.node, user.jar.copy())
    progress = user.answer(idp.logout.owed)
    assert set(progress) == {as_notice(MAIL)}
    assert (user.subject, user.jar.header()) == (None, "")
    tell_all(progress)
    # Read once: whoever shows the cookie again gets nothing, and never a session.
    assert thief.answer(idp.logout.owed) is None
    assert (thief.subject, thief.read()) == (None, {})


def test_what_is_owed_is_owed_until_it_is_told() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(WIKI, MAIL)
    user.node.ask(WIKI)
    before = user.jar.copy()
    assert user.answer(idp.logout.owed) is not None
    # The answer was lost: the browser still has its cookie.
    again = User(user.node, before).answer(idp.logout.owed)
    assert entity_ids(again) == {OTHER_SP}


@EVERYWHERE
def test_handles_lead_back_without_any_index(parts: dict[str, str]) -> None:
    idp = Provider(part_policies=parts, indexed=False)
    user = idp.signed_in()
    login = user.enter(SP)
    user.enter(OTHER_SP)
    assert user.node.ask(login, str(login.session_index))
    assert user.subject is None


def test_all_sessions_of_a_name_end_or_those_of_an_index() -> None:
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


def test_a_finished_or_unknown_session_is_none() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI)
    assert user.node.ask(MAIL) == []
    login = user.enter(OTHER_SP)
    user.visit(lambda session: session.invalidate())
    assert user.node.ask(WIKI) == []
    assert user.node.ask(login) == []


def test_a_service_that_asks_again_finds_the_same_logout() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI, MAIL)
    login = user.enter(ENTITY_IDS[7])
    (first,) = user.node.ask(login)
    (again,) = user.node.ask(login)
    assert (again.token, set(again)) == (first.token, set(first))
    tell_all(first)
    (over,) = user.node.ask(login)
    assert over.complete


@EVERYWHERE
def test_a_service_that_the_index_led_there_finds_it_again_until_all_are_told(
    parts: dict[str, str],
) -> None:
    idp = Provider(part_policies=parts)
    user = idp.signed_in(WIKI, MAIL, SHOP)
    (first,) = user.node.ask(WIKI)
    (again,) = user.node.ask(WIKI)
    (other,) = user.node.ask(MAIL)
    assert first.token == again.token == other.token
    tell_all(user.answer(idp.logout.owed) or other)
    (over,) = user.node.ask(WIKI)
    assert over.complete
    assert user.node.ask(WIKI) == []
    assert user.node.ask(SHOP) == []


def test_a_second_service_that_asks_meanwhile_is_not_told_any_more() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in()
    first, second = user.enter(SP), user.enter(OTHER_SP)
    user.go(SHOP)
    user.node.ask(first)
    user.node.ask(second)
    assert entity_ids(user.answer(idp.logout.owed)) == {ENTITY_IDS[3]}


def test_a_front_channel_logout_after_a_request_tells_each_once() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in(WIKI, MAIL)
    session = user.session()
    assert session.subject == USER  # opened before the request of the service came
    user.node.ask(WIKI)
    assert entity_ids(idp.logout.begin(session)) == {OTHER_SP}


def test_a_session_that_got_a_new_id_is_found_by_its_old_identifiers() -> None:
    idp = Provider(part_policies=CARRIED)
    user = idp.signed_in()
    login = user.enter(SP)
    user.visit(lambda session: user.login(session).regenerate())
    idp.clock.forward(3600)
    assert user.node.ask(login, str(login.session_index))
    assert user.subject is None


def test_without_an_index_the_old_handle_of_a_new_id_leads_nowhere_and_ends_nothing() -> None:
    idp = Provider(indexed=False)
    user = idp.signed_in()
    login = user.enter(SP)
    user.visit(lambda session: user.login(session).regenerate())
    assert user.node.ask(login) == []
    assert user.subject == USER


# --- an administrator -----------------------------------------------------------------------------


@EVERYWHERE
def test_a_poisoned_user_is_out_everywhere_and_the_services_are_told_next(
    parts: dict[str, str],
) -> None:
    idp = Provider(part_policies=parts)
    users = [idp.signed_in(WIKI), idp.signed_in(MAIL)]
    other = idp.signed_in(SHOP, subject="somebody else")
    idp.logout.poison(USER)
    assert [user.subject for user in users] == [None, None]
    assert other.subject == "somebody else"
    assert [entity_ids(user.answer(idp.logout.owed)) for user in users] == [{SP}, {OTHER_SP}]
    users[0].sign_in()
    assert users[0].subject == USER


@EVERYWHERE
def test_the_services_of_a_session_that_was_only_revoked_are_told_next(
    parts: dict[str, str],
) -> None:
    idp = Provider(part_policies=parts)
    asked, owed = idp.signed_in(WIKI, MAIL), idp.signed_in(SHOP)
    for user in (asked, owed):
        session = user.session()
        assert session.subject == USER
        assert idp.nodes[0].keeper.revoke_session(session.raw_id)
        assert user.subject is None
    progress = owed.answer(idp.logout.owed)
    assert entity_ids(progress) == {ENTITY_IDS[3]}
    (begun,) = asked.node.ask(WIKI)
    assert entity_ids(asked.answer(idp.logout.owed) or begun) == {OTHER_SP}


@EVERYWHERE
def test_an_administrator_can_tell_the_services_of_a_session_that_was_only_revoked(
    parts: dict[str, str],
) -> None:
    idp = Provider(part_policies=parts)
    sessions = SessionRegistry(idp.nodes[0].keeper)
    user = idp.signed_in(WIKI, MAIL)
    (live,) = sessions.list(USER)
    assert sessions.revoke(live.id)
    progress = idp.logout.end(live)
    assert entity_ids(user.answer(idp.logout.owed) or progress) == {SP, OTHER_SP}
    assert idp.logout.end(live) is None


def test_a_ring_without_a_lookup_key_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="lookup"):
        Provider(keys=StaticKeys(Keyring((a_key(7),))), indexed=False)


# --- bad days -------------------------------------------------------------------------------------


class Failing(MemoryStorage):
    """Fails writes to some contexts."""

    broken: tuple[str, ...] = ()

    def create(self, context: str, *rest: Any, **named: Any) -> bool:
        if context in self.broken:
            raise StorageUnavailable("broken")
        return super().create(context, *rest, **named)

    def read(self, context: str, key: str) -> Any:
        if f"read {context}" in self.broken:
            raise StorageUnavailable("broken")
        return super().read(context, key)


@pytest.mark.parametrize("broken", ["sealedstate.sso.logout", "sealedstate.revoked"])
def test_a_logout_that_could_not_be_recorded_is_not_claimed(broken: str) -> None:
    idp = Provider()
    idp.store = store = Failing(idp.clock)
    node = idp.node(part_policies=SERVED)
    user = User(node)
    user.sign_in()
    user.go(WIKI, MAIL)
    store.broken = (broken,)
    session = user.session()
    with pytest.raises(StorageError):
        node.logout.begin(session)
    with pytest.raises(StorageError):
        node.ask(WIKI)
    assert session.subject == USER
    store.broken = ()
    assert user.subject == USER
    assert len(user.services()) == 2
    assert entity_ids(user.answer(node.logout.begin)) == {SP, OTHER_SP}


def test_what_fails_after_the_revocation_is_owed_and_made_up_for() -> None:
    idp = Provider()
    idp.store = store = Failing(idp.clock)
    node = idp.node(part_policies=SERVED)
    user = User(node)
    user.sign_in()
    user.go(WIKI, MAIL)
    store.broken = ("read sealedstate.part",)
    (progress,) = node.ask(WIKI)
    assert (progress.owed, progress.remaining) == (True, ())
    store.broken = ()
    assert user.subject is None
    (found,) = node.logout.unfinished(0)
    assert (entity_ids(found), found.owed) == ({OTHER_SP}, False)


def test_what_can_not_be_told_for_want_of_a_registry_ends_nothing_with_the_user_there() -> None:
    idp = Provider(part_policies=SERVED)
    user = idp.signed_in(a_login(ENTITY_IDS[0]), MAIL)
    idp.records = replace(idp.records, registry=registry(ENTITY_IDS[5:]))
    lagging = idp.node(part_policies=SERVED)
    session = lagging.keeper.session(user.jar.header())
    with pytest.raises(RegistryMissing):
        lagging.logout.begin(session)
    assert user.subject == USER
    # A service that asks ends the session there, too; a node that has the registry tells the rest.
    (progress,) = lagging.ask(MAIL)
    assert (progress.owed, progress.remaining) == (True, ())
    assert user.at(lagging).answer(lagging.logout.owed) is None
    assert entity_ids(user.answer(idp.logout.owed)) == {ENTITY_IDS[0]}


def test_a_cookie_of_which_a_piece_is_missing_is_owed_on() -> None:
    idp = Provider(part_policies=CARRIED, profile="roomy")
    user = idp.signed_in(*(a_login(f"https://sp{n}.org/{n:0200}") for n in range(40)), MAIL)
    user.node.ask(MAIL)
    whole = user.jar.header()
    pairs = [pair for pair in whole.split("; ") if not pair.startswith("__Host-s-1=")]
    assert len(pairs) < len(whole.split("; "))
    assert idp.logout.owed(user.keeper.session("; ".join(pairs))) is None
    progress = idp.logout.owed(user.keeper.session(whole))
    assert len(entity_ids(progress)) == 40


def test_rows_of_another_application_stop_nobody() -> None:
    idp = Provider()
    other = idp.node(
        keys=StaticKeys(Keyring((a_key(7),), lookup=a_key(8).secret)), part_policies=SERVED
    )
    stranger = User(other)
    stranger.sign_in()
    stranger.go(WIKI)
    stranger.answer(other.logout.begin)
    idp.signed_in(MAIL).answer(idp.logout.begin)
    assert [entity_ids(progress) for progress in idp.logout.unfinished(0)] == [{OTHER_SP}]


def test_a_row_that_was_tampered_with_leads_nowhere_and_ends_nothing() -> None:
    idp = Provider()
    progress = idp.signed_in(WIKI).answer(idp.logout.begin)
    store = idp.store
    assert isinstance(store, MemoryStorage)
    (name,) = store.keys("sealedstate.sso.logout")
    stored = store.read("sealedstate.sso.logout", name)
    assert stored is not None
    value = stored.value[:-1] + bytes([stored.value[-1] ^ 1])
    store.update("sealedstate.sso.logout", name, value, None, stored.version + 1)
    assert idp.logout.resume(progress.token) is None
    assert list(idp.logout.unfinished(0)) == []


def test_hostile_names_are_told_exactly() -> None:
    idp = Provider(part_policies=SERVED)
    long = a_login("https://sp.example.org/" + "x" * 1001, "n" * 10_000, "")
    odd = a_login("urn:ünïcode:\u202e", "\x00\U0001f600", "\n", form="", name_qualifier="é")
    user = idp.signed_in(long, odd, WIKI)
    (progress,) = user.node.ask(WIKI)
    assert set(progress) == {as_notice(long), as_notice(odd)}
    again = idp.logout.resume(progress.token)
    assert again is not None
    assert set(again) == set(progress)


def test_a_cookie_that_can_not_be_judged_is_neither_ended_nor_owed() -> None:
    idp = Provider()
    user = idp.signed_in(WIKI)
    other = idp.node(keys=StaticKeys(Keyring((a_key(7),), lookup=a_key(8).secret)))
    session = other.keeper.session(user.jar.header())
    with pytest.raises(SessionWithheld):
        other.logout.begin(session)
    assert other.logout.owed(session) is None


def test_what_a_crash_left_is_found_once_nobody_goes_on_with_it() -> None:
    idp = Provider(nodes=2)
    progress = idp.signed_in(WIKI, MAIL).answer(idp.logout.begin)
    progress.told(as_notice(WIKI))
    assert list(idp.nodes[1].logout.unfinished()) == []
    idp.clock.forward(301)
    (found,) = idp.nodes[1].logout.unfinished()
    assert entity_ids(found) == {OTHER_SP}
    tell_all(found)
    assert list(idp.logout.unfinished(0)) == []


def test_two_requests_at_once_need_the_rules_that_merge_them() -> None:
    idp = Provider()
    with pytest.raises(ConfigurationError):
        SingleLogout(
            keeper(idp.clock, storage=idp.store, accept_weak_store_for=["revocation"]), idp.records
        )


# --- without a store ------------------------------------------------------------------------------


def bare() -> tuple[Provider, User]:
    idp = Provider(storage=None, part_policies={}, indexed=False)
    return idp, idp.signed_in(WIKI, MAIL)


def test_without_a_store_the_front_channel_works_and_says_what_it_is_worth() -> None:
    idp, user = bare()
    assert not idp.logout.revokes
    captured = User(user.node, user.jar.copy())
    progress = user.answer(idp.logout.begin)
    assert (progress.revoked, progress.token) == (False, "")
    assert not user.login(user.session()).is_fresh(PASSWORD)

    def one_more(session: Session) -> LogoutProgress:
        found = idp.logout.resume("", session)
        assert found is not None
        found.failed(found.remaining[0])
        return found

    assert len(user.answer(one_more).remaining) == 1
    last = user.answer(one_more)
    assert (last.complete, len(last.failures)) == (True, 2)
    assert (user.subject, user.jar.header()) == (None, "")
    assert captured.subject == USER  # nothing tells this cookie from one in use


def test_without_a_store_the_service_that_asked_is_not_told() -> None:
    idp, user = bare()
    request = LogoutRequest(WIKI.entity_id, WIKI.name_id)
    progress = user.answer(lambda session: idp.logout.begin(session, request))
    assert set(progress) == {as_notice(MAIL)}
    only = idp.signed_in(WIKI)
    done = only.answer(lambda session: idp.logout.begin(session, request))
    assert done.complete
    assert only.subject is None


def test_without_a_store_nothing_else_works_and_says_so() -> None:
    idp, user = bare()
    with pytest.raises(ConfigurationError):
        user.node.ask(WIKI)
    with pytest.raises(ConfigurationError):
        idp.logout.poison(USER)
    assert idp.logout.owed(user.session()) is None
    assert idp.logout.resume("", user.session()) is None
    assert list(idp.logout.unfinished()) == []
