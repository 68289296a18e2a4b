"""Is there one order of the operations on a record that explains every answer?

A checker after Wing and Gong, with Lowe's memory of what was tried: an operation takes effect at
one moment between its call and its return. One whose outcome is unknown takes effect at any moment
after its call, or never. The contract is that of one record that does not expire.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias


class Held(NamedTuple):
    """What a record holds."""

    version: int
    value: str


class Mismatch(NamedTuple):
    """The answer to a checked write that found another version."""

    current: int


State: TypeAlias = Held | None
Answer: TypeAlias = bool | Held | Mismatch | None
Kind: TypeAlias = Literal["create", "read", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call, and what came back. `returned` is None if the outcome is unknown."""

    kind: Kind
    called: int
    returned: int | None
    answer: Answer
    version: int = 0
    value: str = ""
    expected: int | None = None


def apply(operation: Operation, state: State) -> tuple[Answer, State]:
    """The contract: the answer of an operation on a record, and what the record is after it."""
    new = Held(operation.version, operation.value)
    if operation.kind == "read":
        return state, state
    if operation.kind == "create":
        return (True, new) if state is None else (False, state)
    if state is None:
        return False, state
    if operation.expected not in (None, state.version):
        return Mismatch(state.version), state
    if operation.kind == "delete":
        return True, None
    return (True, new) if new.version > state.version else (Mismatch(state.version), state)


def is_linearizable(history: Iterable[Operation], initial: State = None) -> bool:
    """Whether some order of `history` explains all of its answers."""
    operations = sorted(history, key=lambda operation: operation.called)
    finished = sum(
        1 << number for number, operation in enumerate(operations) if operation.returned is not None
    )
    tried = {(0, initial)}
    left = list(tried)
    while left:
        done, state = left.pop()
        if done & finished == finished:
            return True
        for step in _steps(operations, done, state):
            if step not in tried:
                tried.add(step)
                left.append(step)
    return False


def _steps(operations: list[Operation], done: int, state: State) -> list[tuple[int, State]]:
    """Each operation that may come next, as what is done then and the state after it."""
    steps = []
    for number in _next(operations, done):
        operation, then = operations[number], done | 1 << number
        answer, after = apply(operation, state)
        if operation.returned is None:
            # Where it would change nothing, it may as well come later or never.
            if after != state:
                steps.append((then, after))
        elif answer == operation.answer:
            if after == state:
                # It can be first and hinders nobody: no other order has to be tried.
                return [(then, after)]
            steps.append((then, after))
    return steps


def _next(operations: list[Operation], done: int) -> Iterator[int]:
    """The operations before which no other had to return."""
    first_return: float = math.inf
    for number in range(_first_undone(done), len(operations)):
        if done >> number & 1:
            continue
        operation = operations[number]
        if operation.called > first_return:
            return
        yield number
        if operation.returned is not None:
            first_return = min(first_return, operation.returned)


def _first_undone(done: int) -> int:
    return (~done & (done + 1)).bit_length() - 1


def anomalies(histories: Mapping[str, Iterable[Operation]]) -> dict[str, str]:
    """The histories that no order explains, by the record's key, fit to be read."""
    listed = {key: list(history) for key, history in histories.items()}
    return {
        key: "\n".join(map(str, sorted(history, key=lambda operation: operation.called)))
        for key, history in listed.items()
        if not is_linearizable(history)
    }
