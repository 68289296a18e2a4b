"""kill -9 while logins are added and removed and sessions end: no live session is missing from the
index, nothing acknowledged is undone, and what was begun is finished.

Workers append to a side file what a browser has got. Knows processes and side files. Does not know
how the store survives: `tests/storage/test_crashes` does.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Session, Settings
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import LoginRecords, LogoutProgress, LogoutRequest
from sealedstate.sso.logout.index import find_sessions
from sealedstate.storage import MemoryStorage, SQLiteStorage
from sealedstate.testing.clock import tries
from tests.support.identity_providers import Node, Provider, User, a_login
from tests.support.jar import Jar
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP, a_key, identifiers, registry
from tests.support.stepped import STEPS

KILLS = [pytest.param(5, id="5"), pytest.param(150, id="150", marks=pytest.mark.soak)]
WORKERS = ["1", "2"]
EACH_ROUND = 6  # responses that arrive between two kills
PATIENCE = 60  # seconds
KEYS = Keyring((a_key(1),), lookup=a_key(2).secret)


def open_node(path: Path, parts: dict[str, str]) -> Node:
    records = LoginRecords(registry(), identifiers())
    store = SQLiteStorage(path, time.time, timeout=20)
    keeper = Keeper(
        Settings(
            keys=StaticKeys(KEYS), storage=store, merge=records.merge_rules, part_policies=parts
        )
    )
    return Node(keeper, records, indexed=True)


# --- in the workers' processes ----------------------------------------------------------------


def work_for_ever(store: Path, side_file: Path, parts: dict[str, str]) -> None:
    node, notes = (
        open_node(store, parts),
        os.open(side_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    )
    chance = random.Random(os.getpid())

    def note(what: str, user: str, cookie: str, service: str = "") -> None:
        os.write(notes, (json.dumps([what, user, cookie, service]) + "\n").encode())

    for count in itertools.count():
        name = f"{os.getpid()}-{count}"
        user = User(node)
        user.sign_in(name)
        note("got", name, user.jar.header())
        for entity_id in chance.sample(ENTITY_IDS, 4):
            user.go(a_login(entity_id, name))
            note("got", name, user.jar.header(), entity_id)
        user.visit(Leaving(node, chance.choice(ENTITY_IDS)))
        note("got", name, user.jar.header())
        cookie = user.jar.header()
        if chance.random() < 0.7:
            note("ending", name, cookie)
            user.answer(node.logout.begin)
            note("ended", name, cookie)


class Leaving:
    """A request that leaves one service."""

    def __init__(self, node: Node, entity_id: str) -> None:
        self._node, self._entity_id = node, entity_id

    def __call__(self, session: Session) -> object:
        return self._node.logout.leave(session, self._entity_id)


# --- what browsers got ------------------------------------------------------------------------


@dataclass
class Got:
    """One user's cookies, as the side file tells."""

    cookies: list[str] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    ending: bool = False
    ended: bool = False


def read(side_file: Path) -> dict[str, Got]:
    found: dict[str, Got] = {}
    for line in side_file.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            continue  # killed in the middle of a line, which no browser got
        what, name, cookie, service = json.loads(line)
        user = found.setdefault(name, Got())
        user.cookies.append(cookie)
        user.ending |= what == "ending"
        user.ended |= what == "ended"
        user.services |= {service} - {""}
    return found


def problems(node: Node, name: str, user: Got) -> list[str]:
    """What is not as promised for one user."""
    assert node.index is not None
    wrong = []
    for cookie in user.cookies:
        session = node.keeper.session(cookie)
        if session.subject is None:
            if not user.ending:
                wrong.append(f"{name} is signed out")
            continue
        if user.ended:
            wrong.append(f"{name} is back")
        for login in node.records.for_session(session).services():
            request = LogoutRequest(login.entity_id, login.name_id)
            if session.raw_id not in node.index.find(request):
                wrong.append(f"{name} at {login.entity_id} is missing from the index")
    return wrong


class Workers:
    """Two workers on one store, each of which is killed and comes back."""

    def __init__(self, folder: Path, parts: dict[str, str]) -> None:
        self.store, self._parts = folder / "store.db", parts
        self.side_files = [folder / f"got-{name}" for name in WORKERS]
        self._processes = [self._start(path) for path in self.side_files]

    def kill_one(self, number: int) -> None:
        number %= len(self._processes)
        self._wait_for_progress()
        self._processes[number].kill()
        self._processes[number].join()
        self._processes[number] = self._start(self.side_files[number])

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def _start(self, side_file: Path) -> ForkServerProcess:
        context = multiprocessing.get_context("forkserver")
        arguments = (self.store, side_file, self._parts)
        process = context.Process(target=work_for_ever, args=arguments, daemon=True)
        process.start()
        return process

    def _wait_for_progress(self) -> None:
        goals = {path: _lines(path) + EACH_ROUND for path in self.side_files}
        for _ in tries(PATIENCE):
            if all(_lines(path) >= goal for path, goal in goals.items()):
                return
            assert all(process.is_alive() for process in self._processes)
        raise AssertionError("the workers do not get on")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("parts", [{"l": "server"}, {"l": "cookie"}], ids=["store", "cookie"])
