"""The visitor's cookies behind the storage contract, with their limits as capabilities."""

from __future__ import annotations

import os

import pytest

from sealedstate import Key, Keyring, StorageUnavailable
from sealedstate.cookie_storage import CookieStorage, CookieStorageService
from sealedstate.cookies import CookieFamily
from sealedstate.errors import CapacityError
from sealedstate.key_sources import StaticKeys
from sealedstate.storage import USES, mismatch
from sealedstate.storage.contract import Clock, Stored

KEY = Key(b"kid1", bytes(range(100, 132))[::-1][:16] + os.urandom(16))
NOW = 1_800_000_000.0


def service(clock: Clock = lambda: NOW, name: str = "__Host-prefs") -> CookieStorageService:
    ring = StaticKeys(Keyring((KEY,)))
    return CookieStorageService(CookieFamily(name), "test", ring, clock, os.urandom)


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
    with pytest.raises(CapacityError):  # noqa: PT012  (one of these is the last that fits)
        for number in range(1000):
            store.create("c", str(number), os.urandom(50), None, 1)
    (line,) = store.lines()
    assert 3000 < len(line) <= 4093


def test_a_map_of_another_key_is_neither_read_nor_overwritten() -> None:
    store = service().for_request()
    store.create("c", "k", b"value", None, 1)
    other = CookieStorageService(
        CookieFamily("__Host-prefs"),
        "test",
        StaticKeys(Keyring((Key.generate(os.urandom),))),
        lambda: NOW,
        os.urandom,
    )
    lagging = reloaded(store, other)
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
