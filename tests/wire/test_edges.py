"""The frozen vectors at the edges of format 1, opened by the library and by the second decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sealedstate import Key, Protector
from sealedstate._cookies.codec import CookieCodec
from sealedstate._cookies.header import CookieFamily
from sealedstate._wire import cbor
from sealedstate._wire.encoding import from_text
from sealedstate._wire.record import OverflowSet, Record, encode_record
from sealedstate._wire.token import TokenContext, open_token
from sealedstate.errors import (
    MalformedRecord,
    ProtectedTextRefused,
    ProtectedTextWithheld,
    UnreadableError,
)
from sealedstate.key_sources import StaticKeys
from sealedstate.keyring import Keyring
from tests.support import spec_decoder
from tests.support.spec_decoder import Refused, SpecOverflow, as_json
from tests.support.tables import check_each
from tests.vectors import make, make_edges
from tests.wire.test_spec import (
    COOKIE,
    REALM,
    RING,
    assert_same_core,
    codec_of,
    record_of,
    replay,
    spec_ring,
)

EDGES = json.loads((make.HERE / "format1-edges.json").read_text("utf-8"))
CORE = TokenContext("core", REALM, (COOKIE,))

Vector = Mapping[str, Any]


def test_vectors_are_what_their_script_makes() -> None:
    for name, vectors in make_edges.files().items():
        assert make.spell(vectors) == (make.HERE / name).read_text("utf-8"), name


def test_key_opens_from_the_first_to_the_last_second_in_which_it_may_have_sealed() -> None:
    def check(vector: Vector) -> None:
        keys = tuple(
            Key(bytes.fromhex(key["kid"]), bytes.fromhex(key["secret"]), **without_texts(key))
            for key in vector["keys"]
        )
        ring = Keyring(keys, vector["skew"], vector["announce"])
        found = [outcome_of(token, ring) for token in vector["tokens"]]
        assert found == [token["outcome"] for token in vector["tokens"]]
        for token in vector["tokens"]:
            now, lag = token["now"], (vector["skew"], vector["announce"])
            specified = spec_decoder.ring_of(vector["keys"], now, *lag)
            if token["outcome"] is None:
                spec_decoder.open_core(token["text"], specified, REALM, COOKIE)
            else:
                with pytest.raises(Refused):
                    spec_decoder.open_core(token["text"], specified, REALM, COOKIE)

    check_each(EDGES["windows"], check)


def without_texts(key: Vector) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in ("kid", "secret")}


def outcome_of(token: Vector, ring: Keyring) -> str | None:
    try:
        open_token(from_text(token["text"]), CORE, ring, token["now"])
    except UnreadableError as error:
        return type(error).__name__
    return None


def test_values_with_byte_order_marks_and_zeros_are_decoded_and_encoded_alike() -> None:
    def check(vector: Vector) -> None:
        data = bytes.fromhex(vector["cbor"])
        value = cbor.decode(data)
        assert cbor.encode(value) == data
        assert as_json(value) == as_json(spec_decoder.value_of(data)) == vector["value"]

    check_each(EDGES["values"], check)


def test_bad_values_are_refused_by_both_decoders() -> None:
    def check(vector: Vector) -> None:
        data = bytes.fromhex(vector["cbor"])
        with pytest.raises(MalformedRecord):
            cbor.decode(data)
        with pytest.raises(Refused):
            spec_decoder.value_of(data)

    check_each(EDGES["bad_values"], check)


def test_value_of_a_mebibyte_is_the_longest_for_both_decoders() -> None:
    def check(vector: Vector) -> None:
        byte, count = bytes.fromhex(vector["byte"]), vector["count"]
        data = bytes.fromhex(vector["head"]) + byte * count
        if vector["error"] is not None:
            with pytest.raises(MalformedRecord):
                cbor.decode(data)
            with pytest.raises(Refused):
                spec_decoder.value_of(data)
            return
        value: Any = cbor.decode(data)
        assert value == spec_decoder.value_of(data)
        assert len(value[0] if vector["type"] == "list" else value) == count
        assert cbor.encode(value) == data

    check_each(EDGES["long_values"], check)


def test_texts_with_a_byte_order_mark_are_kept_in_a_record() -> None:
    def check(vector: Vector) -> None:
        now, record = vector["now"], record_of(vector)
        opened = codec_of([]).open_text(vector["text"], now)
        assert (opened.record, opened.sealed_at) == (record, now)
        payload = encode_record(record, now)
        assert codec_of(vector["random"]).seal_core(payload, now) == vector["text"]
        core = spec_decoder.open_core(vector["text"], spec_ring(now), REALM, COOKIE)
        assert_same_core(core, record, now)

    check_each(EDGES["cores"], check)


def test_overflow_opens_or_is_lost_alike() -> None:
    def check(vector: Vector) -> None:
        entry, now, session_id = vector["overflow"], vector["now"], vector["session_id"]
        set_id, digest = bytes.fromhex(entry["set_id"]), bytes.fromhex(entry["digest"])
        count, names = entry["count"], entry["names"]
        overflow = OverflowSet(set_id, count, digest, tuple(names))
        record = Record(bytes.fromhex(session_id), "a", now, now + 60, 1, overflow=overflow)
        ring = replace(RING, revoked_before=vector["revoked_before"])
        codec = CookieCodec(COOKIE, REALM, StaticKeys(ring), replay([]))
        header = "; ".join(
            f"{COOKIE}-{number}={text}" for number, text in enumerate(vector["texts"], 1)
        )
        found = codec.open_overflow(record, CookieFamily(COOKIE).find(header), now)
        expected = vector["parts"]
        assert (found and hexed(found)) == expected
        specified = spec_decoder.open_set(
            vector["texts"],
            spec_ring(now),
            REALM,
            COOKIE,
            record.id,
            SpecOverflow(set_id, count, digest, names),
        )
        assert (specified and hexed(specified)) == expected
        assert (found is None) == (specified is None) == (expected is None)

    check_each(EDGES["overflows"], check)


def hexed(parts: Mapping[str, bytes]) -> dict[str, str]:
    return {name: data.hex() for name, data in parts.items()}


# Which error of a protector an outcome becomes, and its reason.
VERDICTS = {
    "MalformedToken": (ProtectedTextRefused, "malformed"),
    "UnknownFormat": (ProtectedTextWithheld, "format-unknown"),
    "UnknownKey": (ProtectedTextWithheld, "kid-unknown"),
    "ForgedToken": (ProtectedTextRefused, "invalid"),
    "KeyDisabled": (ProtectedTextWithheld, "kid-disabled"),
    "SealedBefore": (ProtectedTextRefused, "revoked"),
    "FutureSession": (ProtectedTextRefused, "not-yet"),
    "too old": (ProtectedTextRefused, "expired"),
    "MalformedRecord": (ProtectedTextWithheld, "record"),
}


def test_protected_texts_open_or_are_refused_alike() -> None:
    def check(vector: Vector) -> None:
        place, now, outcome = vector["place"], vector["now"], vector["outcome"]
        bound = [fields_of(field) for field in place["bound"]]
        ring = replace(RING, revoked_before=vector["revoked_before"])
        source, realm, max_age = StaticKeys(ring), place["realm"], vector["max_age"]
        protector = Protector(place["name"], max_age, realm, source, lambda: now, bytes)
        specified = {
            "now": now,
            "max_age": max_age,
            "revoked_before": vector["revoked_before"],
            "skew": RING.skew,
        }
        given = (vector["text"], spec_ring(now), realm, place["name"], bound)
        if outcome is None:
            assert as_json(protector.open(vector["text"], *bound)) == vector["value"]
            assert as_json(spec_decoder.open_protected(*given, **specified)) == vector["value"]
        else:
            with pytest.raises((ProtectedTextRefused, ProtectedTextWithheld)) as caught:
                protector.open(vector["text"], *bound)
            verdicts = [VERDICTS[outcome]]
            if outcome == "SealedBefore":
                # The library looks at the age first, and names no other reason then.
                verdicts.append(VERDICTS["too old"])
            refused = caught.value
            assert isinstance(refused, ProtectedTextRefused | ProtectedTextWithheld)
            assert (type(refused), refused.reason) in verdicts
            with pytest.raises(Refused):
                spec_decoder.open_protected(*given, **specified)

    check_each(EDGES["protected"], check)


def fields_of(field: Mapping[str, str]) -> str | bytes:
    return field["text"] if "text" in field else bytes.fromhex(field["hex"])


def test_protected_texts_are_sealed_alike() -> None:
    def check(vector: Vector) -> None:
        place, now = vector["sealed_as"], vector["sealed_at"]
        bound = [fields_of(field) for field in place["bound"]]
        random, source = replay(vector["random"]), StaticKeys(RING)
        protector = Protector(place["name"], 1, place["realm"], source, lambda: now, random)
        value = spec_decoder.open_protected(
            vector["text"],
            spec_ring(now),
            place["realm"],
            place["name"],
            bound,
            now=now,
            max_age=1,
            revoked_before=0,
            skew=0,
        )
        assert as_json(value) == vector["value"]
        assert protector.seal(value, *bound) == vector["text"]

    check_each([each for each in EDGES["protected"] if "sealed_as" in each], check)
