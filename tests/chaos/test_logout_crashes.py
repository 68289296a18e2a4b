"""kill -9 while logins are added and removed and sessions end.

No live session is missing from the index, nothing acknowledged is undone, and what was begun is
finished. Workers note what a browser has received.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from sealedstate import Keeper, Settings
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.session import id_bytes
from sealedstate.sso import LoginRecords, LogoutProgress, LogoutRequest
from sealedstate.sso.logout.index import find_sessions
from sealedstate.storage import SQLiteStorage
from sealedstate.testing import ScriptedStorage
from tests.support.identity_providers import (
    CARRIED,
    ENTITY_IDS,
    OTHER_SP,
    SERVED,
    SP,
    Node,
    Provider,
    User,
    a_key,
    a_login,
    identifiers,
    registry,
)
from tests.support.workers import SideFile, Workers

KILLS = [
    pytest.param(5, id="5", marks=pytest.mark.slow),
    pytest.param(150, id="150", marks=pytest.mark.soak),
]
EACH_ROUND = 6  # responses that arrive between two kills
KEYS = Keyring((a_key(1),), lookup=a_key(2).secret)
in_both_places = pytest.mark.parametrize("parts", [SERVED, CARRIED], ids=["store", "cookie"])


def open_node(path: Path, parts: dict[str, str]) -> Node:
    records = LoginRecords(registry(), identifiers())
    store = SQLiteStorage(path, time.time, timeout=20)
    settings = Settings(
        keys=StaticKeys(KEYS), storage=store, merge=records.merge_rules, part_policies=parts
    )
    return Node(Keeper(settings), records, indexed=True)


def work(path: Path, parts: dict[str, str], _: str, side_file: SideFile) -> None:
    """Sign users in and out, and note each cookie that a browser receives."""
    node, chance = open_node(path, parts), random.Random(os.getpid())
    for count in itertools.count():
        name, user = f"{os.getpid()}-{count}", User(node)
        user.sign_in(name)
        side_file.note("received", name, user.jar.header(), "")
        for entity_id in chance.sample(ENTITY_IDS, 4):
            user.go(a_login(entity_id, name))
            side_file.note("received", name, user.jar.header(), entity_id)
        leave(user, chance.choice(ENTITY_IDS))
        cookie = user.jar.header()
        side_file.note("received", name, cookie, "")
        if chance.random() < 0.7:
            side_file.note("ending", name, cookie, "")
            user.answer(node.logout.begin)
            side_file.note("ended", name, cookie, "")


def leave(user: User, entity_id: str) -> object:
    return user.visit(lambda session: user.node.logout.leave_service(session, entity_id))


@dataclass
class Received:
    """What one user's browser received."""

    cookies: list[str] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    ending: bool = False
    ended: bool = False


def read(side_file: SideFile) -> dict[str, Received]:
    found: dict[str, Received] = {}
    for what, name, cookie, service in side_file.read():
        user = found.setdefault(name, Received())
        user.cookies.append(cookie)
        user.ending |= what == "ending"
        user.ended |= what == "ended"
        user.services |= {service} - {""}
    return found


def problems(node: Node, name: str, user: Received) -> Iterator[str]:
    """The promises to one user that are broken."""
    assert node.index is not None
    for cookie in user.cookies:
        session = node.keeper.session(cookie)
        if session.subject is None:
            if not user.ending:
                yield f"{name} is signed out"
            continue
        if user.ended:
            yield f"{name} is back"
        for login in node.records.for_session(session).services():
            request = LogoutRequest(login.entity_id, login.name_id)
            if session.id not in node.index.find(request):
                yield f"{name} at {login.entity_id} is missing from the index"


