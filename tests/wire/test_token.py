"""Sealing: nothing opens but what was sealed, for its place, by its key, in its key's time."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import Key, Keyring
from sealedstate._cookies.codec import CookieCodec
from sealedstate._cookies.header import Candidates
from sealedstate._stored.parts import CONTEXT, StoredParts
from sealedstate._wire import aead
from sealedstate._wire import encoding as chunking
from sealedstate._wire import record as record_codec
from sealedstate._wire import token as sealing
from sealedstate._wire.aead import TAG_BYTES
from sealedstate._wire.record import Record
from sealedstate._wire.token import (
    ENTROPY_BYTES,
    HEADER_BYTES,
    OVERHEAD_BYTES,
    TokenContext,
    open_token,
    seal,
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
from sealedstate.storage import MemoryStorage
from tests.support.shards import shards
from tests.support.stored import PartRow, access_of

NOW = 1_800_000_000
REALM, COOKIE = "default", "__Host-s"
PLACE = TokenContext("core", REALM, (COOKIE,))
# Fixed, so that a failing shard fails again.
FIXED = random.Random("sealing")
KEYS = tuple(Key.generate(FIXED.randbytes) for _ in range(3))
RING = Keyring(KEYS)
FIRST = KEYS[0]


def sealed(payload: bytes = b"payload", place: TokenContext = PLACE, key: Key = FIRST) -> bytes:
    return seal(payload, place, key, NOW, os.urandom(ENTROPY_BYTES))


def opens(token: bytes, place: TokenContext = PLACE, ring: Keyring = RING) -> bool:
    try:
        open_token(token, place, ring, NOW)
    except UnreadableError:
        return False
    return True


# --- what opens -----------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, (1 << 40) - 1), st.sampled_from(KEYS))
def test_what_was_sealed_opens_with_its_payload_key_and_time(
    payload: bytes, sealed_at: int, key: Key
) -> None:
    token = seal(payload, PLACE, key, sealed_at, os.urandom(ENTROPY_BYTES))
    opened = open_token(token, PLACE, RING, NOW)
    assert (opened.payload, opened.key, opened.sealed_at) == (payload, key, sealed_at)
    assert len(token) == OVERHEAD_BYTES + len(payload)
    assert token[1:5] == key.kid


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_sealing_without_32_bytes_of_entropy_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="expected 32 bytes"):
        seal(b"", PLACE, FIRST, NOW, bytes(size))


def test_an_opened_token_does_not_show_its_payload() -> None:
    opened = open_token(sealed(b"a secret of the user"), PLACE, RING, NOW)
    assert "secret" not in repr(opened)


# --- 1,000,000 altered tokens ---------------------------------------------------------------------

SHARDS, ALTERED = 20, 50_000


def originals() -> list[bytes]:
    """Authentic tokens of three keys and of several places, to alter and to splice."""

    def sealed(payload: bytes, place: TokenContext, key: Key = FIRST) -> bytes:
        return seal(payload, place, key, NOW, FIXED.randbytes(ENTROPY_BYTES))

    tokens = []
    for number, key in enumerate(KEYS):
        for size in (0, 5, 60, 61):
            record = Record(bytes([number]) * 16, "alice", NOW, NOW + 60, 1, {"n": bytes(size)})
            tokens.append(sealed(record_codec.encode_record(record, NOW), PLACE, key))
    payload = record_codec.encode_record(Record(bytes(16), None, NOW, NOW + 60, 1), NOW)
    tokens.append(sealed(payload, TokenContext("core", "other", (COOKIE,))))
    tokens.append(sealed(payload, TokenContext("core", REALM, ("__Host-t",))))
    tokens.append(sealed(payload, TokenContext("overflow", REALM, (COOKIE, bytes(16), bytes(8)))))
    return tokens


ORIGINALS = originals()
TEXTS = [chunking.to_text(token) for token in ORIGINALS]


class Altering:
    """Alters tokens, of bytes or of letters, in every way at hand."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.ways: tuple[Callable[[bytearray], bytearray], ...] = (
            self.flipped,
            self.swapped,
            self.spliced,
            self.cut,
            self.extended,
            self.transplanted,
            self.overwritten,
            self.moved,
        )

    def token(self) -> bytes:
        """A token that nobody has sealed."""
        while True:
            altered = bytes(self.any_way(bytearray(self.chance.choice(ORIGINALS))))
            if altered not in ORIGINALS:
                return altered

    def text(self) -> str:
        """A text that stands for no token of ours."""
        while True:
            altered = bytearray(self.chance.choice(TEXTS), "latin-1")
            way = self.chance.randrange(8)
            if way < 3:
                for _ in range(self.chance.randrange(1, 5)):
                    altered[self.chance.randrange(len(altered))] = self.letter()
            elif way == 3:
                altered += bytes(self.letter() for _ in range(self.chance.randrange(1, 9)))
            elif way == 4:
                other = bytearray(self.chance.choice(TEXTS), "latin-1")
                altered = altered[: self.place(altered)] + other[self.place(other) :]
            elif way == 5:
                altered = self.cut(altered)
            elif way == 6:
                altered = self.swapped(altered)
            else:
                altered = bytearray(chunking.to_text(self.token()), "latin-1")
            text = altered.decode("latin-1")
            if text not in TEXTS:
                return text

    def letter(self) -> int:
        foreign = self.chance.random() < 0.02
        return self.chance.choice(b'+/=-" \n,%\xe9\0' if foreign else LETTERS)

    def place(self, token: bytearray) -> int:
        return self.chance.randrange(len(token) + 1)

    def any_way(self, token: bytearray) -> bytearray:
        return self.chance.choice(self.ways)(token)

    def flipped(self, token: bytearray) -> bytearray:
        for _ in range(self.chance.randrange(1, 9)):
            token[self.chance.randrange(len(token))] ^= 1 << self.chance.randrange(8)
        return token

    def swapped(self, token: bytearray) -> bytearray:
        one, other = self.chance.randrange(len(token)), self.chance.randrange(len(token))
        token[one], token[other] = token[other], token[one]
        return token

    def spliced(self, token: bytearray) -> bytearray:
        other, at = self.chance.choice(ORIGINALS), self.place(token)
        return token[:at] + other[at if self.chance.random() < 0.7 else self.place(token) :]

    def cut(self, token: bytearray) -> bytearray:
        first, last = sorted((self.place(token), self.place(token)))
        return self.chance.choice((token[:first], token[last:], token[:first] + token[last:]))

    def extended(self, token: bytearray) -> bytearray:
        more, at = self.chance.randbytes(self.chance.randrange(1, 65)), self.place(token)
        return self.chance.choice(
            (token + more, bytearray(more) + token, token[:at] + more + token[at:])
        )

    def transplanted(self, token: bytearray) -> bytearray:
        """A field of another token: format and kid, nonce, ciphertext, or tag."""
        other = self.chance.choice(ORIGINALS)
        start, end = self.chance.choice(
            ((0, 5), (5, HEADER_BYTES), (0, HEADER_BYTES), (HEADER_BYTES, -TAG_BYTES))
        )
        if self.chance.random() < 0.3:
            return token[:-TAG_BYTES] + other[-TAG_BYTES:]
        return token[:start] + other[start:end] + token[end:]

    def overwritten(self, token: bytearray) -> bytearray:
        at = self.chance.randrange(len(token))
        size = self.chance.randrange(1, 17)
        token[at : at + size] = bytes([self.chance.choice((0, 255))]) * size
        return token

    def moved(self, token: bytearray) -> bytearray:
        """The tag, or all of it, turned by some bytes."""
        turn = self.chance.randrange(1, TAG_BYTES)
        if self.chance.random() < 0.5:
            return token[turn:] + token[:turn]
        tag = token[-TAG_BYTES:]
        return token[:-TAG_BYTES] + tag[turn:] + tag[:turn]


LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._"


@pytest.mark.parametrize("shard", shards(SHARDS, usual=5))
def test_of_a_million_altered_tokens_none_opens_and_none_breaks(shard: int) -> None:
    none_opens_and_none_breaks(f"shard {shard}")


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(10 * SHARDS))
def test_of_ten_million_altered_tokens_none_opens_and_none_breaks(shard: int) -> None:
    none_opens_and_none_breaks(f"soak {shard}")


def none_opens_and_none_breaks(seed: str) -> None:
    altering = Altering(seed)
    tokens = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)
    refused: Counter[type] = Counter()
    for _ in range(ALTERED // 2):
        try:
            open_token(altering.token(), PLACE, RING, NOW)
        except UnreadableError as error:
            refused[type(error)] += 1
        try:
            tokens.open_core(Candidates((altering.text(),)), NOW)
        except UnreadableError as error:
            refused[type(error)] += 1
    assert refused.total() == ALTERED
    # Had the mutations all failed for one simple reason, they would prove little.
    for kind in (ForgedToken, MalformedToken, UnknownFormat, UnknownKey):
        assert refused[kind] > ALTERED // 100


def test_the_originals_of_the_altered_tokens_open() -> None:
    tokens = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)
    for token, text in zip(ORIGINALS[:12], TEXTS[:12], strict=True):
        assert opens(token)
        assert tokens.open_core(Candidates((text,)), NOW)[0].record.expires_at == NOW + 60
    assert not any(opens(token) for token in ORIGINALS[12:])


