"""Logins, logouts and slow requests over two nodes, in any order of their calls of the store.

No session is accepted after its logout, and no service login is lost: its service was notified,
is pending, or the login was never added.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sealedstate.sso import LogoutRequest, ServiceLogin
from tests.support.identity_providers import CARRIED, SERVED, USER, Provider, User, a_login
from tests.support.jar import Clock
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP
from tests.support.stepped import SteppedStorage, Turns

RACES = pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(60), id="60"),
        pytest.param(range(10_000), id="10000", marks=pytest.mark.soak),
    ],
)
Act = Callable[[], object]


class Race:
    """One user at two nodes."""

    def __init__(self, number: int, idp: Provider) -> None:
        self.number, self.chance = number, random.Random(number)
        self.idp, self.store = idp, idp.store
        idp.clock.forward(1)  # the race before may have revoked the subject until now
        self.user = self.idp.signed_in(a_login(SP))
        self.entered = self.user.enter(OTHER_SP)
        self.issued = [self.user.jar.copy()]
        self.added: list[ServiceLogin] = []
        session = self.user.session()
        assert session.subject == USER
        self.session_id = session.raw_id

    def run(self, *acts: Act) -> list[Any]:
        assert isinstance(self.store, SteppedStorage)
        self.store.turns = Turns(self.chance)
        outcomes = self.store.turns.run(acts)
        self.store.turns = None
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def some_user(self) -> User:
        """The user's browser, asking a node of two."""
        return User(self.idp.nodes[self.chance.randrange(2)], self.user.jar.copy())

    # --- what happens at once -------------------------------------------------------------------

    def request(self, change: Callable[[User, Any], bool | None]) -> Act:
        """A request of the signed-in user; unless `change` returns True, its response arrives."""
        user = self.some_user()

        def act() -> None:
            session = user.session()
            if session.subject == USER and not change(user, session):
                user.jar.receive(user.keeper.save(session))
                self.issued.append(user.jar.copy())

        return act

    def adding(self, number: int) -> Act:
        login = a_login(ENTITY_IDS[number], f"in race {self.number}", time=1_799_999_940)

        def add(user: User, session: Any) -> None:
            user.login(session).add_service(login)
            self.added.append(login)

        return self.request(add)

    def regenerating(self) -> Act:
        return self.request(lambda user, session: user.login(session).regenerate())

    def leaving(self) -> Act:
        return self.request(lambda user, session: user.node.logout.leave_service(session, SP) == ())

    def by_user(self) -> Act:
        return self.request(lambda user, session: user.node.logout.begin(session).is_revoked)

    def by_service(self) -> Act:
        node = self.some_user().node
        return lambda: node.ask(self.entered, str(self.entered.session_index))

    def by_administrator(self) -> Act:
        node = self.some_user().node
        return lambda: node.logout.revoke_subject(USER)

    def entering(self) -> Act:
        """Another session of the same user, which the race is not about."""
        other = self.idp.user(1)

        def act() -> User:
            other.sign_in()
            other.enter(SP)
            return other

        return act

    # --- what is promised -----------------------------------------------------------------------

    def assert_refused(self) -> None:
        for jar in self.issued:
            for node in self.idp.nodes:
                assert User(node, jar.copy()).subject is None, "a resurrection"

    def assert_nothing_lost(self) -> None:
        """The row has every service: as pending, notified or failed."""
        terminator = self.idp.logout._terminator
        assert terminator is not None
        state = terminator.table.read(terminator.table.key(self.session_id))
        known = set() if state is None else {login.entity_id for login in state.logins}
        expected = {SP, OTHER_SP, *(login.entity_id for login in self.added)}
        assert known >= expected, "a lost service login"


def provider(part_policies: dict[str, str] = SERVED, indexed: bool = True) -> Provider:
    """Two nodes on a store that takes turns."""
    idp = Provider(None, {}, nodes=0)
    idp.store = SteppedStorage(idp.clock)
    idp.nodes = [idp.node(indexed, part_policies=dict(part_policies)) for _ in range(2)]
    return idp


@RACES
def test_stored_logins_survive_every_logout_at_every_moment(numbers: range) -> None:
    raced, idps = 0, [provider(indexed=False), provider()]
    for number in numbers:
        race = Race(number, idps[number // 2 % 2])
        ending = [race.by_user, race.by_service][number % 2]()
        race.run(race.adding(1), race.adding(2), ending)
        race.assert_refused()
        race.assert_nothing_lost()
        raced += bool(race.added)
    assert raced > len(numbers) // 2


@RACES
def test_two_logouts_at_once_notify_every_service(numbers: range) -> None:
    idps = [provider(indexed=False), provider()]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_user(), race.by_service(), race.adding(1))
        race.assert_refused()
        race.assert_nothing_lost()


@RACES
def test_revoked_subject_stays_out_and_logins_added_meanwhile_are_notified(numbers: range) -> None:
    idps = [provider(SERVED), provider(CARRIED)]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_administrator(), race.adding(1))
        race.assert_refused()
        for jar in race.issued:
            User(race.idp.nodes[0], jar.copy()).answer(race.idp.logout.pending)
        race.assert_nothing_lost()


@RACES
def test_login_that_a_slow_request_puts_into_the_cookie_is_notified_next(numbers: range) -> None:
    idp = provider(CARRIED)
    for number in numbers:
        race = Race(number, idp)
        race.run(race.by_service(), race.adding(1))
        race.assert_refused()
        User(race.idp.nodes[0], race.issued[-1].copy()).answer(race.idp.logout.pending)
        race.assert_nothing_lost()


@RACES
def test_new_id_at_the_same_moment_escapes_no_logout(numbers: range) -> None:
    idps = [provider(SERVED), provider(CARRIED)]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_service(), race.regenerating())
        race.assert_refused()


@RACES
def test_another_session_of_the_user_continues(numbers: range) -> None:
    idp = provider()
    for number in numbers:
        race = Race(number, idp)
        other = race.run(race.entering(), race.by_service())[0]
        race.assert_refused()
        assert other.subject == USER
        assert [login.entity_id for login in other.services()] == [SP]


@RACES
def test_logins_added_and_removed_at_once_merge(numbers: range) -> None:
    """Without a logout, every added login is there and found, every removed login is gone."""
    idp = provider()
    for number in numbers:
        race = Race(number, idp)
        race.run(race.adding(1), race.adding(2), race.leaving())
        services = {login.entity_id for login in race.user.services()}
        assert services == {OTHER_SP, ENTITY_IDS[1], ENTITY_IDS[2]}
        index = race.idp.nodes[0].index
        assert index is not None
        for login in race.added:
            request = LogoutRequest(login.entity_id, login.name_id)
            assert index.find(request) == [race.session_id]


def test_turns_come_in_every_order() -> None:
    orders = set()
    for number in range(60):
        store = SteppedStorage(Clock())
        store.turns = Turns(random.Random(number))
        seen: list[int] = []

        def act(mark: int, store: SteppedStorage = store, seen: list[int] = seen) -> None:
            for _ in range(2):
                store.read("c", "k")
                seen.append(mark)

        store.turns.run([lambda act=act: act(1), lambda act=act: act(2)])  # type: ignore[misc]
        orders.add(tuple(seen))
    assert len(orders) == 6
