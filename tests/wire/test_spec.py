"""The specification, kept by two decoders: what was frozen opens for ever, and both agree.

`spec_decoder` was written from the text alone. The vectors are files: read here, never made here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nacl.bindings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate import ConfigurationError, Key, Keyring, errors
from sealedstate._cookies.codec import CookieCodec
from sealedstate._cookies.header import Candidates
from sealedstate._stored.parts import StoredParts
from sealedstate._stored.revocations import Ending, Revocations
from sealedstate._wire import cbor as codec
from sealedstate._wire import encoding as chunking
from sealedstate._wire import record as record_codec
from sealedstate._wire.record import OverflowSet, Record
from sealedstate._wire.token import ENTROPY_BYTES, TokenContext, open_token, seal
from sealedstate.errors import ReplacedSession, RevokedSession, UnreadableError
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import export_lookup, length_prefixed, parse_lookup
from sealedstate.storage import MemoryStorage
from tests.support import spec_decoder
from tests.support.spec_decoder import Refused, SpecKey, described
from tests.support.stored import PartRow, access_of
from tests.wire.test_cbor import PARTS, RECORDS, SEALED_AT, VALUES

VECTORS = Path(__file__).parents[1] / "vectors"
GOOD = json.loads((VECTORS / "format1.json").read_text("utf-8"))
BAD = json.loads((VECTORS / "format1-refused.json").read_text("utf-8"))
ROWS = json.loads((VECTORS / "format1-rows.json").read_text("utf-8"))
REALM, COOKIE = GOOD["realm"], GOOD["cookie_name"]

Vector = Mapping[str, Any]


def named(vectors: list[Any]) -> list[Any]:
    return [pytest.param(vector, id=re.sub(r"[^\w]+", "-", vector["name"])) for vector in vectors]


def ring() -> Keyring:
    keys = tuple(
        Key(
            bytes.fromhex(key["kid"]),
            bytes.fromhex(key["secret"]),
            key["activates_at"],
            key["expires_at"],
            key["revoked"],
            key["disabled"],
        )
        for key in GOOD["keys"]
    )
    return Keyring(keys, GOOD["skew"], GOOD["announce"])


def spec_ring(now: int) -> dict[bytes, SpecKey]:
    """The same ring as the specification sees it at `now`."""
    usable = [key for key in GOOD["keys"] if not (key["revoked"] or key["disabled"])]
    return {
        bytes.fromhex(key["kid"]): SpecKey(
            bytes.fromhex(key["secret"]),
            key in usable and (key["expires_at"] is None or now < key["expires_at"]),
            key["activates_at"],
            min(
                (
                    other["activates_at"]
                    for other in usable
                    if other["activates_at"] > key["activates_at"]
                ),
                default=None,
            ),
            GOOD["announce"],
            GOOD["skew"],
        )
        for key in GOOD["keys"]
    }


def tokens(*random: str) -> CookieCodec:
    """The vectors' application, with a random source that gives just what is listed."""
    left = [bytes.fromhex(made) for made in random]

    def take(size: int) -> bytes:
        made = left.pop(0)
        assert len(made) == size
        return made

    return CookieCodec(COOKIE, REALM, StaticKeys(ring()), take)


def record_of(vector: Vector) -> Record:
    record = dict(vector["record"])
    record["orphaned_rows"] = record.pop("left")
    if record["overflow"] is not None:
        record["overflow"] = overflow_of(record["overflow"])
    parts = {name: bytes.fromhex(data) for name, data in record.pop("parts").items()}
    return Record(**record | {"id": bytes.fromhex(record["id"]), "parts": parts})


def overflow_of(entry: Vector) -> OverflowSet:
    return OverflowSet(
        bytes.fromhex(entry["set_id"]),
        entry["count"],
        bytes.fromhex(entry["digest"]),
        tuple(entry["names"]),
    )


