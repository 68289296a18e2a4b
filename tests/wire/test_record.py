"""Records and overflow come back as they were, written in one way only."""

from __future__ import annotations

import ipaddress
import math
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealedstate._wire import cbor as codec
from sealedstate._wire import record as record_codec
from sealedstate._wire.record import OverflowSet, Record
from sealedstate.errors import MalformedRecord
from tests.wire.test_cbor import NAMES, PARTS, RECORDS, SEALED_AT, VALUES

SEALED = 1_800_000_000
ROWS: tuple[list[object], ...] = (
    ["alice", 100, 8, 3, ["a", b"\1"]],
    [None, 0, -62, 1, [], [None, ["a", 3], ["b", 4]]],
)


@given(RECORDS, SEALED_AT)
def test_every_record_comes_back_as_it_was(record: Record, sealed_at: int) -> None:
    assert (
        record_codec.decode_record(record_codec.encode_record(record, sealed_at), sealed_at)
        == record
    )


@given(PARTS)
def test_parts_come_back_in_order(parts: dict[str, bytes]) -> None:
    again = record_codec.decode_parts(record_codec.encode_parts(parts))
    assert list(again.items()) == list(parts.items())


@given(RECORDS, SEALED_AT, st.binary(min_size=1, max_size=4))
def test_trailing_bytes_of_a_record_are_refused(
    record: Record, sealed_at: int, more: bytes
) -> None:
    payload = record_codec.encode_record(record, sealed_at)
    for wrong in (payload + more, payload[:-1]):
        with pytest.raises(MalformedRecord):
            record_codec.decode_record(wrong, sealed_at)


@pytest.mark.parametrize("field", ["id", "set_id", "digest"])
@pytest.mark.parametrize("length", [0, 1, 7, 9, 15, 17, 24])
def test_a_record_whose_ids_have_another_length_is_refused(field: str, length: int) -> None:
    overflow = OverflowSet(bytes(8), 2, bytes(16), ("big",))
    record = Record(bytes(16), None, 0, 60, 1, {}, overflow)
    wrong = (
        record._replace(id=bytes(length))
        if field == "id"
        else record._replace(overflow=replace(overflow, **{field: bytes(length)}))  # type: ignore[arg-type]  # of bytes
    )
    with pytest.raises(MalformedRecord):
        record_codec.decode_record(record_codec.encode_record(wrong, 30), 30)


@pytest.mark.parametrize("count", [0, -1, 8, 1 << 31, 1 << 80])
def test_a_count_of_chunks_that_no_header_carries_is_refused(count: int) -> None:
    overflow = OverflowSet(bytes(8), count, bytes(16), ("big",))
    record = Record(bytes(16), None, 0, 60, 1, {}, overflow)
    with pytest.raises(MalformedRecord):
        record_codec.decode_record(record_codec.encode_record(record, 30), 30)


@pytest.mark.parametrize(
    "parts",
    [{}, {"a": b"\1"}, "ab", b"ab", 5, None, ["a"], [["a", b"\1"]], ["a", b"\1", "a", b"\1"]],
)
def test_parts_in_another_shape_are_refused(parts: object) -> None:
    with pytest.raises(MalformedRecord):
        record_codec.decode_parts(cbor2.dumps(parts))
    with pytest.raises(MalformedRecord):
        record_codec.decode_record(bytes(16) + cbor2.dumps([None, 0, -61, 1, parts]), 0)


# Whatever a decoder of CBOR makes of bytes that we never write.
ODD: list[object] = [
    *(None, True, 0, -1, 1 << 63, 1 << 80, -(1 << 80), 0.5, 1.0, math.nan, -math.inf),
    *("", "x", b"", b"x", [], [None], ["a", b"\1"], [["a"]], {}, {"a": b"\1"}, {0: 1}, {"a", "b"}),
    *(
        Decimal("1"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Fraction(1, 2),
        datetime(2026, 1, 1, tzinfo=UTC),
    ),
    *(uuid.UUID(int=3), ipaddress.ip_address("192.0.2.1"), re.compile("x"), cbor2.undefined),
    *(cbor2.CBORSimpleValue(99), cbor2.CBORTag(6, [1]), cbor2.CBORTag(1000, "x")),
]


def frames(odd: object) -> Iterator[object]:
    """Frames of records in which `odd` stands somewhere."""
    yield odd
    for row in ROWS:
        for at in range(len(row)):
            yield [*row[:at], odd, *row[at + 1 :]]
    yield [*ROWS[0], [None, {}, odd]]
    yield [*ROWS[0], [[bytes(8), 1, bytes(16), [odd]], [], []]]
    yield [*ROWS[0][:4], ["a", b"\1", odd, b"\1"]]
    yield [*ROWS[0][:4], ["a", odd]]
    yield [*ROWS[1], odd]


# By number: a set reads differently in each process.
@pytest.mark.parametrize("number", range(len(ODD)))
def test_whatever_stands_in_a_record_is_refused_or_is_what_we_write(number: int) -> None:
    for frame in frames(ODD[number]):
        payload = bytes(16) + cbor2.dumps(frame)
        try:
            record = record_codec.decode_record(payload, SEALED)
        except MalformedRecord:
            continue
        assert record_codec.encode_record(record, SEALED) == payload
        assert type(record.subject) in (str, type(None))
        numbers = (record.created_at, record.expires_at, record.generation)
        assert {type(each) for each in (*numbers, *record.spilled.values())} == {int}
        assert all(
            type(name) is str for name in (*record.parts, *record.spilled, *record.orphaned_rows)
        )
        assert all(type(data) is bytes for data in record.parts.values())


@pytest.mark.parametrize("number", range(len(ODD)))
def test_whatever_stands_in_overflow_is_refused_or_is_what_we_write(number: int) -> None:
    for frame in (ODD[number], ["a", ODD[number]], [ODD[number], b"\1"]):
        payload = cbor2.dumps(frame)
        try:
            parts = record_codec.decode_parts(payload)
        except MalformedRecord:
            continue
        assert record_codec.encode_parts(parts) == payload
        assert all(type(name) is str and type(data) is bytes for name, data in parts.items())


# --- sizes that placing counts with ---------------------------------------------------------------


@given(st.integers(0, (1 << 32) - 1))
def test_the_size_of_a_head_is_what_the_encoder_takes(number: int) -> None:
    assert record_codec.head_bytes(number) == len(codec.encode(number))


@given(NAMES, VALUES)
def test_the_size_of_a_part_is_what_it_adds(name: str, value: object) -> None:
    data = codec.encode(value)
    assert (
        record_codec.part_bytes(name, len(data)) == len(record_codec.encode_parts({name: data})) - 1
    )


@given(RECORDS)
def test_the_sizes_that_most_sessions_have_are_said_shortly(record: Record) -> None:
    hours = record._replace(expires_at=record.created_at + 12 * 3600)
    seconds = hours._replace(expires_at=hours.expires_at + 1)
    sizes = [len(record_codec.encode_record(each, each.created_at)) for each in (hours, seconds)]
    assert sizes[0] + 2 == sizes[1]
