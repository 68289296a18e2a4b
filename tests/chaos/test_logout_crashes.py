"""kill -9 while logins are added and removed and sessions end.

No live session is missing from the index, nothing acknowledged is undone, and every logout that
was begun is finished. Workers append to a side file what a browser has received.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from sealedstate import Keeper, Session, Settings
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import LoginRecords, LogoutProgress, LogoutRequest
from sealedstate.sso.logout.index import find_sessions
from sealedstate.storage import SQLiteStorage
from sealedstate.testing import ScriptedStorage
from sealedstate.testing.clock import tries
from tests.support.identity_providers import CARRIED, SERVED, Node, Provider, User, a_login
from tests.support.login_makers import ENTITY_IDS, OTHER_SP, SP, a_key, identifiers, registry
from tests.support.stepped import STEPS

KILLS = [
    pytest.param(5, id="5", marks=pytest.mark.slow),
    pytest.param(150, id="150", marks=pytest.mark.soak),
]
EVERYWHERE = pytest.mark.parametrize("part_policies", [SERVED, CARRIED], ids=["store", "cookie"])
Policies = dict[str, str]
EACH_ROUND = 6  # responses that arrive between two kills
PATIENCE = 60  # seconds
KEYS = Keyring((a_key(1),), lookup=a_key(2).secret)


def open_node(path: Path, part_policies: Policies) -> Node:
    records = LoginRecords(registry(), identifiers())
    settings = Settings(
        keys=StaticKeys(KEYS),
        storage=SQLiteStorage(path, time.time, timeout=20),
        merge=records.merge_rules,
        part_policies=part_policies,
    )
    return Node(Keeper(settings), records, indexed=True)


def leave(node: Node, entity_id: str, session: Session) -> object:
    return node.logout.leave_service(session, entity_id)


# --- in the workers' processes ------------------------------------------------------------------


def work_for_ever(store: Path, side_file: Path, part_policies: Policies) -> None:
    node = open_node(store, part_policies)
    notes = os.open(side_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    chance = random.Random(os.getpid())

    def note(what: str, user: User, name: str, service: str = "") -> None:
        os.write(notes, (json.dumps([what, name, user.jar.header(), service]) + "\n").encode())

    for count in itertools.count():
        user, name = User(node), f"{os.getpid()}-{count}"
        user.sign_in(name)
        note("got", user, name)
        for entity_id in chance.sample(ENTITY_IDS, 4):
            user.go(a_login(entity_id, name))
            note("got", user, name, entity_id)
        user.visit(partial(leave, node, chance.choice(ENTITY_IDS)))
        note("got", user, name)
        if chance.random() < 0.7:
            before = User(node, user.jar.copy())
            note("ending", before, name)
            user.answer(node.logout.begin)
            note("ended", before, name)


# --- what browsers received ---------------------------------------------------------------------


@dataclass
class Received:
    """One user's cookies, by the side file."""

    cookies: list[str] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)


def read(side_file: Path) -> dict[str, Received]:
    found: dict[str, Received] = {}
    for line in side_file.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            continue  # killed in the middle of a line, which no browser received
        what, name, cookie, service = json.loads(line)
        user = found.setdefault(name, Received())
        user.cookies.append(cookie)
        user.seen.add(what)
        user.services |= {service} - {""}
    return found


def broken_promises(node: Node, name: str, user: Received) -> Iterator[str]:
    assert node.index is not None
    for cookie in user.cookies:
        session = node.keeper.session(cookie)
        if session.subject is None:
            if "ending" not in user.seen:
                yield f"{name} is signed out"
            continue
        if "ended" in user.seen:
            yield f"{name} is back"
        for login in node.records.for_session(session).services():
            request = LogoutRequest(login.entity_id, login.name_id)
            if session.raw_id not in node.index.find(request):
                yield f"{name} at {login.entity_id} is missing from the index"


@contextmanager
def workers(store: Path, side_files: list[Path], part_policies: Policies) -> Iterator[Workers]:
    """Two workers on one store, each of which is killed and comes back."""
    running = Workers(store, side_files, part_policies)
    try:
        yield running
    finally:
        for process in running.processes:
            process.kill()
            process.join()


