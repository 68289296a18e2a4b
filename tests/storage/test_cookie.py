"""The visitor's cookie as a store: its limits, and cookies that it can't read."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given, strategies

from sealedstate import Key
from sealedstate._cookies.header import CookieFamily
from sealedstate._wire import cbor, token
from sealedstate._wire.encoding import from_text, to_text
from sealedstate.errors import CapacityError, StorageUnavailable
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from sealedstate.storage import USES, ManagedStorage, Storage
from sealedstate.storage.contract import ENTRY_BYTES, LAST_VERSION, LATEST, Clock, Stored
from sealedstate.storage.cookie import CookieStorage, CookieStorageService
from sealedstate.storage.requirements import DECLARED, mismatch
from sealedstate.testing import StorageContract
from tests.support.jar import Clock as MovingClock
from tests.support.jar import Jar

KEY = Key(b"kid1", os.urandom(32))
NOW = 1_800_000_000.0


def service(clock: Clock = lambda: NOW, name: str = "__Host-prefs") -> CookieStorageService:
    ring = StaticKeys(Keyring((KEY,)))
    return CookieStorageService(CookieFamily(name), "test", ring, clock, os.urandom)


def with_another_key(of: CookieStorageService) -> CookieStorageService:
    """As on a node that does not have the key."""
    return replace(of, key_source=StaticKeys(Keyring((Key.generate(os.urandom),))))


def reload(store: CookieStorage, of: CookieStorageService) -> CookieStorage:
    """The store of the next request."""
    header = "; ".join(line.partition(";")[0] for line in store.lines())
    return of.for_request(f"theme=dark; {header}")


class TestCookieStorage:
    def test_records_and_versions_survive_a_reload(self) -> None:
        store = service().for_request()
        store.create("c", "k", b"value", int(NOW * 1000) + 5, 7)
        store.add_member("c", "k", "member", None)
        again = reload(store, service())
        assert again.read("c", "k") == Stored(b"value", 7, int(NOW * 1000) + 5)
        assert again.members("c", "k") == {"member": None}

    def test_request_that_writes_nothing_sets_no_cookie(self) -> None:
        store = service().for_request("__Host-prefs=junk")
        assert store.read("c", "k") is None
        assert store.delete("c", "k") is False
        assert store.lines() == []

    def test_cookie_opens_only_under_its_name(self) -> None:
        store = service(name="__Host-a").for_request()
        store.create("c", "k", b"value", None, 1)
        value = store.lines()[0].partition(";")[0].partition("=")[2]
        assert service(name="__Host-b").for_request(f"__Host-b={value}").read("c", "k") is None

    def test_full_cookie_refuses_more_and_fits_into_a_browser(self) -> None:
        store = service().for_request()
        store.create("c", "small", b"kept", None, 1)
        with pytest.raises(CapacityError):  # noqa: PT012
            for number in range(1000):
                store.create("c", str(number), os.urandom(50), None, 1)
        (line,) = store.lines()
        assert 3000 < len(line) <= 4093
        again = reload(store, service())
        assert again.read("c", "small") == Stored(b"kept", 1, None)
        assert again.read("c", str(number)) is None

    def test_cookie_that_cannot_be_read_is_not_overwritten(self) -> None:
        store = service().for_request()
        store.create("c", "k", b"value", None, 1)
        payloads: list[object] = [{}, [{}, {}, {}], [{"c": {"k": [b"value"]}}, {}], [[], {}]]
        context = token.TokenContext("map", "test", ("__Host-prefs",))
        of_another_release = (
            to_text(token.seal(cbor.encode(payload), context, KEY, int(NOW), os.urandom(32)))
            for payload in payloads
        )
        for found in (
            reload(store, with_another_key(service())),
            *(service().for_request(f"__Host-prefs={value}") for value in of_another_release),
        ):
            for act in (
                found.ping,
                partial(found.read, "c", "k"),
                partial(found.create, "c", "k", b"new", None, 2),
            ):
                with pytest.raises(StorageUnavailable):
                    act()
            assert found.lines() == []

    def test_cookie_that_no_node_reads_any_more_is_replaced(self) -> None:
        store = service().for_request()
        store.create("c", "k", b"value", None, 1)
        context = token.TokenContext("map", "test", ("__Host-prefs",))
        of_another_release = to_text(token.seal(b"\x00", context, KEY, int(NOW), os.urandom(32)))
        text = store.lines()[0].partition(";")[0].partition("=")[2]
        newer_format = to_text(b"\2" + from_text(text)[1:])
        lag, day = 900 + 60, 86400
        for value, other, ends_after in (
            (text, with_another_key, lag + 1),
            (newer_format, with_another_key, lag + 1),
            (of_another_release, lambda of: of, day),
        ):
            for late in (False, True):
                clock = MovingClock(NOW + ends_after - (not late))
                found = other(service(clock)).for_request(f"__Host-prefs={value}")
                if not late:
                    with pytest.raises(StorageUnavailable):
                        found.create("c", "k", b"new", None, 2)
                    continue
                assert found.read("c", "k") is None
                found.create("c", "k", b"new", None, 2)
                assert found.lines()

    def test_nothing_is_written_without_an_active_key(self) -> None:
        expired = replace(KEY, expires_at=int(NOW) - 1)
        store = replace(service(), key_source=StaticKeys(Keyring((expired,)))).for_request()
        with pytest.raises(StorageUnavailable):
            store.create("c", "k", b"value", None, 1)
        assert store.read("c", "k") is None
        assert store.lines() == []

    def test_capabilities_allow_no_use_and_are_those_of_the_matrix(self) -> None:
        can = service().for_request().capabilities
        assert all(mismatch(use, "cookie", can) for use in USES.values())
        declared = DECLARED["cookie"]
        for name in ("shared", "durable", "survives_restart", "evicts", "enumerable"):
            assert getattr(can, name) == getattr(declared, name), name

    def test_expired_records_and_empty_indexes_take_no_room(self) -> None:
        store = service().for_request()
        store.create("c", "kept", b"value", None, 1)
        before = len(store.lines()[0])
        store.add_member("another context", "k", "member", None)
        assert len(store.lines()[0]) > before
        store.remove_member("another context", "k", "member")
        assert len(store.lines()[0]) == before
        store.create("c", "k", b"value", int(NOW * 1000) + 5, 1)
        store.add_member("c", "k", "member", int(NOW * 1000) + 5)
        later = reload(store, service(lambda: NOW + 1))
        assert later.reap(1) == 1
        assert len(later.lines()[0]) == before
        again = reload(later, service())
        assert again.read("c", "k") is None
        assert again.members("c", "k") == {}


NAMES = strategies.text(
    strategies.characters(exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: len(name.encode()) <= 255)


@given(strategies.data())
def test_declared_total_always_fits(data: strategies.DataObject) -> None:
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


# --- the kit ------------------------------------------------------------------------------------


@pytest.mark.soak
class TestOneRequestKeepsTheContract(StorageContract):
    """Each test is one request, with many threads where the kit asks for them."""

    def open_store(self, clock: Clock) -> Storage:
        return service(clock).for_request()


def in_one_request(operation: str) -> Callable[..., Any]:
    """The operation as a request: the jar's cookies go in, the response's into the jar."""

    def act(self: Visitor, *arguments: Any, **named: Any) -> Any:
        with self.one_at_a_time:
            store = self.service.for_request(self.jar.header())
            try:
                return getattr(store, operation)(*arguments, **named)
            finally:
                self.jar.receive(store.lines())

    return act


class Visitor:
    """A browser that sends one request for each operation."""

    def __init__(self, service: CookieStorageService) -> None:
        self.service = service
        self.jar = Jar()
        self.one_at_a_time = threading.Lock()

    @property
    def capabilities(self) -> Any:
        return self.service.for_request().capabilities


for name, operation in {**vars(Storage), **vars(ManagedStorage)}.items():
    if callable(operation) and not name.startswith("_"):
        setattr(Visitor, name, in_one_request(name))


@pytest.mark.soak
class TestRequestPerOperationKeepsTheContract(StorageContract):
    def open_store(self, clock: Clock) -> Storage:
        self.visitor = Visitor(service(clock))
        return cast(Storage, self.visitor)  # its methods are set by name

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The node that answers does not have the key of the jar's cookie."""
        cast(Storage, self.visitor).create("another context", "k", b"", None, 1)
        known, self.visitor.service = self.visitor.service, with_another_key(self.visitor.service)
        yield
        self.visitor.service = known
