"""Identifiers and texts to bits and back."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st

from sealedstate.sso._codec.bits import BitReader, BitWriter
from sealedstate.sso._codec.strings import (
    _ALPHABETS,
    MAX_BYTES,
    MIN_BYTES,
    PREFIXES,
    Shape,
    pack,
    put_text,
    take_text,
    unpack,
)
from tests.support.login_strategies import ANY_TEXT, IDENTIFIERS, TEXTS


def to_bits(text: str) -> bytes:
    writer = BitWriter()
    put_text(writer, text)
    return writer.finish()


@given(TEXTS)
def test_a_packed_text_comes_back_exactly(text: str) -> None:
    packed = pack(text)
    if packed is not None:
        shape, data = packed
        assert len(data) == shape.size
        assert unpack(shape, data) == text


@given(
    st.integers(0, len(PREFIXES) - 1),
    st.integers(0, len(_ALPHABETS) - 1),
    st.binary(min_size=MIN_BYTES, max_size=MAX_BYTES),
)
def test_every_identifier_of_a_shape_is_packed_and_never_grows(
    prefix: int, alphabet: int, data: bytes
) -> None:
    if alphabet in (2, 3):  # UUIDs
        data = data[:8] * 2
    text = unpack(Shape(prefix, alphabet, len(data)), data)
    packed = pack(text)
    assert packed is not None
    assert len(packed[1]) <= len(data)
    assert unpack(*packed) == text


def test_common_identifiers_take_their_bytes_alone() -> None:
    sizes = {
        "_" + "0123456789abcdef" * 2: 16,
        "_" + "ab" * 21: 21,
        b64encode(bytes(20)).decode(): 20,
        b64encode(bytes(range(32))).decode(): 32,
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8": 16,
        "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8": 16,
        "6BA7B810-9DAD-11D1-80B4-00C04FD430C8": 16,
    }
    for text, size in sizes.items():
        packed = pack(text)
        assert packed is not None, text
        assert len(packed[1]) == size, text


def test_what_only_looks_like_an_identifier_is_not_packed() -> None:
    for text in (
        "",
        "jdoe@example.edu",
        "_" + "0123456789abcde " * 2,  # bytes.fromhex accepts spaces
        "(6ba7b810-9dad11d1-80b4-00c04fd430c8)",
        "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAB=",  # bits set after the last byte
        "AAAAAAAAAAAAAAAAAAAAAAAAAAA==",
        "AAAA AAAAAAAAAAAAAAAAAAAAAAA=",
        "_" + "٣" * 32,  # digits, but not ASCII
        "_" + "ab" * 65,
    ):
        assert pack(text) is None, text


@given(st.one_of(ANY_TEXT, IDENTIFIERS, st.text(st.characters(codec="ascii"))))
def test_any_text_comes_back_from_its_bits(text: str) -> None:
    reader = BitReader(to_bits(text))
    assert take_text(reader) == text
    reader.finish()


def test_a_text_of_ten_thousand_letters_is_not_cut() -> None:
    for text in ("x" * 10_000, "Ä" * 10_000, "A b" * 3_334):
        data = to_bits(text)
        assert take_text(BitReader(data)) == text
        assert len(data) <= len(text.encode()) + 8


@given(st.integers(1, 60), st.data())
def test_the_size_of_a_text_depends_on_its_length_and_alphabet_alone(
    size: int, data: st.DataObject
) -> None:
    # Letters that end no known suffix.
    texts = st.text("bcdfgjkqvwxz", min_size=size, max_size=size)
    assert len(to_bits(data.draw(texts))) == len(to_bits(data.draw(texts)))
