"""Chunking: a token has one text, a text is one token or none, and nothing is lost in cutting."""

from __future__ import annotations

import base64
import os
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate._wire.encoding import from_text, join, split, text_chars, to_text, token_bytes
from sealedstate.errors import MalformedToken

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._"
TOKENS = st.binary(max_size=200)


def refused(text: str) -> bool:
    try:
        from_text(text)
    except MalformedToken:
        return True
    return False


@given(TOKENS)
def test_a_text_is_the_token_that_it_was_made_of(token: bytes) -> None:
    assert from_text(to_text(token)) == token


@given(TOKENS)
def test_a_text_has_only_letters_that_every_cookie_carries(token: bytes) -> None:
    text = to_text(token)
    assert re.fullmatch(r"[A-Za-z0-9._]*", text)
    assert len(text) == text_chars(len(token))
    assert "--" not in text


@given(TOKENS)
def test_the_text_is_base64_with_two_letters_of_its_own(token: bytes) -> None:
    plain = base64.b64encode(token).decode().rstrip("=")
    assert to_text(token) == plain.replace("+", ".").replace("/", "_")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 50, 51, 52])
def test_exactly_one_last_letter_stands_for_a_token_of_each_length(size: int) -> None:
    for token in (bytes(size), b"\xff" * size, os.urandom(size)):
        text = to_text(token)
        twins = [text[:-1] + letter for letter in LETTERS]
        readable = [twin for twin in twins if not refused(twin)]
        assert [twin for twin in readable if from_text(twin) == token] == [text]
        # 6, 4 or 2 bits of the last letter belong to the token.
        assert len(readable) == {0: 64, 1: 4, 2: 16}[size % 3]


def test_all_texts_of_up_to_three_letters_are_one_token_each_or_refused() -> None:
    alphabet = "AQgwBCDz09._+/=- \n"
    seen: dict[bytes, str] = {}
    texts = [""]
    for _ in range(3):
        texts += [text + letter for text in texts for letter in alphabet]
    for text in set(texts):
        if not refused(text):
            assert from_text(text) not in seen
            seen[from_text(text)] = text
            assert to_text(from_text(text)) == text
    assert len(seen) > 100


@pytest.mark.parametrize("place", ["before", "inside", "instead", "behind", "as the last"])
@pytest.mark.parametrize("size", [50, 51, 52])
def test_every_foreign_letter_is_refused_at_every_place(size: int, place: str) -> None:
    text = to_text(os.urandom(size))
    foreign = [chr(code) for code in range(0x250) if chr(code) not in LETTERS]
    foreign += ["\u2028", "\u3000", "\ufeff", "\ud800", "１", "А", "😀", "٣", "．", "\u200b"]
    for letter in foreign:
        for wrong in (letter, letter * 2, letter * 4):
            altered = {
                "before": wrong + text,
                "inside": text[:9] + wrong + text[9:],
                "instead": text[:9] + wrong + text[9 + len(wrong) :],
                "behind": text + wrong,
                "as the last": text[: -len(wrong)] + wrong,
            }[place]
            assert refused(altered), ascii(altered)


@pytest.mark.parametrize("size", range(1, 20))
def test_padding_and_impossible_lengths_are_refused(size: int) -> None:
    text = to_text(os.urandom(size))
    for padding in ("=", "==", "===", "===="):
        assert refused(text + padding)
    if len(text) % 4 == 0:
        assert refused(text + "A")
    assert refused("A" * (4 * size + 1))


@given(st.text(max_size=30))
def test_any_text_is_one_token_or_malformed(text: str) -> None:
    if not refused(text):
        assert to_text(from_text(text)) == text


def test_random_texts_of_our_letters_are_one_token_or_malformed() -> None:
    chance = random.Random("chunking")
    readable = 0
    for _ in range(50_000):
        text = "".join(chance.choices(LETTERS, k=chance.randrange(0, 12)))
        if not refused(text):
            readable += 1
            assert to_text(from_text(text)) == text
    assert 0 < readable < 50_000


@given(st.integers(0, 10_000))
def test_sizes_in_bytes_and_in_characters_fit_each_other(size: int) -> None:
    assert text_chars(size) == len(to_text(bytes(size)))
    assert token_bytes(text_chars(size)) == size
    assert text_chars(token_bytes(size)) <= size


@given(st.integers(-5000, 0))
def test_no_room_holds_no_token(chars: int) -> None:
    assert token_bytes(chars) == 0


@given(st.text(LETTERS, max_size=300), st.integers(1, 80))
def test_what_is_split_is_joined_again(text: str, room: int) -> None:
    rooms = (room,) * -(-len(text) // room)
    assert join(split(text, rooms)) == text


@given(st.text(LETTERS, max_size=200), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_chunks_fill_their_rooms_and_are_as_few_as_possible(text: str, rooms: list[int]) -> None:
    if len(text) > sum(rooms):
        with pytest.raises(ValueError, match="longer than all chunks"):
            split(text, rooms)
        return
    chunks = split(text, rooms)
    assert join(chunks) == text
    assert all(len(chunk) == room for chunk, room in zip(chunks[:-1], rooms, strict=False))
    assert all(0 < len(chunk) <= room for chunk, room in zip(chunks, rooms, strict=False))


def test_nothing_needs_no_chunk() -> None:
    assert split("", ()) == split("", (10, 10)) == []
    assert join([]) == ""
