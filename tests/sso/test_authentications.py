"""Authentications to the head and back."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import Authentication
from sealedstate.sso._codec.authentications import (
    MARGIN,
    compact,
    decode_head,
    encode_head,
    expand,
)
from sealedstate.sso._codec.tables import DURATIONS, METHODS
from tests.support.login_makers import NOW, SOME_METHODS

AUTHENTICATIONS = st.builds(
    Authentication,
    SOME_METHODS,
    st.one_of(st.integers(NOW - 50_000, NOW + 50_000), st.integers(0, (1 << 40) - 1)),
    st.one_of(st.sampled_from(DURATIONS), st.integers(0, (1 << 40) - 1)),
)


def there_and_back(
    given_: frozenset[Authentication], start: int, later_start: int
) -> frozenset[Authentication]:
    data = encode_head(compact(one, start) for one in given_)
    return frozenset(expand(one, later_start) for one in decode_head(data))


@given(st.frozensets(AUTHENTICATIONS, max_size=5), st.integers(-MARGIN, MARGIN))
def test_authentications_come_back_exactly(
    given_: frozenset[Authentication], saved_later: int
) -> None:
    """Also where the session's start turns out a little different once it is saved."""
    assert there_and_back(given_, NOW, NOW + saved_later) == given_


@pytest.mark.parametrize("start", [0, 1, 40_000, NOW])
def test_a_session_may_begin_at_any_time(start: int) -> None:
    given_ = frozenset({Authentication(METHODS[0], start, 60), Authentication("m", start + 9, 60)})
    assert there_and_back(given_, start, start) == given_


def test_the_usual_authentication_takes_two_bytes_and_a_known_one_three() -> None:
    for method in METHODS:
        for duration in DURATIONS:
            head = encode_head([compact(Authentication(method, NOW - 900, duration), NOW)])
            usual = (method, duration) == (METHODS[0], DURATIONS[0])
            assert len(head) == (2 if usual else 3)


def test_the_tables_fit_what_one_byte_can_name() -> None:
    assert len(METHODS) * len(DURATIONS) <= 256
    assert len(set(METHODS)) == len(METHODS)
    assert len(set(DURATIONS)) == len(DURATIONS) == 8


def test_no_authentication_is_no_bytes() -> None:
    assert encode_head([]) == b""
    assert decode_head(b"") == frozenset()


@given(st.binary(min_size=1, max_size=60))
@example(b"\x00" + bytes(2))
@example(b"\xff" + bytes(2))
@settings(max_examples=300)
def test_arbitrary_bytes_are_one_kind_of_error(data: bytes) -> None:
    try:
        head = decode_head(data)
        for kept in head:
            expand(kept, NOW)
    except LoginsUnreadable:
        return
    assert encode_head(head) == data


def test_a_time_before_all_time_is_refused() -> None:
    (kept,) = decode_head(b"\xff\xff")
    with pytest.raises(LoginsUnreadable):
        expand(kept, 10)
