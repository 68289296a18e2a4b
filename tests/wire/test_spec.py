"""Both decoders open the vectors and agree on everything else.

`spec_decoder` was written from the specification alone. The vectors are files that never change.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from sealedstate import ConfigurationError, Keeper, Key, Settings, errors
from sealedstate._cookies.codec import CookieCodec
from sealedstate._cookies.header import Candidates
from sealedstate._stored.parts import StoredParts
from sealedstate._stored.revocations import Ending, Revocations
from sealedstate._wire import cbor
from sealedstate._wire.encoding import from_text, to_text
from sealedstate._wire.record import (
    NO_FIELDS,
    NO_TERMS,
    OverflowSet,
    Record,
    Terms,
    add_fields,
    decode_array,
    decode_parts,
    decode_record,
    encode_parts,
    encode_record,
)
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, open_token, seal
from sealedstate.errors import MalformedRecord, ReplacedSession, RevokedSession, UnreadableError
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring, export_lookup, parse_lookup
from sealedstate.storage import MemoryStorage, Stored
from tests.support import spec_decoder
from tests.support.shards import shards
from tests.support.spec_decoder import Newer, Refused, SpecKey, as_json, described
from tests.support.stored import PartRow, access_of
from tests.support.strategies import PARTS, RECORDS, SEALED_AT, VALUES
from tests.support.tables import check_each
from tests.vectors import make

VECTORS = Path(__file__).parents[1] / "vectors"
GOOD = json.loads((VECTORS / "format1.json").read_text("utf-8"))
BAD = json.loads((VECTORS / "format1-refused.json").read_text("utf-8"))
ROWS = json.loads((VECTORS / "format1-rows.json").read_text("utf-8"))
REALM, COOKIE, LOOKUP = GOOD["realm"], GOOD["cookie_name"], bytes.fromhex(ROWS["lookup"])

Vector = Mapping[str, Any]
KEY_FIELDS = ("activates_at", "expires_at", "revoked", "disabled")
KEYS = [
    Key(
        bytes.fromhex(key["kid"]),
        bytes.fromhex(key["secret"]),
        **{name: key[name] for name in KEY_FIELDS},
    )
    for key in GOOD["keys"]
]
RING = Keyring(tuple(KEYS), GOOD["skew"], GOOD["announce"])


def spec_ring(now: int) -> spec_decoder.Ring:
    """The same ring as the specification sees it at `now`."""
    return spec_decoder.ring_of(GOOD["keys"], now, GOOD["skew"], GOOD["announce"])


def replay(hexed: list[str]) -> Callable[[int], bytes]:
    """A random source that returns exactly the listed bytes."""
    left = [bytes.fromhex(made) for made in hexed]

    def take(size: int) -> bytes:
        made = left.pop(0)
        assert len(made) == size
        return made

    return take


def codec_of(hexed: list[str]) -> CookieCodec:
    return CookieCodec(COOKIE, REALM, StaticKeys(RING), replay(hexed))


def record_of(vector: Vector) -> Record:
    record = dict(vector["record"])
    record["orphaned_rows"] = record.pop("left")
    record["terms"] = Terms(**record["terms"]) if record["terms"] else NO_TERMS
    fields = {int(number): bytes.fromhex(value) for number, value in record["fields"].items()}
    record["fields"] = fields or NO_FIELDS
    if record["overflow"] is not None:
        record["overflow"] = overflow_of(record["overflow"])
    return Record(**record | {"id": bytes.fromhex(record["id"]), "parts": parts_of(record)})


def parts_of(vector: Vector) -> dict[str, bytes]:
    return {name: bytes.fromhex(data) for name, data in vector["parts"].items()}


def overflow_of(entry: Vector) -> OverflowSet:
    set_id, digest = bytes.fromhex(entry["set_id"]), bytes.fromhex(entry["digest"])
    return OverflowSet(set_id, entry["count"], digest, tuple(entry["names"]))


def assert_same_core(core: spec_decoder.SpecCore, record: Record, sealed_at: int) -> None:
    """What the second decoder read is `record`."""
    specified = core.overflow
    overflow = specified and OverflowSet(
        specified.set_id, specified.count, specified.digest, tuple(specified.names)
    )
    assert core.sealed_at == sealed_at
    assert (core.id, core.subject) == (record.id, record.subject)
    assert (core.created_at, core.expires_at) == (record.created_at, record.expires_at)
    assert (core.generation, overflow) == (record.generation, record.overflow)
    assert (core.spilled, core.orphaned) == (record.spilled, record.orphaned_rows)
    assert (core.terms, core.fields) == (record.terms, record.fields)
    assert_same_parts(core.parts, record.parts)


def assert_same_parts(values: Mapping[str, object], parts: Mapping[str, bytes]) -> None:
    assert {name: described(value) for name, value in values.items()} == {
        name: described(cbor.decode(data)) for name, data in parts.items()
    }


# --- frozen vectors open for ever, and are sealed again bit by bit --------------------------------


def test_vectors_are_what_their_script_makes() -> None:
    for name, vectors in make.files().items():
        assert make.spell(vectors) == (VECTORS / name).read_text("utf-8"), name


def test_frozen_values_are_decoded_and_encoded_alike() -> None:
    def check(vector: Vector) -> None:
        data = bytes.fromhex(vector["cbor"])
        value = cbor.decode(data)
        assert as_json(value) == vector["value"]
        assert cbor.encode(value) == data
        assert as_json(spec_decoder.value_of(data)) == vector["value"]

    check_each(GOOD["values"], check)


def test_frozen_cores_open_with_both_decoders_and_are_sealed_alike() -> None:
    def check(vector: Vector) -> None:
        now, record = vector["now"], record_of(vector)
        opened = codec_of([]).open_text(vector["text"], now)
        assert (opened.record, opened.sealed_at) == (record, now)
        assert (
            codec_of(vector["random"]).seal_core(encode_record(record, now), now) == vector["text"]
        )
        core = spec_decoder.open_core(vector["text"], spec_ring(now), REALM, COOKIE)
        assert_same_core(core, record, now)
        token = from_text(vector["text"])
        key = RING.find(token[1:5])
        assert key is not None
        payload, entropy = encode_record(record, now), bytes.fromhex(vector["random"][-1])
        prefix = b"\x01" + key.kid + now.to_bytes(5, "big")
        assert token[:34] == prefix + spec_decoder.hedged_nonce(
            key.secret, "core", REALM, [COOKIE], entropy, prefix, payload
        )

    check_each(GOOD["cores"], check)


def test_frozen_cores_with_padding_open_with_both_decoders() -> None:
    def check(vector: Vector) -> None:
        now, record = vector["now"], record_of(vector)
        opened = codec_of([]).open_text(vector["text"], now)
        assert (opened.record, opened.sealed_at) == (record, now)
        core = spec_decoder.open_core(vector["text"], spec_ring(now), REALM, COOKIE)
        assert_same_core(core, record, now)

    check_each(GOOD["padded"], check)


def test_frozen_derivation_has_these_steps() -> None:
    steps = {name: bytes.fromhex(value) for name, value in GOOD["derivation"].items()}
    vector = GOOD["cores"][0]
    assert spec_decoder.token_of(vector["text"]) == steps["token"]
    secret, entropy = steps["secret"], bytes.fromhex(vector["random"][-1])
    for use in ("seal", "nonce"):
        assert spec_decoder.subkey(secret, use, "core", REALM) == steps[f"K_{use}"]
    assert spec_decoder.lp("sealedstate/1", "core", REALM, COOKIE) == steps["context"]
    assert steps["AD"] == steps["context"] + steps["prefix"] + steps["nonce"]
    assert steps["nonce"] == spec_decoder.hedged_nonce(
        secret, "core", REALM, [COOKIE], entropy, steps["prefix"], steps["payload"]
    )


def test_frozen_sessions_have_their_outcome() -> None:
    def check(vector: Vector) -> None:
        ring = replace(RING, revoked_before=vector["revoked_before"])
        limits = ("idle_lifetime", "absolute_lifetime", "longest_lifetime")
        settings = Settings(
            keys=StaticKeys(ring),
            realm=REALM,
            skew=GOOD["skew"],
            clock=lambda: vector["now"],
            **{name: vector[name] for name in limits},
        )
        keeper = Keeper(settings)
        session, outcome = keeper.session(f"{COOKIE}={vector['text']}"), vector["outcome"]
        assert session.subject == (None if outcome else "alice")
        if outcome is not None:
            assert keeper.counts[f"refused-{getattr(errors, outcome).reason}"] == 1

    check_each(GOOD["sessions"], check)


def test_frozen_overflow_opens_and_is_sealed_alike() -> None:
    def check(vector: Vector) -> None:
        parts, now = parts_of(vector), vector["now"]
        session_id, overflow = bytes.fromhex(vector["session_id"]), overflow_of(vector["overflow"])
        record = Record(session_id, None, 0, 0, 1, {}, overflow)
        columns = {number: (text,) for number, text in enumerate(vector["texts"], 1)}
        assert codec_of([]).open_overflow(record, Candidates(overflow=columns), now) == parts
        again = codec_of(vector["random"])
        sizes = tuple(vector["rooms"])
        assert again.seal_overflow(session_id, parts, sizes, now) == (overflow, vector["texts"])
        values = spec_decoder.open_overflow(
            vector["texts"], spec_ring(now), REALM, COOKIE, session_id, overflow.set_id
        )
        assert_same_parts(values, parts)

    check_each(GOOD["overflows"], check)


def test_frozen_stored_parts_are_recalled_and_spilled_alike() -> None:
    def check(vector: Vector) -> None:
        now, version, data = vector["now"], vector["version"], bytes.fromhex(vector["cbor"])
        row = PartRow(bytes.fromhex(vector["session_id"]), vector["name"])
        assert row.key == vector["key"]
        stored = StoredParts(access_of(with_row(vector), RING, lambda: now, REALM))
        recalled = stored.recall(*row, version)
        assert recalled is not None
        assert recalled.value == data
        storage, random = MemoryStorage(lambda: now), replay(vector["random"])
        spilled = StoredParts(access_of(storage, RING, lambda: now, REALM, random))
        spilled.spill(*row, data, known=None, base=None, expires_at=now + 60)
        assert row_of(storage, vector) == row_of(with_row(vector), vector)

    check_each(GOOD["stored"], check)


def test_frozen_revocations_and_watermarks_are_read_and_sealed_alike() -> None:
    def check(vector: Vector) -> None:
        now, storage = vector["now"], MemoryStorage(lambda: vector["now"])
        read = revocations(with_row(vector), now, [])
        write = revocations(storage, now, vector["random"])
        if "subject" in vector:
            assert read.watermark(vector["subject"]) == vector["says"]
            write.revoke_subject(vector["subject"], 60)
        elif "session_id" not in vector:
            assert read.check_lookup()
            write.mark_lookup(60)
        else:
            session_id, says = bytes.fromhex(vector["session_id"]), vector["says"]
            is_replaced = Ending(says[0]) is Ending.REPLACED
            with pytest.raises(ReplacedSession if is_replaced else RevokedSession):
                read.check(Record(session_id, None, now, now + 60, 1))
            found = read.find(session_id)
            assert found is not None
            assert found.ending is Ending(says[0])
            if found.successor is not None:
                id_, expires_at, *marks = found.successor
                rest = [found.replaced_at, expires_at, id_.hex(), *(mark.hex() for mark in marks)]
                assert [found.ending.value, *rest] == says
                assert marks[1].hex() == spec_decoder.subject_mark("alice")
            make.write_revoked(write, session_id, now + 60, says)
        written, frozen = row_of(storage, vector), row_of(with_row(vector), vector)
        assert (written.value, written.version) == (frozen.value, frozen.version)

    check_each([*ROWS["revoked"], *ROWS["watermarks"], *ROWS["lookup_marks"]], check)


def test_specification_finds_and_opens_frozen_rows() -> None:
    def check(vector: Vector) -> None:
        row = (vector["context"], vector["key"], vector["version"])
        token, ring = bytes.fromhex(vector["token"]), spec_ring(vector["now"])
        session_id = bytes.fromhex(vector.get("session_id", ""))
        sealed_at, content = spec_decoder.open_row(token, ring, REALM, *row)
        assert sealed_at == vector["now"]
        if "cbor" in vector:
            assert spec_decoder.part_key(session_id, vector["name"]) == vector["key"]
            assert described(content) == described(cbor.decode(bytes.fromhex(vector["cbor"])))
        else:
            assert content == vector["says"]
            assert vector["key"] == (
                spec_decoder.revoked_key(REALM, session_id)
                if session_id
                else spec_decoder.watermark_key(LOOKUP, REALM, vector["subject"])
            )

    check_each([*GOOD["stored"], *ROWS["revoked"], *ROWS["watermarks"]], check)


def test_specification_finds_and_reads_the_mark_of_the_lookup_secret() -> None:
    (vector,) = ROWS["lookup_marks"]
    row = (vector["context"], vector["key"], vector["version"])
    token, ring = bytes.fromhex(vector["token"]), spec_ring(vector["now"])
    assert spec_decoder.lookup_key(REALM) == vector["key"]
    assert spec_decoder.open_row(token, ring, REALM, *row) == (vector["now"], vector["says"])
    assert spec_decoder.lookup_mark(LOOKUP) == vector["says"]


def revocations(storage: MemoryStorage, now: int, random: list[str]) -> Revocations:
    ring = replace(RING, lookup=LOOKUP)
    return Revocations(access_of(storage, ring, lambda: now, REALM, replay(random)), make.SKEW)


def with_row(vector: Vector) -> MemoryStorage:
    storage, token = MemoryStorage(lambda: vector["now"]), bytes.fromhex(vector["token"])
    expires_at = (vector["now"] + 60) * 1000
    assert storage.create(vector["context"], vector["key"], token, expires_at, vector["version"])
    return storage


def row_of(storage: MemoryStorage, vector: Vector) -> Stored:
    row = storage.read(vector["context"], vector["key"])
    assert row is not None
    return row


# --- what was refused stays refused ---------------------------------------------------------------


def context_of(vector: Vector) -> TokenContext:
    name = tuple(
        field["text"] if "text" in field else bytes.fromhex(field["hex"])
        for field in vector["place"]
    )
    return TokenContext(vector["purpose"], vector["realm"], name)


OURS: dict[str, Callable[[bytes, int], object]] = {
    "core": decode_record,
    "overflow": lambda payload, _: decode_parts(payload),
    "stored": lambda payload, _: cbor.decode(payload),
}
SPECIFIED: dict[str, Callable[[bytes, int], object]] = {
    "core": spec_decoder.core_of,
    "overflow": lambda payload, _: spec_decoder.parts_of(spec_decoder.value_of(payload)),
    "stored": lambda payload, _: spec_decoder.value_of(payload),
}


def test_frozen_bad_tokens_are_refused_by_both_decoders() -> None:
    def check(vector: Vector) -> None:
        context, now = context_of(vector), vector["now"]
        with pytest.raises(UnreadableError) as caught:  # noqa: PT012
            opened = open_token(from_text(vector["text"]), context, RING, now)
            OURS[context.purpose](opened.payload, opened.sealed_at)
        assert type(caught.value) is getattr(errors, vector["error"])
        if context.purpose == "core":
            name = context.name[0] if context.name else ""
            assert isinstance(name, str)
            codec = CookieCodec(name, context.realm, StaticKeys(RING), bytes)
            with pytest.raises(UnreadableError):
                codec.open_text(vector["text"], now)
        newer = vector["error"] == "UnknownField"
        with pytest.raises(Newer if newer else Refused) as refused:  # noqa: PT012
            sealed_at, payload = spec_decoder.open_sealed(
                spec_decoder.token_of(vector["text"]),
                spec_ring(now),
                context.purpose,
                context.realm,
                context.name,
            )
            SPECIFIED[context.purpose](payload, sealed_at)
        if isinstance(caught.value, errors.UnknownField):
            assert isinstance(refused.value, Newer)
            assert refused.value.id == caught.value.session_id
            assert refused.value.expires_at == caught.value.expires_at

    check_each(BAD["tokens"], check)


def test_frozen_bad_values_are_refused_by_both_decoders() -> None:
    def check(vector: Vector) -> None:
        data = bytes.fromhex(vector["cbor"])
        with pytest.raises(errors.MalformedRecord):
            cbor.decode(data)
        with pytest.raises(Refused):
            spec_decoder.value_of(data)

    check_each(BAD["values"], check)


def test_keys_of_the_vectors_are_refused_in_a_configuration() -> None:
    texts, lookup = [key.export() for key in RING.keys], export_lookup(LOOKUP)
    for parse, text in [*((Key.parse, text) for text in texts), (parse_lookup, lookup)]:
        with pytest.raises(ConfigurationError, match="published in the documentation"):
            parse(text)


# --- both decoders agree on everything else -------------------------------------------------------

KID = st.binary(min_size=4, max_size=4)
SECRET = st.binary(min_size=32, max_size=32).filter(
    lambda secret: len(set(secret)) >= 16 and not all(32 <= byte < 127 for byte in secret)
)
ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)
REALMS = st.text(max_size=12)


@given(RECORDS, KID, SECRET, REALMS, st.text(max_size=12), SEALED_AT, ENTROPY)
def test_specification_opens_every_sealed_core(
    record: Record,
    kid: bytes,
    secret: bytes,
    realm: str,
    cookie_name: str,
    sealed_at: int,
    entropy: bytes,
) -> None:
    keys = StaticKeys(Keyring((Key(kid, secret),)))
    codec = CookieCodec(cookie_name, realm, keys, lambda _: entropy)
    text = codec.seal_core(encode_record(record, sealed_at), sealed_at)
    core = spec_decoder.open_core(text, {kid: SpecKey(secret)}, realm, cookie_name)
    assert_same_core(core, record, sealed_at)


@given(PARTS, st.binary(min_size=16, max_size=16), ENTROPY, st.integers(40, 4000))
def test_specification_opens_all_sealed_overflow(
    parts: dict[str, bytes], session_id: bytes, entropy: bytes, size: int
) -> None:
    key = RING.keys[0]
    codec = CookieCodec("s", "r", StaticKeys(Keyring((key,))), lambda size: entropy[:size])
    overflow, texts = codec.seal_overflow(session_id, parts, (size,) * 2000, 1_800_000_000)
    ring = {key.kid: SpecKey(key.secret)}
    values = spec_decoder.open_overflow(texts, ring, "r", "s", session_id, overflow.set_id)
    assert_same_parts(values, parts)


CONTEXTS = st.tuples(
    st.text(max_size=8), REALMS, st.lists(st.text(max_size=6) | st.binary(max_size=6), max_size=3)
)


@given(KID, SECRET, CONTEXTS, st.binary(max_size=60), SEALED_AT, ENTROPY)
def test_specification_opens_every_token_of_any_context(
    kid: bytes,
    secret: bytes,
    context: tuple[str, str, list[str | bytes]],
    payload: bytes,
    sealed_at: int,
    entropy: bytes,
) -> None:
    purpose, realm, name = context
    token_context = TokenContext(purpose, realm, tuple(name))
    token = seal(payload, token_context, Key(kid, secret), sealed_at, entropy)
    opened = spec_decoder.open_sealed(token, {kid: SpecKey(secret)}, purpose, realm, name)
    assert opened == (sealed_at, payload)
    prefix = b"\x01" + kid + sealed_at.to_bytes(5, "big")
    nonce = spec_decoder.hedged_nonce(secret, purpose, realm, name, entropy, prefix, payload)
    assert token[:34] == prefix + nonce


SPEC_CONTEXTS = [
    TokenContext("core", REALM, (COOKIE,)),
    TokenContext("core", "other", (COOKIE,)),
    TokenContext("overflow", REALM, (COOKIE, bytes(16), bytes(8))),
]


def spec_seal(
    payload: bytes, context: TokenContext, key: Key, sealed_at: int, entropy: bytes
) -> bytes:
    """`seal` by the specification, with PyNaCl's public function."""
    place = context.purpose, context.realm, context.name
    prefix = b"\x01" + key.kid + sealed_at.to_bytes(5, "big")
    nonce = spec_decoder.hedged_nonce(key.secret, *place, entropy, prefix, payload)
    data = spec_decoder.lp("sealedstate/1", *place[:2], *context.name) + prefix + nonce
    subkey = spec_decoder.subkey(key.secret, "seal", *place[:2])
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(payload, data, nonce, subkey)
    return prefix + nonce + sealed