def described_parts(parts: Mapping[str, bytes]) -> dict[str, str]:
    return {name: described(codec.decode(data)) for name, data in parts.items()}


def described_values(values: Mapping[str, object]) -> dict[str, str]:
    return {name: described(value) for name, value in values.items()}


# --- what was frozen opens for ever ---------------------------------------------------------------


@pytest.mark.parametrize("vector", named(GOOD["values"]))
def test_a_frozen_value_decodes_for_ever_and_encodes_bit_by_bit(vector: Vector) -> None:
    data = bytes.fromhex(vector["cbor"])
    value = codec.decode(data)
    assert described(value) == vector["value"]
    assert codec.encode(value) == data


@pytest.mark.parametrize("vector", named(GOOD["values"]))
def test_the_specification_reads_a_frozen_value_alike(vector: Vector) -> None:
    value = spec_decoder.value_of(bytes.fromhex(vector["cbor"]))
    assert described(value) == vector["value"]


@pytest.mark.parametrize("vector", named(GOOD["cores"]))
def test_a_frozen_core_opens_for_ever(vector: Vector) -> None:
    opened = tokens().open_core(Candidates((vector["text"],)), vector["now"])[0]
    assert opened.record == record_of(vector)
    assert opened.sealed_at == vector["now"]


@pytest.mark.parametrize("vector", named(GOOD["cores"]))
def test_a_frozen_core_is_sealed_bit_by_bit(vector: Vector) -> None:
    again = tokens(*vector["random"]).seal_core(record_of(vector), vector["now"])
    assert again == vector["text"]


@pytest.mark.parametrize("vector", named(GOOD["cores"]))
def test_the_specification_opens_a_frozen_core_alike(vector: Vector) -> None:
    now, record = vector["now"], record_of(vector)
    core = spec_decoder.open_core(vector["text"], spec_ring(now), REALM, COOKIE)
    assert (core.id, core.subject, core.sealed_at) == (record.id, record.subject, now)
    assert (core.created_at, core.expires_at) == (record.created_at, record.expires_at)
    assert core.generation == record.generation
    assert described_values(core.parts) == described_parts(record.parts)
    assert same_overflow(core.overflow, record.overflow)
    assert (core.spilled, core.left) == (record.spilled, record.orphaned_rows)


@pytest.mark.parametrize("vector", named(GOOD["cores"]))
def test_the_nonce_of_a_frozen_core_is_the_specified_one(vector: Vector) -> None:
    token, now = chunking.from_text(vector["text"]), vector["now"]
    key = ring().find(token[1:5])
    assert key is not None
    plaintext = now.to_bytes(5, "big") + record_codec.encode_record(record_of(vector), now)
    entropy = bytes.fromhex(vector["random"][0])
    nonce = spec_decoder.hedged_nonce(key.secret, "core", REALM, [COOKIE], entropy, plaintext)
    assert token[5:29] == nonce


@pytest.mark.parametrize("vector", named(GOOD["overflows"]))
def test_frozen_overflow_opens_for_ever_and_is_sealed_bit_by_bit(vector: Vector) -> None:
    parts = {name: bytes.fromhex(data) for name, data in vector["parts"].items()}
    session_id, overflow = bytes.fromhex(vector["session_id"]), overflow_of(vector["overflow"])
    record = Record(session_id, None, 0, 0, 1, {}, overflow)
    columns = {number: (text,) for number, text in enumerate(vector["texts"], 1)}
    opened = tokens().open_overflow(record, Candidates(overflow=columns), vector["now"])
    assert opened == parts
    again = tokens(*vector["random"]).seal_overflow(
        session_id, parts, tuple(vector["rooms"]), vector["now"]
    )
    assert again == (overflow, vector["texts"])


