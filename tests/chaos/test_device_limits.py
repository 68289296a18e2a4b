"""However many sign-ins come at once: as many sessions are left as a user may have, and no fewer.

Two nodes on one store take turns at its calls, in every order; threads meet on real stores.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sealedstate.devices import KIND, SessionRegistry
from sealedstate.testing import ScriptedStorage
from tests.support.backends import DURABLE
from tests.support.identity_providers import TOLERATED, opened
from tests.support.jar import Browser, Clock, keeper
from tests.support.stepped import Chooser, Turns, schedules


class Site:
    """Two nodes at which a user may have at most `most` sessions."""

    def __init__(self, most: int) -> None:
        self.clock = Clock()
        self.store = ScriptedStorage(self.clock)
        given = {"storage": self.store, "accept_weak_store_for": TOLERATED}
        # A schedule is tried again and again: no call may depend on what was before.
        self.keepers = [keeper(self.clock, monotonic=lambda: 0.0, **given) for _ in range(2)]
        for each in self.keepers:
            SessionRegistry(each, most=most)

    def sign_in(self) -> Browser:
        browser = Browser(self.keepers[0])
        browser.visit(lambda session: setattr(session, "subject", "ann"))
        return browser


def sign_in_at_once(site: Site, chooser: Chooser, count: int) -> list[Browser]:
    """The browsers of as many sign-ins, whose calls of the store take turns."""
    browsers = [Browser(site.keepers[number % 2]) for number in range(count)]

    def sign_in(browser: Browser) -> Callable[[], object]:
        return lambda: browser.visit(lambda session: setattr(session, "subject", "ann"))

    turns = Turns(chooser)
    for operation in ("create", "add_member", "members", "update"):
        site.store.before(operation, act=turns.step, context=KIND.context, times=None)
    outcomes = turns.run([sign_in(browser) for browser in browsers])
    site.store.recover()
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    return browsers


def check_orders(choosers: Iterable[Chooser], most: int, old: int, new: int) -> int:
    tried = 0
    for chooser in choosers:
        site = Site(most)
        before = [site.sign_in() for _ in range(old)]
        browsers = sign_in_at_once(site, chooser, new)
        users = [browser.session().subject for browser in (*browsers, *before)]
        assert users.count("ann") == min(most, old + new), (users, chooser)
        assert "ann" in users[:new]
        tried += 1
    return tried


@pytest.mark.slow
@pytest.mark.parametrize(("most", "old"), [(1, 0), pytest.param(2, 1, marks=pytest.mark.soak)])
def test_two_sign_ins_at_once_leave_as_many_as_are_allowed_in_every_order(
    most: int, old: int
) -> None:
    assert check_orders(schedules(), most, old, 2) > 50


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(10), id="10"),
        pytest.param(range(10, 60), id="60", marks=pytest.mark.slow),
        pytest.param(range(60, 260), id="260", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("most", [1, 2, 3])
def test_sign_ins_at_once_leave_as_many_as_are_allowed(most: int, numbers: range) -> None:
    check_orders((random.Random(number) for number in numbers), most, old=2, new=4)


@pytest.mark.parametrize("name", DURABLE)
def test_threads_on_a_real_store_leave_as_many_as_are_allowed(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = Clock(time.time())
    with opened(name, request, tmp_path, time.time) as store:
        nodes = [keeper(clock, storage=store, accept_weak_store_for=TOLERATED) for _ in "ab"]
        registry, _ = (SessionRegistry(node, most=1) for node in nodes)
        for number in range(5):
            user, barrier = f"user{number}", threading.Barrier(6)
            browsers = [Browser(nodes[number % 2]) for number in range(6)]

            def sign_in(
                browser: Browser, user: str = user, at: threading.Barrier = barrier
            ) -> None:
                at.wait(60)
                browser.visit(lambda session: setattr(session, "subject", user))

            threads = [threading.Thread(target=sign_in, args=(each,)) for each in browsers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert [each.session().subject for each in browsers].count(user) == 1
            assert len(registry.list(user)) == 1
