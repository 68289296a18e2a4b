"""Logins, logouts and slow requests over two nodes, in any order of their calls of the store.

No session is accepted after its logout, and no service login is lost: its service was notified,
is pending, or the login was never added.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest

from sealedstate.session import id_bytes
from sealedstate.sso import LogoutRequest, ServiceLogin
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import (
    CARRIED,
    ENTITY_IDS,
    OTHER_SP,
    SERVED,
    SP,
    TOLERATED,
    USER,
    Provider,
    User,
    a_login,
)
from tests.support.jar import Clock
from tests.support.stepped import Turns

RACES = pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(20), id="20"),
        pytest.param(range(20, 110), id="110", marks=pytest.mark.slow),
        pytest.param(range(10_000), id="10000", marks=pytest.mark.soak),
    ],
)
Act = Callable[[], object]


class Race:
    """One user at two nodes."""

    def __init__(self, number: int, idp: Provider) -> None:
        self.number, self.chance = number, random.Random(number)
        self.idp, self.store = idp, idp.store
        idp.clock.forward(1)  # past the watermark of the race before
        self.user = self.idp.signed_in(a_login(SP))
        self.entered = self.user.enter(OTHER_SP)
        self.issued = [self.user.jar.copy()]
        self.added: list[ServiceLogin] = []
        session = self.user.session()
        assert session.subject == USER
        self.session_id = id_bytes(session)

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

    # --- what happens at once -------------------------------------------------------------------

    def request(self, change: Callable[[User, Any], object]) -> Act:
        """A request of the signed-in user, whose response reaches a jar."""
        user = self.some_user()

        def act() -> None:
            session = user.session()
            if session.subject == USER:
                change(user, session)
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
        return self.request(lambda user, session: user.node.logout.leave_service(session, SP))

    def by_user(self) -> Act:
        user = self.some_user()

        def act() -> None:
            session = user.session()
            if session.subject == USER:
                user.node.logout.begin(session)

        return act

    def by_service(self) -> Act:
        node = self.some_user().node
        return lambda: node.ask(self.entered, str(self.entered.session_index))

    def by_administrator(self) -> Act:
        node = self.some_user().node
        return lambda: node.logout.revoke_subject(USER)

    # --- what is promised -----------------------------------------------------------------------

    def assert_refused(self) -> None:
        self.idp.clock.forward(1)  # a feed asks what was added
        for jar in self.issued:
            for node in self.idp.nodes:
                assert User(node, jar.copy()).subject is None, "a resurrection"

    def assert_nothing_lost(self) -> None:
        """The row has every service, as pending, notified or failed."""
        terminator = self.idp.logout._terminator
        assert terminator is not None
        state = terminator.table.read(terminator.table.key(self.session_id))
        known = set() if state is None else {login.entity_id for login in state.logins}
        expected = {SP, OTHER_SP, *(login.entity_id for login in self.added)}
        assert known >= expected, "a lost service login"


def provider(
    part_policies: dict[str, str] = SERVED, indexed: bool = True, **given: Any
) -> Provider:
    """Two nodes on one scripted store."""
    idp = Provider(None, {}, nodes=0)
    idp.store = ScriptedStorage(idp.clock)
    idp.nodes = [idp.node(indexed, part_policies=dict(part_policies), **given) for _ in range(2)]
    return idp


class Scenario(NamedTuple):
    """What happens at once, and where login records live.

    `by_cookies`: services are notified when the cookies come next; `loses_nothing`: all of them.
    """

    acts: Callable[[Race], Sequence[Act]]
    policies: Sequence[dict[str, str]] = (SERVED,)
    indexed: Sequence[bool] = (False, True)
    by_cookies: bool = False
    loses_nothing: bool = True


SCENARIOS = {
    "a user logs out while logins are added": Scenario(
        lambda race: (race.adding(1), race.adding(2), race.by_user())
    ),
    "a service asks while logins are added": Scenario(
        lambda race: (race.adding(1), race.adding(2), race.by_service())
    ),
    "two log out while a login is added": Scenario(
        lambda race: (race.by_user(), race.by_service(), race.adding(1))
    ),
    "a subject is revoked while a login is added": Scenario(
        lambda race: (race.by_administrator(), race.adding(1)), (SERVED, CARRIED), by_cookies=True
    ),
    "a service asks while a login is added to the cookie": Scenario(
        lambda race: (race.by_service(), race.adding(1)), (CARRIED,), by_cookies=True
    ),
    "a service asks while the session gets a new id": Scenario(
        lambda race: (race.by_service(), race.regenerating()),
        (SERVED, CARRIED),
        loses_nothing=False,  # the logins may be under the new id
    ),
}


@RACES
@pytest.mark.parametrize("name", SCENARIOS)
def test_raced_logout_is_final_and_notifies_every_service(name: str, numbers: range) -> None:
    scenario = SCENARIOS[name]
    idps = [provider(*each) for each in product(scenario.policies, scenario.indexed)]
    assert_final(name, numbers, idps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(20), id="20"),
        pytest.param(range(10_000), id="10000", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("name", SCENARIOS)
def test_raced_logout_is_final_for_nodes_that_follow_the_store(
    name: str, numbers: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealedstate.deployment.are_threads_frozen", lambda: True)
    scenario = SCENARIOS[name]
    idps = [
        provider(*each, revocation="feed", accept_weak_store_for=[*TOLERATED, "feed"])
        for each in product(scenario.policies, scenario.indexed)
    ]
    assert_final(name, numbers, idps)


def assert_final(name: str, numbers: range, idps: Sequence[Provider]) -> None:
    scenario, raced = SCENARIOS[name], 0
    for number in numbers:
        race = Race(number, idps[number % len(idps)])
        race.run(*scenario.acts(race))
        race.assert_refused()
        for jar in race.issued if scenario.by_cookies else ():
            User(race.idp.nodes[0], jar.copy()).answer(race.idp.logout.pending)
        if scenario.loses_nothing:
            race.assert_nothing_lost()
        raced += bool(race.added)
    assert raced > len(numbers) // 3 or "added" not in name, "the acts have not met"


@RACES
def test_other_session_of_the_user_stays_signed_in(numbers: range) -> None:
    idp = provider()
    for number in numbers:
        race, other = Race(number, idp), idp.user(1)

        def sign_in(other: User = other) -> None:
            other.sign_in()
            other.enter(SP)

        race.run(sign_in, race.by_service())
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
            assert index.find_ids(request) == [race.session_id]


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