@pytest.mark.parametrize("vector", named(GOOD["overflows"]))
def test_the_specification_opens_frozen_overflow_alike(vector: Vector) -> None:
    session_id, overflow = bytes.fromhex(vector["session_id"]), overflow_of(vector["overflow"])
    values = spec_decoder.open_overflow(
        vector["texts"], spec_ring(vector["now"]), REALM, COOKIE, session_id, overflow.set_id
    )
    parts = {name: bytes.fromhex(data) for name, data in vector["parts"].items()}
    assert described_values(values) == described_parts(parts)


@pytest.mark.parametrize("vector", named(GOOD["stored"]))
def test_a_frozen_stored_part_is_recalled_for_ever(vector: Vector) -> None:
    now, version = vector["now"], vector["version"]
    row = PartRow(bytes.fromhex(vector["session_id"]), vector["name"])
    assert row.key == vector["key"]
    storage = MemoryStorage(lambda: now)
    token = bytes.fromhex(vector["token"])
    storage.create(vector["context"], row.key, token, (now + 60) * 1000, version)
    recalled = StoredParts(access_of(storage, ring(), lambda: now, REALM)).recall(*row, version)
    assert recalled is not None
    assert recalled.data.hex() == vector["cbor"]


@pytest.mark.parametrize("vector", named(GOOD["stored"]))
def test_a_frozen_stored_part_is_spilled_bit_by_bit(vector: Vector) -> None:
    now, data = vector["now"], bytes.fromhex(vector["cbor"])
    row = PartRow(bytes.fromhex(vector["session_id"]), vector["name"])
    storage = MemoryStorage(lambda: now)
    random = bytes.fromhex(vector["random"][0])
    access = access_of(storage, ring(), lambda: now, REALM, lambda size: random[:size])
    version = StoredParts(access).spill(*row, data, known=None, base=None, expires_at=now + 60)
    stored = storage.read(vector["context"], vector["key"])
    assert version == vector["version"]
    assert stored is not None
    assert stored.value.hex() == vector["token"]


@pytest.mark.parametrize("vector", named(GOOD["stored"]))
def test_the_specification_opens_a_frozen_stored_part_alike(vector: Vector) -> None:
    sealed_at, value = spec_decoder.open_stored(
        bytes.fromhex(vector["token"]),
        spec_ring(vector["now"]),
        REALM,
        vector["context"],
        vector["key"],
        vector["version"],
    )
    assert sealed_at == vector["now"]
    assert described(value) == described(codec.decode(bytes.fromhex(vector["cbor"])))


@pytest.mark.parametrize("vector", named(GOOD["stored"]))
def test_the_specification_finds_a_part_where_we_put_it(vector: Vector) -> None:
    session_id = bytes.fromhex(vector["session_id"])
    assert spec_decoder.part_key(session_id, vector["name"]) == vector["key"]


def revocations(storage: MemoryStorage, now: int, *random: str) -> Revocations:
    left, lookup = [bytes.fromhex(made) for made in random], bytes.fromhex(ROWS["lookup"])
    keyring = replace(ring(), lookup=lookup)
    access = access_of(storage, keyring, lambda: now, REALM, lambda _: left.pop(0))
    return Revocations(access)


def with_row(vector: Vector) -> MemoryStorage:
    storage, token = MemoryStorage(lambda: vector["now"]), bytes.fromhex(vector["token"])
    expires_at = (vector["now"] + 60) * 1000
    assert storage.create(vector["context"], vector["key"], token, expires_at, vector["version"])
    return storage


@pytest.mark.parametrize("vector", named(ROWS["revoked"]))
def test_a_frozen_revocation_is_read_for_ever_and_sealed_bit_by_bit(vector: Vector) -> None:
    now, session_id = vector["now"], bytes.fromhex(vector["session_id"])
    storage, replaced = MemoryStorage(lambda: now), vector["time"] is not None
    with pytest.raises(ReplacedSession if replaced else RevokedSession):
        revocations(with_row(vector), now).check(Record(session_id, None, now, now + 60, 1))
    how = Ending.REPLACED if replaced else Ending.LOGGED_OUT
    revocations(storage, now, *vector["random"]).revoke(session_id, now + 60, how)
    assert storage.read(vector["context"], vector["key"]) == with_row(vector).read(
        vector["context"], vector["key"]
    )


