"""A token opens only with its payload, in its context, by its key, and in its key's time."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import Key
from sealedstate._cookies.codec import CookieCodec
from sealedstate._cookies.header import Candidates
from sealedstate._wire import aead
from sealedstate._wire import record as records
from sealedstate._wire import token as tokens
from sealedstate._wire.aead import TAG_BYTES
from sealedstate._wire.encoding import from_text, has_refused_word, to_text
from sealedstate._wire.record import Record, encode_record
from sealedstate._wire.token import (
    ENTROPY_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    TokenContext,
    open_token,
    seal,
    seal_text,
)
from sealedstate.errors import (
    ForgedToken,
    KeyDisabled,
    KeyOutOfUse,
    MalformedToken,
    UnknownFormat,
    UnknownKey,
    UnreadableError,
)
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from tests.support.shards import shards

NOW = 1_800_000_000
REALM, COOKIE = "default", "__Host-Http-s"
CORE = TokenContext("core", REALM, (COOKIE,))
# Fixed, so that a failing shard fails again.
FIXED = random.Random("sealing")
KEYS = tuple(Key.generate(FIXED.randbytes) for _ in range(3))
RING = Keyring(KEYS)
FIRST = KEYS[0]
CODEC = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)


def seal_now(payload: bytes = b"payload", context: TokenContext = CORE, key: Key = FIRST) -> bytes:
    return seal(payload, context, key, NOW, os.urandom(ENTROPY_BYTES))


def is_open(token: bytes, context: TokenContext = CORE, ring: Keyring = RING) -> bool:
    try:
        open_token(token, context, ring, NOW)
    except UnreadableError:
        return False
    return True


def assert_refused(
    kind: type[UnreadableError], token: bytes, ring: Keyring = RING, now: int = NOW
) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        open_token(token, CORE, ring, now)
    assert type(caught.value) is kind
    return caught.value


# --- what opens -----------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, (1 << 40) - 1), st.sampled_from(KEYS))
def test_sealed_payload_comes_back_with_key_and_time(
    payload: bytes, sealed_at: int, key: Key
) -> None:
    token = seal(payload, CORE, key, sealed_at, os.urandom(ENTROPY_BYTES))
    opened = open_token(token, CORE, RING, NOW)
    assert (opened.payload, opened.key, opened.sealed_at) == (payload, key, sealed_at)
    assert len(token) == OVERHEAD_BYTES + len(payload)
    assert token[1:5] == tokens.kid_of(token) == key.kid


def test_seal_needs_32_bytes_of_entropy() -> None:
    for size in (0, 16, 31, 33):
        with pytest.raises(ValueError, match=f"expected 32 bytes, got {size}"):
            seal(b"", CORE, FIRST, NOW, bytes(size))


def test_opened_token_does_not_show_its_payload() -> None:
    assert "secret" not in repr(open_token(seal_now(b"a secret of the user"), CORE, RING, NOW))


# --- 50,000 altered tokens in each of 220 shards --------------------------------------------------

ALTERED = 50_000


def originals() -> Iterator[bytes]:
    """Authentic tokens of three keys and of several contexts, to alter and to splice."""

    def seal_fixed(payload: bytes, context: TokenContext, key: Key = FIRST) -> bytes:
        return seal(payload, context, key, NOW, FIXED.randbytes(ENTROPY_BYTES))

    for number, key in enumerate(KEYS):
        for size in (0, 5, 60, 61):
            record = Record(bytes([number]) * 16, "alice", NOW, NOW + 60, 1, {"n": bytes(size)})
            yield seal_fixed(encode_record(record, NOW), CORE, key)
    payload = encode_record(Record(bytes(16), None, NOW, NOW + 60, 1), NOW)
    yield seal_fixed(payload, TokenContext("core", "other", (COOKIE,)))
    yield seal_fixed(payload, TokenContext("core", REALM, ("__Host-t",)))
    yield seal_fixed(payload, TokenContext("overflow", REALM, (COOKIE, bytes(16), bytes(8))))


ORIGINALS = list(originals())
TEXTS = [to_text(token) for token in ORIGINALS]
TEXTS_AS_BYTES = [text.encode() for text in TEXTS]
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*_"


class Altering:
    """Alters tokens, as bytes or as texts, in many ways."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)

    def token(self) -> bytes:
        """A token that was never sealed."""
        while True:
            header = ((0, 5), (5, 10), (10, HEADER_BYTES), (0, HEADER_BYTES))
            fields = (*header, (HEADER_BYTES, -TAG_BYTES))
            altered = self.alter(ORIGINALS, self.chance.randbytes, self.chance.choice(fields))
            if altered not in ORIGINALS:
                return altered

    def text(self) -> str:
        """A text that no token has."""
        while True:
            if self.chance.randrange(8) == 0:
                text = to_text(self.token())
            else:
                text = self.alter(TEXTS_AS_BYTES, self.letters, (4, 8)).decode("latin-1")
            if text not in TEXTS:
                return text

    def letters(self, size: int) -> bytes:
        foreign = self.chance.random() < 0.02
        return bytes(self.chance.choices(b'+/=-" \n,%\xe9\0' if foreign else LETTERS, k=size))

    def alter(
        self, originals: list[bytes], fresh: Callable[[int], bytes], field: tuple[int, int]
    ) -> bytes:
        """One of the originals, altered in one way with `fresh` bytes or with a part of another."""
        chance = self.chance
        one, other = chance.choice(originals), chance.choice(originals)
        if chance.random() < 0.3:
            changed = bytearray(one)
            for _ in range(chance.randrange(1, 9)):
                place = chance.randrange(len(one))
                flipped = changed[place] ^ 1 << chance.randrange(8)
                changed[place] = chance.choice((flipped, fresh(1)[0]))
            return bytes(changed)
        at, end = sorted(chance.choices(range(len(one)), k=2))
        more, turn = fresh(chance.randrange(1, 65)), chance.randrange(1, TAG_BYTES)
        same = chance.choice((b"\0", b"\xff", fresh(1))) * turn
        body, tag = one[:-TAG_BYTES], one[-TAG_BYTES:]
        swapped = bytearray(one)
        swapped[at], swapped[end] = one[end], one[at]
        return chance.choice(
            (
                *(bytes(swapped), one[:at], one[end:], one[:at] + one[end:]),
                *(one + more, more + one, one[:at] + more + one[at:]),
                *(one[:at] + other[at:], one[:at] + other[end:], body + other[-TAG_BYTES:]),
                one[: field[0]] + other[field[0] : field[1]] + one[field[1] :],
                one[:at] + same + one[at + turn :],
                *(one[turn:] + one[:turn], body + tag[turn:] + tag[:turn]),
            )
        )