def test_no_kill_leaves_a_live_session_out_of_the_index(
    tmp_path: Path, parts: dict[str, str], kills: int
) -> None:
    workers = Workers(tmp_path, parts)
    try:
        for number in range(kills):
            workers.kill_one(number)
    finally:
        workers.stop()
    node = open_node(workers.store, parts)
    users: dict[str, Got] = {}
    for path in workers.side_files:
        users |= read(path)
    assert [line for name, user in users.items() for line in problems(node, name, user)] == []
    assert any(user.ended for user in users.values())
    assert any(not user.ending and user.services for user in users.values())
    _finish(node, users)


def _finish(node: Node, users: dict[str, Got]) -> None:
    """What a kill left half done is found, and ends: nobody is half logged out."""
    for progress in node.logout.unfinished(0):
        progress.told(*progress.remaining)
    for name, user in users.items():
        if not user.ending:
            continue
        for cookie in user.cookies[-1:]:
            browser = User(node, _jar(cookie))
            session = browser.session()
            if session.subject is None:
                assert node.logout.owed(session) is None, f"{name} is owed a notice for ever"


def _jar(cookie: str) -> Jar:
    jar = Jar()
    name, _, value = cookie.partition("=")
    jar.receive([f"{name}={value}; Path=/; Secure"])
    return jar


# --- every point at which one can be killed -----------------------------------------------------


class Killed(BaseException):
    """No code of the product catches it, as none runs after a kill."""


class MortalStorage(MemoryStorage):
    """Kills its caller at one of the calls to come, before or after that was done."""

    left: int | None = None
    after = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in STEPS or self.left is None:
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            assert self.left is not None
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            given = found(*arguments, **named)
            if self.left == 0:
                raise Killed
            return given

        return call


class Life:
    """One user, until somebody is killed at the call `number`; then a fresh node looks."""

    def __init__(self, parts: dict[str, str], number: int, after: bool) -> None:
        self.idp = Provider(None, nodes=0)
        self.store = MortalStorage(self.idp.clock)
        self.idp.store = self.store
        self.parts, self.number = parts, number
        self.store.after = after
        self.idp.nodes = [self._fresh()]
        self.user = self.idp.signed_in(a_login(SP))
        self.made = self.user.enter(OTHER_SP)
        self.cookies = [self.user.jar.copy()]
        self.was_killed = False

    def _fresh(self) -> Node:
        return self.idp.node(part_policies=self.parts)

    def until_killed(self, act: Callable[[Life], object]) -> None:
        self.store.left = self.number
        try:
            act(self)
        except Killed:
            self.was_killed = True
        self.store.left = None
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
                assert session.raw_id in found

    def assert_all_are_told(self, but_who_asked: set[str]) -> None:
        """Whoever logs out once more, if need be, leaves nobody out."""
        told: set[str] = set()
        for user in self.users():
            if user.subject is not None:
                told |= _told(user.answer(user.node.logout.begin))
            else:
                told |= _told(user.answer(user.node.logout.owed))
        for progress in self.idp.logout.unfinished(0):
            told |= _told(progress)
        assert told >= {SP, OTHER_SP} - but_who_asked
        assert [user.subject for user in self.users()] == [None] * len(self.cookies)


def _told(progress: LogoutProgress | None) -> set[str]:
    if progress is None:
        return set()
    told = {notice.entity_id for notice in progress}
    progress.told(*progress.remaining)
    return told


def _add(life: Life) -> object:
    login = a_login(ENTITY_IDS[2], "another name")
    return life.user.visit(lambda session: life.user.login(session).add_service(login))


def _leave(life: Life) -> object:
    return life.user.visit(Leaving(life.user.node, SP))


def _renew(life: Life) -> object:
    return life.user.visit(lambda session: life.user.login(session).regenerate())


def _log_out(life: Life) -> object:
    return life.user.answer(life.user.node.logout.begin)


def _asked(life: Life) -> object:
    return life.user.node.ask(life.made)


ACTS = [_add, _leave, _renew, _log_out, _asked]


@pytest.mark.parametrize("parts", [{"l": "server"}, {"l": "cookie"}], ids=["store", "cookie"])
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("act", ACTS)
def test_killed_at_any_call_of_the_store(
    act: Callable[[Life], object], after: bool, parts: dict[str, str]
) -> None:
    for number in itertools.count(1):
        life = Life(parts, number, after)
        life.until_killed(act)
        life.assert_every_live_session_is_found()
        if act in (_log_out, _asked):
            life.assert_all_are_told({OTHER_SP} if act is _asked else set())
        if not life.was_killed:
            assert number > 3
            return
