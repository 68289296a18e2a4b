"""Login records in sessions: through a keeper and its cookies, as identity providers use them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from sealedstate import Keeper, Key, Session, Settings
from sealedstate.errors import (
    ConfigurationError,
    IdentifierKeyMissing,
    LoginsUnreadable,
    NotSignedIn,
    RegistryMissing,
    SessionIdChanged,
    UnsupportedValue,
)
from sealedstate.sso import (
    TRANSIENT,
    Authentication,
    LoginRecord,
    LoginRecords,
    NameID,
    ServiceLogin,
)
from sealedstate.sso._codec.tables import METHODS
from sealedstate.sso.identifiers import Identifiers
from sealedstate.storage import MemoryStorage
from tests.support.login_makers import ENTITY_IDS, NOW, OTHER_SP, SP, a_login, identifiers, registry

PASSWORD, MFA = METHODS[0], "https://refeds.org/profile/mfa"
MINUTE = NOW // 60 * 60


class Clock:
    def __init__(self) -> None:
        self.now = MINUTE

    def __call__(self) -> float:
        return self.now


class Portal:
    """An identity provider of one node, and a browser that keeps its cookies."""

    def __init__(self, records: LoginRecords, **settings: Any) -> None:
        self.clock = Clock()
        keys = [Key.generate(os.urandom).export()]
        self.records = records
        self.keeper = Keeper(
            Settings(keys=keys, clock=self.clock, merge=records.merge_rules, **settings)
        )
        self.header = ""

    def visit(self) -> tuple[Session, LoginRecord]:
        session = self.keeper.session(self.header)
        return session, self.records.for_session(session)

    def end(self, session: Session) -> None:
        lines = self.keeper.save(session)
        pairs = [line.partition(";")[0] for line in lines if "Max-Age=0" not in line]
        self.header = "; ".join(pairs) or self.header

    def sign_in(self) -> None:
        session, login = self.visit()
        session.subject = "jdoe@example.edu"
        login.authenticate(PASSWORD, duration=8 * 3600)
        self.end(session)

    def login(self) -> LoginRecord:
        return self.visit()[1]

    def add(self, *logins: ServiceLogin) -> None:
        session, login = self.visit()
        login.add_service(*logins)
        self.end(session)


def portal(**given: Any) -> Portal:
    records = LoginRecords(registry(), **{"identifiers": identifiers(), **given})
    made = Portal(records)
    made.sign_in()
    return made


# --- authentications ----------------------------------------------------------------------------


def test_an_authentication_counts_in_later_requests_until_it_expires() -> None:
    idp = portal()
    idp.clock.now += 3600
    assert idp.login().is_fresh(PASSWORD)
    assert idp.login().is_fresh(PASSWORD, within=3600)
    assert not idp.login().is_fresh(PASSWORD, within=3599)
    assert not idp.login().is_fresh(MFA)
    assert idp.login().authentications() == (Authentication(PASSWORD, MINUTE, 8 * 3600),)


def test_doing_it_again_replaces_it_and_drops_what_no_longer_counts() -> None:
    idp = portal()
    session, login = idp.visit()
    login.authenticate(MFA, duration=60)
    login.authenticate(PASSWORD, duration=7200)
    idp.end(session)
    idp.clock.now += 60
    session, login = idp.visit()
    login.authenticate(METHODS[3], duration=60)
    idp.end(session)
    assert [(one.method, one.duration) for one in idp.login().authentications()] == [
        (PASSWORD, 7200),
        (METHODS[3], 60),
    ]


def test_an_authentication_can_be_of_another_time_and_be_forgotten() -> None:
    idp = portal()
    session, login = idp.visit()
    login.authenticate(MFA, duration=999_999, time=MINUTE - 500_000)
    idp.end(session)
    assert idp.login().authentications()[0] == Authentication(MFA, MINUTE - 500_000, 999_999)
    session, login = idp.visit()
    login.forget_authentication(MFA)
    login.forget_authentication(PASSWORD)
    idp.end(session)
    assert idp.login().authentications() == ()


def test_nobody_has_a_login_record_before_signing_in() -> None:
    idp = Portal(LoginRecords(identifiers=identifiers()))
    _, login = idp.visit()
    assert login.authentications() == ()
    assert login.services() == ()
    for act in (
        lambda: login.authenticate(PASSWORD, 1),
        lambda: login.add_service(a_login()),
        lambda: login.add_derived_login(SP, PASSWORD),
    ):
        with pytest.raises(NotSignedIn):
            act()


def test_another_user_inherits_nothing() -> None:
    idp = portal()
    idp.add(a_login(ENTITY_IDS[0], MINUTE))
    session, login = idp.visit()
    session.subject = "asmith@example.edu"
    assert login.authentications() == ()
    assert login.services() == ()


# --- service logins -----------------------------------------------------------------------------


def test_service_logins_are_listed_as_they_were_added_the_earliest_first() -> None:
    idp = portal()
    second = a_login(SP, MINUTE + 60, name="jdoe@example.edu", index="")
    first = a_login(ENTITY_IDS[3], MINUTE, index=None)
    idp.add(second)
    idp.add(first)
    assert idp.login().services() == (first, second)
    assert idp.login().services(SP) == (second,)
    assert idp.login().services(OTHER_SP) == ()


def test_the_time_of_a_login_is_kept_to_the_minute_or_as_it_is() -> None:
    for step, kept in ((60, MINUTE), (1, MINUTE + 59), (3600, MINUTE // 3600 * 3600)):
        idp = portal(time_step=step)
        idp.add(a_login(SP, MINUTE + 59))
        assert [one.time for one in idp.login().services()] == [kept]


def test_the_same_login_again_renews_it() -> None:
    idp = portal()
    idp.add(a_login(SP, MINUTE))
    idp.add(replace(a_login(SP, MINUTE + 600), method=MFA))
    assert [(one.time, one.method) for one in idp.login().services()] == [(MINUTE + 600, MFA)]
    idp.add(a_login(SP, MINUTE, index="another"))
    assert len(idp.login().services(SP)) == 2


def test_a_removed_login_is_gone_and_the_last_one_leaves_next_to_nothing() -> None:
    idp = portal()
    idp.add(a_login(SP, MINUTE), a_login(OTHER_SP, MINUTE))
    for _ in range(2):
        session, login = idp.visit()
        login.remove_service(login.services()[0])
        idp.end(session)
    assert idp.login().services() == ()
    assert _columns(idp) == b""


def test_what_was_made_for_a_service_takes_no_room_and_comes_back() -> None:
    idp = portal()
    session, login = idp.visit()
    made = login.add_derived_login(ENTITY_IDS[1], PASSWORD)
    idp.end(session)
    assert idp.login().services() == (made,)
    assert made.name_id.format == TRANSIENT
    ids = identifiers()
    assert isinstance(made.name_id.value, str)
    assert ids.open_name_id(made.name_id.value, ENTITY_IDS[1], NOW) == session.raw_id
    assert len(_columns(idp)) < 40


def test_a_pairwise_name_id_takes_no_room_either() -> None:
    name = identifiers().pairwise_name_id("jdoe@example.edu", SP)
    idp = portal()
    idp.add(a_login(SP, MINUTE, name, None))
    assert len(_columns(idp)) < 30 + len(SP)
    assert [one.name_id.value for one in idp.login().services()] == [name]
    without = portal(identifiers=None)
    without.add(a_login(SP, MINUTE, name, None))
    assert [one.name_id.value for one in without.login().services()] == [name]
    assert len(_columns(without)) >= len(_columns(idp)) + 14


def test_what_another_session_made_is_kept_as_it_is() -> None:
    foreign = identifiers().transient_name_id(bytes(16), SP, NOW)
    idp = portal()
    idp.add(a_login(SP, MINUTE, foreign, foreign))
    assert idp.login().services() == (a_login(SP, MINUTE, foreign, foreign),)


def _columns(idp: Portal) -> bytes:
    value = idp.visit()[0]["l"]
    assert isinstance(value, bytes)
    return value


def test_the_login_record_opens_without_its_columns() -> None:
    """The part is not even looked at: here it is no columns at all."""
    idp = portal()
    session, _ = idp.visit()
    session["l"] = b"\xff"
    idp.end(session)
    assert idp.login().is_fresh(PASSWORD)
    with pytest.raises(LoginsUnreadable):
        idp.login().services()


@pytest.mark.parametrize("value", [None, 7, "text", [b""]])
def test_parts_that_somebody_else_wrote_are_unreadable_not_a_crash(value: object) -> None:
    idp = portal()
    session, login = idp.visit()
    session["l"] = session["a"] = value
    if value is None:
        assert login.services() == ()
        return
    with pytest.raises(LoginsUnreadable):
        login.services()
    with pytest.raises(LoginsUnreadable):
        login.authentications()


# --- what is missing costs the service logins, not the login --------------------------------------


def elsewhere(idp: Portal, **changed: Any) -> LoginRecord:
    """The same session on a node that is configured otherwise."""
    return replace(idp.records, **changed).for_session(idp.visit()[0])


def test_a_node_without_the_registry_says_so_and_the_login_goes_on() -> None:
    idp = portal()
    idp.add(a_login(ENTITY_IDS[0], MINUTE))
    lagging = elsewhere(idp, registry=registry(ENTITY_IDS[:5]))
    assert lagging.is_fresh(PASSWORD)
    with pytest.raises(RegistryMissing):
        lagging.services()
    with pytest.raises(RegistryMissing):
        lagging.add_service(a_login())
    lagging.forget_services()
    lagging.add_service(a_login(SP, MINUTE))
    assert lagging.services() == (a_login(SP, MINUTE),)


def test_a_node_without_the_key_says_which() -> None:
    idp = portal()
    session, login = idp.visit()
    login.add_derived_login(SP, PASSWORD)
    idp.end(session)
    no_keys: list[Identifiers | None] = [None, identifiers(2)]
    for without in no_keys:
        with pytest.raises(IdentifierKeyMissing) as missing:
            elsewhere(idp, identifiers=without).services()
        assert missing.value.kid == (1).to_bytes(4, "big")
    assert elsewhere(idp, identifiers=identifiers(2, 1)).services()


def test_after_the_identifier_keys_rotated_the_old_texts_come_back() -> None:
    idp = portal()
    session, login = idp.visit()
    made = login.add_derived_login(SP, PASSWORD)
    idp.end(session)
    rotated = elsewhere(idp, identifiers=identifiers(2, 1))
    assert rotated.services() == (made,)
    rotated.add_service(a_login(OTHER_SP, MINUTE))
    assert made in rotated.services()


def test_a_pairwise_name_id_is_not_made_with_another_key() -> None:
    idp = portal()
    name = identifiers().pairwise_name_id("jdoe@example.edu", SP)
    idp.add(a_login(SP, MINUTE, name, None))
    with pytest.raises(IdentifierKeyMissing):
        elsewhere(idp, identifiers=identifiers(pairwise=8)).services()
    with pytest.raises(IdentifierKeyMissing):
        elsewhere(idp, identifiers=identifiers(pairwise=None)).services()


def test_what_can_be_made_since_lately_is_still_found_and_removed() -> None:
    name = identifiers().pairwise_name_id("jdoe@example.edu", SP)
    idp = portal(identifiers=None)
    idp.add(a_login(SP, MINUTE, name))
    lately = elsewhere(idp, identifiers=identifiers())
    lately.remove_service(lately.services()[0])
    assert lately.services() == ()


def test_a_new_session_id_keeps_the_texts_that_services_know() -> None:
    idp = portal()
    session, login = idp.visit()
    made = login.add_derived_login(SP, PASSWORD)
    login.regenerate()
    idp.end(session)
    assert idp.login().services() == (made,)
    again = idp.login().add_derived_login(SP, PASSWORD)
    assert again != made


def test_a_new_session_id_behind_our_back_is_noticed() -> None:
    idp = portal()
    session, login = idp.visit()
    login.add_derived_login(SP, PASSWORD)
    session.regenerate()
    idp.end(session)
    with pytest.raises(SessionIdChanged):
        idp.login().services()


# --- two requests at once -----------------------------------------------------------------------


def two_tabs(idp: Portal) -> tuple[tuple[Session, LoginRecord], tuple[Session, LoginRecord]]:
    one, other = idp.visit(), idp.visit()
    assert len(one[1].services()) == len(other[1].services())
    return one, other


@pytest.fixture
def stored() -> Portal:
    """Both parts live in the store, where two requests meet."""
    made = Portal(
        LoginRecords(registry(), identifiers()),
        storage=MemoryStorage(lambda: MINUTE),
        accept_weak_store_for=["revocation", "spilling"],
        part_policies={"a": "server", "l": "server"},
    )
    made.sign_in()
    made.add(a_login(SP, MINUTE))
    return made


def test_of_two_logins_at_once_none_is_lost(stored: Portal) -> None:
    (one, first), (other, second) = two_tabs(stored)
    first.add_service(a_login(ENTITY_IDS[0], MINUTE))
    made = second.add_derived_login(ENTITY_IDS[1], PASSWORD)
    stored.end(one)
    stored.end(other)
    assert {login.entity_id for login in stored.login().services()} == {
        SP,
        ENTITY_IDS[0],
        ENTITY_IDS[1],
    }
    assert made in stored.login().services()


def test_a_removal_holds_against_a_login_elsewhere_at_once(stored: Portal) -> None:
    (one, first), (other, second) = two_tabs(stored)
    first.add_service(a_login(ENTITY_IDS[0], MINUTE))
    second.remove_service(second.services(SP)[0])
    second.add_service(a_login(OTHER_SP, MINUTE))
    stored.end(one)
    stored.end(other)
    entity_ids = {login.entity_id for login in stored.login().services()}
    assert entity_ids == {ENTITY_IDS[0], OTHER_SP}


@pytest.mark.parametrize("forget", [True, False])
def test_a_login_survives_that_all_others_are_removed_at_once(stored: Portal, forget: bool) -> None:
    for first_to_end in (0, 1):
        tabs = two_tabs(stored)
        (_, first), (_, second) = tabs
        first.add_service(a_login(ENTITY_IDS[first_to_end], MINUTE))
        if forget:
            second.forget_services()
        else:
            for login in second.services():
                second.remove_service(login)
        stored.end(tabs[first_to_end][0])
        stored.end(tabs[1 - first_to_end][0])
        entity_ids = [login.entity_id for login in stored.login().services()]
        assert entity_ids == [ENTITY_IDS[first_to_end]]


def test_a_login_renewed_at_once_survives_its_removal(stored: Portal) -> None:
    (one, first), (other, second) = two_tabs(stored)
    first.remove_service(first.services(SP)[0])
    first.add_service(a_login(OTHER_SP, MINUTE))
    second.add_service(a_login(SP, MINUTE + 60))
    stored.end(one)
    stored.end(other)
    assert {(login.entity_id, login.time) for login in stored.login().services()} == {
        (SP, MINUTE + 60),
        (OTHER_SP, MINUTE),
    }


def test_of_two_authentications_at_once_both_count(stored: Portal) -> None:
    (one, first), (other, second) = two_tabs(stored)
    first.authenticate(MFA, 3600)
    second.authenticate(METHODS[3], 3600)
    stored.end(one)
    stored.end(other)
    login = stored.login()
    assert all(login.is_fresh(method) for method in (PASSWORD, MFA, METHODS[3]))


def test_a_forgotten_authentication_does_not_come_back(stored: Portal) -> None:
    (one, first), (other, second) = two_tabs(stored)
    first.forget_authentication(PASSWORD)
    first.authenticate(METHODS[3], 3600)
    second.authenticate(MFA, 3600)
    stored.end(one)
    stored.end(other)
    assert not stored.login().is_fresh(PASSWORD)
    assert stored.login().is_fresh(MFA)


def test_of_one_login_renewed_twice_the_later_stays() -> None:
    records = LoginRecords(registry())

    def columns(*times: int) -> bytes:
        return records.merge_columns(
            None, b"", _encoded(records, *(a_login(SP, time) for time in times))
        )

    merged = records.merge_columns(columns(MINUTE), columns(MINUTE + 60), columns(MINUTE + 120))
    assert [one.time for one in records.read_columns(merged)] == [MINUTE + 120]


def _encoded(records: LoginRecords, *logins: ServiceLogin) -> bytes:
    idp = Portal(records)
    idp.sign_in()
    idp.add(*logins)
    return _columns(idp)


def test_columns_that_can_t_be_read_are_not_merged_over() -> None:
    known = _encoded(LoginRecords(registry()), a_login(ENTITY_IDS[0]))
    lagging = LoginRecords(registry(ENTITY_IDS[:5]))
    with pytest.raises(RegistryMissing):
        lagging.merge_columns(None, known, b"")
    with pytest.raises(LoginsUnreadable):
        lagging.merge_columns(None, "text", b"")


# --- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"head": "x", "columns": "x"}, {"head": ""}, {"time_step": 0}])
def test_what_makes_no_sense_is_refused_at_the_start(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LoginRecords(**given)


def test_identifiers_are_made_only_with_keys() -> None:
    idp = portal(identifiers=None)
    with pytest.raises(ConfigurationError):
        idp.login().add_derived_login(SP, PASSWORD)


def test_a_name_id_with_everything_comes_back() -> None:
    idp = portal()
    name_id = NameID("jdoe@example.edu", "urn:x:format", ENTITY_IDS[9], SP)
    login = ServiceLogin(SP, "urn:x:method", name_id, "id-" + "ab" * 16, MINUTE)
    idp.add(login)
    assert idp.login().services() == (login,)


@pytest.mark.parametrize("entity_id", ["\ud800", None, b"https://wiki.example.org"])
def test_a_service_that_has_no_name_is_not_entered(entity_id: Any) -> None:
    idp = portal()
    with pytest.raises(UnsupportedValue):
        idp.login().add_derived_login(entity_id, PASSWORD)
    assert idp.login().services() == ()


def test_an_authentication_from_the_future_is_kept_and_does_not_count_yet() -> None:
    login = portal().login()
    login.authenticate(PASSWORD, 10, time=NOW + 86400)
    assert not login.is_fresh(PASSWORD)
    assert not login.is_fresh(PASSWORD, within=0)
    login.authenticate("urn:x:method", 10)
    assert {one.method for one in login.authentications()} == {PASSWORD, "urn:x:method"}
    assert login.is_fresh("urn:x:method", within=0)
