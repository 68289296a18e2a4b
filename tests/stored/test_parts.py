"""Spilling: a part in the store is the right one, of the right version, or it counts as lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from sealedstate._stored.parts import (
    CONTEXT,
    WRITE_TRIES,
    Merge,
    Recalled,
    StoredParts,
    last_writer_wins,
)
from sealedstate.errors import OutcomeUnknown, StorageError, StorageUnavailable, VersionMismatch
from sealedstate.keyring import Key, Keyring
from sealedstate.storage import MemoryStorage, Stored
from tests.support.jar import RING, Clock
from tests.support.stored import PartRow as Row
from tests.support.stored import access_of

SESSION = bytes(range(16))

CART = Row(SESSION, "cart")
NEXT_KEY = Key.generate(os.urandom)


class Meddled(MemoryStorage):
    """A store in which something happens to writes.

    `before` runs ahead of each write. `lost` says of the next writes whether each is performed;
    either way its writer hears that the outcome is unknown.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.before: Callable[[], object] = lambda: None
        self.lost: list[bool] = []
        self.writes = 0

    def create(
        self, context: str, key: str, value: bytes, expires_at: int | None, version: int
    ) -> bool:
        return self._meddle(
            version, lambda: MemoryStorage.create(self, context, key, value, expires_at, version)
        )

    def update(
        self,
        context: str,
        key: str,
        value: bytes,
        expires_at: int | None,
        version: int,
        expected: int | None = None,
    ) -> bool:
        return self._meddle(
            version,
            lambda: MemoryStorage.update(self, context, key, value, expires_at, version, expected),
        )

    def _meddle(self, version: int, write: Callable[[], bool]) -> bool:
        self.writes += 1
        self.before()
        if not self.lost:
            return write()
        if self.lost.pop(0):
            write()
        raise OutcomeUnknown("the reply was lost", version)


class Tab:
    """The parts of one node, with its clock and ring; one second between writes."""

    def __init__(self, store: MemoryStorage, clock: Clock, ring: Keyring = RING) -> None:
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
        return None if recalled is None else recalled.data


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Meddled:
    return Meddled(clock)


@pytest.fixture
def tab(store: Meddled, clock: Clock) -> Tab:
    return Tab(store, clock)


def put(store: MemoryStorage, row: Row, stored: Stored) -> None:
    """Make the store hold exactly this, as somebody who owns the store could."""
    store.delete(CONTEXT, row.key)
    assert MemoryStorage.create(
        store, CONTEXT, row.key, stored.value, stored.expires_at, stored.version
    )


def held(store: MemoryStorage, row: Row = CART) -> Stored:
    stored = store.read(CONTEXT, row.key)
    assert stored is not None
    return stored


# --- there and back ---------------------------------------------------------------------------


def test_a_spilled_part_is_recalled_with_its_version(tab: Tab) -> None:
    version = tab.spill(b"3 books")
    assert tab.parts.recall(*CART, version) == Recalled(b"3 books", version)


def test_a_part_is_written_over_the_version_that_is_known(tab: Tab, store: Meddled) -> None:
    first = tab.spill(b"1 book")
    second = tab.spill(b"2 books", first)
    assert second > first
    assert tab.recall(second) == b"2 books"
    assert store.writes == 2


def test_the_store_sees_neither_value_nor_name_nor_session(tab: Tab, store: Meddled) -> None:
    tab.spill(b"canary", row=Row(b"session-id-here!", "canary-name"))
    (key,) = store.keys(CONTEXT)
    stored = store.read(CONTEXT, key)
    assert stored is not None
    seen = key.encode() + stored.value
    assert not any(word in seen for word in (b"canary", b"name", b"session-id-here!"))


def test_a_part_lives_in_the_store_as_long_as_its_session(
    tab: Tab, store: Meddled, clock: Clock
) -> None:
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


def test_a_forgotten_row_is_gone(tab: Tab) -> None:
    version = tab.spill(b"v")
    tab.parts.delete(*CART, version)
    tab.parts.delete(*CART, version)
    assert tab.recall(version) is None


