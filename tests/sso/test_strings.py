"""Identifiers and texts come back letter by letter, or are not packed."""

from __future__ import annotations

from base64 import b64encode

import pytest
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
from tests.support.login_makers import ANY_TEXT, IDENTIFIERS, TEXTS


@given(TEXTS)
def test_a_packed_text_comes_back_letter_by_letter(text: str) -> None:
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
def test_every_text_of_a_shape_is_packed_and_never_grows(
    beginning: int, alphabet: int, data: bytes
) -> None:
    if alphabet in (2, 3):
        data = data[:8] * 2
    text = unpack(Shape(beginning, alphabet, len(data)), data)
    packed = pack(text)
    assert packed is not None
    assert len(packed[1]) <= len(data)
    assert unpack(*packed) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("_" + "0123456789abcdef" * 2, 16),
        ("_" + "ab" * 21, 21),
        (b64encode(bytes(20)).decode(), 20),
        (b64encode(bytes(range(32))).decode(), 32),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", 16),
        ("urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8", 16),
        ("6BA7B810-9DAD-11D1-80B4-00C04FD430C8", 16),
    ],
)
def test_usual_identifiers_take_their_bytes_alone(text: str, size: int) -> None:
    packed = pack(text)
    assert packed is not None
    assert len(packed[1]) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jdoe@example.edu",
        "_" + "0123456789abcde " * 2,  # bytes.fromhex reads blanks
        "(6ba7b810-9dad11d1-80b4-00c04fd430c8)",
        "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAB=",  # bits set after the last byte
        "AAAAAAAAAAAAAAAAAAAAAAAAAAA==",
        "AAAA AAAAAAAAAAAAAAAAAAAAAAA=",
        "_" + "٣" * 32,  # digits, but not ours
        "_" + "ab" * 65,
    ],
)
def test_what_only_looks_like_an_identifier_stays_text(text: str) -> None:
    assert pack(text) is None


@given(st.one_of(ANY_TEXT, IDENTIFIERS, st.text(st.characters(codec="ascii"))))
def test_any_text_comes_back_from_its_bits(text: str) -> None:
    writer = BitWriter()
    put_text(writer, text)
    reader = BitReader(writer.finish())
    assert take_text(reader) == text
    reader.finish()


def test_text_of_ten_thousand_letters_comes_back_whole() -> None:
    for text in ("x" * 10_000, "Ä" * 10_000, "A b" * 3_334):
        writer = BitWriter()
        put_text(writer, text)
        data = writer.finish()
        assert take_text(BitReader(data)) == text
        assert len(data) <= len(text.encode()) + 8


@given(st.integers(1, 60), st.data())
def test_the_bits_of_a_text_depend_on_its_letters_only_by_alphabet(
    size: int, data: st.DataObject
) -> None:
    def bits(text: str) -> int:
        writer = BitWriter()
        put_text(writer, text)
        return len(writer.finish())

    # Letters that end no known ending.
    texts = st.text("bcdfgjkqvwxz", min_size=size, max_size=size)
    assert bits(data.draw(texts)) == bits(data.draw(texts))