@pytest.mark.parametrize("kills", KILLS)
@in_both_places
def test_no_kill_leaves_a_live_session_out_of_the_index(
    disk: Path, parts: dict[str, str], kills: int
) -> None:
    store = disk / "store.db"
    workers = Workers(partial(work, store, parts), disk)
    workers.crash(None, kills, EACH_ROUND)
    node = open_node(store, parts)
    users: dict[str, Received] = {}
    for side_file in workers.side_files.values():
        users |= read(side_file)
    assert [line for name, user in users.items() for line in problems(node, name, user)] == []
    assert any(user.ended for user in users.values())
    assert any(not user.ending and user.services for user in users.values())
    # What a kill left half done is found and ends.
    for progress in node.logout.unfinished(0):
        progress.notified(*progress.remaining)
    for name, user in users.items():
        session = node.keeper.session(user.cookies[-1])
        if user.ending and session.subject is None:
            assert node.logout.pending(session) is None, f"{name} is owed a notice for ever"


class Killed(BaseException):
    """No code of the product catches it, as none runs after a kill."""


class Life:
    """One user, whose node is killed before or after its call `number`; then a fresh node looks."""

    def __init__(self, parts: dict[str, str], number: int, after: bool) -> None:
        self.idp = Provider(None, nodes=0)
        self.idp.store = self.store = ScriptedStorage(self.idp.clock)
        self.parts, self.number, self.after = parts, number, after
        self.idp.nodes = [self._fresh()]
        self.user = self.idp.signed_in(a_login(SP))
        self.made = self.user.enter(OTHER_SP)
        self.cookies = [self.user.jar.copy()]
        self.was_killed = False

    def _fresh(self) -> Node:
        return self.idp.node(part_policies=self.parts)

    def until_killed(self, act: Callable[[Life], object]) -> None:
        kill = self.store.lose_reply if self.after else self.store.fail
        kill(error=Killed, after=self.number - 1, times=1)
        try:
            act(self)
        except Killed:
            self.was_killed = True
        self.store.recover()
        self.cookies.append(self.user.jar.copy())
        self.idp.nodes = [self._fresh()]

    def users(self) -> list[User]:
        return [User(self.idp.nodes[0], jar.copy()) for jar in self.cookies]

    def assert_every_live_session_is_found(self) -> None:
        for user in self.users():
            session = user.session()
            for login in user.login(session).services() if session.subject else ():
                request = LogoutRequest(login.entity_id, login.name_id)
                found = find_sessions(
                    request, self.idp.records.identifiers, user.node.index, self.idp.clock()
                )
                assert id_bytes(session) in found

    def assert_every_service_is_notified(self, but: set[str]) -> None:
        """After another logout, if need be."""
        told: set[str] = set()
        for user in self.users():
            if user.subject is not None:
                told |= _told(user.answer(user.node.logout.begin))
            else:
                told |= _told(user.answer(user.node.logout.pending))
        for progress in self.idp.logout.unfinished(0):
            told |= _told(progress)
        assert told >= {SP, OTHER_SP} - but
        assert [user.subject for user in self.users()] == [None] * len(self.cookies)


def _told(progress: LogoutProgress | None) -> set[str]:
    if progress is None:
        return set()
    told = {notice.entity_id for notice in progress}
    progress.notified(*progress.remaining)
    return told


LOGIN = a_login(ENTITY_IDS[2], "another name")
ACTS: dict[str, Callable[[Life], object]] = {
    "add": lambda life: life.user.go(LOGIN),
    "leave": lambda life: leave(life.user, SP),
    "renew": lambda life: life.user.visit(lambda session: life.user.login(session).regenerate()),
    "log out": lambda life: life.user.answer(life.user.node.logout.begin),
    "asked": lambda life: life.user.node.ask(life.made),
}


@in_both_places
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("act", ACTS)
def test_kill_at_any_call_of_the_store_breaks_no_promise(
    act: str, after: bool, parts: dict[str, str]
) -> None:
    for number in itertools.count(1):
        life = Life(parts, number, after)
        life.until_killed(ACTS[act])
        life.assert_every_live_session_is_found()
        if act in ("log out", "asked"):
            life.assert_every_service_is_notified({OTHER_SP} if act == "asked" else set())
        if not life.was_killed:
            assert number > 3
            return