# The two functions that compiled code would replace, `seal` and `open_token`, against a second
# form of both. Sealing must agree in each byte, and opening in each answer.
@pytest.mark.parametrize("shard", shards(60))
def test_second_form_seals_to_the_same_bytes_and_opens_the_same_altered_tokens(shard: int) -> None:
    chance = Random(f"two forms {shard}")
    # Around the moments at which keys begin, end, take over and may no longer have sealed.
    moments = [at for key in KEYS for at in (key.activates_at, key.expires_at) if at is not None]
    distances = (-61, -60, -59, -1, 0, 1, 29, 30, 31, 89, 90, 91, 5000)
    tokens = [bytes(50)]
    counts = Counter[bool]()
    for _ in range(600 if shard == 0 else 30_000):
        # The last two open nothing, the others what they were allowed to seal.
        context, key = chance.choice(SPEC_CONTEXTS), chance.choice((*KEYS, *KEYS[:2]))
        edges = (*moments, *(2 * [key.activates_at]), 0, 1 << 32, (1 << 40) - 6000)
        sealed_at, now = (chance.choice(edges) + chance.choice(distances) for _ in range(2))
        sealed_at = max(sealed_at, 0)
        payload, entropy = chance.randbytes(chance.choice((0, 1, 60, 300))), chance.randbytes(32)
        token = seal(payload, context, key, sealed_at, entropy)
        assert token == spec_seal(payload, context, key, sealed_at, entropy)
        tokens = [*tokens[-20:], token]
        candidate = token
        match chance.randrange(8):
            case 0:  # a bit
                at = chance.randrange(len(token))
                candidate = token[:at] + bytes([token[at] ^ 1 << chance.randrange(8)])
                candidate += token[at + 1 :]
            case 1:  # the head of one, the rest of another
                at = chance.choice((1, 5, 10, 34, len(token) - 16))
                candidate = chance.choice(tokens)[:at] + token[at:]
            case 2:  # cut, or longer
                candidate = (token + chance.randbytes(3))[: chance.randrange(len(token) + 4)]
            case 3:  # for another place
                context = chance.choice(SPEC_CONTEXTS)
        mine = outcome(lambda raw, *by: open_token(raw, *by)[::2], candidate, context, RING, now)
        place = context.purpose, context.realm, context.name
        spec = outcome(
            lambda raw, *by: spec_decoder.open_sealed(raw, *by)[::-1],
            candidate,
            spec_ring(now),
            *place,
        )
        assert mine == spec, (candidate.hex(), context, now)
        counts[mine == "refused"] += 1
    assert min(counts[True], counts[False]) > counts.total() // 10