@pytest.mark.parametrize("vector", named(ROWS["watermarks"]))
def test_a_frozen_watermark_is_read_for_ever_and_sealed_bit_by_bit(vector: Vector) -> None:
    now, subject, storage = vector["now"], vector["subject"], MemoryStorage(lambda: vector["now"])
    assert revocations(with_row(vector), now).watermark(subject) == vector["time"]
    revocations(storage, now, *vector["random"]).revoke_subject(subject, now + 60)
    assert storage.read(vector["context"], vector["key"]) == with_row(vector).read(
        vector["context"], vector["key"]
    )


@pytest.mark.parametrize("vector", named([*ROWS["revoked"], *ROWS["watermarks"]]))
def test_the_specification_finds_and_reads_what_logouts_leave_alike(vector: Vector) -> None:
    place = (vector["context"], vector["key"], vector["version"])
    token = bytes.fromhex(vector["token"])
    assert spec_decoder.open_time(token, spec_ring(vector["now"]), REALM, *place) == vector["time"]
    assert vector["key"] == (
        spec_decoder.revoked_key(REALM, bytes.fromhex(vector["session_id"]))
        if "session_id" in vector
        else spec_decoder.watermark_key(bytes.fromhex(ROWS["lookup"]), REALM, vector["subject"])
    )


# --- what was refused stays refused ---------------------------------------------------------------


def place_of(vector: Vector) -> TokenContext:
    name = tuple(
        field["text"] if "text" in field else bytes.fromhex(field["hex"])
        for field in vector["place"]
    )
    return TokenContext(vector["purpose"], vector["realm"], name)


OURS: dict[str, Callable[[bytes, int], object]] = {
    "core": record_codec.decode_record,
    "overflow": lambda payload, _: record_codec.decode_parts(payload),
    "stored": lambda payload, _: codec.decode(payload),
}
SPECIFIED: dict[str, Callable[[bytes, int], object]] = {
    "core": spec_decoder.core_of,
    "overflow": lambda payload, _: spec_decoder.parts_of(spec_decoder.read(payload)),
    "stored": lambda payload, _: spec_decoder.value_of(payload),
}


@pytest.mark.parametrize("vector", named(BAD["tokens"]))
def test_a_frozen_bad_token_is_refused_for_ever_with_the_same_error(vector: Vector) -> None:
    place = place_of(vector)

    def read() -> object:
        token = chunking.from_text(vector["text"])
        opened = open_token(token, place, ring(), vector["now"])
        return OURS[place.purpose](opened.payload, opened.sealed_at)

    with pytest.raises(UnreadableError) as caught:
        read()
    assert type(caught.value) is getattr(errors, vector["error"])


@pytest.mark.parametrize("vector", named(BAD["tokens"]))
def test_the_specification_refuses_a_frozen_bad_token_too(vector: Vector) -> None:
    place = place_of(vector)

    def read() -> object:
        token = spec_decoder.token_of(vector["text"])
        sealed_at, payload = spec_decoder.open_sealed(
            token, spec_ring(vector["now"]), place.purpose, place.realm, place.name
        )
        return SPECIFIED[place.purpose](payload, sealed_at)

    with pytest.raises(Refused):
        read()


@pytest.mark.parametrize("vector", named([v for v in BAD["tokens"] if v["purpose"] == "core"]))
def test_a_frozen_bad_core_opens_no_session(vector: Vector) -> None:
    place = place_of(vector)
    name = place.name[0] if place.name else ""
    assert isinstance(name, str)
    application = CookieCodec(name, place.realm, StaticKeys(ring()), bytes)
    with pytest.raises(UnreadableError):
        application.open_core(Candidates((vector["text"],)), vector["now"])


