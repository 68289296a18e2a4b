"""The codec: every type of the table comes back as it went, and nothing else goes in or out."""

from __future__ import annotations

import os
import random
import struct
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from sealedstate import Keeper, Key, Settings, UnsupportedValue
from sealedstate._wire import cbor as codec
from sealedstate._wire import record as record_codec
from sealedstate._wire.cbor import MAX_BYTES, MAX_DEPTH, MAX_ODD_MEMBERS
from sealedstate._wire.record import OverflowSet, Record
from sealedstate.errors import MalformedRecord
from tests.support.spec_decoder import described

# --- every value there is -------------------------------------------------------------------------

SECONDS = st.integers(-86399, 86399).map(lambda seconds: timedelta(seconds=seconds))
MICROSECONDS = st.integers(-86399_999999, 86399_999999).map(
    lambda micros: timedelta(microseconds=micros)
)
ZONES = st.none() | st.just(UTC) | (SECONDS | MICROSECONDS).map(timezone)
MOMENTS = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes(),
    ZONES,
    st.sampled_from([0, 0, 0, 1]),
)
INTEGERS = (
    st.integers(-300, 300)
    | st.integers(-(1 << 66), 1 << 66)
    | st.integers(1 - (1 << 4096), (1 << 4096) - 1)
)
DECIMALS = st.decimals(allow_nan=False) | st.sampled_from(
    [Decimal(text) for text in ("-0", "1E+30", "1E-30", "0E+3", "NaN", "NaN7", "Infinity", "1.50")]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=30),
    MOMENTS,
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    DECIMALS,
    st.text(max_size=20).map(Markup),
)
HASHABLE = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
TEXT_KEYS = st.text(max_size=10) | st.binary(max_size=10)


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(TEXT_KEYS, inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
    )


VALUES: st.SearchStrategy[object] = st.recursive(LEAVES, containers, max_leaves=20)
NAMES = st.text(max_size=20)
VERSIONS = st.dictionaries(NAMES, st.integers(0, 1 << 62), max_size=3)
OVERFLOWS = st.none() | st.builds(
    OverflowSet,
    st.binary(min_size=8, max_size=8),
    st.integers(1, 7),
    st.binary(min_size=16, max_size=16),
    st.lists(NAMES, max_size=4).map(tuple),
)
PARTS = st.dictionaries(NAMES, VALUES.map(codec.encode), max_size=4)
RECORDS = st.builds(
    lambda id, subject, began, lifetime, *rest: Record(id, subject, began, began + lifetime, *rest),
    st.binary(min_size=16, max_size=16),
    st.none() | st.text(max_size=40),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40) | st.integers(0, 400 * 24).map(lambda hours: hours * 3600),
    st.integers(0, 1 << 40),
    PARTS,
    OVERFLOWS,
    VERSIONS,
    VERSIONS,
)
SEALED_AT = st.integers(0, (1 << 40) - 1)


def nested(value: object, depth: int, around: Callable[[Any], object]) -> object:
    for _ in range(depth):
        value = around(value)
    return value


# --- what comes back ------------------------------------------------------------------------------


@given(VALUES)
def test_every_value_comes_back_with_its_exact_type_and_content(value: object) -> None:
    assert described(codec.decode(codec.encode(value))) == described(value)


@given(VALUES)
def test_a_value_has_one_encoding(value: object) -> None:
    data = codec.encode(value)
    assert codec.encode(codec.decode(data)) == data


@given(st.sets(HASHABLE, max_size=8))
def test_a_set_has_one_encoding_whatever_the_order_of_its_members(members: set[object]) -> None:
    data = codec.encode(members)
    other: set[object] = set()
    other.update(list(members)[::-1])
    assert codec.encode(other) == data
    again = codec.decode(data)
    assert isinstance(again, set)
    assert len(again) == len(members)


