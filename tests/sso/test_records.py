"""Login records in sessions: through a keeper and its cookies, as identity providers use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

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
    LogoutRequest,
    NameID,
    ServiceLogin,
)
from sealedstate.sso._codec.columns import encode_logins
from sealedstate.sso._codec.tables import METHODS
from sealedstate.sso.logout.index import UNSPECIFIED, matches
from tests.support.identity_providers import (
    ENTITY_IDS,
    OTHER_SP,
    PASSWORD,
    SP,
    USER,
    Provider,
    User,
    a_login,
    identifiers,
    registry,
)
from tests.support.jar import Clock

MFA, SMARTCARD = "https://refeds.org/profile/mfa", METHODS[12]
NOW = 1_800_000_000  # a whole minute, and where the provider's clock stands
PAIRWISE = identifiers().pairwise_name_id(USER, SP)

Change: TypeAlias = Callable[[LoginRecord], object]


def a_user(**given: Any) -> User:
    """A user who has signed in, with all records in the cookies."""
    records = LoginRecords(registry(), **{"identifiers": identifiers(), **given})
    return Provider(None, {}, records=records).signed_in()


def change(user: User, act: Change) -> Any:
    return user.answer(lambda session: act(user.login(session)))


def record_of(user: User, **changed: Any) -> LoginRecord:
    """The user's login record, as a node with another configuration sees it."""
    return replace(user.node.records, **changed).for_session(user.session())


def forward(user: User, seconds: float) -> None:
    clock = user.keeper.settings.clock
    assert isinstance(clock, Clock)
    clock.forward(seconds)


def columns_of(user: User) -> bytes:
    value = user.session()["l"]
    assert isinstance(value, bytes)
    return value


def login_at(entity_id: str, name: str = USER, index: str | None = None, **more: Any) -> Any:
    return a_login(entity_id, name, index, **{"time": NOW, **more})


# --- authentications ----------------------------------------------------------------------------


def test_an_authentication_counts_in_later_requests_until_it_expires() -> None:
    user = a_user()
    forward(user, 3600)
    login = record_of(user)
    assert login.is_fresh(PASSWORD)
    assert login.is_fresh(PASSWORD, within=3600)
    assert not login.is_fresh(PASSWORD, within=3599)
    assert not login.is_fresh(MFA)
    assert login.authentications() == (Authentication(PASSWORD, NOW, 8 * 3600),)


def test_a_repeated_authentication_replaces_the_first_and_drops_expired_ones() -> None:
    user = a_user()
    change(user, lambda login: login.authenticate(MFA, duration=60))
    change(user, lambda login: login.authenticate(PASSWORD, duration=7200))
    forward(user, 60)
    change(user, lambda login: login.authenticate(SMARTCARD, duration=60))
    assert [(each.method, each.duration) for each in record_of(user).authentications()] == [
        (PASSWORD, 7200),
        (SMARTCARD, 60),
    ]


def test_an_authentication_may_be_of_another_time_and_be_forgotten() -> None:
    user = a_user()
    change(user, lambda login: login.authenticate(MFA, 999_999, time=NOW - 500_000))
    assert record_of(user).authentications()[0] == Authentication(MFA, NOW - 500_000, 999_999)
    change(user, lambda login: login.authenticate(SMARTCARD, 10, time=NOW + 86_400))
    assert len(record_of(user).authentications()) == 3
    assert not record_of(user).is_fresh(SMARTCARD)
    assert not record_of(user).is_fresh(SMARTCARD, within=0)
    change(user, forget_all)
    assert record_of(user).authentications() == ()


def forget_all(login: LoginRecord) -> None:
    for authentication in login.authentications():
        login.forget_authentication(authentication.method)


def test_a_session_without_a_subject_has_no_login_record() -> None:
    user = Provider(None, {}).user()
    session = user.session()
    login = user.login(session)
    assert not session.accessed
    assert (login.authentications(), login.services()) == ((), ())
    acts: list[Change] = [
        lambda login: login.authenticate(PASSWORD, 1),
        lambda login: login.add_service(a_login()),
        lambda login: login.add_derived_login(SP, PASSWORD),
    ]
    for act in acts:
        with pytest.raises(NotSignedIn):
            act(login)