@pytest.mark.parametrize("vector", named(BAD["values"]))
def test_a_frozen_bad_value_is_refused_for_ever_by_both(vector: Vector) -> None:
    data = bytes.fromhex(vector["cbor"])
    with pytest.raises(errors.MalformedRecord):
        codec.decode(data)
    with pytest.raises(Refused):
        spec_decoder.value_of(data)


@pytest.mark.parametrize("key", GOOD["keys"], ids=lambda key: key["kid"])
def test_the_keys_of_the_vectors_are_refused_in_a_configuration(key: Vector) -> None:
    text = Key(bytes.fromhex(key["kid"]), bytes.fromhex(key["secret"])).export()
    with pytest.raises(ConfigurationError, match="published in the documentation"):
        Key.parse(text)


def test_the_lookup_key_of_the_vectors_is_refused_in_a_configuration() -> None:
    with pytest.raises(ConfigurationError, match="published in the documentation"):
        parse_lookup(export_lookup(bytes.fromhex(ROWS["lookup"])))


# --- both decoders agree on what nobody froze -----------------------------------------------------

KID = st.binary(min_size=4, max_size=4)
SECRET = st.binary(min_size=32, max_size=32).filter(
    lambda secret: len(set(secret)) >= 16 and not all(32 <= byte < 127 for byte in secret)
)
ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)
REALMS = st.text(max_size=12)


@given(VALUES)
def test_the_specification_reads_every_value_that_we_encode(value: object) -> None:
    assert described(spec_decoder.value_of(codec.encode(value))) == described(value)


@given(RECORDS, SEALED_AT)
def test_the_specification_reads_every_record_that_we_encode(
    record: Record, sealed_at: int
) -> None:
    core = spec_decoder.core_of(record_codec.encode_record(record, sealed_at), sealed_at)
    assert (core.id, core.subject, core.generation) == (
        record.id,
        record.subject,
        record.generation,
    )
    assert (core.created_at, core.expires_at) == (record.created_at, record.expires_at)
    assert described_values(core.parts) == described_parts(record.parts)
    assert same_overflow(core.overflow, record.overflow)
    assert (core.spilled, core.left) == (record.spilled, record.orphaned_rows)


@given(KID, SECRET, REALMS, st.text(max_size=20), RECORDS, SEALED_AT, ENTROPY)
def test_the_specification_opens_every_core_that_we_seal(
    kid: bytes,
    secret: bytes,
    realm: str,
    cookie_name: str,
    record: Record,
    sealed_at: int,
    entropy: bytes,
) -> None:
    key = Key(kid, secret)
    application = CookieCodec(cookie_name, realm, StaticKeys(Keyring((key,))), lambda _: entropy)
    text = application.seal_core(record, sealed_at)
    core = spec_decoder.open_core(text, {kid: SpecKey(secret)}, realm, cookie_name)
    assert core.id == record.id
    assert core.sealed_at == sealed_at
    assert described_values(core.parts) == described_parts(record.parts)
    assert application.open_core(Candidates((text,)), sealed_at)[0].record == record


@given(PARTS, st.binary(min_size=16, max_size=16), ENTROPY, st.integers(10, 400))
def test_the_specification_opens_all_overflow_that_we_seal(
    parts: dict[str, bytes], session_id: bytes, entropy: bytes, room: int
) -> None:
    key = ring().keys[0]
    application = CookieCodec("s", "r", StaticKeys(Keyring((key,))), lambda size: entropy[:size])
    overflow, texts = application.seal_overflow(session_id, parts, (room,) * 2000, 1_800_000_000)
    values = spec_decoder.open_overflow(
        texts, {key.kid: SpecKey(key.secret)}, "r", "s", session_id, overflow.set_id
    )
    assert described_values(values) == described_parts(parts)


PLACES = st.tuples(
    st.text(max_size=8), REALMS, st.lists(st.text(max_size=6) | st.binary(max_size=6), max_size=3)
)


