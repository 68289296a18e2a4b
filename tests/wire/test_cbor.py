"""Every type of the table comes back as it was, and nothing else is written or read."""

from __future__ import annotations

import os
import random
import re
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction
from http import HTTPStatus
from itertools import product
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from sealedstate import Key, UnsupportedValue
from sealedstate._wire import cbor
from sealedstate._wire.cbor import (
    MAX_BIG_INT_BITS,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ODD_MEMBERS,
    decode,
    encode,
)
from sealedstate._wire.record import (
    OverflowSet,
    Record,
    decode_parts,
    decode_record,
    encode_parts,
    encode_record,
)
from sealedstate.errors import MalformedRecord
from tests.support.shards import shards
from tests.support.spec_decoder import described
from tests.support.strategies import HASHABLE, VALUES
from tests.support.tables import check_each

DECODERS: tuple[Callable[[bytes], object], ...] = (
    decode,
    decode_parts,
    lambda data: decode_record(data, 1_800_000_000),
)


def assert_refused(data: bytes, *decoders: Callable[[bytes], object]) -> None:
    for read in decoders or (decode,):
        with pytest.raises(MalformedRecord):
            read(data)


def again(value: object) -> Any:
    """The value after a round trip."""
    return decode(encode(value))


def nested(value: object, depth: int, around: Callable[[Any], object]) -> object:
    for _ in range(depth):
        value = around(value)
    return value


# --- what comes back ------------------------------------------------------------------------------


@given(VALUES)
def test_value_comes_back_with_its_type_and_content_from_its_only_encoding(value: object) -> None:
    data = encode(value)
    found = decode(data)
    assert described(found) == described(value)
    assert encode(found) == data


@given(VALUES)
def test_simple_value_is_encoded_as_any_other(value: object) -> None:
    assert encode(value) == cbor._dumps(value)


@given(st.sets(HASHABLE, max_size=8))
def test_set_has_one_encoding_in_any_order_of_its_members(members: set[object]) -> None:
    data = encode(members)
    other: set[object] = set()
    other.update(list(members)[::-1])
    assert encode(other) == data
    found = decode(data)
    assert isinstance(found, set)
    assert len(found) == len(members)


def test_datetime_comes_back_with_the_offset_of_its_zone() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for fold, hours in ((0, 2), (1, 1)):
        moment = datetime(2025, 10, 26, 2, 30, tzinfo=zone, fold=fold)
        found = again(moment)
        assert found.tzinfo == timezone(timedelta(hours=hours))
        assert (found.fold, found.timestamp()) == (fold, moment.timestamp())
    assert again(datetime(2026, 1, 1, tzinfo=UTC)).tzinfo is UTC


class Moment(datetime):
    """As freezegun, time-machine and pendulum return them."""


