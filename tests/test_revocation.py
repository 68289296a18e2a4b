"""Revocation: what was logged out stays out, and nobody else does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sealedstate.errors import ConfigurationError, RevokedSession, StorageUnavailable
from sealedstate.record import Record
from sealedstate.revocation import SESSIONS, SUBJECTS, WRITE_TRIES, Revocations
from sealedstate.storage import MemoryStorage
from tests.jar import Clock

NOW = 1_800_000_000
LATER = NOW + 12 * 3600
SECRET = bytes(range(32))


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store(clock: Clock) -> MemoryStorage:
    return MemoryStorage(clock)


@pytest.fixture
def revocations(store: MemoryStorage) -> Revocations:
    return Revocations(store, "default", lambda: SECRET)


def record(number: int = 1, subject: str | None = "ann", created_at: int = NOW) -> Record:
    return Record(bytes([number]) * 16, subject, created_at, LATER, 1)


def is_refused(revocations: Revocations, which: Record) -> bool:
    try:
        revocations.check(which, NOW)
    except RevokedSession:
        return True
    return False


# --- one session ------------------------------------------------------------------------------


def test_a_session_is_fine_until_it_is_revoked_and_only_it_is_refused(
    revocations: Revocations,
) -> None:
    revocations.check(record(1), NOW)
    revocations.revoke(record(1).id, LATER, NOW)
    assert is_refused(revocations, record(1))
    revocations.check(record(2), NOW)


def test_a_session_is_refused_whatever_its_subject_or_age(revocations: Revocations) -> None:
    revocations.revoke(record(1).id, LATER, NOW)
    assert is_refused(revocations, record(1, None))
    assert is_refused(revocations, record(1, "bob", NOW + 3600))


def test_revoking_twice_is_as_good_as_once(revocations: Revocations) -> None:
    revocations.revoke(record().id, LATER, NOW)
    revocations.revoke(record().id, LATER, NOW + 5)
    assert is_refused(revocations, record())


def test_a_revocation_lasts_until_the_session_would_be_over_by_itself(
    revocations: Revocations, clock: Clock
) -> None:
    revocations.revoke(record().id, LATER, NOW)
    clock.now = LATER - 1
    assert is_refused(revocations, record())
    clock.now = LATER
    assert not is_refused(revocations, record())


def test_of_racing_revocations_one_is_told_that_it_was_first(revocations: Revocations) -> None:
    line = threading.Barrier(8)

    def revoke(_: int) -> bool:
        line.wait()
        return revocations.revoke(record().id, LATER, NOW)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(revoke, range(8))) == [False] * 7 + [True]


# --- one subject ------------------------------------------------------------------------------


def test_signing_a_subject_out_refuses_all_sessions_that_began_until_then(
    revocations: Revocations,
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    assert is_refused(revocations, record(1, created_at=NOW))
    assert is_refused(revocations, record(2, created_at=NOW - 3600))
    revocations.check(record(3, "bob", NOW - 3600), NOW)
    revocations.check(record(4, None, NOW - 3600), NOW)
    revocations.check(record(5, created_at=NOW + 1), NOW)


def test_a_watermark_tells_until_when_sessions_are_refused(revocations: Revocations) -> None:
    assert revocations.watermark("ann") < 0
    revocations.revoke_subject("ann", LATER, NOW + 0.9)
    assert revocations.watermark("ann") == NOW
    assert revocations.watermark("bob") < 0


def test_a_later_sign_out_refuses_what_began_in_between(revocations: Revocations) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    between = record(created_at=NOW + 60)
    revocations.check(between, NOW + 60)
    revocations.revoke_subject("ann", LATER + 60, NOW + 60)
    assert is_refused(revocations, between)


def test_a_second_sign_out_within_a_second_refuses_what_began_in_between(
    revocations: Revocations,
) -> None:
    # Who signs in within the second of a sign-out begins just after the watermark.
    for _ in range(5):
        revocations.revoke_subject("ann", LATER, NOW)
        signed_in = record(created_at=revocations.watermark("ann") + 1)
        revocations.check(signed_in, NOW)
        revocations.revoke_subject("ann", LATER, NOW + 0.5)
        assert is_refused(revocations, signed_in)


def test_a_node_whose_clock_is_behind_does_not_revive_what_another_signed_out(
    revocations: Revocations,
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    revocations.revoke_subject("ann", LATER - 30, NOW - 30)
    assert is_refused(revocations, record(created_at=NOW))
    assert is_refused(revocations, record(created_at=NOW - 10))


def test_a_watermark_lasts_as_long_as_the_longest_that_asked(
    revocations: Revocations, clock: Clock
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    revocations.revoke_subject("ann", NOW + 60, NOW)
    clock.now = LATER - 1
    assert is_refused(revocations, record())
    clock.now = LATER
    assert not is_refused(revocations, record())


def test_without_a_lookup_key_signing_out_a_subject_is_refused_and_sessions_are_not(
    store: MemoryStorage,
) -> None:
    keyless = Revocations(store, "default", lambda: None)
    with pytest.raises(ConfigurationError, match="lookup key"):
        keyless.revoke_subject("ann", LATER, NOW)
    assert list(store.keys(SUBJECTS)) == []
    keyless.check(record(), NOW)
    keyless.revoke(record().id, LATER, NOW)
    assert is_refused(keyless, record())


def test_many_nodes_that_sign_out_one_subject_at_once_all_succeed(
    revocations: Revocations,
) -> None:
    # No more of them than a writer has tries.
    line = threading.Barrier(8)

    def sign_out(number: int) -> None:
        line.wait()
        revocations.revoke_subject("ann", LATER, NOW + number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sign_out, range(8)))
    assert revocations.watermark("ann") >= NOW + 7


def test_who_can_never_write_a_watermark_is_told(clock: Clock) -> None:
    class Contested(MemoryStorage):
        tries = 0

        def create(self, *_: object) -> bool:
            self.tries += 1
            return False

    store = Contested(clock)
    with pytest.raises(StorageUnavailable):
        Revocations(store, "default", lambda: SECRET).revoke_subject("ann", LATER, NOW)
    assert store.tries == WRITE_TRIES


# --- names and failures -----------------------------------------------------------------------


def test_realms_do_not_sign_each_other_out(store: MemoryStorage) -> None:
    shop = Revocations(store, "shop", lambda: SECRET)
    blog = Revocations(store, "blog", lambda: SECRET)
    shop.revoke(record().id, LATER, NOW)
    shop.revoke_subject("bob", LATER, NOW)
    assert is_refused(shop, record())
    blog.check(record(), NOW)
    blog.check(record(2, "bob"), NOW)


def test_a_subject_cannot_be_guessed_from_the_store(store: MemoryStorage) -> None:
    Revocations(store, "default", lambda: SECRET).revoke_subject("ann", LATER, NOW)
    Revocations(store, "default", lambda: SECRET[::-1]).revoke_subject("ann", LATER, NOW)
    keys = list(store.keys(SUBJECTS))
    assert len(set(keys)) == 2
    assert not any("ann" in key for key in keys)


def test_the_store_holds_no_session_id(revocations: Revocations, store: MemoryStorage) -> None:
    revocations.revoke(b"session-id-here!", LATER, NOW)
    (key,) = store.keys(SESSIONS)
    stored = store.read(SESSIONS, key)
    assert stored is not None
    assert b"session-id-here!" not in key.encode() + stored.value


def test_a_store_that_is_down_is_told_of_by_every_operation(clock: Clock) -> None:
    class Down(MemoryStorage):
        def read(self, *_: object) -> None:
            raise StorageUnavailable("down")

        def create(self, *_: object) -> bool:
            raise StorageUnavailable("down")

    down = Revocations(Down(clock), "default", lambda: SECRET)
    operations: list[Callable[[], object]] = [
        lambda: down.check(record(), NOW),
        lambda: down.revoke(record().id, LATER, NOW),
        lambda: down.revoke_subject("ann", LATER, NOW),
        lambda: down.watermark("ann"),
    ]
    for operation in operations:
        with pytest.raises(StorageUnavailable):
            operation()