@given(st.permutations(["a", "b", "c", "d"]))
def test_a_dict_keeps_its_own_order(names: list[str]) -> None:
    again = codec.decode(codec.encode(dict.fromkeys(names, 0)))
    assert isinstance(again, dict)
    assert list(again) == names


@given(st.floats(width=64))
def test_a_float_keeps_its_bits(number: float) -> None:
    again = codec.decode(codec.encode(number))
    assert isinstance(again, float)
    if number == number:
        assert struct.pack(">d", again) == struct.pack(">d", number)
    else:
        assert again != again


def test_negative_zero_stays_negative() -> None:
    assert repr(codec.decode(codec.encode(-0.0))) == "-0.0"


def test_a_bool_is_no_int_and_an_int_no_float() -> None:
    value = [True, 1, 1.0, False, 0, 0.0]
    again = codec.decode(codec.encode(value))
    assert isinstance(again, list)
    assert [type(item) for item in again] == [bool, int, float, bool, int, float]


def test_the_zone_of_a_datetime_comes_back_as_its_offset() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for fold, hours in ((0, 2), (1, 1)):
        moment = datetime(2025, 10, 26, 2, 30, tzinfo=zone, fold=fold)
        again = codec.decode(codec.encode(moment))
        assert isinstance(again, datetime)
        assert again.tzinfo == timezone(timedelta(hours=hours))
        assert (again.fold, again.timestamp()) == (fold, moment.timestamp())


def test_utc_comes_back_as_utc() -> None:
    again = codec.decode(codec.encode(datetime(2026, 1, 1, tzinfo=UTC)))
    assert isinstance(again, datetime)
    assert again.tzinfo is UTC


def test_what_comes_back_is_nobody_elses_object() -> None:
    value = {"list": [1, [2]]}
    data = codec.encode(value)
    first, second = codec.decode(data), codec.decode(data)
    assert first == second == value
    assert first is not value
    assert first is not second


# --- depth ----------------------------------------------------------------------------------------

AROUND: dict[str, Callable[[Any], object]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"key": value},
    "dict with odd keys": lambda value: {5: value},
    "dict with a deep key": lambda value: {value: 0},
}
DEEP_LEAVES = [
    7,
    datetime(2026, 1, 1, 1, fold=1, tzinfo=UTC),
    timedelta.max,
    1 << 90,
    uuid.UUID(int=1),
]


