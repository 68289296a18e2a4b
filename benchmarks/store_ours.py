"""How this project uses its own stores: a record at a time, and a session's part at a time.

Knows the storage contract and the spiller. Does not know drivers, or how calls are timed.
"""

from __future__ import annotations

import os
import time
from typing import cast

from benchmarks.store_load import RECORDS, TEXT, Load
from benchmarks.store_rounds import CAS, CREATE, READ, Contender
from sealedstate import Key
from sealedstate._stored.parts import CONTEXT, StoredParts
from sealedstate._stored.table import StoreAccess
from sealedstate._wire.cbor import decode, encode
from sealedstate.keyring import Keyring
from sealedstate.storage import ManagedStorage

STORE, SESSION = "sealedstate store", "sealedstate session"
NEW = f"{CONTEXT}.new"


def our_store(store: ManagedStorage, value_bytes: int) -> Contender:
    """The operations of the contract themselves."""
    load = Load(value_bytes)
    versions, at = load.versions, load.expires_at_millis

    def read(number: int) -> object:
        return store.read(CONTEXT, load.keys[number % RECORDS])

    def create(number: int) -> object:
        key = load.new_key(number)
        return store.create(NEW, key, load.value(number), at, load.first_version)

    def compare_and_set(number: int) -> object:
        place = number % RECORDS
        version = versions[place]
        versions[place] = version + 1
        return store.update(CONTEXT, load.keys[place], load.value(number), at, version + 1, version)

    for number, key in enumerate(load.keys):
        store.create(CONTEXT, key, load.value(number), at, load.first_version)
    acts = {READ: read, CREATE: create, CAS: compare_and_set}
    return Contender(STORE, acts, lambda: store.delete_context(NEW))


def our_session(store: ManagedStorage, value_bytes: int) -> Contender:
    """A part of a session: encoded and sealed, checked when it is written, opened and decoded."""
    load, keyring = Load(value_bytes), Keyring((Key.generate(os.urandom),))
    access = StoreAccess(store, "bench", os.urandom, time.time, lambda: keyring)
    parts = StoredParts(access)
    sessions = [os.urandom(16) for _ in range(RECORDS)]
    versions: list[int | None] = [None] * RECORDS

    def read(number: int) -> object:
        place = number % RECORDS
        known = cast(int, versions[place])  # everything was written once, see below
        found = parts.recall(sessions[place], TEXT, known)
        return found is not None and decode(found.value)

    def write(number: int) -> object:
        place = number % RECORDS
        data, known = encode({TEXT: load.text(number)}), versions[place]
        versions[place] = parts.spill(
            sessions[place], TEXT, data, known=known, base=None, expires_at=load.expires_at
        )
        return True

    for number in range(RECORDS):
        write(number)
    return Contender(SESSION, {READ: read, CAS: write})