def test_every_single_bit_counts() -> None:
    for token in ORIGINALS[:4]:
        for bit in range(8 * len(token)):
            altered = bytearray(token)
            altered[bit // 8] ^= 1 << bit % 8
            assert not opens(bytes(altered))


def test_every_part_of_a_token_is_refused() -> None:
    for token in ORIGINALS[:4]:
        for first, last in itertools.combinations(range(len(token) + 1), 2):
            if (first, last) != (0, len(token)):
                assert not opens(token[first:last])


def test_every_extension_is_refused() -> None:
    for token in ORIGINALS[:4]:
        for size in range(1, 65):
            for more in (bytes(size), b"\xff" * size, os.urandom(size), token[:size]):
                assert not opens(token + more)
                assert not opens(more + token)


def test_every_letter_of_a_text_counts() -> None:
    tokens = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)
    text = TEXTS[3]
    for at, letter in itertools.product(range(len(text)), LETTERS.decode()):
        altered = text[:at] + letter + text[at + 1 :]
        if altered != text:
            with pytest.raises(UnreadableError):
                tokens.open_core(Candidates((altered,)), NOW)


# --- the cross matrix -----------------------------------------------------------------------------


def places() -> Iterator[TokenContext]:
    session_ids, set_ids = (bytes(16), b"\1" * 16), (bytes(8), b"\1" * 8)
    versions = tuple(number.to_bytes(8, "big") for number in (1, 2, 256))
    for realm in ("default", "defaul", "default2", ""):
        for cookie in ("__Host-s", "__Host-t", "s"):
            yield TokenContext("core", realm, (cookie,))
        for fields in itertools.product(("__Host-s", "s"), session_ids, set_ids):
            yield TokenContext("overflow", realm, fields)
        for row in itertools.product(("sealedstate.part", "other"), ("a", "b"), versions):
            yield TokenContext("stored", realm, row)
    # The same bytes with other boundaries between purpose, realm and name.
    yield TokenContext("coredefault", "", ("__Host-s",))
    yield TokenContext("core", "default__Host-s", ())
    yield TokenContext("core", "default", ("__Host-", "s"))
    yield TokenContext("core", "default", ("__Host-s", ""))
    yield TokenContext("core", "default", ("", "__Host-s"))
    yield TokenContext("overflow", "default", ("__Host-s" + "\0" * 16, bytes(8)))
    yield TokenContext("overflow", "default", ("__Host-s", bytes(8), bytes(16)))
    yield TokenContext("stored", "default", ("sealedstate.parta", (1).to_bytes(8, "big")))
    yield TokenContext("stored", "default", ("sealedstate.par", "ta", (1).to_bytes(8, "big")))