@given(KID, SECRET, PLACES, st.binary(max_size=60), SEALED_AT, ENTROPY)
def test_the_specification_opens_every_token_for_any_place(
    kid: bytes,
    secret: bytes,
    place: tuple[str, str, list[str | bytes]],
    payload: bytes,
    sealed_at: int,
    entropy: bytes,
) -> None:
    purpose, realm, name = place
    token = seal(
        payload, TokenContext(purpose, realm, tuple(name)), Key(kid, secret), sealed_at, entropy
    )
    opened = spec_decoder.open_sealed(token, {kid: SpecKey(secret)}, purpose, realm, name)
    assert opened == (sealed_at, payload)
    plaintext = sealed_at.to_bytes(5, "big") + payload
    nonce = spec_decoder.hedged_nonce(secret, purpose, realm, name, entropy, plaintext)
    assert token[5:29] == nonce


@given(st.binary(max_size=60))
def test_both_decoders_read_the_same_text(token: bytes) -> None:
    assert spec_decoder.token_of(chunking.to_text(token)) == token


@given(st.text("ABCQgwAz09._-+=/ \n", max_size=12))
def test_both_decoders_refuse_the_same_texts(text: str) -> None:
    assert outcome(chunking.from_text, text) == outcome(spec_decoder.token_of, text)


@given(st.binary(max_size=24))
def test_both_decoders_agree_on_any_bytes(data: bytes) -> None:
    assert outcome(codec.decode, data) == outcome(spec_decoder.value_of, data)


@given(VALUES.map(codec.encode), st.data())
def test_both_decoders_agree_on_altered_encodings(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    altered = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    assert outcome(codec.decode, altered) == outcome(spec_decoder.value_of, altered)


@given(RECORDS, SEALED_AT, st.data())
def test_both_decoders_agree_on_altered_records(
    record: Record, sealed_at: int, draw: st.DataObject
) -> None:
    bare = Record(
        record.id,
        record.subject,
        record.created_at,
        record.expires_at,
        record.generation,
        {},  # the values of parts are read later, and not by the record's decoder
        record.overflow,
        record.spilled,
        record.orphaned_rows,
    )
    data = record_codec.encode_record(bare, sealed_at)
    at = draw.draw(st.integers(0, len(data) - 1))
    altered = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    ours = outcome(lambda raw: record_codec.decode_record(raw, sealed_at).generation, altered)
    assert ours == outcome(lambda raw: spec_decoder.core_of(raw, sealed_at).generation, altered)


@given(st.lists(st.text(max_size=8) | st.binary(max_size=8)))
def test_both_put_the_same_lengths_before_fields(fields: list[str | bytes]) -> None:
    assert spec_decoder.lp(*fields) == length_prefixed(*fields)


def outcome(read: Callable[[Any], object], given: object) -> str:
    try:
        return described(read(given))
    except (UnreadableError, Refused):
        return "refused"


def same_overflow(specified: spec_decoder.SpecOverflow | None, ours: OverflowSet | None) -> bool:
    if specified is None or ours is None:
        return specified is None and ours is None
    return (specified.set_id, specified.count, specified.digest, tuple(specified.names)) == (
        ours.set_id,
        ours.count,
        ours.digest,
        ours.names,
    )


# --- the source of the cipher ---------------------------------------------------------------------


def test_the_cipher_is_the_one_of_the_internet_draft() -> None:
    # draft-irtf-cfrg-xchacha-03, A.3.1
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    sealed = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f"
        "4eda7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f"
        "76b2383565d3fff921f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
    )
    data = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    encrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
    assert encrypt(plaintext, data, nonce, key) == sealed


def test_the_second_decoder_shares_no_code_with_the_first() -> None:
    source = Path(spec_decoder.__file__).read_text("utf-8")
    imported = re.findall(r"^(?:from|import) ([\w.]+)", source, re.MULTILINE)
    assert "nacl.bindings" in imported
    assert not [name for name in imported if name.startswith(("sealedstate", "cbor2"))]
