"""The sweep moves long-lived values to the newest key, and no needed key is destroyed."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sealedstate._stored.table import Kind, SealedTable, SweepResult
from sealedstate._wire.token import kid_of
from sealedstate.errors import StorageUnavailable
from sealedstate.keyring import Key, Keyring
from sealedstate.storage import USES
from sealedstate.testing import ScriptedStorage
from tests.support.jar import Clock
from tests.support.rings import DAY
from tests.support.stored import Rows, access_of, row_of

NOW = 1_800_000_000
CONTEXT = "sealedstate.sso.consent"
ROWS = Rows("default", os.urandom)


def ring_of(*dates: int) -> Keyring:
    """Lasting keys of these dates, the newest first."""
    return Keyring(tuple(Key.generate(os.urandom, date) for date in dates), announce=900)


def put(storage: Any, key: str, ring: Keyring, at: int = NOW, rows: Rows = ROWS) -> None:
    value = rows.seal_row(CONTEXT, key, 7, key.encode(), ring, at)
    assert storage.create(CONTEXT, key, value, (NOW + DAY) * 1000, 7)


def swept(storage: Any, ring: Keyring, now: float) -> SweepResult:
    result = SweepResult()
    access = access_of(storage, ring, lambda: now)
    SealedTable(access, Kind(CONTEXT, "consent", "a consent")).reseal(result)
    return result


@pytest.fixture
def storage() -> ScriptedStorage:
    return ScriptedStorage(Clock(NOW))


def test_contexts_of_long_lived_values_are_those_of_their_uses() -> None:
    assert [use.contexts for use in USES.values() if use.lasting] == [(CONTEXT,)]


def test_sweep_reseals_the_values_of_older_keys_and_keeps_their_expiry(
    storage: ScriptedStorage,
) -> None:
    ring = ring_of(NOW + DAY, 0)
    new, old = (key.kid for key in ring.keys)
    for number in range(20):
        put(storage, f"old {number}", ring)
    put(storage, "new", ring, NOW + DAY)
    before = row_of(storage, CONTEXT, "new")
    found = swept(storage, ring, NOW + DAY)
    assert (found.seen, found.resealed, found.needed[new], found.needed[old]) == (21, 20, 21, 0)
    assert row_of(storage, CONTEXT, "new") == before
    only = Keyring((ring.keys[0],))
    for number in range(20):
        row = row_of(storage, CONTEXT, f"old {number}")
        assert row.expires_at == (NOW + DAY) * 1000
        assert ROWS.open_row(CONTEXT, f"old {number}", row, only, NOW + DAY).decode() == (
            f"old {number}"
        )
    assert swept(storage, ring, NOW + DAY).resealed == 0


def test_sweep_leaves_unreadable_values_and_counts_their_keys_as_needed(
    storage: ScriptedStorage,
) -> None:
    ring = ring_of(NOW + DAY, 0)
    new, old = (key.kid for key in ring.keys)
    put(storage, "another realm's", ring, rows=Rows("another", os.urandom))
    put(storage, "an unknown key's", stranger := ring_of(0))
    storage.create(CONTEXT, "garbage", b"garbage", None, 1)
    put(storage, "ours", ring)
    before = [
        row_of(storage, CONTEXT, key) for key in ("another realm's", "an unknown key's", "garbage")
    ]
    found = swept(storage, ring, NOW + DAY)
    assert found.unreadable == {"tag": 1, "kid-unknown": 1, "malformed": 1}
    assert found.needed == {new: 1, old: 1, stranger.keys[0].kid: 1, b"": 1}
    after = [
        row_of(storage, CONTEXT, key) for key in ("another realm's", "an unknown key's", "garbage")
    ]
    assert after == before


def test_interrupted_sweep_continues_when_it_is_run_again(
    storage: ScriptedStorage,
) -> None:
    ring = ring_of(NOW + DAY, 0)
    for number in range(5):
        put(storage, str(number), ring)
    storage.delay("update").lose_reply("update", times=2)
    assert swept(storage, ring, NOW + DAY).needed == {ring.keys[0].kid: 5}
    storage.fail("read")
    with pytest.raises(StorageUnavailable):
        swept(storage, ring, NOW + DAY)
    storage.recover().arrive()
    assert swept(storage, ring, NOW + DAY).needed == {ring.keys[0].kid: 5}


def test_concurrent_write_or_delete_wins_against_a_sweep(storage: ScriptedStorage) -> None:
    ring = ring_of(NOW + DAY, 0)
    for key in ("written", "deleted"):
        put(storage, key, ring)

    def act() -> None:
        storage.recover()
        storage.delete(CONTEXT, "deleted")
        value = ROWS.seal_row(CONTEXT, "written", 1 << 60, b"theirs", ring, NOW + DAY)
        storage.update(CONTEXT, "written", value, None, 1 << 60, 7)

    storage.before("update", act=act)
    found = swept(storage, ring, NOW + DAY)
    assert found.seen == 1
    row = row_of(storage, CONTEXT, "written")
    assert ROWS.open_row(CONTEXT, "written", row, ring, NOW + DAY) == b"theirs"
    assert storage.read(CONTEXT, "deleted") is None


def test_sweep_gives_up_on_a_row_that_is_written_all_the_time(storage: ScriptedStorage) -> None:
    ring, version = ring_of(NOW + DAY, 0), [7]
    put(storage, "k", ring)

    def act() -> None:
        behind = storage.storage
        version[0] = row_of(storage, CONTEXT, "k").version + 1
        value = ROWS.seal_row(CONTEXT, "k", version[0], b"theirs", ring, NOW)  # by the old key
        behind.update(CONTEXT, "k", value, None, version[0])

    storage.before("update", act=act, times=None)
    with pytest.raises(StorageUnavailable, match="by others"):
        swept(storage, ring, NOW + DAY)
    assert row_of(storage, CONTEXT, "k").version == version[0]


def test_kid_of_a_token_is_read_and_of_anything_else_is_none() -> None:
    ring = ring_of(0)
    value = ROWS.seal_row(CONTEXT, "k", 1, b"", ring, NOW)
    assert kid_of(value) == ring.keys[0].kid
    assert kid_of(b"\x02" + value[1:]) == ring.keys[0].kid  # a newer format needs its key, too
    assert [kid_of(junk) for junk in (b"", value[:-1], b"\x10" + value[1:])] == [None] * 3