class Workers:
    def __init__(self, store: Path, side_files: list[Path], part_policies: Policies) -> None:
        self._store, self._files, self._policies = store, side_files, part_policies
        self.processes = [self._start(path) for path in side_files]

    def kill_one(self, number: int) -> None:
        number %= len(self.processes)
        goals = {path: _lines(path) + EACH_ROUND for path in self._files}
        for _ in tries(PATIENCE):
            if all(_lines(path) >= goal for path, goal in goals.items()):
                break
            assert all(process.is_alive() for process in self.processes)
        else:
            raise AssertionError("the workers make no progress")
        self.processes[number].kill()
        self.processes[number].join()
        self.processes[number] = self._start(self._files[number])

    def _start(self, side_file: Path) -> ForkServerProcess:
        context = multiprocessing.get_context("forkserver")
        arguments = (self._store, side_file, self._policies)
        process = context.Process(target=work_for_ever, args=arguments, daemon=True)
        process.start()
        return process


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("kills", KILLS)
@EVERYWHERE
def test_kills_leave_every_live_session_in_the_index_and_every_logout_to_be_finished(
    tmp_path: Path, part_policies: Policies, kills: int
) -> None:
    store, side_files = tmp_path / "store.db", [tmp_path / "received-1", tmp_path / "received-2"]
    with workers(store, side_files, part_policies) as running:
        for number in range(kills):
            running.kill_one(number)
    node = open_node(store, part_policies)
    users = {name: user for path in side_files for name, user in read(path).items()}
    assert [line for each in users.items() for line in broken_promises(node, *each)] == []
    assert any("ended" in user.seen for user in users.values())
    assert any("ending" not in user.seen and user.services for user in users.values())
    for progress in node.logout.unfinished(0):
        progress.notified(*progress.remaining)
    for name, user in users.items():
        session = node.keeper.session(user.cookies[-1])
        if session.subject is None:
            assert node.logout.pending(session) is None, f"{name} has a notice for ever"


# --- every point at which a process can be killed -----------------------------------------------


class Killed(BaseException):
    """No code of the product catches it, as none runs after a kill."""


class Life:
    """One user, until the node is killed before or after its call `number`; then a fresh node."""

    def __init__(self, part_policies: Policies) -> None:
        self.idp = Provider(None, nodes=0)
        self.idp.store = self.store = ScriptedStorage(self.idp.clock)
        self.part_policies = part_policies
        self.idp.nodes = [self._fresh()]
        self.user = self.idp.signed_in(a_login(SP))
        self.entered = self.user.enter(OTHER_SP)
        self.cookies = [self.user.jar.copy()]

    def _fresh(self) -> Node:
        return self.idp.node(part_policies=self.part_policies)

    def is_killed_in(self, act: Callable[[Life], object], number: int, after: bool) -> bool:
        kill = self.store.lose_reply if after else self.store.fail
        kill(*STEPS, error=Killed, after=number - 1, times=1)
        was_killed = False
        try:
            act(self)
        except Killed:
            was_killed = True
        self.store.recover()
        self.cookies.append(self.user.jar.copy())
        self.idp.nodes = [self._fresh()]
        return was_killed

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

    def assert_all_are_notified(self, except_for: set[str]) -> None:
        """If the user has to log out once more, every service is notified all the same."""
        notified: set[str] = set()
        for user in self.users():
            logout = user.node.logout
            notified |= _notify(
                user.answer(logout.pending if user.subject is None else logout.begin)
            )
        for progress in self.idp.logout.unfinished(0):
            notified |= _notify(progress)
        assert notified >= {SP, OTHER_SP} - except_for
        assert [user.subject for user in self.users()] == [None] * len(self.cookies)


def _notify(progress: LogoutProgress | None) -> set[str]:
    if progress is None:
        return set()
    services = {notice.entity_id for notice in progress}
    progress.notified(*progress.remaining)
    return services


def _add(life: Life) -> object:
    login = a_login(ENTITY_IDS[2], "another name")
    return life.user.visit(lambda session: life.user.login(session).add_service(login))


def _leave(life: Life) -> object:
    return life.user.visit(partial(leave, life.user.node, SP))


def _renew(life: Life) -> object:
    return life.user.visit(lambda session: life.user.login(session).regenerate())


def _log_out(life: Life) -> object:
    return life.user.answer(life.user.node.logout.begin)


def _ask(life: Life) -> object:
    return life.user.node.ask(life.entered)


@EVERYWHERE
@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("act", [_add, _leave, _renew, _log_out, _ask])
def test_kill_at_any_call_of_the_store_loses_no_session_and_no_notice(
    act: Callable[[Life], object], after: bool, part_policies: Policies
) -> None:
    for number in itertools.count(1):
        life = Life(part_policies)
        was_killed = life.is_killed_in(act, number, after)
        life.assert_every_live_session_is_found()
        if act in (_log_out, _ask):
            life.assert_all_are_notified(except_for={OTHER_SP} if act is _ask else set())
        if not was_killed:
            assert number > 3
            return
