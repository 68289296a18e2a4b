"""An identity provider of several nodes in one process, and its users' browsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sealedstate import Keeper, Session
from sealedstate.sso import (
    LoginRecord,
    LoginRecords,
    LogoutIndex,
    LogoutRequest,
    NameID,
    Notice,
    ServiceLogin,
    SingleLogout,
)
from sealedstate.sso._codec.tables import METHODS
from sealedstate.storage import MemoryStorage, Storage
from tests.support.jar import Browser, Clock, Jar, keeper
from tests.support.login_makers import identifiers, registry

PASSWORD = METHODS[0]
USER = "jdoe@example.edu"
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


def a_login(
    entity_id: str,
    name: str = USER,
    index: str | None = "_1",
    time: int = 1_799_999_940,
    form: str | None = None,
    **qualifiers: str,
) -> ServiceLogin:
    return ServiceLogin(entity_id, PASSWORD, NameID(name, form, **qualifiers), index, time)


def as_notice(login: ServiceLogin) -> Notice:
    index = None if login.session_index is None else str(login.session_index)
    return Notice(login.entity_id, login.name_id, index)
