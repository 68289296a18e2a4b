"""A token has one text, a text has one token or none, and cutting loses nothing."""

from __future__ import annotations

import base64
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate._wire.encoding import (
    REFUSED_WORDS,
    from_name,
    from_text,
    has_refused_word,
    split,
    to_name,
    to_text,
    token_bytes,
)
from sealedstate.errors import MalformedToken

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*_"


def read(text: str) -> bytes | None:
    """The token of a text that is its only text; None if it is refused."""
    try:
        token = from_text(text)
    except MalformedToken:
        return None
    assert to_text(token) == text
    return token


@given(st.binary(max_size=200))
def test_text_is_base64_with_other_last_letters_and_without_padding(token: bytes) -> None:
    text = to_text(token)
    plain = base64.b64encode(token).decode().rstrip("=")
    assert text == plain.replace("+", "*").replace("/", "_")
    assert re.fullmatch(r"[A-Za-z0-9*_]*", text)
    assert read(text) == token


def test_exactly_one_last_letter_belongs_to_a_token() -> None:
    for size in (1, 2, 3, 4, 5, 6, 50, 51, 52):
        for token in (bytes(size), b"\xff" * size, os.urandom(size)):
            text = to_text(token)
            twins = {text[:-1] + letter: read(text[:-1] + letter) for letter in LETTERS}
            assert [twin for twin, found in twins.items() if found == token] == [text]
            # 6, 4 or 2 bits of the last letter belong to the token.
            readable = sum(found is not None for found in twins.values())
            assert readable == {0: 64, 1: 4, 2: 16}[size % 3]


def test_short_texts_have_a_token_each_or_are_refused() -> None:
    alphabet, texts = "AQgwBCDz09*_+/=-. \n", [""]
    for _ in range(3):
        texts += [text + letter for text in texts for letter in alphabet]
    tokens = [token for text in set(texts) if (token := read(text)) is not None]
    assert len(tokens) == len(set(tokens)) > 100


def test_foreign_letters_are_refused_at_every_position() -> None:
    foreign = [chr(code) for code in range(0x250) if chr(code) not in LETTERS]
    foreign += ["\u2028", "\u3000", "\ufeff", "\ud800", "１", "А", "😀", "٣", "．", "\u200b"]
    for size in (50, 51, 52):
        text = to_text(os.urandom(size))
        for wrong in [letter * times for letter in foreign for times in (1, 2, 4)]:
            for altered in (
                wrong + text,
                text[:9] + wrong + text[9:],
                text[:9] + wrong + text[9 + len(wrong) :],
                text + wrong,
                text[: -len(wrong)] + wrong,
            ):
                assert read(altered) is None, ascii(altered)


@given(st.text(max_size=30) | st.text(LETTERS, max_size=12))
def test_any_text_has_one_token_or_is_malformed(text: str) -> None:
    assert read(text) is None or len(text) % 4 != 1


@given(st.integers(0, 10_000), st.integers(-5000, 0))
def test_sizes_in_bytes_and_in_characters_fit_each_other(size: int, none: int) -> None:
    assert token_bytes(len(to_text(bytes(size)))) == size
    assert len(to_text(bytes(token_bytes(size)))) <= size
    assert token_bytes(none) == 0


@given(st.text(LETTERS, max_size=300), st.lists(st.integers(1, 80), max_size=8))
def test_chunks_are_full_and_as_few_as_possible(text: str, sizes: list[int]) -> None:
    if len(text) > sum(sizes):
        with pytest.raises(ValueError, match="longer than all chunks"):
            split(text, sizes)
        return
    chunks = split(text, sizes)
    assert "".join(chunks) == text
    assert all(len(chunk) == size for chunk, size in zip(chunks[:-1], sizes, strict=False))
    assert all(0 < len(chunk) <= size for chunk, size in zip(chunks, sizes, strict=False))


# --- names ----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_name_is_the_text_with_a_dot_for_the_asterisk(data: bytes) -> None:
    name = to_name(data)
    assert name == to_text(data).replace("*", ".")
    assert re.fullmatch(r"[A-Za-z0-9._]*", name)
    assert from_name(name) == data


@given(st.text("ABgw*._-", max_size=8))
def test_letters_of_names_and_of_texts_are_not_mixed(text: str) -> None:
    for read_one, foreign in ((from_text, "."), (from_name, "*")):
        if foreign in text:
            with pytest.raises(MalformedToken):
                read_one(text)


# --- words that firewalls refuse ------------------------------------------------------------------


def test_word_is_found_in_any_case_and_place() -> None:
    for word in REFUSED_WORDS:
        for form in (word, word.upper(), word.title()):
            for text in (form, f"AAAA{form}", f"{form}AAAA", f"A{form}A"):
                assert has_refused_word(text)
    assert not has_refused_word("hav_ing*msdb_msdb*0y**x0*")