@given(st.binary(max_size=60), st.text("ABCQgwAz09*_.-+=/ \n", max_size=12))
def test_both_decoders_accept_the_same_texts(token: bytes, text: str) -> None:
    assert spec_decoder.token_of(to_text(token)) == token
    assert outcome(from_text, text) == outcome(spec_decoder.token_of, text)


@given(st.binary(max_size=24), VALUES.map(cbor.encode), st.data())
def test_both_decoders_agree_on_good_altered_and_any_values(
    data: bytes, encoded: bytes, draw: st.DataObject
) -> None:
    assert described(spec_decoder.value_of(encoded)) == described(cbor.decode(encoded))
    for candidate in (data, alter(encoded, draw)):
        assert outcome(cbor.decode, candidate) == outcome(spec_decoder.value_of, candidate)


@given(RECORDS, SEALED_AT, st.data())
def test_both_decoders_agree_on_altered_records(
    record: Record, sealed_at: int, draw: st.DataObject
) -> None:
    # Without parts: their values are read later, and not by the decoder of records.
    data = alter(encode_record(replace(record, parts={}), sealed_at), draw)
    ours = outcome(lambda raw: decode_record(raw, sealed_at).generation, data)
    assert ours == outcome(lambda raw: spec_decoder.core_of(raw, sealed_at).generation, data)


