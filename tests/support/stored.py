"""Rows of a store, written and read without a deployment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sealedstate._stored.feed import Feed
from sealedstate._stored.parts import KIND
from sealedstate._stored.table import Kind, SealedTable, StoreAccess
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, seal
from sealedstate.keyring import Keyring
from sealedstate.storage import MemoryStorage, Storage, Stored
from sealedstate.storage.contract import FOLLOWED
from sealedstate.testing import ScriptedStorage


def access_of(
    storage: Storage,
    ring: Keyring,
    now: Callable[[], float],
    realm: str = "default",
    random: Callable[[int], bytes] = os.urandom,
    refused: Callable[[str, str], object] = lambda *_: None,
) -> StoreAccess:
    """What the tables of one node share."""
    return StoreAccess(storage, realm, random, now, lambda: ring, refused)


def new_feed(store: Storage, *, polls: bool = True, **given: Any) -> Feed:
    """A feed as a deployment makes it. `polls`: False if only the caller polls."""
    usual: dict[str, Any] = {
        "staleness": 2,
        "keep_for": 0,
        "has_threads": True,
        "skew": 60,
        "clock": time.time,
        "running": time.monotonic,
        "random": os.urandom,
        "emit": lambda *given, **named: None,
        "answered": lambda: None,
    }
    feed = Feed(store, FOLLOWED, **usual | given)
    if not polls:
        feed._start = lambda: None  # type: ignore[method-assign]
    return feed


def _no_keys() -> Keyring:
    raise AssertionError("the key of a row needs no ring")


class PartRow(NamedTuple):
    """The row of a spilled part."""

    session_id: bytes
    name: str

    @property
    def key(self) -> str:
        nowhere = MemoryStorage(lambda: 0.0)
        access = StoreAccess(nowhere, "", os.urandom, lambda: 0.0, _no_keys)
        return SealedTable(access, KIND).key(*self)


@dataclass(frozen=True)
class Rows:
    """Seals a row by the specification, and opens it as a table does."""

    realm: str
    random: Callable[[int], bytes] = os.urandom
    refused: Callable[[str, str], object] = lambda *_: None

    def seal_row(
        self, context: str, key: str, version: int, data: bytes, ring: Keyring, now: float
    ) -> bytes:
        place = TokenContext("stored", self.realm, (context, key, version.to_bytes(8, "big")))
        entropy = self.random(ENTROPY_BYTES)
        return seal(data, place, ring.primary(int(now)), int(now), entropy)

    def open_row(self, context: str, key: str, stored: Stored, ring: Keyring, now: float) -> bytes:
        """Raises UnreadableError."""

        store = ScriptedStorage(lambda: now).answer("read", value=stored)
        access = access_of(store, ring, lambda: now, self.realm, self.random, self.refused)
        entry = SealedTable(access, Kind(context, "", "a row")).look(key)
        assert entry is not None
        if entry.error is not None:
            raise entry.error
        return entry.value


def row_of(storage: Storage, context: str, key: str) -> Stored:
    stored = storage.read(context, key)
    assert stored is not None
    return stored


def replace_row(storage: Storage, context: str, key: str, stored: Stored) -> None:
    """Make the store hold exactly this, as its owner can."""
    storage.delete(context, key)
    assert storage.create(context, key, stored.value, stored.expires_at, stored.version)
