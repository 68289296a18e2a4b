"""Numbers to bits and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate.sso._codec.bits import BitReader, BitWriter, EndOfBits


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("flag"), st.booleans()),
            st.tuples(st.just("small"), st.integers(0, 1 << 48)),
            st.tuples(st.just("sized"), st.integers(0, (1 << 63) - 1)),
            st.tuples(st.just("bytes"), st.binary(max_size=9)),
        ),
        max_size=20,
    )
)
def test_values_are_taken_in_the_order_they_were_put(values: list[tuple[str, int | bytes]]) -> None:
    writer = BitWriter()
    for kind, value in values:
        getattr(writer, f"put_{kind}")(value)
    reader = BitReader(writer.finish())
    for kind, value in values:
        size = (len(value),) if isinstance(value, bytes) else ()
        assert getattr(reader, f"take_{kind}")(*size) == value
    reader.finish()


@given(st.data(), st.integers(1, 1 << 40))
def test_digits_take_no_more_bits_than_their_radix_needs(data: st.DataObject, radix: int) -> None:
    digits = data.draw(st.lists(st.integers(0, radix - 1), max_size=150))
    writer = BitWriter()
    writer.put_digits(digits, radix)
    packed = writer.finish()
    assert BitReader(packed).take_digits(len(digits), radix) == digits
    # At most one bit is lost for each run of 64, and at most 7 at the end.
    exact = (radix ** len(digits) - 1).bit_length()
    assert 8 * len(packed) <= exact + len(digits) // 64 + 1 + 7


@given(st.lists(st.integers(0, 500), max_size=20), st.integers(0, 9))
def test_rice_returns_its_numbers(numbers: list[int], k: int) -> None:
    writer = BitWriter()
    writer.put_rice(numbers, k)
    assert BitReader(writer.finish()).take_rice(len(numbers), k) == numbers


def test_bits_that_end_too_early_are_refused() -> None:
    for data in (b"", b"\xff", b"\xff" * 4, b"\xff" * 1000):
        with pytest.raises(EndOfBits):
            BitReader(data).take_small()
        with pytest.raises(EndOfBits):
            BitReader(data).take(8 * len(data) + 1)
        with pytest.raises(EndOfBits):
            BitReader(data).take_rice(1, 3)
        with pytest.raises(EndOfBits):
            BitReader(data).take_bytes(len(data) + 1)


def test_an_invented_count_is_refused_before_it_costs_anything() -> None:
    with pytest.raises(EndOfBits):
        BitReader(b"\xff" * 100).take_digits(1 << 60, 1 << 40)


def test_remaining_bits_that_are_no_padding_are_refused() -> None:
    for data in (b"\x00\x00", b"\x01"):
        reader = BitReader(data)
        reader.take(4)
        with pytest.raises(EndOfBits):
            reader.finish()
