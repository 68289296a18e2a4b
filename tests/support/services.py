"""Deployments on real stores, for the tests of what an identity provider keeps there.

Knows how a store is opened, a reply is lost and a raw row is read. Does not know what is tested. A
module of tests imports `postgresql_server`, by which one serves it all.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sealedstate._stored.table import Rows
from sealedstate.errors import OutcomeUnknown, StorageUnavailable, VersionMismatch
from sealedstate.keyring import Key, Keyring
from sealedstate.sso.deployment import SsoDeployment
from sealedstate.storage import MemoryStorage, Storage, Stored, open_storage
from tests.support.backends import BACKENDS, Service
from tests.support.login_makers import a_key

SKEW = 60
# The same in every process of a crew.
LOOKUP = a_key(77).secret
RING = Keyring((a_key(1),), lookup=LOOKUP)
NAMES = ("sqlite", "postgresql", "redis")
ON_SERVERS = [pytest.param(name, marks=pytest.mark.server) for name in NAMES if name != "sqlite"]
SHARED = ["sqlite", *ON_SERVERS]
TIMEOUT = "sealedstate_timeout=20"


def deployment(storage: Storage, ring: Keyring = RING, realm: str = "default") -> SsoDeployment:
    return SsoDeployment(storage, Rows(realm, os.urandom), lambda: ring, SKEW)


def lagging(ring: Keyring = RING) -> Keyring:
    """The ring of a node that does not know the key yet."""
    return Keyring((Key.generate(os.urandom),), lookup=ring.lookup)


@contextlib.contextmanager
def service(name: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    """A running backend, whose tables are there."""
    with BACKENDS[name](request, folder) as running:
        store = open_storage(patient(running.url), time.time)
        store.prepare()
        store.close()
        yield running


def patient(url: str) -> str:
    """The URL of a store that a busy machine may answer late."""
    return f"{url}{'&' if '?' in url else '?'}{TIMEOUT}"


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


class Unanswering:
    """A store whose replies get lost, or that is down, operation by operation.

    `lost[name]`: of the next so many calls of that operation the reply is lost. `late[name]`: of
    the next so many the request is still on its way, and `arrive()` delivers it. `down`: operations
    that can't be reached.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self.lost: dict[str, int] = {}
        self.late: dict[str, int] = {}
        self.down: set[str] = set()
        self._underway: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> object:
        found = getattr(self._store, name)
        return self._faulty(name, found) if callable(found) else found

    def arrive(self) -> None:
        for act in self._underway:
            with contextlib.suppress(VersionMismatch):
                act()
        self._underway.clear()

    def _faulty(self, name: str, act: Callable[..., object]) -> Callable[..., object]:
        def faulty(*given: object) -> object:
            if name in self.down:
                raise StorageUnavailable("down")
            if self.late.get(name, 0):
                self.late[name] -= 1
                self._underway.append(lambda: act(*given))
                raise OutcomeUnknown("late")
            result = act(*given)
            if self.lost.get(name, 0):
                self.lost[name] -= 1
                raise OutcomeUnknown("lost")
            return result

        return faulty


def rows(storage: Storage, context: str) -> dict[str, Stored]:
    """All that stands in the store, as its owner sees it."""
    found = {key: storage.read(context, key) for key in storage.keys(context)}
    return {key: stored for key, stored in found.items() if stored is not None}