def test_another_user_inherits_nothing() -> None:
    user = a_user()
    user.go(login_at(ENTITY_IDS[0]))
    session = user.session()
    session.subject = "asmith@example.edu"
    login = user.login(session)
    assert (login.authentications(), login.services()) == ((), ())


# --- service logins -----------------------------------------------------------------------------


def test_service_logins_come_back_the_earliest_first() -> None:
    user = a_user()
    name_id = NameID("jdoe@example.edu", "urn:x:format", ENTITY_IDS[9], SP)
    third = ServiceLogin(SP, "urn:x:method", name_id, "id-" + "ab" * 16, NOW + 120)
    second, first = login_at(SP, index="", time=NOW + 60), login_at(ENTITY_IDS[3])
    for login in (third, second, first):
        user.go(login)
    assert user.services() == (first, second, third)
    assert record_of(user).services(SP) == (second, third)
    assert record_of(user).services(OTHER_SP) == ()


def test_the_time_of_a_login_is_stored_to_the_step() -> None:
    for step, stored in ((60, NOW), (1, NOW + 59), (3600, NOW // 3600 * 3600)):
        user = a_user(time_step=step)
        user.go(login_at(SP, time=NOW + 59))
        assert [login.time for login in user.services()] == [stored]


def test_a_known_login_is_renewed() -> None:
    user = a_user()
    user.go(login_at(SP))
    user.go(replace(login_at(SP, time=NOW + 600), method=MFA))
    assert [(login.time, login.method) for login in user.services()] == [(NOW + 600, MFA)]
    user.go(login_at(SP, index="another"))
    assert len(record_of(user).services(SP)) == 2


def test_a_removed_login_is_gone_and_the_last_one_leaves_an_empty_part() -> None:
    user = a_user()
    user.go(login_at(SP), login_at(OTHER_SP))
    for _ in range(2):
        change(user, lambda login: login.remove_service(login.services()[0]))
    assert user.services() == ()
    assert columns_of(user) == b""


def test_derived_identifiers_take_no_bytes_and_come_back() -> None:
    user = a_user()
    login = user.enter(ENTITY_IDS[1])
    assert user.services() == (login,)
    assert login.name_id.format == TRANSIENT
    session, name = user.session(), str(login.name_id.value)
    assert session.subject == USER
    assert identifiers().open_name_id(name, ENTITY_IDS[1], NOW) == session.id
    assert len(columns_of(user)) < 40


def test_a_pairwise_name_id_takes_no_bytes_where_there_is_a_key() -> None:
    user, without = a_user(), a_user(identifiers=None)
    for each in (user, without):
        each.go(login_at(SP, PAIRWISE))
        assert [login.name_id.value for login in each.services()] == [PAIRWISE]
    assert len(columns_of(user)) < 30 + len(SP)
    assert len(columns_of(without)) >= len(columns_of(user)) + 14


def test_a_handle_of_another_session_is_stored_as_text() -> None:
    foreign = identifiers().transient_name_id("A" * 22, SP, NOW)
    user = a_user()
    user.go(login_at(SP, foreign, foreign))
    assert user.services() == (login_at(SP, foreign, foreign),)


def test_derived_logins_need_identifiers_and_a_valid_entity_id() -> None:
    with pytest.raises(ConfigurationError):
        a_user(identifiers=None).enter(SP)
    wrong: list[Any] = ["\ud800", None, b"https://wiki.example.org"]
    for entity_id in wrong:
        user = a_user()
        with pytest.raises(UnsupportedValue):
            user.enter(entity_id)
        assert user.services() == ()


# --- unreadable logins cost no authentication ---------------------------------------------------


def test_authentications_are_read_without_the_columns() -> None:
    records = LoginRecords()
    values: list[object] = [b"\xff", 7, "text", [b""]]
    for value in values:
        session = a_user().session()
        login = records.for_session(session)
        session["l"] = value
        assert login.is_fresh(PASSWORD)
        with pytest.raises(LoginsUnreadable):
            login.services()
        session["a"] = value
        with pytest.raises(LoginsUnreadable):
            login.authentications()
    session["l"] = session["a"] = None
    assert (login.authentications(), login.services()) == ((), ())


def test_a_node_without_the_registry_reports_that_and_can_start_over() -> None:
    user = a_user()
    user.go(login_at(ENTITY_IDS[0]))
    lagging = record_of(user, registry=registry(ENTITY_IDS[:5]))
    assert lagging.is_fresh(PASSWORD)
    with pytest.raises(RegistryMissing):
        lagging.services()
    with pytest.raises(RegistryMissing):
        lagging.add_service(a_login())
    lagging.forget_services()
    lagging.add_service(login_at(SP))
    assert lagging.services() == (login_at(SP),)


def test_a_node_without_the_identifier_key_names_it() -> None:
    user = a_user()
    login = user.enter(SP)
    for without in (None, identifiers(2)):
        with pytest.raises(IdentifierKeyMissing) as missing:
            record_of(user, identifiers=without).services()
        assert missing.value.kid == (1).to_bytes(4, "big")
    rotated = record_of(user, identifiers=identifiers(2, 1))
    assert rotated.services() == (login,)
    rotated.add_service(login_at(OTHER_SP))
    assert login in rotated.services()


def test_a_pairwise_name_id_is_not_derived_with_another_key() -> None:
    user = a_user()
    user.go(login_at(SP, PAIRWISE))
    for pairwise in (8, None):
        with pytest.raises(IdentifierKeyMissing):
            record_of(user, identifiers=identifiers(pairwise=pairwise)).services()


def test_a_text_that_has_become_derivable_is_found_and_removed() -> None:
    user = a_user(identifiers=None)
    user.go(login_at(SP, PAIRWISE))
    login = record_of(user, identifiers=identifiers())
    login.remove_service(login.services()[0])
    assert login.services() == ()


def test_a_new_session_id_keeps_the_identifiers_that_services_have() -> None:
    user = a_user()
    login = user.enter(SP)
    change(user, lambda record: record.regenerate())
    assert user.services() == (login,)
    assert user.enter(SP) != login


def test_a_new_session_id_without_the_login_record_is_noticed() -> None:
    user = a_user()
    user.enter(SP)
    user.visit(lambda session: session.regenerate())
    with pytest.raises(SessionIdChanged):
        user.services()


# --- two requests at once -----------------------------------------------------------------------


def in_two_tabs(*changes: Change) -> User:
    """A user with a login at SP, after concurrent requests that change the stored records."""
    user = Provider(part_policies={"a": "server", "l": "server"}).signed_in(login_at(SP))
    sessions = [user.session() for _ in changes]
    for session in sessions:  # all of them see the same record
        assert len(user.login(session).services()) == len(user.login(session).authentications())
    for session, act in zip(sessions, changes, strict=True):
        act(user.login(session))
    for session in sessions:
        user.jar.receive(user.keeper.save(session))
    return user


def add(entity_id: str, time: int = NOW) -> Change:
    return lambda login: login.add_service(login_at(entity_id, time=time))


def remove_all(login: LoginRecord) -> None:
    for each in login.services():
        login.remove_service(each)


def both(*changes: Change) -> Change:
    return lambda login: [act(login) for act in changes]


FIRST, SECOND = ENTITY_IDS[:2]


def test_concurrent_requests_lose_no_login_and_keep_removals() -> None:
    """In whichever order they are saved."""
    cases: list[tuple[Change, Change, set[tuple[str, int]]]] = [
        (add(FIRST), add(SECOND), {(SP, NOW), (FIRST, NOW), (SECOND, NOW)}),
        (add(FIRST), both(remove_all, add(SECOND)), {(FIRST, NOW), (SECOND, NOW)}),
        (add(FIRST), remove_all, {(FIRST, NOW)}),
        (add(FIRST), lambda login: login.forget_services(), {(FIRST, NOW)}),
        # Renewed by both: the later time counts.
        (add(SP, NOW + 60), add(SP, NOW + 120), {(SP, NOW + 120)}),
        # Renewed by the one, removed by the other.
        (add(SP, NOW + 60), both(remove_all, add(FIRST)), {(SP, NOW + 60), (FIRST, NOW)}),
    ]
    for one, other, expected in cases:
        for changes in ((one, other), (other, one)):
            services = in_two_tabs(*changes).services()
            assert {(login.entity_id, login.time) for login in services} == expected


def test_a_derived_login_survives_a_concurrent_request() -> None:
    derived: list[ServiceLogin] = []
    user = in_two_tabs(
        add(FIRST), lambda login: derived.append(login.add_derived_login(SECOND, PASSWORD))
    )
    assert derived[0] in user.services()


def test_concurrent_authentications_both_count_and_forgotten_ones_do_not_return() -> None:
    user = in_two_tabs(
        both(
            lambda login: login.forget_authentication(PASSWORD),
            lambda login: login.authenticate(SMARTCARD, 3600),
        ),
        lambda login: login.authenticate(MFA, 3600),
    )
    assert {each.method for each in record_of(user).authentications()} == {MFA, SMARTCARD}


def test_unreadable_columns_are_not_merged() -> None:
    known = encode_logins([login_at(ENTITY_IDS[30])], registry())
    lagging = LoginRecords(registry(ENTITY_IDS[:5]))
    with pytest.raises(RegistryMissing):
        lagging.merge_columns(None, known, b"")
    with pytest.raises(LoginsUnreadable):
        lagging.merge_columns(None, "text", b"")


# --- configuration ------------------------------------------------------------------------------


def test_a_wrong_configuration_is_refused() -> None:
    wrong: list[Any] = [{"head": "x", "columns": "x"}, {"head": ""}, {"time_step": 0}]
    for given in wrong:
        with pytest.raises(ConfigurationError):
            LoginRecords(**given)


# --- NameIDs as services and directories really have them ----------------------------------------

ENTITIES = "Bob &amp; Alice <bob@example.org> \"'&#xE4;"
AS_SENT = (
    *("", " ", " jdoe ", "\tjdoe\n", "j  doe", "a\u00a0b", "\u200bjdoe", "jdoe\r\n"),
    *("käthe@müller.example", "用户@例子.公司", "😀" * 300, "e\u0301", "\u00e9", "İSTANBUL"),
    *('CN=Doe\\, Jane+UID=7,OU=a/b,O="x"', ENTITIES, "AAdzZWNyZXQx" + "A" * 600 + "=="),
    *("_" + "0f" * 16, "0", "None", "null", "\x00", "-1"),
)
FORMS = (None, "", " ", "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress", "urn:x:é " * 9)


def test_name_ids_come_back_exactly_as_services_sent_them() -> None:
    provider = Provider()
    names = [NameID(value, form) for value in AS_SENT for form in FORMS]
    names += [NameID(value, None, value, "") for value in AS_SENT]
    names += [NameID("x" * 70_000), NameID("é" * 5000, "urn:x:" + "y" * 5000)]
    user = provider.signed_in()
    user.go(*(replace(a_login(), name_id=name) for name in names))
    assert {one.name_id for one in user.services()} == set(names)
    # And the service's own logout request leads back, by the index and by the session.
    index = provider.nodes[0].index
    assert index is not None
    for login in user.services():
        request = LogoutRequest(login.entity_id, login.name_id, ("_1",))
        assert matches(login, request)
        assert len(index.find(request)) == 1


def test_empty_format_is_the_format_that_was_left_out() -> None:
    provider = Provider()
    user = provider.signed_in(a_login(SP, "jdoe", form=""))
    (login,) = user.services()
    for form in (None, "", UNSPECIFIED):
        assert matches(login, LogoutRequest(SP, NameID("jdoe", form)))
    assert provider.nodes[0].ask(a_login(SP, "jdoe", form=None))
    assert user.subject is None
