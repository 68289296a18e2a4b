"""How many examples a property gets: all of them in `make test-all`, a fifth in `make test`."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

__all__ = ["examples"]


def examples(number: int, **more: Any) -> settings:
    """Settings with `number` examples in the profile `full`, as many in proportion in others."""
    share = settings().max_examples / 100
    return settings(max_examples=max(5, round(number * share)), **more)