def test_a_row_that_another_tab_has_written_since_is_not_forgotten(tab: Tab) -> None:
    first = tab.spill(b"mine")
    second = tab.spill(b"theirs", first)
    tab.parts.delete(*CART, first)
    assert tab.recall(second) == b"theirs"


def test_repr_of_what_was_recalled_hides_it() -> None:
    assert "canary" not in repr(Recalled(b"canary", 1))


# --- sealed for exactly its row ---------------------------------------------------------------


def test_of_two_rows_that_were_swapped_neither_opens(tab: Tab, store: Meddled) -> None:
    other = Row(SESSION, "address")
    cart, address = tab.spill(b"cart"), tab.spill(b"address", row=other)
    mine, theirs = held(store), held(store, other)
    put(store, CART, theirs)
    put(store, other, mine)
    assert tab.recall(cart) is None
    assert tab.recall(address, other) is None
    # Not even with each other's version beside them.
    put(store, CART, replace(theirs, version=cart))
    put(store, other, replace(mine, version=address))
    assert tab.recall(cart) is None
    assert tab.recall(address, other) is None


def test_a_row_of_another_session_does_not_open(tab: Tab, store: Meddled) -> None:
    foreign = Row(b"another session!", "cart")
    version = tab.spill(b"theirs", row=foreign)
    put(store, CART, held(store, foreign))
    assert tab.recall(version) is None


def test_a_row_of_another_realm_does_not_open(tab: Tab, store: Meddled, clock: Clock) -> None:
    version = tab.spill(b"v")
    neighbour = StoredParts(access_of(store, RING, clock, "other"))
    assert neighbour.recall(*CART, version) is None
    assert tab.recall(version) == b"v"


def test_a_row_that_was_rolled_back_counts_as_lost(tab: Tab, store: Meddled) -> None:
    first = tab.spill(b"old")
    backup = held(store)
    second = tab.spill(b"new", first)
    put(store, CART, backup)
    assert tab.recall(second) is None
    assert tab.recall(first) == b"old"  # whose cookie is as old may have it


def test_an_old_value_under_a_new_version_counts_as_lost(tab: Tab, store: Meddled) -> None:
    first = tab.spill(b"old")
    backup = held(store)
    second = tab.spill(b"new", first)
    for version in (second, second + 1, first + 1, first - 1, 1, 2**62):
        put(store, CART, replace(backup, version=version))
        assert tab.recall(first) is None
        assert tab.recall(second) is None


def test_a_row_that_was_altered_cut_or_emptied_counts_as_lost(tab: Tab, store: Meddled) -> None:
    version = tab.spill(b"value")
    good = held(store)
    token = good.value
    bad = [token[:size] for size in range(len(token))] + [token + b"\0"]
    for at in range(5, len(token)):  # behind format and kid, of which others may know more
        bad.append(token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :])
    for value in bad:
        put(store, CART, replace(good, value=value))
        assert tab.recall(version) is None
    put(store, CART, good)
    assert tab.recall(version) == b"value"


def test_a_row_that_is_gone_counts_as_lost(tab: Tab, store: Meddled) -> None:
    version = tab.spill(b"v")
    store.delete(CONTEXT, CART.key)
    assert tab.recall(version) is None


def test_a_newer_row_is_another_tabs_and_its_value_counts(tab: Tab) -> None:
    first = tab.spill(b"mine")
    second = tab.spill(b"theirs", first)
    recalled = tab.parts.recall(*CART, first)
    assert recalled == Recalled(b"theirs", second)


# --- keys -------------------------------------------------------------------------------------


def test_a_part_under_a_retired_key_is_recalled_and_written_anew_by_the_primary(
    tab: Tab, store: Meddled, clock: Clock
) -> None:
    version = tab.spill(b"v")
    rotated = Tab(store, clock, Keyring((NEXT_KEY, *RING.keys)))
    assert rotated.recall(version) == b"v"
    version = rotated.spill(b"w", version)
    assert rotated.recall(version) == b"w"
    assert held(store).value[1:5] == NEXT_KEY.kid


def test_a_part_under_a_revoked_key_counts_as_lost(tab: Tab, store: Meddled, clock: Clock) -> None:
    version = tab.spill(b"v")
    revoked = Keyring((NEXT_KEY, replace(RING.keys[0], revoked=True)))
    assert Tab(store, clock, revoked).recall(version) is None


