"""What the store in memory promises beside the contract."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sealedstate.errors import CapacityError, StorageError
from sealedstate.storage import MemoryStorage, Stored
from tests.support.jar import Clock

AFTER_A_FORK = """
import os
from sealedstate.errors import StorageUnavailable
from sealedstate.storage import MemoryStorage

store = MemoryStorage(lambda: 1.0)
store.create("c", "k", b"v", None, 1)
child = os.fork()
if child == 0:
    try:
        store.read("c", "k")
    except StorageUnavailable as error:
        os._exit(0 if "sqlite:" in str(error) else 2)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.read("c", "k").value)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_full_store_refuses_and_keeps_what_it_has(clock: Clock) -> None:
    store = MemoryStorage(clock, max_records=3)
    for key in "abc":
        store.create("c", key, b"v", None, 1)
    with pytest.raises(CapacityError) as caught:
        store.create("c", "d", b"v", None, 1)
    assert isinstance(caught.value, StorageError)
    assert sorted(store.keys("c")) == ["a", "b", "c"]
    assert store.update("c", "a", b"w", None, 2)


def test_a_full_store_takes_more_when_something_was_deleted(clock: Clock) -> None:
    store = MemoryStorage(clock, max_records=1)
    store.create("c", "a", b"v", None, 1)
    store.delete("c", "a")
    assert store.create("c", "b", b"v", None, 1)


def test_expired_records_make_room(clock: Clock) -> None:
    store = MemoryStorage(clock, max_records=2)
    store.create("c", "a", b"v", int(clock() * 1000) + 1000, 1)
    store.create("c", "b", b"v", None, 1)
    clock.forward(1)
    assert store.create("c", "new", b"v", None, 1)
    assert store.create("c", "new", b"v", None, 2) is False
    assert sorted(store.keys("c")) == ["b", "new"]


def test_expired_records_go_away_by_themselves(clock: Clock) -> None:
    store = MemoryStorage(clock)
    for number in range(5000):
        store.create("c", str(number), b"v", int(clock() * 1000) + 1000, 1)
        clock.forward(0.1)
    # At most ten are alive at a time; all that is dead and still there, reap() would find.
    assert store.reap(5000) <= 300


def test_values_that_a_caller_changes_later_do_not_change_in_the_store(clock: Clock) -> None:
    store = MemoryStorage(clock)
    value = bytearray(b"before")
    store.create("c", "k", value, None, 1)  # type: ignore[arg-type]
    value[:] = b"after!"
    assert store.read("c", "k") == Stored(b"before", 1, None)


def test_after_a_fork_the_child_is_refused_and_the_parent_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_FORK], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 b'v'\n"
