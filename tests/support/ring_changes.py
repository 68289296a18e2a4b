"""Whatever may become of a ring, for properties that hold whatever it is.

Knows how rings evolve. Does not know where they are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from hypothesis import strategies as st

from sealedstate.rotation import (
    Ring,
    RingStorage,
    disabled,
    enabled,
    revoked,
    revoked_before,
    rotated,
)
from tests.support.ring_workers import SCHEDULE, first_ring

Change: TypeAlias = Callable[[Ring], Ring]


def _rotate(seconds: int, force: bool, ring: Ring) -> Ring:
    return rotated(ring, SCHEDULE, ring.updated_at + seconds, os.urandom, force)


def _revoke(number: int, reason: str, ring: Ring) -> Ring:
    kid = ring.keys[number % len(ring.keys)].kid
    return revoked(ring, kid, ring.updated_at + 1, os.urandom, reason)


def _disable(number: int, ring: Ring) -> Ring:
    kid = ring.keys[number % len(ring.keys)].kid
    return disabled(ring, kid, ring.updated_at + 1, os.urandom)


def _enable(number: int, ring: Ring) -> Ring:
    return enabled(ring, ring.keys[number % len(ring.keys)].kid, ring.updated_at + 1)


def _revoke_before(seconds: int, ring: Ring) -> Ring:
    return revoked_before(ring, ring.updated_at - seconds, ring.updated_at + 1)


_numbers = st.integers(0, 5)
CHANGES: st.SearchStrategy[list[Change]] = st.lists(
    st.one_of(
        st.builds(partial, st.just(_rotate), st.integers(0, 200), st.booleans()),
        st.builds(partial, st.just(_revoke), _numbers, st.text(max_size=5)),
        st.builds(partial, st.just(_disable), _numbers),
        st.builds(partial, st.just(_enable), _numbers),
        st.builds(partial, st.just(_revoke_before), st.integers(0, 50)),
    ),
    max_size=10,
)


def assert_written_and_read_alike(
    home: RingStorage, other: RingStorage, changes: list[Change]
) -> None:
    """Every state is written over the one before, by who holds it, and read back by others."""
    before, ring = None, first_ring()
    for change in (lambda ring: ring, *changes):
        ring = change(ring)
        assert home.write(ring, before) is True
        assert other.load() == home.load() == ring
        before = ring