@pytest.mark.parametrize("around", list(AROUND.values())[:4], ids=list(AROUND)[:4])
@pytest.mark.parametrize("leaf", DEEP_LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_sixteen_containers_deep_is_carried_and_seventeen_is_not(
    around: Callable[[Any], object], leaf: object
) -> None:
    value = nested(leaf, MAX_DEPTH, around)
    assert described(codec.decode(codec.encode(value))) == described(value)
    with pytest.raises(UnsupportedValue, match="nested deeper than 16"):
        codec.encode(around(value))


def test_a_set_and_its_tuples_count_towards_the_depth() -> None:
    value = {nested(1, MAX_DEPTH - 1, AROUND["tuple"])}
    assert codec.decode(codec.encode(value)) == value
    with pytest.raises(UnsupportedValue, match="nested deeper"):
        codec.encode([value])


def test_a_key_counts_towards_the_depth() -> None:
    value = {nested(1, MAX_DEPTH - 1, AROUND["tuple"]): 1}
    assert codec.decode(codec.encode(value)) == value
    with pytest.raises(UnsupportedValue, match="nested deeper"):
        codec.encode([value])


@pytest.mark.parametrize("head", ["81", "c681", "a16161", "c98201"])
def test_bytes_deeper_than_sixteen_are_refused(head: str) -> None:
    leaf = b"\xf6"
    assert codec.decode(bytes.fromhex(head) * MAX_DEPTH + leaf) is not None
    for depth in (MAX_DEPTH + 1, 40, 10_000):
        with pytest.raises(MalformedRecord):
            codec.decode(bytes.fromhex(head) * depth + leaf)


def test_a_structure_that_holds_itself_is_refused() -> None:
    chain: list[object] = []
    chain.append(chain)
    ring: dict[str, object] = {}
    ring["next"] = {"back": ring}
    pair: list[object] = []
    pair.append((pair,))
    for cycle in (chain, ring, pair):
        with pytest.raises(UnsupportedValue, match="nested deeper"):
            codec.encode(cycle)


def test_the_same_object_twice_is_carried_twice() -> None:
    shared = [1]
    again = codec.decode(codec.encode([shared, shared]))
    assert again == [[1], [1]]
    assert isinstance(again, list)
    assert again[0] is not again[1]


# --- every other type -----------------------------------------------------------------------------


class Number(int):
    pass


class Text(str):
    pass


class Mapped(dict[str, int]):
    pass


class Colour(IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


class Price:
    """Might be pickled; never is."""

    def __reduce__(self) -> str:
        raise AssertionError("a value was pickled")


FOREIGN: dict[str, Any] = {
    type(value).__name__: value
    for value in (
        Number(1),
        Text("a"),
        Mapped(),
        Colour.RED,
        Point(1),
        Price(),
        frozenset({1}),
        bytearray(b"a"),
        memoryview(b"a"),
        1j,
        range(3),
        object(),
        Ellipsis,
        time(1),
        Fraction(1, 2),
        deque([1]),
        OrderedDict(a=1),
        defaultdict(int),
        SimpleNamespace(a=1),
        MappingProxyType({}),
        PurePosixPath("/"),
        UTC,
        len,
        int,
        iter([1]),
        ValueError("x"),
        cbor2.undefined,
        cbor2.CBORSimpleValue(5),
        cbor2.CBORTag(6, [1]),
        Key.generate(os.urandom),
    )
}


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_value_of_another_type_is_refused_with_the_path_to_it(value: Any) -> None:
    for holder, path in (
        (value, "session['cart']"),
        ([1, 2, 3, [value]], "session['cart'][3][0]"),
        ({"a": (1, {"b": value})}, "session['cart']['a'][1]['b']"),
        ({7: value}, "session['cart'][7]"),
        ({(1, 2): value}, "session['cart'][...]"),
    ):
        with pytest.raises(UnsupportedValue) as caught:
            codec.encode(holder, "session['cart']")
        assert caught.value.path == path
        assert str(caught.value).startswith(f"{path}: ")
        assert type(value).__name__ in str(caught.value)


def test_a_foreign_member_or_key_is_refused_with_its_path() -> None:
    foreign = frozenset({1})
    for holder, path in (
        ({foreign}, "session['cart']{...}"),
        ({(foreign, 1)}, "session['cart']{...}[0]"),
        ({(1, foreign): 1}, "session['cart'][...] (key)[1]"),
        ([{foreign: 1}], "session['cart'][0][...] (key)"),
    ):
        with pytest.raises(UnsupportedValue) as caught:
            codec.encode(holder, "session['cart']")
        assert caught.value.path == path


def test_a_session_refuses_at_the_assignment_and_names_the_path() -> None:
    keeper = Keeper(Settings(keys=Key.generate(os.urandom).export()))
    session = keeper.session()
    with pytest.raises(UnsupportedValue, match=r"session\['cart'\]\[3\]\['price'\]: complex"):
        session["cart"] = [1, 2, 3, {"price": 1j}]
    assert "cart" not in session


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d"])
def test_a_lone_surrogate_is_refused_wherever_text_stands(text: str) -> None:
    for value in (
        text,
        Markup(text),
        [text],
        {text: 1},
        {1: text},
        {text},
        (text,),
        {(text, 1): 2},
    ):
        with pytest.raises(UnsupportedValue, match="lone surrogate"):
            codec.encode(value)


# --- sizes ----------------------------------------------------------------------------------------


def test_an_encoding_of_a_mebibyte_is_the_largest() -> None:
    largest = b"x" * (MAX_BYTES - 5)
    assert len(codec.encode(largest)) == MAX_BYTES
    with pytest.raises(UnsupportedValue, match="session\\['big'\\]: 1048577 bytes encoded"):
        codec.encode(largest + b"x", "session['big']")


def test_an_integer_of_4096_bits_is_the_largest() -> None:
    for sign in (1, -1):
        largest = sign * ((1 << 4096) - 1)
        assert codec.decode(codec.encode([largest])) == [largest]
        with pytest.raises(
            UnsupportedValue, match=r"value\[0\]: an integer of more than 4096 bits"
        ):
            codec.encode([largest + sign])


def test_a_key_too_large_to_be_written_out_is_refused_like_any_other() -> None:
    for value in ({1 << 20_000: 1}, {1 << 20_000: object()}, {(1 << 20_000,): 1}, {1 << 20_000}):
        with pytest.raises(UnsupportedValue, match="an integer of more than 4096 bits"):
            codec.encode(value)


def test_members_that_an_attacker_can_make_collide_are_counted() -> None:
    for many in (
        set(range(MAX_ODD_MEMBERS)),
        dict.fromkeys(range(MAX_ODD_MEMBERS)),
        set(map(str, range(5000))),
        dict.fromkeys(map(str, range(5000))),
    ):
        assert codec.decode(codec.encode(many)) == many
    for more in (set(range(MAX_ODD_MEMBERS + 1)), dict.fromkeys(range(MAX_ODD_MEMBERS + 1))):
        with pytest.raises(UnsupportedValue, match="1025 members that are not text"):
            codec.encode(more)


def test_more_odd_members_than_are_ever_encoded_are_refused() -> None:
    numbers = [cbor2.dumps(number) for number in range(MAX_ODD_MEMBERS + 1)]
    crowded = b"\xd9\x01\x02\x99" + len(numbers).to_bytes(2, "big") + b"".join(sorted(numbers))
    with pytest.raises(MalformedRecord):
        codec.decode(crowded)
    fewer = sorted(numbers[:-1])
    assert codec.decode(
        b"\xd9\x01\x02\x99" + len(fewer).to_bytes(2, "big") + b"".join(fewer)
    ) == set(range(MAX_ODD_MEMBERS))


@pytest.mark.parametrize("head", ["5b", "7b", "9b", "bb"])
@pytest.mark.parametrize("length", [1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_length_that_nobody_could_allocate_is_refused(head: str, length: int) -> None:
    for prefix in ("", "81", "c6", "d90102", "c9", "82616e"):
        data = bytes.fromhex(prefix + head) + length.to_bytes(8, "big") + b"abc"
        for decode in (
            codec.decode,
            record_codec.decode_parts,
            lambda raw: record_codec.decode_record(raw, 0),
        ):
            with pytest.raises(MalformedRecord):
                decode(data)


# --- what is refused on the way back --------------------------------------------------------------

OURS = {2, 3, 6, 7, 8, 9, 10, 11, 37, 100, 258}
TAGS = sorted({*range(301), 1004, 1040, 1048, 1101, 43000, 43001, 55799, 55800, 1 << 40} - OURS)
CONTENTS: list[object] = [
    None,
    0,
    -1,
    1.5,
    "",
    "a",
    "2026-01-01",
    b"",
    b"\x01" * 4,
    b"\x01" * 16,
    [],
    [1, 2],
    [0, [1, 2]],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("content", CONTENTS, ids=repr)
def test_every_foreign_tag_is_refused_over_any_content(content: object) -> None:
    assert len(TAGS) > 290
    for tag in TAGS:
        data = cbor2.dumps(cbor2.CBORTag(tag, content))
        for inside in (data, b"\x81" + data, b"\xc6\x81" + data, b"\xd9\x01\x02\x81" + data):
            with pytest.raises(MalformedRecord):
                codec.decode(inside)
        with pytest.raises(MalformedRecord):
            record_codec.decode_record(data, 0)
        with pytest.raises(MalformedRecord):
            record_codec.decode_parts(data)


def test_nothing_is_made_of_a_foreign_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """No regular expression, e-mail message, fraction or reference: refused while it is read."""
    data = b""
    monkeypatch.setattr(codec, "encode", lambda value: data)
    contents = [*CONTENTS, "(a+)+$", "From: a@example.org\n\nb", "2026-01-01T00:00:00Z", 29]
    for tag in TAGS:
        for content in contents:
            data = cbor2.dumps(cbor2.CBORTag(tag, content))
            with pytest.raises(MalformedRecord):
                codec.decode(data)


@given(VALUES, st.binary(min_size=1, max_size=4))
def test_trailing_bytes_are_refused(value: object, more: bytes) -> None:
    with pytest.raises(MalformedRecord):
        codec.decode(codec.encode(value) + more)


@given(VALUES.map(codec.encode), st.data())
def test_a_part_of_an_encoding_is_refused(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data) - 1))
    with pytest.raises(MalformedRecord):
        codec.decode(data[:cut])


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1]))
def test_an_integer_in_a_longer_form_than_it_needs_is_refused(number: int, major: int) -> None:
    shortest = codec.encode(number if major == 0 else -1 - number)
    forms = [bytes([major << 5 | number])] if number < 24 else []
    forms += [
        bytes([major << 5 | 24 + power]) + number.to_bytes(1 << power, "big")
        for power in range(4)
        if number < 1 << (8 << power)
    ]
    assert forms[0] == shortest
    for longer in forms[1:]:
        with pytest.raises(MalformedRecord):
            codec.decode(longer)


