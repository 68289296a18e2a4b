"""Logins, logouts and slow requests over two nodes, in any order of their calls of the store.

No session is accepted after its logout, and no service login is lost: each is told, remains to be
told, or was never added.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from sealedstate.sso.logout.state import State

from sealedstate.sso import LogoutRequest, ServiceLogin
from tests.support.identity_providers import CARRIED, SERVED, USER, Provider, User, a_login
from tests.support.jar import Clock
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP
from tests.support.stepped import SteppedStorage, Turns

RACES = [
    pytest.param(range(60), id="60"),
    pytest.param(range(10_000), id="10000", marks=pytest.mark.soak),
]
Act = Callable[[], object]


class Race:
    """One user at two nodes."""

    def __init__(self, number: int, idp: Provider) -> None:
        self.number, self.chance = number, random.Random(number)
        self.idp, self.store = idp, idp.store
        idp.clock.forward(1)  # who signs in now was not poisoned by the race before
        self.user = self.idp.signed_in(a_login(SP))
        self.made = self.user.enter(OTHER_SP)
        self.issued = [self.user.jar.copy()]
        self.added: list[ServiceLogin] = []
        opened = self.user.session()
        assert opened.subject == USER
        self.session_id = opened.raw_id

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

    def adding(self, number: int) -> Act:
        """A request that adds a service login, slow or not; its answer reaches some jar."""
        user, name = self.some_user(), f"in race {self.number}"
        login = a_login(ENTITY_IDS[number], name, time=1_799_999_940)

        def act() -> None:
            session = user.session()
            if session.subject != USER:
                return
            user.login(session).add_service(login)
            self.added.append(login)
            self._answered(user, session)

        return act

    def regenerating(self) -> Act:
        user = self.some_user()

        def act() -> None:
            session = user.session()
            if session.subject == USER:
                user.login(session).regenerate()
                self._answered(user, session)

        return act

    def _answered(self, user: User, session: Any) -> None:
        user.jar.receive(user.keeper.save(session))
        self.issued.append(user.jar.copy())

    def by_user(self) -> Act:
        user = self.some_user()

        def act() -> None:
            session = user.session()
            if session.subject == USER:
                user.node.logout.begin(session)

        return act

    def by_service(self) -> Act:
        node = self.some_user().node
        return lambda: node.ask(self.made, str(self.made.session_index))

    def by_administrator(self) -> Act:
        node = self.some_user().node
        return lambda: node.logout.poison(USER)

    def entered(self) -> Act:
        """Somebody else's session of the same user, which has nothing to do with it."""
        other = self.idp.user(1)

        def act() -> User:
            other.sign_in()
            other.enter(SP)
            return other

        return act

    def known(self) -> set[str]:
        """The services that are told or remain, as the store knows them."""
        endings = self.idp.logout._endings
        assert endings is not None
        state: State | None = endings.ledger.read(endings.ledger.name(self.session_id))
        return set() if state is None else {login.entity_id for login in state.logins}

    def assert_refused(self) -> None:
        for jar in self.issued:
            for node in self.idp.nodes:
                user = User(node, jar.copy())
                assert user.subject is None, "a resurrection"

    def assert_nothing_lost(self) -> None:
        expected = {SP, OTHER_SP, *(login.entity_id for login in self.added)}
        assert self.known() >= expected, "a lost service login"


def provider(parts: dict[str, str] = SERVED, indexed: bool = True) -> Provider:
    """Two nodes on a store that takes turns."""
    idp = Provider(None, {}, nodes=0)
    idp.store = SteppedStorage(idp.clock)
    idp.nodes = [idp.node(indexed, part_policies=dict(parts)) for _ in range(2)]
    return idp


@pytest.mark.parametrize("numbers", RACES)
def test_in_the_store_no_login_is_lost_whoever_logs_out_when(numbers: range) -> None:
    raced, idps = 0, [provider(indexed=False), provider()]
    for number in numbers:
        race = Race(number, idps[number // 2 % 2])
        ending = [race.by_user, race.by_service][number % 2]()
        race.run(race.adding(1), race.adding(2), ending)
        race.assert_refused()
        race.assert_nothing_lost()
        raced += bool(race.added)
    assert raced > len(numbers) // 2


@pytest.mark.parametrize("numbers", RACES)
def test_two_who_log_out_at_once_tell_everybody(numbers: range) -> None:
    idps = [provider(indexed=False), provider()]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_user(), race.by_service(), race.adding(1))
        race.assert_refused()
        race.assert_nothing_lost()


@pytest.mark.parametrize("numbers", RACES)
def test_a_poisoned_user_stays_out_and_what_was_added_meanwhile_is_told(numbers: range) -> None:
    idps = [provider(SERVED), provider(CARRIED)]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_administrator(), race.adding(1))
        race.assert_refused()
        for jar in race.issued:
            User(race.idp.nodes[0], jar.copy()).answer(race.idp.logout.owed)
        race.assert_nothing_lost()


@pytest.mark.parametrize("numbers", RACES)
def test_in_cookies_what_a_slow_request_adds_is_told_by_the_next(numbers: range) -> None:
    idp = provider(CARRIED)
    for number in numbers:
        race = Race(number, idp)
        race.run(race.by_service(), race.adding(1))
        race.assert_refused()
        User(race.idp.nodes[0], race.issued[-1].copy()).answer(race.idp.logout.owed)
        race.assert_nothing_lost()


@pytest.mark.parametrize("numbers", RACES)
def test_a_new_id_at_the_same_moment_saves_nobody_from_a_logout(numbers: range) -> None:
    idps = [provider(SERVED), provider(CARRIED)]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_service(), race.regenerating())
        race.assert_refused()


@pytest.mark.parametrize("numbers", RACES)
def test_another_session_of_the_user_goes_on(numbers: range) -> None:
    idp = provider()
    for number in numbers:
        race = Race(number, idp)
        other = race.run(race.entered(), race.by_service())[0]
        race.assert_refused()
        assert other.subject == USER
        assert [login.entity_id for login in other.services()] == [SP]


@pytest.mark.parametrize("numbers", RACES)
def test_logins_and_departures_at_once_merge(numbers: range) -> None:
    """Without any logout, every added login is there and found, every removed one is gone."""
    idp = provider()
    for number in numbers:
        race = Race(number, idp)
        user = race.some_user()

        def leaving(user: User = user, race: Race = race) -> None:
            session = user.session()
            assert user.node.logout.leave(session, SP)
            user.jar.receive(user.keeper.save(session))

        race.run(race.adding(1), race.adding(2), leaving)
        assert {login.entity_id for login in race.user.services()} == {
            OTHER_SP,
            ENTITY_IDS[1],
            ENTITY_IDS[2],
        }
        index = race.idp.nodes[0].index
        assert index is not None
        for login in race.added:
            request = LogoutRequest(login.entity_id, login.name_id)
            assert index.find(request) == [race.session_id]


def test_the_turns_really_come_in_every_order() -> None:
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
