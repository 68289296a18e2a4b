"""Values to CBOR bytes (RFC 8949), and back. The set of types is closed.

A value is None, bool, int, float, str, bytes, list, tuple, dict, set, datetime, date, timedelta,
UUID, Decimal or markupsafe's Markup, of exactly that type. A datetime or date of a subclass, as
libraries for tests return them, is written as its base type if that is equal to it. docs/format.md
is the specification of their encodings and limits.

An object that occurs several times is written each time, so 256 bytes of YAML can mean terabytes:
bytes are counted before anything is encoded, and the count stops at the limit.

Bytes are accepted only if encoding what they decode to gives the same bytes, which excludes
trailing bytes, duplicate keys, indefinite lengths, `undefined` and simple values at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from functools import partial
from typing import Any
from uuid import UUID

import cbor2
from cbor2 import CBOREncoder, CBORTag
from markupsafe import Markup

from ..errors import MalformedRecord, UnsupportedValue

MAX_DEPTH = 16
MAX_BYTES = 1 << 20
# The levels of a record: its array, the manifest, the overflow set in it, the names in that.
FRAME_DEPTH = 4
MAX_BIG_INT_BITS = 4096
MAX_EXPONENT = 999_999
# Keys and set members with chosen hashes cost quadratic time. Python hashes text and bytes with a
# secret, so only other types are counted.
MAX_ODD_MEMBERS = 1024

# Types without a limit and without content that could be refused or has to be counted.
_LEAVES = frozenset({type(None), bool, float, datetime, date, timedelta, UUID})
# Types of which two members of a set are two when they are read. Two NaNs are not, alone or in a
# tuple, nor two times of zones that are compared by their clocks.
_DISTINCT = _LEAVES - {float, datetime} | {int, str, bytes, Markup}
_TEXTS = (str, Markup)
_CONTAINERS = frozenset({list, tuple, dict, set})
# Types that cbor2 encodes as specified above without `_ENCODERS`.
_NATIVE = frozenset({type(None), bool, int, float, str, bytes})
# Of those, the types that also need no check, as integers of 64 bits do not.
_UNCHECKED = frozenset({type(None), bool, float})
_WORD, _LEAST_WORD = 1 << 63, -(1 << 63)
# The major types.
UINT, NEGATIVE, BYTES, TEXT, LIST = range(5)
# Heads below this number are made in advance: all but long values have one of them.
SMALL = 1024
_FALSE, _TRUE = b"\xf4", b"\xf5"
_CONSTANTS = {_FALSE: False, _TRUE: True, b"\xf6": None}
_EMPTY: dict[bytes, type[list[object] | dict[object, object]]] = {b"\x80": list, b"\xa0": dict}
# Their types are the real ones also where freezegun has replaced `datetime` and `date`.
_EPOCH, _EPOCH_DATE = datetime(1970, 1, 1), date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
# The application's own context may write decimals in lower case.
_DECIMALS = Context(capitals=1)

TUPLE, DATETIME, TIMEDELTA, PAIRS, MARKUP, DECIMAL = 6, 7, 8, 9, 10, 11
UUID_TAG, DATE, SET = 37, 100, 258


# --- one value ----------------------------------------------------------------------------------


def make_head(kind: int, number: int) -> bytes:
    """Major type and number of an item, in the shortest form (RFC 8949, 3)."""
    if number < 24:
        return bytes([kind << 5 | number])
    size = 1 if number < 1 << 8 else 2 if number < 1 << 16 else 4 if number < 1 << 32 else 8
    return bytes([kind << 5 | 23 + size.bit_length()]) + number.to_bytes(size, "big")


UINTS, BYTE_STRINGS, TEXTS = (
    tuple(make_head(kind, number) for number in range(SMALL)) for kind in (UINT, BYTES, TEXT)
)


def encode(
    value: Any, path: str = "value", convert: Callable[[object], object] | None = None
) -> bytes:
    """The only encoding of `value`.

    `convert` is asked for another value in place of each whose type is not in the table. Raises
    UnsupportedValue; its path begins with `path` and leads to the unsupported value.
    """
    if convert is not None:
        value = _convert(value, convert, path, MAX_DEPTH, {})
    kind = type(value)
    # Of short values cbor2 would take as long as all the rest of an assignment.
    if kind is str:
        text: str = value
        if text.isascii() and len(text) < SMALL:
            return TEXTS[len(text)] + text.encode()
    elif kind is int:
        number: int = value
        if 0 <= number < SMALL:
            return UINTS[number]
    elif kind is bool:
        return _TRUE if value else _FALSE
    if (
        kind in _UNCHECKED
        or (kind is int and _LEAST_WORD <= value < _WORD)
        or (kind is bytes and len(value) < MAX_BYTES // 2)
        or (kind is str and value.isascii() and len(value) < MAX_BYTES // 2)
    ):
        return cbor2.dumps(value)
    if (kind is dict or kind is list) and _count_simple(value, MAX_DEPTH, MAX_BYTES) >= 0:
        try:
            data = cbor2.dumps(value)
        except UnicodeEncodeError:  # `_count` has the path to the text with a lone surrogate
            data = b""
        if 0 < len(data) <= MAX_BYTES:
            return data
    if _count(value, path, MAX_DEPTH, MAX_BYTES) >= 0:
        data = cbor2.dumps(value) if kind in _NATIVE else _dumps(value)
        if len(data) <= MAX_BYTES:
            return data
    raise UnsupportedValue(path, f"more than {MAX_BYTES} bytes encoded, which is the limit")


def decode(data: bytes) -> object:
    """The value of an encoding.

    Raises MalformedRecord for bytes that `encode` never returns.
    """
    # Most values are short texts, small numbers and constants. Each has one form, so they are read
    # here in a third of the time.
    size, head = len(data), data[0] if data else 0xFF
    if 0x60 <= head < 0x78 or (head == 0x78 and size >= 26):
        start = 1 if head < 0x78 else 2
        if size - start == (head - 0x60 if head < 0x78 else data[1]):
            try:
                return str(data[start:], "utf-8")
            except UnicodeDecodeError:
                raise MalformedRecord from None
    elif head < 0x18 and size == 1:
        return head
    elif head == 0x19 and size == 3 and data[1]:
        return data[1] << 8 | data[2]
    elif head == 0x1A and size == 5 and (data[1] or data[2]):
        return int.from_bytes(data[1:], "big")
    elif size == 1 and data in _CONSTANTS:
        return _CONSTANTS[data]
    elif size == 1 and data in _EMPTY:
        return _EMPTY[data]()
    elif 0x80 <= head < 0xC0 and (container := _decode_plain(data)) is not None:
        return container
    try:
        # cbor2 counts tags, too; `encode` enforces MAX_DEPTH.
        value = _loads(data, max_depth=2 * MAX_DEPTH + 4, semantic_decoders=_DECODERS)
    except _NOT_CBOR:
        raise MalformedRecord from None
    try:
        again = encode(value)
    except (UnsupportedValue, TypeError, ValueError, OverflowError):
        raise MalformedRecord from None
    # A value has one encoding: bytes that another decoder may read differently are refused here.
    if again != data:
        raise MalformedRecord
    return value


def _decode_plain(data: bytes) -> list[object] | dict[object, object] | None:
    """The list or dict that is encoded without a tag: of what JSON has, and of bytes.

    None for any other, also for some that are one. Without tags and other simple values than
    JSON's, what cbor2 reads by these limits is a value of a session, and what it writes is the
    encoding of it.
    """
    if len(data) > MAX_BYTES or len(data.translate(None, _SIMPLE_HEADS)) < len(data):
        return None
    try:
        value: list[object] | dict[object, object] = _loads(
            data, max_depth=MAX_DEPTH, semantic_decoders=_NO_TAGS
        )
    except _NOT_CBOR:
        return None
    return value if cbor2.dumps(value) == data else None


def plain(value: object) -> object:
    """A value of a subclass as a value of its base type, as `json` writes it; for `convert`.

    Text, numbers and enumerations of them, named tuples, sets, dicts and lists of all kinds. Also
    an object with `__html__` as Markup, and a dataclass as a dict. Any other is returned as it is.
    """
    match value:
        case str():
            text = str.__str__(value)
            return Markup(text) if isinstance(value, Markup) else text  # noqa: S704
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case bytes() | bytearray():
            return bytes(value)
        case dict():
            return dict(dict.items(value))  # a MultiDict shows fewer values than it has
        case list():
            return list(list.__iter__(value))
        case tuple():
            return tuple(tuple.__iter__(value))
        case set() | frozenset():
            return set(value)
        case Decimal():
            return Decimal(value)
        case UUID():
            return UUID(bytes=value.bytes)
        case timedelta():
            return timedelta(value.days, value.seconds, value.microseconds)
    if not isinstance(value, type):
        if (to_html := getattr(value, "__html__", None)) is not None:
            return Markup(to_html())  # noqa: S704
        if is_dataclass(value):
            return {item.name: getattr(value, item.name) for item in fields(value)}
    return value


def _convert(
    value: Any,
    convert: Callable[[object], object],
    path: str,
    depth: int,
    seen: dict[int, tuple[object, object]],
) -> Any:
    """`value`, in which `convert` has replaced each value whose type is not in the table.

    `seen`: by their ids, the values before and what they became. An object that occurs several
    times is converted once, or 256 bytes of YAML could take for ever.
    """
    kind, original = type(value), value
    if kind in _NATIVE or kind in _LEAVES or (kind in _ENCODERS and kind not in _CONTAINERS):
        return value
    if id(original) in seen:
        return seen[id(original)][1]
    if kind not in _CONTAINERS:
        value = convert(value)
        kind = type(value)
    if kind in _CONTAINERS:
        if depth == 0:
            raise UnsupportedValue(path, f"nested deeper than {MAX_DEPTH}")
        if kind is dict:
            value = {
                _convert(key, convert, f"{path}.keys()[{index}]", depth - 1, seen): _convert(
                    item, convert, f"{path}.values()[{index}]", depth - 1, seen
                )
                for index, (key, item) in enumerate(value.items())
            }
        else:
            value = kind(
                _convert(item, convert, f"{path}[{index}]", depth - 1, seen)
                for index, item in enumerate(value)
            )
    seen[id(original)] = (original, value)
    return value


def _count_simple(value: Any, depth: int, room: int) -> int:
    """As `_count` for a list or dict of what JSON has, which cbor2 encodes as it is, and fast.

    Below 0 for any other, and for one that has no room or may be refused.
    """
    size = len(value)  # a small number, which costs less to count with than `room`
    if depth == 0 or size > room:
        return -1
    items = value
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return -1
            size += len(key)
        items = value.values()
    for item in items:
        kind = type(item)
        if kind is str:
            size += len(item)
        elif kind is int:
            if not _LEAST_WORD <= item < _WORD:
                return -1
        elif kind is dict or kind is list:
            room = _count_simple(item, depth - 1, room)
            if room < 0:
                return -1
        elif kind not in _UNCHECKED:
            return -1
    return room - size


def _count(value: Any, path: str, depth: int, room: int) -> int:
    """What is left of `room` bytes, at most, beside the encoding of `value`.

    Raises UnsupportedValue for a value that cannot be encoded. Below 0, the rest is not looked at.
    `depth`: how many containers may be in one another from here.
    """
    kind = type(value)
    if kind in _LEAVES:
        return room - 1
    if kind in _CONTAINERS:
        # Checked before encoding, because cbor2 has no limit: deep values would crash the process.
        if depth == 0:
            raise UnsupportedValue(path, f"nested deeper than {MAX_DEPTH}")
        room -= len(value)  # each item takes a byte at least
        if room < 0:
            return room
        if kind is dict or kind is set:
            return _count_members(value, path, depth - 1, room)
        for index, item in enumerate(value):
            kind = type(item)
            if kind is str and item.isascii():  # the most frequent type, without a call and a path
                room -= len(item)
            elif kind not in _LEAVES:
                room = _count(item, f"{path}[{index}]", depth - 1, room)
                if room < 0:
                    break
        return room
    if kind in _TEXTS:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnsupportedValue(path, "text with a lone surrogate") from None
        room -= len(value)
    elif kind is bytes:
        room -= len(value)
    elif kind is int:
        if value.bit_length() > MAX_BIG_INT_BITS:
            raise UnsupportedValue(path, f"an integer of more than {MAX_BIG_INT_BITS} bits")
        room -= value.bit_length() // 8
    elif kind is Decimal:
        if abs(value.adjusted()) > MAX_EXPONENT:
            raise UnsupportedValue(path, f"a number with an exponent beyond {MAX_EXPONENT}")
        room -= len(str(value))
    elif isinstance(value, date) and value == _to_base(value):
        # Not left to cbor2, which may have taken freezegun's class for the real one.
        _ENCODERS.setdefault(kind, lambda encoder, value: encoder.encode(_to_base(value)))
    else:
        raise UnsupportedValue(path, f"{kind.__name__} is not among the types a session carries")
    return room


def _count_members(value: Mapping[Any, Any] | set[Any], path: str, depth: int, room: int) -> int:
    has_plain_keys = not isinstance(value, set) and _has_plain_keys(value)
    if not has_plain_keys:
        odd = sum(type(item) not in (str, bytes) for item in value)
        if odd > MAX_ODD_MEMBERS:
            raise UnsupportedValue(
                path, f"{odd} members that are not text, but the limit is {MAX_ODD_MEMBERS}"
            )
    if isinstance(value, set):
        for item in value:
            room = _count(item, f"{path}{{...}}", depth, room)
            if room < 0:
                return room
        _check_distinct(value, path)
        return room
    # Errors are logged, and keys may be content, such as addresses: a path shows their positions.
    for index, (key, item) in enumerate(value.items()):
        if type(key) is str and key.isascii():
            room -= len(key)
        else:
            room = _count(key, f"{path}.keys()[{index}]", depth, room)
        kind = type(item)
        if kind is str and item.isascii():
            room -= len(item)
        elif kind not in _LEAVES:
            room = _count(item, f"{path}.values()[{index}]", depth, room)
        if room < 0:
            return room
    if not has_plain_keys:
        _check_distinct(value, path)
    return room


def _check_distinct(members: Iterable[object], path: str) -> None:
    """Raise UnsupportedValue if two members are equal, although Python has both."""
    unsure = [_normalize(member) for member in members if type(member) not in _DISTINCT]
    if len(set(unsure)) < len(unsure):
        raise UnsupportedValue(path, "two members that are one when they are read")


def _normalize(value: Any) -> object:
    """What is equal for two values only if they are equal when they are read."""
    kind = type(value)
    if kind is tuple:
        return tuple(map(_normalize, value))
    if isinstance(value, datetime):
        base: Any = _to_base(value)
        wall, offset = base.replace(tzinfo=None, fold=0), value.utcoffset()
        return wall if offset is None else (type(_EPOCH), wall - _EPOCH - offset)
    return (kind, str(value)) if value != value else value


def _has_plain_keys(value: Mapping[Any, Any]) -> bool:
    return all(type(key) is str or type(key) is bytes for key in value)


# --- the table of tags: how each is written and read ----------------------------------------------


def _write_tag(tag: int, content: Callable[[Any], object]) -> Callable[[CBOREncoder, Any], None]:
    return lambda encoder, value: encoder.encode(CBORTag(tag, content(value)))


def _put_dict(encoder: CBOREncoder, value: dict[Any, Any]) -> None:
    if _has_plain_keys(value):
        encoder.encode_map(value)
    else:
        flat = [side for pair in value.items() for side in pair]
        encoder.encode(CBORTag(PAIRS, flat))


def _to_base(value: date) -> date:
    """A datetime or date of a subclass as its base type."""
    day = (value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return type(_EPOCH_DATE)(*day)
    time = (value.hour, value.minute, value.second, value.microsecond)
    return type(_EPOCH)(*day, *time, tzinfo=value.tzinfo, fold=value.fold)


def _from_datetime(value: datetime) -> list[object]:
    micros = (value.replace(tzinfo=None, fold=0) - _EPOCH) // _MICROSECOND
    offset, seconds = value.utcoffset(), None
    if offset is not None:
        exact = offset / timedelta(seconds=1)
        seconds = int(exact) if exact == int(exact) else exact
    return [micros, seconds, 1] if value.fold else [micros, seconds]


def _to_datetime(content: Any) -> datetime:
    micros, seconds, *fold = content
    zone: timezone | None = None
    if seconds is not None:
        zone = UTC if seconds == 0 else timezone(timedelta(seconds=seconds))
    value: datetime = _EPOCH + micros * _MICROSECOND
    return value.replace(tzinfo=zone, fold=fold[0] if fold else 0)


def _reader(kind: type, make: Callable[[Any], object]) -> Callable[[Any, bool], object]:
    def read(content: Any, immutable: bool) -> object:
        if type(content) is not kind:
            raise ValueError("a tag is on a wrong type")
        return make(content)

    return read


def _refuse(*_: object) -> object:
    raise ValueError("a tag is not in the table")


_ENCODERS: dict[type, Callable[[CBOREncoder, Any], None]] = {
    tuple: _write_tag(TUPLE, list),
    dict: _put_dict,
    set: _write_tag(SET, lambda value: sorted(value, key=_dumps)),
    datetime: _write_tag(DATETIME, _from_datetime),
    date: _write_tag(DATE, lambda value: (value - _EPOCH_DATE).days),
    timedelta: _write_tag(TIMEDELTA, lambda value: value // _MICROSECOND),
    UUID: _write_tag(UUID_TAG, lambda value: value.bytes),
    Decimal: _write_tag(DECIMAL, _DECIMALS.to_sci_string),
    Markup: _write_tag(MARKUP, lambda value: value.__str__()),
}
# Tags that cbor2 reads by default: dates, regular expressions, shared references and more.
_BUILT_IN = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 256, 260, 261, 1004, 43000, 55799, 52, 54)
_DECODERS: dict[int, Callable[[Any, bool], object]] = {
    **dict.fromkeys(_BUILT_IN, _refuse),
    TUPLE: _reader(list, tuple),
    SET: _reader(list, set),
    PAIRS: _reader(list, lambda flat: dict(zip(flat[::2], flat[1::2], strict=True))),
    DATETIME: _reader(list, _to_datetime),
    DATE: _reader(int, lambda days: _EPOCH_DATE + timedelta(days)),
    TIMEDELTA: _reader(int, lambda micros: micros * _MICROSECOND),
    UUID_TAG: _reader(bytes, lambda data: UUID(bytes=data)),
    MARKUP: _reader(str, Markup),
    DECIMAL: _reader(str, Decimal),
}


def _dumps(value: object) -> bytes:
    return cbor2.dumps(value, encoders=_ENCODERS)


_NO_TAGS = dict.fromkeys((2, 3, *_DECODERS), _refuse)
# The heads of `undefined` and of simple values that are no constants. Characters of three and four
# bytes begin with some of them, too.
_SIMPLE_HEADS = bytes((*range(0xE0, 0xF4), 0xF7, 0xF8))
_loads = partial(
    cbor2.loads,
    allow_indefinite=False,
    allow_duplicate_keys=False,
    strict_hashable_types=True,
    tag_hook=_refuse,
)
_NOT_CBOR = (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, InvalidOperation)


# --- frames: arrays of plain items, authenticated before they are read ---------------------------


dump_frame: Callable[[list[object]], bytes] = cbor2.dumps
"""The encoding of arrays of None, texts, bytes and integers."""

load_frame: Callable[[bytes], Any] = partial(cbor2.loads, max_depth=FRAME_DEPTH)
"""The item of authentic bytes. The caller must check that encoding it gives the same bytes.

Raises an error of `NO_FRAME`.
"""
NO_FRAME = (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError)
