"""A ring in a store: exactly one, wrapped, and whoever writes over another's is told.

Knows the contract, and stores that lose what was answered. How stores keep what they acknowledge is
tested where they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings

from sealedstate.errors import (
    CapacityError,
    ConfigurationError,
    OperatorError,
    OutcomeUnknown,
    StorageUnavailable,
)
from sealedstate.keyring import Key, Keyring
from sealedstate.rotation import Ring, RingStorage, RingUnreadable, dump_ring
from sealedstate.rotation.ring_store import CONTEXT, StoredRing, row_key
from sealedstate.storage import CachedStorage, MemoryStorage, SQLiteStorage, Storage, open_storage
from sealedstate.storage.contract import Stored
from sealedstate.testing._suite import eventually
from tests.support import ring_workers as ring_crews
from tests.support.backends import BACKENDS, Service
from tests.support.ring_changes import CHANGES, Change, assert_written_and_read_alike
from tests.support.ring_workers import (
    START,
    at_start,
    crew_of,
    first_ring,
    next_of,
    open_row,
    rotated_by_many,
)
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

KEK = Key.generate(os.urandom)
CREW = 20
SHARED = [
    "sqlite",
    *(pytest.param(name, marks=pytest.mark.server) for name in ("postgresql", "redis")),
]


def home_in(store: Storage, realm: str = "tests", kek: Key = KEK) -> StoredRing:
    return StoredRing(store, realm, Keyring((kek,)), os.urandom, at_start)


@pytest.fixture
def store() -> MemoryStorage:
    return MemoryStorage(at_start)


def founded_in(store: Storage) -> tuple[StoredRing, Ring]:
    home, ring = home_in(store), first_ring()
    assert home.write(ring, None) is True
    return home, ring


def row_of(store: Storage) -> Stored:
    stored = store.read(CONTEXT, row_key("tests"))
    assert stored is not None
    return stored


def put(store: Storage, value: bytes) -> None:
    store.delete(CONTEXT, row_key("tests"))
    assert store.create(CONTEXT, row_key("tests"), value, None, 1)


# --- what is written is read --------------------------------------------------------------------


def test_a_row_is_a_home_of_a_ring(store: MemoryStorage) -> None:
    home = home_in(store)
    assert isinstance(home, RingStorage)
    assert "'tests'" in home.where
    assert home.load() is None


@given(changes=CHANGES)
@settings(max_examples=30)
def test_what_becomes_of_a_ring_is_written_and_read_alike(changes: list[Change]) -> None:
    store = MemoryStorage(at_start)
    assert_written_and_read_alike(home_in(store), home_in(store), changes)


def test_a_ring_that_did_not_change_is_the_same_object(store: MemoryStorage) -> None:
    home, ring = founded_in(store)
    first = home.load()
    assert home.load() is first
    second = next_of(ring)
    assert home_in(store).write(second, ring)
    assert home.load() == second


def test_the_row_is_permanent_and_no_secret_is_in_it_in_clear(store: MemoryStorage) -> None:
    _, ring = founded_in(store)
    stored = row_of(store)
    assert stored.expires_at is None
    assert b'"secret"' not in stored.value
    for secret in (ring.keys[0].secret, ring.lookup):
        assert secret is not None
        assert secret not in stored.value
        assert secret.hex().encode() not in stored.value


def test_deployments_share_a_store_and_not_a_ring(store: MemoryStorage) -> None:
    ours, theirs = first_ring(), first_ring()
    assert home_in(store, "ours").write(ours, None) is True
    assert home_in(store, "theirs").write(theirs, None) is True
    assert home_in(store, "ours").load() == ours
    assert home_in(store, "theirs").load() == theirs
    assert len({row_key("ours"), row_key("theirs")}) == 2
    assert {len(row_key(realm)) for realm in ("", "ours", "o" * 1000)} == {32}


def test_without_a_key_encryption_key_the_variable_is_named(store: MemoryStorage) -> None:
    with pytest.raises(ConfigurationError, match="SEALEDSTATE_KEK"):
        StoredRing(store, "tests", None, os.urandom, at_start)


def test_a_ring_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    store = MemoryStorage(at_start)
    store.capabilities = replace(store.capabilities, value_bytes=1200)
    home, ring = founded_in(store)
    with pytest.raises(CapacityError, match=r"does not fit into 1200; .* a shorter keep"):
        home.write(next_of(next_of(ring)), ring)
    assert home.load() == ring


# --- what is no ring of ours --------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\0", b"{}", b"\xff\xfe", b" " * (5 << 20)])
def test_a_row_that_is_no_ring_is_unreadable_and_not_replaced(
    store: MemoryStorage, content: bytes
) -> None:
    put(store, content)
    home = home_in(store)
    for act in (home.load, partial(home.write, first_ring(), None)):
        with pytest.raises(RingUnreadable, match="realm 'tests' in the store"):
            act()
    assert row_of(store).value == content


def test_a_row_cut_anywhere_is_unreadable(store: MemoryStorage) -> None:
    home, _ = founded_in(store)
    whole = row_of(store).value
    for size in range(len(whole.rstrip())):
        put(store, whole[:size])
        with pytest.raises(RingUnreadable):
            home.load()


def test_who_can_write_to_the_store_puts_in_no_ring(store: MemoryStorage) -> None:
    home, ring = founded_in(store)
    forged = first_ring()
    stranger = Keyring((Key.generate(os.urandom),))
    for wrapping in (None, stranger):
        put(store, dump_ring(forged, wrapping, os.urandom).encode())
        with pytest.raises(RingUnreadable):
            home.load()
        with pytest.raises(RingUnreadable):
            home.write(next_of(ring), ring)


def test_with_another_key_encryption_key_the_ring_is_unreadable(store: MemoryStorage) -> None:
    founded_in(store)
    with pytest.raises(RingUnreadable, match=KEK.kid.hex()):
        home_in(store, kek=Key.generate(os.urandom)).load()


# --- who else was there -------------------------------------------------------------------------


def test_a_ring_is_not_founded_where_there_is_one(store: MemoryStorage) -> None:
    home, ring = founded_in(store)
    assert home.write(first_ring(), None) is False
    assert home.load() == ring


def test_who_comes_second_is_told(store: MemoryStorage) -> None:
    home, first = founded_in(store)
    second = next_of(first)
    assert home_in(store).write(second, first) is True
    assert home.write(next_of(first), first) is False
    assert home.load() == second


def test_where_a_ring_has_vanished_who_holds_it_puts_it_back_or_not(store: MemoryStorage) -> None:
    home, ring = founded_in(store)
    store.delete_context(CONTEXT)
    assert home.load() is None
    assert home.write(next_of(ring), ring) is False
    assert home.load() is None
    assert home.write(ring, None) is True
    assert home.load() == ring


def test_a_version_that_grew_in_between_loses() -> None:
    """Between the look and the write, another writes."""

    class Raced(MemoryStorage):
        rival: Callable[[], object] | None = None

        def read(self, context: str, key: str) -> Stored | None:
            stored, rival, self.rival = super().read(context, key), self.rival, None
            if rival is not None:
                rival()
            return stored

    store = Raced(at_start)
    later = StoredRing(store, "tests", Keyring((KEK,)), os.urandom, lambda: START + 60)
    home, theirs = home_in(store), first_ring()
    store.rival = partial(home_in(store).write, theirs, None)
    assert later.write(first_ring(), None) is False
    store.rival = partial(home_in(store).write, next_of(theirs), theirs)
    assert later.write(next_of(theirs), theirs) is False
    ring = home.load()
    assert ring is not None
    assert (ring.ring_id, ring.sequence) == (theirs.ring_id, 2)


def test_a_cache_in_front_of_the_store_delays_and_loses_nothing(store: MemoryStorage) -> None:
    cached = home_in(CachedStorage(store, at_start, staleness=10_000))
    home, first = founded_in(store)
    assert cached.load() == first
    second = next_of(first)
    assert home.write(second, first) is True
    assert cached.write(next_of(first), first) is False
    assert cached.load() == second
    assert cached.write(next_of(second), second) is True


# --- answers that are lost ----------------------------------------------------------------------


class Losing(MemoryStorage):
    """Loses the answer of each write, which was `done` or not, and then does `more`."""

    done = True
    more: Callable[[], object] | None = None
    deaf = False

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        if self.done:
            super().create(context, key, value, expires_at, version)
        return self._lose(version)

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        if self.done:
            super().update(context, key, value, expires_at, version, expected)
        return self._lose(version)

    def read(self, context: str, key: str) -> Stored | None:
        if self.deaf:
            raise StorageUnavailable("gone")
        return super().read(context, key)

    def _lose(self, version: int) -> bool:
        if self.more is not None:
            self.more()
        raise OutcomeUnknown("lost", version)


def becoming(before: Ring | None) -> Ring:
    return first_ring() if before is None else next_of(before)


@pytest.fixture(params=["founded", "rotated"])
def losing(request: pytest.FixtureRequest) -> tuple[Losing, StoredRing, Ring | None]:
    store = Losing(at_start)
    home, before = home_in(store), None
    if request.param == "rotated":
        before = first_ring()
        assert home.write(before, None) is True
    return store, home, before


def test_a_write_whose_answer_was_lost_is_found(
    losing: tuple[Losing, StoredRing, Ring | None],
) -> None:
    _, home, before = losing
    ring = becoming(before)
    assert home.write(ring, before) is True
    assert home.load() == ring


def test_a_write_that_may_still_happen_is_neither_done_nor_refused(
    losing: tuple[Losing, StoredRing, Ring | None],
) -> None:
    store, home, before = losing
    store.done = False
    with pytest.raises(OutcomeUnknown):
        home.write(becoming(before), before)
    assert home.load() == before


def test_a_write_that_nobody_can_ask_about_is_unknown(
    losing: tuple[Losing, StoredRing, Ring | None],
) -> None:
    store, home, before = losing
    store.more = partial(setattr, store, "deaf", True)
    with pytest.raises(OutcomeUnknown):
        home.write(becoming(before), before)


@pytest.mark.parametrize("done", [True, False])
def test_a_write_over_which_another_wrote_is_not_the_one_that_is_there(
    losing: tuple[Losing, StoredRing, Ring | None], done: bool
) -> None:
    store, home, before = losing
    other = becoming(before)

    def write_too() -> None:
        content = dump_ring(other, Keyring((KEK,)), os.urandom).encode()
        stored = MemoryStorage.read(store, CONTEXT, row_key("tests"))
        if stored is None:
            MemoryStorage.create(store, CONTEXT, row_key("tests"), content, None, 1)
        else:
            version = stored.version + 1
            MemoryStorage.update(store, CONTEXT, row_key("tests"), content, None, version)

    store.done, store.more = done, write_too
    assert home.write(becoming(before), before) is False
    assert home.load() == other


def test_an_outage_is_the_operators(tmp_path: Path) -> None:
    home = home_in(SQLiteStorage(tmp_path, at_start))
    for act in (home.load, partial(home.write, first_ring(), None)):
        with pytest.raises(StorageUnavailable) as caught:
            act()
        assert isinstance(caught.value, OperatorError)


# --- many at once -------------------------------------------------------------------------------


@pytest.fixture(params=SHARED)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ring_crews.Opener]:
    with BACKENDS[request.param](request, tmp_path) as service:
        prepare(service)
        yield partial(open_row, service.url, KEK.export())


def prepare(service: Service) -> None:
    store = open_storage(service.url, at_start)
    store.prepare()
    store.close()


def test_of_many_founders_exactly_one_founds(opener: ring_crews.Opener, tmp_path: Path) -> None:
    founders = crew_of(CREW, tmp_path, ring_crews.found, opener)
    ring = ring_crews.loaded(opener())
    # Whose answer came too late has founded it and does not know.
    assert [founder for founder in founders if founder] in ([[ring.ring_id]], [])


def test_many_rotators_add_one_key_a_period_and_a_reader_always_reads(
    opener: ring_crews.Opener, tmp_path: Path
) -> None:
    periods, home = 15, opener()
    assert eventually(home.write, first_ring(), None) is True
    added, watched = rotated_by_many(opener, tmp_path, CREW, periods)
    watched.assert_whole()
    ring_crews.assert_one_key_a_period(ring_crews.loaded(home), added, periods)