class Nanoseconds(datetime):
    """As pandas returns them: more than a datetime carries."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and datetime.__eq__(self, other)

    __hash__ = datetime.__hash__


class Day(date):
    pass


def test_datetime_of_a_subclass_is_written_as_its_base_type() -> None:
    moment = (2026, 5, 17, 12, 30, 1, 999)
    for zone in (None, UTC, ZoneInfo("Europe/Helsinki")):
        for fold in (0, 1):
            base = datetime(*moment, tzinfo=zone, fold=fold)
            value = Moment(*moment, tzinfo=zone, fold=fold)
            assert encode([value, {value: value}]) == encode([base, {base: base}])
            assert type(again(value)) is datetime
    assert encode([Day(2026, 5, 17)]) == encode([date(2026, 5, 17)])
    assert type(again(Day(2026, 5, 17))) is date
    with pytest.raises(UnsupportedValue, match=r"cart\[0\]: Nanoseconds is not among"):
        encode([Nanoseconds(*moment)], "cart")


def test_decoded_objects_are_shared_with_nothing() -> None:
    value = {"list": [1, [2]]}
    data = encode(value)
    first, second = decode(data), decode(data)
    assert first == second == value
    assert first is not value
    assert first is not second
    item = [1]
    one, other = again([item, item])
    assert one == other == [1]
    assert one is not other


AROUND: dict[str, Callable[[Any], object]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"key": value},
    "dict with odd keys": lambda value: {5: value},
}
DEEP_LEAVES = (
    7,
    datetime(2026, 1, 1, fold=1, tzinfo=UTC),
    timedelta.max,
    1 << 90,
    uuid.UUID(int=1),
)


def test_sixteen_containers_are_accepted_and_seventeen_refused() -> None:
    def check(around: Callable[[Any], object]) -> None:
        for leaf in DEEP_LEAVES:
            value = nested(leaf, MAX_DEPTH, around)
            assert described(again(value)) == described(value)
            with pytest.raises(UnsupportedValue, match="nested deeper than 16"):
                encode(around(value))

    check_each(AROUND, check)
    # Members and keys count, too.
    deep: Any = nested(1, MAX_DEPTH - 1, AROUND["tuple"])
    for value in ({deep}, {deep: 1}):
        assert again(value) == value
        with pytest.raises(UnsupportedValue, match="nested deeper"):
            encode([value])
    for head in map(bytes.fromhex, ("81", "c681", "a16161", "c98201")):
        assert decode(head * MAX_DEPTH + b"\xf6") is not None
        for depth in (MAX_DEPTH + 1, 40, 10_000):
            assert_refused(head * depth + b"\xf6")


def test_structure_that_contains_itself_is_refused() -> None:
    chain: list[object] = []
    chain.append(chain)
    ring: dict[str, object] = {}
    ring["next"] = {"back": ring}
    pair: list[object] = []
    pair.append((pair,))
    for cycle in (chain, ring, pair):
        with pytest.raises(UnsupportedValue, match="nested deeper"):
            encode(cycle)


class Point(NamedTuple):
    x: int


class Price:
    """Could be pickled, but never is."""

    def __reduce__(self) -> str:
        raise AssertionError("a value was pickled")


HEIRS = [type("Heir", (kind,), {})() for kind in (int, str, dict, list, bytes)]
FOREIGN: tuple[Any, ...] = (
    *(*HEIRS, Point(1), Price(), HTTPStatus.OK, frozenset({1})),
    *(bytearray(b"a"), memoryview(b"a"), 1j, range(3), object(), Ellipsis, time(1)),
    *(Fraction(1, 2), deque([1]), OrderedDict(a=1), defaultdict(int), SimpleNamespace(a=1)),
    *(MappingProxyType({}), PurePosixPath("/"), UTC, len, int, iter([1]), ValueError("x")),
    *(cbor2.undefined, cbor2.CBORSimpleValue(5), cbor2.CBORTag(6, [1]), Key.generate(os.urandom)),
)


def test_value_of_another_type_is_refused_with_its_path() -> None:
    def check(value: Any) -> None:
        for holder, path in (
            (value, "session['cart']"),
            ([1, 2, 3, [value]], "session['cart'][3][0]"),
            ({"a": (1, {"b": value})}, "session['cart'].values()[0][1].values()[0]"),
            ({7: 1, 8: value}, "session['cart'].values()[1]"),
            ({(1, 2): value}, "session['cart'].values()[0]"),
        ):
            with pytest.raises(UnsupportedValue) as caught:
                encode(holder, "session['cart']")
            assert caught.value.path == path
            assert str(caught.value).startswith(f"{path}: ")
            assert type(value).__name__ in str(caught.value)

    check_each(FOREIGN, check)
    foreign = frozenset({1})
    for holder, path in (
        ({foreign}, "{...}"),
        ({(foreign, 1)}, "{...}[0]"),
        ({(1, foreign): 1}, ".keys()[0][1]"),
        ([{foreign: 1}], "[0].keys()[0]"),
    ):
        with pytest.raises(UnsupportedValue, match=re.escape(f"cart{path}: ")):
            encode(holder, "cart")


def test_lone_surrogate_is_refused_in_any_text() -> None:
    for text in ("\ud800", "a\udfffb", "\ude00\ud83d"):
        keyed: list[Any] = [{text: 1}, {1: text}, {text}, {(text, 1): 2}]
        for value in (text, Markup(text), [text], (text,), *keyed):
            with pytest.raises(UnsupportedValue, match="lone surrogate"):
                encode(value)


# --- sizes ----------------------------------------------------------------------------------------


def test_encoding_of_a_mebibyte_is_the_largest() -> None:
    largest = b"x" * (MAX_BYTES - 5)
    assert len(encode(largest)) == MAX_BYTES
    for larger in (largest + b"x", [largest], [b"x"] * (MAX_BYTES // 2 + 1)):
        with pytest.raises(UnsupportedValue, match="session\\['big'\\]: more than 1048576 bytes"):
            encode(larger, "session['big']")


@pytest.mark.slow
def test_shared_references_are_counted_and_never_written_out() -> None:
    """As of YAML anchors: a few hundred bytes of objects, which written out take terabytes."""
    leaves: list[Any] = [1, "é" * 9999, Decimal("1" * 9999), {}]
    folds: list[Callable[[Any], object]] = [
        lambda value: [value] * 1000,
        lambda value: (value,) * 1000,
        lambda value: dict.fromkeys(map(str, range(1000)), value),
    ]
    for leaf, fold in product(leaves, folds):
        value = leaf
        for _ in range(10):
            value = fold(value)
        with pytest.raises(UnsupportedValue, match="more than 1048576 bytes encoded"):
            encode(value)
    for large in ([0] * 10_000_000, [[0] * 600_000] * 2, {1: value}):
        with pytest.raises(UnsupportedValue, match="more than 1048576 bytes encoded"):
            encode(large)
    shared = [{"price": 3}]
    assert again([shared, shared]) == [shared, shared]


def test_integer_of_4096_bits_is_the_largest() -> None:
    for largest in ((1 << 4096) - 1, 1 - (1 << 4096)):
        assert again([largest]) == [largest]
        larger = largest + (1 if largest > 0 else -1)
        with pytest.raises(UnsupportedValue, match=r"value\[0\]: an integer of more than 4096"):
            encode([larger])
    # A key as large as these cannot be written in decimal digits.
    for value in ({1 << 20_000: 1}, {1 << 20_000: object()}, {(1 << 20_000,): 1}, {1 << 20_000}):
        with pytest.raises(UnsupportedValue, match="an integer of more than 4096 bits"):
            encode(value)


def test_two_members_that_are_one_when_they_are_read_are_refused() -> None:
    nan, other = float("nan"), float("nan")
    berlin, winter = ZoneInfo("Europe/Berlin"), timezone(timedelta(hours=1))
    folded = datetime(2025, 10, 26, 2, 30, tzinfo=berlin, fold=1)
    fixed = datetime(2025, 10, 26, 2, 30, tzinfo=winter)
    assert folded != fixed  # Python: the zone has this time twice
    for members in (
        [nan, other],
        [(nan,), (other,)],
        [(1, nan), (1.0, other)],
        [Decimal("NaN"), Decimal("NaN")],
        [folded, fixed],
        [(folded,), (fixed,)],
    ):
        assert len(set(members)) == 2
        for value in (set(members), dict.fromkeys(members)):
            with pytest.raises(UnsupportedValue, match="one when they are read"):
                encode(value)
    assert len(again({nan, (nan,), (1, nan), (2, nan), Decimal("NaN"), 1.5})) == 6
    assert list(again({nan: 1, (nan,): 2}).values()) == [1, 2]


def test_decimal_has_one_spelling_and_a_limited_exponent() -> None:
    with localcontext() as context:
        context.capitals = 0
        assert encode(Decimal("1E+30")) == b"\xcbe1E+30"
    for text in ("1E+1000000", "-1E-1000000", "0E+1000000"):
        with pytest.raises(UnsupportedValue, match="exponent beyond 999999"):
            encode([Decimal(text)])


def test_members_that_an_attacker_can_make_collide_are_limited() -> None:
    limit = range(MAX_ODD_MEMBERS)
    texts = list(map(str, range(5000)))
    for value in (set(limit), dict.fromkeys(limit), set(texts), dict.fromkeys(texts)):
        assert again(value) == value
    more = range(MAX_ODD_MEMBERS + 1)
    for value in (set(more), dict.fromkeys(more)):
        with pytest.raises(UnsupportedValue, match="1025 members that are not text"):
            encode(value)
    numbers = sorted(map(cbor2.dumps, more))
    head = b"\xd9\x01\x02\x99"
    assert_refused(head + len(numbers).to_bytes(2, "big") + b"".join(numbers))
    fewer = sorted(map(cbor2.dumps, limit))
    assert decode(head + len(fewer).to_bytes(2, "big") + b"".join(fewer)) == set(limit)


def test_length_that_cannot_be_allocated_is_refused() -> None:
    for head in ("5b", "7b", "9b", "bb"):
        for length in (1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
            for prefix in ("", "81", "c6", "d90102", "c9", "82616e"):
                data = bytes.fromhex(prefix + head) + length.to_bytes(8, "big") + b"abc"
                assert_refused(data, *DECODERS)


OURS = {2, 3, 6, 7, 8, 9, 10, 11, 37, 100, 258}
TAGS = sorted({*range(301), 1004, 1040, 1048, 1101, 43000, 43001, 55799, 55800, 1 << 40} - OURS)
CONTENTS: list[object] = [
    *(None, 0, -1, 1.5, "", "a", "2026-01-01", b"", b"\x01" * 4, b"\x01" * 16),
    *([], [1, 2], [0, [1, 2]], {}, {"a": 1}),
]


def test_foreign_tag_is_refused_over_any_content() -> None:
    assert len(TAGS) > 290
    for data in [cbor2.dumps(cbor2.CBORTag(tag, content)) for tag in TAGS for content in CONTENTS]:
        for inside in (b"\x81" + data, b"\xc6\x81" + data, b"\xd9\x01\x02\x81" + data):
            assert_refused(inside)
        assert_refused(data, *DECODERS)


def test_foreign_tag_is_refused_before_anything_is_made_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No regular expression, e-mail message, fraction or reference."""
    data = b""
    monkeypatch.setattr(cbor, "encode", lambda value: data)  # so that reading alone refuses
    for content in [*CONTENTS, "(a+)+$", "From: a@example.org\n\nb", "2026-01-01T00:00:00Z", 29]:
        for tag in TAGS:
            data = cbor2.dumps(cbor2.CBORTag(tag, content))
            assert_refused(data)


