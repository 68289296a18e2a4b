"""Logins, logouts and slow requests over two nodes, in any order of their calls of the store.

No session is accepted after its logout, and no service login is lost: each service is notified,
remains to be notified, or was never added.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sealedstate.sso import LogoutRequest, ServiceLogin
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import CARRIED, SERVED, USER, Provider, User, a_login
from tests.support.jar import Clock
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP
from tests.support.stepped import Turns

RACES = [
    pytest.param(range(20), id="20"),
    pytest.param(range(20, 200), id="200", marks=pytest.mark.slow),
    pytest.param(range(10_000), id="10000", marks=pytest.mark.soak),
]
Act = Callable[[], object]


class Race:
    """One user at two nodes."""

    def __init__(self, number: int, idp: Provider) -> None:
        self.number, self.chance = number, random.Random(number)
        self.idp, self.store = idp, idp.store
        idp.clock.forward(1)  # past the watermark of the race before
        self.user = self.idp.signed_in(a_login(SP))
        self.made = self.user.enter(OTHER_SP)
        self.issued = [self.user.jar.copy()]
        self.added: list[ServiceLogin] = []
        opened = self.user.session()
        assert opened.subject == USER
        self.session_id = opened.raw_id

    def run(self, *acts: Act) -> list[Any]:
        assert isinstance(self.store, ScriptedStorage)
        turns = Turns(self.chance)
        self.store.before(act=turns.step, times=None)
        outcomes = turns.run(acts)
        self.store.recover()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def some_user(self) -> User:
        """The user's browser, asking a node of two."""
        return User(self.idp.nodes[self.chance.randrange(2)], self.user.jar.copy())

    def adding(self, number: int) -> Act:
        """A request that adds a service login, and whose answer reaches a jar."""
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
        return lambda: node.logout.revoke_subject(USER)

    def entered(self) -> Act:
        """An unrelated session of the same user."""
        other = self.idp.user(1)

        def act() -> User:
            other.sign_in()
            other.enter(SP)
            return other

        return act

    def known(self) -> set[str]:
        """The services that are notified or remain, by the store."""
        terminator = self.idp.logout._terminator
        assert terminator is not None
        state = terminator.table.read(terminator.table.key(self.session_id))
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
    """Two nodes on one scripted store."""
    idp = Provider(None, {}, nodes=0)
    idp.store = ScriptedStorage(idp.clock)
    idp.nodes = [idp.node(indexed, part_policies=dict(parts)) for _ in range(2)]
    return idp


@pytest.mark.parametrize("numbers", RACES)
def test_stored_login_is_never_lost_in_a_race_with_a_logout(numbers: range) -> None:
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
def test_two_logouts_at_once_notify_every_service(numbers: range) -> None:
    idps = [provider(indexed=False), provider()]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_user(), race.by_service(), race.adding(1))
        race.assert_refused()
        race.assert_nothing_lost()


@pytest.mark.parametrize("numbers", RACES)
def test_revoked_subject_stays_out_and_late_services_are_notified(
    numbers: range,
) -> None:
    idps = [provider(SERVED), provider(CARRIED)]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_administrator(), race.adding(1))
        race.assert_refused()
        for jar in race.issued:
            User(race.idp.nodes[0], jar.copy()).answer(race.idp.logout.pending)
        race.assert_nothing_lost()


@pytest.mark.parametrize("numbers", RACES)
def test_login_that_a_slow_request_adds_to_a_cookie_is_notified_by_the_next(numbers: range) -> None:
    idp = provider(CARRIED)
    for number in numbers:
        race = Race(number, idp)
        race.run(race.by_service(), race.adding(1))
        race.assert_refused()
        User(race.idp.nodes[0], race.issued[-1].copy()).answer(race.idp.logout.pending)
        race.assert_nothing_lost()


@pytest.mark.parametrize("numbers", RACES)
def test_new_id_at_the_same_moment_escapes_no_logout(numbers: range) -> None:
    idps = [provider(SERVED), provider(CARRIED)]
    for number in numbers:
        race = Race(number, idps[number % 2])
        race.run(race.by_service(), race.regenerating())
        race.assert_refused()


@pytest.mark.parametrize("numbers", RACES)
def test_other_session_of_the_user_stays_signed_in(numbers: range) -> None:
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
            assert user.node.logout.leave_service(session, SP)
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


def test_turns_come_in_every_order() -> None:
    orders = set()
    for number in range(60):
        store, turns = ScriptedStorage(Clock()), Turns(random.Random(number))
        store.before(act=turns.step, times=None)
        seen: list[int] = []

        def act(mark: int, store: ScriptedStorage = store, seen: list[int] = seen) -> None:
            for _ in range(2):
                store.read("c", "k")
                seen.append(mark)

        turns.run([partial(act, 1), partial(act, 2)])
        orders.add(tuple(seen))
    assert len(orders) == 6