def test_reading_by_hand_agrees_with_decoding_and_encoding_again() -> None:
    numbers = (0, 23, 24, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32)
    records = [record_of(vector) for vector in GOOD["cores"] + GOOD["padded"]]
    first = records[0]
    records += [replace(first, subject="ü" * size) for size in (0, 11, 12, 13, 128)]
    records += [replace(first, parts={"n": bytes(n)}) for n in (0, 23, 24, 255, 256, 1023, 70_000)]
    records += [replace(first, parts=dict.fromkeys(map(str, range(n)), b"")) for n in (11, 12, 130)]
    records += [
        replace(first, parts={"ü" * 12: b"", "ü" * 11: b"\1"}, generation=n) for n in numbers
    ]
    now = GOOD["cores"][0]["now"]
    records += [replace(first, created_at=now - n, expires_at=now - n + 3600) for n in numbers]
    chosen, agreed = Random(1), 0
    for record in records:
        payload = encode_record(record, now)
        assert decode_record(payload, now) == record
        for _ in range(90):
            altered = payload
            for _ in range(chosen.choice((0, 1, 1, 2))):
                altered = mutate(altered[:2000], chosen)
            mine, other = read_record(altered, now), read_generally(altered, now)
            assert mine == other, altered.hex()
            agreed += isinstance(mine, Record)
            parts = outcome(decode_parts, altered[20:])
            assert parts == outcome(parts_generally, altered[20:]), altered.hex()
    assert agreed > 1500


