"""Authentications to the head and back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import Authentication
from sealedstate.sso._codec.authentications import (
    MARGIN,
    StoredAuthentication,
    compact,
    decode_head,
    encode_head,
    expand,
)
from sealedstate.sso._codec.tables import DURATIONS, METHODS
from tests.support.examples import examples
from tests.support.identity_providers import NOW
from tests.support.login_strategies import AUTHENTICATION_METHODS

AUTHENTICATIONS = st.builds(
    Authentication,
    AUTHENTICATION_METHODS,
    st.one_of(st.integers(NOW - 50_000, NOW + 50_000), st.integers(0, (1 << 40) - 1)),
    st.one_of(st.sampled_from(DURATIONS), st.integers(0, (1 << 40) - 1)),
)


def there_and_back(
    authentications: frozenset[Authentication], start: int, later_start: int
) -> frozenset[Authentication]:
    data = encode_head(compact(each, start) for each in authentications)
    return frozenset(expand(each, later_start) for each in decode_head(data))


@given(st.frozensets(AUTHENTICATIONS, max_size=5), st.integers(-MARGIN, MARGIN))
@example(frozenset({Authentication(METHODS[1], 0, DURATIONS[0])}), 0)  # three bytes of bits
@example(frozenset({Authentication(METHODS[0], 7, DURATIONS[1])}), 0)
def test_authentications_come_back_exactly(
    authentications: frozenset[Authentication], saved_later: int
) -> None:
    """Also if the session's start turns out a little different once it is saved."""
    assert there_and_back(authentications, NOW, NOW + saved_later) == authentications


def test_a_session_may_begin_at_any_time() -> None:
    for start in (0, 1, 40_000, NOW):
        both = {Authentication(METHODS[0], start, 60), Authentication("m", start + 9, 60)}
        assert there_and_back(frozenset(both), start, start) == both


def test_an_authentication_of_the_tables_takes_two_or_three_bytes() -> None:
    for method in METHODS:
        for duration in DURATIONS:
            head = encode_head([compact(Authentication(method, NOW - 900, duration), NOW)])
            is_default = (method, duration) == (METHODS[0], DURATIONS[0])
            assert len(head) == (2 if is_default else 3)


def test_the_tables_fit_into_one_byte() -> None:
    assert len(METHODS) * len(DURATIONS) <= 256
    assert len(set(METHODS)) == len(METHODS)
    assert len(set(DURATIONS)) == len(DURATIONS) == 8


def test_no_authentication_is_no_bytes() -> None:
    assert encode_head([]) == b""
    assert decode_head(b"") == frozenset()


@given(st.binary(min_size=1, max_size=60))
@example(b"\x00" + bytes(2))
@example(b"\xff" + bytes(2))
@examples(300)
def test_arbitrary_bytes_are_a_head_or_unreadable(data: bytes) -> None:
    try:
        head = decode_head(data)
        for stored in head:
            expand(stored, NOW)
    except LoginsUnreadable:
        return
    assert encode_head(head) == data


def test_a_time_or_duration_beyond_the_range_is_unreadable() -> None:
    (early,) = decode_head(b"\xff\xff")
    endless = StoredAuthentication(METHODS[0], 1 << 50, 0, -1)
    assert decode_head(encode_head([endless])) == {endless}
    for stored, start in ((early, 10), (endless, NOW)):
        with pytest.raises(LoginsUnreadable):
            expand(stored, start)
