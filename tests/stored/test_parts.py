"""A part in the store is of the right row and version, or it counts as lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from sealedstate._stored.parts import (
    CONTEXT,
    WRITE_TRIES,
    Merge,
    StoredParts,
    last_writer_wins,
)
from sealedstate.errors import StorageError, StorageUnavailable, VersionMismatch
from sealedstate.keyring import Key, Keyring
from sealedstate.storage import Storage, Stored
from sealedstate.testing import ScriptedStorage
from tests.support.jar import RING, Clock
from tests.support.stored import PartRow as Row
from tests.support.stored import access_of, replace_row, row_of

SESSION = bytes(range(16))
CART = Row(SESSION, "cart")
NEXT_KEY = Key.generate(os.urandom)
WRITES = ("create", "update")


class Tab:
    """The parts of one node, with its clock and ring; one second between writes."""

    def __init__(self, store: Storage, clock: Clock, ring: Keyring = RING) -> None:
        self.parts = StoredParts(access_of(store, ring, clock))
        self.clock = clock

    def spill(
        self,
        data: bytes,
        known: int | None = None,
        base: bytes | None = None,
        merge: Merge = last_writer_wins,
        row: Row = CART,
    ) -> int:
        self.clock.forward(1)
        expires_at = int(self.clock()) + 3600
        return self.parts.spill(
            *row, data, known=known, base=base, expires_at=expires_at, merge=merge
        )

    def recall(self, known: int, row: Row = CART) -> bytes | None:
        recalled = self.parts.recall(*row, known)
        return None if recalled is None else recalled.value


@pytest.fixture
def store(clock: Clock) -> ScriptedStorage:
    return ScriptedStorage(clock)


@pytest.fixture
def tab(store: ScriptedStorage, clock: Clock) -> Tab:
    return Tab(store, clock)


def held(store: Storage, row: Row = CART) -> Stored:
    return row_of(store, CONTEXT, row.key)


def put(store: Storage, stored: Stored, row: Row = CART) -> None:
    replace_row(store, CONTEXT, row.key, stored)


def writes(store: ScriptedStorage) -> int:
    return store.count["create"] + store.count["update"]


def joined(base: bytes | None, theirs: bytes, ours: bytes) -> bytes:
    return theirs + b"+" + ours


def no_merge(*_: object) -> bytes:
    raise AssertionError("there was nothing to merge")


# --- spill and recall ---------------------------------------------------------------------------


def test_spilled_part_is_recalled_with_its_version(tab: Tab, store: ScriptedStorage) -> None:
    first = tab.spill(b"3 books", merge=no_merge)
    recalled = tab.parts.recall(*CART, first)
    assert recalled is not None
    assert (recalled.value, recalled.version) == (b"3 books", first)
    second = tab.spill(b"2 books", first, b"3 books", no_merge)
    assert second > first
    assert tab.recall(second) == b"2 books"
    assert writes(store) == 2
    assert "books" not in repr(recalled)


def test_store_sees_no_value_name_or_session_id(tab: Tab, store: ScriptedStorage) -> None:
    tab.spill(b"canary", row=Row(b"session-id-here!", "canary-name"))
    (key,) = store.keys(CONTEXT)
    seen = key.encode() + row_of(store, CONTEXT, key).value
    assert not any(word in seen for word in (b"canary", b"name", b"session-id-here!"))


def test_part_expires_with_its_session(tab: Tab, store: ScriptedStorage, clock: Clock) -> None:
    version = tab.spill(b"v")
    assert held(store).expires_at == (int(clock()) + 3600) * 1000
    clock.forward(3600)
    assert tab.recall(version) is None


def test_each_session_and_name_has_its_own_row() -> None:
    rows = [
        Row(SESSION, "cart"),
        Row(SESSION, "Cart"),
        Row(SESSION, "cart2"),
        Row(SESSION[::-1], "cart"),
        Row(SESSION + b"c", "art"),
        Row(SESSION[:-1], "cart"),
    ]
    assert len({row.key for row in rows}) == len(rows)
    assert {len(row.key) for row in rows} == {32}


def test_deletion_spares_a_row_that_another_tab_has_written_since(tab: Tab) -> None:
    first = tab.spill(b"ours")
    second = tab.spill(b"theirs", first)
    tab.parts.delete(*CART, first)
    assert tab.recall(second) == b"theirs"
    for _ in range(2):
        tab.parts.delete(*CART, second)
        assert tab.recall(second) is None


def test_newer_row_is_another_tab_s_and_counts(tab: Tab) -> None:
    first = tab.spill(b"ours")
    second = tab.spill(b"theirs", first)
    recalled = tab.parts.recall(*CART, first)
    assert recalled is not None
    assert (recalled.value, recalled.version) == (b"theirs", second)


# --- rows that do not open ----------------------------------------------------------------------


def test_swapped_rows_do_not_open(tab: Tab, store: ScriptedStorage) -> None:
    other = Row(SESSION, "address")
    cart, address = tab.spill(b"cart"), tab.spill(b"address", row=other)
    ours, theirs = held(store), held(store, other)
    # Neither with their own versions nor with each other's.
    for one, two in (
        (theirs, ours),
        (replace(theirs, version=cart), replace(ours, version=address)),
    ):
        put(store, one)
        put(store, two, other)
        assert tab.recall(cart) is None
        assert tab.recall(address, other) is None


def test_row_of_another_session_or_realm_does_not_open(
    tab: Tab, store: ScriptedStorage, clock: Clock
) -> None:
    version = tab.spill(b"v")
    neighbour = StoredParts(access_of(store, RING, clock, "other"))
    assert neighbour.recall(*CART, version) is None
    assert tab.recall(version) == b"v"
    foreign = Row(b"another session!", "cart")
    version = tab.spill(b"theirs", row=foreign)
    put(store, held(store, foreign))
    assert tab.recall(version) is None


def test_rolled_back_row_counts_as_lost(tab: Tab, store: ScriptedStorage) -> None:
    first = tab.spill(b"old")
    backup = held(store)
    second = tab.spill(b"new", first)
    put(store, backup)
    assert tab.recall(second) is None
    assert tab.recall(first) == b"old"  # a cookie that is as old may have it
    for version in (second, second + 1, first + 1, first - 1, 1, 2**62):
        put(store, replace(backup, version=version))
        assert tab.recall(first) is None
        assert tab.recall(second) is None


def test_altered_cut_or_missing_row_counts_as_lost(tab: Tab, store: ScriptedStorage) -> None:
    version = tab.spill(b"value")
    good = held(store)
    token = good.value
    bad = [token[:size] for size in range(len(token))] + [token + b"\0"]
    for at in range(5, len(token)):  # behind format and kid, which other nodes may know
        bad.append(token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :])
    for value in bad:
        put(store, replace(good, value=value))
        assert tab.recall(version) is None
    put(store, good)
    assert tab.recall(version) == b"value"
    store.delete(CONTEXT, CART.key)
    assert tab.recall(version) is None


# --- keys ---------------------------------------------------------------------------------------


def test_part_under_a_retired_key_opens_and_is_rewritten_by_the_primary(
    tab: Tab, store: ScriptedStorage, clock: Clock
) -> None:
    version = tab.spill(b"v")
    rotated = Tab(store, clock, Keyring((NEXT_KEY, *RING.keys)))
    assert rotated.recall(version) == b"v"
    version = rotated.spill(b"w", version)
    assert rotated.recall(version) == b"w"
    assert held(store).value[1:5] == NEXT_KEY.kid


def test_part_under_a_revoked_key_counts_as_lost(
    tab: Tab, store: ScriptedStorage, clock: Clock
) -> None:
    version = tab.spill(b"v")
    revoked = Keyring((NEXT_KEY, replace(RING.keys[0], revoked=True)))
    assert Tab(store, clock, revoked).recall(version) is None


def test_part_that_another_node_may_open_is_out_of_reach(
    tab: Tab, store: ScriptedStorage, clock: Clock
) -> None:
    version = tab.spill(b"v")
    unknown = Keyring((NEXT_KEY,))
    disabled = Keyring((NEXT_KEY, replace(RING.keys[0], disabled=True)))
    for ring in (unknown, disabled):
        with pytest.raises(StorageError):
            Tab(store, clock, ring).recall(version)
    assert tab.recall(version) == b"v"
    good = held(store)
    put(store, replace(good, value=b"\2" + good.value[1:]))  # a format of the future
    with pytest.raises(StorageError):
        tab.recall(version)


# --- conflicts ----------------------------------------------------------------------------------


def test_last_writer_wins_by_default(tab: Tab) -> None:
    first = tab.spill(b"base")
    tab.spill(b"theirs", first)
    assert tab.recall(tab.spill(b"ours", first)) == b"ours"


def test_conflict_asks_the_merge_rule(tab: Tab) -> None:
    asked = []

    def merge(base: bytes | None, theirs: bytes, ours: bytes) -> bytes:
        asked.append((base, theirs, ours))
        return b"merged"

    first = tab.spill(b"base")
    tab.spill(b"theirs", first)
    third = tab.spill(b"ours", first, b"base", merge)
    assert asked == [(b"base", b"theirs", b"ours")]
    assert tab.recall(third) == b"merged"


def test_writer_that_knows_no_row_merges_with_the_one_it_finds(tab: Tab) -> None:
    tab.spill(b"theirs")
    assert tab.recall(tab.spill(b"ours", merge=joined)) == b"theirs+ours"


class Rival:
    """Another tab that writes ahead of each of the next writes."""

    def __init__(self, tab: Tab, store: ScriptedStorage, version: int) -> None:
        self._tab, self._store, self._is_writing = tab, store, False
        self.versions = [version]

    def write_before(
        self, times: int | None, value: Callable[[], bytes] = lambda: b"theirs"
    ) -> None:
        left = [None] * (times or 0)

        def act() -> None:
            if self._is_writing or (times is not None and not left):
                return
            if left:
                left.pop()
            self._is_writing = True
            self.versions.append(self._tab.spill(value(), self.versions[-1]))
            self._is_writing = False

        self._store.before(*WRITES, act=act, times=None)


def test_every_conflict_merges_the_own_value_once(tab: Tab, store: ScriptedStorage) -> None:
    version = tab.spill(b"")
    additions = iter([b"a", b"b", b"c"])
    rival = Rival(tab, store, version)
    rival.write_before(3, lambda: (tab.recall(0) or b"") + next(additions))
    version = tab.spill(b"X", version, b"", lambda base, theirs, ours: theirs + ours)
    assert tab.recall(version) == b"abcX"


def test_missing_or_unreadable_row_is_overwritten(tab: Tab, store: ScriptedStorage) -> None:
    first = tab.spill(b"v")
    store.delete(CONTEXT, CART.key)
    second = tab.spill(b"w", first)
    assert second > first
    assert tab.recall(second) == b"w"
    put(store, replace(held(store), value=b"junk", version=second + 5))
    third = tab.spill(b"x", second, b"w", no_merge)
    assert third > second + 5
    assert tab.recall(third) == b"x"


def test_versions_grow_when_the_clock_steps_back(tab: Tab, clock: Clock) -> None:
    first = tab.spill(b"v")
    clock.forward(-7200)
    second = tab.spill(b"w", first)
    assert second > first
    assert tab.recall(second) == b"w"


def test_writer_that_loses_every_race_raises(tab: Tab, store: ScriptedStorage) -> None:
    version = tab.spill(b"0")
    rival = Rival(tab, store, version)
    rival.write_before(None)
    store.calls.clear()
    with pytest.raises(StorageUnavailable, match=f"{WRITE_TRIES} times"):
        tab.spill(b"ours", version)
    # Four busy requests of one session were seen to win against a fifth 16 times.
    assert WRITE_TRIES >= 100
    assert writes(store) == 2 * WRITE_TRIES
    assert tab.recall(rival.versions[-1]) == b"theirs"


def test_writer_that_loses_all_races_but_the_last_writes(tab: Tab, store: ScriptedStorage) -> None:
    version = tab.spill(b"0")
    Rival(tab, store, version).write_before(WRITE_TRIES - 1)
    assert tab.recall(tab.spill(b"ours", version)) == b"ours"


# --- lost replies and outages -------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("existing", [False, True], ids=["create", "update"])
def test_write_whose_reply_is_lost_is_repeated_only_if_it_did_not_happen(
    tab: Tab, store: ScriptedStorage, existing: bool, done: bool
) -> None:
    known = tab.spill(b"base") if existing else None
    store.calls.clear()
    store.lose_reply(*WRITES, done=done, times=1 if done else 2)
    version = tab.spill(b"ours", known, b"base", no_merge if done else last_writer_wins)
    assert writes(store) == (1 if done else 3)
    assert held(store).version == version
    assert tab.recall(version) == b"ours"


def test_write_of_another_tab_under_the_same_version_is_not_taken_for_our_own(
    tab: Tab, store: ScriptedStorage, clock: Clock
) -> None:
    def write_in_the_same_microsecond() -> None:
        clock.forward(-1)
        tab.spill(b"theirs")

    store.before(*WRITES, act=write_in_the_same_microsecond)
    store.lose_reply("create", done=False, after=1)
    assert tab.recall(tab.spill(b"ours", merge=joined)) == b"theirs+ours"


def test_own_write_that_another_tab_has_overwritten_is_merged(
    tab: Tab, store: ScriptedStorage
) -> None:
    store.lose_reply("create")
    store.before("read", act=lambda: tab.spill(b"theirs", held(store).version))
    assert tab.recall(tab.spill(b"ours", merge=joined)) == b"theirs+ours"


def test_store_that_is_down_raises(tab: Tab, store: ScriptedStorage) -> None:
    store.fail("delete", error=VersionMismatch(99)).fail()
    with pytest.raises(StorageUnavailable):
        tab.spill(b"v")
    with pytest.raises(StorageUnavailable):
        tab.recall(1)
    tab.parts.delete(*CART, 1)  # another tab uses the row again