@pytest.mark.parametrize(
    "ring",
    [
        Keyring((NEXT_KEY,)),
        Keyring((NEXT_KEY, replace(RING.keys[0], disabled=True))),
    ],
    ids=["unknown", "disabled"],
)
def test_a_part_under_a_key_that_this_node_lacks_is_not_lost_but_out_of_reach(
    tab: Tab, store: Meddled, clock: Clock, ring: Keyring
) -> None:
    version = tab.spill(b"v")
    with pytest.raises(StorageError):
        Tab(store, clock, ring).recall(version)
    assert tab.recall(version) == b"v"


def test_a_part_in_a_format_of_the_future_is_not_lost_but_out_of_reach(
    tab: Tab, store: Meddled
) -> None:
    version = tab.spill(b"v")
    good = held(store)
    put(store, CART, replace(good, value=b"\2" + good.value[1:]))
    with pytest.raises(StorageError):
        tab.recall(version)


# --- conflicts --------------------------------------------------------------------------------


def test_the_last_writer_wins_by_default(tab: Tab) -> None:
    first = tab.spill(b"base")
    tab.spill(b"theirs", first)
    third = tab.spill(b"ours", first)
    assert tab.recall(third) == b"ours"


def test_a_conflict_asks_the_merge_rule_for_base_theirs_and_ours(tab: Tab) -> None:
    asked = []

    def merge(base: bytes | None, theirs: bytes, ours: bytes) -> bytes:
        asked.append((base, theirs, ours))
        return b"merged"

    first = tab.spill(b"base")
    tab.spill(b"theirs", first)
    third = tab.spill(b"ours", first, b"base", merge)
    assert asked == [(b"base", b"theirs", b"ours")]
    assert tab.recall(third) == b"merged"


def test_without_a_conflict_the_merge_rule_is_not_asked(tab: Tab) -> None:
    def merge(*_: object) -> bytes:
        raise AssertionError("there was no conflict")

    first = tab.spill(b"base", merge=merge)
    second = tab.spill(b"ours", first, b"base", merge)
    assert tab.recall(second) == b"ours"


def test_who_knows_of_no_row_and_finds_one_merges_with_it(tab: Tab) -> None:
    tab.spill(b"theirs")
    version = tab.spill(b"ours", merge=lambda base, theirs, ours: theirs + b"+" + ours)
    assert tab.recall(version) == b"theirs+ours"


def test_each_conflict_merges_our_own_value_anew_and_none_twice(tab: Tab, store: Meddled) -> None:
    additions = [b"a", b"b", b"c"]
    version = tab.spill(b"")
    current = [version]

    def another_tab_adds() -> None:
        if additions:
            store.before, before = (lambda: None), store.before
            value = b"".join([tab.recall(0) or b"", additions.pop(0)])
            current.append(tab.spill(value, current[-1]))
            store.before = before

    store.before = another_tab_adds
    version = tab.spill(b"X", version, b"", lambda base, theirs, ours: theirs + ours)
    assert tab.recall(version) == b"abcX"


def test_a_part_whose_row_is_gone_is_written_anew(tab: Tab, store: Meddled) -> None:
    first = tab.spill(b"v")
    store.delete(CONTEXT, CART.key)
    second = tab.spill(b"w", first)
    assert second > first
    assert tab.recall(second) == b"w"


def test_a_row_that_no_longer_opens_is_overwritten(tab: Tab, store: Meddled) -> None:
    def merge(*_: object) -> bytes:
        raise AssertionError("there is nothing to merge with")

    first = tab.spill(b"v")
    put(store, CART, replace(held(store), value=b"junk", version=first + 5))
    second = tab.spill(b"w", first, b"v", merge)
    assert second > first + 5
    assert tab.recall(second) == b"w"


def test_versions_grow_even_when_the_clock_has_stepped_back(tab: Tab, clock: Clock) -> None:
    first = tab.spill(b"v")
    clock.forward(-7200)
    second = tab.spill(b"w", first)
    assert second > first
    assert tab.recall(second) == b"w"