@pytest.mark.parametrize("shard", shards(220, usual=2))
def test_no_altered_token_opens_or_breaks(shard: int) -> None:
    altering = Altering(f"shard {shard}")
    refused: Counter[type] = Counter()
    for _ in range(ALTERED // 2):
        try:
            open_token(altering.token(), CORE, RING, NOW)
        except UnreadableError as error:
            refused[type(error)] += 1
        try:
            CODEC.open_text(altering.text(), NOW)
        except UnreadableError as error:
            refused[type(error)] += 1
    assert refused.total() == ALTERED
    # If all of them failed for one simple reason, they would prove little.
    for kind in (ForgedToken, MalformedToken, UnknownFormat, UnknownKey):
        assert refused[kind] > ALTERED // 200


def test_originals_of_the_altered_tokens_open_in_their_context() -> None:
    for token, text in zip(ORIGINALS[:12], TEXTS[:12], strict=True):
        assert is_open(token)
        assert CODEC.open_text(text, NOW).record.expires_at == NOW + 60
    assert not any(is_open(token) for token in ORIGINALS[12:])


def test_every_bit_part_and_extension_of_a_token_counts() -> None:
    for token in ORIGINALS[:4]:
        for bit in range(8 * len(token)):
            altered = bytearray(token)
            altered[bit // 8] ^= 1 << bit % 8
            assert not is_open(bytes(altered))
        for first, last in itertools.combinations(range(len(token) + 1), 2):
            assert not is_open(token[first:last]) or (first, last) == (0, len(token))
        for size in range(1, 65):
            for more in (bytes(size), b"\xff" * size, os.urandom(size), token[:size]):
                assert not is_open(token + more)
                assert not is_open(more + token)


def test_every_letter_of_a_text_counts() -> None:
    text = TEXTS[3]
    for at, letter in itertools.product(range(len(text)), LETTERS.decode()):
        altered = text[:at] + letter + text[at + 1 :]
        if altered != text:
            with pytest.raises(UnreadableError):
                CODEC.open_text(altered, NOW)


# --- contexts and keys ----------------------------------------------------------------------------


def contexts() -> Iterator[TokenContext]:
    session_ids, set_ids = (bytes(16), b"\1" * 16), (bytes(8), b"\1" * 8)
    versions = tuple(number.to_bytes(8, "big") for number in (1, 2, 256))
    for realm in ("default", "defaul", "default2", ""):
        for cookie in ("__Host-Http-s", "__Host-t", "s"):
            yield TokenContext("core", realm, (cookie,))
        for fields in itertools.product(("__Host-Http-s", "s"), session_ids, set_ids):
            yield TokenContext("overflow", realm, fields)
        for row in itertools.product(("sealedstate.part", "other"), ("a", "b"), versions):
            yield TokenContext("stored", realm, row)
    # The same bytes with other boundaries between purpose, realm and name.
    part = ("__Host-Http-s" + "\0" * 16, bytes(8))
    shifted: list[tuple[str, str, tuple[str | bytes, ...]]] = [
        ("coredefault", "", ("__Host-Http-s",)),
        ("core", "default__Host-Http-s", ()),
        ("core", "default", ("__Host-", "s")),
        ("core", "default", ("__Host-Http-s", "")),
        ("core", "default", ("", "__Host-Http-s")),
        ("overflow", "default", part),
        ("overflow", "default", ("__Host-Http-s", bytes(8), bytes(16))),
        ("stored", "default", ("sealedstate.parta", versions[0])),
        ("stored", "default", ("sealedstate.par", "ta", versions[0])),
    ]
    yield from (TokenContext(*context) for context in shifted)


CONTEXTS = list(contexts())


def test_token_opens_in_its_context_only() -> None:
    assert len(CONTEXTS) == 4 * (3 + 8 + 12) + 9
    assert len({context.encoded for context in CONTEXTS}) == len(CONTEXTS)
    for key in KEYS:
        for context in CONTEXTS:
            token = seal_now(b"\3", context, key)
            assert [other for other in CONTEXTS if is_open(token, other)] == [context]


def test_token_opens_with_its_key_only() -> None:
    secrets = [key.secret for key in KEYS]
    for shift in range(3):
        keys = tuple(Key(key.kid, secrets[(at + shift) % 3]) for at, key in enumerate(KEYS))
        for key, context in itertools.product(KEYS, CONTEXTS):
            token = seal_now(b"\3", context, key)
            assert is_open(token, context, Keyring(keys)) is (shift == 0)
    for key in KEYS:
        token = seal_now(key=key)
        assert is_open(token, ring=Keyring((key,)))
        others = Keyring(tuple(other for other in KEYS if other is not key))
        assert assert_refused(UnknownKey, token, others).kid == key.kid


def test_overflow_opens_for_its_session_set_and_cookie_only() -> None:
    renamed = CookieCodec("__Host-t", REALM, StaticKeys(RING), os.urandom)
    first, second = (
        CODEC.seal_overflow(bytes(16), {"n": bytes([number])}, (200,), NOW) for number in range(2)
    )
    for (overflow, own), (_, chunks) in itertools.product((first, second), repeat=2):
        candidates = Candidates(overflow={1: tuple(chunks)})
        for session_id in (bytes(16), b"\1" * 16):
            record = Record(session_id, None, NOW, NOW + 60, 1, {}, overflow)
            found = CODEC.open_overflow(record, candidates, NOW)
            assert (found is not None) is (chunks is own and session_id == bytes(16))
            assert renamed.open_overflow(record, candidates, NOW) is None


# --- the order of refusal -------------------------------------------------------------------------


def test_first_failing_check_decides_the_error() -> None:
    assert_refused(MalformedToken, b"\x01" * 49)
    assert_refused(MalformedToken, b"\x02" * 9)
    assert_refused(UnknownFormat, b"\x02" * 10)
    assert_refused(UnknownKey, b"\x01" + b"\0" * 49)
    assert_refused(ForgedToken, seal_now()[:5] + bytes(45))


def test_only_a_newer_format_or_an_unknown_key_is_left_alone_and_with_its_claimed_time() -> None:
    token, stranger = seal_now(), Key.generate(os.urandom)
    for first in range(256):
        changed = bytes([first]) + token[1:]
        if first == 1:
            assert is_open(changed)
        elif first in range(2, 16):
            error = assert_refused(UnknownFormat, changed)
            assert error.keeps_cookie
            assert (error.kid, error.claimed_at) == (FIRST.kid, NOW)
            assert (tokens.kid_of(changed), tokens.claimed_at(changed)) == (FIRST.kid, NOW)
        else:
            assert not assert_refused(MalformedToken, changed).keeps_cookie
            assert (tokens.kid_of(changed), tokens.claimed_at(changed)) == (None, None)
    unknown = assert_refused(UnknownKey, seal_now(key=stranger))
    assert (unknown.kid, unknown.claimed_at) == (stranger.kid, NOW)
    assert tokens.claimed_at(seal_now(key=stranger)) == NOW
    for size in range(50):
        assert (tokens.kid_of(token[:size]), tokens.claimed_at(token[:size])) == (None, None)
        later = b"\x0f" + token[1:size]
        assert tokens.claimed_at(later) == (NOW if len(later) >= 10 else None)


def test_disabled_key_refuses_after_everything_else_and_gives_the_payload() -> None:
    disabled = replace(FIRST, disabled=True)
    ring, token = Keyring((disabled, *KEYS[1:])), seal_now()
    error = assert_refused(KeyDisabled, token, ring)
    assert isinstance(error, KeyDisabled)
    opened = open_token(token, CORE, RING, NOW)
    assert (error.payload, error.kid, error.claimed_at) == (opened.payload, FIRST.kid, NOW)
    assert error.keeps_cookie
    assert_refused(ForgedToken, token[:-1] + bytes([token[-1] ^ 1]), ring)
    late = Keyring((replace(disabled, activates_at=NOW + 10**6), *KEYS[1:]))
    assert_refused(KeyOutOfUse, token, late)


def test_key_out_of_use_is_refused_before_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    def decrypt(*_: object) -> bytes:
        raise AssertionError("decrypted")

    unusable: list[tuple[dict[str, Any], type[UnreadableError]]] = [
        ({"revoked": True}, KeyOutOfUse),
        ({"expires_at": NOW}, KeyOutOfUse),
    ]
    monkeypatch.setattr(tokens, "decrypt", decrypt)
    for changes, kind in unusable:
        assert_refused(kind, seal_now(), Keyring((replace(FIRST, **changes), KEYS[1])))


def test_keys_are_never_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []

    def decrypt(sealed: bytes, data: bytes, nonce: bytes, key: bytes) -> bytes | None:
        tried.append(key)
        return aead.decrypt(sealed, data, nonce, key)

    sealed = [seal_now(key=key) for key in KEYS]
    monkeypatch.setattr(tokens, "decrypt", decrypt)
    for number, token in enumerate(sealed):
        open_token(token, CORE, RING, NOW)
        assert_refused(ForgedToken, token[:-1] + bytes([token[-1] ^ 1]))
        assert len(tried) == 2 * number + 2


def test_no_payload_is_decoded_before_the_tag_is_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(*_: object) -> object:
        raise AssertionError("decoded")

    monkeypatch.setattr(records, "load_frame", decode)
    altering = Altering("unauthentic")
    for _ in range(2000):
        with pytest.raises(UnreadableError):
            CODEC.open_text(altering.text(), NOW)


# --- nonces ---------------------------------------------------------------------------------------


def nonce_of(token: bytes) -> bytes:
    return token[10:HEADER_BYTES]


def test_no_nonce_comes_twice() -> None:
    assert len({nonce_of(seal_now(b"the same payload")) for _ in range(50_000)}) == 50_000


def test_broken_random_source_repeats_a_nonce_only_for_an_identical_token() -> None:
    stuck = bytes(ENTROPY_BYTES)
    sealed = [
        seal(payload, context, key, sealed_at, stuck)
        for payload in [number.to_bytes(2, "big") for number in range(500)]
        for context in CONTEXTS[:5]
        for key in KEYS[:2]
        for sealed_at in (NOW, NOW + 1)
    ]
    assert len({nonce_of(token) for token in sealed}) == len(sealed) == 10_000
    assert seal((0).to_bytes(2, "big"), CONTEXTS[0], KEYS[0], NOW, stuck) == sealed[0]


def test_stuck_random_source_gives_two_nonces_to_two_seals_of_one_payload() -> None:
    stuck = bytes(ENTROPY_BYTES)
    first, second = (seal(b"payload", CORE, FIRST, NOW + later, stuck) for later in (0, 1))
    assert nonce_of(first) != nonce_of(second)
    # The payload is all that is encrypted, so equal nonces would have shown here.
    assert first[HEADER_BYTES:-TAG_BYTES] != second[HEADER_BYTES:-TAG_BYTES]


def test_equal_payloads_give_unrelated_tokens() -> None:
    record = Record(bytes(16), "alice", NOW, NOW + 60, 1, {"cart": b"\x80"})
    assert len({CODEC.seal_core(encode_record(record, NOW), NOW) for _ in range(1000)}) == 1000
    blocks: Counter[bytes] = Counter()
    for _ in range(50):
        body = seal_now(b"sixteen bytes ok" * 60)[HEADER_BYTES:]
        # Blocks of every alignment are compared, whatever is before the text.
        blocks.update(body[at : at + 16] for at in range(len(body) - 15))
    assert set(blocks.values()) == {1}
    assert b"sixteen bytes ok" not in blocks
    first, second = seal_now(bytes(1000)), seal_now(bytes(1000))
    assert first[:10] == second[:10]
    same = sum(one == other for one, other in zip(first[10:], second[10:], strict=True))
    assert same < 60  # 4 are expected of 1040


# --- texts for cookies ----------------------------------------------------------------------------


def test_sealed_texts_of_long_cookies_hold_no_refused_word() -> None:
    # Without the second seal 2 % of them would, so of 3000 some 60.
    chance, twice = random.Random("words"), 0
    for _ in range(3000):
        asked: list[int] = []

        def draw(size: int, asked: list[int] = asked) -> bytes:
            asked.append(size)
            return chance.randbytes(size)

        text, token = seal_text(bytes(2050), CORE, FIRST, NOW, draw)
        assert not has_refused_word(text)
        assert token == from_text(text)
        assert open_token(token, CORE, RING, NOW).payload == bytes(2050)
        assert set(asked) == {ENTROPY_BYTES}
        twice += len(asked) > 1
    assert twice > 20


def test_text_is_sealed_four_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def draw(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    monkeypatch.setattr(tokens, "has_refused_word", lambda text: True)
    text, _ = seal_text(b"payload", CORE, FIRST, NOW, draw)
    assert len(asked) == 4
    assert open_token(from_text(text), CORE, RING, NOW).payload == b"payload"
