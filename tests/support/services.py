"""Deployments on real stores, for the tests of what an identity provider keeps there.

A module of tests imports `postgresql_server`, so that one server serves it all.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sealedstate import Settings
from sealedstate.deployment import Deployment
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Key, Keyring
from sealedstate.storage import USES, MemoryStorage, Storage, Stored, open_storage
from tests.support.backends import BACKENDS, Service
from tests.support.login_makers import a_key

SKEW = 60
# The same in every process that shares a store.
LOOKUP = a_key(77).secret
RING = Keyring((a_key(1),), lookup=LOOKUP)
NAMES = ("sqlite", "postgresql", "redis")
ON_SERVERS = [pytest.param(name, marks=pytest.mark.server) for name in NAMES if name != "sqlite"]
SHARED = ["sqlite", *ON_SERVERS]
TIMEOUT = "sealedstate_timeout=20"


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


def rows(storage: Storage, context: str) -> dict[str, Stored]:
    """All rows of a context, as the owner of the store sees them."""
    found = {key: storage.read(context, key) for key in storage.keys(context)}
    return {key: stored for key, stored in found.items() if stored is not None}
