"""What every place of a ring promises: exactly one ring, and no writer replaces it unawares."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given

from sealedstate.keyring import Key
from sealedstate.rotation.document import RingUnreadable, dump_ring
from sealedstate.rotation.ring import Ring, RingStorage
from sealedstate.rotation.ring_store import CONTEXT, StoredRing
from sealedstate.storage import MemoryStorage, open_storage
from sealedstate.testing._suite import eventually
from tests.support import ring_workers
from tests.support.backends import BACKENDS
from tests.support.examples import examples
from tests.support.ring_workers import (
    at_start,
    first_ring,
    kek_of,
    next_of,
    open_file,
    open_row,
    rotate_at_once,
    run_at_once,
)
from tests.support.rings import Moment, walks

KEK, OTHER_KEK = (Key.generate(os.urandom).export() for _ in range(2))
PROCESSES = 20
numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """A place of a ring, as its owner sees it."""

    open: Callable[[str | None], RingStorage]
    read: Callable[[], bytes]
    put: Callable[[bytes], object]
    kek: str | None

    def storage(self) -> RingStorage:
        return self.open(self.kek)

    def create(self) -> tuple[RingStorage, Ring]:
        storage, ring = self.storage(), first_ring()
        assert storage.write(ring, None) is True
        return storage, ring


def file_place(folder: Path, kek: str | None) -> Place:
    path = folder / f"ring-{next(numbers)}.json"
    return Place(partial(open_file, path), path.read_bytes, path.write_bytes, kek)


def store_place() -> Place:
    store = MemoryStorage(at_start)

    def open_ring(kek: str | None) -> StoredRing:
        return StoredRing(store, "tests", kek_of(kek), os.urandom, at_start)

    def read() -> bytes:
        (key,) = store.keys(CONTEXT)
        stored = store.read(CONTEXT, key)
        assert stored is not None
        return stored.value

    def put(value: bytes) -> None:
        (key,) = store.keys(CONTEXT)
        store.delete(CONTEXT, key)
        assert store.create(CONTEXT, key, value, None, 1)

    return Place(open_ring, read, put, KEK)


KINDS: dict[str, Callable[[Path], Place]] = {
    "file": lambda folder: file_place(folder, None),
    "wrapped file": lambda folder: file_place(folder, KEK),
    "store": lambda _: store_place(),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    return KINDS[request.param]


@pytest.fixture
def place(kind: Callable[[Path], Place], tmp_path: Path) -> Place:
    return kind(tmp_path)


# --- what is written is read --------------------------------------------------------------------


@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(past=walks())
def test_each_state_replaces_the_state_before_and_is_read(
    kind: Callable[[Path], Place], tmp_path: Path, past: list[Moment]
) -> None:
    place = kind(tmp_path)
    storage, other = place.storage(), place.storage()
    assert isinstance(storage, RingStorage)
    assert storage.load() is None
    before = None
    for ring, _ in itertools.groupby(moment.ring for moment in past):
        assert storage.write(ring, before) is True
        assert other.load() == storage.load() == ring
        before = ring


def test_unchanged_ring_is_the_same_object(place: Place) -> None:
    storage, ring = place.create()
    first = storage.load()
    place.put(place.read())
    assert storage.load() is first
    second = next_of(ring)
    assert place.storage().write(second, ring)
    assert storage.load() == second


def test_wrapped_ring_contains_no_plain_secret_and_needs_its_key(place: Place) -> None:
    storage, ring = place.create()
    content = place.read()
    assert (b'"secret"' in content) == (place.kek is None)
    if place.kek is None:
        return
    for secret in (ring.keys[0].secret, ring.lookup or b""):
        assert secret not in content
        assert secret.hex().encode() not in content
    with pytest.raises(RingUnreadable, match="wrapped by the key-encryption key"):
        place.open(OTHER_KEK).load()
    for wrapping in (None, kek_of(OTHER_KEK)):
        place.put(dump_ring(next_of(ring), wrapping, os.urandom).encode())
        for act in (storage.load, partial(storage.write, next_of(ring), ring)):
            with pytest.raises(RingUnreadable):
                act()


def test_ring_replaces_only_the_ring_it_follows(place: Place) -> None:
    storage, first = place.create()
    assert storage.write(first_ring(), None) is False
    second = next_of(first)
    assert place.storage().write(second, first) is True
    assert storage.write(next_of(first), first) is False
    assert storage.load() == second


def test_damaged_ring_is_unreadable_and_not_replaced_by_another(place: Place) -> None:
    storage, ring = place.create()
    whole = place.read()
    damaged = [whole[:size] for size in range(len(whole.rstrip()))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :] for at in range(0, len(whole), 7)
    ]
    damaged += [b"\0" * 1000, b"\xff\xfe", b"{}", b"[]", b"null", b" " * (5 << 20)]
    for number, content in enumerate(damaged):
        place.put(content)
        with pytest.raises(RingUnreadable) as caught:
            storage.load()
        assert storage.location in str(caught.value)
        if number % 100 == 0:
            for act in (storage.write, place.storage().write):
                with pytest.raises(RingUnreadable):
                    act(next_of(ring), ring)
                with pytest.raises(RingUnreadable):
                    act(first_ring(), None)
            assert place.read() == content


@pytest.fixture(
    params=[
        "file",
        "sqlite",
        *(pytest.param(name, marks=pytest.mark.server) for name in ("postgresql", "redis")),
    ]
)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ring_workers.Opener]:
    if request.param == "file":
        yield partial(open_file, tmp_path / "ring.json")
        return
    with BACKENDS[request.param](request, tmp_path) as service:
        store = open_storage(service.url, at_start)
        store.prepare()
        store.close()
        yield partial(open_row, service.url, KEK)


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
    periods, storage = 20, opener()
    assert eventually(storage.write, first_ring(), None) is True
    added, observed = rotate_at_once(opener, tmp_path, PROCESSES, periods)
    observed.assert_complete()
    ring_workers.assert_one_key_a_period(ring_workers.load(storage), added, periods)
    assert list(tmp_path.glob("ring.json.*.tmp")) == []
