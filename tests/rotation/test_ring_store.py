"""A ring in a store: exactly one, always wrapped, and no writer replaces a ring unawares.

How stores keep what they acknowledge is tested in `storage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given

from sealedstate.errors import (
    CapacityError,
    ConfigurationError,
    OperatorError,
    StorageError,
    StorageUnavailable,
)
from sealedstate.keyring import Key, Keyring
from sealedstate.rotation.document import RingUnreadable, dump_ring
from sealedstate.rotation.ring import Ring, RingStorage
from sealedstate.rotation.ring_store import CONTEXT, StoredRing
from sealedstate.storage import CachedStorage, SQLiteStorage, Storage, open_storage
from sealedstate.storage.contract import Stored
from sealedstate.testing import ScriptedStorage
from sealedstate.testing._suite import eventually
from tests.support import ring_workers
from tests.support.backends import BACKENDS
from tests.support.examples import examples
from tests.support.ring_storages import CHANGES, Change, assert_reads_what_it_writes
from tests.support.ring_workers import (
    at_start,
    first_ring,
    next_of,
    open_row,
    rotate_at_once,
    run_at_once,
)
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

KEK = Key.generate(os.urandom)
PROCESSES = 20


def ring_in(store: Storage, realm: str = "tests", kek: Key = KEK) -> StoredRing:
    return StoredRing(store, realm, Keyring((kek,)), os.urandom, at_start)


@pytest.fixture
def store() -> ScriptedStorage:
    return ScriptedStorage(at_start)


def create_in(store: Storage) -> tuple[StoredRing, Ring]:
    storage, ring = ring_in(store), first_ring()
    assert storage.write(ring, None) is True
    return storage, ring


def row_of(store: ScriptedStorage) -> Stored:
    (key,) = store.storage.keys(CONTEXT)
    stored = store.storage.read(CONTEXT, key)
    assert stored is not None
    return stored


def put(store: ScriptedStorage, value: bytes) -> None:
    """Make `value` the row, whatever it is now."""
    keys = list(store.storage.keys(CONTEXT))
    if not keys:
        create_in(store)
        keys = list(store.storage.keys(CONTEXT))
    store.storage.delete(CONTEXT, keys[0])
    assert store.storage.create(CONTEXT, keys[0], value, None, 1)


# --- what is written is read --------------------------------------------------------------------


@examples(30)
@given(changes=CHANGES)
def test_row_reads_what_it_writes(changes: list[Change]) -> None:
    store = ScriptedStorage(at_start)
    assert isinstance(ring_in(store), RingStorage)
    assert "'tests'" in ring_in(store).location
    assert ring_in(store).load() is None
    assert_reads_what_it_writes(ring_in(store), ring_in(store), changes)


def test_unchanged_ring_is_the_same_object(store: ScriptedStorage) -> None:
    storage, ring = create_in(store)
    first = storage.load()
    assert storage.load() is first
    second = next_of(ring)
    assert ring_in(store).write(second, ring)
    assert storage.load() == second


def test_row_is_permanent_and_contains_no_plain_secret(store: ScriptedStorage) -> None:
    _, ring = create_in(store)
    stored = row_of(store)
    assert stored.expires_at is None
    assert b'"secret"' not in stored.value
    for secret in (ring.keys[0].secret, ring.lookup):
        assert secret is not None
        assert secret not in stored.value
        assert secret.hex().encode() not in stored.value


def test_realms_share_a_store_and_no_ring(store: ScriptedStorage) -> None:
    rings = {realm: first_ring() for realm in ("", "ours", "o" * 1000)}
    for realm, ring in rings.items():
        assert ring_in(store, realm).write(ring, None) is True
    assert {realm: ring_in(store, realm).load() for realm in rings} == rings
    assert {len(key) for key in store.storage.keys(CONTEXT)} == {32}


def test_missing_key_encryption_key_is_named(store: ScriptedStorage) -> None:
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_KEK"):
        StoredRing(store, "tests", None, os.urandom, at_start)


def test_ring_that_does_not_fit_is_refused_before_anything_is_written(
    store: ScriptedStorage,
) -> None:
    store.capabilities = replace(store.capabilities, value_bytes=1200)
    storage, ring = create_in(store)
    with pytest.raises(CapacityError, match=r"does not fit into 1200; .* a shorter keep"):
        storage.write(next_of(next_of(ring)), ring)
    assert storage.load() == ring


# --- what is no ring of ours --------------------------------------------------------------------


def test_row_without_a_ring_is_unreadable_and_not_replaced(store: ScriptedStorage) -> None:
    storage = ring_in(store)
    for content in (b"", b"\0", b"{}", b"\xff\xfe", b" " * (5 << 20)):
        put(store, content)
        for act in (storage.load, partial(storage.write, first_ring(), None)):
            with pytest.raises(RingUnreadable, match="realm 'tests' in the store"):
                act()
        assert row_of(store).value == content


def test_row_cut_anywhere_is_unreadable(store: ScriptedStorage) -> None:
    storage, _ = create_in(store)
    whole = row_of(store).value
    for size in range(len(whole.rstrip())):
        put(store, whole[:size])
        with pytest.raises(RingUnreadable):
            storage.load()


def test_row_without_our_key_encryption_key_is_unreadable(store: ScriptedStorage) -> None:
    storage, ring = create_in(store)
    with pytest.raises(RingUnreadable, match=KEK.kid.hex()):
        ring_in(store, kek=Key.generate(os.urandom)).load()
    for wrapping in (None, Keyring((Key.generate(os.urandom),))):
        put(store, dump_ring(first_ring(), wrapping, os.urandom).encode())
        with pytest.raises(RingUnreadable):
            storage.load()
        with pytest.raises(RingUnreadable):
            storage.write(next_of(ring), ring)


# --- another ring is there ----------------------------------------------------------------------


def test_ring_replaces_only_the_ring_it_follows(store: ScriptedStorage) -> None:
    storage, first = create_in(store)
    assert storage.write(first_ring(), None) is False
    second = next_of(first)
    assert ring_in(store).write(second, first) is True
    assert storage.write(next_of(first), first) is False
    assert storage.load() == second


def test_missing_ring_can_be_put_back_and_not_continued(store: ScriptedStorage) -> None:
    storage, ring = create_in(store)
    (key,) = store.storage.keys(CONTEXT)
    store.storage.delete(CONTEXT, key)
    assert storage.load() is None
    assert storage.write(next_of(ring), ring) is False
    assert storage.load() is None
    assert storage.write(ring, None) is True
    assert storage.load() == ring


def test_writer_that_is_overtaken_after_its_look_loses(store: ScriptedStorage) -> None:
    storage, rival, theirs = ring_in(store), ring_in(store.storage), first_ring()
    store.before("create", act=partial(rival.write, theirs, None))
    assert storage.write(first_ring(), None) is False
    store.before("update", act=partial(rival.write, next_of(theirs), theirs))
    assert storage.write(next_of(theirs), theirs) is False
    ring = storage.load()
    assert ring is not None
    assert (ring.ring_id, ring.sequence) == (theirs.ring_id, 2)


def test_cache_in_front_of_the_store_delays_and_loses_nothing(store: ScriptedStorage) -> None:
    cached = ring_in(CachedStorage(store, at_start, staleness=10_000))
    storage, first = create_in(store)
    assert cached.load() == first
    second = next_of(first)
    assert storage.write(second, first) is True
    assert cached.write(next_of(first), first) is False
    assert cached.load() == second
    assert cached.write(next_of(second), second) is True


# --- replies that are lost ----------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    """One write: of the first ring, or of the ring that follows `before`."""

    storage: StoredRing
    ring: Ring
    before: Ring | None

    def __call__(self) -> bool:
        return self.storage.write(self.ring, self.before)


@pytest.fixture(params=["create", "update"])
def write(request: pytest.FixtureRequest, store: ScriptedStorage) -> Write:
    if request.param == "create":
        return Write(ring_in(store), first_ring(), None)
    storage, before = create_in(store)
    return Write(storage, next_of(before), before)


@pytest.mark.parametrize("done", [True, False])
def test_write_whose_reply_is_lost_is_found_or_repeated(
    store: ScriptedStorage, write: Write, done: bool
) -> None:
    store.lose_reply("create", "update", done=done)
    assert write() is True
    assert write.storage.load() == write.ring


def test_first_try_that_arrives_late_changes_nothing(store: ScriptedStorage, write: Write) -> None:
    store.delay("create", "update")
    assert write() is True
    store.arrive()
    assert write.storage.load() == write.ring


def test_write_whose_outcome_stays_unknown_is_not_reported(
    store: ScriptedStorage, write: Write
) -> None:
    store.lose_reply("create", "update", done=False, times=None)
    with pytest.raises(StorageError):
        write()
    assert ring_in(store.recover()).load() == write.before
    store.lose_reply("create", "update").fail("read", after=1)
    with pytest.raises(StorageError):
        write()
    assert ring_in(store.recover()).load() == write.ring


@pytest.mark.parametrize("done", [True, False])
def test_write_that_another_replaced_is_not_reported_as_done(
    store: ScriptedStorage, write: Write, done: bool
) -> None:
    other = first_ring() if write.before is None else next_of(write.before)
    content = dump_ring(other, Keyring((KEK,)), os.urandom).encode()
    store.lose_reply("create", "update", done=done)
    store.before("read", act=lambda: put(store, content), after=1)
    assert write() is False
    assert write.storage.load() == other


def test_outage_is_an_operators_error(tmp_path: Path) -> None:
    storage = ring_in(SQLiteStorage(tmp_path, at_start))
    for act in (storage.load, partial(storage.write, first_ring(), None)):
        with pytest.raises(StorageUnavailable) as caught:
            act()
        assert isinstance(caught.value, OperatorError)


# --- many at once -------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        "sqlite",
        *(pytest.param(name, marks=pytest.mark.server) for name in ("postgresql", "redis")),
    ]
)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ring_workers.Opener]:
    with BACKENDS[request.param](request, tmp_path) as service:
        store = open_storage(service.url, at_start)
        store.prepare()
        store.close()
        yield partial(open_row, service.url, KEK.export())


@pytest.mark.slow
def test_one_of_many_processes_creates_the_ring(
    opener: ring_workers.Opener, tmp_path: Path
) -> None:
    creators = run_at_once(PROCESSES, tmp_path, ring_workers.create, opener)
    ring = ring_workers.load(opener())
    # A process whose reply was lost has created it and does not know.
    assert [creator for creator in creators if creator] in ([[ring.ring_id]], [])


@pytest.mark.slow
def test_many_processes_add_one_key_a_period_while_another_reads(
    opener: ring_workers.Opener, tmp_path: Path
) -> None:
    periods, storage = 15, opener()
    assert eventually(storage.write, first_ring(), None) is True
    added, observed = rotate_at_once(opener, tmp_path, PROCESSES, periods)
    observed.assert_complete()
    ring_workers.assert_one_key_a_period(ring_workers.load(storage), added, periods)