MATRIX = list(places())


def test_all_places_of_the_matrix_are_different() -> None:
    assert len(MATRIX) == 4 * (3 + 8 + 12) + 9
    assert len({place.encoded for place in MATRIX}) == len(MATRIX)


@pytest.mark.parametrize("key", range(3))
def test_a_token_opens_at_its_own_place_and_nowhere_else(key: int) -> None:
    for place in MATRIX:
        token = sealed(b"\3", place, KEYS[key])
        assert [other for other in MATRIX if opens(token, other)] == [place]


def test_a_token_opens_with_its_own_key_and_no_other() -> None:
    secrets = [key.secret for key in KEYS]
    for turn in range(3):
        turned = tuple(Key(key.kid, secrets[(at + turn) % 3]) for at, key in enumerate(KEYS))
        for key in KEYS:
            for place in MATRIX:
                assert opens(sealed(b"\3", place, key), place, Keyring(turned)) is (turn == 0)


def test_a_token_opens_only_with_its_key_in_the_ring() -> None:
    for key in KEYS:
        token = sealed(key=key)
        others = tuple(other for other in KEYS if other is not key)
        assert opens(token, ring=Keyring((key,)))
        with pytest.raises(UnknownKey) as caught:
            open_token(token, PLACE, Keyring(others), NOW)
        assert caught.value.kid == key.kid


def test_a_stored_part_is_recalled_from_its_own_row_and_version_only() -> None:
    storage, other = MemoryStorage(lambda: NOW), MemoryStorage(lambda: NOW)
    moment = [NOW]

    def parts_of(store: MemoryStorage) -> StoredParts:
        return StoredParts(access_of(store, RING, lambda: moment[0], REALM))

    rows = [PartRow(bytes([number]) * 16, name) for number in range(2) for name in ("cart", "car")]
    versions = []
    for at, row in enumerate(rows):
        moment[0] = NOW + at
        version = parts_of(storage).spill(
            *row, bytes([at]), known=None, base=None, expires_at=NOW + 60
        )
        versions.append(version)
    moment[0] = NOW
    swapped = parts_of(other)
    for (at, row), (to, target) in itertools.product(enumerate(rows), repeat=2):
        stored = storage.read(CONTEXT, row.key)
        assert stored is not None
        for version in sorted({versions[at], versions[to], versions[at] + 1}):
            other.create(CONTEXT, target.key, stored.value, (NOW + 60) * 1000, version)
            recalled = swapped.recall(*target)
            if at == to and version == versions[at]:
                assert recalled is not None
                assert recalled.data == bytes([at])
            else:
                assert recalled is None
            other.delete(CONTEXT, target.key)


def test_overflow_belongs_to_one_session_one_set_and_one_cookie() -> None:
    tokens = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)
    renamed = CookieCodec("__Host-t", REALM, StaticKeys(RING), os.urandom)
    first, second = (
        tokens.seal_overflow(bytes(16), {"n": bytes([number])}, (200,), NOW) for number in range(2)
    )
    for overflow, (_, chunks) in itertools.product((first[0], second[0]), (first, second)):
        arrived = Candidates(overflow={1: tuple(chunks)})
        for session_id in (bytes(16), b"\1" * 16):
            record = Record(session_id, None, NOW, NOW + 60, 1, {}, overflow)
            found = tokens.open_overflow(record, arrived, NOW)
            own = chunks is (first if overflow is first[0] else second)[1]
            assert (found is not None) is (own and session_id == bytes(16))
            assert renamed.open_overflow(record, arrived, NOW) is None


# --- the order of refusal -------------------------------------------------------------------------


