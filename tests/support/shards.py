"""Long runs of a test, cut into shards: some run with all tests, the others in the soak."""

from __future__ import annotations

import pytest


def shards(count: int, usual: int = 1) -> list[object]:
    """The numbers of `count` shards, to parametrize by; those from `usual` on are the soak's."""
    return [
        number if number < usual else pytest.param(number, marks=pytest.mark.soak)
        for number in range(count)
    ]
