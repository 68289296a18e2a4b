"""Tables of cases in one test: each is checked, and all that fail are reported together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def check_each(cases: Mapping[str, T] | Iterable[T], check: Callable[[T], object]) -> None:
    """Call `check` with each case. The failure names the cases that failed.

    A case without a name in a mapping is named by its own `name`, or else by its repr.
    """
    named = cases.items() if isinstance(cases, Mapping) else [(_name(case), case) for case in cases]
    failures: list[tuple[str, BaseException]] = []
    count = 0
    for name, case in named:
        count += 1
        try:
            check(case)
        except (Exception, pytest.fail.Exception) as error:
            failures.append((name, error))
    assert count, "the table is empty"
    if failures:
        lines = [f"{name}: {type(error).__name__}: {error}" for name, error in failures]
        raise AssertionError("\n".join([f"{len(failures)} of {count} failed", *lines])) from (
            failures[0][1]
        )


def _name(case: Any) -> str:
    return str(case["name"]) if isinstance(case, Mapping) and "name" in case else repr(case)