def test_the_first_reason_is_the_one_that_is_told() -> None:
    token = sealed()
    cases: list[tuple[bytes, type[UnreadableError]]] = [
        (b"\x02" * 49, MalformedToken),
        (b"\x02" + b"\0" * 49, UnknownFormat),
        (b"\x01" + b"\0" * 49, UnknownKey),
        (token[:5] + bytes(45), ForgedToken),
    ]
    for wrong, kind in cases:
        with pytest.raises(kind):
            open_token(wrong, PLACE, RING, NOW)


def test_a_key_out_of_use_is_refused_before_anything_is_decrypted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    revoked, expired = (
        Key(b"rrrr", os.urandom(32), revoked=True),
        Key(b"eeee", os.urandom(32), expires_at=NOW),
    )
    disabled = Key(b"dddd", os.urandom(32), disabled=True)
    ring = Keyring((FIRST, revoked, expired, disabled))
    tokens = [sealed(key=key) for key in (revoked, expired, disabled)]
    assert opens(tokens[1], ring=Keyring((FIRST, Key(b"eeee", expired.secret, expires_at=NOW + 1))))

    def decrypt(*_: object) -> bytes:
        raise AssertionError("decrypted")

    monkeypatch.setattr(sealing, "decrypt", decrypt)
    for token, kind in zip(tokens, (KeyOutOfUse, KeyOutOfUse, KeyDisabled), strict=True):
        with pytest.raises(kind):
            open_token(token, PLACE, ring, NOW)


def test_keys_are_never_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []

    def counted(sealed: bytes, data: bytes, nonce: bytes, key: bytes) -> bytes | None:
        tried.append(key)
        return aead.decrypt(sealed, data, nonce, key)

    tokens = [sealed(key=key) for key in KEYS]
    monkeypatch.setattr(sealing, "decrypt", counted)
    for token in tokens:
        tried.clear()
        open_token(token, PLACE, RING, NOW)
        assert len(tried) == 1
        tried.clear()
        with pytest.raises(ForgedToken):
            open_token(token[:-1] + bytes([token[-1] ^ 1]), PLACE, RING, NOW)
        assert len(tried) == 1


def test_nothing_of_a_payload_is_decoded_before_the_tag_is_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)

    def decode(*_: object) -> object:
        raise AssertionError("decoded")

    monkeypatch.setattr(record_codec, "load_frame", decode)
    altering = Altering("unauthentic")
    for _ in range(2000):
        with pytest.raises(UnreadableError):
            tokens.open_core(Candidates((altering.text(),)), NOW)


def test_a_token_sealed_outside_its_keys_time_is_refused() -> None:
    old, new = Key(b"oooo", FIRST.secret, NOW), Key(b"nnnn", KEYS[1].secret, NOW + 1000)
    ring = Keyring((old, new), skew=60, announce=30)
    for key, sealed_at, expected in (
        (old, NOW - 61, False),
        (old, NOW - 60, True),
        (old, NOW + 1090, True),
        (old, NOW + 1091, False),
        (new, NOW + 939, False),
        (new, NOW + 940, True),
    ):
        token = seal(b"", PLACE, key, sealed_at, os.urandom(ENTROPY_BYTES))
        if expected:
            assert open_token(token, PLACE, ring, NOW + 2000).sealed_at == sealed_at
        else:
            with pytest.raises(KeyOutOfUse):
                open_token(token, PLACE, ring, NOW + 2000)


def test_a_token_sealed_after_its_keys_stated_retirement_is_refused() -> None:
    old = Key(b"oooo", FIRST.secret, NOW, retires_at=NOW + 1000)
    # Whatever became of the successor.
    for others in ((), (Key(b"nnnn", KEYS[1].secret, NOW + 1000, disabled=True),)):
        ring = Keyring((old, *others), skew=60, announce=30)
        last = seal(b"", PLACE, old, NOW + 1090, os.urandom(ENTROPY_BYTES))
        late = seal(b"", PLACE, old, NOW + 1091, os.urandom(ENTROPY_BYTES))
        assert opens(last, ring=ring)
        with pytest.raises(KeyOutOfUse):
            open_token(late, PLACE, ring, NOW)


