"""The checker of histories finds an order if there is one, and only then."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies

from tests.support.examples import examples
from tests.support.linearizability import (
    Answer,
    Held,
    Kind,
    Mismatch,
    Operation,
    State,
    anomalies,
    apply,
    is_linearizable,
)

A, B, C = Held(1, "a"), Held(2, "b"), Held(3, "c")


def create(called: int, returned: int | None, held: Held, answer: Answer = True) -> Operation:
    return Operation("create", called, returned, answer, *held)


def read(called: int, returned: int | None, answer: State) -> Operation:
    return Operation("read", called, returned, answer)


def update(
    called: int, returned: int | None, held: Held, expected: int | None, answer: Answer = True
) -> Operation:
    return Operation("update", called, returned, answer, *held, expected)


def delete(
    called: int, returned: int | None, expected: int | None = None, answer: Answer = True
) -> Operation:
    return Operation("delete", called, returned, answer, expected=expected)


EXPLICABLE: dict[str, list[Operation]] = {
    "nothing": [],
    "one after another": [
        read(1, 2, None),
        create(3, 4, A),
        read(5, 6, A),
        update(7, 8, B, 1),
        create(9, 10, C, False),
        delete(11, 12, 1, Mismatch(2)),
        delete(13, 14, 2),
        delete(15, 16, 2, False),
        update(17, 18, C, None, False),
        read(19, 20, None),
    ],
    "two creators, one wins": [create(1, 5, A), create(2, 6, B, False), read(7, 8, A)],
    "a reader sees what is being written": [create(1, 9, A), read(2, 3, A)],
    "a reader does not see yet what is being written": [create(1, 9, A), read(2, 3, None)],
    "a call at the moment of another's return overlaps it": [create(1, 5, A), read(5, 6, None)],
    "two readers, one before and one after a write": [
        create(1, 9, A),
        read(2, 3, None),
        read(4, 5, A),
    ],
    "an unknown write that happened": [create(1, None, A, None), read(2, 3, A)],
    "an unknown write that never happened": [create(1, None, A, None), read(2, 3, None)],
    "an unknown write that happens late": [
        create(1, 2, A),
        update(3, None, B, None, None),
        read(4, 5, A),
        read(6, 7, B),
    ],
    "an unknown delete that makes room": [
        create(1, 2, A),
        delete(3, None, 1, None),
        create(4, 5, B),
    ],
    "a smaller version is a mismatch": [create(1, 2, B), update(3, 4, A, None, Mismatch(2))],
    "the later of two overlapping calls returns first": [
        create(1, 2, A),
        update(3, 10, C, 2),
        update(4, 5, B, 1),
    ],
}

INEXPLICABLE: dict[str, list[Operation]] = {
    "two creators, both win": [create(1, 5, A), create(2, 6, B)],
    "nobody wins": [create(1, 5, A, False), create(2, 6, B, False)],
    "an acknowledged write is lost": [create(1, 2, A), read(3, 4, None)],
    "an acknowledged write is lost behind a slow reader": [
        create(1, 3, A),
        read(2, 10, A),
        read(5, 6, None),
    ],
    "an overwritten value comes back": [
        create(1, 2, A),
        update(3, 4, B, 1),
        read(5, 6, A),
    ],
    "a reader sees what a later reader does not": [
        create(1, 9, A),
        read(2, 3, A),
        read(4, 5, None),
    ],
    "a reader sees what is written only later": [read(1, 2, A), create(3, 4, A)],
    "nobody has written it": [create(1, 2, A), read(3, 4, B)],
    "two checked updates of one version": [
        create(1, 2, A),
        update(3, 6, B, 1),
        update(4, 5, C, 1),
    ],
    "two deletes of one record": [create(1, 2, A), delete(3, 6), delete(4, 5)],
    "an update is lost to a checked one": [
        create(1, 2, A),
        update(3, 4, B, 1),
        update(5, 6, C, 1),
        read(7, 8, C),
    ],
    "a mismatch that tells a version of nobody": [create(1, 2, A), delete(3, 4, 2, Mismatch(7))],
    "a mismatch that tells the past": [
        create(1, 2, A),
        update(3, 4, C, 1),
        delete(5, 6, 2, Mismatch(1)),
    ],
    "an unknown write happens twice": [
        create(1, None, A, None),
        delete(2, 3, 1),
        read(4, 5, A),
    ],
    "an unknown write happens before its call": [read(1, 2, A), create(3, None, A, None)],
    "an unknown write disappears": [
        create(1, None, A, None),
        read(2, 3, A),
        read(4, 5, None),
    ],
    "a smaller version overwrites a greater one": [create(1, 2, B), update(3, 4, A, 2)],
}


@pytest.mark.parametrize("name", EXPLICABLE)
def test_explicable_history_is_accepted(name: str) -> None:
    assert is_linearizable(EXPLICABLE[name])
    assert is_linearizable(reversed(EXPLICABLE[name]))
    assert by_brute_force(EXPLICABLE[name])


@pytest.mark.parametrize("name", INEXPLICABLE)
def test_inexplicable_history_is_refused(name: str) -> None:
    assert not is_linearizable(INEXPLICABLE[name])
    assert not by_brute_force(INEXPLICABLE[name])


def test_record_may_have_had_a_value_before() -> None:
    assert is_linearizable([read(1, 2, A)], initial=A)
    assert not is_linearizable([read(1, 2, None)], initial=A)


def test_anomaly_names_its_record_and_shows_the_history_in_order() -> None:
    histories = {"good": [create(1, 2, A)], "bad": [read(3, 4, B), create(1, 2, A)]}
    (key, text), *others = anomalies(histories).items()
    assert (key, others) == ("bad", [])
    assert text.index("create") < text.index("read")


# --- against a search that tries everything -------------------------------------------------------


def by_brute_force(history: Sequence[Operation]) -> bool:
    """Try every order of every choice of the unknown operations."""
    known = [operation for operation in history if operation.returned is not None]
    unknown = [operation for operation in history if operation.returned is None]
    return any(
        _explains(order)
        for count in range(len(unknown) + 1)
        for chosen in itertools.combinations(unknown, count)
        for order in itertools.permutations([*known, *chosen])
    )


def _explains(order: Sequence[Operation]) -> bool:
    for earlier, later in itertools.combinations(order, 2):
        if later.returned is not None and later.returned < earlier.called:
            return False
    state: State = None
    for operation in order:
        answer, state = apply(operation, state)
        if operation.returned is not None and answer != operation.answer:
            return False
    return True


KINDS: list[Kind] = ["create", "read", "update", "delete"]
CALLS = strategies.tuples(
    strategies.sampled_from(KINDS),
    strategies.integers(1, 5),
    strategies.none() | strategies.integers(1, 5),
)
# How long before and after its effect a call begins and returns; whether the outcome is told.
SPANS = strategies.tuples(
    strategies.integers(1, 35), strategies.integers(1, 35), strategies.integers(0, 5)
)
STEPS = strategies.tuples(CALLS, SPANS)


def performed(
    steps: Iterable[tuple[tuple[Kind, int, int | None], tuple[int, int, int]]],
) -> list[Operation]:
    """What clients see of a sequential record, each call stretched around its effect.

    Of the calls with an unknown outcome every other has no effect at all.
    """
    state: State = None
    history = []
    for number, ((kind, version, expected), (before, after, told)) in enumerate(steps):
        at = 100 + 10 * number
        call = Operation(kind, at - before, at + after, None, version, f"{number}", expected)
        answer, new = apply(call, state)
        if told:
            history.append(replace(call, answer=answer))
        else:
            history.append(replace(call, returned=None))
        state = new if told or number % 2 else state
    return history


@given(strategies.lists(STEPS, max_size=60))
def test_history_of_a_sequential_record_is_accepted(
    steps: list[tuple[tuple[Kind, int, int | None], tuple[int, int, int]]],
) -> None:
    assert is_linearizable(performed(steps))


ANSWERS = strategies.sampled_from(
    [True, False, None, Mismatch(1), Mismatch(2), Held(1, "0"), Held(2, "1"), Held(3, "2")]
)


@given(strategies.lists(STEPS, min_size=1, max_size=6), strategies.data())
@examples(600)
def test_checker_agrees_with_brute_force_on_altered_histories(
    steps: list[tuple[tuple[Kind, int, int | None], tuple[int, int, int]]],
    data: strategies.DataObject,
) -> None:
    history = performed(steps)
    at = data.draw(strategies.integers(0, len(history) - 1))
    history[at] = replace(history[at], answer=data.draw(ANSWERS))
    other = data.draw(strategies.integers(0, len(history) - 1))
    moved, by = history[other], data.draw(strategies.integers(-30, 30))
    returned = None if moved.returned is None else moved.returned + by
    history[other] = replace(moved, called=moved.called + by, returned=returned)
    assert is_linearizable(history) == by_brute_force(history)