# --- anything at all ------------------------------------------------------------------------------

HEADS = bytes.fromhex("c6c7c8c9cacbd8d9808182838485a0a1a2f6f5f4f9fbc2c3404150606162181901")
DECODERS: tuple[Callable[[bytes], object], ...] = (
    codec.decode,
    record_codec.decode_parts,
    lambda data: record_codec.decode_record(data, 1_800_000_000),
)


@pytest.mark.parametrize("shard", range(4))
def test_random_bytes_are_refused_or_decode_to_what_encodes_alike(shard: int) -> None:
    chance = random.Random(f"codec {shard}")
    for number in range(25_000):
        size = chance.randrange(1, 40)
        if number % 2:
            data = chance.randbytes(size)
        else:
            data = bytes(
                chance.choice(HEADS) if chance.random() < 0.7 else chance.randrange(256)
                for _ in range(size)
            )
        for decode in DECODERS:
            try:
                value = decode(data)
            except MalformedRecord:
                continue
            if decode is codec.decode:
                assert codec.encode(value) == data


@pytest.mark.parametrize("shard", range(4))
def test_altered_encodings_are_refused_or_decode_to_what_encodes_alike(shard: int) -> None:
    chance = random.Random(f"altered {shard}")
    overflow = OverflowSet(bytes(8), 2, bytes(16), ("big",))
    value = [1, "two", b"3", 4.0, (5,), {6: 7}, {8, "9"}, datetime(2026, 1, 1, tzinfo=UTC)]
    value += [
        date(2026, 1, 1),
        timedelta(1),
        uuid.UUID(int=3),
        Decimal("1.5"),
        Markup("x"),
        1 << 80,
    ]
    part = codec.encode(value)
    record = Record(bytes(16), "alice", 0, 60, 1, {"a": b"\1"}, overflow, {"b": 3}, {"c": 4})
    originals = (
        part,
        record_codec.encode_parts({"a": part}),
        record_codec.encode_record(record, 30),
    )
    for _ in range(25_000):
        which = chance.randrange(3)
        data = bytearray(originals[which])
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(
                (chance.choice(HEADS), chance.randrange(256))
            )
        try:
            again = DECODERS[which](bytes(data))
        except MalformedRecord:
            continue
        if which == 0:
            assert codec.encode(again) == data