def test_a_key_that_is_no_more_is_out_of_use_and_not_unknown() -> None:
    """An unknown key may be one that this node has yet to learn of; this one never opens again."""
    token = sealed(key=KEYS[1])
    with pytest.raises(KeyOutOfUse):
        open_token(token, PLACE, Keyring((FIRST,), removed_kids=frozenset({KEYS[1].kid})), NOW)
    for gone in (frozenset[bytes](), frozenset({KEYS[2].kid, FIRST.kid})):
        with pytest.raises(UnknownKey):
            open_token(token, PLACE, Keyring((FIRST,), removed_kids=gone), NOW)


@pytest.mark.parametrize(
    ("error", "keeps"),
    [
        (MalformedToken, False),
        (ForgedToken, False),
        (KeyOutOfUse, False),
        (UnknownFormat, True),
        (UnknownKey, True),
        (KeyDisabled, True),
    ],
)
def test_a_cookie_that_another_node_may_read_is_kept(
    error: type[UnreadableError], keeps: bool
) -> None:
    assert error.keeps_cookie is keeps
    assert error.reason


# --- nonces ---------------------------------------------------------------------------------------


def nonce_of(token: bytes) -> bytes:
    return token[5:HEADER_BYTES]


def test_no_nonce_comes_twice() -> None:
    nonces = {nonce_of(sealed(b"the same payload")) for _ in range(50_000)}
    assert len(nonces) == 50_000


def test_a_stuck_random_source_repeats_a_nonce_only_for_the_very_same_token() -> None:
    stuck = bytes(ENTROPY_BYTES)
    tokens = [
        seal(payload, place, key, sealed_at, stuck)
        for payload in [number.to_bytes(2, "big") for number in range(500)]
        for place in MATRIX[:5]
        for key in KEYS[:2]
        for sealed_at in (NOW, NOW + 1)
    ]
    assert len(tokens) == 10_000
    assert len({nonce_of(token) for token in tokens}) == len(tokens)
    again = seal((0).to_bytes(2, "big"), MATRIX[0], KEYS[0], NOW, stuck)
    assert again == tokens[0]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_distinct_plaintexts_get_distinct_nonces_from_the_same_entropy(
    first: bytes, second: bytes
) -> None:
    stuck = b"\x55" * ENTROPY_BYTES
    nonces = [nonce_of(seal(payload, PLACE, FIRST, NOW, stuck)) for payload in (first, second)]
    assert (nonces[0] == nonces[1]) == (first == second)


def test_equal_sessions_give_unequal_tokens() -> None:
    record = Record(bytes(16), "alice", NOW, NOW + 60, 1, {"cart": b"\x80"})
    tokens = CookieCodec(COOKIE, REALM, StaticKeys(RING), os.urandom)
    texts = {tokens.seal_core(record, NOW) for _ in range(1000)}
    assert len(texts) == 1000


def test_no_block_of_sixteen_bytes_is_repeated() -> None:
    payload = b"sixteen bytes ok" * 60
    blocks: Counter[bytes] = Counter()
    for _ in range(50):
        body = sealed(payload)[HEADER_BYTES:]
        # The plaintext begins with 5 bytes of time: every alignment is looked at.
        blocks.update(body[at : at + 16] for at in range(len(body) - 15))
    assert set(blocks.values()) == {1}
    assert payload[:16] not in blocks


def test_two_tokens_share_nothing_but_their_header() -> None:
    first, second = sealed(bytes(1000)), sealed(bytes(1000))
    assert first[:5] == second[:5]
    same = sum(one == other for one, other in zip(first[5:], second[5:], strict=True))
    assert same < 60  # 4 are expected of 1045
