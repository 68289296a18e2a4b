"""An identity provider: its keys, logins, stores and nodes, and its users' browsers.

Keys and logins are equal in every run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Keeper, Session, Settings
from sealedstate.deployment import Deployment
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.sso import (
    Identifiers,
    LoginRecord,
    LoginRecords,
    LogoutIndex,
    LogoutRequest,
    NameID,
    Notice,
    Registry,
    ServiceLogin,
    SingleLogout,
    extend_registry,
    parse_registry,
)
from sealedstate.sso._codec.tables import METHODS
from sealedstate.sso.logins import StoredText
from sealedstate.storage import USES, MemoryStorage, Storage, Stored, open_storage
from tests.support.backends import BACKENDS, Service, patient
from tests.support.jar import Browser, Clock, Jar, keeper

NOW = 1_790_000_000
SESSION_ID = bytes(range(16))
OTHER_ID = bytes(range(1, 17))
SP, OTHER_SP = "https://sp.example.org/shibboleth", "https://wiki.example.org/saml/metadata"
ENTITY_IDS = [f"https://sp{number}.example.org/shibboleth" for number in range(40)]
PASSWORD = METHODS[0]
USER = "jdoe@example.edu"


# --- keys and logins ----------------------------------------------------------------------------


def a_key(number: int) -> Key:
    """Key material that is the same in every run."""
    secret = bytes((number * 37 + place * place * 11 + place) % 256 for place in range(32))
    return Key(number.to_bytes(4, "big"), secret)


def identifiers(*numbers: int, pairwise: int | None = 9, realm: str = "default") -> Identifiers:
    ring = Keyring(tuple(a_key(number) for number in numbers or (1,)))
    return Identifiers(StaticKeys(ring), None if pairwise is None else a_key(pairwise), realm)


def registry(*versions: list[str], methods: tuple[str, ...] = ()) -> Registry:
    text = ""
    for entity_ids in versions or (ENTITY_IDS,):
        text = extend_registry(text, entity_ids, methods)
    return parse_registry(text)


def a_login(
    entity_id: str = SP,
    name: StoredText = USER,
    index: StoredText | None = "_1",
    time: int = 1_799_999_940,  # a whole minute
    form: str | None = None,
    **qualifiers: str | None,
) -> ServiceLogin:
    return ServiceLogin(entity_id, PASSWORD, NameID(name, form, **qualifiers), index, time)


def as_notice(login: ServiceLogin) -> Notice:
    index = None if login.session_index is None else str(login.session_index)
    return Notice(login.entity_id, login.name_id, index)


# --- stores -------------------------------------------------------------------------------------

SKEW = 60
# The same in every process that shares a store.
LOOKUP = a_key(77).secret
RING = Keyring((a_key(1),), lookup=LOOKUP)
NAMES = ("sqlite", "postgresql", "redis")
ON_SERVERS = [pytest.param(name, marks=pytest.mark.server) for name in NAMES if name != "sqlite"]
SHARED = ["sqlite", *ON_SERVERS]


def deployment(
    storage: Any,
    ring: Keyring = RING,
    clock: Callable[[], float] = time.time,
    realm: str = "default",
    accept: Sequence[str] = tuple(USES),
    random: Callable[[int], bytes] = os.urandom,
) -> Deployment:
    """One node. By default any store will do, whatever it forgets."""
    return Deployment.open(
        Settings(
            keys=StaticKeys(ring),
            storage=storage,
            realm=realm,
            skew=SKEW,
            clock=clock,
            random=random,
            accept_weak_store_for=accept,
        )
    )


def lagging(ring: Keyring = RING) -> Keyring:
    """The ring of a node that does not have the key yet."""
    return Keyring((Key.generate(os.urandom),), lookup=ring.lookup)


@contextlib.contextmanager
def service(name: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    """A running backend, whose tables are there."""
    with BACKENDS[name](request, folder) as running:
        store = open_storage(patient(running.url), time.time)
        store.prepare()
        store.close()
        yield running


@contextlib.contextmanager
def opened(
    name: str, request: pytest.FixtureRequest, folder: Path, clock: Callable[[], float]
) -> Iterator[Storage]:
    """A store, empty, of `memory` or of a backend."""
    if name == "memory":
        yield MemoryStorage(clock)
        return
    with service(name, request, folder) as running:
        store = open_storage(patient(running.url), clock)
        yield store
        store.close()


def rows(storage: Storage, context: str) -> dict[str, Stored]:
    """All rows of a context, as the owner of the store sees them."""
    found = {key: storage.read(context, key) for key in storage.keys(context)}
    return {key: stored for key, stored in found.items() if stored is not None}


# --- nodes and users ----------------------------------------------------------------------------

TOLERATED = ["revocation", "logout", "logins", "sessions"]
SERVED, CARRIED = {"l": "server"}, {"l": "cookie"}


class Node:
    """One node of an identity provider."""

    def __init__(self, keeper: Keeper, records: LoginRecords, indexed: bool) -> None:
        self.keeper, self.records = keeper, records
        self.index = LogoutIndex(keeper, records) if indexed else None
        self.logout = SingleLogout(keeper, records, self.index)

    def ask(self, login: ServiceLogin | Notice, *indexes: str) -> list[Any]:
        """A logout request of a service, for one of its logins."""
        return self.logout.begin_for_request(LogoutRequest(login.entity_id, login.name_id, indexes))


class Provider:
    """An identity provider whose nodes share a store, and a clock that stands still."""

    def __init__(
        self,
        storage: Storage | str | None = "memory:",
        part_policies: Mapping[str, str] = SERVED,
        indexed: bool = True,
        nodes: int = 1,
        made: bool = True,
        records: LoginRecords | None = None,
        **given: Any,
    ) -> None:
        self.clock = Clock()
        self.store = MemoryStorage(self.clock) if storage == "memory:" else storage
        self.records = records or LoginRecords(registry(), identifiers() if made else None)
        policies = dict(part_policies)
        self.nodes = [self.node(indexed, part_policies=policies, **given) for _ in range(nodes)]

    def node(self, indexed: bool = True, **given: Any) -> Node:
        given = {"merge": self.records.merge_rules, "accept_weak_store_for": TOLERATED} | given
        keeper_ = keeper(self.clock, storage=self.store, **given)
        return Node(keeper_, self.records, indexed and self.store is not None)

    @property
    def logout(self) -> SingleLogout:
        return self.nodes[0].logout

    def user(self, node: int = 0) -> User:
        return User(self.nodes[node])

    def signed_in(self, *logins: ServiceLogin, subject: str = USER) -> User:
        """A user who went to some services."""
        user = self.user()
        user.sign_in(subject)
        for login in logins:
            user.go(login)
        return user


class User(Browser):
    """The browser of a user who signs in at a node."""

    def __init__(self, node: Node, jar: Jar | None = None) -> None:
        super().__init__(node.keeper, jar)
        self.node = node

    def at(self, node: Node) -> User:
        """The same browser, asking another node."""
        return User(node, self.jar)

    def login(self, session: Session) -> LoginRecord:
        return self.node.records.for_session(session)

    def sign_in(self, subject: str = USER) -> None:
        def change(session: Session) -> None:
            session.subject = subject
            self.login(session).authenticate(PASSWORD, duration=8 * 3600)

        self.visit(change)

    def go(self, *logins: ServiceLogin) -> None:
        self.visit(lambda session: self.login(session).add_service(*logins))

    def enter(self, entity_id: str) -> ServiceLogin:
        """Go to a service with identifiers that are derived for it."""
        entered: ServiceLogin = self.answer(
            lambda session: self.login(session).add_derived_login(entity_id, PASSWORD)
        )
        return entered

    def answer(self, ask: Callable[[Session], Any]) -> Any:
        """What `ask` returns in a request whose response arrives."""
        given: list[Any] = []
        self.visit(lambda session: given.append(ask(session)))
        return given[0]

    @property
    def subject(self) -> str | None:
        return self.session().subject

    def services(self) -> tuple[ServiceLogin, ...]:
        return self.login(self.session()).services()
