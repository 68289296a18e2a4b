"""Acts in a forked child."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sealedstate.testing._workers import run_in_fork

T = TypeVar("T")


def run_child(act: Callable[[], T]) -> T:
    """What `act` returns in a forked child; it must succeed."""
    problem, answer = run_in_fork(act)
    assert not problem, problem
    result: T = answer
    return result
