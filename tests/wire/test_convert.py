"""Values of types that a session does not carry, written as what `convert` makes of them."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from markupsafe import Markup
from werkzeug.datastructures import ImmutableMultiDict, MultiDict

from sealedstate import UnsupportedValue, plain
from sealedstate._wire import cbor
from tests.support.strategies import VALUES


class Text(str):
    __slots__ = ()


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Method(str, enum.Enum):  # noqa: UP042
    BY_CODE = "code"


class Ratio(float):
    pass


class Point(NamedTuple):
    x: int
    y: object


@dataclass
class Product:
    name: str
    price: Decimal


class Page:
    def __html__(self) -> str:
        return "<b>tea</b>"


class Id(UUID):
    pass


PLAIN: list[tuple[object, object]] = [
    (Text("tea"), "tea"),
    (Colour.RED, "red"),
    (Method.BY_CODE, "code"),
    (Level.HIGH, 3),
    (Ratio(1.5), 1.5),
    (bytearray(b"tea"), b"tea"),
    (Point(1, Text("y")), (1, "y")),
    (OrderedDict(b=1, a=Level.HIGH), {"b": 1, "a": 3}),
    (defaultdict(list, a=[Text("x")]), {"a": ["x"]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (MultiDict([("a", "1"), ("a", "2")]), {"a": ["1", "2"]}),
    (ImmutableMultiDict([("a", "1")]), {"a": ["1"]}),
    (frozenset({1, Level.HIGH}), {1, 3}),
    (Product("tea", Decimal("1.50")), {"name": "tea", "price": Decimal("1.50")}),
    (Page(), Markup("<b>tea</b>")),
    (Id(int=7), UUID(int=7)),
    ({Text("key"): [{Colour.RED: (Text("deep"),)}]}, {"key": [{"red": ("deep",)}]}),
]


@pytest.mark.parametrize(("value", "expected"), PLAIN, ids=lambda value: type(value).__name__)
def test_plain_writes_a_subclass_as_its_base_type(value: object, expected: object) -> None:
    assert cbor.encode(value, "value", plain) == cbor.encode(expected)


@given(VALUES)
def test_values_of_the_table_are_not_converted(value: Any) -> None:
    def refuse(value: object) -> object:
        raise AssertionError(value)

    assert cbor.encode(value, "value", refuse) == cbor.encode(value)


@pytest.mark.parametrize("value", [object(), type, len, plain, iter([]), Product])
def test_value_without_a_base_type_is_refused(value: object) -> None:
    with pytest.raises(UnsupportedValue, match=r"value\[0\]\.values\(\)\[0\]"):
        cbor.encode([{"a": value}], "value", plain)


def test_value_in_itself_is_refused() -> None:
    value: list[object] = [Text("tea")]
    value.append(value)
    with pytest.raises(UnsupportedValue, match="nested deeper"):
        cbor.encode(value, "value", plain)


def test_object_that_occurs_often_is_converted_once() -> None:
    asked: list[object] = []

    def count(value: object) -> object:
        asked.append(value)
        return plain(value)

    value: list[object] = [Text("tea")]
    for _ in range(13):
        value = [value, value]
    with pytest.raises(UnsupportedValue, match=r"nested|bytes"):
        cbor.encode([value] * 200, "value", count)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "convert", [lambda value: object(), lambda value: value, lambda value: [object()]]
)
def test_conversion_to_another_unsupported_value_is_refused(
    convert: Callable[[object], object],
) -> None:
    with pytest.raises(UnsupportedValue):
        cbor.encode(Text("tea"), "value", convert)