def test_plain_containers_are_decoded_as_by_the_general_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 1 << MAX_BIG_INT_BITS
    values: list[object] = [
        *([], {}, [1, -1, 1.5, True, None, "é", "日本", "🙂", b"\xff", [[]]], {"a": {"b": [b""]}}),
        *({b"k": 1, "k": 2}, {"a": (1, 2)}, [{1: 2}], [{1}], [1 << 64], [limit - 1], [limit]),
        *([cbor2.undefined], [cbor2.CBORSimpleValue(5)], [cbor2.CBORSimpleValue(99)], [0.0, -0.0]),
        *(nested(1, depth, lambda inner: [inner]) for depth in (MAX_DEPTH, MAX_DEPTH + 1)),
        *(nested(1, depth, lambda inner: {"a": inner}) for depth in (MAX_DEPTH, MAX_DEPTH + 1)),
    ]
    datas = [cbor2.dumps(value) for value in values]
    datas += [data + b"\0" for data in datas]
    datas += [cbor2.dumps(["x" * (MAX_BYTES - more)]) for more in (6, 5)]
    chance = random.Random(7)
    for data in [data for data in datas if len(data) < 100] * 20:
        at = chance.randrange(len(data))
        datas.append(data[:at] + bytes([chance.choice(HEADS)]) + data[at + chance.randrange(2) :])
    found = [_outcome(data) for data in datas]
    assert sum(cbor._decode_plain(data) is not None for data in datas) > 30
    monkeypatch.setattr(cbor, "_decode_plain", lambda data: None)
    assert [_outcome(data) for data in datas] == found