def mutate(data: bytes, chosen: Random) -> bytes:
    """`data` with another, one more or one byte less behind the id, or with a longer head."""
    at = chosen.randrange(min(16, len(data)), len(data) + 1)
    old = data[at : at + 1]
    kinds = (
        bytes([chosen.choice((0, 0x18, 0x19, 0x1A, 0x40, 0x58, 0x60, 0x78, 0x80, 0x98, 0xF6))]),
        bytes([old[0] & 0xE0 | 24, old[0] & 0x1F]) if old else b"\0",
        bytes([old[0] + 1 & 0xFF]) if old else b"\1",
        old + bytes([chosen.randrange(256)]),
        b"",
    )
    return data[:at] + chosen.choice(kinds) + data[at + 1 :]


def read_record(payload: bytes, now: int) -> object:
    try:
        record = decode_record(payload, now)
    except UnreadableError as error:
        return type(error)
    # By values alone, a byte array would be equal to its bytes.
    assert {type(part) for part in record.parts.values()} <= {bytes}
    return record


def read_generally(payload: bytes, now: int) -> object:
    try:
        record, end = decode_array(payload, now)
        return record if end == len(payload) else add_fields(record, payload[end:], now)
    except UnreadableError as error:
        return type(error)


def parts_generally(payload: bytes) -> dict[str, bytes]:
    try:
        items = iter(cbor2.loads(payload))
        parts = dict(zip(items, items, strict=True))
        again = encode_parts(parts)
    except Exception:
        raise MalformedRecord from None
    if again != payload:
        raise MalformedRecord
    return parts


def alter(data: bytes, draw: st.DataObject) -> bytes:
    at = draw.draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]


def outcome(read: Callable[..., object], *given: object) -> str:
    try:
        return described(read(*given))
    except (UnreadableError, Refused):
        return "refused"


def test_second_decoder_shares_no_code_with_the_first() -> None:
    source = Path(spec_decoder.__file__).read_text("utf-8")
    imported = re.findall(r"^(?:from|import) ([\w.]+)", source, re.MULTILINE)
    assert "nacl.bindings" in imported
    assert not [name for name in imported if name.startswith(("sealedstate", "cbor2"))]
