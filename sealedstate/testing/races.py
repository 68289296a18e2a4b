"""What a store owes to many at once: one winner, no lost update, no torn read, forks and starts.

Knows 16 racers, in 4 processes where a store is shared. Does not measure how fast they are.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import StorageError, VersionMismatch
from ..storage.contract import Storage, Stored
from .clock import FakeClock
from .suite import MINUTE, RACERS, Suite, insist, is_shared, read, write
from .workers import Meet, forked, in_threads

KEYS = [str(number) for number in range(25)]
COUNTS = 4
CONTEXTS = 10
YEAR_2100 = 4_102_444_800_000


def wins(act: Callable[..., bool], *arguments: object) -> bool:
    """Whether `act` wrote."""
    try:
        return insist(act, *arguments)
    except VersionMismatch:
        return False


def win_all(act: Callable[[str], bool], meet: Meet) -> list[bool]:
    """Whether this racer has won each key: all of them try each at the same moment."""
    won = []
    for key in KEYS:
        meet()
        won.append(wins(act, key))
    return won


def create_all(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str
) -> list[bool]:
    value = str(racer).encode()
    return win_all(lambda key: store.create(context, key, value, None, 1), meet)


def update_all(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str
) -> list[bool]:
    value = str(racer).encode()
    return win_all(lambda key: store.update(context, key, value, None, 2 + racer, 1), meet)


def delete_all(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str
) -> list[bool]:
    return win_all(lambda key: store.delete(context, key, 1), meet)


def take_all(store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str) -> list[bool]:
    return win_all(lambda key: store.delete(context, key), meet)


def count_up(store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str) -> None:
    for _ in range(COUNTS):
        meet()
        while not wins(_count_one, store, context):
            pass


def _count_one(store: Storage, context: str) -> bool:
    stored = read(store, context, "counter")
    value = str(int(stored.value) + 1).encode()
    return store.update(context, "counter", value, None, stored.version + 1, stored.version)


def write_or_read(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str, size: int
) -> None:
    """Half of the racers overwrite, the others look for what nobody wrote."""
    for version in range(2, 2 + len(KEYS)):
        meet()
        if racer % 2:
            new = whole(version, size)
            wins(store.update, context, "k", new.value, new.expires_at, new.version)
        else:
            stored = insist(store.read, context, "k")
            assert stored is not None, "the record is not there while it is being overwritten"
            assert stored == whole(stored.version, size), "parts of two writes in one record"


def whole(version: int, size: int) -> Stored:
    """A record of which each part tells the others."""
    return Stored(bytes([version]) * size, version, YEAR_2100 + version)


def delete_or_disturb(
    store: Storage, clock: FakeClock, racer: int, meet: Meet, context: str
) -> None:
    """One racer deletes contexts, while the others change what lives in them."""
    disturb = DISTURBANCES[racer % len(DISTURBANCES)]
    for number in range(CONTEXTS):
        where = f"{context}-{number}"
        meet()
        if racer == 0:
            insist(store.delete_context, where)
        else:
            insist(disturb, store, where, 2 + racer)


def _touch(store: Storage, context: str, version: int) -> None:
    if store.capabilities.contexts:
        store.touch_context(context, YEAR_2100)


DISTURBANCES: list[Callable[[Storage, str, int], object]] = [
    lambda store, context, version: store.update_expiration(context, "k", YEAR_2100),
    lambda store, context, version: wins(store.update, context, "k", b"w", None, version),
    lambda store, context, version: store.create(context, "k2", b"new", None, version),
    _touch,
]


def prepare(store: Storage, clock: FakeClock, racer: int, meet: Meet) -> None:
    meet()
    insist(store.prepare)


def read_k(store: Storage, clock: FakeClock, racer: int, context: str) -> Stored | None:
    return store.read(context, "k")


def write_from_elsewhere(store: Storage, clock: FakeClock, racer: int, context: str) -> None:
    assert store.update(context, "k", b"theirs", clock.now + MINUTE, 2, expected=1) is True
    if store.capabilities.indexes:
        store.add_member(context, "k", "theirs", None)


class Races(Suite):
    def test_of_many_who_create_one_record_one_wins(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        won = self.race(store, clock, create_all, context)
        for key, answers in zip(KEYS, zip(*won, strict=True), strict=True):
            assert sum(answers) == 1, f"{sum(answers)} racers were told that they created"
            assert read(store, context, key).value == str(answers.index(True)).encode()

    def test_of_many_who_update_one_version_one_wins(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        for key in KEYS:
            write(store, context, key)
        won = self.race(store, clock, update_all, context)
        for key, answers in zip(KEYS, zip(*won, strict=True), strict=True):
            assert sum(answers) == 1, f"{sum(answers)} racers were told that they updated"
            winner = answers.index(True)
            assert store.read(context, key) == Stored(str(winner).encode(), 2 + winner, None)

    def test_of_many_who_delete_one_version_one_wins(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        for key in KEYS:
            write(store, context, key)
        won = self.race(store, clock, delete_all, context)
        winners = [sum(answers) for answers in zip(*won, strict=True)]
        assert winners == [1] * len(KEYS), f"winners by key: {winners}"

    def test_of_many_who_delete_one_record_one_wins(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        for key in KEYS:
            write(store, context, key)
        won = self.race(store, clock, take_all, context)
        winners = [sum(answers) for answers in zip(*won, strict=True)]
        assert winners == [1] * len(KEYS), f"winners by key: {winners}"

    def test_a_counter_that_many_raise_by_checked_updates_loses_none(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        write(store, context, "counter", b"0")
        self.race(store, clock, count_up, context)
        raised = RACERS * COUNTS
        assert store.read(context, "counter") == Stored(str(raised).encode(), 1 + raised, None)

    def test_readers_see_whole_writes_only(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        size = min(5000, store.capabilities.value_bytes)
        first = whole(1, size)
        write(store, context, "k", first.value, first.expires_at, first.version)
        self.race(store, clock, write_or_read, context, size)
        assert store.read(context, "k") == whole(1 + len(KEYS), size)

    def test_what_lives_when_its_context_is_deleted_is_never_read_again(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        contexts = [f"{context}-{number}" for number in range(CONTEXTS)]
        for where in contexts:
            write(store, where, "k")
        self.race(store, clock, delete_or_disturb, context)
        assert [store.read(where, "k") for where in contexts] == [None] * CONTEXTS

    def test_preparing_again_and_by_many_at_once_is_harmless(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        write(store, context, "k")
        self.race(store, clock, prepare)
        in_threads(8, lambda racer, meet: prepare(store, clock, racer, meet))
        assert store.read(context, "k") == Stored(b"v", 1, None)

    def test_what_one_process_writes_every_other_sees(
        self, store: Storage, clock: FakeClock, context: str
    ) -> None:
        if not is_shared(store):
            return self.assert_harmless_in_a_fork(store, context)
        clock.stop(clock.now)
        write(store, context, "k", b"ours", clock.now + MINUTE, 1)
        expected = Stored(b"ours", 1, clock.now + MINUTE)
        assert self.elsewhere(clock, read_k, context) == expected
        self.elsewhere(clock, write_from_elsewhere, context)
        assert store.read(context, "k") == Stored(b"theirs", 2, clock.now + MINUTE)
        if store.capabilities.indexes:
            assert store.members(context, "k") == {"theirs": None}
        return None

    def test_a_store_that_was_used_before_a_fork_is_unharmed_by_the_child(
        self, store: Storage, context: str
    ) -> None:
        self.assert_harmless_in_a_fork(store, context)

    def assert_harmless_in_a_fork(self, store: Storage, context: str) -> None:
        """The child works, or is refused if it would only change a copy; the parent goes on."""
        write(store, context, "k", b"v", None, 1)
        problem, answer = forked(lambda: _use_in_a_fork(store, context))
        assert not problem, problem
        expected = {True: ["done"], False: ["refused"]}[store.capabilities.shared]
        assert answer in (expected if store.capabilities.server_side else ["done", "refused"])
        if is_shared(store):
            assert store.read(context, "child") == Stored(b"child", 1, None), "not shared"
        assert store.read(context, "k") == Stored(b"v", 1, None)
        assert store.update(context, "k", b"w", None, 2, expected=1) is True


def _use_in_a_fork(store: Storage, context: str) -> str:
    try:
        found = store.read(context, "k")
        store.create(context, "child", b"child", None, 1)
    except StorageError:
        return "refused"
    assert found == Stored(b"v", 1, None), f"the child of a fork reads {found}"
    store.close()
    return "done"
