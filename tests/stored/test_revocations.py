"""A revoked session or subject stays out, and no other is affected."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product

import pytest

from sealedstate._stored.revocations import (
    SESSIONS,
    SUBJECTS,
    Ending,
    Revocations,
    Successor,
    subject_mark,
)
from sealedstate._wire.record import Record
from sealedstate.errors import (
    ConfigurationError,
    ReplacedSession,
    RevokedSession,
    StorageUnavailable,
    UnreadableError,
)
from sealedstate.keyring import Key, Keyring
from sealedstate.storage import Storage, Stored
from sealedstate.testing import ScriptedStorage
from tests.support.jar import RING, Clock
from tests.support.stored import access_of, replace_row, row_of

NOW = 1_800_000_000
SKEW = 60
LIFETIME = 12 * 3600
LATER = NOW + LIFETIME
NEXT_KEY = Key.generate(os.urandom)
# Rings of other nodes, which cannot open what RING has sealed.
LAGGING = Keyring((NEXT_KEY,), lookup=RING.lookup)
COMPROMISED = Keyring((NEXT_KEY, replace(RING.keys[0], revoked=True)), lookup=RING.lookup)


class Node:
    """The revocations of one node, each call at a moment of its own."""

    def __init__(
        self,
        store: Storage,
        realm: str = "default",
        ring: Keyring = RING,
        refused: Callable[[str, str], object] = lambda *_: None,
    ) -> None:
        self.now: float = NOW
        access = access_of(store, ring, lambda: self.now, realm, refused=refused)
        self.revocations = Revocations(access, SKEW)

    def check(self, record: Record, now: float = NOW) -> None:
        self.now = now
        self.revocations.check(record)

    def refuses(self, record: Record) -> bool:
        try:
            self.check(record)
        except RevokedSession:
            return True
        return False

    def revoke(
        self,
        session_id: bytes,
        expires_at: int = LATER,
        now: float = NOW,
        how: Ending = Ending.LOGGED_OUT,
    ) -> bytes | Ending | None:
        """End a session as `how` says; REPLACED: it continues as session 100."""
        self.now = now
        if how is Ending.REPLACED:
            return self.replace(session_id, successor(100), expires_at)
        return self.revocations.end(session_id, expires_at, how)

    def replace(
        self,
        session_id: bytes,
        by: Successor,
        expires_at: int = LATER,
        *,
        joins: Collection[bytes] | None = (),
    ) -> bytes | Ending:
        return self.revocations.replace(session_id, expires_at, by, joins=joins)

    def revoke_subject(self, subject: str, lifetime: int = LIFETIME, now: float = NOW) -> None:
        self.now = now
        self.revocations.revoke_subject(subject, lifetime)

    def watermark(self, subject: str, now: float = NOW) -> int:
        self.now = now
        return self.revocations.watermark(subject)

    def begin(self, subject: str, now: float = NOW, since: int | None = None) -> int:
        self.now = now
        return self.revocations.begin(subject, LIFETIME, now, since)


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def node(store: ScriptedStorage) -> Node:
    return Node(store)


def record(number: int = 1, subject: str | None = "ann", created_at: int = NOW) -> Record:
    return Record(bytes([number]) * 16, subject, created_at, LATER, 1)


def successor(
    number: int, *, to: str | None = "ann", of: str | None = "ann", expires_at: int = LATER
) -> Successor:
    """Session `number` of `to` that replaces a session of `of`."""
    return Successor(bytes([number]) * 16, expires_at, subject_mark(to), subject_mark(of))


# --- one session --------------------------------------------------------------------------------


def test_revoked_session_is_refused_whatever_its_subject_or_age(node: Node) -> None:
    node.check(record(1))
    for now in (NOW, NOW + 5):
        node.revoke(record(1).id, now=now)
        for refused in (record(1), record(1, None), record(1, "bob", NOW + 3600)):
            assert node.refuses(refused)
        node.check(record(2))


def test_revocation_lasts_until_the_session_would_have_expired(node: Node, clock: Clock) -> None:
    node.revoke(record().id)
    clock.now = LATER - 1
    assert node.refuses(record())
    clock.now = LATER
    assert not node.refuses(record())


def test_exactly_one_of_racing_revocations_is_the_first(node: Node) -> None:
    line = threading.Barrier(8)

    def revoke(_: int) -> bytes | Ending | None:
        line.wait()
        return node.revoke(record().id)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(map(bool, pool.map(revoke, range(8)))) == [False] * 7 + [True]


# --- new ids ------------------------------------------------------------------------------------


def test_session_has_one_end_or_one_successor(node: Node) -> None:
    one, other = record(1), record(2)
    assert node.replace(one.id, successor(3)) == one.id
    assert node.replace(one.id, successor(3)) == one.id  # the same save again
    assert node.replace(one.id, successor(4)) is Ending.REPLACED
    node.revoke(other.id)
    every: Collection[bytes] | None = None
    for joins in (every, ()):
        assert node.replace(other.id, successor(5), joins=joins) is Ending.LOGGED_OUT
    for live in (record(3), record(4), record(5)):
        node.check(live)


def test_end_follows_the_successors_until_the_last_and_their_expiry(
    node: Node, store: ScriptedStorage, clock: Clock
) -> None:
    for number in (1, 2, 3):
        node.replace(record(number).id, successor(number + 1, expires_at=LATER + 3600 * number))
    assert node.revoke(record(1).id) == record(4).id
    assert node.revoke(record(2).id) is None
    clock.now = LATER + 3 * 3600 + SKEW - 1
    assert node.refuses(record(4))
    clock.now += 1
    assert list(store.keys(SESSIONS)) == []


def test_end_from_outside_follows_only_successors_of_the_same_subject(node: Node) -> None:
    node.replace(record(1).id, successor(2))
    node.replace(record(2).id, successor(3, to="bob"))
    assert node.revoke(record(1).id, how=Ending.REVOKED) is None
    node.check(record(3, "bob"))
    assert node.revoke(record(1).id, how=Ending.LOGGED_OUT) == record(3).id
    assert node.refuses(record(3, "bob"))
    # The user signed in again over the session of another user.
    node.replace(record(21).id, successor(22, to="bob"))
    node.replace(record(22).id, successor(23, of="bob"))
    assert node.revoke(record(21).id, how=Ending.REVOKED) == record(23).id
    assert node.revocations.next_id(record(21).id) == record(23).id
    node.replace(record(11).id, successor(12))
    assert node.revoke(record(11).id, how=Ending.REVOKED) == record(12).id
    assert node.revocations.ending(record(12).id) is Ending.REVOKED


def test_successor_that_joins_becomes_the_last_of_all(node: Node) -> None:
    node.replace(record(1).id, successor(2))
    assert node.replace(record(1).id, successor(3, to="bob"), joins=None) == record(2).id
    assert node.replace(record(1).id, successor(4), joins=None) == record(3).id
    assert node.revoke(record(1).id) == record(4).id
    for number in (1, 2, 3, 4):
        with pytest.raises((RevokedSession, ReplacedSession)):
            node.check(record(number))


def test_successor_that_joins_replaces_the_subject_that_it_finds(node: Node) -> None:
    node.replace(record(1).id, successor(2, to="bob", of=None))
    node.replace(record(1).id, successor(3, to="ann", of=None), joins=None)
    found = node.revocations.find(record(2).id)
    assert found is not None
    assert found.successor == successor(3, to="ann", of="bob")
    # Only that of a subject that it may replace.
    by = successor(4, of=None)
    assert node.replace(record(1).id, by, joins=[subject_mark("carl")]) is Ending.REPLACED
    joins = [subject_mark("ann"), subject_mark("bob")]
    assert node.replace(record(1).id, by, joins=joins) == record(3).id


@pytest.mark.parametrize("replaced", [5, 6])
def test_end_and_new_id_follow_most_successors_and_then_raise(
    node: Node, replaced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealedstate._stored.revocations.MAX_SUCCESSORS", 5)
    for number in range(1, 1 + replaced):
        node.replace(
            record(number).id, successor(number + 1, to="bob" if number < replaced else "ann")
        )
    if replaced > 5:
        acts: list[Callable[[], object]] = [
            lambda: node.revoke(record(1).id),
            lambda: node.revoke(record(1).id, how=Ending.REVOKED),
            lambda: node.replace(record(1).id, successor(200), joins=None),
        ]
        for act in acts:
            with pytest.raises(StorageUnavailable, match=r"more than 5 new ids.*revoke_subject"):
                act()
    else:
        assert node.revocations.next_id(record(1).id) == record(6).id
        assert node.revoke(record(1).id) == record(6).id


def test_session_with_thousands_of_new_ids_is_ended(node: Node) -> None:
    ids = [number.to_bytes(16, "big") for number in range(4097)]
    for before, after in pairwise(ids):
        node.replace(before, Successor(after, LATER, subject_mark("ann"), subject_mark("ann")))
    assert node.revoke(ids[0]) == ids[-1]


def test_replaced_session_whose_successor_was_ended_counts_as_ended(node: Node) -> None:
    for number in (1, 2):
        node.replace(record(number).id, successor(number + 1))
    for number in (1, 2):
        with pytest.raises(ReplacedSession):
            node.check(record(number))
    node.revoke(record(3).id)
    for number in (1, 2, 3):
        assert node.refuses(record(number))


def test_row_of_a_replaced_session_lives_as_long_as_its_successor(
    node: Node, store: ScriptedStorage
) -> None:
    node.replace(record(1).id, successor(2, expires_at=NOW + 60), LATER)
    node.replace(record(2).id, successor(3, expires_at=LATER), NOW + 60)
    expiries = {row_of(store, SESSIONS, key).expires_at for key in store.keys(SESSIONS)}
    assert expiries == {LATER * 1000, (LATER + SKEW) * 1000}


@pytest.mark.parametrize("ring", [LAGGING, COMPROMISED], ids=["lagging", "compromised"])
def test_end_at_a_row_that_may_hide_a_successor_raises(
    node: Node, store: ScriptedStorage, ring: Keyring
) -> None:
    node.replace(record(1).id, successor(2))
    other = Node(store, ring=ring)
    acts: list[Callable[[], object]] = [
        lambda: other.revoke(record(1).id),
        lambda: other.revoke(record(1).id, how=Ending.REVOKED),
        lambda: other.replace(record(1).id, successor(3), joins=None),
    ]
    for act in acts:
        with pytest.raises(StorageUnavailable, match="may name a new id"):
            act()


# --- one subject --------------------------------------------------------------------------------


def test_watermark_refuses_the_sessions_of_its_subject_that_began_until_then(node: Node) -> None:
    assert node.watermark("ann") < 0
    node.revoke_subject("ann", now=NOW + 0.9)
    assert node.watermark("ann") == NOW + SKEW
    assert node.watermark("bob") < 0
    # A session that began by a clock that is ahead, too.
    for began in (NOW - 3600, NOW, NOW + SKEW):
        assert node.refuses(record(2, created_at=began))
    node.check(record(3, "bob", NOW - 3600))
    node.check(record(4, None, NOW - 3600))
    node.check(record(5, created_at=NOW + SKEW + 1))


def test_later_watermark_refuses_sessions_that_began_in_between(node: Node) -> None:
    node.revoke_subject("ann")
    between = record(created_at=node.begin("ann", NOW + 5))
    node.check(between, NOW + 60)
    node.revoke_subject("ann", now=NOW + 10)
    assert node.refuses(between)


def test_second_watermark_within_a_second_refuses_sessions_that_began_in_between(
    node: Node,
) -> None:
    for _ in range(5):
        node.revoke_subject("ann")
        signed_in = record(created_at=node.begin("ann"))
        node.check(signed_in)
        node.revoke_subject("ann", now=NOW + 0.5)
        assert node.refuses(signed_in)


def test_watermark_never_goes_back_nor_expires_earlier(node: Node, clock: Clock) -> None:
    node.revoke_subject("ann")
    node.revoke_subject("ann", now=NOW - 30)  # by a node whose clock is behind
    node.revoke_subject("bob")
    node.revoke_subject("bob", 60)
    for subject in ("ann", "bob"):
        assert node.refuses(record(1, subject, NOW))
        assert node.refuses(record(1, subject, NOW - 10))
    clock.now = LATER + 2 * SKEW - 1
    assert node.refuses(record(1, "bob"))
    clock.now = LATER + 2 * SKEW
    assert not node.refuses(record(1, "bob"))


def test_watermark_lives_as_long_as_the_last_session_that_it_refuses(
    node: Node, store: ScriptedStorage
) -> None:
    for _ in range(3):
        node.revoke_subject("ann")
        node.begin("ann")
    expires_at = row_of(store, SUBJECTS, only(store, SUBJECTS)[0]).expires_at
    assert expires_at == (node.watermark("ann") + LIFETIME + SKEW) * 1000


def test_ring_without_a_lookup_key_revokes_sessions_and_no_subjects(store: ScriptedStorage) -> None:
    keyless = Node(store, ring=Keyring(RING.keys))
    with pytest.raises(ConfigurationError, match="lookup key"):
        keyless.revoke_subject("ann")
    assert list(store.keys(SUBJECTS)) == []
    keyless.check(record())
    keyless.revoke(record().id)
    assert keyless.refuses(record())


def test_nodes_that_revoke_one_subject_at_once_all_succeed(node: Node) -> None:
    line = threading.Barrier(8)  # fewer than a writer has tries

    def revoke(number: int) -> None:
        line.wait()
        node.revoke_subject("ann", now=NOW + number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(revoke, range(8)))
    assert node.watermark("ann") >= NOW + SKEW + 7


def test_watermark_that_loses_every_race_raises(node: Node, store: ScriptedStorage) -> None:
    store.answer("create", value=False)
    with pytest.raises(StorageUnavailable):
        node.revoke_subject("ann")
    assert store.count["create"] == 16


# --- rows that do not open ----------------------------------------------------------------------


def only(store: Storage, context: str) -> tuple[str, Stored]:
    (key,) = store.keys(context)
    return key, row_of(store, context, key)


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
def test_row_of_a_session_refuses_it_whatever_the_row_holds(
    node: Node, store: ScriptedStorage, how: Ending
) -> None:
    node.revoke(record().id, how=how)
    key, good = only(store, SESSIONS)
    for row in spoilt(good):
        replace_row(store, SESSIONS, key, row)
        for ring in (RING, LAGGING, COMPROMISED):
            with pytest.raises((RevokedSession, ReplacedSession)):
                Node(store, ring=ring).check(record())


def test_row_of_another_session_does_not_say_that_this_one_was_replaced(
    node: Node, store: ScriptedStorage
) -> None:
    node.revoke(record(1).id)
    key, ours = only(store, SESSIONS)
    node.revoke(record(2).id, how=Ending.REPLACED)
    (other,) = set(store.keys(SESSIONS)) - {key}
    theirs = row_of(store, SESSIONS, other)
    for row in (theirs, replace(theirs, version=ours.version)):
        replace_row(store, SESSIONS, key, row)
        assert node.refuses(record(1))


def test_row_of_a_replaced_session_is_readable_by_some_node_or_by_none(
    node: Node, store: ScriptedStorage
) -> None:
    node.revoke(record().id, how=Ending.REPLACED)
    with pytest.raises(ReplacedSession):
        Node(store, ring=LAGGING).check(record())
    with pytest.raises(RevokedSession):
        Node(store, ring=COMPROMISED).check(record())


def test_unreadable_watermark_refuses_its_subject_and_no_other(
    node: Node, store: ScriptedStorage
) -> None:
    node.revoke_subject("ann")
    key, good = only(store, SUBJECTS)
    for row in spoilt(good):
        replace_row(store, SUBJECTS, key, row)
        for created_at in (NOW - 3600, NOW, NOW + 3600):
            with pytest.raises(StorageUnavailable, match="unreadable"):
                node.check(record(created_at=created_at))
        node.check(record(2, "bob"))
        node.check(record(3, None))
    replace_row(store, SUBJECTS, key, good)
    assert node.refuses(record())


@pytest.mark.parametrize("ring", [LAGGING, COMPROMISED], ids=["lagging", "compromised"])
def test_watermark_under_an_unusable_key_refuses_its_subject_until_it_is_rewritten(
    node: Node, store: ScriptedStorage, ring: Keyring
) -> None:
    node.revoke_subject("ann", LIFETIME + 60)
    other = Node(store, ring=ring)
    for created_at in (NOW - 3600, NOW + 3600):
        with pytest.raises(StorageUnavailable):
            other.check(record(created_at=created_at))
    other.revoke_subject("ann", LIFETIME, NOW + 5)
    assert other.watermark("ann", NOW + 5) == NOW + SKEW + 5
    assert only(store, SUBJECTS)[1].expires_at == (LATER + 60 + 2 * SKEW) * 1000


def test_watermarks_stay_readable_as_keys_rotate(node: Node, store: ScriptedStorage) -> None:
    node.revoke_subject("ann")
    rotated = Node(store, ring=Keyring((NEXT_KEY, *RING.keys), lookup=RING.lookup))
    assert rotated.watermark("ann") == NOW + SKEW
    rotated.revoke_subject("ann", now=NOW + 60)
    assert only(store, SUBJECTS)[1].value[1:5] == NEXT_KEY.kid
    assert rotated.watermark("ann") == NOW + SKEW + 60


# --- sign-ins -----------------------------------------------------------------------------------


def test_sign_in_begins_above_the_watermark(node: Node) -> None:
    assert node.begin("ann", now=NOW + 0.9) == NOW
    node.revoke_subject("ann")
    assert node.begin("ann") == NOW + SKEW + 1
    assert node.begin("ann", now=NOW + SKEW + 60) == NOW + SKEW + 60


def test_sign_in_over_a_session_that_was_signed_out_everywhere_meanwhile_is_refused(
    node: Node,
) -> None:
    assert node.begin("ann", since=NOW - 60) == NOW
    node.revoke_subject("ann")
    with pytest.raises(RevokedSession):
        node.begin("ann", since=NOW - 60)
    assert node.begin("ann", since=NOW + SKEW + 1) == NOW + SKEW + 1


@pytest.mark.parametrize("skew", [SKEW])
def test_sign_out_everywhere_holds_and_the_next_sign_in_too_by_all_clocks_within_the_skew(
    store: ScriptedStorage, skew: int
) -> None:
    """Seven clocks sign in, seven sign out everywhere; then each signs in again."""
    offsets = range(0, skew + 1, skew // 6)
    for one, (ahead, behind) in enumerate(product(offsets, offsets)):
        for delay in (0, 0.5, 1, skew // 2):
            user, (begins, revokes) = f"ann {one} {delay}", (Node(store), Node(store))
            before = record(created_at=begins.begin(user, NOW + ahead), subject=user)
            revokes.revoke_subject(user, now=NOW + behind + delay)
            after = record(2, user, begins.begin(user, NOW + ahead + delay))
            for clock in offsets:
                other = Node(store)
                other.now = NOW + clock + delay
                assert other.refuses(before)
                other.check(after)


def test_sign_in_over_a_lost_watermark_succeeds_and_older_sessions_stay_out(
    node: Node, store: ScriptedStorage
) -> None:
    node.revoke_subject("ann", now=NOW - 60)
    key, good = only(store, SUBJECTS)
    for value in (b"junk", good.value[:-1], good.value + b"\0"):
        replace_row(store, SUBJECTS, key, replace(good, value=value))
        node.check(record(created_at=node.begin("ann")))
        assert node.refuses(record(created_at=NOW + SKEW))
        assert only(store, SUBJECTS)[1].expires_at == (LATER + 2 * SKEW) * 1000


def test_two_sign_ins_over_a_lost_watermark_at_once_both_succeed(
    node: Node, store: ScriptedStorage
) -> None:
    node.revoke_subject("ann", now=NOW - 60)
    key, good = only(store, SUBJECTS)
    replace_row(store, SUBJECTS, key, replace(good, value=b"junk"))
    began: list[int] = []
    store.before("update", act=lambda: began.append(node.begin("ann")))
    began.append(node.begin("ann"))
    assert len(began) == 2
    for at in began:
        node.check(record(created_at=at))


def test_sign_in_at_a_node_that_cannot_read_the_watermark_raises_and_changes_nothing(
    node: Node, store: ScriptedStorage
) -> None:
    node.revoke_subject("ann")
    before = only(store, SUBJECTS)
    with pytest.raises(StorageUnavailable):
        Node(store, ring=LAGGING).begin("ann", now=NOW + 60)
    assert only(store, SUBJECTS) == before


# --- names and failures -------------------------------------------------------------------------


def test_refused_rows_are_reported_with_their_reason(node: Node, store: ScriptedStorage) -> None:
    refused: list[tuple[str, str]] = []
    lagging = Node(store, ring=LAGGING, refused=lambda *row: refused.append(row))
    node.revoke(record().id)
    node.revoke_subject("ann")
    for which in (record(), record(2)):
        with pytest.raises((UnreadableError, StorageUnavailable)):
            lagging.check(which)
    assert refused == [(SESSIONS, "kid-unknown"), (SUBJECTS, "kid-unknown")]


def test_realms_do_not_revoke_each_other_s_sessions(store: ScriptedStorage) -> None:
    shop, blog = Node(store, "shop"), Node(store, "blog")
    shop.revoke(record().id)
    shop.revoke_subject("bob")
    assert shop.refuses(record())
    blog.check(record())
    blog.check(record(2, "bob"))


def test_store_shows_neither_subject_nor_session_id(node: Node, store: ScriptedStorage) -> None:
    node.revoke_subject("ann@example.edu")
    other = Node(store, ring=Keyring(RING.keys, lookup=os.urandom(32)))
    other.revoke_subject("ann@example.edu")
    keys = list(store.keys(SUBJECTS))
    assert len(set(keys)) == 2  # keyed by the lookup key
    assert not any("example" in key for key in keys)
    node.revoke(b"session-id-here!")
    key, stored = only(store, SESSIONS)
    assert b"session-id-here!" not in key.encode() + stored.value


def test_every_operation_raises_while_the_store_is_down(node: Node, store: ScriptedStorage) -> None:
    store.fail()
    operations: list[Callable[[], object]] = [
        lambda: node.check(record()),
        lambda: node.revoke(record().id),
        lambda: node.revoke_subject("ann"),
        lambda: node.watermark("ann"),
        lambda: node.begin("ann"),
    ]
    for operation in operations:
        with pytest.raises(StorageUnavailable):
            operation()
