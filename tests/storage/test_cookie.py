"""The visitor's cookies behind the storage contract, with their limits as capabilities."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, strategies

from sealedstate import Key, Keyring, StorageUnavailable
from sealedstate._cookies.header import CookieFamily
from sealedstate._wire import cbor as codec
from sealedstate._wire import token as sealing
from sealedstate._wire.encoding import to_text
from sealedstate.errors import CapacityError
from sealedstate.key_sources import StaticKeys
from sealedstate.storage import USES, Storage, mismatch
from sealedstate.storage.contract import ENTRY_BYTES, LAST_VERSION, LATEST, Clock, Stored
from sealedstate.storage.cookie import CookieStorage, CookieStorageService
from sealedstate.storage.requirements import DECLARED
from sealedstate.testing import StorageContract
from tests.support.jar import Jar

KEY = Key(b"kid1", os.urandom(32))
NOW = 1_800_000_000.0


def service(clock: Clock = lambda: NOW, name: str = "__Host-prefs") -> CookieStorageService:
    ring = StaticKeys(Keyring((KEY,)))
    return CookieStorageService(CookieFamily(name), "test", ring, clock, os.urandom)


def with_a_new_key(of: CookieStorageService) -> CookieStorageService:
    """As on a node that does not know our key."""
    return replace(of, key_source=StaticKeys(Keyring((Key.generate(os.urandom),))))


def reloaded(store: CookieStorage, of: CookieStorageService) -> CookieStorage:
    header = "; ".join(line.partition(";")[0] for line in store.lines())
    return of.for_request(f"theme=dark; {header}")


def test_records_and_versions_survive_a_reload() -> None:
    store = service().for_request()
    store.create("c", "k", b"value", int(NOW * 1000) + 5, 7)
    store.add_member("c", "k", "member", None)
    again = reloaded(store, service())
    assert again.read("c", "k") == Stored(b"value", 7, int(NOW * 1000) + 5)
    assert again.members("c", "k") == {"member": None}


def test_a_request_that_writes_nothing_sets_no_cookie() -> None:
    store = service().for_request()
    assert store.read("c", "k") is None
    assert store.delete("c", "k") is False
    assert store.lines() == []


def test_a_map_opens_only_under_its_own_cookie_name() -> None:
    store = service(name="__Host-a").for_request()
    store.create("c", "k", b"value", None, 1)
    value = store.lines()[0].partition(";")[0].partition("=")[2]
    assert service(name="__Host-b").for_request(f"__Host-b={value}").read("c", "k") is None


def test_a_full_cookie_is_told_and_what_was_there_stays() -> None:
    store = service().for_request()
    store.create("c", "small", b"kept", None, 1)
    store.create("c", "first", os.urandom(store.capabilities.value_bytes), None, 1)
    with pytest.raises(CapacityError):
        store.create("c", "large", os.urandom(store.capabilities.value_bytes), None, 1)
    again = reloaded(store, service())
    assert again.read("c", "small") == Stored(b"kept", 1, None)
    assert again.read("c", "large") is None


def test_a_cookie_always_fits_into_a_browser() -> None:
    store = service().for_request()
    with pytest.raises(CapacityError):  # noqa: PT012
        for number in range(1000):
            store.create("c", str(number), os.urandom(50), None, 1)
    (line,) = store.lines()
    assert 3000 < len(line) <= 4093


def test_a_map_of_another_key_is_neither_read_nor_overwritten() -> None:
    store = service().for_request()
    store.create("c", "k", b"value", None, 1)
    lagging = reloaded(store, with_a_new_key(service()))
    with pytest.raises(StorageUnavailable):
        lagging.create("c", "k", b"new", None, 2)
    with pytest.raises(StorageUnavailable):
        lagging.ping()
    assert lagging.lines() == []


def test_junk_counts_as_an_empty_map() -> None:
    assert service().for_request("__Host-prefs=junk").read("c", "k") is None


def test_nothing_that_must_be_true_may_be_kept_in_it() -> None:
    capabilities = service().for_request().capabilities
    assert all(mismatch(use, "cookie", capabilities) for use in USES.values())


def test_it_declares_what_the_matrix_says_of_it() -> None:
    real, told = service().for_request().capabilities, DECLARED["cookie"]
    for name in ("shared", "durable", "survives_restart", "evicts", "enumerable", "server_side"):
        assert getattr(real, name) == getattr(told, name), name


def test_what_was_reaped_is_gone_from_the_cookie_too() -> None:
    store = service().for_request()
    store.create("c", "k", b"value", int(NOW * 1000) + 5, 1)
    store.add_member("c", "k", "member", int(NOW * 1000) + 5)
    later = reloaded(store, service(lambda: NOW + 1))
    assert later.reap(1) == 1
    assert len(later.lines()[0]) < len(store.lines()[0])
    again = reloaded(later, service())
    assert again.read("c", "k") is None
    assert again.members("c", "k") == {}


def test_an_index_without_members_takes_no_room() -> None:
    store = service().for_request()
    store.create("c", "k", b"value", None, 1)
    before = len(store.lines()[0])
    store.add_member("another context", "k", "member", None)
    assert len(store.lines()[0]) > before
    store.remove_member("another context", "k", "member")
    assert len(store.lines()[0]) == before


def test_a_map_of_another_release_is_neither_read_nor_overwritten() -> None:
    payloads: list[object] = [{}, [{}, {}, {}], [{"c": {"k": [b"value"]}}, {}], [[], {}]]
    for payload in payloads:
        place = sealing.TokenContext("map", "test", ("__Host-prefs",))
        token = sealing.seal(codec.encode(payload), place, KEY, int(NOW), os.urandom(32))
        store = service().for_request(f"__Host-prefs={to_text(token)}")
        with pytest.raises(StorageUnavailable):
            store.read("c", "k")
        with pytest.raises(StorageUnavailable):
            store.create("c", "k", b"value", None, 1)
        assert store.lines() == []


def test_without_a_key_that_seals_nothing_is_written() -> None:
    stale = replace(KEY, expires_at=int(NOW) - 1)
    store = replace(service(), key_source=StaticKeys(Keyring((stale,)))).for_request()
    with pytest.raises(StorageUnavailable):
        store.create("c", "k", b"value", None, 1)
    assert store.read("c", "k") is None
    assert store.lines() == []


NAMES = strategies.text(
    strategies.characters(exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: len(name.encode()) <= 255)


@given(strategies.data())
def test_as_much_as_is_declared_in_all_surely_fits(data: strategies.DataObject) -> None:
    store = service().for_request()
    left = store.capabilities.total_bytes or 0
    contexts = data.draw(strategies.lists(NAMES, min_size=1, max_size=5))
    for number in range(200):
        context, key = data.draw(strategies.sampled_from(contexts)), f"{number}"
        left -= ENTRY_BYTES + len(context.encode()) + len(key)
        if left <= 0:
            break
        if data.draw(strategies.booleans()):
            size = data.draw(strategies.integers(0, min(left, store.capabilities.value_bytes)))
            store.create(context, key, os.urandom(size), LATEST, LAST_VERSION)
        else:
            size = data.draw(strategies.integers(0, min(left, 255)))
            store.add_member(context, key, "m" * size, LATEST)
        left -= size


# --- the kit --------------------------------------------------------------------------------------


class TestOneRequest(StorageContract):
    """All that a test does happens in one request, in many threads where the kit says so."""

    def open_store(self, clock: Clock) -> Storage:
        return service(clock).for_request()


def request_of_its_own(operation: str) -> Callable[..., Any]:
    """The operation, with the cookies that the jar has, and its response into the jar."""

    def act(self: Visitor, *arguments: Any, **named: Any) -> Any:
        with self.one_at_a_time:
            store = self.service.for_request(self.jar.header())
            try:
                return getattr(store, operation)(*arguments, **named)
            finally:
                self.jar.receive(store.lines())

    return act


class Visitor:
    """A browser that sends one request for each operation, and waits for the response."""

    def __init__(self, service: CookieStorageService) -> None:
        self.service = service
        self.jar = Jar()
        self.one_at_a_time = threading.Lock()

    @property
    def capabilities(self) -> Any:
        return self.service.for_request().capabilities


for name, operation in vars(Storage).items():
    if callable(operation) and not name.startswith("_"):
        setattr(Visitor, name, request_of_its_own(name))


class TestARequestForEachOperation(StorageContract):
    """Whatever the contract promises holds over Set-Cookie and Cookie."""

    def open_store(self, clock: Clock) -> Storage:
        self.visitor = Visitor(service(clock))
        return cast(Storage, self.visitor)  # its methods are put there by name

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The node that answers does not know the key of what the jar holds."""
        cast(Storage, self.visitor).create("another context", "k", b"", None, 1)
        known, self.visitor.service = self.visitor.service, with_a_new_key(self.visitor.service)
        yield
        self.visitor.service = known
