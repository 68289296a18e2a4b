"""Records and overflow come back as they were, and are written in one way only."""

from __future__ import annotations

import ipaddress
import math
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate._wire import cbor
from sealedstate._wire.record import (
    NO_FIELDS,
    NO_TERMS,
    OverflowSet,
    Record,
    Terms,
    decode_parts,
    decode_record,
    encode_parts,
    encode_record,
    head_bytes,
    part_bytes,
)
from sealedstate.errors import MalformedRecord
from tests.support.strategies import NAMES, PARTS, RECORDS, SEALED_AT, VALUES

SEALED = 1_800_000_000
ROWS: tuple[list[object], ...] = (
    ["alice", 100, 8, 3, ["a", b"\1"]],
    [None, 0, -62, 1, [], [None, ["a", 3], ["b", 4]]],
)


@given(RECORDS, SEALED_AT, st.binary(min_size=1, max_size=4))
def test_record_comes_back_as_it_was_and_not_with_other_bytes(
    record: Record, sealed_at: int, more: bytes
) -> None:
    payload = encode_record(record, sealed_at)
    assert decode_record(payload, sealed_at) == record
    # Any other byte could begin a field.
    for wrong in (payload + b"\0" + more, payload[:-1]):
        with pytest.raises(MalformedRecord):
            decode_record(wrong, sealed_at)


@given(PARTS)
def test_parts_come_back_in_order(parts: dict[str, bytes]) -> None:
    again = decode_parts(encode_parts(parts))
    assert list(again.items()) == list(parts.items())


def test_record_with_an_id_or_count_of_a_wrong_size_is_refused() -> None:
    overflow = OverflowSet(bytes(8), 2, bytes(16), ("big",))
    record = Record(bytes(16), None, 0, 60, 1, {}, overflow)
    wrong: list[Record] = []
    for length in (0, 1, 7, 9, 15, 17, 24):
        wrong.append(replace(record, id=bytes(length)))
        for field in ("set_id", "digest"):
            sized: dict[str, Any] = {field: bytes(length)}
            wrong.append(replace(record, overflow=replace(overflow, **sized)))
    # No Cookie header carries such a number of chunks.
    for count in (0, -1, 8, 1 << 31, 1 << 80):
        wrong.append(replace(record, overflow=replace(overflow, count=count)))
    for each in wrong:
        with pytest.raises(MalformedRecord):
            decode_record(encode_record(each, 30), 30)


def test_more_fields_than_a_record_holds_are_not_written() -> None:
    record = Record(bytes(16), None, 0, 60, 1, fields={128: bytes(255), 129: bytes(253)})
    assert decode_record(encode_record(record, 30), 30) == record
    with pytest.raises(ValueError, match="must be at most 512 bytes, got 513"):
        encode_record(replace(record, fields={128: bytes(255), 129: bytes(254)}), 30)


def test_record_without_terms_and_fields_ends_with_its_array() -> None:
    record = Record(bytes(16), None, 0, 60, 1)
    payload = encode_record(record, 30)
    assert encode_record(replace(record, terms=Terms(), fields={}), 30) == payload
    assert payload == bytes(16) + cbor2.dumps([None, 30, -61, 1, []])
    assert decode_record(payload, 30).terms is NO_TERMS
    assert decode_record(payload, 30).fields is NO_FIELDS


# What a decoder of CBOR makes of bytes that are never written here.
ODD: list[object] = [
    *(None, True, 0, -1, 1 << 63, 1 << 80, -(1 << 80), 0.5, 1.0, math.nan, -math.inf),
    *("", "x", b"", b"x", "ab", b"ab", [], [None], ["a"], ["a", b"\1"], [["a"]], [["a", b"\1"]]),
    *(["a", b"\1", "a", b"\1"], {}, {"a": b"\1"}, {0: 1}, {"a", "b"}),
    *(Decimal("1"), Decimal("NaN"), Decimal("sNaN"), Fraction(1, 2)),
    *(datetime(2026, 1, 1, tzinfo=UTC), uuid.UUID(int=3), ipaddress.ip_address("192.0.2.1")),
    *(re.compile("x"), cbor2.undefined, cbor2.CBORSimpleValue(99)),
    *(cbor2.CBORTag(6, [1]), cbor2.CBORTag(1000, "x")),
]


def frames(odd: object) -> Iterator[object]:
    """Frames of records with `odd` somewhere in them."""
    yield odd
    for row in ROWS:
        for at in range(len(row)):
            yield [*row[:at], odd, *row[at + 1 :]]
    yield [*ROWS[0], [None, {}, odd]]
    yield [*ROWS[0], [[bytes(8), 1, bytes(16), [odd]], [], []]]
    yield [*ROWS[0][:4], ["a", b"\1", odd, b"\1"]]
    yield [*ROWS[0][:4], ["a", odd]]
    yield [*ROWS[1], odd]


def test_odd_items_in_a_record_are_refused_or_have_their_types() -> None:
    refused = 0
    for frame in [frame for odd in ODD for frame in frames(odd)]:
        payload = bytes(16) + cbor2.dumps(frame)
        try:
            record = decode_record(payload, SEALED)
        except MalformedRecord:
            refused += 1
            continue
        assert encode_record(record, SEALED) == payload
        assert type(record.subject) in (str, type(None))
        versions = {**record.spilled, **record.orphaned_rows}
        numbers = (record.created_at, record.expires_at, record.generation, *versions.values())
        assert {type(each) for each in numbers} == {int}
        assert all(type(name) is str for name in (*record.parts, *versions))
        assert all(type(data) is bytes for data in record.parts.values())
    assert refused > 500


def test_parts_are_refused_unless_they_are_pairs_of_text_and_bytes() -> None:
    for odd in [*ODD, *(["a", item] for item in ODD), *([item, b"\1"] for item in ODD)]:
        is_good = odd == [] or (
            type(odd) is list and len(odd) == 2 and (type(odd[0]), type(odd[1])) == (str, bytes)
        )
        payloads = (cbor2.dumps(odd), bytes(16) + cbor2.dumps([None, 0, -61, 1, odd]))
        for decode, payload in zip((decode_parts, decode_core), payloads, strict=True):
            if is_good:
                assert encode_parts(decode(payload)) == payloads[0]
            else:
                with pytest.raises(MalformedRecord):
                    decode(payload)


def decode_core(payload: bytes) -> Mapping[str, bytes]:
    return decode_record(payload, 0).parts


@given(st.integers(0, (1 << 32) - 1), NAMES, VALUES)
def test_sizes_are_those_of_the_encoding(number: int, name: str, value: object) -> None:
    assert head_bytes(number) == len(cbor.encode(number))
    data = cbor.encode(value)
    assert part_bytes(name, len(data)) == len(encode_parts({name: data})) - 1