def _outcome(data: bytes) -> str:
    try:
        return described(decode(data))
    except MalformedRecord:
        return "refused"


HEADS = bytes.fromhex("c6c7c8c9cacbd8d9808182838485a0a1a2f6f5f4f9fbc2c3404150606162181901")


@pytest.mark.parametrize("shard", shards(4))
def test_random_bytes_are_refused_or_are_an_encoding(shard: int) -> None:
    chance = random.Random(f"codec {shard}")
    for number in range(25_000):
        data = chance.randbytes(chance.randrange(1, 40))
        if number % 2:
            data = bytes(chance.choice(HEADS) if chance.random() < 0.7 else byte for byte in data)
        for which in range(3):
            assert_canonical_or_refused(which, data)


def assert_canonical_or_refused(which: int, data: bytes) -> None:
    try:
        found = DECODERS[which](data)
    except MalformedRecord:
        return
    assert which or encode(found) == data


@pytest.mark.parametrize("shard", shards(4))
def test_altered_encodings_are_refused_or_are_an_encoding(shard: int) -> None:
    chance = random.Random(f"altered {shard}")
    value = [1, "two", b"3", 4.0, (5,), {6: 7}, {8, "9"}, datetime(2026, 1, 1, tzinfo=UTC)]
    value += [date(2026, 1, 1), timedelta(1), uuid.UUID(int=3), Decimal("1.5"), Markup("x")]
    part = encode([*value, 1 << 80])
    overflow = OverflowSet(bytes(8), 2, bytes(16), ("big",))
    record = Record(bytes(16), "alice", 0, 60, 1, {"a": b"\1"}, overflow, {"b": 3}, {"c": 4})
    originals = (part, encode_parts({"a": part}), encode_record(record, 30))
    for _ in range(25_000):
        which = chance.randrange(3)
        data = bytearray(originals[which])
        for _ in range(chance.randrange(1, 4)):
            byte = chance.choice((chance.choice(HEADS), chance.randrange(256)))
            data[chance.randrange(len(data))] = byte
        assert_canonical_or_refused(which, bytes(data))
