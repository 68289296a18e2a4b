"""How this project puts a session into cookies: through its public API, like an application.

Knows the keeper's door and that of login records. Does not know how cookies are counted beyond
their pairs, or the peers. A row is a function from a workload to Set-Cookie lines, none for one
that does not even fit into `WIDE`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.cookie_pairs import pair_bytes, pairs
from benchmarks.workloads import NOW, Authn, Workload
from benchmarks.workloads import ServiceLogin as Visited
from sealedstate import Keeper, Key, Profile, Session, SessionTooLarge, Settings
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.sso import (
    Identifiers,
    LoginRecords,
    NameID,
    Registry,
    ServiceLogin,
    extend_registry,
    parse_registry,
)

# As wide as cookies go, so that 100 service logins show their size: a server would refuse them.
WIDE = Profile(
    name="bench",
    cookies=8,
    cookie_bytes=4090,
    total_bytes=33_000,
    header_bytes=40_000,
    response_bytes=40_000,
)

# A part is never cut in two, and more logins than this don't fit beside the first cookie.
LOGINS_IN_A_PART = 90

SetCookies = Callable[[Workload, Sequence[str]], list[str]]


# --- as login records -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """How login records are kept. `derives`: the identity provider makes transient NameIDs and
    SessionIndexes, `pairwise`: and persistent NameIDs. `step`: seconds of a login's time."""

    numbered: bool = True
    derives: bool = False
    pairwise: bool = False
    step: int = 60

    def set_cookies(self, workload: Workload, entity_ids: Sequence[str]) -> list[str]:
        """A new session, filled and saved at the workload's moment."""
        session = _keeper().session()
        self.fill(session, workload, entity_ids)
        return _saved(session)

    def fill(self, session: Session, workload: Workload, entity_ids: Sequence[str]) -> None:
        """What an identity provider puts into a session; without authentications: the parts."""
        if workload.subject is not None:
            session.subject = workload.subject
        if workload.subject is None or "authn" not in workload.parts:
            session.update(workload.parts)
            return
        record = self._records(workload, entity_ids).for_session(session)
        for state in authentications(workload):
            record.authenticate(state.method, state.duration, state.time)
        subject, session_id = workload.subject, session.id
        record.add_service(*(self._login(one, subject, session_id) for one in workload.services))

    def _records(self, workload: Workload, entity_ids: Sequence[str]) -> LoginRecords:
        # Beyond the real entityIDs the workloads invent some: these are registered too.
        known = dict.fromkeys([*entity_ids, *(one.entity_id for one in workload.services)])
        return LoginRecords(
            registry(tuple(known)) if self.numbered else Registry(),
            _identifiers() if self.derives else None,
            time_step=self.step,
        )

    def _login(self, visited: Visited, subject: str, session_id: str) -> ServiceLogin:
        name, index = visited.name_id, visited.session_index
        if self.derives:
            made, entity_id = _identifiers(), visited.entity_id
            index = made.session_index(session_id, entity_id, NOW)
            if name.startswith("_"):
                name = made.transient_name_id(session_id, entity_id, NOW)
            elif self.pairwise and name != subject:
                name = made.pairwise_name_id(subject, entity_id)
        return ServiceLogin(visited.entity_id, visited.method, NameID(name), index, visited.time)


# --- as a plain mapping ---------------------------------------------------------------------------


def plain_set_cookies(workload: Workload, _: Sequence[str] = ()) -> list[str]:
    """The same dicts as the peers get, as parts."""
    session = _keeper().session()
    if workload.subject is not None:
        session.subject = workload.subject
    try:
        session.update(_parts(workload))
    except SessionTooLarge:
        return []
    return _saved(session)


def plain_cookie_bytes(workload: Workload) -> int:
    """The bytes of the pairs that a browser sends back."""
    return pair_bytes(pairs(plain_set_cookies(workload)))


def _parts(workload: Workload) -> dict[str, object]:
    """The workload's own parts; only very many service logins become two or more."""
    rows = [login.plain() for login in workload.services]
    starts = range(LOGINS_IN_A_PART, len(rows), LOGINS_IN_A_PART)
    if not starts:
        return workload.parts
    further = {f"services-{start}": rows[start : start + LOGINS_IN_A_PART] for start in starts}
    return workload.parts | {"services": rows[:LOGINS_IN_A_PART]} | further


# --- the rows -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OurRow:
    """One way to use this project."""

    name: str
    note: str
    set_cookies: SetCookies


STORED, UNREGISTERED, DERIVED = Variant(), Variant(numbered=False), Variant(derives=True)

OUR_ROWS = (
    OurRow(
        "sealedstate",
        "encrypted (XChaCha20-Poly1305), chunked; login records, every entityID registered, all"
        " identifiers stored; times to the minute; W0 is a plain mapping",
        STORED.set_cookies,
    ),
    OurRow(
        "sealedstate unregistered",
        "as the first, but no entityID is in any registry: all stand there as text",
        UNREGISTERED.set_cookies,
    ),
    OurRow(
        "sealedstate derived",
        "as the first, but transient NameIDs and SessionIndexes are derived from the session and"
        " the entityID instead of stored; persistent NameIDs are stored",
        DERIVED.set_cookies,
    ),
    OurRow(
        "sealedstate, plain mapping",
        "the dicts of the peers as parts, without login records; more than 90 logins in several",
        plain_set_cookies,
    ),
)


def authentications(workload: Workload) -> list[Authn]:
    """The authentication states of a workload."""
    rows = workload.parts["authn"]
    assert isinstance(rows, list)
    return [Authn(**row) for row in rows]


@cache
def registry(entity_ids: tuple[str, ...]) -> Registry:
    """A registry of all of these."""
    return parse_registry(extend_registry("", entity_ids))


def _saved(session: Session) -> list[str]:
    try:
        return _keeper().save(session)
    except SessionTooLarge:
        return []


@cache
def _keeper() -> Keeper:
    keys = [Key.generate(os.urandom).export()]
    return Keeper(Settings(keys=keys, profile=WIDE, clock=lambda: NOW))


@cache
def _identifiers() -> Identifiers:
    keyring = Keyring((Key.generate(os.urandom),))
    return Identifiers(StaticKeys(keyring), Key.generate(os.urandom))
