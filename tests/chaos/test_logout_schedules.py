"""Every order of the store's calls of an end and of a new id: no cookie outlives the end.

A session is ended in one request, or from outside, while another request gives it a new id. If the
end is acknowledged, then none of the cookies that were ever sent opens a session that was ended.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from sealedstate import Keeper, Session
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Browser, Clock
from tests.support.shop import node, signed_in
from tests.support.stepped import Chooser, Schedule, Turns, schedules

Act = Callable[[], object]

NEW_IDS: dict[str, Callable[[Session], object]] = {
    "regenerate": Session.regenerate,
    "sign in again": lambda session: setattr(session, "subject", "ann"),
    "sign in as another": lambda session: setattr(session, "subject", "bob"),
}
ENDS: dict[str, Callable[[Keeper, Session], object]] = {
    "invalidate": lambda shop, session: session.invalidate(),
    "sign out": lambda shop, session: sign_out(shop, session),
    "revoke_session": lambda shop, session: shop.revoke_session(session.id),
    "revoke_subject": lambda shop, session: shop.revoke_subject("ann"),
}


def sign_out(shop: Keeper, session: Session) -> None:
    session.subject = None
    shop.save(session)


class Site:
    """Two nodes on one store; the turns are taken at its calls."""

    def __init__(self, revocation: str = "each request") -> None:
        self.clock = Clock()
        self.store = ScriptedStorage(self.clock)
        # A schedule is tried again and again: no call may depend on what was before.
        given: dict[str, Any] = {"monotonic": lambda: 0.0}
        if revocation == "feed":
            weak = ["revocation", "feed"]
            given |= {"revocation": revocation, "accept_weak_store_for": weak}
        self.nodes = [node(self.clock, self.store, **given) for _ in range(2)]
        revocations = self.nodes[0].deployment.revocations
        assert revocations is not None
        revocations.mark_lookup(lifetime=10**9)

    def run(self, chooser: Chooser, new_ids: list[str], end: str) -> str:
        """One order of turns: what came of it."""
        self.clock.forward(120)  # past the watermark of the run before
        self.store.calls.clear()
        browser = signed_in(self.nodes[0], vault="secret")
        sent = [browser.jar.copy()]

        def renew(change: Callable[[Session], object], shop: Keeper) -> Act:
            def act() -> bool:
                session = shop.session(browser.jar.header())
                if session.subject is None:
                    return False
                change(session)
                arrived = browser.jar.copy()
                lines = shop.save(session)
                arrived.receive(lines)
                sent.append(arrived)
                return bool(lines)

            return act

        def finish() -> bool:
            session = self.nodes[1].session(browser.jar.header())
            if session.subject is None:
                return False
            ENDS[end](self.nodes[1], session)
            return True

        turns = Turns(chooser)
        self.store.before(act=turns.step, times=None)
        acts = [renew(NEW_IDS[name], self.nodes[n % 2]) for n, name in enumerate(new_ids)]
        *renewed, is_ended = turns.run([*acts, finish])
        self.store.recover()
        for outcome in (*renewed, is_ended):
            if isinstance(outcome, Exception):
                raise outcome
        # Whom the end was about: an end from outside is about ann.
        from_outside = end.startswith("revoke")
        self.clock.forward(2)  # a feed asks what was added
        for jar in sent if is_ended else ():
            for shop in self.nodes:
                subject = Browser(shop, jar.copy()).session().subject
                assert subject is None or (from_outside and subject == "bob"), (new_ids, end)
        return f"{'ended' if is_ended else 'not ended'}, {sum(renewed)} new ids"


@pytest.fixture
def asks_in_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed asks in a request and in no thread, so that its calls take their turns, too."""
    monkeypatch.setattr("sealedstate.deployment.are_threads_frozen", lambda: True)


# These have hundreds of orders, of each of which the others have a part.
MANY = {
    *product(["regenerate"], ["invalidate", "sign out", "revoke_subject"]),
    *product(["sign in again"], ["invalidate", "sign out", "revoke_subject"]),
}


@pytest.mark.slow
@pytest.mark.usefixtures("asks_in_requests")
@pytest.mark.parametrize(
    ("revocation", "new_id", "end"),
    [
        pytest.param(*case, marks=pytest.mark.soak if case[0] == "feed" or case[1:] in MANY else ())
        for case in product(["each request", "feed"], NEW_IDS, ENDS)
    ],
)
def test_no_order_of_an_end_and_a_new_id_leaves_a_live_cookie(
    revocation: str, new_id: str, end: str
) -> None:
    site, seen = Site(revocation), Counter[str]()
    for schedule in schedules():
        seen[site.run(schedule, [new_id], end)] += 1
    assert seen.total() > 50
    # The end was overtaken, and overtook.
    assert seen["ended, 1 new ids"] > 3
    assert seen["ended, 0 new ids"] > 3


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(30), id="30"),
        pytest.param(range(5_000), id="5000", marks=pytest.mark.soak),
    ],
)
@pytest.mark.usefixtures("asks_in_requests")
@pytest.mark.parametrize(
    "revocation", ["each request", pytest.param("feed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("end", ENDS)
def test_no_sampled_order_of_an_end_and_two_new_ids_leaves_a_live_cookie(
    end: str, revocation: str, numbers: range
) -> None:
    site, pairs = Site(revocation), list(product(NEW_IDS, NEW_IDS))
    for number in numbers:
        site.run(random.Random(number), list(pairs[number % len(pairs)]), end)


def test_schedules_are_all_orders_and_each_once() -> None:
    seen: list[str] = []
    for schedule in schedules():
        store, turns, order = ScriptedStorage(Clock()), Turns(schedule), list[str]()
        store.before(act=turns.step, times=None)

        def act(mark: str, store: ScriptedStorage = store, order: list[str] = order) -> Any:
            for _ in range(2):
                store.read("c", "k")
                order.append(mark)

        turns.run([lambda: act("a"), lambda: act("b")])
        seen.append("".join(order))
    assert set(seen) == {"aabb", "abab", "abba", "baab", "baba", "bbaa"}
    assert isinstance(schedule, Schedule)