def test_who_loses_every_race_in_a_row_is_told(tab: Tab, store: Meddled) -> None:
    version = [tab.spill(b"0")]

    def another_tab_writes() -> None:
        store.before, before = (lambda: None), store.before
        version.append(tab.spill(b"theirs", version[-1]))
        store.before = before

    store.before, store.writes = another_tab_writes, 0
    with pytest.raises(StorageUnavailable, match=f"{WRITE_TRIES} times"):
        tab.spill(b"ours", version[0])
    # Four busy requests of one session were seen to beat a fifth 16 times.
    assert WRITE_TRIES >= 100
    assert store.writes == 2 * WRITE_TRIES
    assert tab.recall(version[-1]) == b"theirs"


def test_who_loses_all_races_but_the_last_still_writes(tab: Tab, store: Meddled) -> None:
    version = [tab.spill(b"0")]
    left = [None] * (WRITE_TRIES - 1)

    def another_tab_writes() -> None:
        if left:
            left.pop()
            store.before, before = (lambda: None), store.before
            version.append(tab.spill(b"theirs", version[-1]))
            store.before = before

    store.before = another_tab_writes
    assert tab.recall(tab.spill(b"ours", version[0])) == b"ours"


# --- replies that get lost --------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True], ids=["create", "update"])
def test_a_write_that_happened_though_its_reply_was_lost_is_not_repeated(
    tab: Tab, store: Meddled, existing: bool
) -> None:
    known = tab.spill(b"base") if existing else None
    store.lost, store.writes = [True], 0
    version = tab.spill(b"ours", known, b"base", lambda *_: b"merged with itself")
    assert store.writes == 1
    assert held(store).version == version
    assert tab.recall(version) == b"ours"


@pytest.mark.parametrize("existing", [False, True], ids=["create", "update"])
def test_a_write_that_did_not_happen_and_whose_reply_was_lost_is_repeated(
    tab: Tab, store: Meddled, existing: bool
) -> None:
    known = tab.spill(b"base") if existing else None
    store.lost, store.writes = [False, False], 0
    version = tab.spill(b"ours", known)
    assert store.writes == 3
    assert tab.recall(version) == b"ours"


def test_another_tabs_write_of_the_same_version_is_not_taken_for_ours(
    tab: Tab, store: Meddled, clock: Clock
) -> None:
    def another_tab_writes() -> None:
        # In the same microsecond, so that it proposes the same version.
        store.before, store.lost = (lambda: None), []
        clock.forward(-1)
        tab.spill(b"theirs")
        store.lost = [False]

    store.before, store.lost = another_tab_writes, [False]
    version = tab.spill(b"ours", merge=lambda base, theirs, ours: theirs + b"+" + ours)
    assert tab.recall(version) == b"theirs+ours"


def test_our_write_that_another_tab_has_overwritten_meanwhile_is_merged(
    tab: Tab, store: Meddled
) -> None:
    class Overwritten(Meddled):
        def read(self, context: str, key: str) -> Stored | None:
            stored = super().read(context, key)
            if stored is not None and waiting:
                waiting.clear()
                other.spill(b"theirs", stored.version)
                stored = super().read(context, key)
            return stored

    waiting = [True]
    meddled = Overwritten(tab.clock)
    other, ours = Tab(meddled, tab.clock), Tab(meddled, tab.clock)
    meddled.lost = [True]
    version = ours.spill(b"ours", merge=lambda base, theirs, ours: theirs + b"+" + ours)
    assert ours.recall(version) == b"theirs+ours"


def test_a_store_that_is_down_is_told_of(tab: Tab, clock: Clock) -> None:
    class Down(MemoryStorage):
        def read(self, context: str, key: str) -> Stored | None:
            raise StorageUnavailable("down")

        def create(self, *_: object) -> bool:
            raise StorageUnavailable("down")

        def delete(self, context: str, key: str, expected: int | None = None) -> bool:
            raise VersionMismatch(99)

    down = Tab(Down(clock), clock)
    with pytest.raises(StorageUnavailable):
        down.spill(b"v")
    with pytest.raises(StorageUnavailable):
        down.recall(1)
    down.parts.delete(*CART, 1)  # somebody uses it again: nothing to tell
