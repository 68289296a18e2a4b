"""The checker of histories: it finds an order where there is one, and only there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

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
from tests.support.tables import check_each

A, B, C = Held(1, "a"), Held(2, "b"), Held(3, "c")
HELD = {"-": None, "A": A, "B": B, "C": C}


def history_of(text: str) -> list[Operation]:
    """Operations, such as `1-5 create A`, one between two semicolons.

    `3- update 1 B` has an unknown outcome and expects version 1. `= no` is the answer False, `= 2`
    a mismatch with version 2; the others succeed, and a read returns what it names.
    """
    return [_operation(*line.split()) for line in text.split(";") if line.strip()]


def _operation(span: str, kind: Any, *words: str) -> Operation:
    called, returned = (int(at) if at else None for at in span.split("-"))
    assert called is not None
    asked, answer = [*words], None if returned is None else cast(Answer, True)
    if "=" in words:
        *asked, _, text = words
        answer = False if text == "no" else Mismatch(int(text))
    held = next((HELD[word] for word in asked if word in HELD), None)
    if kind == "read":
        return Operation(kind, called, returned, held)
    expected = next((int(word) for word in asked if word.isdigit()), None)
    return Operation(kind, called, returned, answer, *(held or Held(0, "")), expected)


EXPLICABLE = {
    "nothing": "",
    "one after another": """
        1-2 read -; 3-4 create A; 5-6 read A; 7-8 update 1 B; 9-10 create C = no;
        11-12 delete 1 = 2; 13-14 delete 2; 15-16 delete 2 = no; 17-18 update C = no; 19-20 read -
    """,
    "two creators, one wins": "1-5 create A; 2-6 create B = no; 7-8 read A",
    "a reader sees what is being written": "1-9 create A; 2-3 read A",
    "a reader does not see yet what is being written": "1-9 create A; 2-3 read -",
    "a call at the moment of another's return overlaps it": "1-5 create A; 5-6 read -",
    "two readers, one before and one after a write": "1-9 create A; 2-3 read -; 4-5 read A",
    "an unknown write that happened": "1- create A; 2-3 read A",
    "an unknown write that never happened": "1- create A; 2-3 read -",
    "an unknown write that happens late": "1-2 create A; 3- update B; 4-5 read A; 6-7 read B",
    "an unknown delete that makes room": "1-2 create A; 3- delete 1; 4-5 create B",
    "a smaller version is a mismatch": "1-2 create B; 3-4 update A = 2",
    "the later of two overlapping calls returns first": (
        "1-2 create A; 3-10 update 2 C; 4-5 update 1 B"
    ),
}
INEXPLICABLE = {
    "two creators, both win": "1-5 create A; 2-6 create B",
    "no creator wins": "1-5 create A = no; 2-6 create B = no",
    "an acknowledged write is lost": "1-2 create A; 3-4 read -",
    "an acknowledged write is lost behind a slow reader": ("1-3 create A; 2-10 read A; 5-6 read -"),
    "an overwritten value comes back": "1-2 create A; 3-4 update 1 B; 5-6 read A",
    "a reader sees what a later reader does not": "1-9 create A; 2-3 read A; 4-5 read -",
    "a reader sees what is written only later": "1-2 read A; 3-4 create A",
    "no client has written it": "1-2 create A; 3-4 read B",
    "two checked updates of one version": "1-2 create A; 3-6 update 1 B; 4-5 update 1 C",
    "two deletes of one record": "1-2 create A; 3-6 delete; 4-5 delete",
    "an update is lost to a checked one": (
        "1-2 create A; 3-4 update 1 B; 5-6 update 1 C; 7-8 read C"
    ),
    "a mismatch names a version of no client": "1-2 create A; 3-4 delete 2 = 7",
    "a mismatch names a version of the past": "1-2 create A; 3-4 update 1 C; 5-6 delete 2 = 1",
    "an unknown write happens twice": "1- create A; 2-3 delete 1; 4-5 read A",
    "an unknown write happens before its call": "1-2 read A; 3- create A",
    "an unknown write disappears": "1- create A; 2-3 read A; 4-5 read -",
    "a smaller version overwrites a greater one": "1-2 create B; 3-4 update 2 A",
}


def test_checker_accepts_what_an_order_explains_and_nothing_else() -> None:
    def check(case: tuple[str, bool]) -> None:
        text, is_explicable = case
        history = history_of(text)
        assert is_linearizable(history) == is_explicable
        assert is_linearizable(reversed(history)) == is_explicable
        assert by_brute_force(history) == is_explicable

    check_each({name: (text, True) for name, text in EXPLICABLE.items()}, check)
    check_each({name: (text, False) for name, text in INEXPLICABLE.items()}, check)


def test_record_may_have_held_something_before() -> None:
    assert is_linearizable(history_of("1-2 read A"), initial=A)
    assert not is_linearizable(history_of("1-2 read -"), initial=A)


def test_anomaly_names_its_record_and_shows_the_history_in_order() -> None:
    histories = {"good": "1-2 create A", "bad": "3-4 read B; 1-2 create A"}
    found = anomalies({key: history_of(text) for key, text in histories.items()})
    (key, text), *others = found.items()
    assert (key, others) == ("bad", [])
    assert text.index("create") < text.index("read")


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
# How long before and after its effect a call begins and returns; whether the outcome is known.
SPANS = strategies.tuples(
    strategies.integers(1, 35), strategies.integers(1, 35), strategies.integers(0, 5)
)
STEPS = strategies.tuples(CALLS, SPANS)
Step = tuple[tuple[Kind, int, int | None], tuple[int, int, int]]


def performed(steps: Iterable[Step]) -> list[Operation]:
    """What clients see of a sequential record, each call stretched around its effect.

    Of the calls with an unknown outcome every other has no effect at all.
    """
    state: State = None
    history = []
    for number, ((kind, version, expected), (before, after, is_known)) in enumerate(steps):
        at = 100 + 10 * number
        call = Operation(kind, at - before, at + after, None, version, f"{number}", expected)
        answer, new = apply(call, state)
        history.append(replace(call, **({"answer": answer} if is_known else {"returned": None})))
        state = new if is_known or number % 2 else state
    return history


@given(strategies.lists(STEPS, max_size=60))
def test_checker_accepts_what_a_sequential_record_has_done(steps: list[Step]) -> None:
    assert is_linearizable(performed(steps))


ANSWERS = strategies.sampled_from(
    [True, False, None, Mismatch(1), Mismatch(2), Held(1, "0"), Held(2, "1"), Held(3, "2")]
)


@given(strategies.lists(STEPS, min_size=1, max_size=6), strategies.data())
@examples(600)
def test_checker_agrees_with_brute_force_on_histories_that_were_tampered_with(
    steps: list[Step], data: strategies.DataObject
) -> None:
    history = performed(steps)
    at = data.draw(strategies.integers(0, len(history) - 1))
    history[at] = replace(history[at], answer=data.draw(ANSWERS))
    other = data.draw(strategies.integers(0, len(history) - 1))
    moved, by = history[other], data.draw(strategies.integers(-30, 30))
    returned = None if moved.returned is None else moved.returned + by
    history[other] = replace(moved, called=moved.called + by, returned=returned)
    assert is_linearizable(history) == by_brute_force(history)
