"""The replay cache: a message counts once, whoever asks, wherever, and whatever gets lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Keyring, Settings
from sealedstate.deployment import Deployment
from sealedstate.errors import StorageUnavailable
from sealedstate.sso import ReplayCache
from sealedstate.sso.replay import CONTEXT, LONGEST
from sealedstate.storage import MemoryStorage, Storage
from tests.support.jar import Clock
from tests.support.login_makers import a_key
from tests.support.services import ON_SERVERS, RING, SKEW, Unanswering, deployment, opened, rows
from tests.support.sql_servers import postgresql_server

__all__ = ["postgresql_server"]

IDP, OTHER_IDP = "https://idp.example.org/saml", "https://idp.example.com/saml"
ID = "_5c1f"
NOW = 1_800_000_000
EXPIRES = NOW + 300


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture(params=["memory", "sqlite", *ON_SERVERS])
def storage(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Storage]:
    with opened(request.param, request, tmp_path, clock) as store:
        yield store


def cache(storage: Any, ring: Keyring = RING, realm: str = "default") -> ReplayCache:
    return ReplayCache(deployment(storage, ring, realm))


def in_memory() -> ReplayCache:
    return cache(MemoryStorage(Clock(NOW)))


# --- on every store -----------------------------------------------------------------------------


def test_a_message_counts_once_and_each_counts_by_itself(storage: Storage) -> None:
    node, other_node = cache(storage), cache(storage)
    assert node.admit(IDP, ID, EXPIRES, NOW)
    assert not node.admit(IDP, ID, EXPIRES, NOW)
    assert not other_node.admit(IDP, ID, EXPIRES, NOW)
    assert other_node.admit(OTHER_IDP, ID, EXPIRES, NOW)
    assert other_node.admit(IDP, ID + "0", EXPIRES, NOW)
    assert cache(storage, realm="another").admit(IDP, ID, EXPIRES, NOW)


def test_a_message_is_remembered_for_as_long_as_it_can_be_used_by_any_clock(
    storage: Storage, clock: Clock
) -> None:
    replays = cache(storage)
    assert replays.admit(IDP, ID, EXPIRES, NOW)
    # A node that is ahead by the skew, and so the first to forget, serves one that is right.
    clock.now = EXPIRES + 2 * SKEW - 1
    assert not replays.admit(IDP, ID, EXPIRES, EXPIRES + SKEW - 1)
    assert len(rows(storage, CONTEXT)) == 1
    clock.now = EXPIRES + 2 * SKEW
    assert rows(storage, CONTEXT) == {}


def test_nothing_that_stands_in_the_store_tells_of_the_message(storage: Storage) -> None:
    cache(storage).admit(IDP, ID, EXPIRES, NOW)
    cache(storage, realm="another").admit(IDP, ID, EXPIRES, NOW)
    another = Keyring(RING.keys, lookup=a_key(5).secret)
    cache(storage, another).admit(IDP, ID, EXPIRES, NOW)
    found = rows(storage, CONTEXT)
    assert [len(key) for key in found] == [32] * 3  # by realm and lookup key, each another
    shown = "".join(found) + "".join(stored.value.decode("latin-1") for stored in found.values())
    assert not [secret for secret in (IDP, ID, "example") if secret in shown]


# --- odd input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expires_at",
    [
        *(NOW - SKEW, NOW - SKEW - 0.5, 0, -1, math.nan, math.inf, -math.inf),
        *(NOW + LONGEST + SKEW + 1, 1 << 53, 1 << 70, 1e300),
    ],
)
def test_a_message_that_has_expired_or_lives_too_long_is_refused_and_not_kept(
    expires_at: float,
) -> None:
    storage = MemoryStorage(Clock(NOW))
    assert not cache(storage).admit(IDP, ID, expires_at, NOW)
    assert rows(storage, CONTEXT) == {}


@pytest.mark.parametrize("expires_at", [NOW - SKEW + 0.5, NOW, NOW + LONGEST + SKEW])
def test_a_message_whose_issuer_has_another_clock_is_admitted_within_the_skew(
    expires_at: float,
) -> None:
    replays = in_memory()
    assert replays.admit(IDP, ID, expires_at, NOW)
    assert not replays.admit(IDP, ID, expires_at, NOW)


@pytest.mark.parametrize(
    ("issuer", "message_id"), [("", ID), (IDP, ""), (IDP, "\ud800"), ("\udfff", ID)]
)
def test_what_no_message_can_be_called_is_refused(issuer: str, message_id: str) -> None:
    assert not in_memory().admit(issuer, message_id, EXPIRES, NOW)


@pytest.mark.parametrize("size", [1024, 10_000, 1_000_000])
def test_an_id_of_any_length_is_told_apart_to_its_last_letter(size: int) -> None:
    replays, long = in_memory(), "x" * size
    assert replays.admit(IDP, long, EXPIRES, NOW)
    assert not replays.admit(IDP, long, EXPIRES, NOW)
    assert replays.admit(IDP, long + "y", EXPIRES, NOW)
    assert replays.admit(long, ID, EXPIRES, NOW)


HOSTILE = st.text(max_size=40) | st.sampled_from(["a", "A", "\u00e9", "e\u0301", "\0", " ", "a\0"])


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=20))
def test_of_any_messages_exactly_the_new_ones_are_admitted(messages: list[tuple[str, str]]) -> None:
    replays, seen = in_memory(), set[tuple[str, str]]()
    for issuer, message_id in messages:
        new = (issuer, message_id) not in seen and bool(issuer and message_id)
        assert replays.admit(issuer, message_id, EXPIRES, NOW) is new
        seen.add((issuer, message_id))


# --- bad days -----------------------------------------------------------------------------------


def test_an_outage_raises_and_the_message_can_be_tried_again() -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    replays = cache(store)
    store.down = {"create"}
    with pytest.raises(StorageUnavailable):
        replays.admit(IDP, ID, EXPIRES, NOW)
    store.down.clear()
    assert replays.admit(IDP, ID, EXPIRES, NOW)


@pytest.mark.parametrize("fault", ["lost", "late"])
def test_who_was_first_finds_out_though_the_reply_was_lost(fault: str) -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    getattr(store, fault)["create"] = 1
    assert cache(store).admit(IDP, ID, EXPIRES, NOW)
    store.arrive()
    assert not cache(store).admit(IDP, ID, EXPIRES, NOW)


@pytest.mark.parametrize("fault", ["lost", "late"])
def test_who_was_second_finds_out_though_the_reply_was_lost(fault: str) -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    assert cache(store).admit(IDP, ID, EXPIRES, NOW)
    getattr(store, fault)["create"] = 1
    assert not cache(store).admit(IDP, ID, EXPIRES, NOW)


@pytest.mark.parametrize("lost", [{"create": 2}, {"create": 3}])
def test_where_replies_get_lost_again_and_again_the_message_counts_as_replayed(
    lost: dict[str, int],
) -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    store.late = lost
    assert not cache(store).admit(IDP, ID, EXPIRES, NOW)


def test_where_nobody_can_tell_who_was_first_the_message_counts_as_replayed() -> None:
    store = Unanswering(MemoryStorage(Clock(NOW)))
    store.lost["create"] = 1
    store.down = {"read"}
    assert not cache(store).admit(IDP, ID, EXPIRES, NOW)
    store.down.clear()
    assert not cache(store).admit(IDP, ID, EXPIRES, NOW)


# --- at the start -------------------------------------------------------------------------------


def settings(
    storage: object, *accept_weak_store_for: str, lookup: bytes | None = RING.lookup
) -> Settings:
    class Source:
        def keyring(self) -> Keyring:
            return Keyring(RING.keys, lookup=lookup)

    return Settings(keys=Source(), storage=storage, accept_weak_store_for=accept_weak_store_for)  # type: ignore[arg-type]


def test_a_store_that_forgets_stops_the_start_unless_that_is_accepted() -> None:
    with pytest.raises(ConfigurationError, match="replay needs a store that is seen by every"):
        ReplayCache.of(Deployment.open(settings("memory:")))
    assert ReplayCache.of(Deployment.open(settings("memory:", "replay"))).admit("a", "b", 2e9, 2e9)


def test_without_a_store_or_a_lookup_key_there_is_no_replay_cache() -> None:
    with pytest.raises(ConfigurationError, match="replay needs one"):
        ReplayCache.of(Deployment.open(settings(None)))
    with pytest.raises(ConfigurationError, match="keys generate --lookup"):
        ReplayCache.of(Deployment.open(settings("memory:", "replay", lookup=None)))


@pytest.mark.parametrize("longest", ["day", -1, 0, 1.5, None, True])
def test_a_longest_that_is_no_time_stops_the_start(longest: Any) -> None:
    store = MemoryStorage(Clock(NOW))
    with pytest.raises(ConfigurationError, match="longest"):
        ReplayCache.of(Deployment.open(settings(store, "replay")), longest)


def test_bytes_are_no_name_of_a_message_and_do_not_use_up_the_text() -> None:
    replays = in_memory()
    raw: Any = b"_1"
    assert not replays.admit("https://idp", raw, NOW + 60, NOW)
    assert not replays.admit(raw, "_1", NOW + 60, NOW)
    assert replays.admit("https://idp", "_1", NOW + 60, NOW)
