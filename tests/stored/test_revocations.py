"""Revocation: what was logged out stays out, and nobody else does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sealedstate._stored.revocations import SESSIONS, SUBJECTS, Ending, Revocations
from sealedstate._wire.record import Record
from sealedstate.errors import (
    ConfigurationError,
    ReplacedSession,
    RevokedSession,
    StorageUnavailable,
    UnreadableError,
)
from sealedstate.keyring import Key, Keyring
from sealedstate.storage import MemoryStorage, Stored
from tests.support.jar import RING, Clock
from tests.support.stored import access_of

NOW = 1_800_000_000
LATER = NOW + 12 * 3600
NEXT_KEY = Key.generate(os.urandom)
# Rings that others of a deployment may have: each can't open what RING has sealed.
LAGGING = Keyring((NEXT_KEY,), lookup=RING.lookup)
COMPROMISED = Keyring((NEXT_KEY, replace(RING.keys[0], revoked=True)), lookup=RING.lookup)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store(clock: Clock) -> MemoryStorage:
    return MemoryStorage(clock)


class Node:
    """The revocations of one node, each call at a moment of its own."""

    def __init__(
        self,
        store: MemoryStorage,
        realm: str = "default",
        ring: Keyring = RING,
        refused: Callable[[str, str], object] = lambda *_: None,
    ) -> None:
        self.now: float = NOW
        access = access_of(store, ring, lambda: self.now, realm, refused=refused)
        self.revocations = Revocations(access)

    def check(self, record: Record, now: float) -> None:
        self.now = now
        self.revocations.check(record)

    def revoke(
        self, session_id: bytes, expires_at: int, now: float, how: Ending = Ending.LOGGED_OUT
    ) -> bool:
        self.now = now
        return self.revocations.revoke(session_id, expires_at, how)

    def revoke_subject(self, subject: str, expires_at: int, now: float) -> None:
        self.now = now
        self.revocations.revoke_subject(subject, expires_at)

    def watermark(self, subject: str, now: float) -> int:
        self.now = now
        return self.revocations.watermark(subject)

    def begin(self, subject: str, expires_at: int, now: float) -> int:
        self.now = now
        return self.revocations.begin(subject, expires_at, now)


@pytest.fixture
def revocations(store: MemoryStorage) -> Node:
    return Node(store)


opened = Node


def record(number: int = 1, subject: str | None = "ann", created_at: int = NOW) -> Record:
    return Record(bytes([number]) * 16, subject, created_at, LATER, 1)


def is_refused(revocations: Node, which: Record) -> bool:
    try:
        revocations.check(which, NOW)
    except RevokedSession:
        return True
    return False


# --- one session ------------------------------------------------------------------------------


def test_a_session_is_fine_until_it_is_revoked_and_only_it_is_refused(
    revocations: Node,
) -> None:
    revocations.check(record(1), NOW)
    revocations.revoke(record(1).id, LATER, NOW)
    assert is_refused(revocations, record(1))
    revocations.check(record(2), NOW)


def test_a_session_is_refused_whatever_its_subject_or_age(revocations: Node) -> None:
    revocations.revoke(record(1).id, LATER, NOW)
    assert is_refused(revocations, record(1, None))
    assert is_refused(revocations, record(1, "bob", NOW + 3600))


def test_revoking_twice_is_as_good_as_once(revocations: Node) -> None:
    revocations.revoke(record().id, LATER, NOW)
    revocations.revoke(record().id, LATER, NOW + 5)
    assert is_refused(revocations, record())


def test_a_revocation_lasts_until_the_session_would_be_over_by_itself(
    revocations: Node, clock: Clock
) -> None:
    revocations.revoke(record().id, LATER, NOW)
    clock.now = LATER - 1
    assert is_refused(revocations, record())
    clock.now = LATER
    assert not is_refused(revocations, record())


def test_of_racing_revocations_one_is_told_that_it_was_first(revocations: Node) -> None:
    line = threading.Barrier(8)

    def revoke(_: int) -> bool:
        line.wait()
        return revocations.revoke(record().id, LATER, NOW)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(revoke, range(8))) == [False] * 7 + [True]


# --- one subject ------------------------------------------------------------------------------


def test_signing_a_subject_out_refuses_all_sessions_that_began_until_then(
    revocations: Node,
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    assert is_refused(revocations, record(1, created_at=NOW))
    assert is_refused(revocations, record(2, created_at=NOW - 3600))
    revocations.check(record(3, "bob", NOW - 3600), NOW)
    revocations.check(record(4, None, NOW - 3600), NOW)
    revocations.check(record(5, created_at=NOW + 1), NOW)


def test_a_watermark_tells_until_when_sessions_are_refused(revocations: Node) -> None:
    assert revocations.watermark("ann", NOW) < 0
    revocations.revoke_subject("ann", LATER, NOW + 0.9)
    assert revocations.watermark("ann", NOW) == NOW
    assert revocations.watermark("bob", NOW) < 0


def test_a_later_sign_out_refuses_what_began_in_between(revocations: Node) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    between = record(created_at=NOW + 60)
    revocations.check(between, NOW + 60)
    revocations.revoke_subject("ann", LATER + 60, NOW + 60)
    assert is_refused(revocations, between)


def test_a_second_sign_out_within_a_second_refuses_what_began_in_between(
    revocations: Node,
) -> None:
    # Who signs in within the second of a sign-out begins just after the watermark.
    for _ in range(5):
        revocations.revoke_subject("ann", LATER, NOW)
        signed_in = record(created_at=revocations.watermark("ann", NOW) + 1)
        revocations.check(signed_in, NOW)
        revocations.revoke_subject("ann", LATER, NOW + 0.5)
        assert is_refused(revocations, signed_in)


def test_a_node_whose_clock_is_behind_does_not_revive_what_another_signed_out(
    revocations: Node,
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    revocations.revoke_subject("ann", LATER - 30, NOW - 30)
    assert is_refused(revocations, record(created_at=NOW))
    assert is_refused(revocations, record(created_at=NOW - 10))


def test_a_watermark_lasts_as_long_as_the_longest_that_asked(
    revocations: Node, clock: Clock
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
    keyless = opened(store, ring=Keyring(RING.keys))
    with pytest.raises(ConfigurationError, match="lookup key"):
        keyless.revoke_subject("ann", LATER, NOW)
    assert list(store.keys(SUBJECTS)) == []
    keyless.check(record(), NOW)
    keyless.revoke(record().id, LATER, NOW)
    assert is_refused(keyless, record())


def test_many_nodes_that_sign_out_one_subject_at_once_all_succeed(
    revocations: Node,
) -> None:
    # No more of them than a writer has tries.
    line = threading.Barrier(8)

    def sign_out(number: int) -> None:
        line.wait()
        revocations.revoke_subject("ann", LATER, NOW + number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sign_out, range(8)))
    assert revocations.watermark("ann", NOW) >= NOW + 7


def test_who_can_never_write_a_watermark_is_told(clock: Clock) -> None:
    class Contested(MemoryStorage):
        tries = 0

        def create(self, *_: object) -> bool:
            self.tries += 1
            return False

    store = Contested(clock)
    with pytest.raises(StorageUnavailable):
        opened(store).revoke_subject("ann", LATER, NOW)
    assert store.tries == 16


# --- rows that do not open ---------------------------------------------------------------------


def only(store: MemoryStorage, context: str) -> tuple[str, Stored]:
    (key,) = store.keys(context)
    stored = store.read(context, key)
    assert stored is not None
    return key, stored


def put(store: MemoryStorage, context: str, key: str, stored: Stored) -> None:
    """Make the store hold exactly this, as somebody who owns the store could."""
    store.delete(context, key)
    assert store.create(context, key, stored.value, stored.expires_at, stored.version)


def spoilt(stored: Stored) -> list[Stored]:
    """The row altered, cut, emptied, as an older release wrote it, and under other versions."""
    token = stored.value
    values = [token[:size] for size in range(len(token))]
    values += [token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :] for at in range(len(token))]
    values += [token + b"\0", b"junk", bytes(8), (2**62).to_bytes(8, "big"), bytes(100)]
    versions = [stored.version - 1, stored.version + 1, 1, 2**63 - 1]
    return [replace(stored, value=value) for value in values] + [
        replace(stored, version=version) for version in versions
    ]


@pytest.mark.parametrize("how", Ending)
def test_a_row_that_is_there_refuses_its_session_whatever_it_holds(
    revocations: Node, store: MemoryStorage, how: Ending
) -> None:
    revocations.revoke(record().id, LATER, NOW, how)
    key, good = only(store, SESSIONS)
    for row in spoilt(good):
        put(store, SESSIONS, key, row)
        for ring in (RING, LAGGING, COMPROMISED):
            with pytest.raises((RevokedSession, ReplacedSession)):
                opened(store, ring=ring).check(record(), NOW)


def test_no_session_is_told_to_be_replaced_by_the_row_of_another(
    revocations: Node, store: MemoryStorage
) -> None:
    revocations.revoke(record(1).id, LATER, NOW)
    key, mine = only(store, SESSIONS)
    revocations.revoke(record(2).id, LATER, NOW, Ending.REPLACED)
    (theirs,) = [
        row for at in store.keys(SESSIONS) if at != key and (row := store.read(SESSIONS, at))
    ]
    for row in (theirs, replace(theirs, version=mine.version)):
        put(store, SESSIONS, key, row)
        assert is_refused(revocations, record(1))


def test_a_node_that_cannot_read_of_a_new_id_leaves_the_cookie_alone(
    revocations: Node, store: MemoryStorage
) -> None:
    revocations.revoke(record().id, LATER, NOW, Ending.REPLACED)
    with pytest.raises(ReplacedSession):
        opened(store, ring=LAGGING).check(record(), NOW)
    with pytest.raises(RevokedSession):  # nobody can read it any more
        opened(store, ring=COMPROMISED).check(record(), NOW)


def test_a_watermark_that_does_not_open_lets_nobody_in_and_says_nothing_of_anybody_else(
    revocations: Node, store: MemoryStorage
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    key, good = only(store, SUBJECTS)
    for row in spoilt(good):
        put(store, SUBJECTS, key, row)
        for created_at in (NOW - 3600, NOW, NOW + 3600):
            with pytest.raises(StorageUnavailable, match="unreadable"):
                revocations.check(record(created_at=created_at), NOW)
        revocations.check(record(2, "bob"), NOW)
        revocations.check(record(3, None), NOW)
    put(store, SUBJECTS, key, good)
    assert is_refused(revocations, record())


@pytest.mark.parametrize("ring", [LAGGING, COMPROMISED], ids=["lagging", "compromised"])
def test_a_watermark_under_a_key_that_does_not_open_lets_nobody_in(
    revocations: Node, store: MemoryStorage, ring: Keyring
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    for created_at in (NOW - 3600, NOW + 3600):
        with pytest.raises(StorageUnavailable):
            opened(store, ring=ring).check(record(created_at=created_at), NOW)


def test_watermarks_stay_readable_as_keys_rotate(revocations: Node, store: MemoryStorage) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    rotated = opened(store, ring=Keyring((NEXT_KEY, *RING.keys), lookup=RING.lookup))
    assert rotated.watermark("ann", NOW) == NOW
    rotated.revoke_subject("ann", LATER, NOW + 60)
    assert only(store, SUBJECTS)[1].value[1:5] == NEXT_KEY.kid
    assert rotated.watermark("ann", NOW) == NOW + 60


@pytest.mark.parametrize("ring", [LAGGING, COMPROMISED], ids=["lagging", "compromised"])
def test_signing_out_everywhere_writes_an_unreadable_watermark_anew(
    revocations: Node, store: MemoryStorage, ring: Keyring
) -> None:
    revocations.revoke_subject("ann", LATER + 60, NOW)
    node = opened(store, ring=ring)
    node.revoke_subject("ann", LATER, NOW + 5)
    assert node.watermark("ann", NOW + 5) == NOW + 5
    assert only(store, SUBJECTS)[1].expires_at == (LATER + 60) * 1000


def test_who_signs_in_begins_above_the_watermark(revocations: Node) -> None:
    assert revocations.begin("ann", LATER, NOW + 0.9) == NOW
    revocations.revoke_subject("ann", LATER, NOW)
    assert revocations.begin("ann", LATER, NOW) == NOW + 1
    assert revocations.begin("ann", LATER, NOW + 60) == NOW + 60


def test_who_signs_in_over_a_lost_watermark_is_in_and_what_began_before_stays_out(
    revocations: Node, store: MemoryStorage
) -> None:
    revocations.revoke_subject("ann", LATER, NOW - 60)
    key, good = only(store, SUBJECTS)
    for value in (b"junk", good.value[:-1], good.value + b"\0"):
        put(store, SUBJECTS, key, replace(good, value=value))
        began = revocations.begin("ann", LATER, NOW)
        revocations.check(record(created_at=began), NOW)
        assert is_refused(revocations, record(created_at=NOW))
        assert only(store, SUBJECTS)[1].expires_at == LATER * 1000


def test_two_who_sign_in_over_a_lost_watermark_at_once_are_both_in(clock: Clock) -> None:
    class Hurried(MemoryStorage):
        before_update: Callable[[], object] | None = None

        def update(self, *given: Any) -> bool:
            act, self.before_update = self.before_update, None
            if act is not None:
                act()
            return super().update(*given)

    store = Hurried(clock)
    revocations = opened(store)
    revocations.revoke_subject("ann", LATER, NOW - 60)
    key, good = only(store, SUBJECTS)
    put(store, SUBJECTS, key, replace(good, value=b"junk"))
    began: list[int] = []
    store.before_update = lambda: began.append(revocations.begin("ann", LATER, NOW))
    began.append(revocations.begin("ann", LATER, NOW))
    assert len(began) == 2
    for at in began:
        revocations.check(record(created_at=at), NOW)


def test_a_node_that_cannot_read_a_watermark_signs_nobody_out_by_signing_in(
    revocations: Node, store: MemoryStorage
) -> None:
    revocations.revoke_subject("ann", LATER, NOW)
    before = only(store, SUBJECTS)
    with pytest.raises(StorageUnavailable):
        opened(store, ring=LAGGING).begin("ann", LATER, NOW + 60)
    assert only(store, SUBJECTS) == before


def test_the_reason_is_told_to_who_wants_to_hear_of_refused_rows(
    revocations: Node, store: MemoryStorage
) -> None:
    heard: list[tuple[str, str]] = []
    listening = Node(store, ring=LAGGING, refused=lambda *row: heard.append(row))
    revocations.revoke(record().id, LATER, NOW)
    revocations.revoke_subject("ann", LATER, NOW)
    for which in (record(), record(2)):
        with pytest.raises((UnreadableError, StorageUnavailable)):
            listening.check(which, NOW)
    assert heard == [(SESSIONS, "kid-unknown"), (SUBJECTS, "kid-unknown")]


# --- names and failures -----------------------------------------------------------------------


def test_realms_do_not_sign_each_other_out(store: MemoryStorage) -> None:
    shop = opened(store, "shop")
    blog = opened(store, "blog")
    shop.revoke(record().id, LATER, NOW)
    shop.revoke_subject("bob", LATER, NOW)
    assert is_refused(shop, record())
    blog.check(record(), NOW)
    blog.check(record(2, "bob"), NOW)


def test_a_subject_cannot_be_guessed_from_the_store(store: MemoryStorage) -> None:
    opened(store).revoke_subject("ann", LATER, NOW)
    opened(store, ring=Keyring(RING.keys, lookup=os.urandom(32))).revoke_subject("ann", LATER, NOW)
    keys = list(store.keys(SUBJECTS))
    assert len(set(keys)) == 2
    assert not any("ann" in key for key in keys)


def test_the_store_holds_no_session_id(revocations: Node, store: MemoryStorage) -> None:
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

    down = opened(Down(clock))
    operations: list[Callable[[], object]] = [
        lambda: down.check(record(), NOW),
        lambda: down.revoke(record().id, LATER, NOW),
        lambda: down.revoke_subject("ann", LATER, NOW),
        lambda: down.watermark("ann", NOW),
        lambda: down.begin("ann", LATER, NOW),
    ]
    for operation in operations:
        with pytest.raises(StorageUnavailable):
            operation()
